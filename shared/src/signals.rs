//! Ctrl-C and its like, taken at moments when there is nothing half done.
//!
//! A signal that ends a program between two calls leaves behind what the first one made. So a step blocks
//! them all before its first call, and asks for them where it can clean up: before nearly every told call, while
//! it waits for Enter, and while the child runs. SIGKILL cannot be blocked; what it leaves, the next run takes away.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::failure::During;
use crate::sys;

/// Between two looks at something that others change, and that nobody can wait for.
pub const MOMENT: Duration = Duration::from_micros(200);

/// What would end a step if it did not listen.
pub const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

static HELD: OnceLock<Held> = OnceLock::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The number of a signal that came where nothing could be left undone; 0 where none did.
static POSTPONED: AtomicI32 = AtomicI32::new(0);

struct Held {
    fd: SignalFd,
    /// The caller's, for the program.
    mask: SigSet,
    /// What the caller does about SIGXFSZ.
    xfsz: SigHandler,
}

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// Which.
    pub signal: Signal,
    /// By a key at the terminal: then everything in its foreground, the child too, has had it already.
    pub by_terminal: bool,
}

/// A step that ends early because of a signal. Its exit code is 128 and the signal's number.
#[derive(Debug)]
pub struct Interrupted(pub Signal);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "ended by {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Host, first of all: from here on signals wait until they are asked for. See signalfd(2).
pub fn hold() -> Result<()> {
    // A caller that ignores SIGCHLD hands that on: then the kernel itself buries the child, and there is no signal and
    // no exit code to wait for. See waitpid(2).
    // SAFETY: SIG_DFL runs no code of ours, so nothing in a handler can be unsafe.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.during("cannot hold signals")?;
    let mut held = SigSet::empty();
    for ending in ENDING {
        // nohup(1), and `&` in a script: what the caller ignores stays ignored. Blocked, it would come all the same: signal(7).
        if !sys::is_ignored(ending).during("cannot hold signals")? {
            held.add(ending);
        }
    }
    // A write beyond `ulimit -f` would end this process with everything half done. Ignored, it is an errno: EFBIG.
    // SAFETY: SIG_IGN runs no code of ours.
    let xfsz = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.during("cannot hold signals")?;
    // A child that ends at once would otherwise be missed by a wait that begins too late.
    held.add(Signal::SIGCHLD);
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&held), Some(&mut mask)).during("cannot hold signals")?;
    let fd =
        SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).during("cannot hold signals")?;
    let _ = HELD.set(Held { fd, mask, xfsz });
    Ok(())
}

/// Child, right before exec: gives the program signals as everyone expects them.
///
/// A signal mask and ignored signals outlive execve(2): without this the program could not be
/// interrupted, and `yes | head` inside would not end, as Rust's runtime ignores SIGPIPE.
pub fn give_back() -> nix::Result<()> {
    // SAFETY: SIG_DFL runs no code of ours, so nothing in a handler can be unsafe.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    let Some(held) = HELD.get() else { return Ok(()) };
    // SAFETY: it was ignored or the default before this program began, and neither runs code of ours.
    unsafe { signal(Signal::SIGXFSZ, held.xfsz) }?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&held.mask), None)
}

/// Host, where there is nothing to clean up: ends as other programs do when nobody reads what they write (`ps | head`).
pub fn end_with_pipe() -> Result<()> {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map(drop).during("cannot give SIGPIPE back")
}

/// Waits until a signal has come (`None`: something can be read from one of `others`, or it was closed).
pub fn wait(others: &[BorrowedFd]) -> Result<Option<Came>> {
    wait_for(others, None)
}

/// The same, for a while at most (`None`, too, when that has passed).
pub fn wait_for(others: &[BorrowedFd], time: Option<Duration>) -> Result<Option<Came>> {
    crate::narration::flush();
    let Some(Held { fd: signals, .. }) = HELD.get() else {
        return Ok(None);
    };
    loop {
        if let Some(came) = take(signals)? {
            return Ok(Some(came));
        }
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
        match ppoll(&mut fds, time.map(TimeSpec::from_duration), None) {
            Ok(_) if fds[0].any() != Some(true) => return Ok(None),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).during("cannot wait for a signal"),
        }
    }
}

/// Waits until something can be read from `from`, or it was closed. A signal that comes before that is given to `signal`;
/// one that comes later waits for whoever asks next, as what was waited for is done, and nobody need undo it.
pub fn wait_for_answer(from: BorrowedFd, mut signal: impl FnMut(Came) -> Result<()>) -> Result<()> {
    crate::narration::flush();
    let Some(Held { fd: signals, .. }) = HELD.get() else {
        return Ok(());
    };
    loop {
        // The kernel looks at them in this order: with a signal it sees every answer that was there before it. See poll(2).
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(from, PollFlags::POLLIN)];
        match ppoll(&mut fds, None, None) {
            Ok(_) if fds[1].any() == Some(true) => return Ok(()),
            Ok(_) => take(signals)?.map_or(Ok(()), &mut signal)?,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).during("cannot wait for an answer"),
        }
    }
}

/// Waits for a while; an ending signal ends that.
pub fn pause(time: Duration) -> Result<()> {
    match wait_for(&[], Some(time))? {
        Some(came) => interrupt(came),
        None => Ok(()),
    }
}

/// Fails once with [`Interrupted`] if an ending signal has come; then never again, so that cleaning up goes on.
pub fn check() -> Result<()> {
    if let Ok(signal) = Signal::try_from(POSTPONED.swap(0, Ordering::Relaxed)) {
        return Err(Interrupted(signal).into());
    }
    if let Some(Held { fd: signals, .. }) = HELD.get() {
        while let Some(came) = take(signals)? {
            interrupt(came)?;
        }
    }
    Ok(())
}

/// Cleaning up: what was interrupted is done all the same; the next [`check`] fails in its place, if one follows.
pub fn postpone(interrupted: &Interrupted) {
    POSTPONED.store(interrupted.0 as i32, Ordering::Relaxed);
}

/// Whether such a signal has come: then all that is left to do is cleaning up.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails with [`Interrupted`] if this is an ending signal, and the first.
pub fn interrupt(came: Came) -> Result<()> {
    if ENDING.contains(&came.signal) && !INTERRUPTED.swap(true, Ordering::Relaxed) {
        return Err(Interrupted(came.signal).into());
    }
    Ok(())
}

fn take(signals: &SignalFd) -> Result<Option<Came>> {
    let info = signals.read_signal().during("cannot read a signal")?;
    Ok(info.and_then(|info| {
        let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
        // A key's signal goes to all in the foreground; the one that tells of a closed terminal goes to the session's leader.
        let by_key = info.ssi_code == libc::SI_KERNEL && signal != Signal::SIGHUP;
        Some(Came { signal, by_terminal: by_key })
    }))
}
