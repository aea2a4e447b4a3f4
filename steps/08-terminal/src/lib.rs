//! Step 08: how do we talk to the child? See pty(7), tty_ioctl(4), setsid(2), credentials(7).
//!
//! Until here the child had its caller's terminal, or none. Now it gets one of its own: a pair of ends, of which the
//! program has one, and the host the other. The functions are in the order in which they run. The child makes the pair
//! in its own `/dev/pts` ([`make`]), has it as its console ([`bind_console`]), and takes it as the terminal of a session
//! of its own ([`take`]), which is its user's ([`give`]); its monitor has the other end. On the caller's side that
//! terminal is made a mere pipe of keys ([`Raw`]), and says how large its window is ([`size_of`], [`set_size`]). A
//! program without a terminal loses the caller's all the same ([`leave`]).
//!
//! Beside it: who is connected to a container's terminal (`hub`), the caller's side (`caller`) and what both say
//! to each other (`line`), the keys that detach (`keys`), a first process that reaps and passes signals on (`init`), the
//! commands (`talk`), and all that as a part of a container (`parts`).
//!
//! Left open:
//! - `-i` without `-t` is for the foreground: a container in the background that has no terminal has no input.
//! - Without `-t` standard output and error are the caller's, as until here. Where root inside is the caller outside, a
//!   program can open that terminal once more by `/proc/self/fd/1`, to read.
//! - What `exec` runs is in no record: one that was detached from cannot be attached to again.

#![deny(unsafe_code)]

mod caller;
mod hub;
pub mod init;
mod keys;
mod line;
mod options;
pub mod parts;
mod remedies;
mod sys;
mod talk;

use std::fs::File;
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use namespaces::mount;
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, getsid, setsid};
use shared::failure::During;
use shared::{call, explain};

pub use keys::Keys;
pub use options::{Command, GuestOptions, GuestTalking, Talking};
pub use remedies::known;

/// The two ends of a terminal.
pub struct Pty {
    /// What is written here the program reads, and the other way round.
    pub master: OwnedFd,
    /// What the program takes for a terminal.
    pub peer: OwnedFd,
}

/// The size of a terminal's window: in characters, and in pixels, which may be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Window {
    pub rows: u16,
    pub columns: u16,
    pub width: u16,
    pub height: u16,
}

/// Child, in its root: a new pty, in its own `/dev/pts`. One of the host's would work, too, but have no name in here: then
/// tty(1) says "not a tty".
///
/// # Errors
/// ENOENT where the root has no `/dev/pts`; ENOSPC where there are too many. pty(7).
pub fn make() -> Result<Pty> {
    let ptmx = Path::new("/dev/pts/ptmx");
    let master: OwnedFd = explain::child(call!("open({ptmx:?}, O_RDWR|O_NOCTTY|O_CLOEXEC)"))
        .run(|| open(ptmx, OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()))?;
    let number = master.as_raw_fd();
    // Locked until its maker has given the other end its owner and rights: devpts has done so. Without it, EIO.
    explain::child(call!("ioctl({number}, TIOCSPTLCK, 0)")).run(|| sys::unlock(master.as_fd()))?;
    let peer =
        explain::child(call!("ioctl({number}, TIOCGPTPEER, O_RDWR|O_NOCTTY)")).run(|| sys::peer(master.as_fd()))?;
    Ok(Pty { master, peer })
}

/// Child: `/dev/console` is this terminal, as programs expect it that tell an operator something. console(4).
///
/// # Errors
/// Where `/dev` is no mount of ours.
pub fn bind_console(pty: &Pty) -> Result<()> {
    let number = if explain::dry_run() { 0 } else { sys::number(pty.master.as_fd()).during("ioctl(TIOCGPTN)")? };
    let (terminal, console) = (format!("/dev/pts/{number}"), "/dev/console");
    if !explain::dry_run() {
        File::create(console).during(format_args!("cannot make {console}"))?;
    }
    mount(&terminal, console, None, MsFlags::MS_BIND, None)
}

/// Child: a session of its own, whose controlling terminal this is: what Ctrl-C, Ctrl-Z and job control work by, and what
/// `/dev/tty` is. The one that its caller had is none of its session's any more. In this order: a process that is in
/// another's session may have no terminal of its own (EPERM).
///
/// # Errors
/// EPERM, where it is a session's leader already.
pub fn take(peer: BorrowedFd) -> Result<()> {
    let number = peer.as_raw_fd();
    explain::child(call!("setsid()")).run(setsid)?;
    explain::child(call!("ioctl({number}, TIOCSCTTY, 0)")).run(|| sys::control(peer))?;
    // Printed before: afterwards it would be printed to the container's own terminal.
    explain::child(call!("dup2({number}, 0); dup2({number}, 1); dup2({number}, 2)")).printed_first().run(|| {
        explain::hush();
        dup2_stdin(peer)?;
        dup2_stdout(peer)?;
        dup2_stderr(peer)
    })
}

/// Child that is root until now: its terminal belongs to the user that it becomes. Else a program could read and write
/// it, and not open it once more, by `/dev/stdout` or the name that tty(1) prints; nor could mesg(1) change who may
/// write to it.
///
/// # Errors
/// EINVAL where the map has no such id. fchown(2).
pub fn give(uid: u32) -> Result<()> {
    explain::child(call!("fchown(0, {uid}, -1)")).run(|| fchown(stdin(), Some(Uid::from_raw(uid)), None))
}

/// Child without a terminal of its own: leaves its caller's session, too. In it, it could push keys into that terminal
/// as if they had been typed, and the caller's shell would obey them: TIOCSTI, CVE-2017-5226. And it could read what is
/// typed: so its input is empty, unless the caller hands its own in (`--interactive`), and where its output is a
/// terminal, that is one that can only be written to ([`write_only`]).
///
/// # Errors
/// Those of setsid(2), none of which is known to happen.
pub fn leave(interactive: bool, outputs: [Option<File>; 2]) -> Result<()> {
    // In the background it has left it already, for the log.
    if explain::dry_run() || getsid(None) != Ok(Pid::this()) {
        explain::child(call!("setsid()")).run(setsid)?;
    }
    let [out, error] = outputs;
    // In the background they lead to the log by now.
    if let Some(out) = out.filter(|_| stdout().is_terminal()) {
        explain::child(call!("dup2({}, 1)", out.as_raw_fd())).run(|| dup2_stdout(&out))?;
    }
    if let Some(error) = error.filter(|_| stderr().is_terminal()) {
        explain::child(call!("dup2({}, 2)", error.as_raw_fd())).run(|| dup2_stderr(&error))?;
    }
    if interactive {
        return Ok(());
    }
    let null = File::open("/dev/null").during("cannot open /dev/null")?;
    explain::child(call!("dup2({}, 0)", null.as_raw_fd())).run(|| dup2_stdin(&null))
}

/// Host: the caller's own standard output and error, where they are terminals, opened once more to be written to alone. A
/// shell has a terminal open both ways, so that whoever has its output can read what is typed. `None` too where the
/// terminal is another user's, as after su(1).
pub fn write_only() -> [Option<File>; 2] {
    let anew = |number: u8, is_terminal: bool| {
        let open = || File::options().write(true).custom_flags(libc::O_NOCTTY).open(format!("/proc/self/fd/{number}"));
        is_terminal.then(open)?.ok()
    };
    [anew(1, stdout().is_terminal()), anew(2, stderr().is_terminal())]
}

/// The size of the window that this terminal is in.
pub fn size_of(terminal: BorrowedFd) -> Option<Window> {
    sys::window(terminal).ok()
}

/// Host: tells the container's terminal. Whatever runs in its foreground hears of it: SIGWINCH.
pub fn set_size(master: BorrowedFd, window: Window) {
    let _ = sys::set_window(master, window); // EIO: its end has come
}

/// A caller's terminal that passes each key on as it is typed: it echoes nothing, waits for no Enter, and makes no
/// signal of Ctrl-C. All that is done by the container's own. Dropped, it is as it was.
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Caller: from here on. See *Raw mode* in termios(3).
    ///
    /// # Errors
    /// ENOTTY where it is none.
    pub fn make(terminal: OwnedFd) -> Result<Self> {
        let before = tcgetattr(&terminal).during("tcgetattr()")?;
        let raw = Raw { terminal, before };
        raw.again()?;
        Ok(raw)
    }

    /// Caller: the same, after something else has changed it.
    ///
    /// # Errors
    /// EIO where the terminal is gone.
    pub fn again(&self) -> Result<()> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&self.terminal, SetArg::TCSANOW, &raw).during("tcsetattr()")
    }

    /// Caller: as it was, which nothing else will do. Only SIGKILL leaves it raw.
    pub fn restore(&self) {
        // In the background the kernel would stop this process for it: SIGTTOU.
        let mut mask = SigSet::empty();
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::from(Signal::SIGTTOU)), Some(&mut mask));
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}
