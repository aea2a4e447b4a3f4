//! What is known of this step's calls.

use shared::remedy::{Known, PausedCall};

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

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { name, step, child, .. } = paused;
    match *name {
        "fork" => Some(format!("pstree -p {step}")),
        "execve" if *child != 0 => Some(format!("ls -l /proc/{child}/exe")),
        // The engine's, which becomes a copy of itself.
        "execve" => Some(format!("ls -l /proc/{step}/exe")),
        "prctl" | "kill" if *child != 0 => Some(format!("step00 look {child}")),
        _ => None,
    }
}
