//! What is known of this step's calls: what to do where they fail, what to look at while `--pause` holds them.

use std::path::Path;

use nix::errno::Errno::*;
use shared::mountinfo;
use shared::remedy::{Known, PausedCall, Remedy};

use crate::why::{self, Pivot};

/// Of entering a root and of filling it.
pub const KNOWN: Known = Known {
    calls: &[
        "openat2",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "mkdirat",
        "mknodat",
        "symlinkat",
        "umask",
        "chdir",
        "fchdir",
        "pivot_root",
        "umount2",
    ],
    remedies: REMEDIES,
    hint,
};

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], cgroups::known()].concat()
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        call: "openat2(",
        errno: &[EXDEV],
        applies: |_| true,
        say: "the path leads through a link that points out of the root, as those in /proc/PID/fd may: name a directory inside",
    },
    Remedy {
        call: "openat2(",
        errno: &[ELOOP],
        applies: |_| true,
        say: "symbolic links in the root lead to each other in a circle, or through more than 40: look at them with ls -l",
    },
    Remedy {
        call: "openat2(",
        errno: &[ENOTDIR],
        applies: |_| true,
        say: "something on this path, in the root, is there and is no directory: remove or rename it, or name another path",
    },
    Remedy {
        call: "pivot_root(",
        errno: &[EBUSY],
        applies: |_| true,
        say: "the new root is not a mount point of its own: bind it onto itself first",
    },
    Remedy {
        call: "",
        errno: &[EINVAL],
        // Already what makes the mounts private is refused there.
        applies: |call| {
            (call.starts_with("pivot_root(") || call.starts_with("mount(\"none\", \"/\","))
                && pivot() == Some(Pivot::Chroot)
        },
        say: "this step's own root is not a mount point, as after chroot(8): run the step outside of it, or bind that \
              directory onto itself before the chroot",
    },
    Remedy {
        call: "pivot_root(",
        errno: &[EINVAL],
        applies: |_| pivot() == Some(Pivot::Initramfs),
        say: "the old root is the kernel's first one, an initramfs, which cannot be swapped: start a system with a disk first",
    },
    Remedy {
        call: "pivot_root(",
        errno: &[EINVAL],
        applies: |_| pivot() == Some(Pivot::Shared),
        say: "a mount above the new root is shared with other mount namespaces: make the mounts private first",
    },
    Remedy {
        call: "pivot_root(",
        errno: &[EINVAL],
        applies: |_| pivot() == Some(Pivot::NoMountPoint),
        say: "the new root is no mount point: bind it onto itself first",
    },
    Remedy {
        call: "mk",
        errno: &[EACCES],
        applies: |call| call.starts_with("mkdirat(") || call.starts_with("mknodat("),
        say: "that directory of the root belongs to another user or group (was the root made with sudo?): remove the root \
              with sudo, or name one of your own with --rootfs",
    },
    Remedy {
        call: "mk",
        errno: &[EROFS],
        applies: |call| call.starts_with("mkdirat(") || call.starts_with("mknodat("),
        say: "the root is on a file system that is mounted read-only, so nothing can be made in it: make the directory \
              where the root can be written to, or name another root with --rootfs",
    },
    // Not the disk, as it would be for other calls.
    Remedy {
        call: "m",
        errno: &[ENOSPC],
        applies: |call| call.starts_with("mount(") || call.starts_with("move_mount("),
        say: "this mount namespace has as many mounts as one may have: see /proc/sys/fs/mount-max",
    },
];

/// The mounts of this process when pivot_root(2) has failed are those with which it was called.
fn pivot() -> Option<Pivot> {
    mountinfo::read(Path::new("/proc/self")).ok().map(|mounts| why::pivot(&mounts))
}

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, child, .. } = paused;
    match *name {
        _ if *child == 0 => None,
        "umount2" => Some(format!("awk '$5 == \"/\"' /proc/{child}/mountinfo")),
        "mount_setattr" | "move_mount" => Some(format!("awk '{{print $5}}' /proc/{child}/mountinfo")),
        "pivot_root" | "chdir" | "fchdir" => Some(format!("ls /proc/{child}/root/ /proc/{child}/cwd/")),
        "openat2" => Some(format!("ls -l /proc/{child}/cwd/")),
        "open_tree" => Some(format!("ls -l /proc/{child}/fd")),
        // They name the directory by its descriptor.
        "mkdirat" | "mknodat" | "symlinkat" => {
            let dir = call.split(['(', ',']).find_map(|word| word.trim().parse::<u32>().ok())?;
            Some(format!("ls -l /proc/{child}/fd/{dir}/"))
        }
        "umask" => Some(format!("grep Umask /proc/{child}/status")),
        _ => None,
    }
}
