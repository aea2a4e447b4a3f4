//! System calls that the crate `nix` lacks and more than one step makes, each a thin wrapper: no second vocabulary.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::Pid;

/// A descriptor that means this process and never another one, whatever becomes of its number. pidfd_open(2), Linux 5.3.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes two numbers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal, by its number, as nix has no names for real-time ones, to the process that the descriptor means; ESRCH
/// where it is gone. pidfd_send_signal(2), Linux 5.1.
pub fn pidfd_send_signal(process: BorrowedFd, signal: i32) -> nix::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the kernel fills in its own, as kill(2) does.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, no_info, 0) };
    Errno::result(result).map(drop)
}

/// Whether this process is in the user namespace that the machine has begun with: rights over a cgroup's devices and over
/// mknod(2) count only there. Its number is fixed: `PROC_USER_INIT_INO` in the kernel's include/linux/proc_ns.h. The id map
/// proves nothing, as a namespace that root has made may map each id onto itself, too.
pub fn in_first_user_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|it| it.ino() == 0xEFFF_FFFD)
}

/// Whether this process's stack may not grow to one MiB. getrlimit(2).
pub fn has_small_stack() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call only writes to `limit`, which outlives it.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &mut limit) == 0 && limit.rlim_cur < 1 << 20 }
}

/// Takes a lock on a file or directory, which closing its last descriptor releases. flock(2). Not nix's, which panics where
/// it cannot be released before that.
pub fn flock(file: BorrowedFd, operation: i32) -> nix::Result<()> {
    // SAFETY: takes two numbers and touches no memory of ours.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
}
