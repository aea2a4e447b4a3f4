//! Why execve(2) has refused. Its EACCES alone has six causes; the sentence names the one that it was.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, faccessat, getegid, geteuid};
use shared::failure::{self, Failure};

use crate::id_words;

/// A shell's exit code for a command that was found but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// And for one that was not found.
pub const NOT_FOUND: u8 = 127;

/// The sentence for an execve(2) that has returned.
pub fn executed(path: &CStr, errno: Errno) -> Failure {
    let file = Path::new(OsStr::from_bytes(path.to_bytes()));
    let (code, why) = match errno {
        Errno::ENOENT if file.exists() => (
            NOT_EXECUTABLE,
            interpreter(file)
                .map_or("its interpreter is missing".to_owned(), |i| format!("its interpreter {i:?} is missing")),
        ),
        Errno::ENOENT => (NOT_FOUND, "there is no such file".to_owned()),
        Errno::ENOTDIR => (NOT_FOUND, "there is no such file, as a part of the path is no directory".to_owned()),
        Errno::EACCES => (NOT_EXECUTABLE, denied(file)),
        Errno::ENOEXEC => (
            NOT_EXECUTABLE,
            "it is no program of a format that this kernel knows, nor a script that begins with #!".to_owned(),
        ),
        _ => (NOT_EXECUTABLE, "the kernel refused".to_owned()),
    };
    Failure { code, sentence: format!("execve({path:?}, …): {}: {why}", failure::errno(errno)), remedy: None }
}

/// Whether this process may execute a file, or search a directory, by its mode, owner and mount.
pub fn may_execute(path: &Path) -> bool {
    access(path).is_ok()
}

/// As the effective user: access(2) asks for the real one.
fn access(path: &Path) -> nix::Result<()> {
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// Why a file may not be executed: EACCES in execve(2).
pub fn denied(file: &Path) -> String {
    if let Some(directory) = closed_directory(file, 0) {
        return format!("{} may not be searched: {}", directory.display(), rights(&directory));
    }
    let Ok(it) = file.metadata() else {
        return "a directory on the way to it may not be searched".to_owned();
    };
    if it.is_dir() {
        return "it is a directory".to_owned();
    }
    if !it.is_file() {
        return "it is no regular file".to_owned();
    }
    if let Some(mount) = noexec(file) {
        return format!("{} is mounted noexec", mount.display());
    }
    if it.mode() & 0o111 == 0 {
        return format!("it is not executable: {}", mode(&it));
    }
    if !may_execute(file) {
        return format!("it is not executable for this user: {}", rights(file));
    }
    // A script or a dynamic program is opened and executed by another one.
    match interpreter(file) {
        Some(other) if access(&other).is_err() || noexec(&other).is_some() => {
            format!("its interpreter {other:?}: {}", denied(&other))
        }
        _ => "its mode allows it, so a security module (AppArmor, SELinux) forbids it".to_owned(),
    }
}

/// The directory on the way to a path that this process may not search, also where a link leads there. path_resolution(7).
fn closed_directory(path: &Path, links: u8) -> Option<PathBuf> {
    let parents = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect::<Vec<_>>();
    if let Some(closed) = parents.into_iter().rev().find(|parent| access(parent) == Err(Errno::EACCES)) {
        // It is closed itself, or it is a link to a place below one that is.
        return Some(behind(closed, links).unwrap_or_else(|| closed.to_owned()));
    }
    behind(path, links)
}

fn behind(link: &Path, links: u8) -> Option<PathBuf> {
    // As many as the kernel follows, else ELOOP.
    let target = std::fs::read_link(link).ok().filter(|_| links < 40)?;
    let target = link.parent().unwrap_or(Path::new("")).join(target);
    closed_directory(&target, links + 1)
        .or_else(|| (access(&target) == Err(Errno::EACCES) && target.is_dir()).then_some(target))
}

/// The directory from which on everything is mounted noexec. mount(8).
fn noexec(file: &Path) -> Option<PathBuf> {
    let is_noexec = |path: &Path| statvfs(path).is_ok_and(|it| it.flags().contains(FsFlags::ST_NOEXEC));
    let device = file.metadata().ok()?.dev();
    let is_same = |path: &Path| path.metadata().is_ok_and(|it| it.dev() == device);
    let file = file.canonicalize().ok()?;
    let mount = file.ancestors().take_while(|path| is_noexec(path) && is_same(path)).last()?;
    Some(mount.to_owned())
}

/// `mode 0700, of user 0 and group 0; this process is user 1000 and group 1000`.
fn rights(path: &Path) -> String {
    let whose = |uid, gid| format!("{} and {}", id_words::user(uid), id_words::group(gid));
    let this = format!("this process is {}", whose(geteuid().as_raw(), getegid().as_raw()));
    path.metadata().map_or(this.clone(), |it| format!("{}, of {}; {this}", mode(&it), whose(it.uid(), it.gid())))
}

fn mode(it: &Metadata) -> String {
    format!("mode {:04o}", it.mode() & 0o7777)
}

/// What a file asks to be run by: the word behind `#!`, or a dynamic program's loader. See execve(2).
fn interpreter(file: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    std::fs::File::open(file).ok()?.take(4096).read_to_end(&mut head).ok()?;
    named_in(&head).map(|name| OsString::from_vec(name).into())
}

/// The same, from the first page of the file.
fn named_in(head: &[u8]) -> Option<Vec<u8>> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next()?.trim_ascii();
        return Some(line.split(|b| b.is_ascii_whitespace()).next()?.to_vec());
    }
    // The loader's path stands in the first page of an ELF file, as a string of its own.
    let mut strings = head.split(|b| *b == 0).filter(|_| head.starts_with(b"\x7fELF"));
    strings.find(|text| text.starts_with(b"/") && text.is_ascii()).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_stands_in_the_first_page() {
        assert_eq!(named_in(b"#! /bin/sh -e\nexit"), Some(b"/bin/sh".to_vec()));
        assert_eq!(named_in(b"\x7fELF\x02\0\0/lib64/ld.so\0rest"), Some(b"/lib64/ld.so".to_vec()));
        assert_eq!(named_in(b"\0/bin/sh\0"), None);
        assert_eq!(named_in(b"echo"), None);
    }

    #[test]
    fn no_file_and_no_mode_for_it_have_two_sentences() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("plain");
        std::fs::write(&file, "").expect("a file");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("a mode");
        assert_eq!(denied(dir.path()), "it is a directory");
        assert_eq!(denied(Path::new("/dev/null")), "it is no regular file");
        // A temporary directory may be mounted noexec, which is then the reason.
        let why = denied(&file);
        assert!(why == "it is not executable: mode 0640" || why.ends_with("noexec"), "{why}");
    }
}
