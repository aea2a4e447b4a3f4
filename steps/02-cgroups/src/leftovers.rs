//! Groups that a step left behind because it was killed with SIGKILL: the next one takes them away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::explain;

use crate::hierarchy::words;

/// How long the kernel may take to end a group's processes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Host: takes away the groups in this place whose step is no more.
pub fn remove(place: &Path) -> Result<()> {
    if explain::dry_run() {
        return Ok(());
    }
    for dir in ours(place).filter(|dir| !owner_lives(dir)) {
        explain::note(format_args!("{} is left from a step that was killed", dir.display()));
        empty(&dir)?;
        explain::host(format_args!("rmdir {}", dir.display()), || rmdir(&dir))?;
    }
    Ok(())
}

/// The groups in this place that a step has made: `step02-4711`, and `step02-4711.host` where it stood aside.
pub fn ours(place: &Path) -> impl Iterator<Item = PathBuf> {
    marked(place).filter(|dir| !dir.extension().is_some_and(|it| it.as_encoded_bytes().starts_with(b"+")))
}

/// The same, and those that only stand for something that a step has changed.
pub fn marked(place: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|dir| owner(dir).is_some() && dir.is_dir())
}

/// The step's name and pid, from the name of its group.
fn owner(dir: &Path) -> Option<(&str, i32)> {
    let (step, pid) = dir.file_stem()?.to_str()?.split_once('-')?;
    let number = step.strip_prefix("step")?;
    (number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit())).then_some((step, pid.parse().ok()?))
}

/// Whether the process with that pid is still the step: the pid of one that is gone may belong to another.
fn owner_lives(dir: &Path) -> bool {
    let Some((step, pid)) = owner(dir) else {
        return true;
    };
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == step)
}

/// Host: ends whatever still runs in the group: where it has no pid namespace, a program's own children outlive it.
pub fn empty(dir: &Path) -> Result<()> {
    let since = Instant::now();
    let mut told = false;
    loop {
        let pids = words(&dir.join("cgroup.procs"));
        if pids.is_empty() {
            return Ok(());
        }
        // 0 stands for a process of another pid namespace: of a step that runs there and is none of our business.
        ensure!(!pids.contains(&"0".to_owned()), "{} has processes of another pid namespace", dir.display());
        ensure!(since.elapsed() < PATIENCE, "{} still has the processes {}", dir.display(), pids.join(" "));
        if !told {
            explain::note(format_args!("SIGKILL to what still runs in {}: {}", dir.display(), pids.join(" ")));
            told = true;
        }
        for pid in pids.iter().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// rmdir(2), again while the kernel still counts a process that has just ended: EBUSY.
pub fn rmdir(dir: &Path) -> std::io::Result<()> {
    let since = Instant::now();
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            answer => return answer,
        }
    }
}
