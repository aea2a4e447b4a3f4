//! The system calls of this step that the crate `nix` does not have, each a thin wrapper: extended attributes, xattr(7).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;

/// The names of the attributes of an open file, also one that is open with O_PATH. listxattr(2).
///
/// # Errors
/// ENOTSUP where the file system has none.
pub fn names(file: BorrowedFd) -> nix::Result<Vec<OsString>> {
    let path = path(file);
    let list = filled(|into: &mut [u8]| {
        // SAFETY: the path ends with a NUL byte, and the kernel writes at most `into.len()` bytes.
        unsafe { libc::listxattr(path.as_ptr(), into.as_mut_ptr().cast(), into.len()) }
    })?;
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}

/// The value of one. getxattr(2).
///
/// # Errors
/// ENODATA where it has none of this name.
pub fn get(file: BorrowedFd, name: &CStr) -> nix::Result<Vec<u8>> {
    let path = path(file);
    filled(|into: &mut [u8]| {
        // SAFETY: both strings end with a NUL byte, and the kernel writes at most `into.len()` bytes.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), into.as_mut_ptr().cast(), into.len()) }
    })
}

/// Gives the file, or the link, at a path an attribute. lsetxattr(2).
///
/// # Errors
/// ENOTSUP where its file system keeps none; EPERM.
pub fn set(path: &CStr, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: both strings end with a NUL byte, and the value's length is passed beside it.
    let set = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(set).map(drop)
}

/// Removes one. lremovexattr(2).
///
/// # Errors
/// ENODATA where there is none of this name.
pub fn remove(path: &CStr, name: &CStr) -> nix::Result<()> {
    // SAFETY: both strings end with a NUL byte.
    Errno::result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// The way to a file that is open with O_PATH, on which calls with a descriptor fail with EBADF; to a link, not where
/// it leads.
fn path(file: BorrowedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}

/// What a call writes into a buffer: 64 KiB, as much as the kernel allows.
fn filled(call: impl Fn(&mut [u8]) -> isize) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    let length = Errno::result(call(&mut bytes))?;
    bytes.truncate(length as usize);
    Ok(bytes)
}
