//! A root file system for a test. The script that makes one starts hundreds of processes; so it runs once, and each test gets
//! a copy of what it has made.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};

use crate::program;

/// Where the tests of this run find it, and the first that needs it puts it.
static PLACE: OnceLock<PathBuf> = OnceLock::new();

/// The runner: all its tests share what lies there.
pub(crate) fn share_at(place: &Path) {
    let _ = PLACE.set(place.to_owned());
}

/// Makes a root of this machine's own tools, with these programs of the project in `/usr/local/bin`.
pub fn make_root(to: &Path, programs: &[&str]) {
    let from = match (std::env::var_os("CHECK_ROOTFS"), PLACE.get()) {
        // In software emulation the script takes a minute: such a machine comes with a root.
        (Some(root), _) if !root.is_empty() && programs.is_empty() => PathBuf::from(root),
        (_, Some(place)) => shared_root(place, programs),
        (_, None) => return run_script(to, programs),
    };
    let copied = Command::new("cp").args([OsStr::new("-a"), from.as_ref(), to.as_ref()]).status().expect("cp");
    assert!(copied.success(), "no copy of {}", from.display());
}

fn shared_root(place: &Path, programs: &[&str]) -> PathBuf {
    // Two tests may be the first at the same time.
    let lock = File::create(place.join("lock")).expect("a lock");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("flock");
    let root = place.join([&["root"], programs].concat().join("+"));
    if !root.exists() {
        run_script(&root, programs);
    }
    root
}

fn run_script(to: &Path, programs: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-scripts/host.sh");
    let made = Command::new(script).arg(to).args(programs.iter().map(|name| program(name))).output().expect("host.sh");
    assert!(made.status.success(), "{made:?}");
}
