//! My own container: `mine COMMAND [ARG…]`. So far it has namespaces and limits.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, io, panic};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, clone};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getgid, getuid, sethostname};

fn main() {
    // Any failure, of the host or of the child, ends that process here and names the call.
    panic::set_hook(Box::new(|failure| {
        eprintln!("mine: {failure}");
        exit(125)
    }));
    let words: Vec<String> = env::args().collect();
    let [_, program, arguments @ ..] = &words[..] else { panic!("usage: mine COMMAND [ARG…]") };

    let gate = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("eventfd");
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    let mut stack = vec![0; 1 << 20];
    let run = Box::new(|| child(&gate, program, arguments));
    // SAFETY: this process has one thread, and without CLONE_VM the child has its own copy of the memory.
    let child = unsafe { clone(run, &mut stack, flags, Some(Signal::SIGCHLD as i32)) }.expect("clone");

    // Host, and the child held at the gate: root inside is the caller outside, and every group has the child in it.
    fs::write(format!("/proc/{child}/setgroups"), "deny").expect("setgroups");
    fs::write(format!("/proc/{child}/uid_map"), format!("0 {} 1", getuid())).expect("uid_map");
    fs::write(format!("/proc/{child}/gid_map"), format!("0 {} 1", getgid())).expect("gid_map");
    let groups = groups(child);
    groups.iter().try_for_each(|group| admit(group, child)).unwrap_or_else(|error| eprintln!("no limits: {error}"));
    gate.write(1).expect("gate");

    // Host, and the child gone.
    let code = wait(child);
    groups.iter().filter(|group| group.exists()).for_each(|group| fs::remove_dir(group).expect("rmdir"));
    exit(code)
}

/// Child: takes its own view, and becomes the program.
fn child(gate: &EventFd, program: &str, arguments: &[String]) -> isize {
    set_pdeathsig(Signal::SIGKILL).expect("prctl");
    gate.read().expect("gate");
    sethostname("mine").expect("sethostname");
    // Where / is shared, later mounts of the host would appear in here, too. See mount_namespaces(7).
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mount private");
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).expect("mount proc");
    let error = Command::new(program).args(arguments).exec();
    panic!("{program}: {error}")
}

/// Host: a group for the child in each tree: one on version 2, one for each subsystem on version 1.
fn groups(child: Pid) -> Vec<PathBuf> {
    let subsystems = ["", "cpu", "cpuset", "blkio", "memory", "devices", "freezer", "pids"];
    let trees = subsystems.map(|subsystem| Path::new("/sys/fs/cgroup").join(subsystem));
    // A directory that is no cgroup tree would take a mkdir and a write, too, and limit nothing.
    let trees = trees.iter().filter(|tree| tree.join("cgroup.procs").exists());
    trees.map(|tree| tree.join(format!("mine-{child}"))).collect()
}

/// Host: makes a group, limits it, and writes the pid of the child into it.
fn admit(group: &Path, child: Pid) -> io::Result<()> {
    let tree = group.parent().expect("tree");
    if tree.join("cgroup.subtree_control").exists() {
        fs::write(tree.join("cgroup.subtree_control"), "+pids")?;
    }
    fs::create_dir(group)?;
    // On version 1 a new group of cpuset has no processor and no memory, and takes no pid. See cpuset(7).
    for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| tree.join(file).exists()) {
        fs::write(group.join(file), fs::read(tree.join(file))?)?;
    }
    if group.join("pids.max").exists() {
        fs::write(group.join("pids.max"), "20")?;
    }
    fs::write(group.join("cgroup.procs"), child.to_string())
}

/// Host: the exit code of the child, or 128 and the signal that ended it.
fn wait(child: Pid) -> i32 {
    match waitpid(child, None).expect("waitpid") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}
