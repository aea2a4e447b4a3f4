//! Published ports, where no rule leads: the host's own loopback, and other containers. The monitor accepts such a
//! connection, opens one to the container, and carries what comes on one over to the other.
//!
//! A rule could lead from loopback, too, after `sysctl net.ipv4.conf.step06.route_localnet=1`: but then a container
//! reaches what listens on the host's 127.0.0.1, as it can route 127/8 to the bridge.
//!
//! The monitor has one thread, which never waits here: whether something can be read or written says epoll(7).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use shared::failure::During;
use shared::{call, explain};

use crate::datagrams::Datagrams;
use crate::options::{Protocol, Publish};

/// Connections at a time: each takes two descriptors, of which a process has 1024.
const MOST: usize = 256;
/// Bytes that are carried at a time.
const LOAD: usize = 1 << 16;

/// The ports that a container has published, each held from before the container is there to its end.
pub struct Proxy {
    epoll: Epoll,
    doors: Vec<(TcpListener, u16)>,
    datagrams: Vec<Datagrams>,
    container: Ipv4Addr,
    pairs: RefCell<BTreeMap<u64, Pair>>,
    next: Cell<u64>,
}

/// A port of the host's that nobody else can have any more.
pub enum OpenPort {
    /// For connections.
    Tcp(TcpListener),
    /// For datagrams.
    Udp(UdpSocket),
}

/// A connection from outside, and the one to the container.
struct Pair {
    ends: [TcpStream; 2],
    /// From each end to the other one.
    ways: [Way; 2],
}

#[derive(Default)]
struct Way {
    /// Read, and not written yet.
    load: Vec<u8>,
    /// Nothing more will be read.
    is_over: bool,
    /// And the other end knows.
    is_shut: bool,
}

/// Host, and no child yet: takes the ports, so that one that somebody has is found before anything else is made.
///
/// # Errors
/// EADDRINUSE; EACCES below 1024 without CAP_NET_BIND_SERVICE.
pub fn listen(publish: &[Publish]) -> Result<Vec<OpenPort>> {
    let listen = |port: &Publish| {
        let mut door = None;
        let Publish { host, protocol, .. } = port;
        let of = if *protocol == Protocol::Udp { "udp, " } else { "" };
        explain::host(call!("bind({of}{host})")).run(|| -> std::io::Result<()> {
            door = Some(match protocol {
                Protocol::Tcp => OpenPort::Tcp(TcpListener::bind(host)?),
                Protocol::Udp => OpenPort::Udp(UdpSocket::bind(host)?),
            });
            Ok(())
        })?;
        Ok(door)
    };
    Ok(publish.iter().map(listen).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

impl Proxy {
    /// Host: for a container that has this address.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub fn new(taken: Vec<OpenPort>, publish: &[Publish], container: Ipv4Addr) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1")?;
        let (mut doors, mut datagrams) = (Vec::new(), Vec::new());
        for (door, port) in taken.into_iter().zip(publish) {
            match door {
                OpenPort::Udp(socket) => {
                    let to = SocketAddrV4::new(container, port.container);
                    datagrams.push(Datagrams::new(socket, to)?);
                }
                OpenPort::Tcp(listener) => {
                    listener.set_nonblocking(true).during("a listening socket")?;
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, doors.len() as u64);
                    epoll.add(&listener, event).during("epoll_ctl")?;
                    doors.push((listener, port.container));
                }
            }
        }
        let next = Cell::new(doors.len() as u64);
        Ok(Proxy { epoll, doors, datagrams, container, pairs: RefCell::default(), next })
    }

    /// Readable when there is something to carry.
    pub fn watch(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.datagrams.iter().map(Datagrams::watch).chain([self.epoll.0.as_fd()])
    }

    /// Does what can be done now, and never waits. A connection that fails is closed: both its ends see that.
    pub fn serve(&self) {
        self.datagrams.iter().for_each(Datagrams::serve);
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..count] {
            match self.doors.get(event.data() as usize) {
                Some((door, port)) => self.accept(door, *port),
                // Both ends of a pair have its number, less the last bit.
                None => self.carry(event.data() / 2),
            }
        }
    }

    fn accept(&self, door: &TcpListener, port: u16) {
        let Ok((from, _)) = door.accept() else { return };
        let Ok(to) = open(SocketAddrV4::new(self.container, port)) else { return };
        let mut pairs = self.pairs.borrow_mut();
        if pairs.len() >= MOST || from.set_nonblocking(true).is_err() {
            return; // dropped, they are closed
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let pair = Pair { ends: [from, to], ways: Default::default() };
        let add =
            |end: usize| self.epoll.add(&pair.ends[end], EpollEvent::new(pair.wants(end), 2 * number + end as u64));
        if add(0).and_then(|()| add(1)).is_ok() {
            pairs.insert(number, pair);
        }
    }

    fn carry(&self, number: u64) {
        let mut pairs = self.pairs.borrow_mut();
        let Some(pair) = pairs.get_mut(&number) else { return };
        let carried = pair.carry(0).and_then(|()| pair.carry(1));
        let is_over = pair.ways.iter().all(|way| way.is_shut);
        let change = |end: usize| {
            // The kernel reports the end of a connection again and again, whatever is asked for.
            if pair.ways[end].is_over && pair.ways[1 - end].is_shut {
                let _ = self.epoll.delete(&pair.ends[end]);
                return Ok(());
            }
            let mut event = EpollEvent::new(pair.wants(end), 2 * number + end as u64);
            self.epoll.modify(&pair.ends[end], &mut event)
        };
        if carried.is_err() || is_over || change(0).and_then(|()| change(1)).is_err() {
            pairs.remove(&number);
        }
    }
}

impl Pair {
    /// One load at most, so that a connection does not keep the others waiting.
    fn carry(&mut self, from: usize) -> std::io::Result<()> {
        let way = &mut self.ways[from];
        if way.load.is_empty() && !way.is_over {
            let mut load = vec![0; LOAD];
            match self.ends[from].read(&mut load) {
                Ok(0) => way.is_over = true,
                Ok(count) => way.load.extend(&load[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let mut to = &self.ends[1 - from];
        if !way.load.is_empty() {
            match to.write(&way.load) {
                Ok(count) => drop(way.load.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        // The other way may still have something: a connection can be half closed.
        if way.is_over && way.load.is_empty() && !way.is_shut {
            to.shutdown(Shutdown::Write)?;
            way.is_shut = true;
        }
        Ok(())
    }

    /// Until what was read has been written nothing more is read: a slow reader slows the writer down, and costs no memory.
    fn wants(&self, end: usize) -> EpollFlags {
        let (out, into) = (&self.ways[end], &self.ways[1 - end]);
        let mut wants = EpollFlags::empty();
        wants.set(EpollFlags::EPOLLIN, out.load.is_empty() && !out.is_over);
        wants.set(EpollFlags::EPOLLOUT, !into.load.is_empty() || (into.is_over && !into.is_shut));
        wants
    }
}

/// Begins a connection; whether it is there yet, writing will tell. connect(2), EINPROGRESS.
fn open(to: SocketAddrV4) -> nix::Result<TcpStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrIn::from(to)) {
        Err(Errno::EINPROGRESS) | Ok(()) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno),
    }
}
