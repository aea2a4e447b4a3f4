//! For the failures that everyone meets: what to do. Looked up by call and errno, and by what this machine is.

use std::path::Path;

use nix::errno::Errno::{self, *};

/// One failure that is known.
pub struct Remedy {
    /// How the told call begins.
    pub call: &'static str,
    /// What the kernel answers.
    pub errno: &'static [Errno],
    /// Whether this machine, or the call's arguments, make it that failure.
    pub applies: fn(&str) -> bool,
    /// What to do.
    pub say: &'static str,
}

/// The first one that fits is told; so the special ones stand before the general.
pub const REMEDIES: &[Remedy] = &[
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
        say: "this machine forbids user namespaces to ordinary users, or this process stands in a chroot: run the step with sudo; `step00 check` tells what is allowed",
    },
    Remedy {
        call: "clone",
        errno: &[EINVAL],
        applies: |_| true,
        say: "this kernel was built without one of these namespaces: `step00 check` tells which; leave it out of --namespaces",
    },
    Remedy {
        call: "",
        errno: &[EPERM, EACCES],
        applies: |call| {
            sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1)
                && (call.starts_with("mount(") || call.starts_with("sethostname(") || call.contains("_map"))
        },
        say: "Ubuntu's AppArmor takes the rights away inside user namespaces of ordinary users: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run the step with sudo",
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
        call: "setns(",
        errno: &[EPERM],
        applies: |_| true,
        say: "this user has no rights over the container's namespaces: run the step as the user who started it, or with sudo",
    },
    Remedy {
        call: "cannot read /proc/",
        errno: &[EACCES],
        applies: |call| call.contains("/ns/"),
        say: "this container was made in another user namespace: run the step from where it was made, or from outside with sudo",
    },
    Remedy {
        call: "memfd_create(",
        errno: &[EACCES, EPERM],
        applies: |_| true,
        say: "this machine forbids programs in memory, from which the engine protects itself: sudo sysctl vm.memfd_noexec=1",
    },
    Remedy {
        call: "openat2(",
        errno: &[EXDEV, ELOOP],
        applies: |_| true,
        say: "the path leads through a link that points out of the root, as those in /proc/PID/fd do: name a folder inside",
    },
    Remedy {
        call: "pivot_root(",
        errno: &[EBUSY],
        applies: |_| true,
        say: "the new root is not a mount point of its own: bind it onto itself first",
    },
    Remedy {
        call: "pivot_root(",
        errno: &[EINVAL],
        applies: |_| true,
        say: "the new root is no mount point (bind it onto itself first), or a mount above it is shared (make the mounts private first), or the old root is none (an initramfs)",
    },
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
        say: "on cgroup v2 a group that has processes cannot hand controllers on: give the step a scope of its own: `systemd-run --user --scope -p Delegate=yes` and then the command",
    },
    Remedy {
        call: "echo ",
        errno: &[ENODEV],
        applies: in_cgroups,
        say: "name the whole disk (/dev/sda), not a partition of it (/dev/sda1)",
    },
    Remedy {
        call: "mk",
        errno: &[EACCES],
        applies: |call| call.starts_with("mkdirat(") || call.starts_with("mknodat("),
        say: "this root belongs to another user (was it made with sudo?): remove it with sudo, or name one of your own with --rootfs",
    },
    Remedy {
        call: "",
        errno: &[ENOSYS],
        applies: |_| true,
        say: "this kernel does not know that call: Linux 5.12 or newer is needed",
    },
    Remedy {
        call: "unshare(",
        errno: &[ENOSPC],
        applies: |_| true,
        say: "there are as many namespaces of this kind as user.max_cgroup_namespaces allows: sudo sysctl user.max_cgroup_namespaces=15000",
    },
    Remedy {
        call: "mount(",
        errno: &[ENOSPC],
        applies: |_| true,
        say: "a mount namespace holds no more mounts than fs.mount-max allows: sudo sysctl fs.mount-max=100000",
    },
    Remedy { call: "", errno: &[ENOSPC], applies: |call| !call.contains("cgroup"), say: "the disk is full" },
];

/// What to do about this failure, if it is a known one.
pub fn find(call: &str, errno: Errno) -> Option<String> {
    REMEDIES
        .iter()
        .find(|known| call.starts_with(known.call) && known.errno.contains(&errno) && (known.applies)(call))
        .map(|known| known.say.to_owned())
}

/// What to look at from a second terminal while this call is held, and right after it.
pub fn look(call: &str, child: i32) -> Option<String> {
    let step = std::process::id();
    // The child looks like root to itself. Into a user namespace that one has made, nsenter needs no root.
    let enter = if crate::sys::in_first_user_namespace() { "nsenter" } else { "nsenter --user --preserve-credentials" };
    let name = call.split(['(', ' ']).next().unwrap_or_default();
    Some(match name {
        "clone" | "clone3" | "fork" => format!("pstree -p {step}; ls -l /proc/{step}/ns"),
        "mkdir" | "rmdir" => format!("ls -d {}", call.split(' ').nth(1)?),
        "rename" => format!("ls -la {}", Path::new(call.split('"').nth(1)?).parent()?.display()),
        "bind" | "connect" => format!("ls -l {}", call.split(['(', ')']).nth(1)?),
        "symlink" => format!("ls -l {}", call.split('"').nth(3)?),
        // These two can only be written; what they make is in the list.
        "echo" => format!(
            "cat {}",
            call.split(" > ").nth(1)?.replace("devices.deny", "devices.list").replace("devices.allow", "devices.list")
        ),
        _ if child == 0 => return None,
        "mount" | "umount2" | "mount_setattr" => format!("cat /proc/{child}/mountinfo"),
        "pivot_root" | "chdir" | "fchdir" => format!("ls /proc/{child}/root/ /proc/{child}/cwd/"),
        "sethostname" => format!("{enter} --uts --target {child} hostname"),
        "ioctl" => format!("{enter} --net --target {child} ip link"),
        "unshare" => format!("ls -l /proc/{child}/ns"),
        "execve" => format!("ls -l /proc/{child}/exe"),
        "open" | "openat2" => format!("ls -l /proc/{child}/fd"),
        // They name the folder by its descriptor.
        "mkdirat" | "mknodat" | "symlinkat" => {
            let folder = call.split(['(', ',']).find_map(|word| word.trim().parse::<u32>().ok())?;
            format!("ls -l /proc/{child}/fd/{folder}/")
        }
        "umask" => format!("grep Umask /proc/{child}/status"),
        // A mark on each descriptor, of which nothing can be seen.
        "close_range" => return None,
        _ => format!("step00 look {child}"),
    })
}

/// Whether this is inside a container of Docker or podman.
pub fn in_docker() -> bool {
    Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists()
}

fn sysctl(name: &str) -> Option<i64> {
    std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

/// Whether this machine has no tree of version 1, as systemd mounts it by itself.
fn has_v2_alone() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn in_cgroups(call: &str) -> bool {
    call.contains("/cgroup")
}
