//! Where this process could make cgroups: tried by making one and removing it at once. See cgroups(7).

use std::fs::{create_dir, read_to_string, remove_dir, write};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access, geteuid};
use serde_json::Value;
use shared::failure::CallFailed;
use shared::lock::try_lock;
use shared::mountinfo::{self, Mount};

use super::trial::{Tried, call};

/// The cgroups of this machine, as far as this process reaches.
pub struct Groups {
    /// `v1`, `v2`, `hybrid` (both are mounted), `none`.
    pub version: &'static str,
    /// What some user can limit here.
    pub controllers: Vec<String>,
    /// What can be limited from here, by this user.
    pub usable: Vec<String>,
    /// The first refusal.
    pub refused: Option<CallFailed>,
    /// Whether that is so in a scope alone, which the steps ask systemd for.
    pub in_scope: bool,
}

/// Set for this program where it looks from a scope.
const IN_SCOPE: &str = "STEP00_CHECK_IN_SCOPE";

/// A tree of groups, and where this process is in it.
struct GroupTree {
    is_v2: bool,
    controllers: Vec<String>,
    top: PathBuf,
    own: PathBuf,
}

impl Groups {
    /// What a step can have: in the trees that this process is in; where it is refused there, in a scope of systemd's.
    ///
    /// # Errors
    /// Where `/proc` is not there to be read.
    pub fn find() -> Result<Self> {
        let groups = Groups::here()?;
        Ok(match groups.refused.as_ref().and_then(|_| usable_in_a_scope()) {
            Some(usable) => Groups { usable, refused: None, in_scope: true, ..groups },
            None => groups,
        })
    }

    /// Tries each tree that this process is in.
    fn here() -> Result<Self> {
        let mounts = mountinfo::read(Path::new("/proc/self"))?;
        let memberships = read_to_string("/proc/self/cgroup").unwrap_or_default();
        let trees: Vec<GroupTree> = memberships.lines().filter_map(|line| tree(line, &mounts)).collect();
        let version = match (trees.iter().any(|tree| !tree.is_v2), trees.iter().any(|tree| tree.is_v2)) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        };
        let mut groups =
            Groups { version, controllers: Vec::new(), usable: Vec::new(), refused: None, in_scope: false };
        for tree in trees {
            match tree.usable() {
                Ok(usable) => groups.usable.extend(usable),
                Err(refused) => groups.refused = groups.refused.or(Some(refused)),
            }
            groups.controllers.extend(tree.controllers);
        }
        Ok(groups)
    }
}

/// What this program says of the place where it is when systemd starts it in a delegated scope, as it starts the steps that
/// ask for one. `None` where systemd cannot be asked, or has nothing to delegate.
fn usable_in_a_scope() -> Option<Vec<String>> {
    // sd_booted(3); and where this is the one that looks, that was all.
    if !Path::new("/run/systemd/system").exists() || std::env::var_os(IN_SCOPE).is_some() {
        return None;
    }
    let mut look = Command::new("systemd-run");
    look.args((!geteuid().is_root()).then_some("--user"));
    look.args(["--scope", "--quiet", "--collect", "-p", "Delegate=yes", "--"]).arg(std::env::current_exe().ok()?);
    let looked = look.args(["check", "--json"]).env(IN_SCOPE, "1").stdin(Stdio::null()).output().ok()?;
    let report: Value = serde_json::from_slice(&looked.stdout).ok()?;
    let usable = report["cgroup"]["usable"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned);
    Some(usable.collect()).filter(|usable: &Vec<_>| !usable.is_empty())
}

/// From a line `4:memory:/user.slice` (v1) or `0::/user.slice` (v2), and the mount that it belongs to.
fn tree(membership: &str, mounts: &[Mount]) -> Option<GroupTree> {
    let (names, path) = membership.split_once(':')?.1.split_once(':')?;
    let names: Vec<String> = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    // A tree with just a name (systemd's) keeps processes together and limits nothing.
    if names.iter().any(|name| name.starts_with("name=")) {
        return None;
    }
    let is_v2 = names.is_empty();
    let (kind, magic) = if is_v2 { ("cgroup2", CGROUP2_SUPER_MAGIC) } else { ("cgroup", CGROUP_SUPER_MAGIC) };
    let has_all = |mount: &&Mount| mount.kind == kind && names.iter().all(|name| mount.options.contains(name));
    let mount = mounts.iter().rfind(has_all)?;
    // Where something was mounted over it, a directory would be made there, and be no group.
    if !statfs(&mount.point).is_ok_and(|it| it.filesystem_type() == magic) {
        return None;
    }
    // In a Docker container only a part of the tree is mounted, and the path counts from the tree's top.
    let own = Path::new(path).strip_prefix(&mount.root).ok()?;
    // Above this process's cgroup namespace the path is "/..", and names no directory here.
    if own.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    let own = mount.point.join(own);
    let controllers = if is_v2 { words(&mount.point.join("cgroup.controllers")) } else { names };
    Some(GroupTree { is_v2, controllers, top: mount.point.clone(), own })
}

impl GroupTree {
    /// The controllers that a new group would have. On v1 it is made in this process's own group. On v2 a group with
    /// processes can hand no controller on, so it may have to be made further up.
    fn usable(&self) -> Result<Vec<String>, CallFailed> {
        if !self.is_v2 {
            return make_group(&self.own).map(|()| self.controllers.clone());
        }
        let mut usable: Vec<String> = Vec::new();
        let mut refused = None;
        for place in self.own.ancestors().take_while(|place| place.starts_with(&self.top)) {
            match make_group(place) {
                Ok(()) => usable.extend(handed_on(place)),
                // Who may not make a group in its own place may not further up either, except by delegation.
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        usable.sort();
        usable.dedup();
        match refused {
            Some(refused) if usable.is_empty() => Err(refused),
            _ => Ok(usable),
        }
    }
}

fn make_group(place: &Path) -> Tried {
    let group = place.join(format!("step00-check-{}", std::process::id()));
    call(format_args!("mkdir {}", group.display()), || create_dir(&group))?;
    call(format_args!("rmdir {}", group.display()), || remove_dir(&group))
}

/// v2: what the groups in this place have, or could have: each controller is enabled for children, and disabled again
/// at once.
fn handed_on(place: &Path) -> Vec<String> {
    let control = place.join("cgroup.subtree_control");
    // Without the lock, a controller could be taken back that a step has just asked for. A step has it for moments.
    let lock = (0..100).find_map(|_| {
        let lock = try_lock(&place.join("cgroup.procs")).ok();
        if lock.is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        lock
    });
    let has = words(&control);
    // A step that is alone in its group steps aside, and the group has no processes any more.
    let is_alone = words(&place.join("cgroup.procs")) == [std::process::id().to_string()]
        && access(&control, AccessFlags::W_OK).is_ok();
    let can_delegate = |name: &String| {
        lock.is_some() && write(&control, format!("+{name}")).is_ok() && write(&control, format!("-{name}")).is_ok()
    };
    let all = words(&place.join("cgroup.controllers"));
    all.into_iter().filter(|name| has.contains(name) || is_alone || can_delegate(name)).collect()
}

/// The words of a kernel file; none where it cannot be read.
fn words(path: &Path) -> Vec<String> {
    read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}
