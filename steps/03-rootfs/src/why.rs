//! Why a call was refused, where its errno alone leaves the reader to guess.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};
use shared::failure::{During, Failure, STEP_FAILED, is};
use shared::mountinfo::Mount;

/// What is at this path. stat(2).
///
/// # Errors
/// ENOENT; EACCES, with the directory that may not be searched.
pub fn metadata(path: &Path) -> Result<Metadata> {
    path.metadata().during(path.display()).map_err(|error| closed(error, path))
}

/// An error of a call with this path: of EACCES, with the directory on the way to it that this process may not search.
/// Without such a directory it is left as it was: a security module can refuse with EACCES, too.
pub fn closed(error: Error, path: &Path) -> Error {
    if !is(&error, Errno::EACCES) {
        return error;
    }
    match closed_directory(path, 0, &may_search) {
        Some(dir) => refused(error, &dir),
        None => error,
    }
}

/// The same, of a directory that is known to be the closed one.
pub fn refused(error: Error, dir: &Path) -> Error {
    let mode = dir.metadata().map_or(String::new(), |it| format!(" (mode {:04o})", it.permissions().mode() & 0o7777));
    Failure {
        code: STEP_FAILED,
        sentence: format!("this user may not search the directory {}{mode}: {error:#}", dir.display()),
        remedy: Some(format!("chmod o+x {}, or use a directory outside of it", dir.display())),
    }
    .into()
}

fn may_search(dir: &Path) -> bool {
    eaccess(dir, AccessFlags::X_OK) != Err(Errno::EACCES)
}

/// The first directory on the way to `path`, or `path` itself if it is one, that may not be searched. Through symbolic
/// links, at most as many as the kernel follows: path_resolution(7).
fn closed_directory(path: &Path, links: usize, may_search: &impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut on_the_way: Vec<_> = path.ancestors().collect();
    on_the_way.reverse();
    for dir in on_the_way {
        // Only what can be reached is looked at, as the search begins at the top.
        let there = dir.symlink_metadata().ok()?;
        if there.is_symlink() && links < 40 {
            let target = dir.parent()?.join(dir.read_link().ok()?);
            if let Some(closed) = closed_directory(&target, links + 1, may_search) {
                return Some(closed);
            }
        } else if there.is_dir() && !may_search(dir) {
            return Some(dir.to_owned());
        }
    }
    None
}

/// Why pivot_root(2) says EINVAL, from the caller's own mounts.
#[derive(Debug, PartialEq)]
pub enum Pivot {
    /// The caller's root is in the middle of a mount: chroot(2).
    Chroot,
    /// The caller's root is the kernel's first file system, which has nothing above it: an initramfs.
    Initramfs,
    /// A mount above is shared with other namespaces.
    Shared,
    /// None of these: it is the new root that is not a mount point.
    NoMountPoint,
}

/// Finds the reason.
pub fn pivot(mounts: &[Mount]) -> Pivot {
    match mounts.iter().rfind(|mount| mount.point == Path::new("/")) {
        None => Pivot::Chroot,
        Some(top) if top.kind == "rootfs" => Pivot::Initramfs,
        _ if mounts.iter().any(|mount| mount.propagation.contains("shared:")) => Pivot::Shared,
        Some(_) => Pivot::NoMountPoint,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_first_closed_directory_is_named_also_behind_a_link() {
        let dir = tempfile::tempdir().expect("tempdir");
        let top = dir.path().canonicalize().expect("path");
        std::fs::create_dir_all(top.join("home/user/root")).expect("mkdir");
        symlink("home/user", top.join("link")).expect("link");
        let find = |path: &str, closed: &str| {
            let closed = top.join(closed);
            closed_directory(&top.join(path), 0, &|dir| dir != closed)
        };
        assert_eq!(find("home/user/root", "home"), Some(top.join("home")));
        assert_eq!(find("home/user/root", "home/user/root"), Some(top.join("home/user/root")));
        assert_eq!(find("link/root", "home/user"), Some(top.join("home/user")));
        assert_eq!(find("home/user/root", "elsewhere"), None);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().expect("tempdir");
        symlink("loop", dir.path().join("loop")).expect("link");
        assert_eq!(closed_directory(&dir.path().join("loop/x"), 0, &|_| true), None);
    }

    #[test]
    fn the_reasons_of_pivot_root_are_distinguished() {
        let mount = |point: &str, propagation: &str, kind: &str| Mount {
            device: 0,
            root: "/".into(),
            point: point.into(),
            propagation: propagation.into(),
            kind: kind.into(),
            options: vec![],
        };
        assert_eq!(pivot(&[mount("/proc", "", "proc")]), Pivot::Chroot);
        assert_eq!(pivot(&[mount("/", "", "rootfs")]), Pivot::Initramfs);
        assert_eq!(pivot(&[mount("/", "", "rootfs"), mount("/", "", "ext4")]), Pivot::NoMountPoint);
        assert_eq!(pivot(&[mount("/", "shared:1", "ext4")]), Pivot::Shared);
        assert_eq!(pivot(&[mount("/", "master:1", "ext4")]), Pivot::NoMountPoint);
    }
}
