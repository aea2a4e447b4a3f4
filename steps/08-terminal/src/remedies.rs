//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use nix::errno::Errno::*;
use shared::remedy::{Known, PausedCall, Remedy};

/// Of terminals and sessions.
pub const KNOWN: Known =
    Known { calls: &["open", "ioctl", "setsid", "dup2", "connect", "fork", "setpgid"], remedies: REMEDIES, hint };

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], layers::known()].concat()
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        call: "open(\"/dev/pts/ptmx\"",
        errno: &[ENOSPC],
        applies: |_| true,
        say: "there are too many terminals on this machine: `sysctl kernel.pty.max` says how many there may be",
    },
    Remedy {
        call: "connect(",
        errno: &[ECONNREFUSED, ENOENT],
        applies: |_| true,
        say: "its monitor was killed or has just ended: `ps -a` says which, and `clean` removes what is left",
    },
];

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, child, .. } = paused;
    match *name {
        // That of step 01, which has a hint of its own.
        "ioctl" if call.contains("SIOC") => None,
        "open" | "ioctl" | "setsid" | "dup2" if *child != 0 => {
            Some(format!("ps -o pid,sid,tty,cmd -p {child}; sudo ls -l /proc/{child}/fd"))
        }
        "connect" => Some("ss -xl | grep attach".to_owned()),
        _ => None,
    }
}
