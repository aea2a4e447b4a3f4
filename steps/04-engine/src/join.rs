//! One more process for a container that runs: `exec`. It is the engine's heart once more, with setns(2) in the place of
//! new namespaces: a child held at the gate, put into the cgroup, let through, started.
//!
//! Two ways in which others were broken out of here, and why they fail: CVE-2019-5736 (the engine's own program was
//! written over by `/proc/PID/exe`: see [`protect`](crate::protect), and `PR_SET_DUMPABLE` in [`setns`]), CVE-2024-21626 (a
//! descriptor of the host's that was still open became the working directory: see `rootfs::stand_in`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cgroups::Cgroup;
use nix::unistd::Pid;
use shared::failure::{Failure, STEP_FAILED};

use crate::container::Container;
use crate::{monitor, setns};

/// How long to wait for a container that seems to be just ending.
const SOON: Duration = Duration::from_millis(200);

/// What to run in a container, beside its program.
#[derive(clap::Args, Clone, Debug)]
pub struct Guest {
    /// A variable of its environment; without a value, the host's
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = rootfs::variable)]
    env: Vec<rootfs::Variable>,
    /// The folder, inside, in which it begins [default: the container's]
    #[arg(short, long, value_name = "DIR", value_parser = rootfs::path_inside)]
    workdir: Option<PathBuf>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

/// Host: runs it, with the caller's terminal. Its exit code.
pub fn exec(container: &Container, guest: &Guest) -> Result<u8> {
    let state = container.state()?;
    let gone = || format!("container {} has just ended", container.name());
    let init = state.init.with_context(gone)?;
    let recipe = &container.config.recipe;
    let environment = recipe.root.environment(container.config.hostname());
    let environment = environment.with(guest.env.iter().filter_map(rootfs::Variable::to_pair));
    let workdir: &Path = guest.workdir.as_deref().unwrap_or(recipe.root.workdir());

    // Child, once released. It stands at the container's root already: setns(2) put it there with the mount namespace.
    let enter = || {
        rootfs::set_umask(0o022)?; // as the container's own program has it
        rootfs::stand_in(workdir)
    };
    // Child, once started.
    let program = || process::exec(&guest.command, &environment).context("in the container");

    // Host, and the child held: into the container's cgroup, before it runs anything.
    let joined = || {
        // From here on the descriptor means this process, whatever becomes of its pid.
        let process = init.open()?.with_context(gone)?;
        let own = namespaces::own_of(Pid::from_raw(init.pid))?;
        let held = setns::join(&process, &own, enter, program)?;
        Cgroup::at(&state.cgroups).admit(held.pid())?;
        held.release()?.start()
    };
    let has_ended = || Ok::<_, anyhow::Error>(init.open()?.is_none() || monitor::wait(container, Some(SOON))?);
    match joined() {
        // Whatever the kernel says of namespaces whose processes are just ending.
        Err(error) if Failure::of(&error).code == STEP_FAILED && has_ended()? => bail!(gone()),
        running => running?.wait(),
    }
}
