//! The gate of this step: the child stops itself, so that the host can look at it before it runs. See signal(7).

use anyhow::{Result, ensure};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::signals;

/// Child: stops until the host lets it go on.
pub fn stop(host: Pid) -> Result<()> {
    explain::child_is(getpid()); // for the hints of `--pause`
    // Without this, a host that is killed leaves the child behind, stopped for ever. See prctl(2).
    explain::child(call!("prctl(PR_SET_PDEATHSIG, SIGKILL)")).at_once().run(|| set_pdeathsig(Signal::SIGKILL))?;
    // A host that died before that line sends nothing any more.
    ensure!(explain::dry_run() || getppid() == host, "the host is gone");
    // Printed before it is made: afterwards it would be printed by a process that goes on.
    explain::child(call!("kill(getpid(), SIGSTOP)")).printed_first().run(|| kill(getpid(), Signal::SIGSTOP))
}

/// Host: waits until the child has stopped. One that has ended instead is left for the wait at the end.
pub fn wait_until_stopped(child: Pid) -> Result<()> {
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(child), flags).during("cannot wait for the child")? == WaitStatus::StillAlive {
        if let Some(received) = signals::wait(&[])? {
            signals::interrupt(received)?;
        }
    }
    Ok(())
}

/// Host: lets the child go on. Printed before it is made, so that what the child then prints comes after it.
pub fn open(child: Pid) -> Result<()> {
    explain::host(call!("kill({child}, SIGCONT)")).printed_first().run(|| kill(child, Signal::SIGCONT))
}

/// Host, after a failure: ends the child, and waits until it is gone.
pub fn end(child: Pid) {
    // Once it has been waited for, another process may get its pid. Until then it is the child's, alive or not. See
    // waitpid(2).
    if waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
    }
}
