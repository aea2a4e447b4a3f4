//! Groups that a step left behind because it was killed with SIGKILL: the next one takes them away.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use shared::call;
use shared::explain;
use shared::failure::is;
use shared::lock::is_locked;
use shared::signals;

use crate::hierarchy::words;

/// How long the kernel may take to end a group's processes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Half of PATH_MAX, in bytes: what is added to such a path still fits.
const LONG_PATH: usize = 2048;

/// Host: takes away the groups in this one whose step is no more. One that resists does not keep the others.
///
/// # Errors
/// The first failure.
pub fn remove(parent: &Path) -> Result<()> {
    if explain::dry_run() {
        return Ok(());
    }
    let dead: Vec<_> = ours(parent).filter(|dir| is_ours_to_remove(dir) && !owner_lives(dir)).collect();
    let take = |dir: &PathBuf| {
        explain::note(format_args!("{} is left from a step that was killed", dir.display()));
        take_away(dir)
    };
    dead.iter().map(take).fold(Ok(()), Result::and)
}

/// Another user's are theirs to take away, or root's.
fn is_ours_to_remove(dir: &Path) -> bool {
    let user = geteuid();
    user.is_root() || dir.metadata().is_ok_and(|it| it.uid() == user.as_raw())
}

/// Host: removes a group; where it is still in use, ends what runs in it and removes the groups that were made in it, the
/// deepest first.
pub fn take_away(dir: &Path) -> Result<()> {
    let remove = |dir: &Path| explain::host(call!("rmdir {}", dir.display())).cleanup().run(|| rmdir(dir));
    // Nearly always nothing is in it any more, and this is all.
    match remove(dir) {
        Err(error) if is(&error, Errno::EBUSY) => {}
        removed => return removed,
    }
    let below = Below::of(dir);
    make_mortal(&below.groups)?;
    below.groups.iter().try_for_each(|dir| {
        empty(dir)?;
        remove(dir)
    })
}

/// The groups below one, and that one as the last: where a container can mount a cgroup file system, it can make some.
struct Below {
    groups: Vec<PathBuf>,
    /// Open as long as paths begin with their descriptors.
    _deep: Vec<File>,
}

impl Below {
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
        Below { groups, _deep: deep }
    }
}

/// The groups in this one that a step has made: `step02-4711`, and `step02-4711.host` where it stood aside.
pub fn ours(parent: &Path) -> impl Iterator<Item = PathBuf> {
    marked(parent).filter(|dir| !dir.extension().is_some_and(|it| it.as_encoded_bytes().starts_with(b"+")))
}

/// The same, and those that only stand for something that a step has changed.
pub fn marked(parent: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|dir| is_marked(dir) && dir.is_dir())
}

/// `step`, two digits, `-` and a pid or a container's id, in front of the first dot.
pub fn is_marked(dir: &Path) -> bool {
    let name = dir.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((number, id)) = name.strip_prefix("step").and_then(|rest| rest.split_once('-')) else { return false };
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    number.len() == 2 && is_hex(number) && id.len() <= 16 && is_hex(id)
}

/// Whether the step that has made this group still lives: it holds a lock on it, which the kernel lets go of with the
/// process, however that ends. A pid would prove less: it may be another's by now, or count in another pid namespace.
/// `step02-4711.host` belongs to whoever has `step02-4711`.
pub fn owner_lives(dir: &Path) -> bool {
    is_locked(&dir.with_extension(""))
}

/// Host: ends whatever still runs in a group and in those below: where it has no pid namespace, a program's own children
/// outlive it.
///
/// # Errors
/// Where it does not end.
pub fn empty_all(dir: &Path) -> Result<()> {
    let below = Below::of(dir);
    make_mortal(&below.groups)?;
    below.groups.iter().try_for_each(|dir| empty(dir))
}

/// Host: sees to it that no process of these groups, the highest of which is the last, is out of SIGKILL's reach.
fn make_mortal(groups: &[PathBuf]) -> Result<()> {
    // On v1, a frozen process does not die before it is thawed, and a group is frozen as long as one above it is: so the
    // highest first. See Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.
    let freezers = groups.iter().rev().map(|dir| dir.join("freezer.state"));
    for freezer in freezers.filter(|file| words(file).iter().any(|state| state != "THAWED")) {
        explain::host_echo("THAWED", &freezer).cleanup().run()?;
    }
    // On v2, one write ends all processes of a group and of those below, which no fork can outrun; also those of threaded
    // groups, which do not list them. Linux 5.14; see *cgroup.kill* in cgroup-v2.rst.
    match groups.last().map(|dir| dir.join("cgroup.kill")).filter(|file| file.exists()) {
        Some(file) => explain::host_echo(1, &file).cleanup().run(),
        None => Ok(()),
    }
}

fn empty(dir: &Path) -> Result<()> {
    if explain::dry_run() {
        return Ok(());
    }
    let since = Instant::now();
    let mut told = false;
    loop {
        let pids = words(&dir.join("cgroup.procs"));
        if pids.is_empty() {
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "{} still has the processes {}", dir.display(), pids.join(" "));
        if !told {
            explain::note(format_args!("SIGKILL to what still runs in {}: {}", dir.display(), pids.join(" ")));
            told = true;
        }
        // On v2, 0 stands for one of a pid namespace that we cannot see into. To kill(2) it would be this process's own group.
        for pid in pids.iter().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != 0) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(signals::MOMENT);
    }
}

/// rmdir(2), again while the kernel still counts a process that has just ended: EBUSY.
fn rmdir(dir: &Path) -> std::io::Result<()> {
    let since = Instant::now();
    let in_use = || Below::of(dir).groups.len() > 1 || !words(&dir.join("cgroup.procs")).is_empty();
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && !in_use() && since.elapsed() < PATIENCE => {
                std::thread::sleep(signals::MOMENT);
            }
            // Somebody else who cleans up has come first.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            answer => return answer,
        }
    }
}
