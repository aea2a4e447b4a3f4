//! Where cgroups are on this machine. See cgroups(7).
//!
//! Never a path written by hand: a directory below `/sys/fs/cgroup` that is not a mounted hierarchy takes every mkdir
//! and every write, and limits nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};
use shared::kernel_file;
use shared::mountinfo::{self, Mount};

use crate::scope;

/// Version 1 has a tree for each controller (or a few); version 2 has one for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Documentation/admin-guide/cgroup-v1 in the kernel's source.
    V1,
    /// Documentation/admin-guide/cgroup-v2.rst.
    V2,
}

/// A tree of groups that is mounted here.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// Its version.
    pub version: Version,
    /// What it can limit: `memory`, `cpu`, …. On v2 this is what the top of the tree offers.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which part of the tree is: `/` where it is all of it.
    root: String,
    /// The group that the process is in, as a path below `mount`.
    pub own: PathBuf,
}

/// The hierarchies that this process can reach, v1 before v2, with the groups that `process` (a pid, or `self`) is in.
/// `proc` is where procfs is mounted: `/proc`.
///
/// # Errors
/// Where `cgroup` of the process or our own `mountinfo` cannot be read.
pub fn detect(proc: &Path, process: &str) -> Result<Vec<Hierarchy>> {
    let memberships = kernel_file::read(proc.join(process).join("cgroup"))?;
    // Our own mounts, as it is we who read and write there: the process may stand in another root.
    let mounts = mountinfo::read(&proc.join("self"))?;
    let found = trees(&memberships, &mounts).into_iter().filter_map(|places| {
        let mut places: Vec<_> = places.into_iter().filter(|(_, mount)| is_visible(mount)).map(|(it, _)| it).collect();
        let best = places.iter().position(|it| access(&it.own, AccessFlags::W_OK).is_ok()).unwrap_or(0);
        (!places.is_empty()).then(|| places.swap_remove(best))
    });
    let offered = |it: Hierarchy| match it.version {
        Version::V1 => it,
        Version::V2 => Hierarchy { controllers: words(&it.mount.join("cgroup.controllers")), ..it },
    };
    Ok(found.map(offered).collect())
}

/// For each tree that a process is in, in the order in which we use them, the places where it is mounted, the latest first:
/// in part, covered by something else, or read-only. From the text of proc_pid_cgroup(5), with lines like
/// `4:memory:/user.slice` (v1) and `0::/user.slice` (v2), and our mounts. On v2 the controllers are left out.
fn trees<'m>(memberships: &str, mounts: &'m [Mount]) -> Vec<Vec<(Hierarchy, &'m Mount)>> {
    let places = |(names, path): (&str, &str)| {
        let version = if names.is_empty() { Version::V2 } else { Version::V1 };
        let controllers: Vec<_> = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let is_this = |mount: &&Mount| match version {
            Version::V1 => mount.kind == "cgroup" && controllers.iter().all(|name| mount.options.contains(name)),
            Version::V2 => mount.kind == "cgroup2",
        };
        let place = |mount: &'m Mount| {
            let own = below(&mount.point, &mount.root, path)?;
            let (controllers, root) = (controllers.clone(), mount.root.clone());
            Some((Hierarchy { version, controllers, own, mount: mount.point.clone(), root }, mount))
        };
        mounts.iter().rev().filter(is_this).filter_map(place).collect::<Vec<_>>()
    };
    // A hierarchy with just a name (systemd's) has processes to keep together and nothing to limit.
    let memberships = memberships.lines().filter_map(names_and_path).filter(|(names, _)| !names.starts_with("name="));
    let mut found: Vec<_> = memberships.map(places).filter(|places| !places.is_empty()).collect();
    // The freezer first: while a process is frozen there, nothing ends it and no other group can be removed.
    let has_freezer = |hierarchy: &Hierarchy| hierarchy.controllers.iter().any(|name| name == "freezer");
    found.sort_by_key(|places| {
        let it = &places[0].0;
        (it.version == Version::V2, !has_freezer(it), it.mount.clone())
    });
    found
}

impl Hierarchy {
    /// The group that another process is in, as a path below `mount`; from the text of its proc_pid_cgroup(5).
    pub fn group_of(&self, memberships: &str) -> Option<PathBuf> {
        let is_this = |names: &str| match self.version {
            Version::V1 => names.split(',').eq(&self.controllers),
            Version::V2 => names.is_empty(),
        };
        let (_, path) = memberships.lines().filter_map(names_and_path).find(|(names, _)| is_this(names))?;
        below(&self.mount, &self.root, path)
    }
}

/// The two fields that matter.
fn names_and_path(membership: &str) -> Option<(&str, &str)> {
    membership.split_once(':')?.1.split_once(':')
}

/// A group's directory. Its path counts from the tree's top; the mount may show only a part of the tree, as in a Docker
/// container. Where it begins above this process's cgroup namespace, its root is "/.." and names no directory here.
fn below(mount: &Path, root: &str, path: &str) -> Option<PathBuf> {
    let path = Path::new(path).strip_prefix(root).ok()?;
    let leads_out = path.components().any(|part| part == std::path::Component::ParentDir);
    (!leads_out).then(|| mount.join(path).components().collect())
}

/// Whether this user may make groups, in every hierarchy that there is, or in a scope that systemd gives to a step.
pub fn may_make_groups() -> bool {
    let all = detect(Path::new("/proc"), "self").unwrap_or_default();
    let may = !all.is_empty() && all.iter().all(|it| access(&it.own, AccessFlags::W_OK).is_ok());
    may || scope::is_owned_by_systemd()
}

/// The hierarchy that a group belongs to, as far as its files say; `None` where the directory is in none.
pub fn of_group(group: &Path) -> Option<Hierarchy> {
    let version = match statfs(group).ok()?.filesystem_type() {
        CGROUP_SUPER_MAGIC => Version::V1,
        CGROUP2_SUPER_MAGIC => Version::V2,
        _ => return None,
    };
    let (mount, own) = (group.to_owned(), group.to_owned());
    Some(Hierarchy { version, controllers: Vec::new(), mount, own, root: "/".to_owned() })
}

/// Whether it is this mount that one reaches by its path, and not another that was made over it. No other file system has
/// its device number, so this also says that it is a cgroup file system.
fn is_visible(mount: &Mount) -> bool {
    mount.point.metadata().is_ok_and(|it| it.dev() == mount.device)
}

/// The words of a kernel file; none where it cannot be read.
pub fn words(path: &Path) -> Vec<String> {
    kernel_file::read(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
impl Hierarchy {
    /// A tree that is a plain directory.
    pub(crate) fn in_directory(version: Version, controllers: &[&str], dir: &Path) -> Self {
        let controllers = controllers.iter().map(|name| name.to_string()).collect();
        Hierarchy { version, controllers, mount: dir.to_owned(), own: dir.to_owned(), root: "/".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a machine has said: `tests/proc-samples/NAME/self/{cgroup,mountinfo}`.
    fn sample(name: &str) -> Vec<Vec<Hierarchy>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proc-samples").join(name).join("self");
        let memberships = std::fs::read_to_string(dir.join("cgroup")).expect("cgroup");
        let mounts = mountinfo::read(&dir).expect("mountinfo");
        let without_mounts = |places: Vec<(Hierarchy, &Mount)>| places.into_iter().map(|(it, _)| it).collect();
        trees(&memberships, &mounts).into_iter().map(without_mounts).collect()
    }

    /// `v1 cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct/user.slice`, of the first place of each tree.
    fn summary(name: &str) -> Vec<String> {
        let line = |places: &Vec<Hierarchy>| {
            let Hierarchy { version, controllers, own, .. } = &places[0];
            let words = [version.pick("v1", "v2").to_owned(), controllers.join(","), own.display().to_string()];
            words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        };
        sample(name).iter().map(line).collect()
    }

    #[test]
    fn on_v1_controllers_may_share_a_tree_and_names_limit_nothing() {
        assert_eq!(
            summary("v1"),
            [
                "v1 freezer /sys/fs/cgroup/freezer",
                "v1 blkio /sys/fs/cgroup/blkio/user.slice",
                "v1 cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct/user.slice",
                "v1 cpuset /sys/fs/cgroup/cpuset",
                "v1 devices /sys/fs/cgroup/devices/user.slice",
                "v1 memory /sys/fs/cgroup/memory/user.slice/user-1000.slice/session-3.scope",
                "v1 net_cls,net_prio /sys/fs/cgroup/net_cls,net_prio",
                "v1 pids /sys/fs/cgroup/pids/user.slice/user-1000.slice/session-3.scope",
            ]
        );
    }

    #[test]
    fn on_v2_there_is_one_tree() {
        assert_eq!(summary("v2"), ["v2 /sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope"]);
    }

    #[test]
    fn on_a_hybrid_machine_v1_comes_first() {
        let all = summary("hybrid");
        assert_eq!(all.len(), 9);
        assert_eq!(all[0], "v1 freezer /sys/fs/cgroup/freezer");
        assert_eq!(all[6], "v1 memory /sys/fs/cgroup/memory/sandbox/a1b2");
        assert_eq!(all[8], "v2 /sys/fs/cgroup/unified");
    }

    #[test]
    fn inside_a_step_its_group_is_the_top_of_what_can_be_reached() {
        // The host's mounts show trees that begin above its cgroup namespace: "/..". No path leads there from here.
        assert_eq!(summary("nested"), ["v1 memory /mnt/memory", "v2 /sys/fs/cgroup"]);
        assert_eq!(sample("nested")[0].len(), 1, "where it is mounted a second time, but from above");
    }

    #[test]
    fn in_docker_a_part_of_the_tree_is_mounted() {
        assert_eq!(summary("docker-v1"), ["v1 memory /sys/fs/cgroup/memory", "v1 pids /sys/fs/cgroup/pids/below"]);
        assert_eq!(summary("docker-v2"), ["v2 /sys/fs/cgroup"]);
    }

    #[test]
    fn a_tree_that_is_not_mounted_cannot_be_reached() {
        assert!(trees("4:memory:/a\n0::/b\n", &[]).is_empty());
    }

    #[test]
    fn another_process_is_looked_for_in_the_same_tree() {
        let all = sample("hybrid");
        let memory = all.iter().flatten().find(|it| it.controllers == ["memory"]).expect("memory");
        let of = |memberships: &str| memory.group_of(memberships);
        assert_eq!(
            of("8:pids:/x\n4:memory:/sandbox/a1b2/step02-7\n0::/y\n"),
            Some("/sys/fs/cgroup/memory/sandbox/a1b2/step02-7".into())
        );
        assert_eq!(of("0::/y\n"), None);
    }
}
