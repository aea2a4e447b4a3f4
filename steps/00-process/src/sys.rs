//! The system calls of this step that the crate `nix` lacks.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::unistd::{self, ForkResult, Pid};

/// fork(2): the child runs `child`, and ends with its exit code. It never goes on in the code of its parent, as a
/// second one, whose clean-up it would run.
pub fn fork(child: impl FnOnce() -> u8) -> nix::Result<Pid> {
    // SAFETY: this process has one thread, so the child's copy holds no lock of another.
    match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        // SAFETY: _exit(2) runs no code of this process.
        ForkResult::Child => unsafe { libc::_exit(child().into()) },
    }
}

/// Marks every descriptor from `first` on as close-on-exec. close_range(2), Linux 5.11.
pub fn close_range_on_exec(first: u32) -> nix::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed here, so no owner's descriptor becomes invalid.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// The exit code of a child, or 128 and the signal that ended it; `None` while it lives. waitpid(2) with WNOHANG: nix
/// has no name for a real-time signal, and answers EINVAL of a child that one has ended.
pub fn exit_code(child: Pid) -> nix::Result<Option<u8>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = Errno::result(unsafe { libc::waitpid(child.as_raw(), &mut status, libc::WNOHANG) })?;
    if waited == 0 {
        return Ok(None);
    }
    let status = ExitStatus::from_raw(status);
    Ok(status.code().or(status.signal().map(|signal| 128 + signal)).map(|code| code as u8))
}

/// kill(2) by a signal's number, as real-time signals have no name in nix.
pub fn kill(process: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: takes two numbers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(process.as_raw(), signal) }).map(drop)
}

/// Whether this process has real-time scheduling, which no limit of CPU time holds for. sched_getscheduler(2).
pub fn is_real_time() -> nix::Result<bool> {
    // SAFETY: takes a number and touches no memory of ours.
    let policy = Errno::result(unsafe { libc::sched_getscheduler(0) })?;
    // The flag that a child will not inherit it stands beside the policy.
    let policy = policy & !libc::SCHED_RESET_ON_FORK;
    Ok([libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE].contains(&policy))
}

/// Gives this process the usual scheduling; its nice value stays. sched_setscheduler(2).
pub fn leave_real_time() -> nix::Result<()> {
    // SAFETY: a sched_param of zeros is a valid one.
    let usual: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: `usual` outlives the call, which only reads it.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &usual) }).map(drop)
}

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

/// Makes a bridge, as brctl(8) does: ENOPKG where the kernel has none. SIOCBRADDBR in the kernel's linux/sockios.h.
pub fn add_bridge(name: &CStr) -> nix::Result<()> {
    const SIOCBRADDBR: libc::Ioctl = 0x89a0;
    let any = UnixDatagram::unbound().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    // SAFETY: the name ends with a NUL byte and outlives the call, which only reads it.
    Errno::result(unsafe { libc::ioctl(any.as_raw_fd(), SIOCBRADDBR, name.as_ptr()) }).map(drop)
}

/// Whether this process is in the user namespace that the machine has begun with: rights over a cgroup's devices and over
/// mknod(2) count only there. Its number is fixed: `PROC_USER_INIT_INO` in the kernel's include/linux/proc_ns.h. The id map
/// proves nothing, as a namespace that root has made may map each id onto itself, too.
pub fn in_first_user_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|it| it.ino() == 0xEFFF_FFFD)
}

/// The newer calls that the steps need, and whether the kernel knows them: an unknown one is ENOSYS.
pub fn newer_calls() -> Vec<(&'static str, bool)> {
    let is_known = |number| {
        // SAFETY: the four calls of the list are refused before they do anything: -1 is no address (clone3), no range that
        // ends at 0 begins there (close_range), and no path is at address 0 (mount_setattr, openat2).
        Errno::result(unsafe { libc::syscall(number, -1, 0, 0, 0, 0) }) != Err(Errno::ENOSYS)
    };
    let numbers = [
        ("clone3", libc::SYS_clone3),
        ("close_range", libc::SYS_close_range),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("openat2", libc::SYS_openat2),
    ];
    numbers.map(|(name, number)| (name, is_known(number))).into()
}

/// Maps the owners of the files in a copy of the mount at `path`, which is attached nowhere and gone when this returns.
/// open_tree(2), Linux 5.2; mount_setattr(2), Linux 5.12.
///
/// # Errors
/// EINVAL where the file system takes no map of ids; EPERM without CAP_SYS_ADMIN.
pub fn map_copy_of_mount(path: &CStr, user_namespace: BorrowedFd) -> nix::Result<()> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path ends with a NUL byte, and outlives the call.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    let copy = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let userns_fd = user_namespace.as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    let (place, flags, size) = (copy.as_raw_fd(), libc::AT_EMPTY_PATH, size_of_val(&attr));
    // SAFETY: `attr` outlives the call, and its size is passed beside it.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, place, c"".as_ptr(), flags, &raw const attr, size) };
    Errno::result(result).map(drop)
}

/// Whether the kernel takes filters: one at no address is a bad address only to a kernel that reads it. seccomp(2).
pub fn has_seccomp() -> bool {
    let no_filter = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel checks the address, and without a filter installs none.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, no_filter) };
    Errno::result(answer) == Err(Errno::EFAULT)
}
