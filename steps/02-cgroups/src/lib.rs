//! Step 02: what may the child use up? See cgroups(7).
//!
//! A cgroup is a directory: made with mkdir, limited by writing to its files, entered by writing a pid, and removed with
//! rmdir. The functions follow that order; `v1.rs` and `v2.rs` are twins that say which files and which values, and
//! the difference between them is what there is to know about the two versions.
//!
//! Beside it: the options (`limits`) and their units; what the twins have in common (`twins`); the hierarchies of this
//! machine (`hierarchy`), where in them the groups will be (`place`), and what is done where there can be none
//! (`without`); on v2 who has the controllers (`delegate`), and systemd's scopes (`scope`); groups in use (`empty`),
//! and what is done to all that is in them (`freezer`); what the kernel confirms (`readback`).
//!
//! Left open: the child still sees and reaches all the host's files, those of `/sys/fs/cgroup` among them (step 03); a step
//! that is killed with SIGKILL leaves its groups (step 04); on v2 no list of devices is kept, which takes an eBPF program,
//! and root inside may mount the trees and lift the limits of its own group (step 09).

#![forbid(unsafe_code)]

mod delegate;
mod empty;
pub mod freezer;
mod hierarchy;
mod limits;
mod place;
mod readback;
mod remedies;
mod scope;
mod twins;
mod units;
mod v1;
mod v2;
mod without;

use std::cell::{Cell, OnceCell};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::unistd::Pid;
use shared::failure::is;
use shared::lock::{Lock, lock};
use shared::{call, explain};

use twins::{Setting, Twin};

pub use empty::end_all;
pub use hierarchy::{Hierarchy, Version, detect, may_make_groups};
pub use limits::Limits;
pub use remedies::known;
pub use scope::{ask_for_scope, is_owned_by_systemd};
pub use units::{CpuList, Rate};

/// The child's cgroup: on v1 a group in each hierarchy, on v2 one, on a hybrid machine both.
pub struct Cgroup {
    limits: Limits,
    groups: Vec<Group>,
    /// Set where the caller may not make groups, and goes on without.
    without: Cell<bool>,
}

/// A group in one hierarchy.
pub struct Group {
    hierarchy: Hierarchy,
    /// The group that it is made in.
    parent: PathBuf,
    /// The group itself.
    dir: PathBuf,
    /// Set once it is this process's to remove. The lock is held as long as this process lives, whatever ends that: see
    /// flock(2); there is none on a group that another process has made ([`Cgroup::at`]).
    removable: OnceCell<Option<Lock>>,
}

impl Cgroup {
    /// Host: makes the groups and writes their limits.
    ///
    /// # Errors
    /// EACCES or EROFS where the caller may not. [`remove`](Self::remove) removes what was made before that.
    pub fn create(&self) -> Result<()> {
        ensure!(
            !self.groups.is_empty(),
            "no cgroup hierarchy can be reached here: none is mounted, or only a part of it that this process is not in"
        );
        for group in self.groups() {
            group.make()?;
        }
        for group in self.groups() {
            group.limit(&self.limits)?;
        }
        Ok(())
    }

    /// Host, and the child held: puts it in, so that it has run nothing outside the limits.
    ///
    /// # Errors
    /// ENOENT where the group is gone; ESRCH where the child is.
    pub fn admit(&self, child: Pid) -> Result<()> {
        for group in self.groups() {
            group.admit(child)?;
        }
        Ok(())
    }

    /// Host, and the child gone: removes the groups; what still runs in them ends. Succeeds where there is nothing.
    ///
    /// # Errors
    /// The first failure; it does not keep the other groups from being removed.
    pub fn remove(&self) -> Result<()> {
        self.groups().iter().map(Group::remove).fold(Ok(()), Result::and)
    }

    fn groups(&self) -> &[Group] {
        if self.without.get() { &[] } else { &self.groups }
    }
}

impl Group {
    /// The kernel fills a new directory with the files of its controllers.
    fn make(&self) -> Result<()> {
        explain::host(call!("mkdir {}", self.dir.display())).run(|| {
            // Without its lock, `step04 clean` takes a group for one that a killed step has left: so none is there without,
            // also not for a moment. What `clean` removes, it looks at under the same lock.
            let _making = lock(&self.parent.join("cgroup.procs"));
            std::fs::create_dir(&self.dir)?;
            let _ = self.removable.set(lock(&self.dir).ok());
            Ok::<_, std::io::Error>(())
        })
    }

    fn limit(&self, limits: &Limits) -> Result<()> {
        self.twin().prepare(self, limits)?;
        for Setting { file, value, .. } in self.settings(limits)? {
            explain::host_echo(value, &self.dir.join(file)).run()?;
        }
        Ok(())
    }

    /// What the child forks from here on is in the group, too.
    fn admit(&self, child: Pid) -> Result<()> {
        explain::host_echo(child, &self.dir.join(self.twin().procs())).run()
    }

    fn remove(&self) -> Result<()> {
        // A group of that name may belong to another step: one with the same pid in another pid namespace.
        if self.removable.get().is_none() && !explain::dry_run() {
            return Ok(());
        }
        let rmdir = || explain::host(call!("rmdir {}", self.dir.display())).cleanup().run(|| empty::rmdir(&self.dir));
        match rmdir() {
            // Without a pid namespace, a program's own children outlive it.
            Err(error) if is(&error, Errno::EBUSY) => empty::empty(&self.dir).and_then(|()| rmdir())?,
            removed => removed?,
        }
        self.twin().restore(self)
    }

    fn twin(&self) -> &'static dyn Twin {
        self.hierarchy.version.twin()
    }
}
