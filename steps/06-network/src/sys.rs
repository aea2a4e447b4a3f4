//! The system call of this step that the crate `nix` has only with more of its features, and one between fork and exec.
#![allow(unsafe_code)]

use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, BorrowedFd};
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

/// connect(2), to an address of IPv4.
///
/// # Errors
/// EINPROGRESS where the socket does not wait.
pub fn connect(socket: BorrowedFd, to: SocketAddrV4) -> nix::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: connect(2) reads a sockaddr_in, and `address` is one that outlives the call.
    Errno::result(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
}
