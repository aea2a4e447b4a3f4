//! The system calls of this step between fork and exec.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Has the kernel kill a program when this process ends, however that ends. prctl(2), PR_SET_PDEATHSIG.
pub fn end_with_this_process(command: &mut Command) -> &mut Command {
    let us = Pid::this();
    let before_exec = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // Where this process has ended in between, the kernel has nothing to send any more.
        if getppid() == us { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec there are two system calls, which take no lock and no memory.
    unsafe { command.pre_exec(before_exec) }
}
