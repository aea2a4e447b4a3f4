//! A child in the namespaces of another process, held at the same gate as one in new namespaces. See setns(2).
//!
//! ```text
//! host    fork ───┐                      ┌─ cgroup ── release ·····┐ ┌─ start ··· passes signals on ······ exit code
//! helper    └─ prctl ── setns ── clone ──┴───────────── passes signals on, wait ····················· reaps ──┘
//! child                            └─ held at the gate ··└─ enter ──┴─ held ·└─ program ················┘
//! ```
//!
//! The helper stays as the child's parent. A pid namespace ends only when each process of it has been waited for, also one
//! that came in by setns(2). So were the host its parent, a host that Ctrl-Z has stopped, or that waits for Enter, would
//! keep the container from ending; and where it is killed, a PID 1 that waits for nobody would do so for ever.
//!
//! So it is the helper, too, that stays with a program whose caller detaches ([`Helper::leave`]).
//!
//! A container's first process that is born in a namespace of another one's ([`Cradle`]) needs a helper for its birth
//! alone:
//!
//! ```text
//! host    fork ───┐                              ┌─ cgroup ── release ···  and all else as in any container
//! helper    └─ prctl ── setns ── clone ── exits  │
//! child                            └─ held at the gate
//! ```
//!
//! The host itself would not come back from a user namespace, and has to clean up outside. With CLONE_PARENT the child is
//! not the helper's but the host's. What else is new for it belongs to the user namespace in which it was made.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use namespaces::{Gate, Held, Namespace, View, flag_names};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_dumpable;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, close, dup2_stderr, dup2_stdin, dup2_stdout, getgroups, read, setgroups, setsid};
use shared::call;
use shared::explain;
use shared::failure::{During, Failure, STEP_FAILED, answer};
use shared::kernel_file;
use shared::signals::{self, Received};

use crate::identity::has_ended;
use crate::letter::Letter;
use crate::sys;

/// The child's parent. Dropped, it ends the child.
pub struct Helper {
    /// Waited for, it ends as its child does, to which it passes signals on.
    pub pid: Pid,
    /// It sees EOF when this process dies.
    line: UnixStream,
}

/// Namespaces of another process, in which a container's first process is born. It gets none of these kinds of its own.
pub struct Cradle {
    /// A pidfd.
    pub process: OwnedFd,
    /// Which of its namespaces. The user namespace is among them where it differs from ours: to join one's own is EINVAL.
    pub namespaces: Vec<Namespace>,
}

/// Host: as [`namespaces::clone`], and some of the child's namespaces are another process's.
///
/// Root in a user namespace that is joined could look into the child, from when that is dumpable, if it saw its pid. So
/// both need pid namespaces, which is the caller's to see to.
///
/// # Errors
/// Those of [`clone_into`] and of clone(2).
pub fn clone_in<'a>(
    cradle: &Cradle,
    view: &View,
    enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
) -> Result<Held<'a>> {
    let mut gate = Gate::new(enter, program)?;
    let joined = flags(&cradle.namespaces);
    let new = view.clone_flags().difference(joined) | CloneFlags::CLONE_PARENT;
    let bear = |gate: &mut Gate| {
        process::start_clean()?;
        join(&cradle.process, joined)?;
        if view.has(Namespace::Time) {
            // No flag of clone(2), but it is the children's that a process changes for itself. time_namespaces(7).
            let time = Namespace::Time.flag();
            explain::child(call!("unshare({})", flag_names(time))).run(|| unshare(time))?;
        }
        let names = flag_names(new);
        explain::child(call!("clone(child, stack, {names}|SIGCHLD, NULL)")).run(|| namespaces::clone_child(gate, new))
    };
    let (line, helper_end) = UnixStream::pair().during("cannot make a pair of sockets")?;
    let host_end = line.as_raw_fd();
    let pid = process::fork(|| {
        let mut line = helper_end; // the host keeps none: it would not see that the helper was killed
        let _ = close(host_end); // nor this one the host's
        // Where the host is gone, so is what the child would be for.
        if line.read_exact(&mut [0]).is_ok() {
            tell(&mut line, bear(&mut gate));
        }
        Ok(())
    })?;
    let mut helper = Helper { pid, line };
    explain::flush();
    let _ = helper.line.write_all(&[0]); // the host has printed the fork
    let child = if explain::dry_run() { bear(&mut gate)? } else { helper.child()? };
    drop(helper); // it has nothing more to do
    gate.hold(child)
}

/// Host: makes a child in the namespaces of another process, and holds it at the gate. Its helper runs `join` before it
/// does that; once released the child runs `enter`, and once started `program`. `process` is a pidfd; `namespaces` are
/// those that differ from ours ([`namespaces::own_of`]). Linux 5.8.
///
/// # Errors
/// EPERM where the caller has no rights over these namespaces, ESRCH where the process is gone.
pub fn clone_into<'a>(
    process: &OwnedFd,
    namespaces: &[Namespace],
    join: &dyn Fn() -> Result<()>,
    enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
) -> Result<(Helper, Held<'a>)> {
    let mut gate = Gate::new(enter, program)?;
    let (line, helper_end) = UnixStream::pair().during("cannot make a pair of sockets")?;
    let host_end = line.as_raw_fd();
    let pid = process::fork(|| help(process, namespaces, join, &mut gate, helper_end, host_end))?;
    let mut helper = Helper { pid, line };
    let child = if explain::dry_run() { bring_in(process, namespaces, join, &mut gate)? } else { helper.child()? };
    Ok((helper, gate.hold(child)?.with_parent(pid)))
}

impl Helper {
    /// Host: the child's pid, once the helper has made it.
    fn child(&mut self) -> Result<Pid> {
        let (helper, killed) = (self.pid, "the helper was killed before it had joined");
        // Its child has its end of the line, too: that it was killed is no end of the file then.
        let look = |received: Received| match received.is(Signal::SIGCHLD) && has_ended(helper)? {
            true => bail!(killed),
            false => signals::interrupt(received),
        };
        answer(&mut self.line, look)?.context(killed)?;
        let mut pid = [0; 4];
        self.line.read_exact(&mut pid).during("cannot hear the helper")?;
        Ok(Pid::from_raw(i32::from_ne_bytes(pid)))
    }

    /// Host, whose caller leaves while the program goes on: the helper keeps these descriptors until that ends, and
    /// reads the first of them, so that the program never waits for a reader. This process must end right after it, and
    /// drop nothing.
    ///
    /// # Errors
    /// EPIPE or an early end of the file, where the helper has just ended.
    pub fn leave(&mut self, letter: &Letter) -> Result<()> {
        // Inside, /dev/null is whatever the container has made it.
        let null = File::open("/dev/null").during("cannot open /dev/null")?;
        let numbers: Vec<_> =
            [null.as_raw_fd()].into_iter().chain(letter.descriptors.iter().map(AsRawFd::as_raw_fd)).collect();
        let (line, rights) = (self.line.as_raw_fd(), [ControlMessage::ScmRights(&numbers)]);
        sendmsg::<()>(line, &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None)
            .during("cannot hand the program over to the helper")?;
        // Until it has left the session: where this process leads that, its end is a SIGHUP to all in the foreground.
        self.line.read_exact(&mut [0]).during("the helper has not taken the program over")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if explain::dry_run() || waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) != Ok(WaitStatus::StillAlive) {
            return;
        }
        let _ = self.line.shutdown(Shutdown::Both);
        let _ = kill(self.pid, Signal::SIGTERM); // at a pause, it does not look at the line
        let _ = waitpid(self.pid, None);
    }
}

/// Helper: its whole life. Its exit code is the child's.
fn help(
    process: &OwnedFd,
    namespaces: &[Namespace],
    join: &dyn Fn() -> Result<()>,
    gate: &mut Gate,
    mut line: UnixStream,
    host_end: RawFd,
) -> Result<()> {
    let _ = close(host_end); // kept open here, the host's end would hide the host's death
    // Ctrl-Z stops the host and the child; this one has to be there when the child ends.
    let job_control = SigSet::from_iter([Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU]);
    job_control.thread_block().during("cannot block signals")?;
    let Some(child) = tell(&mut line, bring_in(process, namespaces, join, gate)) else { return Ok(()) };
    gate.leave();
    let end = || {
        let _ = kill(child, Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(10)); // a frozen one dies later
    };
    // The host writes nothing unless it leaves: else, where something can be read, it has died.
    let look = || match sys::receive(line.as_fd(), 1) {
        Err(Errno::EAGAIN) => {}
        Ok((_, kept)) if !kept.is_empty() => {
            let code = outlive_host(child, kept, &line).unwrap_or_else(|_| {
                end();
                STEP_FAILED
            });
            sys::exit(code)
        }
        _ => end(),
    };
    let code = process::wait_beside(child, &[line.as_fd()], look).inspect_err(|_| {
        end();
        let _ = waitpid(child, None);
    })?;
    sys::exit(code)
}

/// Helper: says to the host which child it has made, or why there is none.
fn tell(line: &mut UnixStream, made: Result<Pid>) -> Option<Pid> {
    explain::flush();
    let answer = match &made {
        Ok(child) => [&[0], &child.as_raw().to_ne_bytes()[..]].concat(),
        Err(error) => Failure::of(error).to_bytes(),
    };
    let _ = line.write_all(&answer); // a host that is gone needs none
    made.ok()
}

/// Helper whose host has left on purpose: the rest of its life. Nothing of the caller's stays open, neither streams nor
/// session.
fn outlive_host(child: Pid, mut kept: Vec<OwnedFd>, mut line: &UnixStream) -> Result<u8> {
    setsid().during("setsid()")?;
    let null = kept.remove(0);
    dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null)).during("dup2()")?;
    line.write_all(&[0]).during("cannot answer the host")?;
    let written = kept.first().context("there is nothing to read")?;
    process::wait_beside(child, &[written.as_fd()], || _ = read(written, &mut [0; 4096]))
}

/// Helper: setns(2) moves a process into every kind of namespace but one, as a pid namespace takes only its children. So it
/// joins, and makes the child.
fn bring_in(
    process: &OwnedFd,
    namespaces: &[Namespace],
    before: &dyn Fn() -> Result<()>,
    gate: &mut Gate,
) -> Result<Pid> {
    // Before anything of the container's can be in the way, as its /proc is what it likes.
    process::start_clean()?;
    before()?;
    join(process, flags(namespaces))?;
    explain::child(call!("clone(child, stack, SIGCHLD, NULL)"))
        .run(|| namespaces::clone_child(gate, CloneFlags::empty()))
}

/// Helper: moves into namespaces of another process.
fn join(process: &OwnedFd, flags: CloneFlags) -> Result<()> {
    let number = process.as_raw_fd();
    let may_drop_groups = may_drop_groups(number) && getgroups().is_ok_and(|groups| !groups.is_empty());
    // From setns on, processes in there can see the helper and the child, and could reach the host's files by
    // /proc/PID/exe and /proc/PID/fd. Until exec nobody but the host's root may look into them: CVE-2019-5736.
    explain::child(call!("prctl(PR_SET_DUMPABLE, 0)")).run(|| set_dumpable(false))?;
    explain::child(call!("setns({number}, {})", flag_names(flags))).run(|| setns(process, flags))?;
    // As the container's own program has left them: they are rights over the host's files.
    if may_drop_groups {
        explain::child(call!("setgroups(0, [])")).run(|| setgroups(&[]))?;
    }
    Ok(())
}

fn flags(namespaces: &[Namespace]) -> CloneFlags {
    namespaces.iter().map(|namespace| namespace.flag()).collect()
}

/// Whether setgroups(2) is allowed in the user namespace of the process that a pidfd means. user_namespaces(7); fdinfo has
/// its pid: pidfd_open(2).
fn may_drop_groups(pidfd: i32) -> bool {
    let info = kernel_file::read(format!("/proc/self/fdinfo/{pidfd}")).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap_or_default().trim();
    kernel_file::read(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text.trim() == "allow")
}
