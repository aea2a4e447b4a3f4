//! A directory that is opened once: what was looked at is what is used, whatever becomes of its path.
//!
//! Checked by its path and then used by its path, it could be exchanged in between: in a directory for everybody's
//! temporary files another user may rename one of theirs into its place, and the engine would list, and kill, what they
//! have written there. See *openat* in open(2), RATIONALE.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use shared::call;
use shared::explain;
use shared::failure::During;

/// A directory that this user alone can look into.
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens it; `None` where there is none.
    ///
    /// # Errors
    /// Where it is a link, or another user's, or open to others, or where others may exchange it.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = match open(path, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => None,
            fd => Some(fd.during(format_args!("cannot open {}", path.display()))?),
        };
        let it = fd.map(|fd| Directory { fd, path: path.to_owned() });
        ensure!(
            it.as_ref().is_some_and(Directory::is_ours_alone),
            "{} is not a directory that this user alone can look into: remove it, or name another place in XDG_RUNTIME_DIR",
            path.display()
        );
        Ok(it)
    }

    /// In a dry run: for one that would be made.
    ///
    /// # Errors
    /// Where `/dev/null` cannot be opened.
    pub fn stand_in(path: &Path) -> Result<Self> {
        let fd = File::open("/dev/null").during("cannot open /dev/null")?.into();
        Ok(Directory { fd, path: path.to_owned() })
    }

    fn is_ours_alone(&self) -> bool {
        let user = geteuid().as_raw();
        let its = self.at("").metadata().is_ok_and(|it| it.uid() == user && it.mode() & 0o077 == 0);
        // The owner of the directory above may rename it; so may everybody where that is open to all and not sticky. See
        // rename(2), EPERM.
        let above = self.at("..").metadata().is_ok_and(|it| {
            [0, user].contains(&it.uid()) && (it.mode() & 0o022 == 0 || it.mode() & libc::S_ISVTX != 0)
        });
        its && above
    }

    /// A name in it, by way of its descriptor: for this process and those that it makes by fork.
    pub fn at(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()).into()
    }

    /// The same, as it is printed.
    pub fn shown(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes what is in it by this name, with all that is in that.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove(&self, name: &str) -> Result<()> {
        explain::host(call!("rm -r {}", self.shown(name).display())).cleanup().run(|| {
            match std::fs::remove_dir_all(self.at(name)) {
                // Another engine that cleans has come first.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        })
    }

    /// Whether its path still leads to it.
    pub fn is_there(&self) -> bool {
        let inode = |path: &Path| path.symlink_metadata().map(|it| (it.dev(), it.ino())).ok();
        inode(&self.path) == inode(&self.at("."))
    }
}

/// The directory that a variable of the environment names, if it is this user's: `sudo -E` brings those of the user who
/// calls.
pub fn of_variable(name: &str) -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os(name)?);
    let is_ours = dir.metadata().is_ok_and(|it| it.is_dir() && it.uid() == geteuid().as_raw());
    (dir.is_absolute() && is_ours).then_some(dir)
}

/// mkdir(2), for this user alone: a log can hold secrets, and the socket starts things.
pub fn make(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    // The caller's umask can only have removed rights, from us too.
    match std::fs::set_permissions(dir, Permissions::from_mode(0o700)) {
        // Another engine has removed the empty store already, as `clean` does: whoever uses it looks again.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        set => set,
    }
}

/// Opens a file to be read. Never waits, as for the writer of a FIFO, and follows no link.
pub fn open_file(path: &Path) -> std::io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::EINVAL.into()) }
}

/// The bytes of a file, at most this many: EFBIG where there are more.
pub fn read(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(Errno::EFBIG.into()) } else { Ok(bytes) }
}

/// A file to be written, without what was there before, be it a link: for this user alone.
pub fn create_file(path: &Path) -> std::io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().append(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?; // as above: the umask
    Ok(file)
}

/// Replaces a file whole: a reader sees the old one or the new one, also after a SIGKILL. Until then the new one is beside
/// it, with `.new` behind its name.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    create_file(new)?.write_all(bytes)?;
    std::fs::rename(new, path)
}
