//! The system calls of this step that the crate `nix` lacks.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::unistd::Pid;

/// Marks every descriptor from `first` on as close-on-exec. close_range(2), Linux 5.11.
pub fn close_range_on_exec(first: u32) -> nix::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed here, so no owner's descriptor becomes invalid.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
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
