//! A published UDP port, where no rule leads: what `proxy` is to connections. UDP has none: so each of those who send gets a
//! socket of its own towards the container, by which the answers are known.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
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
    senders: RefCell<VecDeque<(SocketAddr, UdpSocket)>>,
}

impl Datagrams {
    /// Host: for a container that has this address.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub fn new(door: UdpSocket, container: SocketAddrV4) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1")?;
        door.set_nonblocking(true).during("a socket")?;
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
        let (length, from) = self.door.recv_from(datagram)?;
        let mut senders = self.senders.borrow_mut();
        if !senders.iter().any(|(sender, _)| *sender == from) {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(self.container)?;
            socket.set_nonblocking(true)?;
            let number = socket.local_addr()?.port().into();
            self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
            senders.push_back((from, socket));
        }
        if senders.len() > MOST {
            senders.pop_front(); // closed, epoll(7) forgets it
        }
        let socket = senders.iter().find(|(sender, _)| *sender == from);
        socket.map_or(Ok(()), |(_, socket)| socket.send(&datagram[..length]).map(drop))
    }

    fn carry_out(&self, number: u64, datagram: &mut [u8]) -> std::io::Result<()> {
        let senders = self.senders.borrow();
        let is_it = |socket: &UdpSocket| socket.local_addr().is_ok_and(|it| u64::from(it.port()) == number);
        let Some((sender, socket)) = senders.iter().find(|(_, socket)| is_it(socket)) else { return Ok(()) };
        let length = socket.recv(datagram)?;
        self.door.send_to(&datagram[..length], sender).map(drop)
    }
}
