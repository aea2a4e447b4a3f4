//! A layer as an archive, as images have them: tar(5), and for what is deleted the files `.wh.NAME` and `.wh..wh..opq`
//! of the OCI image specification, *layer.md*.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::sys::stat::{SFlag, major, minor};
use shared::failure::During;
use tar::{Builder, EntryType, Header};

use crate::commit::{attributes, data, identity, visit};
use crate::layer::{Entry, Layer, OPAQUE};

/// In an archive: what is called so behind this is deleted.
const WHITEOUT: &str = ".wh.";
/// In an archive: of this directory nothing of the layers below is to be seen.
const OPAQUE_FILE: &str = ".wh..wh..opq";
/// Bytes of a name in a header; longer ones stand before it, as PAX has it. tar(5).
const NAME: usize = 100;

/// A file on its way into the archive.
struct Member {
    header: Header,
    /// What does not fit into it, by its PAX name.
    more: Vec<(String, Vec<u8>)>,
}

/// Host: writes a layer into a file.
///
/// # Errors
/// ENOSPC; a file whose name would mean something else in an archive.
pub fn write(layer: &Layer, file: &File) -> Result<()> {
    let mut archive = Builder::new(BufWriter::new(file));
    let mut names: HashMap<(u64, u64), PathBuf> = HashMap::new();
    visit(layer, |path, entry| {
        let Some(name) = path.file_name() else { return Ok(()) }; // the top has no name in an archive
        let means_another = name.as_bytes().starts_with(WHITEOUT.as_bytes());
        ensure!(!means_another, "in an archive, a name that begins with {WHITEOUT} would say that a file is deleted");
        if entry.is_whiteout() {
            let name = [WHITEOUT.as_bytes(), name.as_bytes()].concat();
            return empty(&mut archive, &path.with_file_name(std::ffi::OsStr::from_bytes(&name)));
        }
        let mut member = Member::new(path, entry, layer)?;
        let first = names.get(&identity(entry)).filter(|_| !entry.is_directory());
        if let Some(first) = first {
            member.link(EntryType::Link, first.as_os_str().as_bytes());
            return member.append(&mut archive, std::io::empty());
        }
        names.insert(identity(entry), path.to_owned());
        match entry.kind() {
            SFlag::S_IFREG => return member.append_file(&mut archive, path, &entry.read()?),
            SFlag::S_IFLNK => member.link(EntryType::Symlink, entry.target()?.as_bytes()),
            SFlag::S_IFDIR => member.header.set_entry_type(EntryType::Directory),
            SFlag::S_IFIFO => member.header.set_entry_type(EntryType::Fifo),
            SFlag::S_IFSOCK => return Ok(()), // tar has none; nobody listens on it any more
            kind => {
                let is_block = kind == SFlag::S_IFBLK;
                member.header.set_entry_type(if is_block { EntryType::Block } else { EntryType::Char });
                member.header.set_device_major(major(entry.stat.st_rdev) as u32)?;
                member.header.set_device_minor(minor(entry.stat.st_rdev) as u32)?;
            }
        }
        member.append(&mut archive, std::io::empty())?;
        if entry.is_opaque() { empty(&mut archive, &path.join(OPAQUE_FILE)) } else { Ok(()) }
    })?;
    archive.into_inner().and_then(|mut file| file.flush()).during("cannot write the archive")
}

fn empty(archive: &mut Builder<impl Write>, path: &Path) -> Result<()> {
    let mut member = Member { header: Header::new_ustar(), more: Vec::new() };
    member.name(path.as_os_str().as_bytes());
    member.append(archive, std::io::empty())
}

impl Member {
    fn new(path: &Path, entry: &Entry, layer: &Layer) -> Result<Self> {
        let mut member = Member { header: Header::new_ustar(), more: Vec::new() };
        let stat = &entry.stat;
        let (uid, gid) = layer.ids.inside(stat.st_uid, stat.st_gid);
        member.header.set_mode(stat.st_mode & 0o7777);
        member.header.set_uid(uid.into());
        member.header.set_gid(gid.into());
        member.header.set_mtime(stat.st_mtime.try_into().unwrap_or(0));
        member.more.push(("mtime".to_owned(), format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec).into()));
        let slash: &[u8] = if entry.is_directory() { b"/" } else { b"" };
        member.name(&[path.as_os_str().as_bytes(), slash].concat());
        let attributes = attributes(entry, &layer.ids)?.into_iter().filter(|(name, _)| name != OPAQUE);
        member.more.extend(attributes.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)));
        Ok(member)
    }

    fn name(&mut self, name: &[u8]) {
        let length = name.len().min(NAME);
        self.header.as_old_mut().name[..length].copy_from_slice(&name[..length]);
        if name.len() > NAME {
            self.more.push(("path".to_owned(), name.to_owned()));
        }
    }

    fn link(&mut self, kind: EntryType, target: &[u8]) {
        self.header.set_entry_type(kind);
        let length = target.len().min(NAME);
        self.header.as_old_mut().linkname[..length].copy_from_slice(&target[..length]);
        if target.len() > NAME {
            self.more.push(("linkpath".to_owned(), target.to_owned()));
        }
    }

    fn append(mut self, archive: &mut Builder<impl Write>, content: impl Read) -> Result<()> {
        self.header.set_cksum();
        let more = self.more.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        archive.append_pax_extensions(more).and_then(|()| archive.append(&self.header, content)).during("write")
    }

    /// One with holes: a list of what is data stands before that. *GNU.sparse* 1.0, in the manual of GNU tar.
    fn append_file(mut self, archive: &mut Builder<impl Write>, path: &Path, mut file: &File) -> Result<()> {
        let size = file.metadata().during("stat")?.len();
        let parts = data(file).during("lseek")?;
        let length: u64 = parts.iter().map(|(begin, end)| end - begin).sum();
        if length == size {
            self.header.set_size(size);
            file.seek(SeekFrom::Start(0)).during("lseek")?;
            return self.append(archive, file.take(size));
        }
        // The last part is empty, and says where the file ends.
        let mut list = format!("{}\n", parts.len() + 1);
        parts.iter().chain([&(size, size)]).for_each(|(begin, end)| list += &format!("{begin}\n{}\n", end - begin));
        list += &"\0".repeat(list.len().next_multiple_of(512) - list.len());
        self.more.retain(|(name, _)| name != "path");
        for (name, value) in [("major", b"1".to_vec()), ("minor", b"0".to_vec()), ("realsize", size.to_string().into())]
        {
            self.more.push((format!("GNU.sparse.{name}"), value));
        }
        self.more.push(("GNU.sparse.name".to_owned(), path.as_os_str().as_bytes().to_owned()));
        self.header.set_size(list.len() as u64 + length);
        let holes = parts.iter().map(|(begin, end)| {
            file.seek(SeekFrom::Start(*begin))?;
            Ok::<_, std::io::Error>(file.take(end - begin))
        });
        self.append(archive, Chain { list: list.as_bytes(), parts: holes, now: None })
    }
}

/// The list, and then one part of the file after the other.
struct Chain<'l, P, R> {
    list: &'l [u8],
    parts: P,
    now: Option<R>,
}

impl<R: Read, P: Iterator<Item = std::io::Result<R>>> Read for Chain<'_, P, R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if !self.list.is_empty() {
            return self.list.read(into);
        }
        loop {
            if let Some(now) = &mut self.now {
                match now.read(into)? {
                    0 => {}
                    count => return Ok(count),
                }
            }
            match self.parts.next() {
                Some(next) => self.now = Some(next?),
                None => return Ok(0),
            }
        }
    }
}
