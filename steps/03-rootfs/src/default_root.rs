//! The root of a step that was given none: made once, by a script, from this machine's own tools.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use shared::call;
use shared::explain::{self, Returned};
use shared::failure::During;

/// The default root, and the script that makes it, in the directory where this project was built.
pub const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/rootfs");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../rootfs-scripts/host.sh");

/// Host: the default root, made where it is not there yet.
///
/// # Errors
/// Where the script is missing or fails; it has then printed why.
pub fn make() -> Result<PathBuf> {
    let dir = without_dots(Path::new(DEFAULT));
    if !dir.exists() {
        let script = Path::new(SCRIPT).canonicalize().during(format_args!("rootfs: {SCRIPT}: name a --rootfs"))?;
        explain::note("there is no root yet: it is made from this machine's own tools");
        let Code(code) = explain::host(call!("{} {}", script.display(), dir.display())).run(|| run(&script, &dir))?;
        ensure!(code == 0, "rootfs: {} has failed, and printed why; name another root with --rootfs", script.display());
    }
    Ok(dir)
}

/// A program's exit code, or 128 and the signal that ended it.
struct Code(i32);

impl Returned for Code {
    fn printed(&self) -> String {
        self.0.to_string()
    }
    fn stand_in() -> std::io::Result<Self> {
        Ok(Code(0))
    }
}

/// Its output goes to standard error, as standard output is the container's.
fn run(script: &Path, dir: &Path) -> std::io::Result<Code> {
    let out = if explain::quiet() { Stdio::null() } else { std::io::stderr().as_fd().try_clone_to_owned()?.into() };
    let status = Command::new(script).arg(dir).stdout(out).status()?;
    Ok(Code(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())))
}

/// canonicalize(3) would do more, and fails while the directory is not there.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |path, part| match part {
        Component::ParentDir => path.parent().unwrap_or(&path).to_owned(),
        part => path.join(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_removed_from_a_path() {
        assert_eq!(without_dots(Path::new("/a/steps/03/../../target/rootfs")), Path::new("/a/target/rootfs"));
        assert_eq!(without_dots(Path::new("/../a/./b")), Path::new("/a/b"));
    }

    #[test]
    fn the_script_is_there() {
        assert!(Path::new(SCRIPT).is_file());
    }
}
