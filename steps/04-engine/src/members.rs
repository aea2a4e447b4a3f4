//! All processes of a container at once, which are those of its groups, as far as these are known again.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use process::sys;
use serde::{Deserialize, Serialize};
use shared::failure::During;
use shared::{call, explain, signals};

/// How long the kernel may take to end what was killed.
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

    /// Whether it is there, in a cgroup file system, and the same.
    pub fn is_known(&self) -> bool {
        let is_cgroup = statfs(&self.path)
            .is_ok_and(|it| [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&it.filesystem_type()));
        is_cgroup && self.inode.is_some() && self.path.metadata().map(|it| it.ino()).ok() == self.inode
    }
}

/// The directories of those that are known again: no other one may be frozen, or what is in it killed.
pub fn known(groups: &[RecordedGroup]) -> Vec<&Path> {
    groups.iter().filter(|group| group.is_known()).map(|group| group.path.as_path()).collect()
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
