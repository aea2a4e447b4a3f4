//! This step as parts of a container: those of step 04 ([`Namespaces`], [`Rootfs`]), with a range of ids.

use std::cell::{Ref, RefCell};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engine::parts::{Namespaces, Rootfs};
use engine::{Identity, Letter, Part, Program, Right};
use namespaces::{Namespace, View};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::Pid;
use rootfs::{Make, Root, Volume};
use serde::{Deserialize, Serialize};
use shared::failure::During;
use shared::formula::{Formula, Term};
use shared::{call, explain};

use crate::lookup::{self, Account, Who};
use crate::options::{GuestUser, Users};
use crate::ranges::{self, Choice, Map};
use crate::sys::MountAttributes;
use crate::{readback, why};

/// Namespaces, one of which has a range of ids; and which of these the program is.
#[derive(Serialize, Deserialize)]
pub struct MappedNamespaces {
    namespaces: Namespaces,
    view: View,
    choice: Choice,
    /// Whether that is another container's, whose user namespace it is, and who has written its maps.
    #[serde(default)]
    is_shared: bool,
    user: Option<Who>,
    /// Whether the home directory of that user is the program's HOME.
    sets_home: bool,
}

impl MappedNamespaces {
    /// As the options say, and this machine allows.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn plan(users: &Users, root: &Root, view: &View, container: &Identity) -> Result<Self> {
        let choice = if view.has(Namespace::User) { ranges::choose(users)? } else { Choice::Host };
        let namespaces = Namespaces::plan(view, container);
        Ok(MappedNamespaces {
            namespaces: if matches!(choice, Choice::Ranges(_)) { namespaces.without_ids() } else { namespaces },
            view: view.clone(),
            choice,
            is_shared: false,
            user: users.user.clone(),
            sets_home: !root.sets("HOME"),
        })
    }

    /// The same, and the child is born in the user namespace of a container with these; in a dry run there may be none.
    pub fn shared_with(self, other: Option<MappedNamespaces>) -> Self {
        let (namespaces, choice) = (self.namespaces.without_ids(), other.map_or(self.choice, |it| it.choice));
        MappedNamespaces { namespaces, choice, is_shared: true, ..self }
    }

    /// What its ids are.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The same, for a process that `exec` brings in.
    pub fn for_guest(self, options: &GuestUser) -> Self {
        MappedNamespaces { user: options.user.clone().or(self.user), ..self }
    }

    fn map(&self) -> Option<&Map> {
        self.choice.map()
    }

    /// Child: whether it has these ids at all.
    fn check(&self, who: &Who, account: &Account) -> Result<()> {
        let Some(map) = self.map() else { return Ok(()) };
        let has = |id: u32, of: &ranges::Ranges| of.to_outside(id).is_some();
        ensure!(has(account.uid, &map.uids), "user {who}: the container has no user id {}", account.uid);
        let missing = account.groups.iter().find(|gid| !has(**gid, &map.gids));
        ensure!(missing.is_none(), "user {who}: the container has no group id {}", missing.unwrap_or(&0));
        Ok(())
    }
}

impl Part for MappedNamespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn admit(&self, child: Pid) -> Result<()> {
        match &self.choice {
            // A map can be written once.
            _ if self.is_shared => {}
            Choice::Host => {}
            Choice::Ranges(map) => {
                crate::map_ids(child, map)?;
                self.choice.given_by_root().and_then(ranges::others).into_iter().for_each(explain::notice);
            }
            Choice::NoRange { why, .. } => {
                explain::notice(format_args!("the ids inside are those of step 01, as {why}"));
            }
        }
        self.namespaces.admit(child)
    }

    fn enter(&self, letter: &mut Letter) -> Result<()> {
        // First: until then its mounts would be nobody's, and its rights would end with exec.
        match self.map() {
            Some(map) => crate::become_root(map.has_groups)?,
            None if self.is_shared => crate::be_dumpable()?,
            None => {}
        }
        self.namespaces.enter(letter)
    }

    fn enter_guest(&self, _letter: &mut Letter) -> Result<()> {
        // One that has joined the user namespace is nobody there yet, and a terminal that it makes (step 08) would be
        // nobody's.
        self.map().map_or(Ok(()), |map| crate::switch_to(&Account::ROOT, map.has_groups))
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        let Some(who) = &self.user else { return Ok(()) }; // it is root
        let account = lookup::look_up(who)?;
        self.check(who, &account)?;
        if self.sets_home {
            program.variables.push(("HOME".into(), account.home.clone().into()));
        }
        program.uid = Some(account.uid);
        let may_set_groups = self.choice.has_groups();
        program.gives_up(Right::Ids, move || crate::switch_to(&account, may_set_groups));
        Ok(())
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        let mut facts = namespaces::facts(child, &self.view)?;
        facts.extend(self.map().map_or(Ok(Vec::new()), |map| readback::facts(child, map))?);
        formula.light(Term::Namespace, &facts)
    }

    fn cleanup(&self) -> Result<()> {
        self.namespaces.cleanup()
    }
}

/// A root, and volumes, that belong to the child's ids.
#[derive(Serialize, Deserialize)]
pub struct MappedRoot {
    rootfs: Rootfs,
    /// None where the child goes to them by their paths, as in step 03: it is who its caller is.
    trees: Option<Trees>,
}

#[derive(Serialize, Deserialize)]
struct Trees {
    map: Map,
    /// None where another part mounts it.
    root: Option<Tree>,
    volumes: Vec<Tree>,
}

/// What the host opens, and the child mounts: the host could not mount it there, nor the child reach it by its path.
#[derive(Serialize, Deserialize)]
pub struct Tree {
    /// On the host.
    source: PathBuf,
    /// Inside.
    target: PathBuf,
    attributes: MountAttributes,
    /// In the process that has opened it, and in its child.
    #[serde(skip)]
    mount: RefCell<Option<OwnedFd>>,
}

impl MappedRoot {
    /// Which of them are mapped: the root, if its owner is nobody inside; a volume, if it is asked for.
    ///
    /// # Errors
    /// Those of [`Rootfs::plan`]; a volume with `idmap`, and no root.
    pub fn plan(namespaces: &MappedNamespaces, root: &Root, view: &View, container: &Identity) -> Result<Self> {
        let rootfs = Rootfs::plan(root, view, container)?;
        let map = namespaces.choice.given_by_root();
        let is_asked_for = root.volumes().iter().any(|volume| volume.idmap);
        ensure!(map.is_some() || !is_asked_for, "a volume with `idmap` takes root, and a range of ids");
        if let Some(owner) = map.and_then(|map| ranges::strange_owner(rootfs.dir(), map)) {
            explain::notice(format_args!(
                "{} belongs to id {owner} of the host's, which is nobody inside: root inside can change nothing in it \
                 (`chown -hR 0:0 DIR` gives it to root)",
                rootfs.dir().display()
            ));
        }
        let trees = map.map(|map| Trees {
            map: map.clone(),
            root: Some(Tree::new(rootfs.dir(), Path::new("/"), !ranges::is_owner_inside(rootfs.dir(), map), false)),
            volumes: root
                .volumes()
                .iter()
                .map(|it| Tree::new(&it.source, &it.target, it.idmap, it.read_only))
                .collect(),
        });
        Ok(MappedRoot { rootfs, trees })
    }

    /// The same, and the child sees these of the host's, too; they need not be there before `prepare`.
    pub fn with_volumes(self, more: Vec<Volume>) -> Self {
        let trees = self.trees.map(|mut trees| {
            trees.volumes.extend(more.iter().map(|it| Tree::new(&it.source, &it.target, it.idmap, it.read_only)));
            trees
        });
        MappedRoot { rootfs: self.rootfs.with_volumes(more), trees }
    }

    /// The same, on a root that another part mounts (step 07).
    pub fn without_root(self) -> Self {
        MappedRoot { trees: self.trees.map(|trees| Trees { root: None, ..trees }), ..self }
    }

    /// The directory that becomes `/`.
    pub fn dir(&self) -> &Path {
        self.rootfs.dir()
    }

    /// Child, standing on the mount that becomes its root, however that was made (step 07): the rest.
    ///
    /// # Errors
    /// The call that failed, and the root.
    pub fn fill_and_pivot(&self) -> Result<()> {
        self.rootfs.fill_and_pivot(|volume| {
            let Some(trees) = &self.trees else { return rootfs::bind(volume) };
            let tree = trees.volumes.iter().find(|tree| tree.target == volume.target);
            tree.with_context(|| format!("{} was not planned", volume.target.display()))?.attach()
        })
    }

    fn trees(&self) -> impl Iterator<Item = (&Tree, &Map)> {
        self.trees.iter().flat_map(|trees| trees.root.iter().chain(&trees.volumes).map(|tree| (tree, &trees.map)))
    }
}

impl Tree {
    /// What the host has at this path, for one inside.
    pub fn new(source: &Path, target: &Path, idmap: bool, read_only: bool) -> Self {
        let attributes = MountAttributes { idmap, read_only };
        Tree { source: source.to_owned(), target: target.to_owned(), attributes, mount: RefCell::default() }
    }

    /// Whether its owners are mapped.
    pub fn is_mapped(&self) -> bool {
        self.attributes.idmap
    }

    /// On the host.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Host, and no child yet.
    ///
    /// # Errors
    /// Those of [`open_tree`](crate::open_tree).
    pub fn open(&self) -> Result<()> {
        self.mount.replace(Some(crate::open_tree(&self.source)?));
        Ok(())
    }

    /// Host, and the child held.
    ///
    /// # Errors
    /// Those of [`map_tree`](crate::map_tree), with the file system.
    pub fn map(&self, map: &Map, child: Pid) -> Result<()> {
        let mapped = crate::map_tree(self.mount()?.as_fd(), &self.attributes, child);
        mapped.map_err(|error| why::no_map(error, &self.source, map))
    }

    /// Host, and the child ready: it is the child's now.
    pub fn close(&self) {
        drop(self.mount.take());
    }

    /// The mount, once it is open.
    ///
    /// # Errors
    /// Until then.
    pub fn mount(&self) -> Result<Ref<'_, OwnedFd>> {
        let mount = Ref::filter_map(self.mount.borrow(), Option::as_ref).ok();
        mount.with_context(|| format!("{} has not been opened", self.source.display()))
    }

    /// Child: mounts it inside, where its target is.
    fn attach(&self) -> Result<()> {
        let mount = self.mount()?;
        let kind = fstat(&*mount).during(self.source.display())?.st_mode & SFlag::S_IFMT.bits();
        let make = if kind == SFlag::S_IFDIR.bits() { Make::Directory } else { Make::File };
        let place = rootfs::place(&self.target, make)?;
        let (from, to) = (mount.as_raw_fd(), place.as_raw_fd());
        explain::child(call!("move_mount({from}, \"\", {to}, \"\", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)"))
            .run(|| rootfs::sys::move_mount(mount.as_fd(), place.as_fd(), c""))
    }
}

impl Part for MappedRoot {
    fn name(&self) -> &'static str {
        "rootfs"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        self.trees().try_for_each(|(tree, _)| tree.open())
    }

    fn admit(&self, child: Pid) -> Result<()> {
        self.trees().try_for_each(|(tree, map)| tree.map(map, child))
    }

    fn enter(&self, letter: &mut Letter) -> Result<()> {
        let Some(root) = self.trees.as_ref().and_then(|trees| trees.root.as_ref()) else {
            return self.rootfs.enter(letter);
        };
        crate::stand_on(root.mount()?.as_fd())?;
        self.fill_and_pivot()
    }

    fn entered(&self, _child: Pid, _letter: Letter) -> Result<()> {
        self.trees().for_each(|(tree, _)| tree.close());
        Ok(())
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        self.rootfs.confine(program)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        self.rootfs.confirm(child, formula)
    }
}
