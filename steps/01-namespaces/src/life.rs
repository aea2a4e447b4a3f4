//! The child as the host has it: its states, and its death. Leaving a state consumes it.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shared::explain;
use shared::signals;

use crate::gate::ChildAct;

/// How long a child that was killed is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A child that is born and waits at the gate: its namespaces are there, with nothing of its own in them yet.
pub struct Held<'a>(pub(crate) Child<'a>);
/// A child that has entered its new surroundings and waits before exec: time to look at it.
pub struct Ready<'a>(Child<'a>);
/// A child that is the program.
pub struct Running<'a>(Child<'a>);

/// The host's handle; the child itself never has one.
pub(crate) struct Child<'a> {
    pub(crate) pid: Pid,
    /// The process to be waited for: the child, or a helper that is its parent and ends as it does.
    pub(crate) reaped: Pid,
    pub(crate) socket: UnixStream,
    /// What a dry run prints in the child's place: its entering, and its last act.
    pub(crate) enter: ChildAct<'a>,
    pub(crate) program: ChildAct<'a>,
}

impl<'a> Held<'a> {
    /// As the host knows it.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Host: the same child, whose parent is a helper of this process's. That one ends with the child's exit code, and is
    /// waited for in its place: the child itself cannot be.
    pub fn with_parent(mut self, helper: Pid) -> Self {
        self.0.reaped = helper;
        self
    }

    /// Host: opens the gate, and waits until the child has entered.
    ///
    /// # Errors
    /// The child's own failure, whose sentence it sends here.
    pub fn release(mut self) -> Result<Ready<'a>> {
        explain::note("the host opens the gate");
        self.0.next(|child| (child.enter)())?;
        Ok(Ready(self.0))
    }
}

impl<'a> Ready<'a> {
    /// As the host knows it.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Host: waits for the end of a child that will not be started. Its exit code, as of a program.
    pub fn wait(self) -> Result<u8> {
        process::wait(self.0.pid)
    }

    /// Host: lets the child become its program.
    ///
    /// # Errors
    /// 127 where the program was not found, 126 where it cannot be executed.
    pub fn start(mut self) -> Result<Running<'a>> {
        if explain::dry_run() {
            (self.0.program)()?;
        } else {
            self.0.open_gate()?;
            self.0.hear()?; // nothing, where exec has closed its end
        }
        Ok(Running(self.0))
    }
}

impl Running<'_> {
    /// As the host knows it.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Host: waits for the program's end. Its exit code, or 128 and the number of the signal that ended it.
    pub fn wait(self) -> Result<u8> {
        process::wait(self.0.pid)
    }

    /// The same wait; and whenever something can be read from one of `others`, or a signal has arrived, does `work`.
    pub fn wait_beside(self, others: &[BorrowedFd], work: impl FnMut()) -> Result<u8> {
        process::wait_beside(self.0.pid, others, work)
    }
}

impl Child<'_> {
    /// The sentence for a child that ended without one of its own.
    pub(crate) fn died(&self) -> anyhow::Error {
        let signal = match waitpid(self.reaped, None) {
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(signal),
            Ok(WaitStatus::Exited(_, code)) => Signal::try_from(code - 128).ok(),
            _ => None,
        };
        signal.map_or_else(
            || anyhow!("the child ended before it was ready"),
            |it| anyhow!("the child was killed by {it} before it was ready (too small a limit of memory does that)"),
        )
    }
}

/// Ends a child that was not waited for, because something on the host failed. Until it is waited for, no other process
/// gets its pid, so no other one is killed.
impl Drop for Child<'_> {
    fn drop(&mut self) {
        let lives = || waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive);
        if explain::dry_run() || !lives() {
            return;
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        // A frozen one dies only when its group is thawed, on cgroup v1: so this does not wait without end.
        let since = Instant::now();
        while lives() && since.elapsed() < PATIENCE {
            std::thread::sleep(signals::MOMENT);
        }
    }
}
