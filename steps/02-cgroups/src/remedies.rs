//! What is known of this step's calls: what to do where they fail, what to look at while `--pause` holds them.

use process::remedies::{CGROUPS, in_cgroups};
use shared::remedy::{Known, PausedCall};

/// Of making a cgroup, limiting it, entering it and removing it.
pub const KNOWN: Known = Known { calls: &["mkdir", "echo", "rmdir"], remedies: CGROUPS, hint };

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], namespaces::known()].concat()
}

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, .. } = paused;
    match *name {
        "mkdir" | "rmdir" => Some(format!("ls -d {}", call.split(' ').nth(1)?)),
        // These two can only be written; what they make is in the list.
        "echo" if in_cgroups(call) => {
            let file = call.split(" > ").nth(1)?;
            Some(format!(
                "cat {}",
                file.replace("devices.deny", "devices.list").replace("devices.allow", "devices.list")
            ))
        }
        _ => None,
    }
}
