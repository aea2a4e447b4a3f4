//! Where a layer cannot be, and the kernel does not say so: it fails with EINVAL, mounts read-only, or mounts what
//! later fails.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::stat;
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use shared::explain;
use shared::failure::{Failure, STEP_FAILED, errno as in_words, is};
use users::parts::Tree;

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

/// Child, standing beside its layers: an error of mount(2), with the layer that is to blame: EINVAL is one for all.
pub fn no_overlay(error: Error, data: &Path, lowers: &[Tree]) -> Error {
    if !is(&error, Errno::EINVAL) {
        return error;
    }
    if kind(Path::new("upper")) == Some(OVERLAYFS_SUPER_MAGIC) {
        return elsewhere(data, Path::new("."), &format!("is an overlay itself: {error:#}"));
    }
    let device = |dir: &str| stat(dir).map(|it| it.st_dev);
    if device("upper") != device("work") {
        return failure(
            format!("no upper layer can be in {}: `upper` and `work` in it are on two file systems", data.display()),
            "unmount what is mounted in it",
        );
    }
    let numbered = lowers.iter().enumerate().map(|(number, tree)| (number.to_string(), tree.source()));
    let refused = numbered.into_iter().find(|(name, _)| is_no_lower(name));
    refused.map_or(error, |(name, source)| no_lower(source, kind(Path::new(&name))))
}

/// Child: whether the kernel takes this one not even with an empty directory beside it, and nothing to be written to.
fn is_no_lower(name: &str) -> bool {
    let options = format!("userxattr,lowerdir={name}:upper");
    let tried = mount(Some("overlay"), "root", Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()));
    if tried.is_ok() {
        let _ = umount2("root", MntFlags::MNT_DETACH); // the next is tried there
    }
    tried == Err(Errno::EINVAL)
}

fn no_lower(source: &Path, kind: Option<FsType>) -> Error {
    let source = source.display();
    let why = match kind {
        Some(OVERLAYFS_SUPER_MAGIC) => {
            "it lies on an overlay that lies on another, and the kernel puts no third one on them".to_owned()
        }
        kind => format!("the kernel takes none from its file system{} (`dmesg | tail` says why)", name(kind)),
    };
    failure(
        format!("{source} cannot be a layer: {why}"),
        &format!("copy it to a directory on disk (`cp -a {source} DIR`) and name that, or use --no-overlay"),
    )
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
    let sentence = format!("setxattr({path:?}, {name:?}): {}", in_words(errno));
    let is_kept_nowhere = [Errno::ENOTSUP, Errno::EPERM].contains(&errno);
    let remedy = "this file system does not keep what a layer needs: name a directory on another one, or a FILE.tar";
    Failure { code: STEP_FAILED, sentence, remedy: is_kept_nowhere.then(|| remedy.to_owned()) }.into()
}

/// `data` is its path on the host, `here` the same as this process reaches it.
fn elsewhere(data: &Path, here: &Path, because: &str) -> Error {
    failure(
        format!("no upper layer can be in {}: its file system{} {because}", data.display(), name(kind(here))),
        "name a directory on another one, such as ext4, xfs or btrfs, in XDG_DATA_HOME; or let the container write into its \
         root itself, with --no-overlay",
    )
}

fn failure(sentence: String, remedy: &str) -> Error {
    Failure { code: STEP_FAILED, sentence, remedy: Some(remedy.to_owned()) }.into()
}

fn kind(dir: &Path) -> Option<FsType> {
    statfs(dir).ok().map(|it| it.filesystem_type())
}

fn name(kind: Option<FsType>) -> String {
    match kind {
        Some(OVERLAYFS_SUPER_MAGIC) => " (overlay)".to_owned(),
        Some(TMPFS_MAGIC) => " (tmpfs)".to_owned(),
        Some(FsType(number)) => format!(" (type {number:#x} in statfs(2))"),
        None => String::new(),
    }
}
