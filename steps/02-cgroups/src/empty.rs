//! Care: a group in use cannot be removed (EBUSY). What still runs in it ends, and groups that were made in it go first.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::failure::is;
use shared::{call, explain, signals};

use crate::hierarchy::words;

/// How long the kernel may take to end a group's processes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Half of PATH_MAX, in bytes: what is added to such a path still fits.
const LONG_PATH: usize = 2048;

/// rmdir(2), again while the kernel still counts a process that has just ended: EBUSY.
pub fn rmdir(dir: &Path) -> std::io::Result<()> {
    let since = Instant::now();
    let in_use = || Subtree::of(dir).groups.len() > 1 || !words(&dir.join("cgroup.procs")).is_empty();
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && !in_use() && since.elapsed() < PATIENCE => {
                std::thread::sleep(signals::MOMENT);
            }
            // Another process that cleans up has come first.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            answer => return answer,
        }
    }
}

/// Host: ends what still runs in a group, and removes the groups that were made in it, the deepest first.
///
/// # Errors
/// Where a process does not end, or a group cannot be removed.
pub fn empty(dir: &Path) -> Result<()> {
    let below = Subtree::of(dir);
    make_mortal(&below.groups)?;
    let (top, inner) = below.groups.split_last().unzip();
    inner.unwrap_or_default().iter().try_for_each(|dir| {
        end_in(dir)?;
        explain::host(call!("rmdir {}", dir.display())).cleanup().run(|| rmdir(dir))
    })?;
    top.map_or(Ok(()), |dir| end_in(dir))
}

/// Host: ends what runs in a group and in those below it, and leaves the groups.
///
/// # Errors
/// Where a process does not end.
pub fn end_all(dir: &Path) -> Result<()> {
    let below = Subtree::of(dir);
    make_mortal(&below.groups)?;
    below.groups.iter().try_for_each(|dir| end_in(dir))
}

/// The groups below one, and that one as the last: where a container can mount a cgroup file system, it can make some.
struct Subtree {
    groups: Vec<PathBuf>,
    /// Open as long as paths begin with their descriptors.
    _deep: Vec<File>,
}

impl Subtree {
    fn of(top: &Path) -> Self {
        let (mut groups, mut deep) = (vec![top.to_owned()], Vec::new());
        let mut looked = 0;
        while let Some(dir) = groups.get(looked) {
            let mut dir = dir.clone();
            // A container can make groups in groups until no path is long enough: PATH_MAX. A descriptor starts a new one.
            if dir.as_os_str().len() > LONG_PATH {
                let Ok(file) = File::open(&dir) else { break };
                dir = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
                deep.push(file);
            }
            let entries = std::fs::read_dir(&dir).or_else(|_| {
                // Its owner, inside, may have closed it.
                std::fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
                std::fs::read_dir(&dir)
            });
            let entries = entries.into_iter().flatten().flatten();
            groups.extend(entries.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path()));
            looked += 1;
        }
        groups.reverse();
        Subtree { groups, _deep: deep }
    }
}

/// Sees to it that no process of these groups, the highest of which is the last, is out of SIGKILL's reach.
fn make_mortal(groups: &[PathBuf]) -> Result<()> {
    // On v1, a frozen process does not die before it is thawed, and a group is frozen as long as one above it is: so the
    // highest first. See Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.
    let freezers = groups.iter().rev().map(|dir| dir.join("freezer.state"));
    for freezer in freezers.filter(|file| words(file).iter().any(|state| state != "THAWED")) {
        write_if_there("THAWED", &freezer)?;
    }
    // On v2, one write ends all processes of a group and of those below, which no fork can outrun; also those of threaded
    // groups, which do not list them. Linux 5.14; see *cgroup.kill* in cgroup-v2.rst.
    match groups.last().map(|dir| dir.join("cgroup.kill")).filter(|file| file.exists()) {
        Some(file) => write_if_there("1", &file),
        None => Ok(()),
    }
}

/// A group that another process removes in this moment has no process left: its files are gone (ENOENT), or just going
/// (ENODEV) while its directory is still there.
fn write_if_there(value: &str, file: &Path) -> Result<()> {
    match explain::host_echo(value, file).cleanup().run() {
        Err(error) if is(&error, Errno::ENOENT) || is(&error, Errno::ENODEV) => Ok(()),
        written => written,
    }
}

fn end_in(dir: &Path) -> Result<()> {
    if explain::dry_run() {
        return Ok(());
    }
    let since = Instant::now();
    let mut printed = false;
    loop {
        let pids = words(&dir.join("cgroup.procs"));
        if pids.is_empty() {
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "{} still has the processes {}", dir.display(), pids.join(" "));
        if !std::mem::replace(&mut printed, true) {
            explain::note(format_args!("SIGKILL to what still runs in {}: {}", dir.display(), pids.join(" ")));
        }
        // On v2, 0 stands for one of a pid namespace that we cannot see into. To kill(2) it would be this process's own
        // process group.
        for pid in pids.iter().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != 0) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(signals::MOMENT);
    }
}
