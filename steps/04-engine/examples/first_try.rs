//! What anyone would write first for `exec`: join the namespaces, go to the directory, become the program.
//!
//! usage: step04_first_try PID WORKDIR COMMAND [ARG…]
//!
//! It works, and a process inside can reach out of it by this process, in two ways that are tried in `tests/step/main.rs`:
//! WORKDIR may be a descriptor of the host's that was left open (CVE-2024-21626), and COMMAND may lead back to this very
//! program, whose file can then be written to (CVE-2019-5736). Compare `src/join.rs`.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [pid, workdir, program, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: step04_first_try PID WORKDIR COMMAND [ARG…]");
    };
    let pid = Pid::from_raw(pid.parse()?);
    let own = namespaces::own_of(pid)?;
    let has = |namespace| own.contains(&namespace);
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    flags.set(CloneFlags::CLONE_NEWUSER, has(namespaces::Namespace::User));
    setns(process::sys::pidfd_open(pid)?.as_fd(), flags)?;

    let child = process::fork(|| {
        chdir(workdir.as_str())?;
        Err(std::process::Command::new(program).args(rest).exec().into())
    })?;
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        status => anyhow::bail!("{status:?}"),
    }
}
