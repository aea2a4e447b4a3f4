//! Monitor: the host's end of a container's terminal, and all that are connected to it. What the program writes goes to
//! the log and to each command that is attached; what one of them sends is typed.
//!
//! The monitor has one thread, which never waits here. What cannot be written now is kept, and nothing more is read
//! until it is written: so a program waits for those who read it, as at any terminal. But not for ever: a command that
//! takes nothing for [`PATIENCE`] is cut off.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use engine::log::{Log, Stream};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::{read, write};
use shared::failure::During;

use crate::line::{self, Message};
use crate::{Pty, Window, set_size, sys};

/// How long a command may take nothing of what it is to show, before it is cut off.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that a command may be behind before the program has to wait for it.
const BEHIND: usize = 64 << 10;
/// Commands at a time.
const MOST: usize = 64;
/// Bytes at the end: processes that are none of the container's can have its terminal, and write without end.
const LAST_BYTES: usize = 2 << 20;
/// Before a command has said how large its window is.
const USUAL: Window = Window { rows: 24, columns: 80, width: 0, height: 0 };

/// As epoll(7) names them; commands have the numbers that follow.
const LISTENER: u64 = 0;
const MASTER: u64 = 1;

/// The host's end of a terminal.
pub struct Hub {
    epoll: Epoll,
    listener: OwnedFd,
    master: OwnedFd,
    /// Kept open here too, so that the terminal never ends: a program may close it and open it again. Until the end.
    peer: Cell<Option<OwnedFd>>,
    log: Log,
    /// On its way to the program.
    typed: RefCell<Vec<u8>>,
    clients: RefCell<BTreeMap<u64, Client>>,
    next: Cell<u64>,
}

/// A command that is attached.
struct Client {
    socket: OwnedFd,
    /// On its way there.
    shown: Vec<u8>,
    /// When it has taken something, or had nothing to take.
    took: Instant,
}

impl Hub {
    /// Monitor, and the child has made its terminal.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub fn new(listener: OwnedFd, Pty { master, peer }: Pty, log: Log) -> Result<Self> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).during("fcntl(F_SETFL)")?;
        set_size(master.as_fd(), USUAL);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1()")?;
        for (fd, number) in [(&listener, LISTENER), (&master, MASTER)] {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number)).during("epoll_ctl()")?;
        }
        Ok(Hub {
            epoll,
            listener,
            master,
            peer: Cell::new(Some(peer)),
            log,
            typed: RefCell::default(),
            clients: RefCell::default(),
            next: Cell::new(MASTER + 1),
        })
    }

    /// Readable when there is something to do.
    pub fn watch(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Does what can be done now, and never waits.
    pub fn serve(&self) {
        self.accept();
        self.hear();
        self.type_in();
        self.read();
        self.show(false);
        self.say_what_for();
    }

    /// Monitor, and the program gone: what it has left to be read, to those who read it. The kernel keeps it, and says EIO
    /// behind it.
    ///
    /// # Errors
    /// Where lines of the log are lost.
    pub fn end(&self) -> Result<()> {
        drop(self.peer.take());
        let mut bytes = 0;
        loop {
            self.hear(); // also, who is gone
            let count = self.read();
            bytes += count;
            self.show(true);
            let all_have_it = self.clients.borrow().values().all(|client| client.shown.is_empty());
            if (count == 0 && all_have_it) || bytes > LAST_BYTES {
                break;
            }
            if count == 0 {
                self.say_what_for();
                let _ = self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(50u8));
            }
        }
        self.clients.borrow_mut().clear();
        self.log.end();
        self.log.complaint().map_or(Ok(()), |complaint| bail!(complaint))
    }

    fn accept(&self) {
        while let Ok(socket) = sys::accept(self.listener.as_fd()) {
            let number = self.next.get();
            self.next.set(number + 1);
            let mut clients = self.clients.borrow_mut();
            // Dropped, it is closed.
            if clients.len() < MOST && self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number)).is_ok() {
                clients.insert(number, Client { socket, shown: Vec::new(), took: Instant::now() });
            }
        }
    }

    /// A message of each, as long as nothing waits to be typed.
    fn hear(&self) {
        let mut buffer = vec![0; line::MOST];
        self.clients.borrow_mut().retain(|_, client| {
            if !self.typed.borrow().is_empty() {
                return !client.is_gone();
            }
            match line::hear(client.socket.as_fd(), &mut buffer).map(|count| &buffer[..count]) {
                Ok([]) => return false,
                Ok(bytes) => match Message::from_bytes(bytes) {
                    Some(Message::Keys(keys)) => self.typed.borrow_mut().extend(keys),
                    // The last one counts: a terminal has one size.
                    Some(Message::Size(window)) => set_size(self.master.as_fd(), window),
                    None => return false,
                },
                Err(errno) => return errno == Errno::EAGAIN,
            }
            true
        });
    }

    fn type_in(&self) {
        let mut typed = self.typed.borrow_mut();
        match write(&self.master, &typed) {
            Ok(count) => drop(typed.drain(..count)),
            Err(Errno::EAGAIN) => {}
            Err(_) => typed.clear(), // nobody will ever read it
        }
    }

    /// One load at most, as the monitor has other things to look at, too. How much that was.
    fn read(&self) -> usize {
        let mut clients = self.clients.borrow_mut();
        if clients.values().any(Client::is_behind) {
            return 0;
        }
        let mut buffer = vec![0; line::MOST];
        let Ok(count) = read(&self.master, &mut buffer) else { return 0 };
        self.log.add(Stream::Stdout, &buffer[..count]);
        clients.values_mut().for_each(|client| client.shown.extend(&buffer[..count]));
        count
    }

    fn show(&self, is_end: bool) {
        self.clients.borrow_mut().retain(|_, client| {
            while !client.shown.is_empty() {
                let load = &client.shown[..client.shown.len().min(line::MOST)];
                match line::say(client.socket.as_fd(), load) {
                    Ok(count) => {
                        client.shown.drain(..count);
                        client.took = Instant::now();
                    }
                    // One that keeps nobody waiting may take its time: it is stopped, by Ctrl-Z say. At the end it does.
                    Err(Errno::EAGAIN) => return !(is_end || client.is_behind()) || client.took.elapsed() < PATIENCE,
                    Err(_) => return false,
                }
            }
            client.took = Instant::now();
            true
        });
    }

    /// Tells the kernel what there is to wait for.
    fn say_what_for(&self) {
        let clients = self.clients.borrow();
        let has_typed = !self.typed.borrow().is_empty();
        let modify = |fd: &OwnedFd, number, reads, writes| {
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, reads);
            flags.set(EpollFlags::EPOLLOUT, writes);
            let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, number));
        };
        modify(&self.master, MASTER, !clients.values().any(Client::is_behind), has_typed);
        for (number, client) in clients.iter() {
            modify(&client.socket, *number, !has_typed, !client.shown.is_empty());
        }
    }
}

impl Client {
    fn is_behind(&self) -> bool {
        self.shown.len() >= BEHIND
    }

    /// Whether its end is closed: also while nothing is read from it, as the kernel reports that again and again.
    fn is_gone(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}
