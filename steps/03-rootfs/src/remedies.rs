//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use nix::errno::Errno::*;
use shared::remedy::{Held, Known, Remedy};

/// Of entering a root and of filling it.
pub const KNOWN: Known = Known {
    calls: &[
        "open",
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
        errno: &[EXDEV, ELOOP],
        applies: |_| true,
        say: "the path leads through a link that points out of the root, as those in /proc/PID/fd do: name a directory inside",
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
        call: "mk",
        errno: &[EACCES],
        applies: |call| call.starts_with("mkdirat(") || call.starts_with("mknodat("),
        say: "this root belongs to another user (was it made with sudo?): remove it with sudo, or name one of your own with --rootfs",
    },
];

fn hint(held: &Held) -> Option<String> {
    let Held { call, name, child, .. } = held;
    match *name {
        _ if *child == 0 => None,
        "mount_setattr" | "umount2" => Some(format!("awk '{{print $5}}' /proc/{child}/mountinfo")),
        "pivot_root" | "chdir" | "fchdir" => Some(format!("ls /proc/{child}/root/ /proc/{child}/cwd/")),
        "open" | "openat2" => Some(format!("ls -l /proc/{child}/fd")),
        // They name the directory by its descriptor.
        "mkdirat" | "mknodat" | "symlinkat" => {
            let dir = call.split(['(', ',']).find_map(|word| word.trim().parse::<u32>().ok())?;
            Some(format!("ls -l /proc/{child}/fd/{dir}/"))
        }
        "umask" => Some(format!("grep Umask /proc/{child}/status")),
        _ => None,
    }
}
