//! What the kernel says: of the host's routes, and of the child's address.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::Result;
use nix::errno::Errno;
use nix::unistd::Pid;
use shared::explain;
use shared::formula::Fact;
use shared::kernel_file;

use crate::{BRIDGE, GATEWAY, INSIDE, Lease, PREFIX, PREFIX6, ipv6, netlink};

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

/// Eight hexadecimal digits a number, whose bytes are in the order of the network, but printed as a number of this
/// machine's.
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

/// Why there is no IPv6 on the bridge, where there is none. One that is not made yet will be as the setting for new
/// ones says.
///
/// # Errors
/// Where the setting cannot be read.
pub fn why_no_ipv6() -> Result<Option<String>> {
    let settings = Path::new("/proc/sys/net/ipv6/conf");
    let setting =
        [BRIDGE, "default"].map(|name| settings.join(name).join("disable_ipv6")).into_iter().find(|it| it.exists());
    let Some(setting) = setting else { return Ok(Some("this kernel has none".to_owned())) };
    if kernel_file::read(&setting)?.trim() != "0" {
        return Ok(Some(format!("{} is 1", setting.display())));
    }
    let routes = kernel_file::read("/proc/self/net/ipv6_route")?;
    let other = routes.lines().find_map(other_way_by_ipv6);
    Ok(other.map(|interface| format!("the host reaches {}/{PREFIX6} by its interface {interface}", ipv6(GATEWAY))))
}

/// The interface of such a line, if it leads to some of the bridge's addresses. All numbers are hexadecimal.
fn other_way_by_ipv6(line: &str) -> Option<&str> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (to, interface) = (u128::from_str_radix(words.first()?, 16).ok()?, *words.last()?);
    let bits = u8::from_str_radix(words.get(1)?, 16).ok()?.min(PREFIX6);
    let overlaps = bits > 0 && (to ^ ipv6(GATEWAY).to_bits()) >> (128 - bits) == 0;
    (overlaps && ![BRIDGE, "lo"].contains(&interface)).then_some(interface)
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

/// Host: that the child has its addresses, and its way out.
///
/// # Errors
/// ENOENT where the child is gone.
pub fn facts(child: Pid, lease: &Lease) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let mut has = Vec::new();
    for address in lease.addresses() {
        if has_address(child, address)? {
            has.push(address.to_string());
        }
    }
    let shown = if has.is_empty() { "without its address".to_owned() } else { has.join(" and ") };
    Ok(vec![
        Fact {
            what: INSIDE.to_owned(),
            host: lease.port(),
            holds: has.len() == lease.addresses().count(),
            brief: format!("{INSIDE} is {shown}"),
            child: shown,
        },
        way_out(child, Some(GATEWAY))?,
    ])
}

/// Whether a process's network namespace has an address. See proc_net(5).
fn has_address(process: Pid, address: IpAddr) -> Result<bool> {
    let (file, own) = match address {
        IpAddr::V4(address) => ("fib_trie", format!("|-- {address}")),
        // 32 hexadecimal digits, and then its interface's number and such.
        IpAddr::V6(address) => ("if_inet6", format!("{:032x}", address.to_bits())),
    };
    let all = kernel_file::read(format!("/proc/{process}/net/{file}"))?;
    Ok(all.lines().any(|line| line.trim() == own || line.split(' ').next() == Some(&own)))
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
