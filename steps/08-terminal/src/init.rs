//! A first process that is ready to be one, as tini(1) and catatonit(1) are. See *init* in pid_namespaces(7).
//!
//! The kernel expects two things of PID 1: to wait for every process whose parent has ended, as else it stays a zombie;
//! and to listen to signals, as it delivers none to PID 1 that has no handler. A program that does not know that it is
//! one does neither.

use anyhow::Result;
use nix::sys::prctl::{set_child_subreaper, set_dumpable};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, isatty, setpgid, tcsetpgrp};
use shared::failure::{During, STEP_FAILED};
use shared::{call, explain};

use crate::sys;

/// Child, right before exec: stays the first process, and has a child of its own that becomes the program, which alone
/// returns from here.
///
/// # Errors
/// EAGAIN where there are too many processes. fork(2).
pub fn stay() -> Result<()> {
    let all = SigSet::all();
    // Before there is a child, or the SIGCHLD of one that ends at once is missed. The program's are reset by exec.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).during("cannot block signals")?;
    // Without a pid namespace orphans go to the host's first process, unless there is one of these on their way.
    explain::child(call!("prctl(PR_SET_CHILD_SUBREAPER, 1)")).run(|| set_child_subreaper(true))?;
    // What stays has executed no program of the container's: its memory, and the environment in it, are its caller's, and
    // /proc/1/environ would show that.
    explain::child(call!("prctl(PR_SET_DUMPABLE, 0)")).run(|| set_dumpable(false))?;
    explain::child(call!("fork()")).announce()?;
    if explain::dry_run() {
        return Ok(());
    }
    match sys::fork().during("fork()")? {
        Some(program) => sys::exit(serve(program, &all)),
        None => stand_in_front(),
    }
}

/// The program: in a process group of its own, in the foreground of its terminal. In its init's group, a key's signal would
/// reach it twice: from the terminal, and passed on.
fn stand_in_front() -> Result<()> {
    explain::newborn();
    namespaces::die_with_host()?;
    explain::child(call!("setpgid(0, 0)")).run(|| setpgid(Pid::from_raw(0), Pid::from_raw(0)))?;
    let terminal = std::io::stdin();
    if isatty(&terminal) != Ok(true) {
        return Ok(());
    }
    // From the background, that would stop it: but SIGTTOU is blocked.
    match explain::child(call!("ioctl(0, TIOCSPGRP, [{}])", getpid())).run(|| tcsetpgrp(&terminal, getpid())) {
        // The caller's terminal, which is not this session's.
        Err(error) if shared::failure::is(&error, nix::errno::Errno::ENOTTY) => Ok(()),
        set => set,
    }
}

/// Init: its whole life. An exit code: a first process cannot end by a signal as its program has, the kernel would not
/// deliver it.
fn serve(program: Pid, all: &SigSet) -> u8 {
    // The gate is among them: the host takes it for the program's until it is closed by exec.
    let _ = sys::close_all_from(3);
    // Not sigwaitinfo(2): while that waits they are not blocked, and the host would find that nobody listens to them.
    let Ok(signals) = SignalFd::with_flags(all, SfdFlags::SFD_CLOEXEC) else { return STEP_FAILED };
    loop {
        while let Some((pid, code)) = sys::reap() {
            // What else runs ends with this process.
            if pid == program {
                return code;
            }
        }
        if let Ok(Some(received)) = signals.read_signal() {
            if received.ssi_signo != Signal::SIGCHLD as u32 {
                let _ = process::sys::kill(program, received.ssi_signo as i32); // gone, it is reaped in a moment
            }
        }
    }
}
