//! Places inside the new root, found and made without ever leaving it.
//!
//! A root may come from a stranger. A symbolic link in it like `proc -> /etc` leads, on the host's side, to the host's
//! `/etc`: a mount there would cover it for the child alone, but a directory made there would be made on the host.
//! So each place is opened by openat2(2) with RESOLVE_IN_ROOT, which follows every link as the child will, and mounted on
//! by its descriptor: `/proc/self/fd/7`.
//!
//! The child stands at the top of the new root meanwhile, so AT_FDCWD is that.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mkdirat, mknodat};
use nix::unistd::{AccessFlags, chdir, faccessat, fchdir, symlinkat};
use shared::explain::Returned;
use shared::failure::{During, is};
use shared::{call, explain, kernel_file};

use crate::why;

/// A place in the new root.
pub struct Place(OwnedFd);

/// What to make where nothing is there.
#[derive(Clone, Copy, PartialEq)]
pub enum Make {
    /// To mount a file system on, or a directory.
    Directory,
    /// To bind a file on.
    File,
}

/// Child: the place at this path, made where nothing is there; where a link is that leads to nothing, made where it leads.
///
/// # Errors
/// ENOTDIR where a file is in the way; EACCES, with the directory that is closed to this user; EXDEV where a link of the
/// kernel's is on the path.
pub fn place(path: &Path, make: Make) -> Result<Place> {
    let mut path = relative(path).to_owned();
    // As many links as the kernel would follow. It is the kernel that finds loops; a root that changes could go on.
    for _ in 0..40 {
        if let Some(place) = find(&path, make)? {
            return Ok(place);
        }
        let name = path.file_name().with_context(|| format!("/{} is not there", path.display()))?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = place(above, Make::Directory)?;
        match dir.read_link(name) {
            // An absolute one begins at the top of the root, as `join` has it, too.
            Some(target) => path = relative(&above.join(target)).to_owned(),
            None => dir.make(name, make).with_context(|| format!("cannot make /{}", path.display()))?,
        }
    }
    bail!("/{} is being changed by another process", path.display())
}

/// Child: the place at this path, if anything is there.
fn find(path: &Path, wanted: Make) -> Result<Option<Place>> {
    let kind = if wanted == Make::Directory { OFlag::O_DIRECTORY } else { OFlag::empty() };
    let place = look(path, kind)?;
    if let (Some(place), Make::File) = (&place, wanted) {
        let there = fstat(place).during(path.display())?;
        let is_directory = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR;
        ensure!(!is_directory, "/{} is a directory: a file cannot be mounted on it", path.display());
    }
    Ok(place)
}

/// Child: the number of the mount that is seen at this path, if anything is there. proc_pid_fdinfo(5), *mnt_id*.
///
/// # Errors
/// Those of openat2(2).
pub fn mount_at(path: &Path) -> Result<Option<u64>> {
    let place = look(relative(path), OFlag::empty())?;
    let Some(place) = place.filter(|_| !explain::dry_run()) else { return Ok(None) };
    let info = kernel_file::read(format!("/proc/self/fdinfo/{}", place.as_raw_fd()))?;
    Ok(info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok()))
}

fn look(path: &Path, kind: OFlag) -> Result<Option<Place>> {
    let printed = if kind.is_empty() { "O_PATH|O_CLOEXEC" } else { "O_PATH|O_DIRECTORY|O_CLOEXEC" };
    let Found(place) = explain::child(call!("openat2(AT_FDCWD, {path:?}, {{{printed}, RESOLVE_IN_ROOT}})"))
        .run(|| match open(path, kind) {
            Err(Errno::ENOENT) => Ok(Found(None)),
            place => place.map(Place).map(Some).map(Found),
        })
        .map_err(|error| match closed_directory(path) {
            Some(dir) if is(&error, Errno::EACCES) => why::refused(error, &dir),
            _ => error,
        })?;
    Ok(place)
}

/// What openat2(2) has found. That nothing is there is an answer, too.
struct Found(Option<Place>);

/// Whether a call has made it, or somebody else before.
enum Creation {
    Now,
    Before,
}

fn made(result: nix::Result<()>) -> nix::Result<Creation> {
    match result {
        Err(Errno::EEXIST) => Ok(Creation::Before),
        result => result.map(|()| Creation::Now),
    }
}

impl Returned for Creation {
    fn printed(&self) -> String {
        match self {
            Creation::Now => "0".to_owned(),
            Creation::Before => "EEXIST (fine)".to_owned(),
        }
    }
    fn stand_in() -> std::io::Result<Self> {
        Ok(Creation::Now)
    }
}

impl Returned for Found {
    fn printed(&self) -> String {
        self.0.as_ref().map_or("ENOENT".to_owned(), |place| place.0.printed())
    }
    fn stand_in() -> std::io::Result<Self> {
        OwnedFd::stand_in().map(Place).map(Some).map(Found)
    }
}

fn open(path: &Path, kind: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | kind).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    loop {
        // Something was mounted or renamed, anywhere, while a `..` was being read. See openat2(2).
        match openat2(AT_FDCWD, path, how) {
            Err(Errno::EAGAIN) => {}
            place => return place,
        }
    }
}

/// The directory in the root, on the way to a path, that this process may not search: as the host has it, so that no link
/// of the root's is in its path.
fn closed_directory(path: &Path) -> Option<PathBuf> {
    path.ancestors().skip(1).map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir }).find_map(|dir| {
        let there = Place(open(dir, OFlag::O_DIRECTORY).ok()?);
        let searched = faccessat(&there, ".", AccessFlags::X_OK, AtFlags::AT_EACCESS);
        (searched == Err(Errno::EACCES)).then(|| std::fs::read_link(there.path()).ok()).flatten()
    })
}

/// Child, in its root: goes to a directory in there.
///
/// Not by chdir(2) alone: this process still has descriptors of the host's, and a path like `/proc/self/fd/7` would be
/// the way to them. That was CVE-2024-21626. Links of that kind fail here with EXDEV.
///
/// # Errors
/// Those of openat2(2) and fchdir(2).
pub fn stand_in(workdir: &Path) -> Result<()> {
    let _workdir = explain::one_line(workdir.display());
    explain::child(call!("chdir(\"/\")")).run(|| chdir("/"))?;
    let place = find(relative(workdir), Make::Directory)?;
    let place = place.ok_or(Errno::ENOENT).during(workdir.display())?;
    explain::child(call!("fchdir({})", place.as_raw_fd())).run(|| fchdir(&place.0))
}

impl Place {
    /// Its path for mount(2), which no link inside the root can redirect.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.as_raw_fd())
    }

    /// Child: makes what is wanted in this directory. Another container that starts on the same root may have been faster.
    fn make(&self, name: &OsStr, make: Make) -> Result<()> {
        match make {
            Make::Directory => self.directory(name),
            Make::File => self.node(name, SFlag::S_IFREG, (0, 0)),
        }
    }

    /// Child: makes a directory in this one, unless it is there. mkdir(2).
    pub fn directory(&self, name: &OsStr) -> Result<()> {
        explain::child(call!("mkdirat({}, {name:?}, 0755)", self.as_raw_fd()))
            .run(|| made(mkdirat(&self.0, name, Mode::from_bits_truncate(0o755))))
            .map(drop)
    }

    /// Child: makes an empty file (`S_IFREG`) or a device node (`S_IFCHR`) in this directory, unless it is there. mknod(2).
    pub fn node(&self, name: &OsStr, kind: SFlag, (major, minor): (u64, u64)) -> Result<()> {
        let printed = if kind == SFlag::S_IFREG { "S_IFREG" } else { "S_IFCHR" };
        explain::child(call!("mknodat({}, {name:?}, {printed}|0666, {major}:{minor})", self.as_raw_fd()))
            .run(|| made(mknodat(&self.0, name, kind, Mode::from_bits_truncate(0o666), makedev(major, minor))))
            .map(drop)
    }

    /// Child: makes a symbolic link in this directory.
    pub fn link(&self, to: &str, name: &str) -> Result<()> {
        explain::child(call!("symlinkat({to:?}, {}, {name:?})", self.as_raw_fd())).run(|| symlinkat(to, &self.0, name))
    }

    fn read_link(&self, name: &OsStr) -> Option<PathBuf> {
        readlinkat(&self.0, name).ok().map(PathBuf::from)
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Place {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `proc` for `/proc`, and `.` for `/`, as the child stands at the top.
fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_looked_up_from_the_top_of_the_root() {
        for (path, expected) in [("/", "."), ("/proc", "proc"), ("a/b", "a/b"), ("//a", "a")] {
            assert_eq!(relative(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn what_another_container_has_just_made_is_there() {
        let root = tempfile::tempdir().expect("tempdir");
        let place = Place(std::fs::File::open(root.path()).expect("open").into());
        for _ in 0..2 {
            place.node(OsStr::new("file"), SFlag::S_IFREG, (0, 0)).expect("mknodat");
            place.directory(OsStr::new("directory")).expect("mkdirat");
        }
        assert!(root.path().join("file").is_file() && root.path().join("directory").is_dir());
    }
}
