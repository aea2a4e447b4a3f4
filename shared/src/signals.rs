//! Signals, taken at moments when nothing is half done.
//!
//! A signal that ends a program between two calls leaves behind what the first one made. So a step blocks every signal
//! before its first call, and reads them where it can clean up: before nearly every printed call, while it waits for
//! Enter, and while the child runs. SIGKILL cannot be blocked; what it leaves is removed by `step04 clean`.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::failure::During;
use crate::sys;

/// Between two looks at something that other processes change, and that cannot be waited for.
pub const MOMENT: Duration = Duration::from_micros(200);

/// These end a program that has no handler for them.
pub const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// Not taken. Job control stays the caller's: Ctrl-Z stops the step and its program together. And the kernel answers the
/// step's own writes with the last two, which it ignores: then the write fails, and that is an error like any other.
const LEFT: [Signal; 5] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGPIPE, Signal::SIGXFSZ];

static SIGNALS: OnceLock<SignalFd> = OnceLock::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// A signal that arrived where nothing could be left undone; 0: none.
static POSTPONED: AtomicI32 = AtomicI32::new(0);

/// A signal that has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Its number, as nix has no names for real-time signals. signal(7).
    pub number: i32,
    /// By a key at the terminal: then every process in its foreground, the child too, has had it already.
    pub by_terminal: bool,
}

impl Received {
    /// Whether it is this one.
    pub fn is(&self, signal: Signal) -> bool {
        self.number == signal as i32
    }

    /// If it is one of [`ENDING`], which one.
    pub fn ending(&self) -> Option<Signal> {
        ENDING.into_iter().find(|signal| self.is(*signal))
    }
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

/// Host, first of all: from here on signals wait until they are read. See signalfd(2).
///
/// # Errors
/// Those of sigaction(2), sigprocmask(2) and signalfd(2), none of which is known to happen.
pub fn hold() -> nix::Result<()> {
    // If the caller ignores SIGCHLD, so do we, and the kernel reaps children by itself: there would be no exit code to
    // wait for. See waitpid(2).
    sys::set_default(libc::SIGCHLD)?;
    // A write beyond `ulimit -f` would end this process with everything half done. Ignored, it is an errno: EFBIG.
    sys::ignore(libc::SIGXFSZ)?;
    let mut all = SigSet::all();
    LEFT.into_iter().for_each(|signal| all.remove(signal));
    // nohup(1), and `&` in a script: what the caller ignores stays ignored. Blocked, it would arrive all the same:
    // signal(7).
    for signal in Signal::iterator().filter(|signal| sys::is_ignored(*signal as i32)) {
        all.remove(signal);
    }
    // Before the child is born: the SIGCHLD of one that ends at once would otherwise be missed.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None)?;
    let _ = SIGNALS.set(SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?);
    Ok(())
}

/// Waits for a signal (`None`: something can be read from one of `others`, or it was closed).
pub fn wait(others: &[BorrowedFd]) -> Result<Option<Received>> {
    wait_for(others, None)
}

/// The same, for a while at most (`None` when that has passed, too).
pub fn wait_for(others: &[BorrowedFd], time: Option<Duration>) -> Result<Option<Received>> {
    crate::narration::flush();
    let Some(signals) = SIGNALS.get() else {
        return Ok(None);
    };
    loop {
        if let Some(received) = take(signals)? {
            return Ok(Some(received));
        }
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
        // Never EINTR: a step has no handler, and after Ctrl-Z the kernel goes on waiting. See signal(7).
        ppoll(&mut fds, time.map(TimeSpec::from_duration), None).during("cannot wait for a signal")?;
        if fds[0].any() != Some(true) {
            return Ok(None);
        }
    }
}

/// Waits until something can be read from `from`, or it was closed. A signal that arrives before that is given to `signal`;
/// a later one is left for the next wait: what this one waited for is done, and need not be undone.
pub fn wait_for_answer(from: BorrowedFd, mut signal: impl FnMut(Received) -> Result<()>) -> Result<()> {
    crate::narration::flush();
    let Some(signals) = SIGNALS.get() else {
        return Ok(());
    };
    loop {
        // The kernel looks at them in this order: with a signal it sees every answer that was there before it. See poll(2).
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(from, PollFlags::POLLIN)];
        ppoll(&mut fds, None, None).during("cannot wait for another process")?;
        if fds[1].any() == Some(true) {
            return Ok(());
        }
        take(signals)?.map_or(Ok(()), &mut signal)?;
    }
}

/// Waits for a while; an ending signal ends that.
pub fn pause(time: Duration) -> Result<()> {
    wait_for(&[], Some(time))?.map_or(Ok(()), interrupt)
}

/// Fails once with [`Interrupted`] if an ending signal has arrived; then never again, so that cleaning up goes on.
pub fn check() -> Result<()> {
    if let Ok(signal) = Signal::try_from(POSTPONED.swap(0, Ordering::Relaxed)) {
        return Err(Interrupted(signal).into());
    }
    if let Some(signals) = SIGNALS.get() {
        while let Some(received) = take(signals)? {
            interrupt(received)?;
        }
    }
    Ok(())
}

/// Cleaning up: what was interrupted is done all the same; the next [`check`] fails in its place, if one follows.
pub fn postpone(interrupted: &Interrupted) {
    POSTPONED.store(interrupted.0 as i32, Ordering::Relaxed);
}

/// Whether an ending signal has arrived: then all that is left to do is cleaning up.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails with [`Interrupted`] if this is an ending signal, and the first.
pub fn interrupt(received: Received) -> Result<()> {
    match received.ending() {
        Some(signal) if !INTERRUPTED.swap(true, Ordering::Relaxed) => Err(Interrupted(signal).into()),
        _ => Ok(()),
    }
}

fn take(signals: &SignalFd) -> Result<Option<Received>> {
    let info = signals.read_signal().during("cannot read a signal")?;
    Ok(info.map(|info| {
        let number = info.ssi_signo as i32;
        // A key's signal goes to the whole foreground; that of a closed terminal goes to the session's leader alone.
        let by_terminal = info.ssi_code == libc::SI_KERNEL && number != libc::SIGHUP;
        Received { number, by_terminal }
    }))
}
