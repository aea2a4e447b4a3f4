//! Trials: what the steps will ask of the kernel, asked in a child. Whatever the child changes ends with it.

use std::ffi::{CStr, CString};
use std::fmt::Display;
use std::fs::{File, create_dir, write};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, Gid, Pid, Uid, alarm, getgid, getuid};
use shared::failure::{CallFailed, errno_of};
use shared::kernel_file;

use crate::status::field;
use crate::sys;

/// It works, or which call was refused, and why.
pub type Tried = Result<(), CallFailed>;

/// The kinds of namespaces, by their names below `/proc/PID/ns/`.
pub const KINDS: [(&str, CloneFlags); 8] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("time", CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)),
    ("user", CloneFlags::CLONE_NEWUSER),
    ("uts", CloneFlags::CLONE_NEWUTS),
];

/// No trial takes longer, in seconds, also on a machine that is busy: each is a handful of calls.
const PATIENCE: u32 = 30;
/// Whom an ordinary user is tried as: `nobody`.
const NOBODY: u32 = 65534;

/// What step 01 asks for by default.
pub fn default_kinds() -> CloneFlags {
    let without = CloneFlags::CLONE_NEWCGROUP | CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    KINDS.iter().map(|(_, flag)| *flag).collect::<CloneFlags>().difference(without)
}

/// Whether a filter decides on this process's calls: it can answer ENOSYS for a call that the kernel knows. seccomp(2).
pub fn is_filtered() -> bool {
    kernel_file::read("/proc/self/status").is_ok_and(|status| field(&status, "Seccomp") == Some("2"))
}

/// Runs `inside` as the first child in namespaces of these kinds, in the order of the steps.
pub fn contain(kinds: CloneFlags, inside: fn() -> Tried) -> Tried {
    in_child(|| {
        let (user, group) = (getuid(), getgid());
        // Named as the call of the steps, so that the same remedy is found.
        call(format_args!("clone({})", flag_names(kinds).join("|")), || unshare(kinds))?;
        if kinds.contains(CloneFlags::CLONE_NEWUSER) {
            echo("deny".to_owned(), "/proc/self/setgroups")?;
            echo(format!("0 {user} 1"), "/proc/self/uid_map")?;
            echo(format!("0 {group} 1"), "/proc/self/gid_map")?;
        }
        // A pid namespace begins with the next child, and so does a time namespace. See pid_namespaces(7).
        in_child(|| {
            if kinds.contains(CloneFlags::CLONE_NEWNS) {
                // Where `/` is shared, what is mounted below would appear on the host. See mount_namespaces(7).
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                call("mount(\"none\", \"/\", MS_REC|MS_PRIVATE)", || {
                    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                })?;
            }
            inside()
        })
    })
}

/// The flags for these kinds by name, `CLONE_NEWPID` and so on. nix has none for the time namespace's.
fn flag_names(kinds: CloneFlags) -> Vec<&'static str> {
    let time = (kinds.bits() & libc::CLONE_NEWTIME != 0).then_some("CLONE_NEWTIME");
    kinds.iter_names().map(|(name, _)| name).chain(time).collect()
}

/// The same as an ordinary user, where root tries it.
pub fn contain_as_nobody(kinds: CloneFlags, inside: fn() -> Tried) -> Tried {
    in_child(|| {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        call("setgroups([])", || unistd::setgroups(&[]))?;
        call(format_args!("setresgid({gid})"), || unistd::setresgid(gid, gid, gid))?;
        call(format_args!("setresuid({uid})"), || unistd::setresuid(uid, uid, uid))?;
        // A process that has changed its user does not own its own files in /proc, id maps among them. See proc(5).
        call("prctl(PR_SET_DUMPABLE, 1)", || set_dumpable(true))?;
        contain(kinds, inside)
    })
}

/// Nothing but being there.
pub fn be() -> Tried {
    Ok(())
}

/// What step 01 does inside.
pub fn see() -> Tried {
    call("sethostname(\"check\")", || unistd::sethostname("check"))?;
    mount_new("proc", None)
}

/// What step 03 does inside.
pub fn stand() -> Tried {
    see()?;
    mount_new("tmpfs", None)?;
    call("chdir(\"/proc\")", || unistd::chdir("/proc"))?;
    call("pivot_root(\".\", \".\")", || unistd::pivot_root(".", "."))?;
    call("umount2(\".\", MNT_DETACH)", || umount2(".", MntFlags::MNT_DETACH))
}

/// What root does in step 06, in a network of its own: a bridge.
pub fn bridge() -> Tried {
    call("ioctl(SIOCBRADDBR, \"check\")", || sys::add_bridge(c"check"))
}

/// What step 07 does inside: an overlay of three directories, in memory.
pub fn lay() -> Tried {
    mount_new("tmpfs", None)?;
    for directory in ["/proc/lower", "/proc/upper", "/proc/work"] {
        call(format_args!("mkdir {directory}"), || create_dir(directory))?;
    }
    mount_new("overlay", Some("userxattr,lowerdir=/proc/lower,upperdir=/proc/upper,workdir=/proc/work"))
}

/// What root does in step 05: a mount of what is at `path`, in which root inside owns what is root's.
pub fn map(path: &Path) -> Tried {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    in_child(|| {
        let (read, write) = call_with("pipe2()", || unistd::pipe2(OFlag::O_CLOEXEC))?;
        // A user namespace is there as long as a process is in it.
        let inside = || {
            let _ = set_pdeathsig(Signal::SIGKILL);
            let errno = unshare(CloneFlags::CLONE_NEWUSER).err().map_or(0, |errno| errno as u8);
            let _ = (&File::from(write)).write_all(&[errno]);
            loop {
                unistd::pause();
            }
        };
        let child = call_with("fork()", || sys::fork(inside))?;
        let mut errno = [0];
        let made = call_with("clone(CLONE_NEWUSER)", || match File::from(read).read(&mut errno)? {
            0 => Err(std::io::Error::from_raw_os_error(libc::ECHILD)),
            _ if errno[0] == 0 => Ok(()),
            _ => Err(std::io::Error::from_raw_os_error(errno[0].into())),
        });
        let mapped = made.and_then(|()| map_as(child, &name));
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
        mapped
    })
}

/// In such a mount, with the ids of this process's user namespace.
fn map_as(process: Pid, path: &CStr) -> Tried {
    for file in ["uid_map", "gid_map"] {
        echo("0 100000 65536".to_owned(), &format!("/proc/{process}/{file}"))?;
    }
    let namespace = format!("/proc/{process}/ns/user");
    let namespace = call_with(format_args!("open({namespace:?})"), || File::open(&namespace))?;
    call("mount_setattr(MOUNT_ATTR_IDMAP)", || sys::map_copy_of_mount(path, namespace.as_fd()))
}

/// Mounts a new file system on `/proc`, the one directory that is sure to be there.
fn mount_new(kind: &str, options: Option<&str>) -> Tried {
    call(format_args!("mount({kind:?}, \"/proc\", {kind:?})"), || {
        mount(Some(kind), "/proc", Some(kind), MsFlags::empty(), options)
    })
}

fn echo(value: String, path: &str) -> Tried {
    call(format_args!("echo {value} > {path}"), || write(path, &value))
}

/// Makes the call; a refusal bears its name.
pub fn call<E: Into<std::io::Error>>(name: impl Display, make: impl FnOnce() -> Result<(), E>) -> Tried {
    call_with(name, make)
}

fn call_with<T, E: Into<std::io::Error>>(
    name: impl Display,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T, CallFailed> {
    make().map_err(|error| CallFailed { call: name.to_string(), errno: errno_of(error.into()) })
}

/// Makes the attempt in a child. A refusal comes back as the child's exit code (the errno) and, over a pipe, the call.
fn in_child(attempt: impl FnOnce() -> Tried) -> Tried {
    let failed = |call: &str, errno| CallFailed { call: call.to_owned(), errno };
    let (read, write) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("pipe2()", errno))?;
    let child = || {
        // Without these two, a trial that hangs would keep the check waiting, and outlive it.
        alarm::set(PATIENCE);
        let _ = set_pdeathsig(Signal::SIGKILL);
        let Err(refused) = attempt() else { return 0 };
        let _ = (&File::from(write)).write_all(refused.call.as_bytes());
        refused.errno as u8
    };
    // Here the closure is gone, and with it this process's copy of `write`: kept open, no end would be read. See pipe(7).
    let child = sys::fork(child).map_err(|errno| failed("fork()", errno))?;
    let mut call = String::new();
    let _ = File::from(read).read_to_string(&mut call);
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        Ok(WaitStatus::Exited(_, errno)) => Err(failed(&call, Errno::from_raw(errno))),
        _ => Err(failed("a trial that did not come to its end", Errno::ETIMEDOUT)),
    }
}
