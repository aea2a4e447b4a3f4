//! One at a time: a lock on a file or directory, which the kernel releases when its holder dies. See flock(2).

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use crate::failure::errno_of;
use crate::sys;

/// A lock, for as long as this is there: in this process, or in a child that was forked meanwhile and has its copy.
pub struct Lock(File);

impl Lock {
    fn take(path: &Path, operation: i32) -> nix::Result<Self> {
        let file = File::open(path).map_err(errno_of)?;
        sys::flock(file.as_fd(), operation).map(|()| Lock(file))
    }

    /// What is locked.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// The lock on a file or directory, if nobody else has it: EWOULDBLOCK where somebody has.
pub fn try_lock(path: &Path) -> nix::Result<Lock> {
    Lock::take(path, libc::LOCK_EX | libc::LOCK_NB)
}

/// Whether a process has the lock on a file or directory. The lock is tried as a shared one, so that two processes that
/// only ask do not hinder each other.
///
/// Where the file cannot be opened, as with too many open files, the answer is yes: a living owner must not be taken
/// for dead.
pub fn is_locked(path: &Path) -> bool {
    match Lock::take(path, libc::LOCK_SH | libc::LOCK_NB) {
        Err(Errno::ENOENT) => false,
        lock => lock.is_err(),
    }
}

/// The lock on a file or directory, which nobody has for long: waits in flock(2).
///
/// # Errors
/// Where it cannot be opened.
pub fn lock(path: &Path) -> nix::Result<Lock> {
    Lock::take(path, libc::LOCK_EX)
}
