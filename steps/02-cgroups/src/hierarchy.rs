//! Where cgroups are on this machine. See cgroups(7).
//!
//! Never a path written by hand: a folder below `/sys/fs/cgroup` that is not a mounted hierarchy takes every mkdir
//! and every write, and limits nothing.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};
use shared::failure::During;
use shared::kernel_file;
use shared::mountinfo::{self, Mount};

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
/// `proc` is where the kernel tells it: `/proc`.
///
/// # Errors
/// Where `cgroup` of the process or our own `mountinfo` cannot be read.
pub fn detect(proc: &Path, process: &str) -> Result<Vec<Hierarchy>> {
    let path = proc.join(process).join("cgroup");
    let memberships = kernel_file::read(&path).during(format_args!("cannot read {}", path.display()))?;
    // Our own mounts, as it is we who read and write there: the process may stand in another root.
    let mounts = mountinfo::read(&proc.join("self"))?;
    let mut found: Vec<_> = memberships.lines().filter_map(|line| hierarchy(line, &mounts)).collect();
    // The freezer first: while a process is frozen there, nothing ends it and no other group gets rid of it.
    let has_freezer = |hierarchy: &Hierarchy| hierarchy.controllers.iter().any(|name| name == "freezer");
    found.sort_by_key(|it| (it.version == Version::V2, !has_freezer(it), it.mount.clone()));
    Ok(found)
}

/// From a line `4:memory:/user.slice` (v1) or `0::/user.slice` (v2) of proc_pid_cgroup(5), and the mount that it belongs to.
fn hierarchy(membership: &str, mounts: &[Mount]) -> Option<Hierarchy> {
    let (names, path) = names_and_path(membership)?;
    let controllers: Vec<_> = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    // A hierarchy with just a name (systemd's) has processes to keep together and nothing to limit.
    if names.starts_with("name=") {
        return None;
    }
    let version = if names.is_empty() { Version::V2 } else { Version::V1 };
    let is_this = |mount: &&Mount| match version {
        Version::V1 => mount.kind == "cgroup" && controllers.iter().all(|name| mount.options.contains(name)),
        Version::V2 => mount.kind == "cgroup2",
    };
    let reachable = |mount: &Mount| {
        let own = below(&mount.point, &mount.root, path)?;
        let controllers = match version {
            Version::V1 => controllers.clone(),
            Version::V2 => words(&mount.point.join("cgroup.controllers")),
        };
        let hierarchy = Hierarchy { version, controllers, own, mount: mount.point.clone(), root: mount.root.clone() };
        is_visible(mount).then_some(hierarchy)
    };
    // A tree can be mounted in several places: in part, covered by something else, or read-only.
    let mut all: Vec<_> = mounts.iter().rev().filter(is_this).filter_map(reachable).collect();
    let best = all.iter().position(|it| access(&it.own, AccessFlags::W_OK).is_ok()).unwrap_or(0);
    (!all.is_empty()).then(|| all.swap_remove(best))
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

/// A group's folder. Its path counts from the tree's top; the mount may show only a part of the tree, as in a Docker
/// container. Where it begins above this process's cgroup namespace, its root is "/.." and names no folder here.
fn below(mount: &Path, root: &str, path: &str) -> Option<PathBuf> {
    let path = Path::new(path).strip_prefix(root).ok()?;
    let leads_out = path.components().any(|part| part == std::path::Component::ParentDir);
    (!leads_out).then(|| mount.join(path).components().collect())
}

/// Whether this user may make groups, in every hierarchy that there is.
pub fn may_make_groups() -> bool {
    let all = detect(Path::new("/proc"), "self").unwrap_or_default();
    !all.is_empty() && all.iter().all(|it| access(&it.own, AccessFlags::W_OK).is_ok())
}

/// The hierarchy that a group belongs to, as far as its files tell; `None` where the folder is in none.
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

impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let version = if self.version == Version::V1 { "v1" } else { "v2" };
        let controllers =
            if self.controllers.is_empty() { "no controller".to_owned() } else { self.controllers.join(" ") };
        write!(f, "cgroup {version}: {controllers}, at {}", self.own.display())
    }
}
