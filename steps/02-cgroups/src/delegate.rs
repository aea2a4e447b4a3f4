//! Care, on v2: who has the controllers. A limit's file is in a group only where the group above it has enabled the
//! controller for its children, and a group that has processes of its own cannot do that.
//!
//! Controllers stay enabled where they were enabled, as with every other engine: groups of others may use them by then.
//! See *Controlling Controllers* in Documentation/admin-guide/cgroup-v2.rst.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, getpid, getppid};
use shared::failure::is;
use shared::{call, explain};

use crate::Group;
use crate::hierarchy::{Hierarchy, words};
use crate::limits::Limits;

/// The nearest group, from the caller's own upwards, that can enable the controllers that the limits need.
///
/// The tree's top can, whatever processes it has, and so can a group where the caller is alone, as it steps aside. Where
/// none can, the caller's own: its failure says why.
pub fn place(hierarchy: &Hierarchy, limits: &Limits) -> PathBuf {
    let needed = needed(hierarchy, limits);
    let mut upwards = hierarchy.own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.mount));
    let can = |dir: &&Path| {
        let has = |file, name: &&str| words(&dir.join(file)).iter().any(|word| word == name);
        let are_enabled = needed.iter().all(|name| has("cgroup.subtree_control", name));
        access(*dir, AccessFlags::W_OK).is_ok()
            && needed.iter().all(|name| has("cgroup.controllers", name))
            && (are_enabled || is_top(dir) || others(dir).is_empty())
    };
    upwards.find(can).unwrap_or(&hierarchy.own).to_path_buf()
}

/// Host: enables in the group's parent the controllers that the limits need, and steps aside where that takes it.
///
/// # Errors
/// EBUSY where other processes are in the parent; a sentence where it does not have the controller itself.
pub fn enable_controllers(group: &Group, limits: &Limits) -> Result<()> {
    let parent = &group.parent;
    let (offered, enabled) = (words(&parent.join("cgroup.controllers")), words(&parent.join("cgroup.subtree_control")));
    let contains = |all: &[String], name: &str| all.iter().any(|word| word == name);
    let mut missing = needed(&group.hierarchy, limits);
    missing.retain(|name| !contains(&enabled, name));
    for (option, [_, name]) in limits.needs() {
        ensure!(
            !missing.contains(&name) || contains(&offered, name),
            "{option} needs the cgroup controller {name:?}, and {} has only {:?}: systemd delegates no more to an ordinary \
             user, so run the step with sudo, or see Delegate= in systemd.resource-control(5)",
            parent.display(),
            offered.join(" ")
        );
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !is_top(parent) && words(&parent.join("cgroup.procs")).iter().any(|pid| is_ours(pid)) {
        step_aside(group)?;
    }
    let names: Vec<_> = missing.iter().map(|name| format!("+{name}")).collect();
    explain::host_echo(names.join(" "), &parent.join("cgroup.subtree_control")).run()
}

/// Host: into a leaf beside the child's group, or the parent would have processes of its own.
fn step_aside(group: &Group) -> Result<()> {
    let (aside, all) = (aside(group), words(&group.parent.join("cgroup.procs")));
    explain::host(call!("mkdir {}", aside.display())).run(|| std::fs::create_dir(&aside))?;
    all.iter()
        .filter(|pid| is_ours(pid))
        .try_for_each(|pid| unless_ended(explain::host_echo(pid, &aside.join("cgroup.procs")).run()))
}

/// Host, and the child's group removed: back from the leaf, if this process has stepped aside and no other group was made
/// beside it.
pub fn step_back(group: &Group) -> Result<()> {
    let (aside, parent) = (aside(group), &group.parent);
    if !aside.exists() || subgroups(parent) > 1 {
        return Ok(());
    }
    // With the controllers enabled, the parent could take no processes: EBUSY. They were not when we stepped aside.
    let names: Vec<_> = words(&parent.join("cgroup.subtree_control")).iter().map(|name| format!("-{name}")).collect();
    if !names.is_empty() {
        explain::host_echo(names.join(" "), &parent.join("cgroup.subtree_control")).cleanup().run()?;
    }
    for pid in words(&aside.join("cgroup.procs")) {
        unless_ended(explain::host_echo(pid, &parent.join("cgroup.procs")).cleanup().run())?;
    }
    explain::host(call!("rmdir {}", aside.display())).cleanup().run(|| std::fs::remove_dir(&aside))
}

/// The controllers of this tree that the limits need, each once. On a hybrid machine v1 has the others.
fn needed(hierarchy: &Hierarchy, limits: &Limits) -> Vec<&'static str> {
    let mut needed: Vec<_> = limits.needs().into_iter().map(|(_, [_, name])| name).collect();
    needed.dedup();
    needed.retain(|name| hierarchy.controllers.iter().any(|there| there == name));
    needed
}

/// `step02-4711.host`: where the step itself waits meanwhile.
fn aside(group: &Group) -> PathBuf {
    group.dir.with_extension("host")
}

/// Whether this is the top of the whole tree, the only group without a type.
fn is_top(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists()
}

fn subgroups(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

/// The processes of a group, except ours.
pub fn others(dir: &Path) -> Vec<String> {
    words(&dir.join("cgroup.procs")).into_iter().filter(|pid| !is_ours(pid)).collect()
}

/// Whether it is this process, or the one that has forked it to do its work: they can step aside together.
fn is_ours(pid: &str) -> bool {
    let same_program = || {
        let program = |process: &str| std::fs::read_link(format!("/proc/{process}/exe"));
        program(pid).is_ok_and(|its| program("self").is_ok_and(|own| own == its))
    };
    pid == getpid().to_string() || (pid == getppid().to_string() && same_program())
}

/// A process that has ended since it was listed need not be moved: ESRCH.
fn unless_ended(moved: Result<()>) -> Result<()> {
    match moved {
        Err(error) if is(&error, Errno::ESRCH) => Ok(()),
        moved => moved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::Version;

    /// A group whose parent has these controllers, the second of them enabled; and a limit of memory and of processes.
    fn group(dir: &Path, offered: &str, enabled: &str) -> (Group, Limits) {
        let group = Group::in_directory(Version::V2, &["cpu", "memory", "pids"], dir);
        std::fs::write(dir.join("cgroup.controllers"), offered).expect("write");
        std::fs::write(dir.join("cgroup.subtree_control"), enabled).expect("write");
        std::fs::write(dir.join("cgroup.procs"), "").expect("write");
        (group, Limits { memory: Some(1 << 20), pids_limit: Some(20), ..Limits::default() })
    }

    #[test]
    fn just_what_is_missing_is_enabled() {
        let dir = tempfile::tempdir().expect("tempdir");
        let enabled = |(group, limits): (Group, Limits)| {
            enable_controllers(&group, &limits).map(|()| words(&dir.path().join("cgroup.subtree_control")))
        };
        assert_eq!(enabled(group(dir.path(), "cpu memory pids", "")).expect("enabled"), ["+memory", "+pids"]);
        assert_eq!(enabled(group(dir.path(), "cpu memory pids", "memory pids")).expect("enabled"), ["memory", "pids"]);
        let error = enabled(group(dir.path(), "cpu memory", "")).expect_err("no pids").to_string();
        assert!(error.starts_with("--pids-limit needs the cgroup controller \"pids\""), "{error}");
    }

    #[test]
    fn the_nearest_group_that_can_enable_controllers_is_the_place() {
        let dir = tempfile::tempdir().expect("tempdir");
        let own = dir.path().join("own");
        std::fs::create_dir(&own).expect("mkdir");
        let (mut group, limits) = group(dir.path(), "cpu memory pids", "");
        group.hierarchy.own = own.clone();
        assert_eq!(place(&group.hierarchy, &limits), dir.path(), "its own has no controllers");
        std::fs::write(own.join("cgroup.controllers"), "memory pids").expect("write");
        assert_eq!(place(&group.hierarchy, &limits), own, "now it has");
        std::fs::write(own.join("cgroup.type"), "domain").expect("write");
        std::fs::write(own.join("cgroup.procs"), "1\n").expect("write");
        assert_eq!(place(&group.hierarchy, &limits), dir.path(), "but another process, too");
        std::fs::write(own.join("cgroup.subtree_control"), "memory pids").expect("write");
        assert_eq!(place(&group.hierarchy, &limits), own, "which does not matter where they are enabled");
    }
}
