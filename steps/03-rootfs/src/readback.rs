//! What the kernel says of the child's root.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::unistd::Pid;
use shared::failure::During;
use shared::formula::Fact;
use shared::mountinfo::Mount;
use shared::{explain, mountinfo};

/// Host: that the child's root is this directory, and that no mount of the host's lies above or below it.
///
/// # Errors
/// Where the child is gone, or is another user's: `/proc/PID/root` and `mountinfo` cannot be read.
pub fn facts(child: Pid, dir: &Path) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let process = Path::new("/proc").join(child.to_string());
    let identity = |path: PathBuf| {
        let it = path.metadata().during(format_args!("cannot look at {}", path.display()))?;
        Ok::<_, anyhow::Error>(format!("device {} inode {}", it.dev(), it.ino()))
    };
    let (wanted, child_root) = (identity(dir.to_owned())?, identity(process.join("root"))?);
    let root = Fact {
        brief: format!("its / is {}", dir.display()),
        what: "root".to_owned(),
        holds: child_root == wanted,
        host: identity("/".into())?,
        child: format!("{child_root}, {}", dir.display()),
    };
    Ok(vec![root, mounts_fact(&mountinfo::read(&process)?)?])
}

/// Host: that no mount of the host's lies above or below the root of a process with these mounts.
///
/// # Errors
/// Where the host's own mounts cannot be read.
pub fn mounts_fact(mounts: &[Mount]) -> Result<Fact> {
    // Between pivot_root and umount2 there are two mounts at `/`: the new root, and the host's above it.
    let roots = mounts.iter().filter(|mount| mount.point == Path::new("/")).count();
    // The host's own number is for the reader alone.
    let of_host =
        if explain::verbose() { mountinfo::read(Path::new("/proc/self"))?.len().to_string() } else { String::new() };
    Ok(Fact {
        brief: "nothing of the host's mounted above or below it".to_owned(),
        what: "mounts".to_owned(),
        holds: roots == 1,
        host: of_host,
        child: format!("{}, {roots} of them at /", mounts.len()),
    })
}
