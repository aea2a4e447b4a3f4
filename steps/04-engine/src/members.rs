//! All processes of a container at once, which are those of its cgroup: frozen, let go on, ended.
//!
//! On v1 the freezer is a hierarchy of its own; on v2 every group has it. See Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst
//! and cgroup-v2.rst, *cgroup.freeze* and *cgroup.kill*.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use process::sys;
use serde::{Deserialize, Serialize};
use shared::failure::During;
use shared::{call, explain, kernel_file, signals};

/// How long the kernel may take to end what was killed, and to stop every process of a group. One that is in the middle of a system call which
/// cannot be interrupted (a disk, a network file system) stops after it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A group as it is written down.
///
/// A record can be damaged, and a path can lead to another group by now: so a group is known again by its inode, which
/// the kernel gives to no other one until the machine starts again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedGroup {
    path: PathBuf,
    /// None where it had not been made when it was written down.
    inode: Option<u64>,
}

impl RecordedGroup {
    /// The group in this directory, made or not.
    pub fn at(path: PathBuf) -> Self {
        RecordedGroup { inode: path.metadata().map(|it| it.ino()).ok(), path }
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Whether it is there, in a cgroup file system, and the same.
    pub fn is_known(&self) -> bool {
        let is_cgroup = statfs(&self.path)
            .is_ok_and(|it| [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&it.filesystem_type()));
        is_cgroup && self.inode.is_some() && self.path.metadata().map(|it| it.ino()).ok() == self.inode
    }
}

fn known(groups: &[RecordedGroup]) -> Vec<&Path> {
    groups.iter().filter(|group| group.is_known()).map(|group| group.path.as_path()).collect()
}

/// What can freeze a group: the file to write, the two words, and the file and the line that say that it is done.
struct Freezer {
    file: PathBuf,
    frozen: &'static str,
    thawed: &'static str,
    confirmed_by: (PathBuf, &'static str),
}

impl Freezer {
    /// The first of the container's groups that can. On a hybrid machine both could, and v1 comes first.
    fn of(groups: &[RecordedGroup]) -> Option<Self> {
        let groups = known(groups);
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
/// Where the container has no group, or the kernel does not stop them in time: then they all go on.
pub fn freeze(groups: &[RecordedGroup]) -> Result<()> {
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
pub fn thaw(groups: &[RecordedGroup]) -> Result<()> {
    let Some(freezer) = Freezer::of(groups) else { return Ok(()) };
    match explain::host_echo(freezer.thawed, &freezer.file).run() {
        Err(error) if !error.is::<signals::Interrupted>() && !freezer.file.exists() => Ok(()), // it has ended meanwhile
        thawed => thawed,
    }
}

/// Whether they are frozen, as the kernel says.
pub fn are_frozen(groups: &[RecordedGroup]) -> bool {
    Freezer::of(groups).is_some_and(|freezer| freezer.is_frozen())
}

/// Host: ends every process of the container's groups, frozen or not, also one that forks all the time.
///
/// # Errors
/// Where processes are left after all: those of a pid namespace that we cannot see into.
pub fn kill_all(groups: &[RecordedGroup]) -> Result<()> {
    if explain::dry_run() {
        return Ok(());
    }
    let mut dirs = known(groups);
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
    dirs.into_iter().try_for_each(cgroups::end_all)
}

/// Host: ends every process that has this mount namespace, as one has that was forked inside, or came in by `exec`. For a
/// container without a pid namespace and without a cgroup, which end them else; one that has unshared its mounts gets away.
///
/// # Errors
/// Where processes are left after all: those that fork faster than they are found.
pub fn kill_all_in(mounts: &File) -> Result<()> {
    let inode = |it: std::fs::Metadata| (it.dev(), it.ino());
    let theirs = mounts.metadata().map(inode).during("cannot look at a mount namespace")?;
    let of = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(inode);
    // It was joined, and not made.
    if of("self") == Some(theirs) {
        return Ok(());
    }
    let since = Instant::now();
    loop {
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
        // First the descriptor, then the look: it means the process that was looked at.
        let members = pids.filter_map(|pid| Some((pid, sys::pidfd_open(pid).ok()?)));
        let members: Vec<_> = members.filter(|(pid, _)| of(&pid.to_string()) == Some(theirs)).collect();
        if members.is_empty() {
            return Ok(());
        }
        let pids = members.iter().map(|(pid, _)| pid.to_string()).collect::<Vec<_>>().join(" ");
        ensure!(since.elapsed() < PATIENCE, "its processes {pids} live on");
        for (pid, process) in members {
            explain::host(call!("pidfd_send_signal({pid}, SIGKILL)")).cleanup().run(
                || match sys::pidfd_send_signal(process.as_fd(), Signal::SIGKILL as i32) {
                    Err(Errno::ESRCH) => Ok(()),
                    sent => sent,
                },
            )?;
        }
        std::thread::sleep(signals::MOMENT);
    }
}
