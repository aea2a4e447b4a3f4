//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use nix::errno::Errno::*;
use shared::remedy::{Known, PausedCall, Remedy};

/// Of mapping ids, and of becoming another user.
pub const KNOWN: Known = Known {
    calls: &["newuidmap", "newgidmap", "setgroups", "setresgid", "setresuid", "open"],
    remedies: REMEDIES,
    hint,
};

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], engine::known()].concat()
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        call: "echo ",
        errno: &[EPERM],
        applies: |call| call.contains("id_map"),
        say: "these ids are not this root's to give: root of a user namespace has those of its own /proc/self/uid_map, and \
              id 0 of the host takes CAP_SETFCAP; name others with --uidmap",
    },
    Remedy {
        call: "setres",
        errno: &[EINVAL],
        applies: |_| true,
        say: "the container has no such id: name one that it has, or a map that has it with --uidmap and --gidmap",
    },
    Remedy {
        call: "open_tree(",
        errno: &[EPERM],
        applies: |_| true,
        say: "a root that belongs to other ids takes CAP_SYS_ADMIN, which this root does not have: leave --uidmap out",
    },
];

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, caller, child } = paused;
    match *name {
        "echo" if call.contains("id_map") => Some(format!("cat {}", call.split(" > ").nth(1)?)),
        "newuidmap" => Some(format!("cat /proc/{child}/uid_map; cat /etc/subuid")),
        "newgidmap" => Some(format!("cat /proc/{child}/gid_map; cat /etc/subgid")),
        "setgroups" | "setresgid" | "setresuid" if *child != 0 => {
            Some(format!("grep -E 'Uid|Gid|Groups|CapEff' /proc/{child}/status"))
        }
        "open_tree" | "mount_setattr" => Some(format!("ls -l /proc/{caller}/fd")),
        "move_mount" if *child != 0 => Some(format!("grep idmapped /proc/{child}/mountinfo")),
        _ => None,
    }
}
