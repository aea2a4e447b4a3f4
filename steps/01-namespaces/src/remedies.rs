//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use nix::errno::Errno::*;
use shared::remedy::{Held, Known, Remedy, in_docker, sysctl};
use shared::sys;

/// Of clone and of what gives the new namespaces their content.
pub const KNOWN: Known = Known {
    calls: &["clone", "clone3", "setgroups", "mount", "sethostname", "ioctl", "unshare", "echo"],
    remedies: REMEDIES,
    hint,
};

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], process::known()].concat()
}

const REMEDIES: &[Remedy] = &[
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

fn hint(held: &Held) -> Option<String> {
    let Held { call, name, step, child } = held;
    // The child looks like root to itself. Into a user namespace that its owner has made, nsenter needs no root.
    let enter = if sys::in_first_user_namespace() { "nsenter" } else { "nsenter --user --preserve-credentials" };
    match *name {
        "clone" | "clone3" => Some(format!("pstree -p {step}; ls -l /proc/{step}/ns")),
        "echo" if call.contains("/proc/") => Some(format!("cat {}", call.split(" > ").nth(1)?)),
        _ if *child == 0 => None,
        // The last field before the dash says `shared:`, `master:` or nothing. See proc_pid_mountinfo(5).
        "mount" if call.contains("MS_PRIVATE") => Some(format!("awk '{{print $5, $7}}' /proc/{child}/mountinfo")),
        "mount" => {
            let target = call.split('"').nth(3)?;
            Some(format!("grep -w {} /proc/{child}/mountinfo", target.rsplit('/').next()?))
        }
        "sethostname" => Some(format!("{enter} --uts --target {child} hostname")),
        "ioctl" => Some(format!("{enter} --net --target {child} ip link")),
        "unshare" => Some(format!("ls -l /proc/{child}/ns/cgroup")),
        _ => None,
    }
}
