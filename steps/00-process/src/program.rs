//! From the words of a command to a program: found in PATH, with an environment, or a sentence that says why not.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use shared::failure::{self, Failure, NOT_EXECUTABLE, NOT_FOUND};

/// The variables that a program starts with.
#[derive(Clone, Debug)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The caller's own.
    pub fn inherited() -> Self {
        Environment(std::env::vars_os().collect())
    }

    /// Just what is given.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Environment(variables.into_iter().collect())
    }

    /// The same, and these; where a name is in both, these hold.
    pub fn with(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.0.extend(variables);
        self
    }

    /// For execve(2).
    pub fn to_c_strings(&self) -> Result<Vec<CString>> {
        let join = |(name, value): (&OsString, &OsString)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            c_string(&variable)
        };
        self.0.iter().map(join).collect()
    }

    fn path(&self) -> &OsStr {
        self.0
            .get(OsStr::new("PATH"))
            .map_or(OsStr::new("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), OsString::as_os_str)
    }
}

/// `/bin/bash`, or `/bin/sh` where there is none, as seen from where the caller stands.
pub fn default_command() -> Vec<OsString> {
    let bash = Path::new("/bin/bash");
    vec![if bash.exists() { bash } else { Path::new("/bin/sh") }.into()]
}

/// A word of the command line, for the kernel.
pub fn c_string(word: &OsStr) -> Result<CString> {
    CString::new(word.as_bytes()).with_context(|| format!("{word:?} has a NUL byte in it"))
}

/// The file to execute: a name with a slash as it is, another one from the first folder of PATH that has it.
pub fn find(name: &OsStr, environment: &Environment) -> Result<CString> {
    if name.as_bytes().contains(&b'/') {
        return c_string(name);
    }
    let candidates = || std::env::split_paths(environment.path()).map(|folder| folder.join(name));
    // One that may be executed is better than an earlier one that may not.
    match candidates().find(|path| is_executable(path)).or_else(|| candidates().find(|path| path.is_file())) {
        Some(path) if !name.is_empty() => c_string(path.as_os_str()),
        _ => Err(Failure {
            code: NOT_FOUND,
            sentence: format!("{name:?}: command not found in PATH {:?}", environment.path()),
            remedy: None,
        }
        .into()),
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// The sentence for an execve(2) that came back.
pub fn not_executable(path: &CStr, errno: Errno) -> Failure {
    let file = Path::new(OsStr::from_bytes(path.to_bytes()));
    let (code, why) = match errno {
        Errno::ENOENT if file.exists() => (
            NOT_EXECUTABLE,
            interpreter(file)
                .map_or("its interpreter is missing".to_owned(), |i| format!("its interpreter {i:?} is missing")),
        ),
        Errno::ENOENT | Errno::ENOTDIR => (NOT_FOUND, "there is no such file".to_owned()),
        Errno::EACCES if file.is_dir() => (NOT_EXECUTABLE, "it is a directory".to_owned()),
        Errno::EACCES => (NOT_EXECUTABLE, "it is not executable".to_owned()),
        Errno::ENOEXEC => (
            NOT_EXECUTABLE,
            "it is no program of a format that this kernel knows, nor a script that begins with #!".to_owned(),
        ),
        _ => (NOT_EXECUTABLE, "the kernel refused".to_owned()),
    };
    Failure { code, sentence: format!("execve({path:?}, …): {}: {why}", failure::errno(errno)), remedy: None }
}

/// What a file asks to be run by: the word behind `#!`, or a dynamic program's loader. See execve(2).
fn interpreter(file: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    std::fs::File::open(file).ok()?.take(4096).read_to_end(&mut head).ok()?;
    let name = if let Some(line) = head.strip_prefix(b"#!") {
        line.split(|b| *b == b'\n').next()?.trim_ascii().split(|b| b.is_ascii_whitespace()).next()?.to_vec()
    } else {
        // The loader's path stands in the first page of an ELF file, as a string of its own.
        head.split(|b| *b == 0)
            .find(|text| text.starts_with(b"/") && text.is_ascii() && head.starts_with(b"\x7fELF"))?
            .to_vec()
    };
    Some(OsString::from_vec(name).into())
}
