//! Care: all processes of some groups at once, frozen, let go on, ended. No step needs it before the engine does.
//!
//! On v1 the freezer is a hierarchy of its own; on v2 every group has it. See Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst
//! and cgroup-v2.rst, *cgroup.freeze* and *cgroup.kill*.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::{call, explain, kernel_file, signals};

use crate::empty::end_all;

/// How long the kernel may take to stop every process of a group. One that is in the middle of a system call which
/// cannot be interrupted (a disk, a network file system) stops after it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can freeze a group: the file to write, the two words, and the file and the line that say that it is done.
struct Freezer {
    file: PathBuf,
    frozen: &'static str,
    thawed: &'static str,
    confirmed_by: (PathBuf, &'static str),
}

impl Freezer {
    /// That of the first of these groups that has one. On a hybrid machine both could, and v1 comes first.
    fn of(groups: &[&Path]) -> Option<Self> {
        groups.iter().find_map(|dir| Freezer::v1(dir)).or_else(|| groups.iter().find_map(|dir| Freezer::v2(dir)))
    }

    fn v1(dir: &Path) -> Option<Self> {
        let file = dir.join("freezer.state");
        // FREEZING means that not all of them have stopped yet.
        let confirmed_by = (file.clone(), "FROZEN");
        file.exists().then_some(Freezer { confirmed_by, file, frozen: "FROZEN", thawed: "THAWED" })
    }

    fn v2(dir: &Path) -> Option<Self> {
        let file = dir.join("cgroup.freeze");
        let confirmed_by = (dir.join("cgroup.events"), "frozen 1");
        file.exists().then_some(Freezer { confirmed_by, file, frozen: "1", thawed: "0" })
    }

    fn is_frozen(&self) -> bool {
        let (file, line) = &self.confirmed_by;
        kernel_file::read(file).is_ok_and(|text| text.lines().any(|it| it == *line))
    }
}

/// Host: stops every process, wherever it is, and returns when all of them have stopped.
///
/// # Errors
/// Where none of them has a freezer, or the kernel does not stop them in time: then they all go on.
#[track_caller] // it is the step's that pauses
pub fn freeze(groups: &[&Path]) -> Result<()> {
    let freezer = Freezer::of(groups)
        .context("pausing takes a cgroup, and this container has none with a freezer (`step00 check` says why)")?;
    explain::host_echo(freezer.frozen, &freezer.file).run()?;
    let since = Instant::now();
    // A group that is gone had ended meanwhile.
    while !explain::dry_run() && freezer.file.exists() && !freezer.is_frozen() {
        if since.elapsed() > PATIENCE {
            explain::host_echo(freezer.thawed, &freezer.file).cleanup().run()?;
            bail!("not all of its processes could be stopped within {} s: they all go on", PATIENCE.as_secs());
        }
        std::thread::sleep(signals::MOMENT);
    }
    Ok(())
}

/// Host: lets them go on.
///
/// # Errors
/// Where the kernel refuses.
#[track_caller]
pub fn thaw(groups: &[&Path]) -> Result<()> {
    let Some(freezer) = Freezer::of(groups) else { return Ok(()) };
    match explain::host_echo(freezer.thawed, &freezer.file).run() {
        Err(error) if !error.is::<signals::Interrupted>() && !freezer.file.exists() => Ok(()), // it has ended meanwhile
        thawed => thawed,
    }
}

/// Whether they are frozen, as the kernel says.
pub fn are_frozen(groups: &[&Path]) -> bool {
    Freezer::of(groups).is_some_and(|freezer| freezer.is_frozen())
}

/// Host: ends every process of these groups, frozen or not, also one that forks all the time.
///
/// # Errors
/// Where processes are left after all: those of a pid namespace that we cannot see into.
#[track_caller]
pub fn kill_all(groups: &[&Path]) -> Result<()> {
    if explain::dry_run() {
        return Ok(());
    }
    let mut dirs = groups.to_vec();
    dirs.sort_by_key(|dir| Freezer::v1(dir).is_none()); // v1's freezer first: `end_all` thaws it
    if let Some(dir) = dirs.first().filter(|dir| Freezer::v1(dir).is_some()) {
        // Frozen, none of them can fork away from its SIGKILL; thawed, each of them dies of it.
        match freeze(groups) {
            Err(error) if error.is::<signals::Interrupted>() => return Err(error),
            // One that cannot be frozen is killed all the same.
            _ => {}
        }
        let pids = kernel_file::read(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw) {
            let _ = explain::host(call!("kill({pid}, SIGKILL)")).cleanup().run(|| kill(pid, Signal::SIGKILL));
        }
    }
    // Then what is on v2, and groups that were made inside.
    dirs.into_iter().try_for_each(end_all)
}
