//! What is known of this step's calls: what to do where they fail, what to look at while `--pause` holds them.

use std::path::Path;

use nix::errno::Errno::*;
use shared::remedy::{Known, PausedCall, Remedy};

/// Of the engine's records, of its monitor and of joining a container.
pub const KNOWN: Known = Known {
    calls: &[
        "rename",
        "bind",
        "connect",
        "setns",
        "setsid",
        "dup2",
        "rm",
        "kill",
        "pidfd_send_signal",
        "memfd_create",
        "sendfile",
        "fcntl",
        "fchown",
    ],
    remedies: REMEDIES,
    hint,
};

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], rootfs::known()].concat()
}

const REMEDIES: &[Remedy] = &[
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
];

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, child, .. } = paused;
    match *name {
        "rename" => Some(format!("ls -la {}", Path::new(call.split('"').nth(1)?).parent()?.display())),
        "bind" | "connect" => Some(format!("ls -l {}", call.split(['(', ')']).nth(1)?)),
        "setns" if *child != 0 => Some(format!("ls -l /proc/{child}/ns")),
        _ => None,
    }
}
