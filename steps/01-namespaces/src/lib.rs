//! Step 01: what does the child see? See namespaces(7), clone(2), user_namespaces(7).
//!
//! The functions are in the order in which they run. The host makes the child in namespaces of its own ([`clone`]), and
//! it is held at a [gate](Gate) until its ids are mapped ([`map_ids`]). Then the child gives those namespaces their
//! content: its own mounts, name, network and processes.
//!
//! Beside it: how the child is held (`gate`) and in which states the host has it (`life`), which ids it may have (`ids`), a
//! time namespace (`clone3`), what the kernel confirms (`readback`), the options (`view`).
//!
//! Left open: root inside is root over the caller's files (step 05); nothing limits what the child uses up (step 02); it
//! still sees the host's file system (step 03).

#![deny(unsafe_code)]

mod clone3;
mod gate;
mod ids;
mod life;
mod mount;
mod readback;
mod remedies;
mod sys;
mod view;

use std::path::Path;

use anyhow::Result;
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, getgid, getgroups, getuid};
use shared::call;
use shared::explain;

pub use gate::{Gate, die_with_host};
pub use ids::Ids;
pub use life::{Held, Ready, Running};
pub use mount::mount;
pub use readback::{facts, link, own_of};
pub use remedies::known;
pub use view::{Namespace, View, flag_names};

/// Bytes of the child's stack until exec gives it another: a page is allocated only when it is used.
const STACK_SIZE: usize = 1 << 20;

/// Host: makes a child in namespaces of its own, and holds it at the gate. Once released it runs `enter`, and once started
/// `program`, which ends with exec.
///
/// # Errors
/// EPERM where this machine forbids it, ENOSPC where there are too many namespaces. clone(2).
pub fn clone<'a>(
    view: &View,
    mut enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
) -> Result<Held<'a>> {
    let has_groups = matches!(Ids::of_caller()?, Ids::Each { .. });
    let enter = move || {
        drop_groups(has_groups)?;
        enter()
    };
    let mut gate = Gate::new(enter, program)?;
    if view.has(Namespace::Time) {
        let pid = clone3::clone3(view, &mut gate)?;
        return gate.hold(pid);
    }
    let flags = view.clone_flags();
    let names = flag_names(flags) + if flags.is_empty() { "SIGCHLD" } else { "|SIGCHLD" };
    let pid = explain::host(call!("clone(child, stack, {names}, NULL)")).run(|| clone_child(&mut gate, flags))?;
    gate.hold(pid)
}

/// `clone(fun, stack, flags, arg)`, as the C library declares it: `fun` is what the child does, on a stack of its own.
/// clone(2).
///
/// # Errors
/// As [`clone`]; EINVAL for CLONE_VM.
#[allow(unsafe_code)]
pub fn clone_child(gate: &mut Gate, flags: CloneFlags) -> nix::Result<Pid> {
    // With it, the child would run on this very `stack`, which is freed when this function returns.
    if flags.contains(CloneFlags::CLONE_VM) {
        return Err(Errno::EINVAL);
    }
    let mut stack = vec![0; STACK_SIZE];
    let fun = || gate.child();
    // SAFETY: a step has one thread; and without CLONE_VM the child runs on its own copy of `stack`.
    unsafe { nix::sched::clone(Box::new(fun), &mut stack, flags, Some(libc::SIGCHLD)) }
}

/// Host, and the child held: gives it its ids, so that it is root (id 0) in its own user namespace.
///
/// Before that every id of the child is 65534, and nothing that it makes would have an owner.
///
/// # Errors
/// EPERM, where a security module forbids it. user_namespaces(7).
pub fn map_ids(child: Pid, view: &View) -> Result<()> {
    if !view.has(Namespace::User) {
        return Ok(());
    }
    let proc = Path::new("/proc").join(child.to_string());
    match Ids::of_caller()? {
        Ids::Each { uids, gids } => {
            explain::host_echo(uids, &proc.join("uid_map")).run()?;
            explain::host_echo(gids, &proc.join("gid_map")).run()
        }
        Ids::Own { why } => {
            if let Some(why) = why {
                explain::notice(format_args!("root inside has no rights over files of others: {why}"));
            }
            // Without "deny" an ordinary user may not write gid_map: setgroups(2) could drop a group that is
            // there to forbid something. See user_namespaces(7).
            explain::host_echo("deny", &proc.join("setgroups")).run()?;
            explain::host_echo(format_args!("0 {} 1", getuid()), &proc.join("uid_map")).run()?;
            explain::host_echo(format_args!("0 {} 1", getgid()), &proc.join("gid_map")).run()
        }
    }
}

/// Child, its ids mapped: leaves the caller's supplementary groups, which are rights over files. See setgroups(2).
fn drop_groups(may: bool) -> Result<()> {
    // With a single id it may not: setgroups is "deny" then.
    if !may || getgroups().is_ok_and(|groups| groups.is_empty()) {
        return Ok(());
    }
    explain::child(call!("setgroups(0, [])")).run(|| nix::unistd::setgroups(&[]))
}

/// Child: hides from the host what it mounts from here on.
///
/// A mount namespace begins as a copy of the host's mounts, and on most machines `/` is *shared*: without
/// this line, a mount made in the child appears on the host too. With a user namespace the copy is a *slave*: then it is
/// what the host mounts later that would appear in the child. See mount_namespaces(7).
pub fn keep_mounts_private(view: &View) -> Result<()> {
    if !view.has(Namespace::Mount) {
        return Ok(());
    }
    mount("none", "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)
}

/// Child: a host name of its own.
pub fn set_hostname(view: &View, name: &str) -> Result<()> {
    // In the host's uts namespace this would rename the host.
    if !view.has(Namespace::Uts) {
        return Ok(());
    }
    explain::child(call!("sethostname({name:?})")).run(|| nix::unistd::sethostname(name))
}

/// Child: sets the loopback interface up; a new network namespace contains only that interface, and it is down. See
/// network_namespaces(7).
pub fn set_loopback_up(view: &View) -> Result<()> {
    if !view.has(Namespace::Net) {
        return Ok(());
    }
    explain::child(call!("ioctl(SIOCSIFFLAGS, {{\"lo\", IFF_UP}})")).run(sys::set_loopback_up)
}

/// Child: a cgroup namespace rooted where the child is now, so after the host has put it into its cgroup.
///
/// If it were made by clone(2), it would be rooted at the host's group, and the child would read `/step02-4711` as its own
/// group instead of `/`. See cgroup_namespaces(7).
pub fn unshare_cgroup(view: &View) -> Result<()> {
    if !view.has(Namespace::Cgroup) {
        return Ok(());
    }
    explain::child(call!("unshare(CLONE_NEWCGROUP)")).run(|| nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP))
}

/// Child: a `/proc` that shows the processes of its own pid namespace.
///
/// `/proc` shows the pid namespace of the process that mounted it: without this one, `ps` inside lists the host's. See
/// proc(5).
pub fn mount_proc(view: &View) -> Result<()> {
    if !view.has(Namespace::Pid) || !view.has(Namespace::Mount) {
        return Ok(());
    }
    mount("proc", "/proc", Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_child_shares_the_stack_of_its_parent() {
        let mut gate = Gate::new(|| Ok(()), || Ok(())).expect("a gate");
        assert_eq!(clone_child(&mut gate, CloneFlags::CLONE_VM | CloneFlags::CLONE_NEWUSER), Err(Errno::EINVAL));
    }
}
