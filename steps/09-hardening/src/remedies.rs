//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use nix::errno::Errno::*;
use shared::remedy::{Known, PausedCall, Remedy};

/// Of rights, calls and devices.
pub const KNOWN: Known =
    Known { calls: &["bpf", "keyctl", "setrlimit", "prctl", "capset", "seccomp", "echo"], remedies: REMEDIES, hint };

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], terminal::known()].concat()
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        call: "keyctl",
        errno: &[EDQUOT],
        applies: |_| true,
        say: "the containers' root has as many keyrings as a user may have: sudo sysctl kernel.keys.maxkeys=2000",
    },
    Remedy {
        call: "setrlimit",
        errno: &[EPERM],
        applies: |_| true,
        say: "no process inside may have a higher hard limit than the caller: raise that first (`ulimit -H`)",
    },
    Remedy {
        call: "echo ",
        errno: &[EACCES],
        applies: |call| call.ends_with("/oom_score_adj"),
        say: "a number below the caller's own (`cat /proc/self/oom_score_adj`) takes CAP_SYS_RESOURCE over the whole machine: name a higher one",
    },
    Remedy {
        call: "seccomp",
        errno: &[EACCES],
        applies: |_| true,
        say: "without no-new-privileges a list of calls takes CAP_SYS_ADMIN: leave --security-opt no-new-privileges=false out",
    },
];

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { name, child, .. } = paused;
    match *name {
        "capset" | "prctl" | "seccomp" => Some(format!("grep -E 'Cap|NoNewPrivs|Seccomp' /proc/{child}/status")),
        "setrlimit" => Some(format!("cat /proc/{child}/limits")),
        "bpf" => Some("sudo bpftool cgroup tree".to_owned()),
        _ => None,
    }
}
