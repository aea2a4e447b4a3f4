//! The gate: at it the child is held until the host has done its part.
//!
//! ```text
//! host   clone ───────┐ ┌─ map ids, cgroup ── release ···········┐ ┌─ look ── start ···········wait
//! child   └─ prctl ── held at the gate ········└─ enter ── ready ── held ··········└─ exec, program ──┘
//! ```
//!
//! Before its prctl it waits once more, briefly, so that its birth is printed before all that it does.
//!
//! It is a pair of sockets. Each side closes the other's end, or it would never see EOF when that side dies. See unix(7).
//! exec closes the child's: to the host, EOF at the end means "exec succeeded".

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, close};
use shared::call;
use shared::explain;
use shared::failure::{During, Failure, answer};
use shared::signals;

use crate::life::{Child, Held};

/// What the child does in its own process.
pub(crate) type ChildAct<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// Child to host: "ready". Anything else is the exit code of a failure; its sentence and remedy follow.
const READY: u8 = 0;

/// Both ends of the gate, and what the child does behind it. The host has one until the child is born.
pub struct Gate<'a> {
    host: UnixStream,
    child: UnixStream,
    enter: ChildAct<'a>,
    program: ChildAct<'a>,
}

impl<'a> Gate<'a> {
    /// Host: a gate for a child that will run `enter` once it is released, and `program`, which ends with exec, once it is
    /// started.
    ///
    /// # Errors
    /// EMFILE where too many files are open. socketpair(2).
    pub fn new(enter: impl FnMut() -> Result<()> + 'a, program: impl FnMut() -> Result<()> + 'a) -> Result<Self> {
        // Close-on-exec, as all that Rust's library opens.
        let (host, child) = UnixStream::pair().during("cannot make the gate")?;
        Ok(Gate { host, child, enter: Box::new(enter), program: Box::new(program) })
    }

    /// Child: its whole life until exec, on its own copy of this process's memory. An exit code, if there was no exec.
    pub fn child(&mut self) -> isize {
        explain::newborn();
        let _ = close(self.host.as_raw_fd()); // nothing drops this copy: the child ends by exec or _exit
        let Err(error) = self.pass() else { return 0 };
        let failure = Failure::of(&error);
        // If the host is gone, no process waits for this exit code either.
        let _ = self.child.write_all(&failure.to_bytes());
        failure.code.into()
    }

    /// Child: held before everything that needs the host, or that the host wants to see.
    fn pass(&mut self) -> Result<()> {
        self.wait()?; // the host has printed the birth
        die_with_host()?;
        process::start_clean()?;
        self.ready()?;
        self.wait()?; // the host has mapped the ids, and put this process into its cgroup
        (self.enter)()?;
        self.ready()?;
        self.wait()?; // the host has looked at it
        (self.program)()
    }

    /// Child: reads its own pid, which in a pid namespace it cannot ask for. Fails if the host died meanwhile.
    fn wait(&mut self) -> Result<()> {
        let mut pid = [0; 4];
        self.child.read_exact(&mut pid).context("the host is gone")?;
        explain::child_is(Pid::from_raw(i32::from_ne_bytes(pid)));
        Ok(())
    }

    /// Child: what it has done so far is printed, and the host's turn.
    fn ready(&mut self) -> Result<()> {
        explain::flush();
        Ok(self.child.write_all(&[READY])?)
    }

    /// A process that stands between the two: it has made the child, and the host holds it. With its copies open, neither
    /// would see the other's death.
    pub fn leave(&self) {
        // Nothing drops this copy: the process ends by _exit.
        let _ = (close(self.host.as_raw_fd()), close(self.child.as_raw_fd()));
    }

    /// Host, and the child born: holds it at the gate.
    ///
    /// # Errors
    /// The child's own failure, or how it died.
    pub fn hold(self, pid: Pid) -> Result<Held<'a>> {
        let Gate { host, child, enter, program } = self;
        drop(child);
        explain::child_is(pid);
        let mut child = Child { pid, reaped: pid, socket: host, enter, program };
        child.next(|_| die_with_host().and_then(|()| process::start_clean()))?;
        Ok(Held(child))
    }
}

/// Child: without this, a host that is killed leaves the child running, with no process to look after it. See prctl(2).
///
/// # Errors
/// Those of prctl(2), none of which is known to happen.
#[track_caller]
pub fn die_with_host() -> Result<()> {
    explain::child(call!("prctl(PR_SET_PDEATHSIG, SIGKILL)")).at_once().run(|| set_pdeathsig(Signal::SIGKILL))
}

impl<'a> Child<'a> {
    /// Host: opens the gate, and waits until the child has done what comes next. In a dry run, where there is no child,
    /// `print` does that in its place.
    pub(crate) fn next(&mut self, print: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if explain::dry_run() {
            return print(self);
        }
        self.open_gate()?;
        if self.hear()? { Ok(()) } else { Err(self.died()) }
    }

    /// Host: lets the child go on.
    pub(crate) fn open_gate(&mut self) -> Result<()> {
        explain::flush();
        self.socket.write_all(&self.pid.as_raw().to_ne_bytes()).map_err(|_| self.died())
    }

    /// Host: whether the child says that it is ready; if not, exec or its death has closed its end.
    pub(crate) fn hear(&mut self) -> Result<bool> {
        // A signal that arrives after exec is the program's.
        Ok(answer(&mut self.socket, signals::interrupt)? == Some(READY))
    }
}
