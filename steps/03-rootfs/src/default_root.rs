//! The root of a step that was given none: made once, by a script, from this machine's own tools.

use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Result, ensure};
use shared::failure::During;
use shared::{call, explain};

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
        let mut made = true;
        explain::host(call!("{} {}", script.display(), dir.display()))
            .run(|| run(&script, &dir).map(|status| made = status.success()))?;
        ensure!(made, "rootfs: {} has failed, and printed why; name another root with --rootfs", script.display());
    }
    Ok(dir)
}

/// Its output goes to standard error, as standard output is the container's.
fn run(script: &Path, dir: &Path) -> std::io::Result<ExitStatus> {
    let out = if explain::quiet() { Stdio::null() } else { std::io::stderr().as_fd().try_clone_to_owned()?.into() };
    Command::new(script).arg(dir).stdout(out).status()
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
