//! What the kernel says: of the host's routes, and of the child's address.

use std::net::Ipv4Addr;

use anyhow::Result;
use nix::errno::Errno;
use nix::unistd::Pid;
use shared::explain;
use shared::formula::Fact;
use shared::kernel_file;

use crate::{GATEWAY, INSIDE, Lease, PREFIX, netlink};

/// An Ethernet's, where there is no way out.
const USUAL_MTU: u32 = 1500;

/// A line of `/proc/net/route`.
struct Route {
    interface: String,
    to: u32,
    mask: u32,
    gateway: Ipv4Addr,
}

/// The routes of a process's network namespace.
fn routes(process: &str) -> Result<Vec<Route>> {
    Ok(parse(&kernel_file::read(format!("/proc/{process}/net/route"))?))
}

/// Eight hexadecimal digits a number, whose bytes are in the order of the network, but printed as a number of this machine's.
fn parse(text: &str) -> Vec<Route> {
    let route = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let number =
            |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(|it| u32::from_be_bytes(it.to_ne_bytes()));
        let interface = (*words.first()?).to_owned();
        Some(Route { interface, to: number(1)?, gateway: number(2)?.into(), mask: number(7)? })
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// The interface by which the host reaches some of the bridge's addresses already. The default route does not count: all
/// others count more.
pub fn other_way() -> Result<Option<String>> {
    let (net, mask) = (u32::from(GATEWAY), u32::MAX << (32 - PREFIX));
    let overlaps = |route: &Route| route.mask != 0 && (route.to ^ net) & route.mask & mask == 0;
    Ok(routes("self")?.into_iter().find(overlaps).map(|route| route.interface))
}

/// Whether there is a route by this interface.
pub fn has_route(interface: &str) -> Result<bool> {
    Ok(routes("self")?.iter().any(|route| route.interface == interface))
}

/// The largest packet that leaves this host whole, in bytes. A cable that takes larger ones leads where they are lost.
pub fn mtu_of_uplink() -> u32 {
    let routes = routes("self").unwrap_or_default();
    let uplink = routes.iter().find(|route| route.mask == 0).map(|route| &route.interface);
    let link = uplink.and_then(|name| netlink::link(name).ok()?);
    link.map_or(USUAL_MTU, |link| link.mtu)
}

/// Whether this process may change the network that it is in. The kernel looks at that first, and only then at what is to
/// be removed, here an interface that nobody can have: EPERM or ENODEV.
pub fn may_administer() -> bool {
    netlink::delete_link("") != Err(Errno::EPERM)
}

/// Host: that the child has its address, and its way out.
///
/// # Errors
/// ENOENT where the child is gone.
pub fn facts(child: Pid, lease: &Lease) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let all = kernel_file::read(format!("/proc/{child}/net/fib_trie"))?;
    let own = format!("|-- {}", lease.address);
    let has_address = all.lines().any(|line| line.trim() == own);
    Ok(vec![
        Fact {
            what: INSIDE.to_owned(),
            host: lease.port(),
            child: if has_address { lease.address.to_string() } else { "without its address".to_owned() },
            holds: has_address,
            brief: format!("{INSIDE} is {}", lease.address),
        },
        way_out(child, Some(GATEWAY))?,
    ])
}

/// Host: the child's way out, and that it is by this gateway, if there is but one.
///
/// # Errors
/// ENOENT where the child is gone.
pub fn way_out(child: Pid, wanted: Option<Ipv4Addr>) -> Result<Fact> {
    let routes = routes(&child.to_string())?;
    let gateway = routes.iter().find(|route| route.mask == 0 && route.interface == INSIDE).map(|route| route.gateway);
    let shown = gateway.map_or("none".to_owned(), |gateway| gateway.to_string());
    Ok(Fact {
        what: "default route".to_owned(),
        host: String::new(),
        holds: gateway.is_some() && wanted.is_none_or(|wanted| gateway == Some(wanted)),
        brief: format!("default route via {shown}"),
        child: shown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_in_the_order_of_the_network() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0100060A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0000060A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let routes = parse(text);
        assert_eq!((routes[0].mask, routes[0].gateway), (0, Ipv4Addr::new(10, 6, 0, 1)));
        assert_eq!(
            (Ipv4Addr::from(routes[1].to), Ipv4Addr::from(routes[1].mask)),
            ([10, 6, 0, 0].into(), [255, 255, 255, 0].into())
        );
    }
}
