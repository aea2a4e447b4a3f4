//! The child's way into life, as states: held at the gate, ready, running. Leaving one consumes it.
//!
//! ```text
//! host   clone ───────┐ ┌─ map ids, cgroup ── release ···········┐ ┌─ look ── start ···········wait
//! child   └─ prctl ── held at the gate ········└─ enter ── ready ── held ··········└─ exec, program ──┘
//! ```
//!
//! Both sides talk over one pair of sockets, which exec closes: to the host, end of file means "exec succeeded".

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use process::check::flag_names;
use shared::call;
use shared::explain;
use shared::failure::{During, Failure, STEP_FAILED};
use shared::{signals, sys};

use crate::view::{Namespace, View};

/// What the child does in its own process.
type Act<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// A child that is born, and waits: its namespaces are there, with nothing of its own in them yet.
pub struct Held<'a>(Child<'a>);
/// A child that has entered its new surroundings and waits before exec: time to look at it.
pub struct Ready<'a>(Child<'a>);
/// A child that is the program.
pub struct Running<'a>(Child<'a>);

/// The host's handle; the child itself never has one.
struct Child<'a> {
    pid: Pid,
    socket: UnixStream,
    /// What a dry run tells in the child's place: its entering, and its last act.
    acts: [Act<'a>; 2],
}

/// Host: makes a child in namespaces of its own, and holds it at the gate. Once released it runs `enter`, and once
/// started `program`, which ends with exec.
///
/// # Errors
/// EPERM where this machine forbids it, ENOSPC where there are too many namespaces. clone(2).
pub fn clone<'a>(
    view: &View,
    enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
) -> Result<Held<'a>> {
    hold([Box::new(enter), Box::new(program)], |child| match view.has(Namespace::Time) {
        true => clone3(view, child),
        false => clone2(view, child),
    })
}

/// Host: makes a child in the namespaces of another process, and holds it at the same gate. `process` is a pidfd;
/// `namespaces` are those that differ from ours ([`own_of`](crate::own_of)). setns(2), Linux 5.8.
///
/// # Errors
/// EPERM where the caller has no rights over these namespaces, ESRCH where the process is gone.
pub fn join<'a>(
    process: &OwnedFd,
    namespaces: &[Namespace],
    enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
) -> Result<Held<'a>> {
    hold([Box::new(enter), Box::new(program)], |child| fork_setns_clone(process, namespaces, child))
}

/// What the child does from its first moment on, until exec; an exit code where it comes back.
type Life<'l> = Box<dyn FnMut() -> isize + 'l>;

fn hold<'a>(mut acts: [Act<'a>; 2], make: impl FnOnce(Life) -> Result<Pid>) -> Result<Held<'a>> {
    // Close-on-exec, as all that Rust's library opens.
    let mut ends = Some(UnixStream::pair().during("cannot make the gate")?);

    // Everything in here happens in the child, on its copy of this process's memory.
    let child = || -> isize {
        explain::newborn();
        let Some((host_end, child_end)) = ends.take() else {
            return STEP_FAILED.into();
        };
        // Kept open, the child's copy of the host's end would hide the host's death from it. See unix(7).
        drop(host_end);
        live(child_end, &mut acts).into()
    };
    let pid = make(Box::new(child))?;

    let (socket, child_end) = ends.context("the gate is gone")?;
    // And kept open here, the child's end would hide the child's death from the host.
    drop(child_end);
    explain::child_is(pid);
    let mut child = Child { pid, socket, acts };
    // Until now the child would have noticed our end at the gate; from here on it cannot outlive us in a pause either.
    child.next(|_| die_with_host())?;
    Ok(Held(child))
}

/// `clone(fun, stack, flags, arg)`, as the C library has it. clone(2).
fn clone2(view: &View, child: Life) -> Result<Pid> {
    let flags = view.clone_flags();
    let mut stack = vec![0; 1 << 20];
    let told = [&flag_names(flags)[..], &["SIGCHLD"]].concat().join("|");
    explain::host(call!("clone(child, stack, {told}, NULL)")).run(|| {
        // SAFETY: a step has one thread; and without CLONE_VM the child runs on its own copy of `stack`.
        unsafe { nix::sched::clone(child, &mut stack, flags, Some(libc::SIGCHLD)) }
    })
}

/// The newer call, which alone can make a time namespace. It returns twice, as fork(2) does. clone(2).
fn clone3(view: &View, mut child: Life) -> Result<Pid> {
    let flags = view.clone_flags() | Namespace::Time.flag();
    let told = flag_names(flags).join("|");
    explain::host(call!("clone3({{flags={told}, exit_signal=SIGCHLD}})")).run(|| {
        // SAFETY: a step has one thread.
        let pid = unsafe { sys::clone3(flags.bits() as u64) }?;
        // SAFETY: _exit(2) runs nothing more of this process: the child must not go on as a second host.
        Ok::<_, Errno>(pid.unwrap_or_else(|| unsafe { libc::_exit(child() as i32) }))
    })
}

/// Three processes, as setns(2) moves a process into every kind of namespace but one: a pid namespace takes only its
/// children. So a helper joins, and makes the child; by CLONE_PARENT it is the host's own child, and the helper may go.
fn fork_setns_clone(process: &OwnedFd, namespaces: &[Namespace], child: Life) -> Result<Pid> {
    let flags: CloneFlags = namespaces.iter().map(|namespace| namespace.flag()).collect();
    let names = flag_names(flags).join("|");
    let number = process.as_raw_fd();
    let mut child = Some(child);
    let mut act = || -> Result<Pid> {
        die_with_host()?;
        // From setns on, processes in there can see the helper and the child, and could reach the host's files by
        // /proc/PID/exe and /proc/PID/fd. Until exec nobody but the host's root may look into them: CVE-2019-5736.
        explain::child(call!("prctl(PR_SET_DUMPABLE, 0)")).run(|| set_dumpable(false))?;
        explain::child(call!("setns({number}, {names})")).run(|| setns(process, flags))?;
        let mut stack = vec![0; 1 << 20];
        explain::child(call!("clone(child, stack, CLONE_PARENT|SIGCHLD, NULL)")).run(|| {
            let child = child.take().ok_or(Errno::EINVAL)?;
            // SAFETY: as above: one thread, and no CLONE_VM.
            unsafe { nix::sched::clone(child, &mut stack, CloneFlags::CLONE_PARENT, Some(libc::SIGCHLD)) }
        })
    };
    if explain::dry_run() {
        explain::host(call!("fork()")).run(|| Ok::<_, Errno>(Pid::this()))?;
        return act();
    }

    let (mut host_end, mut helper_end) = UnixStream::pair().during("cannot make a pair of sockets")?;
    let helper = process::fork(|| {
        let answer = act().map(|pid| pid.as_raw().to_ne_bytes().to_vec());
        let answer = answer.map_or_else(|error| Failure::of(&error).to_bytes(), |pid| [&[READY], &pid[..]].concat());
        // A host that is gone needs no answer.
        let _ = helper_end.write_all(&answer);
        Ok(())
    })?;
    drop(helper_end);
    // Once it has ended well, its whole answer is there. Killed, it has maybe given none, and a child that it has made has
    // its end open, too: nobody would be told that there is nothing to come.
    ensure!(process::wait(helper)? == 0, "the helper was killed before it had joined");
    let mut pid = [0; 4];
    let mut answer = vec![READY];
    host_end.read_exact(&mut answer).during("cannot hear the helper")?;
    if answer == [READY] {
        host_end.read_exact(&mut pid).during("cannot hear the helper")?;
        return Ok(Pid::from_raw(i32::from_ne_bytes(pid)));
    }
    host_end.read_to_end(&mut answer).during("cannot hear the helper")?;
    Err(Failure::from_bytes(&answer).context("the helper said nothing")?.into())
}

/// Child: its life until exec. Comes back with an exit code where there was no exec.
fn live(mut socket: UnixStream, [enter, program]: &mut [Act; 2]) -> u8 {
    let mut act = || -> Result<()> {
        wait_at_gate(&mut socket)?; // until the host has told of the birth
        die_with_host()?;
        explain::flush();
        socket.write_all(&[READY])?;
        wait_at_gate(&mut socket)?;
        enter()?;
        explain::flush();
        socket.write_all(&[READY])?;
        wait_at_gate(&mut socket)?;
        program()
    };
    let Err(error) = act() else { return 0 };
    let failure = Failure::of(&error);
    // A host that is gone cannot be told; then nobody waits for this exit code either.
    let _ = socket.write_all(&failure.to_bytes());
    failure.code
}

/// Child: without this, a host that is killed leaves the child running, with nobody to look after it. See prctl(2).
fn die_with_host() -> Result<()> {
    explain::child(call!("prctl(PR_SET_PDEATHSIG, SIGKILL)")).at_once().run(|| set_pdeathsig(Signal::SIGKILL))
}

/// Child: reads its own pid, which in a pid namespace it cannot ask for. Fails if the host died while the child
/// waited: then there is nobody to belong to.
fn wait_at_gate(socket: &mut UnixStream) -> Result<()> {
    let mut pid = [0; 4];
    socket.read_exact(&mut pid).context("the host is gone")?;
    explain::child_is(Pid::from_raw(i32::from_ne_bytes(pid)));
    Ok(())
}

impl<'a> Held<'a> {
    /// As the host knows it.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Host: opens the gate, and waits until the child has entered.
    ///
    /// # Errors
    /// The child's own failure, whose sentence it sends here.
    pub fn release(mut self) -> Result<Ready<'a>> {
        explain::note("the host opens the gate");
        self.0.next(|[enter, _]| enter())?;
        Ok(Ready(self.0))
    }
}

impl<'a> Ready<'a> {
    /// As the host knows it.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Host: waits for the end of a child that will not be started. Its exit code, as of a program.
    pub fn wait(self) -> Result<u8> {
        process::wait(self.0.pid)
    }

    /// Host: lets the child become its program.
    ///
    /// # Errors
    /// 127 where the program was not found, 126 where it cannot be executed.
    pub fn start(mut self) -> Result<Running<'a>> {
        if explain::dry_run() {
            self.0.acts[1]()?;
        } else {
            self.0.open_gate()?;
            self.0.hear()?; // nothing, where exec has closed its end
        }
        Ok(Running(self.0))
    }
}

impl Running<'_> {
    /// As the host knows it.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Host: waits for the program's end. Its exit code, or 128 and the number of the signal that ended it.
    pub fn wait(self) -> Result<u8> {
        process::wait(self.0.pid)
    }

    /// The same wait; and whenever something can be read from one of `others`, does `work`.
    pub fn wait_beside(self, others: &[BorrowedFd], work: impl FnMut()) -> Result<u8> {
        process::wait_beside(self.0.pid, others, work)
    }
}

impl Child<'_> {
    fn open_gate(&mut self) -> Result<()> {
        explain::flush();
        self.socket.write_all(&self.pid.as_raw().to_ne_bytes()).map_err(|_| self.died())
    }

    /// Opens the gate, and waits until the child has done what comes next; a dry run tells that in its place.
    fn next(&mut self, told: impl FnOnce(&mut [Act; 2]) -> Result<()>) -> Result<()> {
        if explain::dry_run() {
            return told(&mut self.acts);
        }
        self.open_gate()?;
        if self.hear()? { Ok(()) } else { Err(self.died()) }
    }

    /// Whether the child says that it is ready; if not, exec or its death has closed its end.
    fn hear(&mut self) -> Result<bool> {
        // A signal that comes after exec is the program's.
        signals::wait_for_answer(self.socket.as_fd(), signals::interrupt)?;
        let mut first = [0];
        let heard = match self.socket.read(&mut first) {
            // Killed before it had read all that was sent to it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            heard => heard.during("cannot hear the child")?,
        };
        match heard {
            0 => Ok(false),
            _ if first == [READY] => Ok(true),
            _ => {
                let mut failure = first.to_vec();
                let _ = self.socket.read_to_end(&mut failure);
                Err(Failure::from_bytes(&failure).context("the child said nothing")?.into())
            }
        }
    }

    /// The sentence for a child that ended without a word.
    fn died(&self) -> anyhow::Error {
        match waitpid(self.pid, None) {
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                anyhow!("the child was killed by {signal} before it was ready (too small a limit of memory does that)")
            }
            _ => anyhow!("the child ended before it was ready"),
        }
    }
}

/// A child that is not waited for, because something on the host failed, does not live on. One that was is gone:
/// then there is nobody to kill, as its pid stays its own until it is waited for.
impl Drop for Child<'_> {
    fn drop(&mut self) {
        let lives = || waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive);
        if explain::dry_run() || !lives() {
            return;
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        // On cgroup v1, one that is frozen dies only when whoever takes its group away lets it go on: not waited for without end.
        let since = Instant::now();
        while lives() && since.elapsed() < PATIENCE {
            std::thread::sleep(signals::MOMENT);
        }
    }
}

/// How long a child that was killed is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Child to host: "ready". Anything else is the exit code of a failure, and its sentence and remedy follow.
const READY: u8 = 0;
