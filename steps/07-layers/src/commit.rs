//! What a container has written, as a layer of its own: a directory as the kernel has them, or an archive as images have.
//!
//! It appears whole or not at all, also after SIGKILL or on a full disk. A directory is made beside its name, in one that
//! nobody else may enter, and renamed; what is left of one that was killed goes with the next, or with the container. An
//! archive is a file without a name until it is whole.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsString};
use std::fs::{File, Permissions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, Whence, fchownat, geteuid, linkat, lseek, syncfs};
use shared::failure::During;
use shared::{call, explain};

use crate::ids::{Inside, OwnerIds};
use crate::layer::{self, Entry, Layer};
use crate::{archive, sys, why};

/// A link in a container's own directory, to where a layer of it is being made.
const RECORD: &str = "commit";

/// What a container has written, where it lies.
pub struct Source<'a> {
    /// The container's own directory on disk.
    pub data: &'a Path,
    /// Whose its files are.
    pub inside: &'a Inside,
    /// Fails where that has changed while it was read.
    pub is_as_it_was: &'a dyn Fn() -> Result<()>,
}

impl Source<'_> {
    fn upper(&self) -> PathBuf {
        self.data.join("upper")
    }

    fn open(&self) -> Result<Layer> {
        Layer::open(&self.upper(), self.inside.ids())
    }
}

/// Host: the layer as a directory, on any file system. Its files belong to the ids inside: on the host those of a root
/// filesystem, from 0 on; for an ordinary user, to that user and the range.
///
/// # Errors
/// EEXIST where something is at `to` already; ENOTSUP where attributes cannot be kept there; ENOSPC.
pub fn directory(from: &Source, to: &Path) -> Result<()> {
    let to = new_place(to)?;
    let discard = || discard(from.data, |remove| from.inside.with_all_rights(remove));
    discard()?; // one that was killed has left it
    let layer = make_place(from.data, &to)?.join("layer");
    explain::host(call!("cp -a {} {}", from.upper().display(), layer.display())).announce()?;
    let make = || {
        copy(&from.open()?, &layer)?;
        File::open(&layer).and_then(|dir| Ok(syncfs(&dir)?)).during(format_args!("syncfs({})", layer.display()))
    };
    // Its top may be one that this user may not write to, and so may not rename either: root inside may.
    let name = || {
        explain::host(call!("renameat2(AT_FDCWD, {layer:?}, AT_FDCWD, {to:?}, RENAME_NOREPLACE)"))
            .run(|| renameat2(AT_FDCWD, &layer, AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE))
    };
    let made = if explain::dry_run() {
        name()
    } else {
        let make = from.inside.with_all_rights(make);
        make.and_then(|()| (from.is_as_it_was)()).and_then(|()| from.inside.with_all_rights(name))
    };
    let made = made.and_then(|()| keep_name(&to));
    // Where both fail, the first is the one to report.
    let discarded = discard();
    made.and(discarded)
}

/// Where a layer is made: on the file system where it will be. Nobody else may enter it, as the top of the layer may belong
/// to an id inside, which is a user outside, too: that one could put a link in the way of what is still to be written.
///
/// Before it is made, a link to it says where it is, for those who remove it.
fn make_place(data: &Path, to: &Path) -> Result<PathBuf> {
    let id = data.file_name().context("a container has an id")?;
    let mut name = OsString::from(".commit-");
    name.push(id);
    let place = to.with_file_name(name);
    let record = data.join(RECORD);
    explain::host(call!("symlink({place:?}, {record:?})")).run(|| symlink(&place, &record))?;
    let made = explain::host(call!("mkdir({place:?}, 0700)")).run(|| engine::directory::make(&place));
    if made.is_err() {
        let _ = std::fs::remove_file(&record); // another's is not to be removed
    }
    made.map(|()| place)
}

/// Host: removes what is left beside the name of a layer, whole or not: `data` says where that is.
///
/// # Errors
/// Where the kernel refuses.
pub fn discard(data: &Path, with_all_rights: impl Fn(&dyn Fn() -> Result<()>) -> Result<()>) -> Result<()> {
    let record = data.join(RECORD);
    let Ok(place) = std::fs::read_link(&record) else { return Ok(()) };
    let is_ours = place.symlink_metadata().is_ok_and(|it| it.is_dir() && it.uid() == geteuid().as_raw());
    if is_ours {
        explain::host(call!("rm -r {}", place.display())).cleanup().announce()?;
        let layer = place.join("layer");
        let remove = || layer::remove(&layer).during(format_args!("rm -r {}", layer.display()));
        remove().or_else(|_| with_all_rights(&remove))?;
        std::fs::remove_dir(&place).during(format_args!("rmdir({place:?})"))?;
    }
    std::fs::remove_file(&record).during(format_args!("unlink({record:?})"))
}

/// Host: the same as an archive.
///
/// # Errors
/// EEXIST where something is at `to` already; EOPNOTSUPP where its file system has no O_TMPFILE; ENOSPC; a file whose name
/// would say in an archive that another one is deleted.
pub fn archive(from: &Source, to: &Path) -> Result<()> {
    let to = new_place(to)?;
    let dir = to.parent().context("an archive has a directory")?;
    let mut file = None;
    explain::host(call!("open({dir:?}, O_TMPFILE|O_WRONLY, 0666)")).run(|| {
        let made = File::options().write(true).mode(0o666).custom_flags(libc::O_TMPFILE).open(dir)?;
        file = Some(made);
        Ok::<_, std::io::Error>(())
    })?;
    let Some(file) = file else { return Ok(()) }; // a dry run
    from.inside.with_all_rights(|| archive::write(&from.open()?, &file))?;
    (from.is_as_it_was)()?;
    explain::host(call!("fsync({})", file.as_raw_fd())).run(|| file.sync_all())?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    explain::host(call!("linkat(AT_FDCWD, {unnamed:?}, AT_FDCWD, {to:?}, AT_SYMLINK_FOLLOW)"))
        .run(|| linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, &to, AtFlags::AT_SYMLINK_FOLLOW))?;
    keep_name(&to)
}

fn new_place(to: &Path) -> Result<PathBuf> {
    let to = std::path::absolute(to).during("cannot determine the current directory")?;
    ensure!(to.symlink_metadata().is_err(), "{} is there already: a layer never replaces anything", to.display());
    let above = to.parent().unwrap_or(Path::new("/"));
    ensure!(above.is_dir(), "{} is not a directory: a layer is made in one that is there", above.display());
    Ok(to)
}

/// The new name is on the disk when the command ends. fsync(2).
fn keep_name(path: &Path) -> Result<()> {
    let Some(dir) = path.parent().filter(|_| !explain::dry_run()) else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).during(format_args!("fsync({})", dir.display()))
}

/// Host: how many bytes of the disk a layer takes.
///
/// # Errors
/// Where it cannot be read.
pub fn size(layer: &Layer) -> Result<u64> {
    let mut seen = HashSet::new();
    let mut blocks = 0;
    visit(layer, |_, entry| {
        if seen.insert(identity(entry)) {
            blocks += entry.stat.st_blocks as u64;
        }
        Ok(())
    })?;
    Ok(blocks * 512)
}

/// Everything in a layer, in the order of its names, a directory before what is in it.
pub(crate) fn visit(layer: &Layer, mut act: impl FnMut(&Path, &Entry) -> Result<()>) -> Result<()> {
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let Some(entry) = layer.look(&path)? else { continue }; // gone meanwhile
        act(&path, &entry).with_context(|| format!("/{}", path.display()))?;
        if entry.is_directory() {
            left.extend(entry.names()?.into_iter().rev().map(|name| path.join(name)));
        }
    }
    Ok(())
}

/// By which a file with several names is known.
pub(crate) fn identity(entry: &Entry) -> (u64, u64) {
    (entry.stat.st_dev, entry.stat.st_ino)
}

/// Copies a layer. `to` is this user's alone: no link in it leads anywhere that is not in it.
fn copy(from: &Layer, to: &Path) -> Result<()> {
    let mut names: HashMap<_, PathBuf> = HashMap::new();
    let mut directories = Vec::new();
    visit(from, |path, entry| {
        // Joined with nothing, it would end with a slash, and what that leads to would be meant.
        let to = if path.as_os_str().is_empty() { to.to_owned() } else { to.join(path) };
        let first = names.get(&identity(entry)).filter(|_| !entry.is_directory() && !entry.is_whiteout());
        if first.is_some_and(|first| std::fs::hard_link(first, &to).is_ok()) {
            return Ok(());
        }
        make(entry, &to)?;
        give(entry, &to, &from.ids)?;
        if entry.is_directory() {
            directories.push((to, entry.stat));
        } else {
            set_time(&to, &entry.stat)?;
            names.insert(identity(entry), to);
        }
        Ok(())
    })?;
    // Last, as each name that is made in a directory changes its time.
    directories.iter().rev().try_for_each(|(dir, stat)| set_time(dir, stat))
}

fn make(entry: &Entry, to: &Path) -> Result<()> {
    let made = match entry.kind() {
        SFlag::S_IFDIR => std::fs::create_dir(to),
        SFlag::S_IFLNK => return symlink(entry.target()?, to).during(format_args!("symlink({to:?})")),
        SFlag::S_IFREG => {
            let new = File::options().write(true).create_new(true).mode(0o600).open(to);
            let new = new.during(format_args!("open({to:?})"))?;
            return copy_data(&entry.read()?, &new).during(format_args!("write({to:?})"));
        }
        kind => mknod(to, kind, Mode::empty(), entry.stat.st_rdev).map_err(std::io::Error::from),
    };
    made.during(format_args!("cannot make {}", to.display()))
}

/// In this order: a change of the owner takes setuid bits and capabilities away. chown(2), *NOTES*.
fn give(entry: &Entry, to: &Path, ids: &OwnerIds) -> Result<()> {
    let (uid, gid) = ids.inside(entry.stat.st_uid, entry.stat.st_gid);
    fchownat(AT_FDCWD, to, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)
        .during(format_args!("chown({to:?}, {uid}, {gid})"))?;
    if entry.kind() != SFlag::S_IFLNK {
        let mode = Permissions::from_mode(entry.stat.st_mode & 0o7777);
        std::fs::set_permissions(to, mode).during(format_args!("chmod({to:?})"))?;
    }
    let path = CString::new(to.as_os_str().as_bytes()).context("a NUL byte in a path")?;
    for (name, value) in attributes(entry, ids)? {
        let attribute = CString::new(name.as_bytes()).context("a NUL byte in a name")?;
        sys::set(&path, &attribute, &value).map_err(|errno| why::no_attribute(errno, to, &name))?;
    }
    Ok(())
}

fn set_time(to: &Path, stat: &nix::sys::stat::FileStat) -> Result<()> {
    let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    utimensat(AT_FDCWD, to, &time, &time, UtimensatFlags::NoFollowSymlink).during(format_args!("utimensat({to:?})"))
}

/// The attributes of a file, with the ids that are in them as inside. Not the label that a host's policy has given it.
pub(crate) fn attributes(entry: &Entry, ids: &OwnerIds) -> Result<Vec<(String, Vec<u8>)>> {
    let all = entry.attributes()?.into_iter().filter(|(name, _)| name != "security.selinux");
    let named = all.map(|(name, value)| match name.into_string() {
        Ok(name) => Ok((name.clone(), as_inside(&name, value, ids))),
        Err(name) => anyhow::bail!("the name of an attribute is not UTF-8: {name:?}"),
    });
    named.collect()
}

fn as_inside(name: &str, mut value: Vec<u8>, ids: &OwnerIds) -> Vec<u8> {
    match name {
        // VFS_CAP_REVISION_3 has the user id of the root whose capabilities they are at the end; 2 has none, and means the
        // root of whoever reads it. capabilities(7), *File capability extended attribute versioning*.
        "security.capability" if value.len() == 24 && value[3] == 3 && *ids != OwnerIds::Same => {
            value.truncate(20);
            value[3] = 2;
        }
        // A version, and then entries: what it is, its rights, whose. include/uapi/linux/posix_acl_xattr.h.
        "system.posix_acl_access" | "system.posix_acl_default" => {
            for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                let (uid, gid) = ids.inside(id, id);
                match entry[0] {
                    2 => entry[4..].copy_from_slice(&uid.to_le_bytes()), // ACL_USER
                    8 => entry[4..].copy_from_slice(&gid.to_le_bytes()), // ACL_GROUP
                    _ => {}
                }
            }
        }
        _ => {}
    }
    value
}

/// The parts of a file that are no holes: where each begins and ends, in bytes. SEEK_DATA in lseek(2).
pub(crate) fn data(file: &File) -> std::io::Result<Vec<(u64, u64)>> {
    let mut parts = Vec::new();
    let mut at = 0;
    loop {
        match lseek(file, at, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(parts), // nothing more
            begin => {
                let begin = begin?;
                at = lseek(file, begin, Whence::SeekHole)?;
                parts.push((begin as u64, at as u64));
            }
        }
    }
}

fn copy_data(mut from: &File, mut to: &File) -> std::io::Result<()> {
    for (begin, end) in data(from)? {
        from.seek(SeekFrom::Start(begin))?;
        to.seek(SeekFrom::Start(begin))?;
        std::io::copy(&mut from.take(end - begin), &mut to)?;
    }
    to.set_len(from.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use users::ranges::{Map, Range, Ranges, Writer};

    use super::*;

    #[test]
    fn ids_in_attributes_are_those_inside() {
        let range = Ranges(vec![Range { inside: 0, outside: 100_000, count: 65_536 }]);
        let ids = OwnerIds::Of(Map::new(range.clone(), range, Writer::Root));
        let version_3 = [&[1, 0, 0, 3][..], &[0; 16], &100_000_u32.to_le_bytes()].concat();
        assert_eq!(as_inside("security.capability", version_3, &ids), [&[1, 0, 0, 2][..], &[0; 16]].concat());
        let acl = |id: u32| [&[2, 0, 0, 0, 2, 0, 7, 0][..], &id.to_le_bytes()].concat();
        assert_eq!(as_inside("system.posix_acl_access", acl(100_005), &ids), acl(5));
        assert_eq!(as_inside("user.a", acl(100_005), &ids), acl(100_005));
    }

    #[test]
    fn holes_stay_holes() {
        use std::io::Write;
        use std::os::unix::fs::MetadataExt;
        let [mut from, to] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
        from.seek(SeekFrom::Start(1 << 20)).and_then(|_| from.write_all(b"data")).expect("write");
        from.set_len(8 << 20).expect("length");
        copy_data(&from, &to).expect("copy");
        let (from, to) = (from.metadata().expect("from"), to.metadata().expect("to"));
        assert_eq!((to.len(), to.blocks()), (from.len(), from.blocks()));
    }
}
