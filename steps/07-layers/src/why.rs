//! Where an upper layer cannot be, and the kernel does not say so: it fails with EINVAL, mounts read-only, or mounts what
//! later fails.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use shared::explain;
use shared::failure::{self, Failure, STEP_FAILED, is};

use crate::sys;

/// The name of an attribute that means nothing to the kernel.
const TRIAL: &std::ffi::CStr = c"user.step07";

/// Host, and the upper layer just made: that its file system keeps such attributes as the kernel's notes are.
pub fn without_attributes(upper: &Path) -> Result<()> {
    if explain::dry_run() {
        return Ok(());
    }
    let path = CString::new(upper.as_os_str().as_bytes()).context("a NUL byte in a path")?;
    match sys::set(&path, TRIAL, b"y").and_then(|()| sys::remove(&path, TRIAL)) {
        Ok(()) => Ok(()),
        // hostfs says EPERM
        Err(errno) => {
            let data = upper.parent().unwrap_or(upper);
            Err(elsewhere(data, upper, &format!("keeps no attributes of a user ({errno:?})")))
        }
    }
}

/// Child, standing beside its layers: an error of mount(2), with the file system if it is to blame.
pub fn no_upper(error: Error, data: &Path) -> Error {
    let kind = statfs("upper").map(|it| it.filesystem_type());
    if is(&error, Errno::EINVAL) && kind == Ok(OVERLAYFS_SUPER_MAGIC) {
        return elsewhere(data, Path::new("."), &format!("is an overlay itself: {error:#}"));
    }
    error
}

/// Child: that what it has mounted can be written to. Where a file system lacks something (renaming with a whiteout, say)
/// the kernel mounts it read-only, and says why in dmesg(1) alone.
pub fn read_only(overlay: &OwnedFd, data: &Path) -> Result<()> {
    let is_read_only = || fstatvfs(overlay.as_fd()).is_ok_and(|it| it.flags().contains(FsFlags::ST_RDONLY));
    if !explain::dry_run() && is_read_only() {
        return Err(elsewhere(data, Path::new("."), "lacks what an upper layer needs (`dmesg | tail` says what)"));
    }
    Ok(())
}

/// Host, and a layer half copied: why one of its attributes cannot be kept at this path.
pub fn no_attribute(errno: Errno, path: &Path, name: &str) -> Error {
    let sentence = format!("setxattr({path:?}, {name:?}): {}", failure::errno(errno));
    let is_kept_nowhere = [Errno::ENOTSUP, Errno::EPERM].contains(&errno);
    let remedy = "this file system does not keep what a layer needs: name a directory on another one, or a FILE.tar";
    Failure { code: STEP_FAILED, sentence, remedy: is_kept_nowhere.then(|| remedy.to_owned()) }.into()
}

/// `data` is its path on the host, `here` the same as this process reaches it.
fn elsewhere(data: &Path, here: &Path, because: &str) -> Error {
    let kind = statfs(here).map_or(String::new(), |it| name(it.filesystem_type()));
    Failure {
        code: STEP_FAILED,
        sentence: format!("no upper layer can be in {}: its file system{kind} {because}", data.display()),
        remedy: Some(
            "name a directory on another one, such as ext4, xfs or btrfs, in XDG_DATA_HOME; or let the container write into \
             its root itself, with --no-overlay"
                .to_owned(),
        ),
    }
    .into()
}

fn name(kind: FsType) -> String {
    match kind {
        OVERLAYFS_SUPER_MAGIC => " (overlay)".to_owned(),
        TMPFS_MAGIC => " (tmpfs)".to_owned(),
        FsType(number) => format!(" (type {number:#x} in statfs(2))"),
    }
}
