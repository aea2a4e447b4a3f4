//! The system calls of this step that the crate `nix` lacks.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;

/// clone3(2), without a stack: as fork(2), the call returns in the child, too, which runs `child` and ends with its
/// exit code. Its flags have a place for CLONE_NEWTIME, which clone(2)'s have not.
pub fn clone3(flags: u64, child: impl FnOnce() -> isize) -> nix::Result<Pid> {
    // SAFETY: a clone_args of zeros is one without any wish.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    // With it, the child would run on this very stack, and return from functions that this process is still in.
    if flags & libc::CLONE_VM as u64 != 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: no memory is shared, so the child goes on with a copy of ours. A step has one thread, so no other one holds a
    // lock in that copy.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) })?;
    match pid {
        // SAFETY: _exit(2) runs nothing more of this process: the child must not go on as a second host.
        0 => unsafe { libc::_exit(child() as i32) },
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

/// Sets the loopback interface of this network namespace up. netdevice(7).
pub fn set_loopback_up() -> nix::Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an ifreq of zeros is a valid one, with an empty name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as _;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, and `request` is one that outlives the call.
    Errno::result(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).map(drop)
}
