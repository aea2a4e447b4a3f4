//! From the words of a command to a program: found in PATH, with an environment.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use shared::failure::Failure;

use crate::why_not::{self, NOT_FOUND};

/// The variables that a program starts with.
#[derive(Clone, Debug, Default)]
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
fn c_string(word: &OsStr) -> Result<CString> {
    CString::new(word.as_bytes()).with_context(|| format!("{word:?} has a NUL byte in it"))
}

/// The words of a command line.
pub fn c_strings(words: &[OsString]) -> Result<Vec<CString>> {
    words.iter().map(|word| c_string(word)).collect()
}

/// The file to execute: a name with a slash as it is, another one from the first directory of PATH that has it.
pub fn find(name: &OsStr, environment: &Environment) -> Result<CString> {
    if name.as_bytes().contains(&b'/') {
        return c_string(name);
    }
    let directories = || std::env::split_paths(environment.path());
    let candidates = || directories().map(|directory| directory.join(name));
    // One that may be executed is better than an earlier one that may not.
    match candidates().find(|path| is_executable(path)).or_else(|| candidates().find(|path| path.is_file())) {
        Some(path) if !name.is_empty() => c_string(path.as_os_str()),
        _ => {
            let mut sentence = format!("{name:?}: command not found in PATH {:?}", environment.path());
            // It may be there, and we cannot know.
            for path in candidates().filter(|path| path.metadata().is_err_and(is_denied)) {
                sentence += &format!("; {}", why_not::denied(&path));
            }
            Err(Failure { code: NOT_FOUND, sentence, remedy: None }.into())
        }
    }
}

/// A program that a step itself needs, from the first directory of the caller's PATH that has it.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn is_denied(error: std::io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && why_not::may_execute(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn of_two_variables_of_one_name_the_later_holds() {
        let both = environment(&[("A", "1"), ("B", "2")]).with([("A".into(), "3".into())]);
        assert_eq!(both.to_c_strings().expect("no NUL"), [c"A=3".into(), CString::from(c"B=2")]);
    }

    #[test]
    fn a_name_with_a_slash_is_taken_as_it_is() {
        assert_eq!(find("./x".as_ref(), &environment(&[])).expect("a path"), CString::from(c"./x"));
    }

    #[test]
    fn a_name_without_one_is_searched_in_path() {
        let dir = tempfile::tempdir().expect("a directory");
        for (place, mode) in [("plain", 0o644), ("good", 0o755)] {
            let file = dir.path().join(place).join("tool");
            std::fs::create_dir(dir.path().join(place)).expect("a directory");
            std::fs::write(&file, "").expect("a file");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("a mode");
        }
        let path = |places: &str| places.replace('@', &dir.path().display().to_string());
        let found = |places: &str| find("tool".as_ref(), &environment(&[("PATH", &path(places))]));
        let tool = |place: &str| CString::new(format!("{}/{place}/tool", dir.path().display())).expect("no NUL");
        assert_eq!(found("@/none:@/plain:@/good").expect("found"), tool("good"));
        assert_eq!(found("@/none:@/plain").expect("found"), tool("plain"));
        let failure = found("@/none").expect_err("not there").downcast::<Failure>().expect("a failure");
        assert!(failure.code == NOT_FOUND && failure.sentence.ends_with("none\""), "{failure}");
    }
}
