//! Step 01: what does the child see? See namespaces(7), clone(2), user_namespaces(7).
//!
//! The host side makes the child in namespaces of its own and holds it at a gate ([`clone`], [`Held`]) until
//! its ids are mapped. The child's side gives those namespaces their content: its own mounts, name, processes
//! and network.
//!
//! Left open: whoever is root inside is the caller outside, and may do to files what the caller may (step 05);
//! nothing limits what the child uses up (step 02); it still stands in the host's files (step 03).

mod held;
mod remedies;
mod view;

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, getgid, getuid};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::formula::Fact;
use shared::sys;

pub use held::{Held, Ready, Running, clone, join};
pub use remedies::known;
pub use view::{Namespace, View};

/// Host: lets the held child be root (id 0) in its own user namespace, and the caller outside.
///
/// Before its ids are mapped every id of the child is 65534, and nothing that it makes would have an owner.
pub fn map_ids(child: Pid, view: &View) -> Result<()> {
    if !view.has(Namespace::User) {
        return Ok(());
    }
    let proc = Path::new("/proc").join(child.to_string());
    // Without "deny" an ordinary user may not write gid_map: setgroups(2) could drop a group that is
    // there to forbid something. See user_namespaces(7).
    explain::host_echo("deny", &proc.join("setgroups")).run()?;
    explain::host_echo(format_args!("0 {} 1", getuid()), &proc.join("uid_map")).run()?;
    explain::host_echo(format_args!("0 {} 1", getgid()), &proc.join("gid_map")).run()
}

/// Child: keeps from the host whatever it mounts from here on.
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
pub fn set_hostname(view: &View, default: &str) -> Result<()> {
    // In the host's uts namespace this would rename the host.
    if !view.has(Namespace::Uts) {
        return Ok(());
    }
    let name = view.hostname.as_deref().unwrap_or(default);
    explain::child(call!("sethostname({name:?})")).run(|| nix::unistd::sethostname(name))
}

/// Child: a `/proc` that shows the processes of its own pid namespace.
///
/// `/proc` shows the pid namespace of whoever mounted it: without this one, `ps` inside lists the host's. See proc(5).
pub fn mount_proc(view: &View) -> Result<()> {
    if !view.has(Namespace::Pid) || !view.has(Namespace::Mount) {
        return Ok(());
    }
    mount("proc", "/proc", Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None)
}

/// Child: sets the loopback interface up; a new network namespace has nothing else, and has it down. See network_namespaces(7).
pub fn set_loopback_up(view: &View) -> Result<()> {
    if !view.has(Namespace::Net) {
        return Ok(());
    }
    explain::child(call!("ioctl(SIOCSIFFLAGS, {{\"lo\", IFF_UP}})")).run(sys::set_loopback_up)
}

/// Child: a cgroup namespace rooted where the child is now, so after the host has put it into its cgroup.
///
/// Made at clone(2) already, it would be rooted at the host's group, and the child would read `/step02-4711` as its own
/// group in the place of `/`. See cgroup_namespaces(7).
pub fn unshare_cgroup(view: &View) -> Result<()> {
    if !view.has(Namespace::Cgroup) {
        return Ok(());
    }
    explain::child(call!("unshare(CLONE_NEWCGROUP)")).run(|| nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP))
}

/// Host: what the kernel says of the child's namespaces. Those that were asked for must be its own.
pub fn facts(child: Pid, view: &View) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let fact = |namespace: &Namespace| {
        let (host, child) = (link("self", *namespace)?, link(&child.to_string(), *namespace)?);
        let brief = namespace.file().to_owned();
        Ok(Fact { what: format!("{} namespace", namespace.file()), holds: host != child, host, child, brief })
    };
    view.namespaces().iter().map(fact).collect()
}

/// Host: the namespaces of a process that are not ours.
pub fn own_of(process: Pid) -> Result<Vec<Namespace>> {
    let mut own = Vec::new();
    for namespace in Namespace::value_variants() {
        if link("self", *namespace)? != link(&process.to_string(), *namespace)? {
            own.push(*namespace);
        }
    }
    Ok(own)
}

/// `pid:[4026531836]`; empty where the kernel has no such namespaces.
fn link(process: &str, namespace: Namespace) -> Result<String> {
    let path = format!("/proc/{process}/ns/{}", namespace.file());
    match std::fs::read_link(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound && Path::new("/proc").join(process).exists() => {
            Ok(String::new())
        }
        link => Ok(link.during(format_args!("cannot read {path}"))?.to_string_lossy().into_owned()),
    }
}

/// mount(2), printed as a call of the step that uses it. A type or data of `None` is a null pointer to the kernel.
#[track_caller]
pub fn mount(source: &str, target: &str, kind: Option<&str>, flags: MsFlags, data: Option<&str>) -> Result<()> {
    let or_null = |text: Option<&str>| text.map_or("NULL".to_owned(), |text| format!("{text:?}"));
    let names = flags.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join("|");
    let names = if names.is_empty() { "0".to_owned() } else { names };
    explain::child(call!("mount({source:?}, {target:?}, {}, {names}, {})", or_null(kind), or_null(data)))
        .run(|| nix::mount::mount(Some(source), target, kind, flags, data))
}
