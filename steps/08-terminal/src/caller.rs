//! The caller's side: its keys on their way to a container's terminal, and what that writes on its way to the caller's. The
//! other end is the terminal itself (`exec`), or the monitor that has it (all others).

use std::cell::RefCell;
use std::fs::File;
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use engine::attach::Left;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{read, write};
use shared::failure::During;

use crate::keys::{Keys, Watch};
use crate::line::{self, Message};
use crate::{Raw, Window, set_size, size_of};

/// How long a key that may begin the keys that detach is held back.
const MOMENT: Duration = Duration::from_millis(500);
/// How long a program may take to draw its screen at another size.
const TO_DRAW: Duration = Duration::from_secs(3);
/// Bytes that are read or written at a time: a pipe takes them whole, or is not writable. PIPE_BUF in pipe(7).
const LOAD: usize = 4096;
/// Bytes that are kept for a slow reader, before the container has to wait for it.
const MEMORY: usize = 16 << 20;

/// The other end.
pub enum Far {
    /// The host's end of a container's terminal.
    Terminal(OwnedFd),
    /// The monitor of a container.
    Monitor(OwnedFd),
}

/// This process's own standard streams, and the other end.
pub struct Caller {
    /// Where there is something to type on.
    raw: Option<Raw>,
    output: OwnedFd,
    epoll: Epoll,
    /// For a key that is held back, and for a program that does not draw.
    clock: TimerFd,
    /// Ctrl-Z is a key like the others; but kill(1) can send the same signal.
    stops: SignalFd,
    ways: RefCell<Ways>,
}

/// What is on its way.
struct Ways {
    /// None after this side has hung up.
    far: Option<Far>,
    typed: Vec<u8>,
    shown: Vec<u8>,
    keys: Watch,
    /// As the other end knows it.
    window: Option<Window>,
    /// It has been told another size than the true one, and has not drawn its screen at that yet.
    draws: bool,
    has_ended: bool,
}

/// Host, the caller's process, before anything is made: that there is a terminal to type on.
///
/// # Errors
/// Docker's sentence, where there is none.
pub fn check_input() -> Result<()> {
    ensure!(stdin().is_terminal(), "the input device is not a TTY");
    Ok(())
}

/// The size of the window that this process runs in, if any of its streams leads to one.
pub fn own_window() -> Option<Window> {
    size_of(stdin().as_fd()).or_else(|| size_of(stdout().as_fd())).or_else(|| size_of(stderr().as_fd()))
}

impl Caller {
    /// From here on the caller's terminal is the container's, until this is dropped. `sends`: what is typed, too.
    ///
    /// # Errors
    /// Where there is no terminal to type on; those of epoll(7).
    pub fn new(far: Far, sends: bool, keys: &Keys) -> Result<Self> {
        if let Far::Terminal(master) = &far {
            fcntl(master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).during("fcntl(F_SETFL)")?;
        }
        let output = own_output()?;
        let stop = SigSet::from(Signal::SIGTSTP);
        stop.thread_block().during("cannot block SIGTSTP")?;
        let stops = SignalFd::with_flags(&stop, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).during("signalfd()")?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).during("timerfd_create()")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1()")?;
        let raw = if sends { Some(Raw::make(stdin().as_fd().try_clone_to_owned().during("dup()")?)?) } else { None };
        for fd in [far.as_fd(), stops.as_fd(), clock.as_fd()] {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0)).during("epoll_ctl()")?;
        }
        if sends {
            epoll.add(stdin(), EpollEvent::new(EpollFlags::EPOLLIN, 0)).during("epoll_ctl()")?;
        }
        match epoll.add(&output, EpollEvent::new(EpollFlags::empty(), 0)) {
            Err(Errno::EPERM) => {} // a file, which can be written at any time
            added => added.during("epoll_ctl()")?,
        }
        let (typed, shown, keys) = (Vec::new(), Vec::new(), Watch::new(keys));
        let ways = Ways { far: Some(far), typed, shown, keys, window: None, draws: false, has_ended: false };
        Ok(Caller { raw, output, epoll, clock, stops, ways: RefCell::new(ways) })
    }

    /// The other end has been told another size, so that it draws its screen. The true one it is told when it has: if both
    /// came at once, it would see no change.
    ///
    /// # Errors
    /// Those of timerfd_settime(2).
    pub fn wait_for_its_screen(&self) -> Result<()> {
        self.ways.borrow_mut().draws = true;
        self.wake_after(TO_DRAW)
    }

    fn wake_after(&self, time: Duration) -> Result<()> {
        self.clock.set(Expiration::OneShot(time.into()), TimerSetTimeFlags::empty()).during("timerfd_settime()")
    }

    /// Readable when there is something to do.
    pub fn watch(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Does what can be done now, and never waits. Which side has left, if one has.
    ///
    /// # Errors
    /// Where the caller's own streams can be neither read nor written any more.
    pub fn serve(&self) -> Result<Option<Left>> {
        let mut ways = self.ways.borrow_mut();
        self.stop_if_asked()?;
        ways.receive();
        self.wait_no_longer(&mut ways);
        // Before the keys, which are for the program in the window that they are typed in.
        ways.tell_size();
        let has_detached = self.type_on(&mut ways)?;
        ways.send();
        self.show(&mut ways)?;
        self.say_what_for(&ways);
        let is_over = ways.has_ended && ways.shown.is_empty();
        Ok(if is_over { Some(Left::Container) } else { has_detached.then_some(Left::Caller) })
    }

    /// Whether nothing that was received is still to be shown.
    pub fn has_shown_all(&self) -> bool {
        self.ways.borrow().shown.is_empty()
    }

    /// The other end, which is somebody else's from here on.
    pub fn take_far(&self) -> Option<OwnedFd> {
        self.ways.borrow_mut().far.take().map(|(Far::Terminal(fd) | Far::Monitor(fd))| fd)
    }

    /// The caller's terminal, as it was.
    pub fn restore(&self) {
        self.raw.iter().for_each(Raw::restore);
    }

    /// As a closed terminal does: the program gets SIGHUP. Nothing is to be done from here on.
    pub fn hang_up(&self) {
        let mut ways = self.ways.borrow_mut();
        (ways.far, ways.has_ended) = (None, true);
        ways.shown.clear();
        let _ = (self.epoll.delete(&self.output), self.epoll.delete(stdin()));
    }

    /// As Ctrl-Z at the caller's shell would have it, and not without giving that a terminal that it can use.
    fn stop_if_asked(&self) -> Result<()> {
        if self.stops.read_signal().during("cannot read a signal")?.is_none() {
            return Ok(());
        }
        self.restore();
        raise(Signal::SIGSTOP).during("raise(SIGSTOP)")?;
        self.again()
    }

    /// After somebody else has had the terminal.
    pub fn again(&self) -> Result<()> {
        self.raw.as_ref().map_or(Ok(()), Raw::again)
    }

    /// A key that was held back goes on when time is up. Then a screen is not waited for either, nor when a key is typed.
    fn wait_no_longer(&self, ways: &mut Ways) {
        let is_time = self.clock.wait().is_ok();
        if is_time {
            let held = ways.keys.give_up();
            ways.typed.extend(held);
        }
        if ways.draws && (is_time || self.has_keys()) {
            ways.draws = false;
        }
    }

    fn has_keys(&self) -> bool {
        self.raw.is_some() && is_ready(stdin().as_fd(), PollFlags::POLLIN)
    }

    /// Whether the keys that detach were typed.
    fn type_on(&self, ways: &mut Ways) -> Result<bool> {
        if !ways.typed.is_empty() || !self.has_keys() {
            return Ok(false);
        }
        let mut keys = [0; LOAD];
        let count = match read(stdin(), &mut keys) {
            // A container goes on without it; what `exec` runs gets SIGHUP, as it has nobody else.
            Ok(0) | Err(Errno::EIO) => {
                ensure!(matches!(ways.far, Some(Far::Monitor(_))), "the terminal is gone");
                return Ok(true);
            }
            read => read.during("cannot read what is typed")?,
        };
        let (passed, is_last) = ways.keys.pass(&keys[..count]);
        ways.typed.extend(passed);
        if !is_last && ways.keys.holds() {
            self.wake_after(MOMENT)?;
        }
        Ok(is_last)
    }

    fn show(&self, ways: &mut Ways) -> Result<()> {
        while !ways.shown.is_empty() && is_ready(self.output.as_fd(), PollFlags::POLLOUT) {
            match write(&self.output, &ways.shown[..ways.shown.len().min(LOAD)]) {
                Ok(count) => drop(ways.shown.drain(..count)),
                Err(Errno::EAGAIN) => break,
                Err(errno) => Err(errno).during("cannot show what the container writes")?,
            }
        }
        Ok(())
    }

    fn say_what_for(&self, ways: &Ways) {
        let modify = |fd: BorrowedFd, reads, writes| {
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, reads);
            flags.set(EpollFlags::EPOLLOUT, writes);
            let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, 0));
        };
        if let Some(far) = &ways.far {
            modify(far.as_fd(), ways.shown.len() < MEMORY && !ways.has_ended, !ways.typed.is_empty());
        }
        modify(self.output.as_fd(), false, !ways.shown.is_empty());
        if self.raw.is_some() {
            modify(stdin().as_fd(), ways.typed.is_empty(), false);
        }
    }
}

impl Ways {
    /// Looked at each time, as SIGWINCH is just one of the reasons to look.
    fn tell_size(&mut self) {
        let window = own_window();
        if let (Some(far), Some(size)) = (&self.far, window.filter(|_| window != self.window && !self.draws)) {
            if far.set_size(size).is_ok() {
                self.window = window;
            }
        }
    }

    fn send(&mut self) {
        let Some(far) = self.far.as_ref().filter(|_| !self.typed.is_empty()) else { return };
        match far.send(&self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(Errno::EAGAIN) => {}
            Err(_) => self.typed.clear(), // it is gone, which reading shows
        }
    }

    fn receive(&mut self) {
        let mut buffer = vec![0; line::MOST];
        while self.shown.len() < MEMORY && !self.has_ended {
            match self.far.as_ref().map_or(Ok(0), |far| far.receive(&mut buffer)) {
                Ok(count @ 1..) => {
                    self.draws = false;
                    self.shown.extend(&buffer[..count]);
                }
                Err(Errno::EAGAIN) => return,
                // EIO is how a terminal ends.
                Ok(0) | Err(_) => self.has_ended = true,
            }
        }
    }
}

impl Far {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Far::Terminal(fd) | Far::Monitor(fd) => fd.as_fd(),
        }
    }

    fn set_size(&self, size: Window) -> nix::Result<()> {
        match self {
            Far::Terminal(master) => set_size(master.as_fd(), size),
            Far::Monitor(line) => return line::say(line.as_fd(), &Message::Size(size).to_bytes()).map(drop),
        }
        Ok(())
    }

    fn send(&self, keys: &[u8]) -> nix::Result<usize> {
        match self {
            Far::Terminal(master) => write(master, keys),
            Far::Monitor(line) => line::say(line.as_fd(), &Message::Keys(keys.to_vec()).to_bytes()).map(|_| keys.len()),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> nix::Result<usize> {
        match self {
            Far::Terminal(master) => read(master, buffer),
            Far::Monitor(line) => line::hear(line.as_fd(), buffer),
        }
    }
}

/// Standard output, opened once more if it is a terminal: that one descriptor is shared with the caller's shell, and if it
/// did not wait any more (O_NONBLOCK), neither would the shell's. See *open file description* in open(2).
fn own_output() -> Result<OwnedFd> {
    let anew = || {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        File::options().write(true).custom_flags(flags).open("/proc/self/fd/1").ok()
    };
    // Another user's, after su(1), it cannot be opened.
    match anew().filter(|_| stdout().is_terminal()) {
        Some(file) => Ok(file.into()),
        None => stdout().as_fd().try_clone_to_owned().during("dup(1)"),
    }
}

fn is_ready(fd: BorrowedFd, what: PollFlags) -> bool {
    poll(&mut [PollFd::new(fd, what)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}
