//! The system calls of this step that the crate `nix` does not have, each a thin wrapper.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// A copy of the mount that a path is on, with just what lies at and below the path, with `recursive` also what is
/// mounted there. It is in no mount namespace, and is gone with its last user. open_tree(2), Linux 5.2.
///
/// # Errors
/// EACCES where a directory on the path may not be searched; EINVAL where the path is on a mount of another namespace;
/// EPERM without CAP_SYS_ADMIN.
pub fn copy_mount(path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let flags = flags | if recursive { libc::AT_RECURSIVE as u32 } else { 0 };
    // SAFETY: the path ends with a NUL byte, and outlives the call.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches such a copy at a path, or with an empty one where the descriptor of a directory or file is. move_mount(2),
/// Linux 5.2.
///
/// # Errors
/// ENOTDIR where one of the two is a directory and the other is none; ENOSPC beyond `/proc/sys/fs/mount-max`; EINVAL where
/// the place is on a mount of another namespace.
pub fn move_mount(mount: BorrowedFd, to: BorrowedFd, path: &CStr) -> nix::Result<()> {
    let at = if path.is_empty() { libc::MOVE_MOUNT_T_EMPTY_PATH } else { 0 };
    let (from, to, flags) = (mount.as_raw_fd(), to.as_raw_fd(), libc::MOVE_MOUNT_F_EMPTY_PATH | at);
    // SAFETY: both paths end with a NUL byte, and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, path.as_ptr(), flags) };
    Errno::result(result).map(drop)
}

/// Makes a mount, with `recursive` all mounts below it too, read-only and leaves its other flags alone.
/// mount_setattr(2), Linux 5.12.
///
/// # Errors
/// EBUSY where a file on it is open for writing; EINVAL where the descriptor is not the top of a mount.
pub fn mount_read_only(mount: BorrowedFd, recursive: bool) -> nix::Result<()> {
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    mount_setattr(mount, &attr, recursive)
}

/// Changes attributes of a mount, with `recursive` of all mounts below it too. mount_setattr(2), Linux 5.12.
///
/// # Errors
/// Those of the attributes; EINVAL where the descriptor is not the top of a mount.
pub fn mount_setattr(mount: BorrowedFd, attr: &libc::mount_attr, recursive: bool) -> nix::Result<()> {
    let (attr, size) = (std::ptr::from_ref(attr), size_of_val(attr));
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` outlives the call, and its size is passed beside it.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, attr, size) };
    Errno::result(result).map(drop)
}
