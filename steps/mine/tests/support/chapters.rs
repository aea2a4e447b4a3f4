//! What each chapter asks for.

use std::fs::{self, File, metadata, read_to_string};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, User, fork, getgroups, getpid, getsid, mkfifo, setgroups};

use super::*;

/// All, in their order.
pub const ALL: [(&str, Chapter); 10] = [
    ("chapter00", process),
    ("chapter01", namespaces),
    ("chapter02", cgroups),
    ("chapter03", rootfs),
    ("chapter04", engine),
    ("chapter05", users),
    ("chapter06", network),
    ("chapter07", layers),
    ("chapter08", terminal),
    ("chapter09", rights),
];

pub const ONE_ID: &str = "the map has a single id, so that inside nobody exists but root: write a range";
pub const NO_CABLE: &str =
    "the container has no interface eth0: a veth whose other end is born in its network namespace";
pub const NO_LAYER: &str =
    "what the program writes is in ROOT: its root must be an overlay, with ROOT as the lower layer";
pub const NO_TERMINAL: &str = "the program's input, output and errors are not a terminal of its own: \
    /dev/pts/0 of a devpts that the child mounts";
pub const MORE_RIGHTS: &str =
    "a setuid program gives the program more rights: set_no_new_privs() in the child, right before exec";
pub const CODE: &str = "mine does not end with the exit code of its program";

/// Chapter 00: the host waits for its child, and ends as the child has ended.
pub fn process(mine: &Path) -> Checked {
    WaitingProgram::start(mine, ":")?.end()?;
    let killed = WaitingProgram::start(mine, ":")?.kill()?;
    let seen = format!("SIGKILL is 9, and mine has ended with {killed}");
    require(killed == 137, "a program that a signal has ended must give 128 and the signal", seen)
}

/// Chapter 01: a view of its own.
pub fn namespaces(mine: &Path) -> Checked {
    enter_shared_world()?;
    let held = WaitingProgram::start(mine, "cat /proc/sys/kernel/hostname; id -u")?;
    let pid = held.pid;
    has_its_own_namespaces(pid)?;
    for file in ["uid_map", "gid_map"] {
        let map = read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let words: Vec<_> = map.split_whitespace().collect();
        let id = if file == "uid_map" { getuid().as_raw() } else { getgid().as_raw() };
        let sentence = format!("{file} must say that root inside is the caller outside");
        require(words == ["0", &id.to_string(), "1"], &sentence, format!("/proc/{pid}/{file}: {map:?}"))?;
    }
    let groups = read_to_string(format!("/proc/{pid}/setgroups")).unwrap_or_default();
    let sentence = "`deny` must be in /proc/PID/setgroups: else an ordinary user may write no gid_map";
    require(groups.trim() == "deny", sentence, groups)?;
    gate::holds_the_child(mine, held.root.as_deref())?;

    let hostname = nix::unistd::gethostname().expect("gethostname");
    let its = held.lines.first().cloned().unwrap_or_default();
    require(*hostname != *its, "the program has the host's name: sethostname in the child", its)?;
    require(held.lines.get(1).is_some_and(|id| id == "0"), "the program is not root inside", held.lines.join("\n"))?;
    mounts_are_private(pid)?;
    proc_is_its_own(pid)?;
    held.end().map(drop)
}

fn has_its_own_namespaces(pid: Pid) -> Checked {
    for (kind, flag) in [
        ("user", "CLONE_NEWUSER"),
        ("pid", "CLONE_NEWPID"),
        ("mnt", "CLONE_NEWNS"),
        ("uts", "CLONE_NEWUTS"),
        ("ipc", "CLONE_NEWIPC"),
        ("net", "CLONE_NEWNET"),
    ] {
        let sentence = format!("the program is in the host's {kind} namespace: clone needs {flag}");
        require(namespace(pid, kind) != namespace("self", kind), &sentence, namespace(pid, kind).display())?;
    }
    Ok(())
}

fn mounts_are_private(pid: Pid) -> Checked {
    let is_tied = |mount: &&Vec<String>| {
        let tags = mount.iter().skip(6).take_while(|word| *word != "-");
        tags.into_iter().any(|tag| tag.starts_with("shared:") || tag.starts_with("master:"))
    };
    match mounts(pid).iter().find(is_tied) {
        None => Ok(()),
        Some(mount) => missing("the host's later mounts reach the program: make its mounts private", mount.join(" ")),
    }
}

fn proc_is_its_own(pid: Pid) -> Checked {
    let first = fs::read_link(format!("/proc/{pid}/root/proc/1/ns/pid")).unwrap_or_default();
    let sentence = "process 1 in the program's /proc is not the program: mount a new proc";
    require(first == namespace(pid, "pid"), sentence, format!("its /proc/1/ns/pid: {:?}", first.display()))
}

/// Whether groups can be made here.
fn why_no_groups(trees: &[(&str, PathBuf)]) -> Option<String> {
    let Some((_, tree)) = trees.first() else {
        return Some("no tree of cgroups is mounted below /sys/fs/cgroup".to_owned());
    };
    let trial = tree.join(format!("mine-test-{}-{:x}", getpid(), random()));
    if let Err(error) = fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)) {
        return Some(format!("this user may not make a group in {}: {error}", tree.display()));
    }
    let has_pids = match tree.join("cgroup.controllers") {
        controllers if tree.ends_with("cgroup") => read_to_string(controllers).is_ok_and(|it| it.contains("pids")),
        _ => trees.iter().any(|(name, _)| *name == "pids"),
    };
    (!has_pids).then(|| "no tree of cgroups here has the controller pids".to_owned())
}

/// Chapter 02: a group in every tree, a limit, and nothing left.
pub fn cgroups(mine: &Path) -> Checked {
    enter_shared_world()?;
    let trees = trees();
    let held = WaitingProgram::start(mine, "cat /proc/self/cgroup")?;
    let pid = held.pid;
    if let Some(reason) = why_no_groups(&trees) {
        let said = held.end()?;
        require(!said.is_empty(), "without a right to cgroups mine must go on, and say that there are no limits", "")?;
        return Err(Reason::CannotCheck(reason));
    }

    for (subsystem, tree) in &trees {
        let seen = format!("its group in {} is the host's own\n{}", tree.display(), held.said());
        let is_own = group_of(pid, subsystem) != group_of("self", subsystem);
        require(is_own, "the program is not in a group of its own in every tree", seen)?;
    }
    let made = own_groups(pid);
    let now = read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let first = held.lines.join("\n");
    require(now.trim() == first, "the program has run before its pid was in the groups", first)?;

    let limit = made.iter().find_map(|group| read_to_string(group.join("pids.max")).ok());
    let has_limit = limit.as_ref().is_some_and(|limit| limit.trim().parse::<u32>().is_ok());
    let sentence = "the group has no limit on processes: write a number to pids.max";
    require(has_limit, sentence, format!("pids.max: {limit:?}\n{}", held.said()))?;
    held.end()?;
    nothing_is_left(&made)
}

fn nothing_is_left(groups: &[PathBuf]) -> Checked {
    let left = groups.iter().find(|group| group.exists());
    let seen = left.map(|group| group.display().to_string()).unwrap_or_default();
    // So that the test can run again.
    remove_groups(groups);
    require(left.is_none(), "a group is left behind: rmdir, after waitpid", seen)
}

/// Chapter 03: a root of its own, and no way back.
pub fn rootfs(mine: &Path) -> Checked {
    enter_shared_world()?;
    let root = make_root()?;
    let before = mounts("self");
    let held = match WaitingProgram::run(mine, Some(&root), ":") {
        Err(_) if goes_to_the_background(mine, &root) => return missing(IN_BACKGROUND, ""),
        Err(Reason::Missing(_, seen)) => return missing("`mine ROOT COMMAND` has not run the command", seen),
        other => other?,
    };
    let is_root = identity(&root) == identity(Path::new(&format!("/proc/{}/root/", held.pid)));
    require(is_root, "the program still has the host's root", root.display())?;
    stands_apart(held.pid)?;
    mounts_are_private(held.pid)?;
    proc_is_its_own(held.pid)?;
    require(mounts("self") == before, "a mount of the container has appeared on the host", "")?;
    held.end().map(drop)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    metadata(path).map(|it| (it.dev(), it.ino())).ok()
}

/// A program whose root is known to be ROOT, or from chapter 07 on an overlay on it: no way leads out of there.
fn stands_apart(pid: Pid) -> Checked {
    let wanted = identity(Path::new(&format!("/proc/{pid}/root/")));
    let at_root: Vec<_> = mounts(pid).iter().filter(|mount| mount[4] == "/").map(|mount| mount.join(" ")).collect();
    let sentence = "the root is no mount: bind it onto itself, and pivot_root (chroot is not enough)";
    require(!at_root.is_empty(), sentence, "")?;
    require(at_root.len() == 1, "the old root is still mounted: umount2 with MNT_DETACH", at_root.join("\n"))?;
    // chroot leaves the top of the mount namespace where it was, and that is where setns(2) leads.
    let top = top_of(pid);
    require(top == wanted, "the host's root is still at the top of the mounts: pivot_root, not chroot", "")?;
    let cwd = identity(Path::new(&format!("/proc/{pid}/cwd/")));
    require(cwd == wanted, "the working directory of the program is outside of its root: chdir", "")
}

/// The top of the mount namespace of a process: device and inode.
fn top_of(pid: Pid) -> Option<(u64, u64)> {
    let kinds = if getuid().is_root() { &["mnt"][..] } else { &["user", "mnt"] };
    let namespaces: Vec<_> = kinds.iter().map(|kind| File::open(format!("/proc/{pid}/ns/{kind}"))).collect();
    let (mut reader, mut writer) = std::os::unix::net::UnixStream::pair().ok()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.ok()? {
        ForkResult::Child => {
            let joined = namespaces.iter().all(|it| it.as_ref().is_ok_and(|it| setns(it, CloneFlags::empty()).is_ok()));
            if let (true, Ok(top)) = (joined, metadata("/")) {
                let _ = writer.write_all(format!("{} {}", top.dev(), top.ino()).as_bytes());
            }
            std::process::exit(0)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut answer = String::new();
            reader.read_to_string(&mut answer).ok()?;
            let _ = waitpid(child, None);
            let (dev, ino) = answer.split_once(' ')?;
            Some((dev.parse().ok()?, ino.parse().ok()?))
        }
    }
}

/// A container in the background, whose program waits until something is written to a FIFO in its root. By the FIFO's name it
/// is known, too.
struct Background {
    file: PathBuf,
    fifo: String,
    root: PathBuf,
    errors: PathBuf,
    pid: Pid,
}

impl Background {
    fn start(mine: &Path, scratch: &Scratch, root: &Path, code: i32) -> Result<Self, Reason> {
        Self::start_and(mine, scratch, root, code, ":")
    }

    fn start_and(mine: &Path, scratch: &Scratch, root: &Path, code: i32, script: &str) -> Result<Self, Reason> {
        let name = format!("{:x}", random());
        let (file, errors) = (scratch.0.join(format!("{name}.file")), scratch.0.join("errors"));
        mkfifo(&root.join(&name), Mode::empty()).expect("mkfifo");
        // From chapter 05 on the program is another user.
        fs::set_permissions(root.join(&name), fs::Permissions::from_mode(0o666)).expect("chmod");
        let mut this = Background { file, fifo: name.clone(), root: root.to_owned(), errors, pid: Pid::from_raw(0) };
        let mut started =
            this.run(mine, &format!("echo hello; echo aside >&2; {script}; read line </{name}; exit {code}"));

        let mut ended = None;
        let gone = soon(|| {
            ended = started.try_wait().expect("wait");
            ended.is_some()
        });
        require(gone, "mine does not come back: it must go to the background", "")?;
        let seen = format!("it has ended with exit code {}\n{}", super::code(ended.expect("ended")), this.said());
        require(this.file.exists(), "`mine FILE ROOT COMMAND` has not made FILE", seen)?;
        // Right after pivot_root the FIFO is there, too, and the old root still mounted.
        let found = soon(|| this.pid().is_some_and(|pid| this.is_it(pid) && is_past_exec(pid)));
        let has_not_begun = this.pid().is_some_and(|pid| !is_running(pid));
        let sentence = if has_not_begun { "the program has not begun" } else { "FILE does not say `running PID`" };
        require(found, sentence, format!("FILE says:\n{}", this.text()))?;
        this.pid = this.pid().expect("found");
        Ok(this)
    }

    fn run(&self, mine: &Path, script: &str) -> Child {
        let mut command = Command::new(mine);
        // ROOT as `target/rootfs` is: where it is, the working directory says.
        command.current_dir(self.root.parent().expect("a parent"));
        command.arg(&self.file).arg(self.root.file_name().expect("a name")).args(["sh", "-c", script]);
        // Files, as a program in the background may keep what it has open.
        let errors = File::options().create(true).append(true).open(&self.errors).expect("errors");
        command.stdin(Stdio::null()).stdout(errors.try_clone().expect("dup")).stderr(errors);
        command.spawn().expect("mine")
    }

    fn said(&self) -> String {
        read_to_string(&self.errors).unwrap_or_default()
    }

    fn text(&self) -> String {
        read_to_string(&self.file).unwrap_or_default()
    }

    fn pid(&self) -> Option<Pid> {
        let text = self.text();
        let mut lines = text.lines();
        Some(Pid::from_raw(lines.find_map(|line| line.strip_prefix("running "))?.trim().parse().ok()?))
    }

    /// The program of this container, and no other process with this number: it sees the FIFO in its root.
    fn is_it(&self, pid: Pid) -> bool {
        is_running(pid) && self.inside(pid, &self.fifo).exists()
    }

    /// A file as the program sees it.
    fn inside(&self, pid: Pid, name: &str) -> PathBuf {
        format!("/proc/{pid}/root/{name}").into()
    }

    fn release(&self) -> bool {
        write_soon(&self.inside(self.pid, &self.fifo), "go on\n")
    }

    fn keys(&self) -> PathBuf {
        self.file.with_extension("file.keys")
    }

    /// Types at the program's terminal, from chapter 08 on.
    fn types(&self, keys: &str) -> bool {
        write_soon(&self.keys(), keys)
    }

    fn says_at_its_end(&self, wanted: &str) -> Checked {
        let is_said = soon(|| self.text().lines().last() == Some(wanted));
        let seen = format!("FILE says:\n{}", self.text());
        require(is_said, "the last line of FILE does not say how the program has ended (`exited CODE`)", seen)
    }
}

/// Whether a FIFO gets a reader, which is then sent these words.
fn write_soon(fifo: &Path, words: &str) -> bool {
    let open = || File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(fifo);
    soon(|| open().and_then(|mut fifo| fifo.write_all(words.as_bytes())).is_ok())
}

impl Drop for Background {
    fn drop(&mut self) {
        let pid = if self.pid.as_raw() > 0 { Some(self.pid) } else { self.pid() };
        let Some(pid) = pid.filter(|pid| self.is_it(*pid)) else { return };
        let monitor = stat(pid, 4).and_then(|it| it.parse().ok()).map(Pid::from_raw);
        end(&[Some(pid), monitor.filter(|it| *it != getpid())].into_iter().flatten().collect::<Vec<_>>());
    }
}

/// Chapter 04: in the background, with a file that says how it ended.
pub fn engine(mine: &Path) -> Checked {
    // In a user namespace of the test's, that of chapter 05 could have no range.
    if getuid().is_root() || why_no_range().is_some() {
        enter_shared_world()?;
    }
    let scratch = Scratch::new();
    let root = make_root()?;
    let code = random_code();
    let first = Background::start(mine, &scratch, &root, code)?;
    has_its_own_namespaces(first.pid)?;
    mounts_are_private(first.pid)?;
    proc_is_its_own(first.pid)?;
    stands_apart(first.pid)?;
    let sessions = (getsid(Some(first.pid)).ok(), getsid(None).ok());
    let sentence = "the container is still in the session of the terminal, and would end with it: daemon, or setsid";
    require(sessions.0 != sessions.1, sentence, format!("{sessions:?}"))?;
    let monitor = stat(first.pid, 4).and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    let monitor = monitor.filter(|monitor| *monitor != getpid() && is_running(*monitor));
    let Some(monitor) = monitor else { return missing("no process waits for the program: its parent has ended", "") };
    let groups = own_groups(first.pid);

    for (word, sentence) in [
        ("hello", "FILE does not have the program's output: dup2_stdout"),
        ("aside", "FILE does not have what the program prints as errors: dup2_stderr"),
    ] {
        require(soon(|| first.text().lines().any(|line| line == word)), sentence, first.text())?;
    }
    let before = first.text();
    let again = first.run(mine, "exit 0").wait().expect("wait");
    let seen = format!("the second one has ended with {}\nFILE says:\n{}", super::code(again), first.text());
    require(!again.success(), "a second container with the same FILE must be refused", seen.clone())?;
    require(first.text() == before, "a second container has changed the FILE of the first one", seen)?;

    require(first.release(), "the program has not read its FIFO", "")?;
    first.says_at_its_end(&format!("exited {code}"))?;
    // An orphan by now, and so a child of this process.
    let gone = soon(|| matches!(waitpid(monitor, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::Exited(..)) | Err(_)));
    require(gone, "the monitor of the container has not ended with it", "")?;
    nothing_is_left(&groups)?;

    let second = Background::start(mine, &scratch, &root, code)?;
    kill(second.pid, Signal::SIGKILL).expect("kill");
    second.says_at_its_end("exited 137")?;

    let third = Background::start(mine, &scratch, &root, code)?;
    dies_with_its_monitor(&third)
}

fn dies_with_its_monitor(container: &Background) -> Checked {
    let monitor = stat(container.pid, 4).and_then(|pid| pid.parse().ok()).map(Pid::from_raw).expect("a monitor");
    let groups = own_groups(container.pid);
    kill(monitor, Signal::SIGKILL).expect("kill");
    let ended = soon(|| !container.is_it(container.pid));
    // No process has removed them; `clean` of step 04 is an answer to that.
    end_children();
    remove_groups(&groups);
    let sentence =
        "its monitor was killed, and the program lives on: PR_SET_PDEATHSIG in the child (and again after setuid)";
    require(ended, sentence, "")
}

/// Why there is no range of ids for this user, if there is none.
fn why_no_range() -> Option<String> {
    let whole =
        read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().nth(2) == Some("4294967295"));
    let why = |is_so: bool, sentence: String| is_so.then_some(sentence);
    why(!whole, "this user namespace has few ids".to_owned()).or_else(|| {
        if getuid().is_root() {
            return None;
        }
        let name = User::from_uid(getuid()).ok().flatten().map_or_else(|| getuid().to_string(), |user| user.name);
        let has_line =
            |file: &str| read_to_string(file).is_ok_and(|it| it.lines().any(|it| it.starts_with(&format!("{name}:"))));
        let without = ["/etc/subuid", "/etc/subgid"].into_iter().find(|file| !has_line(file));
        let has_helpers = Command::new("newuidmap").output().is_ok() && Command::new("newgidmap").output().is_ok();
        let no_helpers = why(!has_helpers, "newuidmap is not installed (package uidmap)".to_owned());
        without.map(|file| format!("{name} has no line in {file}")).or(no_helpers)
    })
}

/// Chapter 05: root inside is nobody outside, and all others exist.
pub fn users(mine: &Path) -> Checked {
    // An ordinary user's helpers have no rights in a user namespace of the test's: its mounts stay as they are.
    if let Some(reason) = why_no_range() {
        return Err(Reason::CannotCheck(reason));
    }
    if getuid().is_root() {
        enter_shared_world()?;
    }
    let scratch = Scratch::new();
    let owner = getuid().is_root().then_some("100000");
    let root = make_root_of(owner)?;
    // A group of the caller's, which the program must have left.
    let before = getgroups().expect("getgroups");
    let joined = if getuid().is_root() { setgroups(&[Gid::from_raw(4711)]) } else { Ok(()) };
    joined.expect("setgroups");
    let first = Background::start_and(mine, &scratch, &root, 0, "touch /given; chown 5:6 /given; id -u");
    if getuid().is_root() {
        setgroups(&before).expect("setgroups");
    }
    let first = first?;

    let [uids, gids] = ["uid_map", "gid_map"].map(|name| map(first.pid, name));
    require(uids.len() > 1 && gids.len() > 1, ONE_ID, format!("uid_map {uids:?}\ngid_map {gids:?}"))?;
    let status = read_to_string(format!("/proc/{}/status", first.pid)).unwrap_or_default();
    let line = |name: &str| status.lines().find_map(|it| it.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    for (name, ids, call) in [("Uid:", &uids, "setuid"), ("Gid:", &gids, "setgid")] {
        let sentence = format!("the program is not root inside: {call}(0) in the child, once its ids are mapped");
        let is_root = line(name).split_whitespace().all(|id| Some(id) == ids.first().map(String::as_str));
        require(is_root, &sentence, format!("{name} {}", line(name)))?;
    }
    let sentence =
        "the program is still in a group of its caller: setgroups(&[]) in the child, before setgid and setuid";
    require(!line("Groups:").split(' ').any(|it| it == "4711"), sentence, line("Groups:"))?;
    let given =
        || metadata(first.inside(first.pid, "given")).map(|it| [it.uid(), it.gid()].map(|id| id.to_string())).ok();
    let wanted = Some([uids[5].clone(), gids[6].clone()]);
    let sentence = "a file that the program gives to user 5 and group 6 does not belong to those of the range";
    require(soon(|| given() == wanted), sentence, format!("{:?}, and not {wanted:?}\n{}", given(), first.text()))?;
    require(first.release(), "the program has not read its FIFO", "")?;
    first.says_at_its_end("exited 0")?;

    let second = Background::start(mine, &scratch, &root, 0)?;
    dies_with_its_monitor(&second)
}

/// The first ids of the host's that those inside are, from 0 on, at most seven.
fn map(pid: Pid, name: &str) -> Vec<String> {
    let text = read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        <[u32; 3]>::try_from(numbers).ok()
    });
    let lines: Vec<_> = lines.collect();
    let outside = |id: u32| {
        let line = lines.iter().find(|[inside, _, count]| id >= *inside && id - inside < *count);
        line.map(|[inside, outside, _]| (outside + (id - inside)).to_string())
    };
    (0..7).map_while(outside).collect()
}

/// Chapter 06: the host reaches it.
pub fn network(mine: &Path) -> Checked {
    let no_root = (!getuid().is_root()).then(|| "a cable to a container takes root".to_owned());
    let no_ip =
        || Command::new("ip").arg("-V").output().err().map(|_| "ip is not installed (package iproute2)".to_owned());
    if let Some(reason) = no_root.or_else(why_no_range).or_else(no_ip).or_else(why_no_cable) {
        return Err(Reason::CannotCheck(reason));
    }
    enter_shared_world()?;
    let scratch = Scratch::new();
    let root = make_root_of(Some("100000"))?;
    let container = Background::start(mine, &scratch, &root, 0)?;

    let of = |name: &str| read_to_string(format!("/proc/{}/net/{name}", container.pid)).unwrap_or_default();
    require(namespace(container.pid, "net") != namespace("self", "net"), "the container has the host's network", "")?;
    require(of("dev").contains("eth0:"), NO_CABLE, of("dev"))?;
    let port = (random() % 10000 + 20000) as u16;
    let address = SocketAddr::from(([10, 66, 0, 2], port));
    // Another thread can stand in another network namespace.
    let namespace = File::open(format!("/proc/{}/ns/net", container.pid)).expect("ns/net");
    let listen = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
        TcpListener::bind(address)
    };
    let listener = std::thread::scope(|scope| scope.spawn(listen).join().expect("a thread"));
    let sentence = "eth0 inside has not the address 10.66.0.2: ip address add 10.66.0.2/24 dev eth0";
    let Ok(_listener) = listener else { return missing(sentence, of("fib_trie")) };
    let sentence = "the host does not reach 10.66.0.2: its end has the address 10.66.0.1/24, and both ends are up";
    require(TcpStream::connect_timeout(&address, PATIENCE / 4).is_ok(), sentence, of("dev"))?;
    // Destination and gateway, their bytes in the order of the network, read as a number.
    let has_route = of("route").lines().any(|line| line.starts_with("eth0\t00000000\t0100420A\t"));
    require(has_route, "there is no default route inside: ip route add default via 10.66.0.1", of("route"))?;
    require(container.release(), "the program has not read its FIFO", "")?;
    container.says_at_its_end("exited 0")
}

/// Chapter 07: two containers on one root, which stays as it is.
pub fn layers(mine: &Path) -> Checked {
    let (scratch, root) = layered()?;
    let script = "echo mine >/mine || exit 1; rm /etc/passwd";
    let first = Background::start_and(mine, &scratch, &root, 0, script)?;
    let written = || read_to_string(first.inside(first.pid, "mine")).is_ok_and(|text| text == "mine\n");
    require(soon(written), "the program cannot write to its root", first.text())?;
    require(!root.join("mine").exists(), NO_LAYER, "")?;
    let is_whole = || first.inside(first.pid, "etc/passwd").exists();
    require(soon(|| !is_whole()), "the program cannot delete a file of its root", first.text())?;
    require(root.join("etc/passwd").exists(), "a file that the program deletes is gone from ROOT", "")?;
    stands_apart(first.pid)?;

    let second = Background::start(mine, &scratch, &root, 0)?;
    let sees = |name: &str| second.inside(second.pid, name).exists();
    let sentence = "a second container sees what the first one has written: each needs an upper layer of its own";
    require(!sees("mine") && sees("etc/passwd"), sentence, "")?;
    for container in [first, second] {
        require(container.release(), "the program has not read its FIFO", "")?;
        container.says_at_its_end("exited 0")?;
    }
    Ok(())
}

/// Chapter 08: a terminal of its own, and a way to its keys.
pub fn terminal(mine: &Path) -> Checked {
    // Where a script has started this in the background, Ctrl-C is ignored, and a shell could not trap it. Inherited.
    // SAFETY: no handler is called.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.expect("signal");
    let (scratch, root) = layered()?;
    // It waits for the signal of a key; and right at its end it writes more than a terminal keeps.
    let script = "trap 'seq 2000; echo last' EXIT; trap 'touch /interrupted' INT; read word; echo \"<$word>\"
        until [ -e /interrupted ]; do sleep 0.1; done";
    let container = Background::start_and(mine, &scratch, &root, 0, script)?;
    let pid = container.pid;
    let terminal = identity(&container.inside(pid, "dev/pts/0"));
    let name = |number: &str| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    for number in ["0", "1", "2"] {
        let its = identity(Path::new(&format!("/proc/{pid}/fd/{number}")));
        let has_hung_up = terminal.is_none() && name(number).starts_with("/dev/pts");
        let hung_up = "its terminal has hung up: the host has not received the master, or has closed it";
        let sentence = if has_hung_up { hung_up } else { NO_TERMINAL };
        require(
            its.is_some() && its == terminal,
            sentence,
            format!("descriptor {number}: {}", name(number).display()),
        )?;
    }
    let of_host = identity(Path::new("/dev/pts")).map(|it| it.0);
    require(of_host != terminal.map(|it| it.0), NO_TERMINAL, "its /dev/pts is the host's")?;
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).map(|all| all.flatten().collect()).unwrap_or_default();
    let names: Vec<_> = open.iter().map(|it| name(&it.file_name().to_string_lossy())).collect();
    let has_master = names.iter().any(|name| name.ends_with("ptmx"));
    let sentence = "the program has the master, too, and could type into its own terminal: it is the host's alone";
    require(!has_master, sentence, format!("{names:?}"))?;
    let session = (stat(pid, 6), stat(pid, 7));
    let sentence = "no session has the terminal, so that no key makes a signal: setsid, and then open it or TIOCSCTTY";
    let leads = session.0 == Some(pid.to_string()) && session.1.as_ref().is_some_and(|it| it != "0");
    require(leads, sentence, format!("its session and terminal: {session:?}"))?;

    let sentence = "what the program shows at its terminal is not in FILE: copy it from the master";
    let is_shown = |line: &str| soon(|| container.text().lines().any(|it| it == line));
    require(is_shown("hello"), sentence, container.text())?;
    let word = format!("{:x}", random());
    let is_typed = container.types(&format!("{word}\n")) && is_shown(&format!("<{word}>"));
    require(is_typed, "what is written to FILE.keys is not typed: copy it to the master", container.text())?;
    let interrupted = || container.inside(pid, "interrupted").exists();
    let sentence = "the key Ctrl-C of a second writer of FILE.keys does not arrive: if it is not open for writing, too, \
        it ends with the first one, see fifo(7)";
    require(container.types("\u{3}") && soon(interrupted), sentence, container.text())?;
    stands_apart(pid)?;
    let mode = metadata(container.keys()).map_or(0, |it| it.permissions().mode() & 0o777);
    require(mode & 0o077 == 0, "others may open FILE.keys, and type there or take what is typed", format!("{mode:o}"))?;
    require(container.release(), "the program has not read its FIFO", "")?;
    container.says_at_its_end("exited 0")?;
    let text = container.text();
    let end: Vec<_> = text.lines().rev().take(3).collect();
    let sentence = "what the program has written last is not in FILE: read the master until that fails";
    require(end == ["exited 0", "last", "2000"], sentence, format!("the end of FILE, backwards: {end:?}"))?;
    require(soon(|| !container.keys().exists()), "FILE.keys is still there when the program has ended", "")?;
    ends_without_a_terminal(mine, &scratch)?;

    let second = Background::start(mine, &scratch, &root, 0)?;
    dies_with_its_monitor(&second)
}

/// A child that has failed before it has sent anything.
fn ends_without_a_terminal(mine: &Path, scratch: &Scratch) -> Checked {
    let (file, keys) = (scratch.0.join("failed"), scratch.0.join("failed.keys"));
    let text = || read_to_string(&file).unwrap_or_default();
    let _ = Command::new(mine).arg(&file).args(["/nowhere", "true"]).stderr(Stdio::null()).status();
    let has_ended = soon(|| text().lines().last().is_some_and(|line| line.starts_with("exited ")));
    let sentence = "with a ROOT that is not there the child fails, and the host still waits for its terminal: close the \
        child's end of the sockets after clone";
    require(has_ended, sentence, format!("FILE says:\n{}", text()))?;
    require(soon(|| !keys.exists()), "FILE.keys is still there when the child has failed", "")
}

/// Chapter 09: few rights, and no way to more.
pub fn rights(mine: &Path) -> Checked {
    let (scratch, root) = layered()?;
    let script = "mount -t tmpfs none /tmp && touch /mounted; touch /given && chown 5:6 /given; touch /tried";
    let container = Background::start_and(mine, &scratch, &root, 0, script)?;
    let is_inside = |name: &str| container.inside(container.pid, name).exists();
    require(soon(|| is_inside("tried")), "the program cannot write to its root", container.text())?;

    let status = read_to_string(format!("/proc/{}/status", container.pid)).unwrap_or_default();
    let line = |name: &str| status.lines().find_map(|it| it.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    require(line("NoNewPrivs:") == "1", MORE_RIGHTS, format!("NoNewPrivs: {}", line("NoNewPrivs:")))?;
    for set in ["CapBnd:", "CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        let has = u64::from_str_radix(&line(set), 16).unwrap_or(u64::MAX);
        let sentence = "the program has more capabilities than the fourteen: drop all others from the bounding set";
        require(has & !FOURTEEN == 0, sentence, format!("{set} {has:x}, and not {FOURTEEN:x}"))?;
    }
    require(!is_inside("mounted"), "the program can mount, which takes CAP_SYS_ADMIN", "")?;
    let given = metadata(container.inside(container.pid, "given")).map(|it| it.uid()).ok();
    let wanted = map(container.pid, "uid_map").get(5).and_then(|id| id.parse().ok());
    let sentence = "the program cannot give a file to another user: it needs CAP_CHOWN, number 0";
    require(given.is_some() && given == wanted, sentence, format!("{given:?}, and not {wanted:?}"))?;
    stands_apart(container.pid)?;
    require(container.release(), "the program has not read its FIFO", "")?;
    container.says_at_its_end("exited 0")
}

/// The capabilities of [`rights`], a bit each.
const FOURTEEN: u64 = 0xa804_25fb;

/// What a container with layers needs: a place for FILE that can have them beside it, and a ROOT of root's inside.
fn layered() -> Result<(Scratch, PathBuf), Reason> {
    if getuid().is_root() {
        enter_shared_world()?;
    }
    let scratch = Scratch::new();
    if let Some(reason) = why_no_range().or_else(|| why_no_overlay(&scratch.0)) {
        return Err(Reason::CannotCheck(reason));
    }
    let root = make_root_of(getuid().is_root().then_some("100000"))?;
    Ok((scratch, root))
}

/// Why no upper layer can be in this directory, if none can.
fn why_no_overlay(directory: &Path) -> Option<String> {
    let script = "cd \"$0\" && mkdir -p try/u try/w try/m && mount -t overlay overlay \
        -o userxattr,lowerdir=/usr,upperdir=try/u,workdir=try/w try/m && mkdir try/m/new";
    let words = ["--user", "--map-root-user", "--mount", "sh", "-c", script];
    let made = Command::new("unshare").args(words).arg(directory).output();
    let _ = fs::remove_dir_all(directory.join("try"));
    let reason =
        format!("no upper layer can be in {}: its file system is an overlay, or takes none", directory.display());
    (!made.is_ok_and(|made| made.status.success())).then_some(reason)
}

/// Why this machine has no cables, if it has none.
fn why_no_cable() -> Option<String> {
    let words = ["--net", "ip", "link", "add", "try", "type", "veth"];
    let made = Command::new("unshare").args(words).output();
    (!made.is_ok_and(|made| made.status.success())).then(|| "this kernel, or this root, makes no veth".to_owned())
}
