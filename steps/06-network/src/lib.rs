//! Step 06: whom can the child reach? See network_namespaces(7), veth(4), rtnetlink(7).
//!
//! Until here the child had a network namespace with nothing but loopback in it: nobody reaches it, and it reaches nobody.
//! Now the host has a switch, the bridge, and each container a cable to it, a pair of interfaces. The functions are in the
//! order in which they run: the host makes the bridge ([`make_bridge`]) and passes packets on ([`forward`]); the child
//! held, it makes the cable, one end of which is born inside ([`plug_in`]); the child gives that end its addresses and a
//! route ([`configure`]); and at the end the host pulls it out ([`unplug`]), the last one with the bridge
//! ([`remove_bridge`]).
//!
//! Beside it: the messages themselves (`netlink`), who has which address (`lease`), the rules of what passes through
//! the host (`rules`), published ports where no rule leads (`proxy`, `datagrams`), the network of an ordinary user
//! (`pasta`), that of another container (`join`), where programs look up names (`names`), what the kernel confirms
//! (`readback`), and all that as a part of a container (`parts`).
//!
//! Left open:
//! - Root inside can give its interface another address: it has every right over its own network namespace until
//!   step 09. As its neighbour it is not heard (`rules`), except where the kernel has no such rules.
//! - What listens on all addresses of the host listens on the bridge's, too, and a container reaches it there.
//! - IPv6 leads to the host and to neighbours, and no further: a host that passes it on takes no routes from routers
//!   any more.

#![deny(unsafe_code)]

pub mod datagrams;
pub mod join;
pub mod lease;
pub mod names;
pub mod netlink;
mod options;
pub mod parts;
pub mod pasta;
pub mod proxy;
mod readback;
mod remedies;
pub mod rules;
mod sys;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Result, bail};
use netlink::{Link, Peer};
use nix::errno::Errno;
use nix::unistd::Pid;
use shared::failure::During;
use shared::{call, explain, kernel_file};

pub use lease::Lease;
pub use options::{Command, Mode, Networking, Protocol, Publish};
pub use readback::why_no_ipv6;
pub use remedies::known;

/// The switch that all containers of this step are on.
pub const BRIDGE: &str = "step06";
/// The addresses on it: those that begin with the same 24 bits as the host's own there.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 1);
/// How many bits that are.
pub const PREFIX: u8 = 24;
/// The same by IPv6. Addresses that begin with `fd` are for networks that nobody else has to reach (RFC 4193).
pub const PREFIX6: u8 = 64;
/// The network's name for rules and routes.
pub const SUBNET: &str = "10.6.0.0/24";
/// What the child's end is called inside.
pub const INSIDE: &str = "eth0";

/// The Ethernet address that goes with one on the bridge. Its second bit says that it was chosen by hand, and not by
/// who has built a card.
pub fn ethernet(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x06, a, b, c, d]
}

/// The IPv6 address that goes with one on the bridge: who has leased the one has the other.
pub fn ipv6(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets().map(u16::from);
    Ipv6Addr::new(0xfd06, 0, 0, 0, a, b, c, d)
}

/// An address on the bridge, and where this machine has such, the one that goes with it.
pub fn addresses(ipv4: Ipv4Addr, has_ipv6: bool) -> impl Iterator<Item = IpAddr> {
    [IpAddr::V4(ipv4)].into_iter().chain(has_ipv6.then(|| ipv6(ipv4).into()))
}

/// How many bits are those of the network.
pub fn prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { PREFIX } else { PREFIX6 }
}

/// Host, and no child yet: a switch, which is an interface of the host's, too, with addresses there: the containers' way
/// out. `owner` says whose it is, in a note on it.
///
/// # Errors
/// Where an interface of this name is somebody else's, or the host has another way to these addresses.
pub fn make_bridge(owner: &Path, has_ipv6: bool) -> Result<()> {
    match netlink::link(BRIDGE).during("cannot look for the bridge")? {
        Some(link) if is_ours(&link, owner) => {}
        Some(Link { alias: Some(other), .. }) => bail!("the bridge {BRIDGE} is that of the containers in {other}"),
        Some(_) => bail!("there is an interface {BRIDGE} already, and it is not this step's"),
        None => {
            if let Some(interface) = readback::other_way()? {
                bail!(
                    "the host reaches {SUBNET} by its interface {interface}: containers would take these addresses away"
                );
            }
            let owner = owner.display().to_string();
            explain::host(call!("RTM_NEWLINK({BRIDGE:?}, kind bridge, up)")).run(|| {
                netlink::add_bridge(BRIDGE, ethernet(GATEWAY)).and_then(|()| netlink::set_alias(BRIDGE, &owner))
            })?;
        }
    }
    for address in addresses(GATEWAY, has_ipv6) {
        let prefix = prefix(address);
        explain::host(call!("RTM_NEWADDR({BRIDGE:?}, {address}/{prefix})")).run(|| {
            match netlink::add_address(BRIDGE, address, prefix) {
                Err(Errno::EEXIST) => Ok(()), // another container's engine has
                added => added,
            }
        })?;
    }
    Ok(())
}

/// Whether a bridge is that of the containers in a store. Without a note its engine was killed before it has left one.
fn is_ours(bridge: &Link, owner: &Path) -> bool {
    let note = bridge.alias.as_deref();
    note.map_or(bridge.ethernet == ethernet(GATEWAY), |note| Path::new(note) == owner)
}

/// Host: whether there is the bridge of the containers in a store.
///
/// # Errors
/// Those of socket(2).
pub fn has_bridge(owner: &Path) -> Result<bool> {
    let bridge = netlink::link(BRIDGE).during("cannot look for the bridge")?;
    Ok(bridge.is_some_and(|bridge| is_ours(&bridge, owner)))
}

/// Host: has the kernel pass packets on from one interface to another, as a router does. It stays so, as with Docker:
/// another program may rely on it by the time this container ends.
///
/// # Errors
/// EROFS where /proc/sys is mounted read-only.
pub fn forward() -> Result<()> {
    let setting = Path::new("/proc/sys/net/ipv4/ip_forward");
    if kernel_file::read(setting).is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    explain::host_echo(1, setting).run()?;
    explain::notice("from here on this machine passes packets on, and that stays so: net.ipv4.ip_forward");
    Ok(())
}

/// Host, and the child held: a pair of interfaces. One end is a port of the bridge; the other one is born in the child's
/// network namespace. Moved there later, it would have lost its addresses, and been set down.
///
/// # Errors
/// EEXIST where the kernel has not removed one of this name yet; EPERM.
pub fn plug_in(lease: &Lease, child: Pid) -> Result<()> {
    let port = lease.port();
    let text =
        format!("RTM_NEWLINK({port:?}, kind veth, master {BRIDGE:?}, up, peer {{{INSIDE:?}, netns of {child}}})");
    explain::host(call!("{text}")).run(|| {
        let bridge = netlink::link(BRIDGE)?.ok_or(Errno::ENODEV)?;
        let peer = Peer { name: INSIDE, ethernet: ethernet(lease.address), netns: child };
        netlink::add_veth(&port, bridge.index, readback::mtu_of_uplink(), peer)
    })
}

/// Child: its end's addresses, and the way to everybody else. In this order: a gateway counts only where an interface
/// that is up has a route to it.
///
/// # Errors
/// EPERM where the child's user namespace does not own its network namespace.
pub fn configure(lease: &Lease) -> Result<()> {
    for address in lease.addresses() {
        let prefix = prefix(address);
        explain::child(call!("RTM_NEWADDR({INSIDE:?}, {address}/{prefix})"))
            .run(|| netlink::add_address(INSIDE, address, prefix))?;
    }
    explain::child(call!("RTM_NEWLINK({INSIDE:?}, up)")).run(|| netlink::set_up(INSIDE))?;
    explain::child(call!("RTM_NEWROUTE(default via {GATEWAY})")).run(|| netlink::add_default_route(GATEWAY))
}

/// Host, and the child gone: removes the host's end. The kernel would do so itself, with the child's network namespace, but
/// a moment later, and by then the name may be wanted again.
///
/// # Errors
/// EPERM.
pub fn unplug(lease: &Lease) -> Result<()> {
    remove(&lease.port())
}

/// Host, and no container on it any more. That of somebody else, which has kept a container from being made, stays.
///
/// # Errors
/// EPERM.
pub fn remove_bridge(owner: &Path) -> Result<()> {
    if explain::dry_run() || has_bridge(owner)? { remove(BRIDGE) } else { Ok(()) }
}

fn remove(link: &str) -> Result<()> {
    explain::host(call!("RTM_DELLINK({link:?})")).cleanup().run(|| match netlink::delete_link(link) {
        Err(Errno::ENODEV) => Ok(()),
        removed => removed,
    })
}
