//! The system calls of this step that the crate `nix` lacks, or has in unsafe functions only: see ioctl_tty(2).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{SockFlag, accept4};
use nix::unistd::{ForkResult, Pid};

use crate::Window;

/// Lets the other end of a new pty be opened. TIOCSPTLCK.
pub fn unlock(master: BorrowedFd) -> nix::Result<()> {
    // SAFETY: the kernel reads an int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &0i32) }).map(drop)
}

/// The other end of a pty: by the descriptor, and not by a name, which in another mount namespace is another terminal.
/// TIOCGPTPEER, Linux 4.13.
pub fn peer(master: BorrowedFd) -> nix::Result<OwnedFd> {
    let flags = (OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits();
    // SAFETY: takes a number and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number of a pty in its devpts: 0 is `/dev/pts/0`. TIOCGPTN.
pub fn number(master: BorrowedFd) -> nix::Result<u32> {
    let mut number = 0u32;
    // SAFETY: the kernel writes an unsigned int, and `number` outlives the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number) })?;
    Ok(number)
}

/// Makes a terminal the controlling one of this process's session. TIOCSCTTY; the 0 is "and steal it from nobody".
pub fn control(terminal: BorrowedFd) -> nix::Result<()> {
    // SAFETY: takes a number and touches no memory of ours.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// The size of a terminal's window. TIOCGWINSZ.
pub fn window(terminal: BorrowedFd) -> nix::Result<Window> {
    // SAFETY: a winsize of zeros is a valid one.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a winsize, and `size` outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok(Window { rows: size.ws_row, columns: size.ws_col, width: size.ws_xpixel, height: size.ws_ypixel })
}

/// Sets it: where it changes, the processes in the foreground get SIGWINCH. TIOCSWINSZ.
pub fn set_window(terminal: BorrowedFd, window: Window) -> nix::Result<()> {
    let Window { rows, columns, width, height } = window;
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: width, ws_ypixel: height };
    // SAFETY: the kernel reads a winsize, and `size` outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// fork(2): the child's pid in the parent, `None` in the child.
pub fn fork() -> nix::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so the child's copy holds no lock of another.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// A child that has ended, and its exit code as a shell has it: 128 and the signal that ended it. None where there is none
/// now. waitpid(2), by hand: nix has no name for a real-time signal.
pub fn reap() -> Option<(Pid, u8)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    let status = ExitStatus::from_raw(status);
    let code = status.code().or(status.signal().map(|signal| 128 + signal))?;
    (pid > 0).then(|| (Pid::from_raw(pid), code as u8))
}

/// close_range(2), and that is all: an init keeps no file of the host's open, nor the end of a pipe that somebody waits
/// for.
pub fn close_all_from(first: u32) -> nix::Result<()> {
    // SAFETY: nothing is dropped in this process any more, which ends by _exit: so no owner closes its number once more.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// _exit(2): ends this process, a copy of another one, without that one's clean-up.
pub fn exit(code: u8) -> ! {
    // SAFETY: it runs no code of this process.
    unsafe { libc::_exit(code.into()) }
}

/// The next connection to a socket; EAGAIN where there is none now. accept4(2).
pub fn accept(listener: BorrowedFd) -> nix::Result<OwnedFd> {
    let number = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
