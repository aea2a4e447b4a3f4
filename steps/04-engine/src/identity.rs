//! A process that cannot be mistaken for another.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::str::FromStr;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use process::sys;
use serde::{Deserialize, Serialize};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::kernel_file;

/// The flag of a process that was made by fork(2) or clone(2), until it executes a program. `include/linux/sched.h`.
const PF_FORKNOEXEC: u64 = 0x40;

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
        Ok(Process { pid: pid.as_raw(), start: stat(pid, 22)? })
    }

    /// Host: the pid of its parent.
    pub fn parent(&self) -> Result<i32> {
        stat(Pid::from_raw(self.pid), 4)
    }

    /// Host: the eldest of its children that live; `None` where it has none. proc_tid_children(5).
    pub fn eldest_child(&self) -> Option<Self> {
        let children = kernel_file::read(format!("/proc/{0}/task/{0}/children", self.pid)).ok()?;
        Process::of(Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)).ok()
    }

    /// A descriptor of exactly this process; `None` where it is gone, even if another has its pid now, and in a dry run.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid);
        let fd = match sys::pidfd_open(pid) {
            // Older kernels say EINVAL of one that has just been waited for.
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            fd => fd.during(format_args!("pidfd_open({pid})"))?,
        };
        // Looked at only now, when the descriptor means one process already.
        Ok(Process::of(pid).is_ok_and(|now| now == *self).then_some(fd))
    }

    /// Whether it lives: it is not gone, and no zombie that its parent has not waited for yet. proc_pid_stat(5), *state*.
    pub fn lives(&self) -> bool {
        let pid = Pid::from_raw(self.pid);
        stat::<char>(pid, 3).is_ok_and(|state| !['Z', 'X'].contains(&state))
            && Process::of(pid).is_ok_and(|it| it == *self)
    }

    /// Whether it is ending: it does not live, or the kernel has taken its namespaces from it already, as it does early in
    /// exit(2). From then on setns(2) says ESRCH.
    pub fn is_ending(&self) -> bool {
        !self.lives() || self.namespaces_are(ErrorKind::NotFound)
    }

    /// Whether its namespaces are closed to this user: see *PTRACE_MODE_READ_FSCREDS* in proc_pid_ns(5).
    pub fn is_closed(&self) -> bool {
        self.namespaces_are(ErrorKind::PermissionDenied)
    }

    fn namespaces_are(&self, error: ErrorKind) -> bool {
        std::fs::read_link(format!("/proc/{}/ns/mnt", self.pid)).is_err_and(|it| it.kind() == error)
    }

    /// Whether it has not executed a program yet, as the kernel knows. proc_pid_stat(5), *flags*.
    pub fn is_before_exec(&self) -> bool {
        stat::<u64>(Pid::from_raw(self.pid), 9).is_ok_and(|flags| flags & PF_FORKNOEXEC != 0)
    }

    /// Host: lets it go on, if a signal or its terminal has stopped it. See proc_pid_stat(5), *state*.
    pub fn wake(&self) -> Result<()> {
        let is_stopped = stat::<char>(Pid::from_raw(self.pid), 3).is_ok_and(|state| state == 'T');
        if is_stopped { self.signal(Signal::SIGCONT) } else { Ok(()) }
    }

    /// Host: sends it a signal; succeeds where it is gone.
    ///
    /// # Errors
    /// EPERM where it is another user's.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.signal_by_number(signal as i32)
    }

    /// The same, for real-time signals too.
    ///
    /// # Errors
    /// The same.
    pub fn signal_by_number(&self, number: i32) -> Result<()> {
        let Some(fd) = self.open()? else { return Ok(()) };
        let name = Signal::try_from(number).map_or_else(
            |_| format!("SIGRTMIN+{}", number - libc::SIGRTMIN()), // nix has no name for it
            |signal| signal.to_string(),
        );
        explain::host(call!("pidfd_send_signal({}, {name})", fd.as_raw_fd())).undisturbed().run(|| {
            match sys::pidfd_send_signal(fd.as_fd(), number) {
                Err(Errno::ESRCH) => Ok(()),
                answer => answer,
            }
        })
    }
}

/// Whether a child of this process has ended. It is still to be waited for: see WNOWAIT in waitid(2).
pub(crate) fn has_ended(child: Pid) -> Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    Ok(waitid(Id::Pid(child), flags).during("cannot look at the child")? != WaitStatus::StillAlive)
}

/// A field of proc_pid_stat(5), counted from 1.
fn stat<T: FromStr>(pid: Pid, field: usize) -> Result<T> {
    let path = format!("/proc/{pid}/stat");
    let value = field_of(&kernel_file::read(&path)?, field);
    value.with_context(|| format!("cannot understand {path}"))
}

fn field_of<T: FromStr>(stat: &str, field: usize) -> Option<T> {
    // The second field is a name in parentheses, in which anything may stand.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::field_of;

    #[test]
    fn a_name_with_a_parenthesis_shifts_no_field() {
        let stat = "4711 (a) b (c) S 1 4711 4711 0 -1 4194560\n";
        assert_eq!(field_of::<char>(stat, 3), Some('S'));
        assert_eq!(field_of::<i32>(stat, 4), Some(1));
        assert_eq!(field_of::<i32>(stat, 99), None);
        assert_eq!(field_of::<i32>("", 4), None);
    }
}
