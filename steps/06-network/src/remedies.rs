//! What is known of this step's calls: what to do where they fail, what to look at while they are held.

use nix::errno::Errno::*;
use shared::remedy::{Known, PausedCall, Remedy};

/// Of interfaces, addresses and routes.
pub const KNOWN: Known = Known {
    calls: &["RTM_NEWLINK", "RTM_NEWADDR", "RTM_NEWROUTE", "RTM_DELLINK", "bind", "nft"],
    remedies: REMEDIES,
    hint,
};

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], users::known()].concat()
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        call: "RTM_NEWLINK",
        errno: &[EOPNOTSUPP],
        applies: |_| true,
        say: "this kernel has no such interfaces: `sudo modprobe bridge veth`, or --network none",
    },
    Remedy {
        call: "bind(",
        errno: &[EADDRINUSE],
        applies: |_| true,
        say: "another program listens there (`sudo ss -lntup` says which): end it, or publish another port",
    },
    Remedy {
        call: "bind(",
        errno: &[EADDRNOTAVAIL],
        applies: |_| true,
        say: "no interface of this host has that address: leave it out, or name one that `ip address` lists",
    },
    Remedy {
        call: "bind(",
        errno: &[EACCES],
        applies: |_| true,
        say: "a port below 1024 takes CAP_NET_BIND_SERVICE: publish a higher one",
    },
    Remedy {
        call: "RTM_",
        errno: &[EPERM],
        applies: |_| true,
        say: "that takes CAP_NET_ADMIN over the host's network: use sudo, or --network none",
    },
    Remedy {
        call: "echo 1 > /proc/sys/net/ipv4/ip_forward",
        errno: &[EROFS, EACCES],
        applies: |_| true,
        say: "who has made this container must set it (`docker run --sysctl net.ipv4.ip_forward=1`), or --network none",
    },
];

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, child, .. } = paused;
    match *name {
        "RTM_NEWLINK" if call.contains("veth") => {
            Some(format!("ip link; sudo nsenter --net=/proc/{child}/ns/net ip link"))
        }
        "RTM_NEWLINK" | "RTM_NEWADDR" | "RTM_NEWROUTE" if *child != 0 => {
            Some(format!("sudo nsenter --net=/proc/{child}/ns/net sh -c 'ip address; ip route'"))
        }
        "bind" => Some("ss -ltn".to_owned()),
        "nft" => Some("sudo nft list table ip step06".to_owned()),
        "RTM_NEWLINK" | "RTM_NEWADDR" | "RTM_DELLINK" => Some("ip -brief address".to_owned()),
        _ => None,
    }
}
