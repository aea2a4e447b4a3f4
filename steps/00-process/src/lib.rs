//! Step 00: what does the kernel know of a process? See fork(2), execve(2), wait(2).
//!
//! Nothing is isolated yet. Here stand the three verbs from which every container is made, and which the
//! later steps keep using: [`fork`], [`exec`], [`wait`]. [`look`] shows a process through the formula,
//! [`check`] finds out what this machine allows.

pub mod check;
pub mod look;
mod program;
mod remedies;

use std::ffi::OsString;
use std::os::fd::BorrowedFd;

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::{kernel_file, signals, sys, terminal};

pub use program::{Environment, default_command};
pub use remedies::known;

/// Host: makes a child that is a copy of this process and runs `child`; its failure is told by the child itself.
pub fn fork(child: impl FnOnce() -> Result<()>) -> Result<Pid> {
    explain::host(call!("fork()")).run(|| {
        // SAFETY: this process has one thread, so the child's copy holds no lock of another.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => Ok::<_, Errno>(child),
            ForkResult::Child => {
                explain::newborn();
                let code = child().map_or_else(|error| explain::report(&error), |()| 0);
                // No clean-up of the parent's may run in its copy.
                // SAFETY: _exit(2) runs no code of this process.
                unsafe { libc::_exit(code.into()) }
            }
        }
    })
}

/// Child: becomes the program (a shell, where no command is given); comes back only with a failure, or from a dry run.
///
/// # Errors
/// [`Failure`](shared::failure::Failure) with code 127 where the program is not found in the environment's PATH, 126 where it cannot be executed.
pub fn exec(command: &[OsString], environment: &Environment) -> Result<()> {
    let default = default_command();
    let command = if command.is_empty() { &default } else { command };
    let path = program::find(&command[0], environment)?;
    let arguments = command.iter().map(|word| program::c_string(word)).collect::<Result<Vec<_>>>()?;
    // What the caller's shell or editor left open would go on into the container, a way out of it. See close_range(2).
    explain::child(call!("close_range(3, ~0U, CLOSE_RANGE_CLOEXEC)")).run(|| sys::close_range_on_exec(3))?;
    explain::child(call!("execve({path:?}, {arguments:?}, …)")).announce()?;
    if explain::dry_run() {
        return Ok(());
    }
    signals::give_back().during("cannot give the signals back")?;
    let Err(errno) = nix::unistd::execve(&path, &arguments, &environment.to_c_strings()?);
    Err(program::not_executable(&path, errno).into())
}

/// Host: waits for the child's end, and passes on what this process is told meanwhile. Hands back its exit code as a
/// shell would: 128 and the signal's number where a signal ended it.
pub fn wait(child: Pid) -> Result<u8> {
    wait_beside(child, &[], || {})
}

/// The same; and whenever something can be read from one of `others`, does `work`.
pub fn wait_beside(child: Pid, others: &[BorrowedFd], mut work: impl FnMut()) -> Result<u8> {
    if explain::dry_run() {
        return Ok(0);
    }
    let mut came = None;
    let code = loop {
        // First of all: of a program that has ended by itself, its own exit code is told, whatever came after that.
        if let Some(code) = sys::exit_code(child).during(format_args!("cannot wait for {child}"))? {
            break code;
        }
        if let Some(came) = came.take() {
            pass_on(child, came)?;
        }
        match signals::wait(others)? {
            None => work(),
            some => came = some.filter(|came| came.signal != Signal::SIGCHLD),
        }
    };
    terminal::take_back();
    Ok(code)
}

/// A program that listens to the signal gets it. One that does not is ended here: were it PID 1 of a pid
/// namespace, the kernel would not deliver the signal, and Ctrl-C would do nothing. See pid_namespaces(7).
pub fn pass_on(child: Pid, came: signals::Came) -> Result<()> {
    if !listens(child, came.signal) {
        signals::interrupt(came)?;
    } else if !came.by_terminal {
        let _ = kill(child, came.signal);
    }
    Ok(())
}

/// Whether the process has a handler for the signal: `SigCgt` in proc_pid_status(5), a mask in hexadecimal.
fn listens(pid: Pid, signal: Signal) -> bool {
    // Not as UTF-8: the kernel cuts a name after 15 bytes, maybe within a character.
    let status = kernel_file::read(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (signal as u64 - 1)) != 0)
}
