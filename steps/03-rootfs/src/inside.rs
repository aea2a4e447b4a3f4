//! Places inside the new root, found and made without ever stepping out of it.
//!
//! A root may come from anyone. A symbolic link in it like `proc -> /etc` leads, on the host's side, to the host's
//! `/etc`: a mount there would cover it for nobody but the child, and a folder made there would be made on the host.
//! So each place is opened by openat2(2) with RESOLVE_IN_ROOT, which reads every link as the child will, and mounted on
//! by its descriptor: `/proc/self/fd/7`.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{fchdir, symlinkat};
use shared::call;
use shared::explain;
use shared::failure::is;
use shared::sys;

/// The new root, not yet entered.
pub struct Inside {
    root: OwnedFd,
}

/// A place in it.
pub struct Place(OwnedFd);

/// A folder or file of the host's with all that is mounted below it, mounted once more and nowhere yet.
pub struct Tree(OwnedFd);

/// What to make where nothing is there.
#[derive(Clone, Copy)]
pub enum Make {
    /// To mount a file system on.
    Folder,
    /// To bind a file on.
    File,
}

impl Inside {
    /// Child: takes hold of the root, after it was made a mount of its own.
    pub fn open(dir: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = explain::child(call!("open({dir:?}, O_PATH|O_DIRECTORY|O_CLOEXEC)"))
            .run(|| open(dir, flags, Mode::empty()))?;
        Ok(Inside { root })
    }

    /// Child: the place at this path, made where nothing is there.
    pub fn place(&self, path: &Path, make: Make) -> Result<Place> {
        match self.find(path) {
            Err(error) if is(&error, Errno::ENOENT) => {
                let path = relative(path);
                let name = path.file_name().context("a path without a name")?;
                let above = self.place(path.parent().unwrap_or(Path::new(".")), Make::Folder)?;
                let made = match make {
                    Make::Folder => above.folder(name),
                    Make::File => above.node(name, SFlag::S_IFREG, (0, 0)),
                };
                made.with_context(|| {
                    format!("rootfs: /{} is not there, or a link that leads nowhere", path.display())
                })?;
                self.find(path)
            }
            found => found,
        }
    }

    /// Child: the place at this path.
    pub fn find(&self, path: &Path) -> Result<Place> {
        let path = relative(path);
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let place = explain::child(call!(
            "openat2({}, {path:?}, {{O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT}})",
            self.root.as_raw_fd()
        ))
        .run(|| {
            loop {
                // Somebody has mounted or renamed something, anywhere, while a `..` was being read. See openat2(2).
                match openat2(&self.root, path, how) {
                    Err(Errno::EAGAIN) => {}
                    place => return place,
                }
            }
        })?;
        Ok(Place(place))
    }

    /// Child: makes the root read-only, and not what is mounted on it.
    pub fn set_read_only(&self) -> Result<()> {
        read_only(&self.root, false)
    }
}

impl Place {
    /// Its path for mount(2), which no link inside the root can bend.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Child: makes a folder in this folder. mkdir(2).
    pub fn folder(&self, name: &OsStr) -> Result<()> {
        explain::child(call!("mkdirat({}, {name:?}, 0755)", self.0.as_raw_fd()))
            .run(|| mkdirat(&self.0, name, Mode::from_bits_truncate(0o755)))
    }

    /// Child: makes an empty file (`S_IFREG`) or a device node (`S_IFCHR`) in this folder. mknod(2).
    pub fn node(&self, name: &OsStr, kind: SFlag, (major, minor): (u64, u64)) -> Result<()> {
        let told = if kind == SFlag::S_IFREG { "S_IFREG" } else { "S_IFCHR" };
        explain::child(call!("mknodat({}, {name:?}, {told}|0666, {major}:{minor})", self.0.as_raw_fd()))
            .run(|| mknodat(&self.0, name, kind, Mode::from_bits_truncate(0o666), makedev(major, minor)))
    }

    /// Child: makes a symbolic link in this folder.
    pub fn link(&self, to: &str, name: &str) -> Result<()> {
        explain::child(call!("symlinkat({to:?}, {}, {name:?})", self.0.as_raw_fd()))
            .run(|| symlinkat(to, &self.0, name))
    }

    /// Child: makes this folder the one that it stands in. fchdir(2).
    pub fn stand_in(&self) -> Result<()> {
        explain::child(call!("fchdir({})", self.0.as_raw_fd())).run(|| fchdir(&self.0))
    }
}

impl Tree {
    /// Child: mounts what is at this path of the host's once more. open_tree(2).
    pub fn of(path: &str) -> Result<Self> {
        let told = call!("open_tree(AT_FDCWD, {path:?}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE)");
        let path = CString::new(path).context("a NUL byte")?;
        Ok(Tree(explain::child(told).run(|| sys::copy_mount(&path, true))?))
    }

    /// Child: makes it read-only, and all mounts below it.
    pub fn set_read_only(&self) -> Result<()> {
        read_only(&self.0, true)
    }

    /// Child: puts it to its place. move_mount(2).
    pub fn move_to(&self, place: &Place) -> Result<()> {
        let told = call!(
            "move_mount({}, \"\", {}, \"\", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)",
            self.0.as_raw_fd(),
            place.0.as_raw_fd()
        );
        explain::child(told).run(|| sys::move_mount(self.0.as_fd(), place.0.as_fd()))
    }
}

fn read_only(mount: &OwnedFd, recursive: bool) -> Result<()> {
    let flags = if recursive { "AT_EMPTY_PATH|AT_RECURSIVE" } else { "AT_EMPTY_PATH" };
    explain::child(call!("mount_setattr({}, \"\", {flags}, {{attr_set=MOUNT_ATTR_RDONLY}})", mount.as_raw_fd()))
        .run(|| sys::mount_read_only(mount.as_fd(), recursive))
}

/// To be looked up from the root's own descriptor, which an absolute path would ignore.
fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
