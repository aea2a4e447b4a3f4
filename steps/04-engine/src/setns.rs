//! A child in the namespaces of another process, held at the same gate as one in new namespaces. See setns(2).
//!
//! ```text
//! host    fork ───┐                             ┌─ cgroup ─┐       ┌─ start ─┐  passes signals on ·········· exit code
//! helper    └─ prctl ── setns ── clone ── hold ─┘          └ ready ┘         └─ wait ············ reaps ──┘
//! child                            └───────── held ···                          └─ program ···········┘
//! ```
//!
//! The helper stays as the child's parent. A pid namespace ends only when each process of it has been waited for, also one
//! that came in by setns(2). So were the host its parent, a host that Ctrl-Z has stopped, or that waits for Enter, would
//! keep the container from ending; and where it is killed, a PID 1 that waits for nobody would do so for ever.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use namespaces::{Gate, Namespace, flag_names};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_dumpable;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, close, getgroups, setgroups};
use shared::call;
use shared::explain;
use shared::failure::{During, Failure, answer};
use shared::kernel_file;
use shared::signals;

use crate::identity::{Process, has_ended};
use crate::sys;

/// Where the child is on its way, in the helper's word: its pid follows.
#[derive(Clone, Copy, PartialEq)]
pub enum Stage {
    /// At the gate, in the other process's namespaces.
    Held = 0,
    /// It has entered, and waits before exec.
    Ready = 1,
    /// It is its program.
    Started = 2,
}

/// A child of the helper's. Dropped, it is ended.
pub struct Joined {
    helper: Pid,
    child: Option<Process>,
    /// The helper sees EOF when this process dies.
    line: Option<UnixStream>,
}

/// Host: makes a child in the namespaces of another process, which runs `enter` and then `program`. At each stage the
/// child is held, and `host` does its part. `process` is a pidfd; `namespaces` are those that differ from ours
/// ([`namespaces::own_of`]). Linux 5.8.
///
/// # Errors
/// EPERM where the caller has no rights over these namespaces, ESRCH where the process is gone.
pub fn join<'a>(
    process: &OwnedFd,
    namespaces: &[Namespace],
    enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
    mut host: impl FnMut(Stage, Pid) -> Result<()>,
) -> Result<Joined> {
    let gate = Gate::new(enter, program)?;
    let (mut line, helper_end) = UnixStream::pair().during("cannot make a pair of sockets")?;
    if explain::dry_run() {
        explain::host(call!("fork()")).run(|| Ok::<_, Errno>(Pid::this()))?;
        bring_in(process, namespaces, gate, &mut host)?;
        return Ok(Joined { helper: Pid::this(), child: None, line: None });
    }
    let mut mine = Some((gate, helper_end));
    let host_end = line.as_raw_fd();
    let helper = process::fork(|| {
        let _ = close(host_end); // kept open here, the host's end would hide the host's death
        mine.take().map_or(Ok(()), |(gate, line)| helper(process, namespaces, gate, line))
    })?;
    drop(mine);
    let mut joined = Joined { helper, child: None, line: Some(line.try_clone().during("cannot copy a descriptor")?) };
    loop {
        let (stage, pid) = read_stage(&mut line)?;
        if stage == Stage::Held {
            joined.child = Some(Process::of(pid)?);
        }
        host(stage, pid)?;
        if stage == Stage::Started {
            return Ok(joined);
        }
        line.write_all(&[0]).during("the helper is gone")?;
    }
}

fn read_stage(line: &mut UnixStream) -> Result<(Stage, Pid)> {
    let stage = match answer(line, signals::interrupt)?.context("the helper was killed before it had joined")? {
        0 => Stage::Held,
        1 => Stage::Ready,
        _ => Stage::Started,
    };
    let mut pid = [0; 4];
    line.read_exact(&mut pid).during("cannot hear the helper")?;
    Ok((stage, Pid::from_raw(i32::from_ne_bytes(pid))))
}

impl Joined {
    /// Host: waits for the program's end, passes signals on to it, and whenever one of `others` can be read, does `work`. Its
    /// exit code, or 128 and the number of the signal that ended it.
    ///
    /// # Errors
    /// [`Interrupted`](signals::Interrupted), by a signal that the program does not listen to: it is ended.
    pub fn wait_beside(mut self, others: &[BorrowedFd], mut work: impl FnMut()) -> Result<u8> {
        let Some(child) = self.child else { return Ok(0) };
        while !has_ended(self.helper)? {
            match signals::wait(others)? {
                None => work(),
                Some(received) if received.is(Signal::SIGCHLD) || child.open()?.is_none() => {}
                Some(received) => process::pass_on(Pid::from_raw(child.pid), received)?,
            }
        }
        self.line = None;
        process::wait(self.helper)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if self.line.take().is_some() {
            let _ = kill(self.helper, Signal::SIGTERM); // at a pause, it does not look at the line
            let _ = waitpid(self.helper, None);
        }
    }
}

/// Helper: its whole life. Its exit code is the child's.
fn helper(process: &OwnedFd, namespaces: &[Namespace], gate: Gate, mut line: UnixStream) -> Result<()> {
    // Ctrl-Z stops the host and the child; this one has to be there when the child ends.
    let job_control = SigSet::from_iter([Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU]);
    job_control.thread_block().during("cannot block signals")?;
    let mut at = |stage: Stage, pid: Pid| {
        explain::flush();
        line.write_all(&[&[stage as u8], &pid.as_raw().to_ne_bytes()[..]].concat())?;
        if stage == Stage::Started { Ok(()) } else { wait_for_host(&mut line, pid) }
    };
    let running = match bring_in(process, namespaces, gate, &mut at) {
        Ok(running) => running,
        Err(error) => {
            let _ = line.write_all(&Failure::of(&error).to_bytes()); // a host that is gone needs no answer
            return Ok(());
        }
    };
    let child = running.pid();
    loop {
        if let Some(code) = process::sys::exit_code(child).during("cannot wait for the child")? {
            sys::exit(code);
        }
        // Signals are the host's to pass on; on the line it never writes any more: it has died.
        if signals::wait(&[line.as_fd()])?.is_none() {
            let _ = kill(child, Signal::SIGKILL);
            std::thread::sleep(std::time::Duration::from_millis(10)); // a frozen one dies later
        }
    }
}

/// Helper, and the child held: until the host has done its part. Ends with the container, as the child does.
fn wait_for_host(line: &mut UnixStream, child: Pid) -> Result<()> {
    while !has_ended(child)? {
        match signals::wait(&[line.as_fd()])? {
            None => return line.read_exact(&mut [0]).context("the host is gone"),
            Some(received) => signals::interrupt(received)?,
        }
    }
    bail!("the container has just ended")
}

/// Helper: setns(2) moves a process into every kind of namespace but one, as a pid namespace takes only its children. So it
/// joins, and makes the child.
fn bring_in<'a>(
    process: &OwnedFd,
    namespaces: &[Namespace],
    mut gate: Gate<'a>,
    at: &mut dyn FnMut(Stage, Pid) -> Result<()>,
) -> Result<namespaces::Running<'a>> {
    let flags: CloneFlags = namespaces.iter().map(|namespace| namespace.flag()).collect();
    let number = process.as_raw_fd();
    let may_drop_groups = may_drop_groups(number) && getgroups().is_ok_and(|groups| !groups.is_empty());
    // Before anything of the container's can be in the way, as its /proc is what it likes.
    process::start_clean()?;
    // From setns on, processes in there can see the helper and the child, and could reach the host's files by
    // /proc/PID/exe and /proc/PID/fd. Until exec nobody but the host's root may look into them: CVE-2019-5736.
    explain::child(call!("prctl(PR_SET_DUMPABLE, 0)")).run(|| set_dumpable(false))?;
    explain::child(call!("setns({number}, {})", flag_names(flags))).run(|| setns(process, flags))?;
    // As the container's own program has left them: they are rights over the host's files.
    if may_drop_groups {
        explain::child(call!("setgroups(0, [])")).run(|| setgroups(&[]))?;
    }
    let pid = explain::child(call!("clone(child, stack, SIGCHLD, NULL)"))
        .run(|| namespaces::clone_child(&mut gate, CloneFlags::empty()))?;
    let waiting = gate.hold(pid)?;
    at(Stage::Held, pid)?;
    let ready = waiting.release()?;
    at(Stage::Ready, pid)?;
    let running = ready.start()?;
    at(Stage::Started, pid)?;
    Ok(running)
}

/// Whether setgroups(2) is allowed in the user namespace of the process that a pidfd means. user_namespaces(7); fdinfo has
/// its pid: pidfd_open(2).
fn may_drop_groups(pidfd: i32) -> bool {
    let info = kernel_file::read(format!("/proc/self/fdinfo/{pidfd}")).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap_or_default().trim();
    kernel_file::read(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text.trim() == "allow")
}
