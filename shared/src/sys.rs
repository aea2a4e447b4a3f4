//! System calls that the crate `nix` lacks, or has in unsafe functions only, and that every step makes.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Gives a signal, by its number, its default action. signal(2); nix has no names for real-time signals.
pub fn set_default(signal: i32) -> nix::Result<()> {
    // SAFETY: SIG_DFL runs no code of ours, so nothing in a handler can be unsafe.
    Errno::result(unsafe { libc::signal(signal, libc::SIG_DFL) }).map(drop)
}

/// Ignores a signal. signal(2).
pub fn ignore(signal: i32) -> nix::Result<()> {
    // SAFETY: SIG_IGN runs no code of ours.
    Errno::result(unsafe { libc::signal(signal, libc::SIG_IGN) }).map(drop)
}

/// Whether this process ignores a signal: asked without changing it, for which nix has no function. sigaction(2).
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: a sigaction of zeros is a valid one.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes to `now`, which outlives it.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut now) };
    asked == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Takes a lock on a file or directory, which closing its last descriptor releases. flock(2). Not nix's, which panics where
/// it cannot be released before that.
pub fn flock(file: BorrowedFd, operation: i32) -> nix::Result<()> {
    // SAFETY: takes two numbers and touches no memory of ours.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_can_be_ignored_and_get_its_default_action_back() {
        for signal in [libc::SIGUSR2, libc::SIGRTMIN()] {
            assert_eq!(ignore(signal), Ok(()));
            assert!(is_ignored(signal));
            assert_eq!(set_default(signal), Ok(()));
            assert!(!is_ignored(signal));
        }
        assert_eq!(ignore(libc::SIGKILL), Err(Errno::EINVAL));
    }
}
