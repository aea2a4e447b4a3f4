//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use std::path::Path;

use nix::errno::Errno::*;
use shared::remedy::{Held, Known, Remedy};

/// Of making a cgroup, limiting it, entering it and removing it.
pub const KNOWN: Known = Known { calls: &["mkdir", "echo", "sched_setaffinity", "rmdir"], remedies: REMEDIES, hint };

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], namespaces::known()].concat()
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        call: "mkdir /",
        errno: &[EROFS],
        applies: in_cgroups,
        say: "the cgroup file system is read-only, as inside a Docker container: docker run --privileged --cgroupns=private …",
    },
    Remedy {
        call: "mkdir /",
        errno: &[EACCES, EPERM],
        applies: |call| in_cgroups(call) && !has_v2_alone(),
        say: "only root may make cgroups of version 1: run the step with sudo",
    },
    Remedy {
        call: "mkdir /",
        errno: &[EACCES, EPERM],
        applies: in_cgroups,
        say: "this user may not make cgroups here: run the step with sudo, or on a systemd machine with cgroup v2 as `systemd-run --user --scope -p Delegate=yes` and then the command",
    },
    Remedy {
        call: "echo ",
        errno: &[EACCES, EINVAL, EPERM],
        applies: |call| ["/cpuset.cpus", "/cpu.cfs_quota_us", "/devices.allow"].iter().any(|file| call.ends_with(file)),
        say: "on cgroup v1 no group may have more than the one above it: ask for less, or run the step from another group",
    },
    Remedy {
        call: "echo ",
        errno: &[EACCES, EPERM],
        applies: in_cgroups,
        say: "this user may not write to this cgroup: run the step with sudo, or on a systemd machine with cgroup v2 as `systemd-run --user --scope -p Delegate=yes` and then the command",
    },
    Remedy {
        call: "echo ",
        errno: &[EBUSY],
        applies: |call| call.contains("subtree_control"),
        say: "on cgroup v2 a group that has processes cannot enable controllers for groups below it: give the step a scope of its own: `systemd-run --user --scope -p Delegate=yes` and then the command",
    },
    Remedy {
        call: "echo ",
        errno: &[ENODEV],
        applies: in_cgroups,
        say: "name the whole disk (/dev/sda), not a partition of it (/dev/sda1)",
    },
];

fn hint(held: &Held) -> Option<String> {
    let Held { call, name, .. } = held;
    match *name {
        "mkdir" | "rmdir" => Some(format!("ls -d {}", call.split(' ').nth(1)?)),
        // These two can only be written; what they make is in the list.
        "echo" if in_cgroups(call) => {
            let file = call.split(" > ").nth(1)?;
            Some(format!(
                "cat {}",
                file.replace("devices.deny", "devices.list").replace("devices.allow", "devices.list")
            ))
        }
        _ => None,
    }
}

/// Whether this machine has no tree of version 1, as systemd mounts it by itself.
fn has_v2_alone() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn in_cgroups(call: &str) -> bool {
    call.contains("/cgroup")
}
