//! A process that cannot be mistaken for another.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use shared::explain::{self, During};
use shared::sys;

/// A process that cannot be mistaken: the kernel gives a pid to another process later, but never with the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As the host knows it.
    pub pid: i32,
    /// When it began, in clock ticks since boot: field 22 of proc_pid_stat(5).
    pub start: u64,
}

impl Process {
    /// The process with this pid, now.
    ///
    /// # Errors
    /// Where there is none.
    pub fn of(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).during(format_args!("cannot read {path}"))?;
        // The second field is a name in parentheses, in which anything may stand.
        let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
        Ok(Process { pid: pid.as_raw(), start: start.with_context(|| format!("cannot understand {path}"))? })
    }

    /// A descriptor of exactly this process; `None` where it is gone, whoever has its pid now, and in a dry run.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid);
        let fd = match sys::pidfd_open(pid) {
            // Older kernels say EINVAL of one that has just been waited for.
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            fd => fd.during(format_args!("pidfd_open({pid})"))?,
        };
        // Looked at only now, when the descriptor already means whoever it is.
        Ok(Process::of(pid).is_ok_and(|now| now == *self).then_some(fd))
    }

    /// Host: sends it a signal; succeeds where it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(fd) = self.open()? else { return Ok(()) };
        explain::host_cleanup(format_args!("pidfd_send_signal({}, {signal})", fd.as_raw_fd()), || {
            match sys::pidfd_send_signal(fd.as_fd(), signal) {
                Err(Errno::ESRCH) => Ok(()),
                answer => answer,
            }
        })
    }
}
