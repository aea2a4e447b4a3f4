//! What is known of this step's calls; and what to do where namespaces, mounts and cgroups are refused. `check` tries these
//! before any step does, so what helps is known here; steps 01 and 02 print it, too.

use std::path::Path;

use nix::errno::Errno::*;
use shared::mountinfo;
use shared::remedy::{Known, PausedCall, Remedy};

/// Of fork, exec and wait.
pub const KNOWN: Known = Known {
    calls: &[
        "fork",
        "prctl",
        "sched_setscheduler",
        "sched_setaffinity",
        "personality",
        "echo",
        "kill",
        "close_range",
        "execve",
    ],
    remedies: &[],
    hint,
};

/// What is known of the calls of this step.
pub fn known() -> Vec<&'static Known> {
    vec![&KNOWN]
}

/// What `check` knows of the calls that it tries.
pub fn of_tried_calls() -> Vec<&'static Known> {
    const NAMESPACE_CALLS: Known = Known { calls: &[], remedies: NAMESPACES, hint: |_| None };
    const CGROUP_CALLS: Known = Known { calls: &[], remedies: CGROUPS, hint: |_| None };
    vec![&CGROUP_CALLS, &NAMESPACE_CALLS]
}

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { name, caller, child, .. } = paused;
    match *name {
        "fork" => Some(format!("ps -o pid,ppid,args -p {caller} --ppid {caller}")),
        "execve" if *child != 0 => Some(format!("ls -l /proc/{child}/exe")),
        // The engine's, which becomes a copy of itself.
        "execve" => Some(format!("ls -l /proc/{caller}/exe")),
        "prctl" | "kill" if *child != 0 => Some(format!("step00 look {child}")),
        _ => None,
    }
}

/// Of clone and mount, for step 01.
pub const NAMESPACES: &[Remedy] = &[
    Remedy {
        call: "clone",
        errno: &[EPERM],
        applies: |call| !call.contains("CLONE_NEWUSER"),
        say: "without a user namespace only root may make the others: add `user` to --namespaces, or run the step with sudo",
    },
    Remedy {
        call: "clone",
        errno: &[EPERM, EACCES],
        applies: |_| in_docker(),
        say: "this is inside a Docker container, which forbids namespaces: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined …, or --privileged",
    },
    Remedy {
        call: "clone",
        errno: &[ENOSPC, EUSERS],
        applies: |_| true,
        say: "a limit on namespaces is reached (also where namespaces are nested too deep, and where user.max_user_namespaces is 0, which forbids them): sudo sysctl user.max_user_namespaces=15000",
    },
    Remedy {
        call: "clone",
        errno: &[EPERM],
        applies: |_| sysctl("kernel/unprivileged_userns_clone") == Some(0),
        say: "this machine forbids user namespaces to ordinary users: sudo sysctl kernel.unprivileged_userns_clone=1, or run the step with sudo",
    },
    Remedy {
        call: "clone",
        errno: &[EPERM],
        applies: |_| true,
        say: "this machine forbids user namespaces to ordinary users, or this process is in a chroot: run the step with sudo; `step00 check` says what is allowed",
    },
    Remedy {
        call: "clone",
        errno: &[EINVAL],
        applies: |_| true,
        say: "this kernel was built without one of these namespaces: `step00 check` says which; leave it out of --namespaces",
    },
    Remedy {
        call: "",
        errno: &[EPERM, EACCES],
        applies: |call| {
            sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1)
                && (call.starts_with("mount(") || call.starts_with("sethostname(") || call.contains("_map"))
        },
        say: "Ubuntu's AppArmor removes all rights inside user namespaces of ordinary users: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run the step with sudo",
    },
    Remedy {
        call: "echo ",
        errno: &[EPERM],
        applies: |call| call.contains("id_map"),
        say: "root may map its id 0 only with CAP_SETFCAP: give it that (docker run --cap-add SETFCAP …), or leave `user` out of --namespaces",
    },
    Remedy {
        call: "mount(\"proc\"",
        errno: &[EPERM],
        applies: |_| true,
        say: "part of the host's own /proc is covered, as in a Docker container, and the kernel will not show more in a new one: docker run --security-opt systempaths=unconfined …, or --privileged",
    },
    Remedy {
        call: "mount(\"mqueue\"",
        errno: &[EPERM],
        applies: |_| true,
        say: "message queues belong to the ipc namespace: add `ipc` to --namespaces",
    },
    Remedy {
        call: "mount(",
        errno: &[EPERM],
        applies: |_| in_docker(),
        say: "this is inside a Docker container, which forbids mounts: docker run --privileged …",
    },
    Remedy {
        call: "mount(",
        errno: &[EPERM],
        applies: |_| true,
        say: "mounting needs rights over the mount namespace: add `user` and `mount` to --namespaces, or run the step with sudo",
    },
    Remedy {
        call: "mount(",
        errno: &[ENOSPC],
        applies: |_| true,
        say: "a mount namespace holds no more mounts than fs.mount-max allows: sudo sysctl fs.mount-max=100000",
    },
    Remedy {
        call: "unshare(",
        errno: &[ENOSPC],
        applies: |_| true,
        say: "there are as many namespaces of this kind as user.max_cgroup_namespaces allows: sudo sysctl user.max_cgroup_namespaces=15000",
    },
];

/// Of mkdir and of writing to the files of a group, for step 02.
pub const CGROUPS: &[Remedy] = &[
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
        applies: |call| call.contains("/io.max") || call.contains("/blkio.throttle"),
        say: "name the whole disk (/dev/sda), not a partition of it (/dev/sda1)",
    },
];

/// Whether this is inside a container of Docker or podman.
pub fn in_docker() -> bool {
    // A machine whose disk was made from an image has Docker's file, too; but its root is no overlay.
    let has_overlay_root = || {
        let mounts = mountinfo::read(Path::new("/proc/self")).unwrap_or_default();
        mounts.iter().any(|mount| mount.point == Path::new("/") && mount.kind.contains("overlay"))
    };
    Path::new("/run/.containerenv").exists() || (Path::new("/.dockerenv").exists() && has_overlay_root())
}

/// A kernel parameter that is a number: `kernel/unprivileged_userns_clone`. proc_sys(5).
fn sysctl(name: &str) -> Option<i64> {
    std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

/// Whether this machine has no tree of version 1, as systemd mounts it by itself.
fn has_v2_alone() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether a printed call is about a file or directory of a cgroup.
pub fn in_cgroups(call: &str) -> bool {
    call.contains("/cgroup")
}
