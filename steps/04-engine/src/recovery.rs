//! What is left of a step that was killed with SIGKILL: what each kind of leftover is, and how it is known.
//!
//! - **A group** `step02-4711` or `step04-1a2b3c`, in any hierarchy, at any place of the tree. Its maker holds a lock
//!   on the directory (flock(2)), which the kernel drops with the process, however that ends. A pid in the name would
//!   prove less: it may be another process's by now, or count in another pid namespace.
//! - **A leaf** `step02-4711.host`, in which the step itself has stood aside (v2). It goes with the group of that name.
//! - **Processes** in them: without a pid namespace, a program's own children outlive it.
//!
//! - **A container** whose monitor was killed: its groups, as above, and what else its parts have made. It is known by its
//!   record, whose lock nobody holds, and undone by any process of the same step, from its plan alone.
//!
//! Controllers that were enabled for them stay enabled, and a scope of systemd's is removed by systemd as soon as it is
//! empty.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cgroups::{Cgroup, detect};
use nix::unistd::geteuid;
use shared::explain;
use shared::lock::{is_locked, lock};

use crate::Recipe;
use crate::container::State;
use crate::members::known;

/// Deeper than any group that a step makes; a container may make groups in groups until no path is long enough.
const DEPTH: usize = 32;

/// Host: removes the groups whose step is no more, with what runs in them. One that resists does not keep the others.
///
/// # Errors
/// The first failure: EBUSY where a process of a pid namespace that we cannot see into is in a group.
pub fn remove_groups() -> Result<()> {
    let mut dead = Vec::new();
    for hierarchy in detect(Path::new("/proc"), "self")? {
        find_dead(&hierarchy.mount, DEPTH, &mut dead);
    }
    let remove = |dir: PathBuf| {
        // Its maker may have been between mkdir(2) and flock(2): it holds this lock meanwhile.
        let _making = lock(&dir.with_file_name("cgroup.procs"));
        if maker_lives(&dir) {
            return Ok(());
        }
        explain::note(format_args!("{} is left of a step that was killed", dir.display()));
        if explain::dry_run() { Ok(()) } else { Cgroup::at(&[dir]).remove() }
    };
    dead.into_iter().map(remove).fold(Ok(()), Result::and)
}

/// The groups below this one that a dead step of ours has made, a group before its leaf.
fn find_dead(dir: &Path, depth: usize, dead: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut groups: Vec<_> =
        entries.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path()).collect();
    groups.sort();
    for group in groups {
        if !is_named_by_a_step(&group) {
            if depth > 0 {
                find_dead(&group, depth - 1, dead);
            }
        } else if is_ours_to_remove(&group) && !maker_lives(&group) {
            dead.push(group);
        }
    }
}

/// `step`, two digits, `-` and a pid or a container's id, with or without `.host`.
fn is_named_by_a_step(group: &Path) -> bool {
    let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".host").unwrap_or(name);
    let Some((number, id)) = name.strip_prefix("step").and_then(|rest| rest.split_once('-')) else { return false };
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    number.len() == 2 && is_hex(number) && id.len() <= 16 && is_hex(id)
}

/// Another user's are that user's to remove, or root's.
fn is_ours_to_remove(group: &Path) -> bool {
    let user = geteuid();
    user.is_root() || group.metadata().is_ok_and(|it| it.uid() == user.as_raw())
}

/// Whether the maker of a group, or of the group that this is the leaf of, still holds its lock.
fn maker_lives(group: &Path) -> bool {
    is_locked(&group.with_extension(""))
}

/// Host, and its processes gone: what its parts have made for a run.
///
/// # Errors
/// The first part's that failed.
pub fn end_run<R: Recipe>(state: &State) -> Result<()> {
    match state.plan::<R>() {
        Ok(Some(plan)) => crate::cleanup(&R::parts(&plan)),
        Ok(None) => Ok(()),
        // A damaged plan, or that of an older version: the groups that are known again, at least.
        Err(_) => {
            let groups: Vec<PathBuf> = known(&state.groups).into_iter().map(Path::to_owned).collect();
            Cgroup::at(&groups).remove()
        }
    }
}

/// Host: what its parts have made for the container, and that outlives a run.
///
/// # Errors
/// The first part's that failed.
pub fn remove<R: Recipe>(state: &State) -> Result<()> {
    match state.plan::<R>() {
        Ok(Some(plan)) => crate::remove(&R::parts(&plan)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::lock::try_lock;

    #[test]
    fn a_group_of_a_step_is_known_by_its_name() {
        let is = |name: &str| is_named_by_a_step(&Path::new("/sys/fs/cgroup").join(name));
        for name in ["step02-4711", "step04-0123456789abcdef", "step02-4711.host"] {
            assert!(is(name), "{name}");
        }
        for name in
            ["web", "step02", "step02-", "xstep02-1", "step2-1", "step04-xyz", "step02-1-ab.scope", "step02-1.+cpu"]
        {
            assert!(!is(name), "{name}");
        }
    }

    #[test]
    fn dead_groups_are_found_wherever_they_are_and_living_ones_are_not() {
        let tree = tempfile::tempdir().expect("tempdir");
        let make = |path: &str| {
            let dir = tree.path().join(path);
            std::fs::create_dir_all(&dir).expect("mkdir");
            dir
        };
        let dead = make("user.slice/app.slice/step02-1-ab.scope/step02-1");
        let leaf = make("user.slice/app.slice/step02-1-ab.scope/step02-1.host");
        let top = make("step03-ff/made/inside/step02-2");
        let _living = try_lock(&make("a/step02-3")).expect("lock");
        make("a/step02-3.host");
        make("a/stranger-3");
        let mut found = Vec::new();
        find_dead(tree.path(), DEPTH, &mut found);
        assert_eq!(found, [top.ancestors().nth(3).expect("step03-ff").to_owned(), dead, leaf]);
    }
}
