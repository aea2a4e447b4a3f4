//! Steps 01 to 03 as parts. Nothing new is done here: each line was in `main.rs` of step 03.

use std::cell::OnceCell;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cgroups::{Cgroup, Limits, Version};
use namespaces::{Namespace, View};
use nix::errno::Errno;
use nix::unistd::Pid;
use rootfs::{Root, Volume};
use serde::{Deserialize, Serialize};
use shared::explain;
use shared::failure::{During, is};
use shared::formula::{Formula, Term};

use crate::{Identity, Letter, Part, Program, members};

/// Step 01: namespaces, and what belongs into them.
#[derive(Serialize, Deserialize)]
pub struct Namespaces {
    view: View,
    hostname: String,
    maps_ids: bool,
    /// The child's mount namespace, by which its processes are found where its end is not theirs: without a pid namespace.
    /// Kept open, as the kernel gives its number to another one else. So those of a killed monitor are not found.
    #[serde(skip)]
    mounts: OnceCell<File>,
}

impl Namespaces {
    /// As the options say; the host name is the id where there is no other, as Docker has it.
    pub fn plan(view: &View, container: &Identity) -> Self {
        let hostname = hostname(view, container);
        Namespaces { view: view.clone(), hostname, maps_ids: true, mounts: OnceCell::new() }
    }

    /// The same, where another part maps the ids (step 05), as a map can be written once.
    pub fn without_ids(self) -> Self {
        Namespaces { maps_ids: false, ..self }
    }
}

impl Part for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn admit(&self, child: Pid) -> Result<()> {
        if !self.view.has(Namespace::Pid) && !explain::dry_run() {
            let path = format!("/proc/{child}/ns/mnt");
            let _ = self.mounts.set(File::open(&path).during(format_args!("cannot open {path}"))?);
        }
        if self.maps_ids { namespaces::map_ids(child, &self.view) } else { Ok(()) }
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        namespaces::keep_mounts_private(&self.view)?;
        namespaces::set_hostname(&self.view, &self.hostname)?;
        namespaces::set_loopback_up(&self.view)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        formula.light(Term::Namespace, &namespaces::facts(child, &self.view)?)
    }

    fn cleanup(&self) -> Result<()> {
        self.mounts.get().map_or(Ok(()), members::kill_all_in)
    }
}

/// Step 02: a cgroup, and the namespace that hides the others.
#[derive(Serialize, Deserialize)]
pub struct Limited {
    name: String,
    groups: Vec<PathBuf>,
    view: View,
    /// In the process that has planned it, and holds it; another one has just its directories.
    #[serde(skip)]
    held: OnceCell<Cgroup>,
}

impl Limited {
    /// Where the groups will be, below those of this process.
    ///
    /// # Errors
    /// Where no hierarchy that can be reached has a controller that a limit needs.
    pub fn plan(limits: &Limits, view: &View, container: &Identity) -> Result<Self> {
        Limited::named(format!("{}-{}", container.step, container.id), limits, view)
    }

    /// The same, by another name.
    ///
    /// # Errors
    /// The same.
    pub fn named(name: String, limits: &Limits, view: &View) -> Result<Self> {
        let cgroup = Cgroup::named(&name, limits)?;
        Ok(Limited { name, groups: cgroup.dirs(), view: view.clone(), held: OnceCell::from(cgroup) })
    }

    fn cgroup(&self) -> &Cgroup {
        self.held.get_or_init(|| Cgroup::at(&self.ours()))
    }

    /// A record can be damaged: a group of another name is not this container's to enter or to empty.
    fn ours(&self) -> Vec<PathBuf> {
        self.groups.iter().filter(|group| group.ends_with(&self.name)).cloned().collect()
    }

    /// Host: puts a process into the group that the container's first one is in, if that is below one of ours. On v2 a
    /// group that has passed controllers on to those below it takes no processes itself (EBUSY), and a container that has
    /// made such groups has moved into one of them.
    fn admit_beside(&self, guest: Pid, init: Pid) -> Option<Result<()>> {
        // What the kernel says of that one to the host: neither its own view nor a group elsewhere counts.
        let hierarchies = cgroups::detect(Path::new("/proc"), &init.to_string()).ok()?;
        let group = hierarchies.into_iter().find(|it| it.version == Version::V2)?.own;
        let is_below = self.ours().iter().any(|ours| group.starts_with(ours));
        is_below.then(|| explain::host_echo(guest, &group.join("cgroup.procs")).run())
    }
}

impl Part for Limited {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn groups(&self) -> Vec<PathBuf> {
        self.groups.clone()
    }

    fn prepare(&self, formula: &mut Formula) -> Result<()> {
        self.cgroup().create_or_go_without(formula)
    }

    fn admit(&self, child: Pid) -> Result<()> {
        self.cgroup().admit(child)
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        namespaces::unshare_cgroup(&self.view)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        formula.light(Term::Cgroup, &self.cgroup().facts(child)?)
    }

    fn admit_guest(&self, guest: Pid, init: Pid) -> Result<()> {
        match self.cgroup().admit(guest) {
            Err(error) if is(&error, Errno::EBUSY) => self.admit_beside(guest, init).unwrap_or(Err(error)),
            admitted => admitted,
        }
    }

    fn cleanup(&self) -> Result<()> {
        self.cgroup().print_counters();
        self.cgroup().remove()
    }
}

/// Step 03: a root of its own, and what a program in it finds.
#[derive(Serialize, Deserialize)]
pub struct Rootfs {
    root: Root,
    dir: PathBuf,
    view: View,
    hostname: String,
}

impl Rootfs {
    /// The directory that becomes `/`.
    ///
    /// # Errors
    /// Where it is none.
    pub fn plan(root: &Root, view: &View, container: &Identity) -> Result<Self> {
        let hostname = hostname(view, container);
        Ok(Rootfs { root: root.clone(), dir: root.prepare()?, view: view.clone(), hostname })
    }

    /// The same, and the child sees these of the host's, too; they need not be there before `prepare`.
    pub fn with_volumes(self, more: impl IntoIterator<Item = Volume>) -> Self {
        Rootfs { root: self.root.with_volumes(more), ..self }
    }

    /// The directory that becomes `/`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Child, standing on the mount that becomes its root, however that was made (step 05): the rest of [`rootfs::enter`].
    ///
    /// # Errors
    /// The call that failed, and the root.
    pub fn fill_and_pivot(&self, mount_volume: impl Fn(&Volume) -> Result<()>) -> Result<()> {
        rootfs::fill_and_pivot(&self.root, &self.view, mount_volume).with_context(|| in_the_root(&self.dir))
    }
}

impl Part for Rootfs {
    fn name(&self) -> &'static str {
        "rootfs"
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        rootfs::enter(&self.root, &self.dir, &self.view)
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        program.environment = self.root.environment(&self.hostname);
        program.workdir = self.root.workdir().to_owned();
        program.place = in_the_root(&self.dir);
        Ok(())
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        formula.light(Term::Rootfs, &rootfs::facts(child, &self.dir)?)
    }
}

fn in_the_root(dir: &Path) -> String {
    format!("in the root {}", dir.display())
}

fn hostname(view: &View, container: &Identity) -> String {
    view.hostname.clone().unwrap_or_else(|| container.id.clone())
}
