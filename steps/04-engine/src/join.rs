//! One more process for a container that runs: `exec`. It is the engine's heart once more, with setns(2) in the place of
//! new namespaces: a child held at the gate, put into the cgroup, released, started.
//!
//! Two ways in which others were broken out of here, and why they fail: CVE-2019-5736 (the engine's own program was
//! written over by `/proc/PID/exe`: see [`protect`](crate::protect), and `PR_SET_DUMPABLE` in [`setns`]), CVE-2024-21626 (a
//! descriptor of the host's that was still open became the working directory: see `rootfs::stand_in`).

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use shared::explain;
use shared::failure::{Failure, STEP_FAILED};
use shared::signals;

use crate::container::Container;
use crate::identity::Process;
use crate::letter::{Letter, Post};
use crate::setns::Helper;
use crate::{Part, Program, Recipe, each, setns, sys};

/// How long to wait for a container that seems to be just ending.
const SOON: Duration = Duration::from_millis(500);

/// What to run in a container, beside its program.
#[derive(clap::Args, Clone, Debug)]
pub struct Guest {
    /// A variable of its environment; without a value, the host's
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = rootfs::variable)]
    env: Vec<rootfs::Variable>,
    /// The directory, inside, in which it begins [default: the container's]
    #[arg(short, long, value_name = "DIR", value_parser = rootfs::path_inside)]
    workdir: Option<PathBuf>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

/// Host: runs it, with the caller's terminal. Its exit code.
///
/// # Errors
/// Where the container has just ended; those of the parts, and of setns(2).
pub fn exec<R: Recipe>(container: &Container, guest: &Guest, options: &R::Guest) -> Result<u8> {
    let state = container.state()?;
    let gone = || format!("container {} has just ended", container.name());
    let init = state.init.with_context(gone)?;
    let plan = R::for_guest(state.plan::<R>()?.with_context(gone)?, options);
    match run(&R::parts(&plan), guest, init) {
        // Whatever the kernel says of namespaces whose processes are just ending.
        Err(error) if Failure::of(&error).code == STEP_FAILED && ends_soon(init)? => bail!(gone()),
        ended => ended,
    }
}

/// Host: whether it is ending. Where all processes of a container are killed, the guest may die before the first one does.
fn ends_soon(init: Process) -> Result<bool> {
    let Some(process) = init.open()?.filter(|_| !init.is_ending()) else { return Ok(true) };
    signals::wait_for(&[process.as_fd()], Some(SOON))?.map_or(Ok(()), signals::interrupt)?;
    Ok(init.is_ending())
}

/// Host: [`create`](crate::create) once more, beside the container's first process.
fn run(parts: &[&dyn Part], guest: &Guest, init: Process) -> Result<u8> {
    let post = Post::open()?;
    let mut program = Program::new(guest.command.clone());

    // Helper, while it is the host's.
    let join = || each(parts, |part| part.join());
    // Child, once released. It stands at the container's root already: setns(2) has put it there with the mount namespace.
    let enter = || each(parts, |part| post.send(|letter| part.enter_guest(letter)));
    // Child, once started.
    let become_program = || {
        each(parts, |part| part.confine(&mut program))?;
        program.variables.extend(guest.env.iter().filter_map(rootfs::Variable::to_pair));
        rootfs::set_umask(0o022)?; // as the container's own program has it
        rootfs::stand_in(guest.workdir.as_deref().unwrap_or(&program.workdir))?;
        program.execute().context("in the container")
    };

    // From here on the descriptor means this process, whatever becomes of its pid.
    let member = to_join(init);
    let joined = member.open()?.context("its first process has ended")?;
    let own = namespaces::own_of(Pid::from_raw(member.pid))?;
    let init = Pid::from_raw(init.pid);
    let (mut helper, held) = setns::clone_into(&joined, &own, &join, enter, become_program)?;
    // Host, and the child held: ties it to what the container has, before it runs anything.
    each(parts, |part| part.admit_guest(held.pid(), init))?;
    let ready = held.release()?;
    each(parts, |part| part.entered(ready.pid(), post.receive()?))?;
    let _running = ready.start()?;
    each(parts, |part| part.begun())?;
    let ends: Vec<_> = parts.iter().flat_map(|part| part.watch()).collect();
    let pid = helper.pid;
    let ended = process::wait_beside(pid, &ends, || {
        parts.iter().for_each(|part| part.serve());
        if let Some(letter) = parts.iter().find_map(|part| part.farewell()) {
            leave(&mut helper, &letter);
        }
    });
    each(parts, |part| part.ended()).and(ended)
}

/// Host, whose caller detaches: ends, and the program goes on.
fn leave(helper: &mut Helper, letter: &Letter) -> ! {
    let code = match helper.leave(letter) {
        Ok(()) => {
            explain::notice("detached: the program goes on, until it or the container ends");
            0
        }
        Err(error) => explain::report(&error),
    };
    explain::flush();
    // Not by way of `Drop`: that would end the child.
    sys::exit(code)
}

/// Host: whose namespaces are joined: the first process's, or, where that is an init of ours (step 08), its program's. Such
/// an init has executed no program, and only root may look into it.
pub fn to_join(init: Process) -> Process {
    let program = if init.is_closed() { init.eldest_child() } else { None };
    program.unwrap_or(init)
}
