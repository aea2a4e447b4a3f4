//! Step 09: what may the child not even try? See capabilities(7), seccomp(2), bpf(2), keyrings(7).
//!
//! Until here root inside had every right over its own namespaces, and every system call. Now it has what programs
//! need, and no more. The functions are in the order in which they run: the host says which devices may be opened
//! ([`allow_only`]), and how soon the child is killed where memory runs out ([`kill_sooner_or_later`]); the child, in
//! its root, covers what in `/proc` and `/sys` is the host's ([`cover`], [`make_read_only`]); and right before exec, as
//! each process that `exec` brings in, it gives up the rest: its caller's keys ([`leave_the_callers_keys`]), what it
//! may use up ([`limit`]), the capabilities that it could ever have ([`drop_from_bounds`]) and has ([`keep_only`]),
//! rights that a program's file gives ([`refuse_new_privileges`]), and calls ([`filter`]).
//!
//! Beside it: capabilities by their names (`capabilities`), the list of calls with its reasons (`calls`), their numbers
//! (`numbers`), Docker's form of such a list (`profile`), the list of devices and the program that keeps it (`devices`),
//! where the covered files are (`paths`), what the kernel confirms (`readback`), the options, and all that as parts of a
//! container (`parts`).
//!
//! Left open:
//! - The kernel is shared: a hole in one of the calls that are allowed is a hole in every container. Beyond that stand
//!   a kernel of its own (a virtual machine, as Kata has it) or one in user space (gVisor).
//! - What processors, caches and memory tell by how fast they are.
//! - `/proc` still shows what no namespace divides, and Docker does not mask either: `/proc/kallsyms`, `/proc/config.gz`.
//! - A root filesystem is still the host's, or from a stranger: images, and their digests, are step 10's.

#![deny(unsafe_code)]

pub mod calls;
pub mod capabilities;
pub mod devices;
pub mod numbers;
mod options;
pub mod parts;
pub mod paths;
pub mod profile;
mod readback;
mod remedies;
pub mod sys;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use capabilities::Set;
use namespaces::mount;
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::setrlimit;
use nix::unistd::Pid;
use paths::There;
use seccompiler::BpfProgram;
use shared::explain::Returned;
use shared::failure::During;
use shared::{call, explain};

pub use options::{Confinement, Ulimit};
pub use remedies::known;

/// What stands on one line of the narration.
const OWN: &str = "limits and keys of its own";
const CAPABILITIES: &str = "its capabilities";

/// Host, and no child yet: which devices the processes of a group of cgroup v2 may open. There is no file for that; the
/// kernel asks a program, which it has checked before.
///
/// # Errors
/// EPERM without CAP_BPF and CAP_NET_ADMIN.
pub fn allow_only(rules: &[devices::DeviceRule], group: &Path) -> Result<()> {
    let _list = explain::one_line("which devices may be opened");
    let directory = || if explain::dry_run() { OwnedFd::stand_in() } else { File::open(group).map(OwnedFd::from) };
    let group = directory().during(group.display())?;
    let program = devices::program(rules);
    let text = format!("{{BPF_PROG_TYPE_CGROUP_DEVICE, {} instructions, \"MIT\"}}", program.len());
    let loaded = explain::host(call!("bpf(BPF_PROG_LOAD, {text})")).run(|| sys::load_device_program(&program))?;
    // With BPF_F_ALLOW_MULTI it is detached by its descriptor alone, which is closed right after this. Without, anybody who
    // can open the group's directory may detach it.
    let text = format!("{{{}, {}, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI}}", group.as_raw_fd(), loaded.as_raw_fd());
    explain::host(call!("bpf(BPF_PROG_ATTACH, {text})"))
        .run(|| sys::attach_device_program(loaded.as_fd(), group.as_fd()))
}

/// Child, in its root: a file of the kernel's that is not to be read becomes the null device, a directory an empty one.
///
/// While it still may mount. What is covered here cannot be uncovered without CAP_SYS_ADMIN; and where a part of `/proc` is
/// covered, the kernel lets no user namespace mount a new one.
///
/// # Errors
/// EPERM without rights over the mount namespace.
pub fn cover(there: &There, null: &There) -> Result<()> {
    if there.is_directory {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        return mount("tmpfs", &there.path, Some("tmpfs"), flags, None);
    }
    mount(&null.path, &there.path, None, MsFlags::MS_BIND, None)
}

/// Child, in its root: settings of the kernel's that may be read and not written: a copy of the mount, read-only, over it.
///
/// # Errors
/// The same.
pub fn make_read_only(there: &There) -> Result<()> {
    let path = std::ffi::CString::new(there.path.as_str())?;
    let flags = "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE";
    let copy = explain::child(call!("open_tree(AT_FDCWD, {:?}, {flags})", there.path))
        .run(|| rootfs::sys::copy_mount(&path, true))?;
    let (from, to) = (copy.as_raw_fd(), there.descriptor.as_raw_fd());
    explain::child(call!("mount_setattr({from}, \"\", AT_EMPTY_PATH|AT_RECURSIVE, {{attr_set=MOUNT_ATTR_RDONLY}})"))
        .run(|| rootfs::sys::mount_read_only(copy.as_fd(), true))?;
    explain::child(call!("move_mount({from}, \"\", {to}, \"\", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)"))
        .run(|| rootfs::sys::move_mount(copy.as_fd(), there.descriptor.as_fd(), c""))
}

/// Host: how soon the kernel kills this process, of all on the machine, where memory runs out: from 1000, the first,
/// down to
/// -1000, never. proc_pid_oom_score_adj(5).
///
/// # Errors
/// EACCES below the caller's own number, without CAP_SYS_RESOURCE over the whole machine.
pub fn kill_sooner_or_later(process: Pid, number: i32) -> Result<()> {
    explain::host_echo(number, Path::new(&format!("/proc/{process}/oom_score_adj"))).run()
}

/// Child: a session keyring of its own. That of the caller has keys to the host's networks and disks, and is inherited.
///
/// # Errors
/// EDQUOT where this user has as many as it may have.
pub fn leave_the_callers_keys() -> Result<()> {
    let _own = explain::one_line(OWN);
    explain::child(call!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)")).run(|| match sys::join_session_keyring() {
        Err(Errno::ENOSYS) => Ok(()), // a kernel that keeps no keys
        joined => joined,
    })
}

/// Child: what one process may use up, where a cgroup counts all of them. getrlimit(2).
///
/// # Errors
/// EPERM for a hard limit above its own, which takes CAP_SYS_RESOURCE over the whole machine.
pub fn limit(ulimit: &Ulimit) -> Result<()> {
    let _own = explain::one_line(OWN);
    let (Ulimit { name, soft, hard }, resource) = (ulimit, ulimit.resource()?);
    explain::child(call!("setrlimit(RLIMIT_{}, {{{soft}, {hard}}})", name.to_uppercase()))
        .run(|| setrlimit(resource, *soft, *hard))
}

/// Child: the bounding set. A program that root executes gets all that is in there, whatever the process had before: so
/// this is what counts, and dropping the others alone is the first try. It takes CAP_SETPCAP, so it comes before those.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn drop_from_bounds(kept: Set) -> Result<()> {
    let _capabilities = explain::one_line(CAPABILITIES);
    for capability in Set(!kept.0).iter().filter(|it| sys::knows(it.number())) {
        explain::child(call!("prctl(PR_CAPBSET_DROP, CAP_{capability})"))
            .run(|| sys::drop_from_bounding_set(capability.number()))?;
    }
    Ok(())
}

/// Child, once it is who it is to be: the other four sets. Nothing is inheritable, and so nothing ambient: both would be
/// left to a program that is not root (CVE-2022-24769).
///
/// # Errors
/// None that is known: it keeps no more than it has.
pub fn keep_only(kept: Set) -> Result<()> {
    let _capabilities = explain::one_line(CAPABILITIES);
    explain::child(call!("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)")).run(sys::clear_ambient_set)?;
    let [_, permitted, _] = if explain::dry_run() { [kept.0; 3] } else { sys::capget().during("capget")? };
    let kept = kept.0 & permitted;
    explain::child(call!("capset({{effective={kept:#x}, permitted={kept:#x}, inheritable=0}})"))
        .run(|| sys::capset([kept, kept, 0]))
}

/// Child: from here on, executing a program gives no rights: no setuid bit and no capability of a file's counts.
///
/// # Errors
/// None that is known. PR_SET_NO_NEW_PRIVS(2const).
pub fn refuse_new_privileges() -> Result<()> {
    explain::child(call!("prctl(PR_SET_NO_NEW_PRIVS, 1)")).run(set_no_new_privs)
}

/// Child, last of all: the kernel asks this program before each call, of this process and of all that it makes. Nothing
/// removes it again.
///
/// # Errors
/// EACCES without no_new_privs and without CAP_SYS_ADMIN: a setuid program could be misled by calls that fail.
pub fn filter(program: &BpfProgram) -> Result<()> {
    explain::child(call!("seccomp(SECCOMP_SET_MODE_FILTER, 0, '{} instructions')", program.len()))
        .run(|| sys::add_filter(program))
}
