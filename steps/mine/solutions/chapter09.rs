//! My own container: `mine FILE ROOT COMMAND [ARG…]`. It runs in the background, and FILE says how it ended. Root inside is
//! nobody outside, with no more rights than it needs; where root has called it, there is a cable to it; and what it writes goes
//! to FILE.layers, and not to ROOT. It has a terminal of its own: what is written to FILE.keys is typed there, and what it
//! shows is in FILE.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, io, panic, thread};

use nix::cmsg_space;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, clone};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, User, chdir, daemon, dup2_stderr, dup2_stdin, dup2_stdout, getgid, getuid};
use nix::unistd::{mkfifo, pivot_root, setgid, setgroups, sethostname, setsid, setuid};

fn main() {
    // Any failure, of the host or of the child, ends that process here and names the call.
    panic::set_hook(Box::new(|failure| {
        eprintln!("mine: {failure}");
        exit(125)
    }));
    let words: Vec<String> = env::args().collect();
    let [_, file, root, program, arguments @ ..] = &words[..] else { panic!("usage: mine FILE ROOT COMMAND [ARG…]") };

    // Host: from here on in the background, and what is printed goes to the file.
    let log = File::create_new(file).expect(file);
    daemon(true, false).expect("daemon");
    dup2_stdout(&log).expect("dup2");
    dup2_stderr(&log).expect("dup2");
    let layers = format!("{file}.layers");
    make_layers(&layers);
    let keys = format!("{file}.keys");
    mkfifo(&*keys, Mode::S_IRUSR | Mode::S_IWUSR).expect(&keys);
    let (host_end, child_end) = UnixStream::pair().expect("socketpair");

    let gate = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("eventfd");
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    let mut stack = vec![0; 1 << 20];
    let run = Box::new(|| child(&gate, &child_end, root, &layers, program, arguments));
    // SAFETY: this process has one thread, and without CLONE_VM the child has its own copy of the memory.
    let child = unsafe { clone(run, &mut stack, flags, Some(Signal::SIGCHLD as i32)) }.expect("clone");
    drop(child_end); // the child's copy is the last one: if it fails, its end is heard here

    // Host, and the child held at the gate: it gets a range of ids, and every group has the child in it.
    map_ids(child, "uid", getuid().as_raw());
    map_ids(child, "gid", getgid().as_raw());
    let groups = groups(child);
    groups.iter().try_for_each(|group| admit(group, child)).unwrap_or_else(|error| eprintln!("no limits: {error}"));
    if getuid().is_root() {
        plug_in(child);
    }
    println!("running {child}");
    gate.write(1).expect("gate");
    if let Some(master) = receive(&host_end) {
        serve(master, &keys, &log);
    }

    // Host, and the child gone.
    let code = wait(child);
    fs::remove_file(&keys).expect(&keys);
    groups.iter().filter(|group| group.exists()).for_each(|group| fs::remove_dir(group).expect("rmdir"));
    println!("exited {code}");
}

/// Host: an upper layer, which belongs to root inside, a place where the kernel prepares changes, and a mount point.
fn make_layers(layers: &str) {
    for name in ["upper", "work", "root"] {
        let directory = format!("{layers}/{name}");
        fs::create_dir_all(&directory).expect("mkdir");
        if getuid().is_root() {
            chown(&directory, Some(100000), Some(100000)).expect("chown");
        }
    }
}

/// Host: the range of ids that the child gets, of kind `uid` or `gid`. Root may write any; an ordinary user has a program
/// with root's rights write those that a file in /etc gives to that user.
fn map_ids(child: Pid, kind: &str, own: u32) {
    if getuid().is_root() {
        return fs::write(format!("/proc/{child}/{kind}_map"), "0 100000 65536").expect("map");
    }
    let name = User::from_uid(getuid()).expect("passwd").expect("a line in /etc/passwd").name;
    let file = fs::read_to_string(format!("/etc/sub{kind}")).expect("/etc/subuid and /etc/subgid");
    let range = file.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect("a range in /etc/subuid");
    let map = format!("{child} 0 {own} 1 1 {}", range.replace(':', " "));
    let status = Command::new(format!("new{kind}map")).args(map.split(' ')).status().expect("newuidmap");
    assert!(status.success(), "new{kind}map {map}");
}

/// Host: a cable, one end of which is born in the network namespace of the child. It ends with that.
fn plug_in(child: Pid) {
    let (cable, inside) = (format!("mine-{child}"), format!("nsenter --net --target {child} ip"));
    run(&format!("ip link add {cable} type veth peer name eth0 netns {child}"));
    run(&format!("ip address add 10.66.0.1/24 dev {cable}"));
    run(&format!("ip link set {cable} up"));
    run(&format!("{inside} address add 10.66.0.2/24 dev eth0"));
    run(&format!("{inside} link set eth0 up"));
    run(&format!("{inside} route add default via 10.66.0.1"));
}

fn run(words: &str) {
    let (program, arguments) = words.split_once(' ').expect("a program and its arguments");
    let status = Command::new(program).args(arguments.split(' ')).status().expect(program);
    assert!(status.success(), "{words}");
}

/// Child: becomes root inside, takes its own view, enters its root, and becomes the program.
fn child(gate: &EventFd, host: &UnixStream, root: &str, layers: &str, program: &str, arguments: &[String]) -> isize {
    set_pdeathsig(Signal::SIGKILL).expect("prctl");
    gate.read().expect("gate");
    // The map says which ids there are; by these it becomes one of them. Without its user id, it could change no group.
    setgroups(&[]).expect("setgroups");
    setgid(Gid::from_raw(0)).expect("setgid");
    setuid(Uid::from_raw(0)).expect("setuid");
    set_pdeathsig(Signal::SIGKILL).expect("prctl"); // these calls have cleared it
    sethostname("mine").expect("sethostname");
    // Where / is shared, later mounts of the host would appear in here, too. See mount_namespaces(7).
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mount private");
    // The root as it is seen with what the container writes above it. A mount of its own, so it takes no bind.
    let options = format!("userxattr,lowerdir={root},upperdir={layers}/upper,workdir={layers}/work");
    let root = format!("{layers}/root");
    mount(Some("overlay"), &*root, Some("overlay"), MsFlags::empty(), Some(&*options)).expect("overlay");
    chdir(&*root).expect("chdir");
    mount(Some("proc"), "proc", Some("proc"), MsFlags::empty(), none).expect("mount proc");
    pivot_root(".", ".").expect("pivot_root");
    umount2(".", MntFlags::MNT_DETACH).expect("umount2");
    take_terminal(host);
    give_up_rights();
    let error = Command::new(program).args(arguments).exec();
    panic!("{program}: {error}")
}

/// Child, in its root: makes a terminal, opens its other end, sends the host the master, and takes the terminal.
fn take_terminal(host: &UnixStream) {
    let none = None::<&str>;
    // A directory of ROOT's may be nobody's in here, and take no other.
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("tmpfs");
    fs::create_dir("/dev/pts").expect("mkdir");
    // Each mount has terminals of its own, from 0 on.
    mount(Some("devpts"), "/dev/pts", Some("devpts"), MsFlags::empty(), none).expect("devpts");
    let mut options = File::options();
    options.read(true).write(true);
    let master = options.open("/dev/pts/ptmx").expect("ptmx");
    // SAFETY: takes a number and touches no memory of ours.
    assert_eq!(unsafe { libc::unlockpt(master.as_raw_fd()) }, 0, "unlockpt: {}", io::Error::last_os_error());
    // A terminal that the leader of a session opens becomes that of the session, if it has none.
    setsid().expect("setsid");
    let terminal = options.open("/dev/pts/0").expect("pts");
    // Not before: the end of a terminal that nobody has opened is never heard. A byte has to go with the descriptor.
    let descriptors = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(host.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::empty(), None).expect("sendmsg");
    dup2_stdin(&terminal).expect("dup2");
    dup2_stdout(&terminal).expect("dup2");
    dup2_stderr(&terminal).expect("dup2");
}

/// Child, right before exec: keeps the rights of [`KEPT`], and no program gives it more.
fn give_up_rights() {
    let last: u64 =
        fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("/proc").trim().parse().expect("a number");
    for capability in (0..=last).filter(|number| !KEPT.contains(number)) {
        // SAFETY: takes numbers and touches no memory of ours.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        assert_eq!(dropped, 0, "prctl(PR_CAPBSET_DROP, {capability}): {}", io::Error::last_os_error());
    }
    set_no_new_privs().expect("prctl");
}

/// In capabilities(7): chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
/// sys_chroot, mknod, audit_write and setfcap.
const KEPT: [u64; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];

/// Host: the master of the child's terminal; None where the child has ended before it could send that.
fn receive(host: &UnixStream) -> Option<File> {
    let (mut byte, mut space) = ([0], cmsg_space!(i32));
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(host.as_raw_fd(), &mut bytes, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
    let ControlMessageOwned::ScmRights(descriptors) = message.expect("recvmsg").cmsgs().expect("cmsgs").next()? else {
        panic!("not a descriptor")
    };
    // SAFETY: the kernel has just made it for this process.
    Some(unsafe { File::from_raw_fd(descriptors[0]) })
}

/// Host: both ways at once, until the terminal ends: the program may wait for a key, or for what it shows to be read.
fn serve(mut master: File, keys: &str, mut log: &File) {
    // Open for writing, too: then it never ends, even though writers come and go. See fifo(7).
    let mut keys = File::options().read(true).write(true).open(keys).expect(keys);
    let mut typed = master.try_clone().expect("dup");
    thread::spawn(move || io::copy(&mut keys, &mut typed));
    // It ends with EIO: nobody has the other end open any more, and all that was written is read.
    let _ = io::copy(&mut master, &mut log);
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
