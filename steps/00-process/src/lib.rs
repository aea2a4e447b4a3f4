//! Step 00: what does the kernel know of a process? See fork(2), execve(2), wait(2).
//!
//! Nothing is isolated yet. Here are the three verbs from which every container is made, and which the later steps keep
//! using: [`fork`], [`exec`], [`wait`]. [`look`] shows a process through the formula, [`check`] finds out what this machine
//! allows.
//!
//! Beside it: what a program inherits and what is reset (`clean`), how it is found (`program`), why it cannot be executed
//! (`why_not`, with ids in words: `id_words`), whose signals are whose (`pass_on`), the terminal's foreground (`terminal`).
//! The gate of this step is `main`'s own.
//!
//! Left open: the child sees, uses and stands in all that its parent does (steps 01 to 03).

#![deny(unsafe_code)]

pub mod check;
mod clean;
mod id_words;
pub mod look;
mod pass_on;
mod program;
pub mod remedies;
pub mod status;
pub mod sys;
mod terminal;
mod why_not;

use std::ffi::{CString, OsString};
use std::os::fd::BorrowedFd;

use anyhow::Result;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, execve};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::signals;

pub use clean::{reset_signals, start_clean};
pub use pass_on::pass_on;
pub use program::{Environment, default_command, find_in_path};
pub use remedies::known;

/// Host: makes a child that is a copy of this process and runs `child`; the child prints its own failure.
///
/// # Errors
/// EAGAIN where there are too many processes, ENOMEM. fork(2).
pub fn fork(child: impl FnOnce() -> Result<()>) -> Result<Pid> {
    let child = || {
        explain::newborn();
        child().map_or_else(|error| explain::report(&error), |()| 0)
    };
    explain::host(call!("fork()")).run(|| sys::fork(child))
}

/// Child: becomes the program (a shell, where no command is given); returns only with a failure, or from a dry run.
///
/// # Errors
/// [`Failure`](shared::failure::Failure) with code 127 where the program is not found in the environment's PATH, 126
/// where it cannot be executed.
pub fn exec(command: &[OsString], environment: &Environment) -> Result<()> {
    Executable::find(command, environment)?.execute()
}

/// A program that was found, and what execve(2) takes beside it.
pub struct Executable {
    path: CString,
    arguments: Vec<CString>,
    variables: Vec<CString>,
}

impl Executable {
    /// Child: the program (a shell, where no command is given), with descriptors closed to it.
    ///
    /// # Errors
    /// 127, as [`exec`].
    pub fn find(command: &[OsString], environment: &Environment) -> Result<Self> {
        let default = default_command();
        let command = if command.is_empty() { &default } else { command };
        let path = program::find(&command[0], environment)?;
        let arguments = program::c_strings(command)?;
        let variables = environment.to_c_strings()?;
        // What the caller's shell or editor left open would go on into the container, a way out of it. See close_range(2).
        explain::child(call!("close_range(3, ~0U, CLOSE_RANGE_CLOEXEC)")).run(|| sys::close_range_on_exec(3))?;
        Ok(Executable { path, arguments, variables })
    }

    /// Child: becomes it; returns only with a failure, or from a dry run.
    ///
    /// # Errors
    /// 126, as [`exec`].
    pub fn execute(self) -> Result<()> {
        let Executable { path, arguments, variables } = self;
        explain::child(call!("execve({path:?}, {arguments:?}, …)")).announce()?;
        if explain::dry_run() {
            return Ok(());
        }
        reset_signals().during("cannot reset the signals")?;
        let Err(errno) = execve(&path, &arguments, &variables);
        Err(why_not::executed(&path, errno).into())
    }
}

/// Host: waits for the child's end, and passes on the signals that it receives meanwhile. Returns the child's exit code as
/// a shell would: 128 and the signal's number where a signal ended it.
///
/// # Errors
/// [`Interrupted`](signals::Interrupted), by a signal that the program does not listen to.
pub fn wait(child: Pid) -> Result<u8> {
    wait_beside(child, &[], || {})
}

/// The same; and whenever something can be read from one of `others`, or a signal has arrived, does `work`.
pub fn wait_beside(child: Pid, others: &[BorrowedFd], mut work: impl FnMut()) -> Result<u8> {
    if explain::dry_run() {
        return Ok(0);
    }
    let mut received = None;
    let code = loop {
        // First of all: a program that has ended by itself has an exit code, whatever arrives after that.
        if let Some(code) = sys::exit_code(child).during(format_args!("cannot wait for {child}"))? {
            break code;
        }
        if let Some(signal) = received.take() {
            pass_on(child, signal)?;
        }
        received = signals::wait(others)?.filter(|signal| !signal.is(Signal::SIGCHLD));
        work();
    };
    terminal::take_back();
    Ok(code)
}
