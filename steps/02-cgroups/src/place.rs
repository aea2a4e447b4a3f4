//! Care: where the groups will be, and whether a limit finds its controller there.

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use process::sys;
use shared::explain;

use crate::hierarchy::{self, Hierarchy, detect};
use crate::limits::Limits;
use crate::twins::Setting;
use crate::{Cgroup, Group};

impl Cgroup {
    /// Host: decides where the groups will be, named by the step and its pid; makes nothing yet.
    ///
    /// # Errors
    /// Where no hierarchy that can be reached has a controller that a limit needs.
    pub fn new(step: &str, limits: &Limits) -> Result<Self> {
        Cgroup::named(&format!("{step}-{}", std::process::id()), limits)
    }

    /// Host: the same, named `step04-`, say, and up to 16 hexadecimal digits that are nobody else's.
    ///
    /// # Errors
    /// The same.
    pub fn named(name: &str, limits: &Limits) -> Result<Self> {
        let hierarchies = detect(Path::new("/proc"), "self")?;
        for (option, [on_v1, on_v2]) in limits.needs() {
            let there =
                hierarchies.iter().any(|it| it.controllers.iter().any(|name| name == it.version.pick(on_v1, on_v2)));
            ensure!(
                there,
                "{option} needs the cgroup controller {on_v2:?} (v1: {on_v1:?}), and no hierarchy that can be reached here has it"
            );
        }
        let group = |hierarchy: Hierarchy| {
            let parent = hierarchy.version.twin().parent(&hierarchy, limits);
            Group { dir: parent.join(name), parent, hierarchy, removable: OnceCell::new() }
        };
        let groups = hierarchies.into_iter().map(group).collect();
        Ok(Cgroup { limits: limits.clone(), groups, without: Cell::new(false) })
    }

    /// Host: groups that another process has made, by their directories ([`dirs`](Self::dirs)); good for being entered, and
    /// for being removed once that process is gone. A directory that is no group is left out.
    pub fn at(dirs: &[PathBuf]) -> Self {
        let group = |dir: &PathBuf| {
            let parent = dir.parent().unwrap_or(dir).to_owned();
            let removable = OnceCell::from(None); // it is, and without a lock
            Some(Group { hierarchy: hierarchy::of_group(dir)?, dir: dir.clone(), parent, removable })
        };
        let groups = dirs.iter().filter_map(group).collect();
        Cgroup { limits: Limits::default(), groups, without: Cell::new(false) }
    }

    /// The directories of its groups, made or not.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.groups().iter().map(|group| group.dir.clone()).collect()
    }
}

impl Group {
    /// The limits that are this hierarchy's to keep.
    pub(crate) fn settings(&self, limits: &Limits) -> Result<Vec<Setting>> {
        let mut settings = self.twin().settings(limits);
        settings.retain(|setting| self.has(setting.controller));
        // Only root of the machine itself may change the list of devices: EPERM.
        if self.has("devices") && !sys::in_first_user_namespace() {
            settings.retain(|setting| setting.controller != "devices");
        }
        // A kernel that does not count swap has no file for it, and where there is no swap, none is missed.
        if !explain::dry_run() && self.dir.exists() {
            let is_missing = |it: &Setting| it.is_about_swap() && !self.dir.join(it.file).exists();
            ensure!(
                !has_swap() || !settings.iter().any(is_missing),
                "this kernel does not count swap, and this machine has some: a limit of memory would be none"
            );
            settings.retain(|it| !is_missing(it));
        }
        Ok(settings)
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.hierarchy.controllers.iter().any(|name| name == controller)
    }
}

impl Setting {
    fn is_about_swap(&self) -> bool {
        self.file.contains("swap") || self.file.contains("memsw")
    }
}

/// Whether this machine can move memory to a disk. proc_swaps(5): a heading, and a line for each place.
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

#[cfg(test)]
impl Group {
    /// A group in a plain directory, for tests of what is written to its files.
    pub(crate) fn in_directory(version: hierarchy::Version, controllers: &[&str], parent: &Path) -> Self {
        let dir = parent.join("step02-1");
        std::fs::create_dir_all(&dir).expect("mkdir");
        let hierarchy = Hierarchy::in_directory(version, controllers, parent);
        Group { hierarchy, parent: parent.to_owned(), dir, removable: OnceCell::new() }
    }
}
