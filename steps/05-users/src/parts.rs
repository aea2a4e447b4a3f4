//! This step as parts of a container: those of step 04 ([`Namespaces`], [`Rootfs`]), with a range of ids.

use std::cell::{Cell, Ref, RefCell};
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
use crate::ranges::{self, Choice, Map, Writer};
use crate::sys::MountAttributes;
use crate::{readback, why};

/// Namespaces, one of which has a range of ids; and which of these the program is.
#[derive(Serialize, Deserialize)]
pub struct MappedNamespaces {
    namespaces: Namespaces,
    view: View,
    choice: Choice,
    user: Option<Who>,
    /// Whether the home directory of that user is the program's HOME.
    sets_home: bool,
    /// In the child, once it is.
    #[serde(skip)]
    is_root: Cell<bool>,
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
            user: users.user.clone(),
            sets_home: !root.sets("HOME"),
            is_root: Cell::new(false),
        })
    }

    /// The same, for a process that `exec` brings in.
    pub fn for_guest(self, options: &GuestUser) -> Self {
        MappedNamespaces { user: options.user.clone().or(self.user), ..self }
    }

    fn map(&self) -> Option<&Map> {
        match &self.choice {
            Choice::Ranges(map) => Some(map),
            Choice::Host | Choice::NoRange { .. } => None,
        }
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
            Choice::Host => {}
            Choice::Ranges(map) => crate::map_ids(child, map)?,
            Choice::NoRange { why, .. } => {
                explain::notice(format_args!("the ids inside are those of step 01, as {why}"));
            }
        }
        self.namespaces.admit(child)
    }

    fn enter(&self, letter: &mut Letter) -> Result<()> {
        self.is_root.set(true);
        // First: until then its mounts would be nobody's, and its rights would end with exec.
        self.map().map_or(Ok(()), |_| crate::become_root())?;
        self.namespaces.enter(letter)
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        let account = match &self.user {
            Some(who) => {
                let account = lookup::look_up(who)?;
                self.check(who, &account)?;
                if self.sets_home {
                    program.variables.push(("HOME".into(), account.home.clone().into()));
                }
                account
            }
            // It is root already; one that has joined the user namespace is nobody there yet.
            None if self.is_root.get() || self.map().is_none() => return Ok(()),
            None => Account::ROOT,
        };
        let may_set_groups = !matches!(self.choice, Choice::NoRange { has_groups: false, .. });
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
    root: Tree,
    volumes: Vec<Tree>,
}

/// What the host opens, and the child mounts.
#[derive(Serialize, Deserialize)]
struct Tree {
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
        // To anybody but root open_tree(2) is forbidden.
        let map = namespaces.map().filter(|map| map.writer == Writer::Root);
        let is_asked_for = root.volumes().iter().any(|volume| volume.idmap);
        ensure!(map.is_some() || !is_asked_for, "a volume with `idmap` takes root, and a range of ids");
        let trees = map.map(|map| Trees {
            map: map.clone(),
            root: Tree::new(rootfs.dir(), Path::new("/"), !ranges::is_owner_inside(rootfs.dir(), map), false),
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

    fn trees(&self) -> impl Iterator<Item = (&Tree, &Map)> {
        self.trees
            .iter()
            .flat_map(|trees| std::iter::once(&trees.root).chain(&trees.volumes).map(|tree| (tree, &trees.map)))
    }
}

impl Tree {
    fn new(source: &Path, target: &Path, idmap: bool, read_only: bool) -> Self {
        let attributes = MountAttributes { idmap, read_only };
        Tree { source: source.to_owned(), target: target.to_owned(), attributes, mount: RefCell::default() }
    }

    fn mount(&self) -> Result<Ref<'_, OwnedFd>> {
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
        self.trees().try_for_each(|(tree, _)| {
            tree.mount.replace(Some(crate::open_tree(&tree.source)?));
            Ok(())
        })
    }

    fn admit(&self, child: Pid) -> Result<()> {
        self.trees().try_for_each(|(tree, map)| {
            let mapped = crate::map_tree(tree.mount()?.as_fd(), &tree.attributes, child);
            mapped.map_err(|error| why::no_map(error, &tree.source, map))
        })
    }

    fn enter(&self, letter: &mut Letter) -> Result<()> {
        let Some(trees) = &self.trees else { return self.rootfs.enter(letter) };
        crate::stand_on(trees.root.mount()?.as_fd())?;
        self.rootfs.fill_and_pivot(|volume| {
            let tree = trees.volumes.iter().find(|tree| tree.target == volume.target);
            tree.with_context(|| format!("{} was not planned", volume.target.display()))?.attach()
        })
    }

    fn entered(&self, _child: Pid, _letter: Letter) -> Result<()> {
        self.trees().for_each(|(tree, _)| drop(tree.mount.take())); // they are the child's now
        Ok(())
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        self.rootfs.confine(program)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        self.rootfs.confirm(child, formula)
    }
}
