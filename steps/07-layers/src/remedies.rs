//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use nix::errno::Errno::*;
use shared::remedy::{Known, PausedCall, Remedy};

/// Of layers.
pub const KNOWN: Known = Known {
    calls: &["mkdir", "chown", "chmod", "mount", "open_tree", "umount2", "symlink", "cp", "linkat", "renameat2"],
    remedies: REMEDIES,
    hint,
};

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], network::known()].concat()
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        call: "mount(\"overlay\"",
        errno: &[ENODEV],
        applies: |_| true,
        say: "this kernel has no overlay: `sudo modprobe overlay`, or --no-overlay",
    },
    Remedy {
        call: "mount(\"overlay\"",
        errno: &[EPERM],
        applies: |_| true,
        say: "this kernel gives an overlay to the host's root alone (before Linux 5.11): use --no-overlay",
    },
    Remedy {
        call: "mount(\"overlay\"",
        errno: &[ELOOP],
        applies: |_| true,
        say: "one layer lies in another, or is named twice, or in it lies what the container writes: name each once, and \
              another directory in XDG_DATA_HOME",
    },
    Remedy {
        call: "mount(\"overlay\"",
        errno: &[EINVAL],
        applies: |_| true,
        say: "`sudo dmesg | tail` says what the kernel does not take; --no-overlay does without it",
    },
    Remedy {
        call: "mkdir",
        errno: &[EACCES, EROFS],
        applies: |call| call.contains("step04-data"),
        say: "what the container writes is kept there: name another directory in XDG_DATA_HOME, or use --no-overlay",
    },
    Remedy {
        call: "open(",
        errno: &[EOPNOTSUPP, EISDIR],
        applies: |call| call.contains("O_TMPFILE"),
        say: "this file system has no files without a name, as which an archive begins: name a place on another one",
    },
];

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, caller, child } = paused;
    match *name {
        "mount" if call.contains("overlay") => Some(format!("sudo ls -l /proc/{child}/cwd/")),
        "open_tree" if call.contains("\"root\"") => Some(format!("grep overlay /proc/{child}/mountinfo")),
        "mkdir" | "chown" | "chmod" if call.contains("step04-data") => Some(format!("ls -l /proc/{caller}/cwd")),
        _ => None,
    }
}
