//! A layer as it lies on the disk, looked at without following a link of the container's: what that has written may lead
//! anywhere, and change while it is read.

use std::ffi::{CString, OsString};
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use shared::failure::During;

use crate::ids::OwnerIds;
use crate::sys;

/// The kernel's note on a directory: of what lies below it in lower layers, nothing is to be seen.
pub const OPAQUE: &str = "user.overlay.opaque";
/// Its other notes begin so, and mean something on this file system only: where a file was copied up from, say.
pub const NOTES: [&str; 2] = ["user.overlay.", "trusted.overlay."];

/// A layer.
pub struct Layer {
    top: OwnedFd,
    path: PathBuf,
    /// Which ids inside those of its files are.
    pub(crate) ids: OwnerIds,
}

/// What is at a path in a layer.
pub struct Entry {
    file: OwnedFd,
    /// Its rights, owner, size and times.
    pub stat: FileStat,
}

/// What several layers show at a path.
pub enum Below<'l> {
    /// Nothing.
    Nothing,
    /// A file of any kind, or a link.
    File,
    /// A directory: what it is in the topmost layer that has it, and all layers that have a part in it.
    Directory(Entry, Vec<&'l Layer>),
}

impl Layer {
    /// The layer in this directory.
    ///
    /// # Errors
    /// ENOENT where there is none.
    pub(crate) fn open(path: &Path, ids: OwnerIds) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let top = open(path, flags, Mode::empty()).during(format_args!("cannot open the layer {}", path.display()))?;
        Ok(Layer { top, path: path.to_owned(), ids })
    }

    /// What is there; `None` where nothing is.
    ///
    /// # Errors
    /// ENAMETOOLONG where it is too deep for a path; EACCES.
    pub fn look(&self, path: &Path) -> Result<Option<Entry>> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let how = how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
        let relative = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match openat2(&self.top, relative, how) {
            // ELOOP: it, or a directory on the way to it, is a link now.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            file => {
                let file = file.during(self.path.join(path).display())?;
                let stat = fstat(&file).during(self.path.join(path).display())?;
                Ok(Some(Entry { file, stat }))
            }
        }
    }
}

/// What these layers, the topmost first, show at a path.
///
/// # Errors
/// Those of [`Layer::look`].
pub fn below<'l>(layers: &[&'l Layer], path: &Path) -> Result<Below<'l>> {
    let mut found: Option<(Entry, Vec<&'l Layer>)> = None;
    for layer in layers {
        match layer.look(path)? {
            None => {}
            Some(entry) if entry.is_directory() => {
                let is_opaque = entry.is_opaque();
                found.get_or_insert_with(|| (entry, Vec::new())).1.push(*layer);
                if is_opaque {
                    break;
                }
            }
            Some(entry) if found.is_none() && !entry.is_whiteout() => return Ok(Below::File),
            Some(_) => break,
        }
    }
    Ok(found.map_or(Below::Nothing, |(entry, layers)| Below::Directory(entry, layers)))
}

impl Entry {
    /// Its type: `S_IFREG`, ….
    pub fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode & SFlag::S_IFMT.bits())
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }

    /// Whether it says that nothing is to be seen at this path: a device with the number 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind() == SFlag::S_IFCHR && self.stat.st_rdev == 0
    }

    /// Whether it is a directory below which nothing of lower layers is to be seen.
    pub fn is_opaque(&self) -> bool {
        let name = CString::new(OPAQUE).unwrap_or_default();
        self.is_directory() && sys::get(self.file.as_fd(), &name).is_ok_and(|value| value == b"y")
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// EACCES.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let path = self.path();
        let entries = std::fs::read_dir(&path).and_then(|all| all.map(|it| Ok(it?.file_name())).collect());
        let mut names: Vec<OsString> = entries.during("cannot read a directory of a layer")?;
        names.sort();
        Ok(names)
    }

    /// Its attributes, without the kernel's notes but that of an opaque directory.
    ///
    /// # Errors
    /// EACCES.
    pub fn attributes(&self) -> Result<Vec<(OsString, Vec<u8>)>> {
        let names = match sys::names(self.file.as_fd()) {
            Err(Errno::ENOTSUP) => Vec::new(),
            names => names.during("cannot list the attributes of a file of a layer")?,
        };
        let is_note = |name: &OsString| NOTES.iter().any(|note| name.as_bytes().starts_with(note.as_bytes()));
        let mut attributes = Vec::new();
        for name in names.into_iter().filter(|name| !is_note(name) || name == OPAQUE) {
            let path = CString::new(name.as_bytes()).unwrap_or_default();
            let value =
                sys::get(self.file.as_fd(), &path).during(format_args!("cannot read the attribute {name:?}"))?;
            attributes.push((name, value));
        }
        Ok(attributes)
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// EINVAL where it is none.
    pub fn target(&self) -> Result<OsString> {
        readlinkat(&self.file, "").during("cannot read a link of a layer")
    }

    /// The file, to be read. Never of another type: it is the one that was looked at.
    ///
    /// # Errors
    /// EACCES.
    pub fn read(&self) -> Result<File> {
        File::open(self.path()).during("cannot open a file of a layer")
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

/// Removes a directory and all that is in it, however deep: what lies too deep is first moved to the top. With a
/// descriptor for each directory on the way, as std has it, a container could make one that is never removed.
pub fn remove(dir: &Path) -> std::io::Result<()> {
    let (mut number, mut is_open) = (0, false);
    loop {
        match std::fs::remove_dir_all(dir) {
            // The kernel's own `work/work` has no rights at all.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_open => {
                open_all(dir);
                is_open = true;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                flatten(dir, &mut number)?;
            }
            removed => return removed,
        }
    }
}

/// Gives this user all rights over the directories that are its own.
fn open_all(dir: &Path) {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        // What fails is another's: then it is not to be removed either, and that is said.
        let _ = std::fs::set_permissions(&dir, Permissions::from_mode(0o700));
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        left.extend(entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir())).map(|entry| entry.path()));
    }
}

/// Cuts a chain of directories into pieces, at the top. A path of a dozen names is never too long.
fn flatten(dir: &Path, number: &mut u32) -> std::io::Result<()> {
    let mut top = dir.to_owned();
    loop {
        let mut deep = top;
        for _ in 0..12 {
            let mut entries = std::fs::read_dir(&deep)?.flatten();
            let Some(next) = entries.find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) else {
                return Ok(());
            };
            deep = next.path();
        }
        *number += 1;
        top = dir.join(format!(".deep-{number}"));
        std::fs::rename(&deep, &top)?;
    }
}
