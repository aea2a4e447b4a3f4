//! A published UDP port, where no rule leads: what `proxy` is to connections. UDP has none: so each of those who send
//! gets a socket of its own towards the container, by which the answers are known. And an answer comes from where the
//! question went to, which may be any address of the host's (IP_PKTINFO, ip(7)): many programs take it from nowhere else.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::Result;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::in_pktinfo;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use shared::failure::During;

/// Those who send, at a time: as nobody says when they have ended, the first one makes room for one more.
const MOST: usize = 256;
/// Bytes of a datagram, at most.
const LARGEST: usize = 1 << 16;
/// What epoll(7) says of the host's own port; of the others, their numbers.
const DOOR: u64 = 0;

/// A port that a container has published.
pub struct Datagrams {
    epoll: Epoll,
    door: UdpSocket,
    container: SocketAddrV4,
    senders: RefCell<VecDeque<Sender>>,
}

struct Sender {
    from: SockaddrIn,
    /// The address of the host's that it sends to.
    to: Ipv4Addr,
    /// Towards the container.
    socket: UdpSocket,
}

impl Datagrams {
    /// Host: for a container that has this address.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub fn new(door: UdpSocket, container: SocketAddrV4) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1")?;
        door.set_nonblocking(true).during("a socket")?;
        setsockopt(&door, sockopt::Ipv4PacketInfo, &true).during("setsockopt(IP_PKTINFO)")?;
        epoll.add(&door, EpollEvent::new(EpollFlags::EPOLLIN, DOOR)).during("epoll_ctl")?;
        Ok(Datagrams { epoll, door, container, senders: RefCell::default() })
    }

    /// Readable when there is something to carry.
    pub fn watch(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Carries what is there now, one datagram a socket, and never waits. One that cannot be sent is lost, as UDP may.
    pub fn serve(&self) {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let mut datagram = vec![0; LARGEST];
        for event in &events[..count] {
            let _ = if event.data() == DOOR {
                self.carry_in(&mut datagram)
            } else {
                self.carry_out(event.data(), &mut datagram)
            };
        }
    }

    fn carry_in(&self, datagram: &mut [u8]) -> std::io::Result<()> {
        let (length, from, to) = self.receive(datagram)?;
        let mut senders = self.senders.borrow_mut();
        let is_it = |sender: &Sender| (sender.from, sender.to) == (from, to);
        if !senders.iter().any(is_it) {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(self.container)?;
            socket.set_nonblocking(true)?;
            let number = socket.local_addr()?.port().into();
            self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
            senders.push_back(Sender { from, to, socket });
        }
        if senders.len() > MOST {
            senders.pop_front(); // closed, epoll(7) forgets it
        }
        let sender = senders.iter().find(|sender| is_it(sender));
        sender.map_or(Ok(()), |sender| sender.socket.send(&datagram[..length]).map(drop))
    }

    /// A datagram's length, who has sent it, and to which address of the host's.
    fn receive(&self, datagram: &mut [u8]) -> nix::Result<(usize, SockaddrIn, Ipv4Addr)> {
        let (mut parts, mut space) = ([IoSliceMut::new(datagram)], cmsg_space!(in_pktinfo));
        let received = recvmsg::<SockaddrIn>(self.door.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let to = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))),
            _ => None,
        });
        Ok((received.bytes, received.address.ok_or(Errno::EIO)?, to.ok_or(Errno::EIO)?))
    }

    fn carry_out(&self, number: u64, datagram: &mut [u8]) -> std::io::Result<()> {
        let senders = self.senders.borrow();
        let is_it = |sender: &&Sender| sender.socket.local_addr().is_ok_and(|it| u64::from(it.port()) == number);
        let Some(Sender { from, to, socket }) = senders.iter().find(is_it) else { return Ok(()) };
        let length = socket.recv(datagram)?;
        // By whatever interface.
        let own = nix::libc::in_addr { s_addr: u32::from(*to).to_be() };
        let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: own };
        let (parts, own) = ([IoSlice::new(&datagram[..length])], [ControlMessage::Ipv4PacketInfo(&info)]);
        Ok(sendmsg(self.door.as_raw_fd(), &parts, &own, MsgFlags::empty(), Some(from)).map(drop)?)
    }
}
