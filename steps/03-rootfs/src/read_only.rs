//! Mounts that are read-only from the first moment on.
//!
//! Bound first and made read-only afterwards, a mount would have to be found a second time, by a path that another
//! container on the same root may have changed meanwhile; and another mount would become read-only.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::fcntl::AT_FDCWD;
use shared::{call, explain};

use crate::inside::Place;
use crate::sys;

/// Child: mounts what is at this path of the host's, with all that is mounted below it, at a place inside, read-only.
pub fn bind(source: &str, place: &Place) -> Result<()> {
    let path = CString::new(source).context("a NUL byte in a path")?;
    let tree = explain::child(call!("open_tree(AT_FDCWD, {source:?}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE)"))
        .run(|| sys::copy_mount(&path, true))?;
    let (from, to) = (tree.as_raw_fd(), place.as_raw_fd());
    explain::child(call!("mount_setattr({from}, \"\", AT_EMPTY_PATH|AT_RECURSIVE, {{attr_set=MOUNT_ATTR_RDONLY}})"))
        .run(|| sys::mount_read_only(tree.as_fd(), true))?;
    explain::child(call!("move_mount({from}, \"\", {to}, \"\", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)"))
        .run(|| sys::move_mount(tree.as_fd(), place.as_fd(), c""))
}

/// Child, standing in the new root: makes that read-only, and not what is mounted in it.
pub fn set_root_read_only() -> Result<()> {
    explain::child(call!("mount_setattr(AT_FDCWD, \"\", AT_EMPTY_PATH, {{attr_set=MOUNT_ATTR_RDONLY}})"))
        .run(|| sys::mount_read_only(AT_FDCWD, false))
}
