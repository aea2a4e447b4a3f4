//! The few system calls that the crate `nix` does not have, each a thin wrapper: no second vocabulary.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;

/// Marks every descriptor from `first` on as close-on-exec. close_range(2), Linux 5.11.
pub fn close_range_on_exec(first: u32) -> nix::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed here, so no owner's descriptor becomes invalid.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// clone3(2) as fork(2): returns twice, in the child with `None`. Its flags have a place for CLONE_NEWTIME, which clone(2)'s have not.
///
/// # Safety
/// The process has one thread. The child has a copy of that one alone, so a lock held by another would stay locked for ever.
pub unsafe fn clone3(flags: u64) -> nix::Result<Option<Pid>> {
    // SAFETY: a clone_args of zeros is one without any wish.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: no stack is given and no memory shared, so the child goes on with a copy of ours.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) })?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as i32)))
}

/// A descriptor that means this process and never another one, whatever becomes of its number. pidfd_open(2), Linux 5.3.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes two numbers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to the process that the descriptor means; ESRCH where it is gone. pidfd_send_signal(2), Linux 5.1.
pub fn pidfd_send_signal(process: BorrowedFd, signal: Signal) -> nix::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the kernel fills in its own, as kill(2) does.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal as i32, no_info, 0) };
    Errno::result(result).map(drop)
}

/// Whether this process ignores a signal. Asks, and changes nothing, as nix cannot. sigaction(2).
pub fn is_ignored(signal: Signal) -> nix::Result<bool> {
    // SAFETY: a sigaction of zeros is a valid one.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes to `now`, which outlives it.
    Errno::result(unsafe { libc::sigaction(signal as i32, std::ptr::null(), &mut now) })?;
    Ok(now.sa_sigaction == libc::SIG_IGN)
}

/// The exit code of a child, or 128 and the signal that ended it; `None` while it lives. waitpid(2) with WNOHANG: nix has no
/// name for a real-time signal, and answers EINVAL of a child that one has ended.
pub fn exit_code(child: Pid) -> nix::Result<Option<u8>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = Errno::result(unsafe { libc::waitpid(child.as_raw(), &mut status, libc::WNOHANG) })?;
    let status = ExitStatus::from_raw(status);
    let code = || status.code().or(status.signal().map(|signal| 128 + signal)).map(|code| code as u8);
    Ok(if waited == 0 { None } else { code() })
}

/// Whether ids here are the machine's own: uid_map is the identity over all of them. user_namespaces(7).
pub fn in_first_user_namespace() -> bool {
    let map = crate::kernel_file::read("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
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
