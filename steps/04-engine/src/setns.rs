//! A child in the namespaces of another process, held at the same gate as one in new namespaces. See setns(2).
//!
//! ```text
//! host    fork ───┐                        ┌─ wait ──────── hold at the gate ···
//! helper    └─ prctl ── setns ── clone ────┘ exit
//! child                            └────────────────────── held ···
//! ```

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use namespaces::{Gate, Namespace, Waiting, die_with_host, flag_names};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Pid, getgroups, setgroups};
use shared::call;
use shared::explain;
use shared::failure::{During, Failure};
use shared::kernel_file;

/// Helper to host: "the child is born", its pid follows. Anything else is a failure's exit code, sentence and remedy.
const BORN: u8 = 0;

/// Host: makes a child in the namespaces of another process, and holds it at the gate. `process` is a pidfd; `namespaces`
/// are those that differ from ours ([`namespaces::own_of`]). Linux 5.8.
///
/// # Errors
/// EPERM where the caller has no rights over these namespaces, ESRCH where the process is gone.
pub fn join<'a>(
    process: &OwnedFd,
    namespaces: &[Namespace],
    enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
) -> Result<Waiting<'a>> {
    let mut gate = Gate::new(enter, program)?;
    let pid = fork_setns_clone(process, namespaces, &mut gate)?;
    gate.hold(pid)
}

/// Host, a helper, the child: setns(2) moves a process into every kind of namespace but one, as a pid namespace takes only
/// its children. So a helper joins, and makes the child; by CLONE_PARENT that is the host's own child, and the helper may go.
fn fork_setns_clone(process: &OwnedFd, namespaces: &[Namespace], gate: &mut Gate) -> Result<Pid> {
    if explain::dry_run() {
        explain::host(call!("fork()")).run(|| Ok::<_, Errno>(Pid::this()))?;
        return setns_clone(process, namespaces, gate);
    }
    let (mut host_end, mut helper_end) = UnixStream::pair().during("cannot make a pair of sockets")?;
    let helper = process::fork(|| {
        let pid = setns_clone(process, namespaces, gate).map(|pid| pid.as_raw().to_ne_bytes());
        let answer = pid.map_or_else(|error| Failure::of(&error).to_bytes(), |pid| [&[BORN], &pid[..]].concat());
        explain::flush();
        // A host that is gone needs no answer.
        let _ = helper_end.write_all(&answer);
        Ok(())
    })?;
    drop(helper_end);
    // If the helper was killed there may be no answer, and its child still holds the socket, so we would never see EOF.
    ensure!(process::wait(helper)? == 0, "the helper was killed before it had joined");
    let (mut first, mut rest) = ([BORN], [0; 4]);
    host_end.read_exact(&mut first).during("cannot hear the helper")?;
    if first == [BORN] {
        host_end.read_exact(&mut rest).during("cannot hear the helper")?;
        return Ok(Pid::from_raw(i32::from_ne_bytes(rest)));
    }
    let mut failure = first.to_vec();
    host_end.read_to_end(&mut failure).during("cannot hear the helper")?;
    Err(Failure::from_bytes(&failure).context("the helper's answer is empty")?.into())
}

/// Helper: its whole life.
fn setns_clone(process: &OwnedFd, namespaces: &[Namespace], gate: &mut Gate) -> Result<Pid> {
    let flags: CloneFlags = namespaces.iter().map(|namespace| namespace.flag()).collect();
    let number = process.as_raw_fd();
    let may_drop_groups = may_drop_groups(number) && getgroups().is_ok_and(|groups| !groups.is_empty());
    die_with_host()?;
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
    explain::child(call!("clone(child, stack, CLONE_PARENT|SIGCHLD, NULL)"))
        .run(|| namespaces::clone_child(gate, CloneFlags::CLONE_PARENT))
}

/// Whether setgroups(2) is allowed in the user namespace of the process that a pidfd means. user_namespaces(7); fdinfo has
/// its pid: pidfd_open(2).
fn may_drop_groups(pidfd: i32) -> bool {
    let info = kernel_file::read(format!("/proc/self/fdinfo/{pidfd}")).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap_or_default().trim();
    kernel_file::read(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text.trim() == "allow")
}
