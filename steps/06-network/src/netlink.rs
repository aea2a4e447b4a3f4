//! How a process speaks with the kernel of interfaces, addresses and routes. See netlink(7), rtnetlink(7).
//!
//! A request is one message: a header, a fixed part, and attributes, each a length, a kind and a value, filled up to four
//! bytes. The answer is a message, too: what was asked for, or just a number, 0 or an errno. `ip` sends the same ones:
//! `strace -e sendmsg ip link add …` prints them.

use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::unistd::Pid;
use std::os::fd::AsRawFd;

/// linux/veth.h; libc does not have it.
const VETH_INFO_PEER: u16 = 1;
/// Bytes of a message's header: length, kind, flags, sequence number, sender.
const HEADER: usize = 16;
/// Bytes of an ifinfomsg.
const LINK: usize = 16;
/// Longer than any answer about one interface.
const ANSWER: usize = 1 << 16;

/// What the kernel says of an interface.
pub struct Link {
    /// Its number, by which everything else names it.
    pub index: u32,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Its Ethernet address.
    pub ethernet: Vec<u8>,
    /// A note that somebody has left on it: `ip link set … alias`.
    pub alias: Option<String>,
}

/// An interface of this network namespace; `None` where it has none of this name.
///
/// # Errors
/// Those of socket(2).
pub fn link(name: &str) -> nix::Result<Option<Link>> {
    let asked = Request::new(libc::RTM_GETLINK, 0, &ifinfomsg(0, 0)).text(libc::IFLA_IFNAME, name).ask();
    let answer = match asked {
        Err(Errno::ENODEV) => return Ok(None),
        answer => answer?,
    };
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |four| u32::from_ne_bytes(*four));
    let mut link =
        Link { index: word(answer.get(HEADER + 4..).unwrap_or_default()), mtu: 0, ethernet: Vec::new(), alias: None };
    for (kind, value) in attributes(answer.get(HEADER + LINK..).unwrap_or_default()) {
        match kind {
            libc::IFLA_MTU => link.mtu = word(value),
            libc::IFLA_ADDRESS => link.ethernet = value.to_owned(),
            libc::IFLA_IFALIAS => link.alias = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()),
            _ => {}
        }
    }
    Ok(Some(link))
}

/// Makes a bridge, and sets it up. With an address of its own: else it has that of one of its ports, and another one as
/// these come and go, and neighbours would send to the old one for a while.
///
/// # Errors
/// EEXIST, EPERM; EOPNOTSUPP where the kernel has no bridges.
pub fn add_bridge(name: &str, ethernet: [u8; 6]) -> nix::Result<()> {
    Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &ifinfomsg(0, libc::IFF_UP))
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_ADDRESS, &ethernet)
        .nest(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, "bridge"))
        .ask()
        .map(drop)
}

/// Leaves a note on an interface. The kernel takes none when it is made.
///
/// # Errors
/// ENODEV, EPERM.
pub fn set_alias(name: &str, alias: &str) -> nix::Result<()> {
    let message = Request::new(libc::RTM_NEWLINK, 0, &ifinfomsg(0, 0)).text(libc::IFLA_IFNAME, name);
    message.attribute(libc::IFLA_IFALIAS, alias.as_bytes()).ask().map(drop)
}

/// The end of a pair of interfaces that is born in the network namespace of a process.
pub struct Peer<'a> {
    /// What it is called there.
    pub name: &'a str,
    /// Its Ethernet address.
    pub ethernet: [u8; 6],
    /// The process.
    pub netns: Pid,
}

/// Makes a pair of interfaces: what goes into one comes out of the other. One is a port of the bridge `master`; the
/// other is born elsewhere.
///
/// # Errors
/// EEXIST, EPERM; ESRCH where there is no such process.
pub fn add_veth(name: &str, master: u32, mtu: u32, peer: Peer) -> nix::Result<()> {
    // An MTU each: a peer without has 1500, and what is larger than the other's is lost.
    let mtu = mtu.to_ne_bytes();
    Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &ifinfomsg(0, libc::IFF_UP))
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_MTU, &mtu)
        .attribute(libc::IFLA_MASTER, &master.to_ne_bytes())
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |inside| {
                    inside
                        .fixed(&ifinfomsg(0, 0))
                        .text(libc::IFLA_IFNAME, peer.name)
                        .attribute(libc::IFLA_ADDRESS, &peer.ethernet)
                        .attribute(libc::IFLA_MTU, &mtu)
                        .attribute(libc::IFLA_NET_NS_PID, &peer.netns.as_raw().to_ne_bytes())
                })
            })
        })
        .ask()
        .map(drop)
}

/// Removes an interface, and its peer with it.
///
/// # Errors
/// ENODEV, EPERM.
pub fn delete_link(name: &str) -> nix::Result<()> {
    Request::new(libc::RTM_DELLINK, 0, &ifinfomsg(0, 0)).text(libc::IFLA_IFNAME, name).ask().map(drop)
}

/// Sets an interface up.
///
/// # Errors
/// ENODEV, EPERM.
pub fn set_up(name: &str) -> nix::Result<()> {
    Request::new(libc::RTM_NEWLINK, 0, &ifinfomsg(0, libc::IFF_UP)).text(libc::IFLA_IFNAME, name).ask().map(drop)
}

/// Gives an interface an address, and with it the route to all others whose first `prefix` bits are the same.
///
/// # Errors
/// EEXIST where it has that address; EPERM, ENODEV; EACCES where the interface may have none of IPv6.
pub fn add_address(name: &str, address: impl Into<IpAddr>, prefix: u8) -> nix::Result<()> {
    let index = link(name)?.ok_or(Errno::ENODEV)?.index;
    let (family, flags, octets) = match address.into() {
        IpAddr::V4(address) => (libc::AF_INET, 0, address.octets().to_vec()),
        // Without `nodad` nobody could use it for a second, in which the kernel asks all others whether it is theirs.
        IpAddr::V6(address) => (libc::AF_INET6, libc::IFA_F_NODAD as u8, address.octets().to_vec()),
    };
    // An ifaddrmsg: family, bits of the prefix, flags, scope, interface.
    let fixed = [&[family as u8, prefix, flags, libc::RT_SCOPE_UNIVERSE], &index.to_ne_bytes()[..]].concat();
    Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &fixed)
        .attribute(libc::IFA_LOCAL, &octets)
        .attribute(libc::IFA_ADDRESS, &octets)
        .ask()
        .map(drop)
}

/// Where everything goes that no other route is for.
///
/// # Errors
/// ENETUNREACH where no interface that is up has a route to the gateway; EPERM.
pub fn add_default_route(gateway: Ipv4Addr) -> nix::Result<()> {
    let (main, boot) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
    // An rtmsg: family, bits of destination and source, service, table, who makes it, scope, kind; and flags.
    let fixed = [libc::AF_INET as u8, 0, 0, 0, main, boot, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST, 0, 0, 0, 0];
    Request::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &fixed)
        .attribute(libc::RTA_GATEWAY, &gateway.octets())
        .ask()
        .map(drop)
}

/// An ifinfomsg: family, kind of hardware, number, flags, and which of the flags are to change.
fn ifinfomsg(index: u32, flags: i32) -> Vec<u8> {
    let flags = flags.to_ne_bytes();
    [&[0; 4], &index.to_ne_bytes()[..], &flags, &flags].concat()
}

/// A message in the making.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let is_get = kind == libc::RTM_GETLINK;
        let flags = flags | libc::NLM_F_REQUEST | if is_get { 0 } else { libc::NLM_F_ACK };
        // The length is written when it is known; there is one request a socket, so sequence number and sender stay 0.
        let header = [&[0; 4], &kind.to_ne_bytes()[..], &(flags as u16).to_ne_bytes(), &[0; 8]].concat();
        Request(header).fixed(fixed)
    }

    fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.filled_up()
    }

    /// To a multiple of four bytes.
    fn filled_up(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16; // without what fills it up
        self.0.extend([&length.to_ne_bytes(), &kind.to_ne_bytes()[..]].concat());
        self.fixed(value)
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// An attribute whose value are attributes.
    fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let at = self.0.len();
        self.0.extend([&[0; 2], &kind.to_ne_bytes()[..]].concat());
        let mut all = inside(self);
        let length = (all.0.len() - at) as u16;
        all.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        all
    }

    /// Sends it to the kernel, which has answered when send(2) returns.
    fn ask(mut self) -> nix::Result<Vec<u8>> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        send(kernel.as_raw_fd(), &self.0, MsgFlags::empty())?;
        let mut answer = vec![0; ANSWER];
        let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        let kind = answer.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes).ok_or(Errno::EIO)?;
        if i32::from(kind) != libc::NLMSG_ERROR {
            return Ok(answer);
        }
        let errno = answer.get(HEADER..HEADER + 4).and_then(|four| four.try_into().ok()).map(i32::from_ne_bytes);
        match errno.ok_or(Errno::EIO)? {
            0 => Ok(answer),
            errno => Err(Errno::from_raw(-errno)),
        }
    }
}

/// Kind and value of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_has_its_own_length_and_is_filled_up_to_four_bytes() {
        let message = Request(Vec::new()).text(3, "eth0").nest(18, |info| info.text(1, "veth"));
        let text =
            |kind: u16, text: &str| [&9u16.to_ne_bytes(), &kind.to_ne_bytes()[..], text.as_bytes(), &[0; 4]].concat();
        let nest = [&16u16.to_ne_bytes(), &18u16.to_ne_bytes()[..], &text(1, "veth")].concat();
        assert_eq!(message.0, [text(3, "eth0"), nest.clone()].concat());
        let read: Vec<_> = attributes(&message.0).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (18, &nest[4..])]);
    }

    #[test]
    fn what_the_kernel_says_of_loopback_is_read() {
        let lo = link("lo").expect("netlink").expect("lo");
        assert!(lo.index >= 1 && lo.mtu > 0);
        assert!(link("no-such-link").expect("netlink").is_none());
    }
}
