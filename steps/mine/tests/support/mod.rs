//! What the tests of the chapters share: they run a container and look at it from the host.
//!
//! A test has three answers: the container does what the chapter asks for; something is missing, said in a sentence; or
//! this machine cannot check it, for a reason. Only the first one is green.

#![allow(dead_code)]

pub mod chapters;
mod gate;

use std::fs::{self, File, read_link, read_to_string};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getgid, getpid, getuid};

/// Longer than anything here takes; what takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why a test is not green.
#[derive(Debug)]
pub enum Reason {
    /// What is missing, in one sentence, and what was seen.
    Missing(String, String),
    /// Why this machine cannot check it.
    CannotCheck(String),
}

pub type Checked = Result<(), Reason>;

/// What a chapter asks of the program at this path.
pub type Chapter = fn(&Path) -> Checked;

pub fn missing<T>(sentence: impl Into<String>, seen: impl ToString) -> Result<T, Reason> {
    Err(Reason::Missing(sentence.into(), seen.to_string()))
}

pub fn require(is_so: bool, sentence: &str, seen: impl ToString) -> Checked {
    if is_so { Ok(()) } else { missing(sentence, seen) }
}

/// The `main` of a chapter's test. `MINE=PATH` names another program than the learner's.
pub fn main(name: &str, chapter: Chapter, mine: &str) -> ExitCode {
    let mine = std::env::var_os("MINE").map_or_else(|| PathBuf::from(mine), PathBuf::from);
    let verdict = match mine.canonicalize() {
        Ok(mine) => checked(chapter, &mine),
        Err(error) => Err(Reason::CannotCheck(format!("MINE={}: {error}", mine.display()))),
    };
    match verdict {
        Ok(()) => {
            println!("{name}: done. Your container does what this chapter asks for.");
            ExitCode::SUCCESS
        }
        Err(Reason::Missing(sentence, seen)) => {
            println!("{name}: not yet: {sentence}.");
            seen.lines().for_each(|line| println!("    {line}"));
            ExitCode::FAILURE
        }
        Err(Reason::CannotCheck(reason)) => {
            println!("{name}: cannot be checked here: {reason}.");
            ExitCode::from(77)
        }
    }
}

/// Whatever the answer is, no process of the test is left.
pub fn checked(chapter: Chapter, mine: &Path) -> Checked {
    // What a container leaves running becomes a child of this process, where it is found and ended.
    nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
    // From chapter 04 on mine makes a file where it stands.
    let scratch = Scratch::new();
    std::env::set_current_dir(&scratch.0).expect("chdir");
    let verdict = chapter(mine);
    end_children();
    verdict
}

/// Ends what has become a child of this process, what that has started, and the groups that both were in.
fn end_children() {
    loop {
        let children = children(getpid());
        if children.is_empty() {
            break;
        }
        // A monitor in the background may just be making a child, and groups in its name: stopped, it makes no more.
        stop(&children);
        let groups: Vec<_> = children.iter().flat_map(|child| family(*child)).flat_map(groups_to_remove).collect();
        for child in children {
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
        // Only after its children have ended, too, which the next round waits for.
        let orphans = self::children(getpid());
        for orphan in orphans {
            let _ = kill(orphan, Signal::SIGKILL);
            let _ = waitpid(orphan, None);
        }
        remove_groups(&groups);
    }
}

/// Stops processes and their descendants, those too that they make meanwhile.
fn stop(processes: &[Pid]) {
    let is_stopped = |pid: &Pid| !stat(*pid, 3).is_some_and(|state| "RSD".contains(&state));
    let mut known = 0;
    loop {
        let all: Vec<_> = processes.iter().flat_map(|pid| family(*pid)).collect();
        if all.len() == known {
            return;
        }
        known = all.len();
        all.iter().for_each(|pid| _ = kill(*pid, Signal::SIGSTOP));
        soon(|| all.iter().all(is_stopped));
    }
}

/// A process and all its descendants.
fn family(pid: Pid) -> Vec<Pid> {
    let mut all = vec![pid];
    all.extend(children(pid).into_iter().flat_map(family));
    all
}

/// The groups of a container that is ended after a failure: those it is in, and those that bear its name.
fn groups_to_remove(pid: Pid) -> Vec<PathBuf> {
    let mut groups = own_groups(pid);
    groups.extend(trees().iter().map(|(_, tree)| tree.join(format!("mine-{pid}"))));
    groups
}

pub fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)));
    pids.filter(|pid| stat(*pid, 4).is_some_and(|it| it == parent.to_string())).collect()
}

/// A field of proc_pid_stat(5), counted from 1, as in the manual; from the third on, after the name.
pub fn stat(pid: Pid, field: usize) -> Option<String> {
    let line = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = line.rsplit_once(')')?;
    after_name.split_whitespace().nth(field - 3).map(str::to_owned)
}

/// Whether it has become a program. `PF_FORKNOEXEC` of `include/linux/sched.h`, in proc_pid_stat(5), *flags*.
pub fn is_past_exec(pid: Pid) -> bool {
    stat(pid, 9).and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & 0x40 == 0)
}

pub fn is_running(pid: Pid) -> bool {
    stat(pid, 3).is_some_and(|state| state != "Z" && state != "X")
}

/// Where this machine has its trees, and the group that a process has there, `""` for version 2.
pub fn trees() -> Vec<(&'static str, PathBuf)> {
    let subsystems = ["", "cpu", "cpuset", "blkio", "memory", "devices", "freezer", "pids"];
    let places = subsystems.map(|it| (it, Path::new("/sys/fs/cgroup").join(it)));
    places.into_iter().filter(|(_, place)| place.join("cgroup.procs").exists()).collect()
}

/// In proc_pid_cgroup(5), the path of its group in the tree of this subsystem.
pub fn group_of(pid: impl std::fmt::Display, subsystem: &str) -> String {
    let text = read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| {
        let mut words = line.splitn(3, ':').skip(1);
        Some((words.next()?, words.next()?))
    });
    let found = lines.find(|(names, _)| names.split(',').any(|name| name == subsystem));
    found.map(|(_, path)| path.trim_end_matches('/').to_owned()).unwrap_or_default()
}

/// The groups that a process is in and this test is not.
pub fn own_groups(pid: Pid) -> Vec<PathBuf> {
    let trees = trees().into_iter().map(|(name, tree)| (tree, group_of(pid, name), group_of("self", name)));
    let own = trees.filter(|(_, group, host)| !group.is_empty() && group != host);
    own.map(|(tree, group, _)| tree.join(group.trim_start_matches('/'))).collect()
}

/// Those that are there. A process that has just ended is in its group for a moment more: EBUSY.
pub fn remove_groups(groups: &[PathBuf]) {
    let is_left = |group: &&PathBuf| fs::remove_dir(group).is_err() && group.exists();
    soon(|| groups.iter().filter(is_left).count() == 0);
}

/// After a failure, so that the next run begins as this one did.
fn end(processes: &[Pid]) {
    let groups: Vec<_> = processes.iter().flat_map(|pid| groups_to_remove(*pid)).collect();
    for pid in processes {
        let _ = kill(*pid, Signal::SIGKILL);
    }
    soon(|| {
        end_children();
        !processes.iter().any(|pid| is_running(*pid))
    });
    remove_groups(&groups);
}

/// A world of its own for this test, in which `/` is shared as on most machines: what a container lets out of its mount
/// namespace is seen here, and comes no further.
pub fn enter_shared_world() -> Checked {
    static ENTERED: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    ENTERED.get_or_init(make_shared_world).clone().map_err(Reason::CannotCheck)
}

fn make_shared_world() -> Result<(), String> {
    // What every container here needs, asked of a program that is known to work.
    let words = ["--user", "--map-root-user", "--pid", "--fork", "--net", "--ipc", "--uts", "--mount-proc", "true"];
    match Command::new("unshare").args(words).output() {
        Ok(run) if run.status.success() => {}
        Ok(run) => {
            let said = String::from_utf8_lossy(&run.stderr);
            let reason = said.lines().next().unwrap_or_default();
            return Err(format!("this machine does not let this user make namespaces ({reason})"));
        }
        Err(error) => return Err(format!("`unshare`, of the package util-linux: {error}")),
    }
    let (user, group) = (getuid(), getgid());
    // From chapter 06 on mine makes a cable where it stands.
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|errno| format!("unshare: {errno}"))?;
    if !user.is_root() {
        let maps = [("setgroups", "deny".to_owned()), ("uid_map", format!("{user} {user} 1"))];
        for (file, line) in maps.into_iter().chain([("gid_map", format!("{group} {group} 1"))]) {
            fs::write(format!("/proc/self/{file}"), line).map_err(|error| format!("{file}: {error}"))?;
        }
    }
    // Private first: else the next line would share these mounts with the host.
    for kind in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | kind, None::<&str>)
            .map_err(|errno| format!("mount: {errno}"))?;
    }
    Ok(())
}

/// A directory that is removed with its value.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("mine-test-{}-{:x}", getpid(), random()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Scratch(path.canonicalize().expect("canonicalize"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The kernel lets an ordinary user not even read its work directory of an overlay.
        if fs::remove_dir_all(&self.0).is_err() {
            let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(&self.0).stderr(Stdio::null()).status();
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A small root file system in the directory of this check, of this machine's own shell and tools.
pub fn make_root() -> Result<PathBuf, Reason> {
    make_root_of(None)
}

/// The same, which belongs to this id.
pub fn make_root_of(owner: Option<&str>) -> Result<PathBuf, Reason> {
    let root = std::env::current_dir().expect("current directory").join("root");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-scripts/host.sh");
    // The script starts hundreds of processes: who tests many programs makes a root once.
    let (maker, from) = match std::env::var_os("CHECK_ROOTFS").filter(|made| !made.is_empty()) {
        Some(made) => (PathBuf::from("cp"), vec!["-a".into(), made]),
        None => (script, vec![]),
    };
    let made = Command::new(&maker).args(from).arg(&root).output().expect("a root");
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(Reason::CannotCheck(format!("{}: {}", maker.display(), said.trim())));
    }
    if let Some(owner) = owner {
        let given = Command::new("chown").args(["-hR", &format!("{owner}:{owner}")]).arg(&root).status();
        assert!(given.expect("chown").success());
    }
    Ok(root)
}

/// Whether it makes FILE, as chapter 04 asks.
pub fn goes_to_the_background(mine: &Path, root: &Path) -> bool {
    let file = Path::new("file");
    let mut command = Command::new(mine);
    command.args([file, root]).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let does = command.status().is_ok_and(|status| status.success()) && file.exists();
    // Its monitor, a child of this process by now, removes its groups; ended in the middle of that, it would leave some.
    soon(|| !children(getpid()).iter().any(|child| is_running(*child)));
    does
}

/// So that no answer can be written into a program.
pub fn random() -> u32 {
    let mut bytes = [0; 4];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("/dev/urandom");
    u32::from_ne_bytes(bytes)
}

/// An exit code without a meaning of its own.
pub fn random_code() -> i32 {
    (random() % 80) as i32 + 20
}

/// Tries until it is so.
pub fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    while !is_so() {
        if since.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("ended"))
}

const NOT_RUN: &str = "the program has not run";
/// From chapter 04 on.
pub const IN_BACKGROUND: &str = "this test needs mine in the foreground, and yours runs in the background: the test of \
    chapter 04 looks at its namespaces and its root, too";

/// A container whose program has said its first lines and waits for one more line from us.
pub struct WaitingProgram {
    mine: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    errors: PathBuf,
    scratch: Scratch,
    /// The root that mine was given.
    pub root: Option<PathBuf>,
    /// The program, as the host sees it.
    pub pid: Pid,
    /// What it has printed so far.
    pub lines: Vec<String>,
    code: i32,
}

impl WaitingProgram {
    /// `mine sh -c SCRIPT`, or `mine ROOT sh -c SCRIPT` where it takes a root, as from chapter 03 on.
    pub fn start(mine: &Path, script: &str) -> Result<Self, Reason> {
        let first = Self::run(mine, None, script);
        if !matches!(&first, Err(Reason::Missing(sentence, _)) if sentence == NOT_RUN) {
            return first;
        }
        let root = make_root()?;
        match Self::run(mine, Some(&root), script) {
            Err(_) if goes_to_the_background(mine, &root) => missing(IN_BACKGROUND, ""),
            Err(_) => first,
            second => second,
        }
    }

    /// The script goes on to wait for us and to end with a random exit code.
    pub fn run(mine: &Path, root: Option<&Path>, script: &str) -> Result<Self, Reason> {
        let scratch = Scratch::new();
        let errors = scratch.0.join("errors");
        let code = random_code();
        let script = format!("{script}\necho ready\nread line\nexit {code}");
        let mut command = Command::new(mine);
        command.args(root).args(["sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mine = command.stderr(File::create(&errors).expect("errors")).spawn().expect("mine");
        let stdin = mine.stdin.take().expect("piped");
        let stdout = BufReader::new(mine.stdout.take().expect("piped"));
        let pid = Pid::from_raw(0);
        let (root, lines) = (root.map(Path::to_owned), Vec::new());
        let mut held = WaitingProgram { mine, stdin, stdout, errors, scratch, root, pid, lines, code };
        held.read_until_ready()?;
        let host = Pid::from_raw(held.mine.id() as i32);
        match children(host)[..] {
            [child] => held.pid = child,
            [] => return missing("the program is not a child of mine: mine has become the program itself", ""),
            ref many => return missing("mine has more than one child", format!("{many:?}")),
        }
        Ok(held)
    }

    fn read_until_ready(&mut self) -> Checked {
        loop {
            let mut fds = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::try_from(PATIENCE).expect("short");
            if self.stdout.buffer().is_empty() && poll(&mut fds, patience).expect("poll") == 0 {
                let sentence = "the program has printed nothing yet: the host must open the gate";
                return missing(sentence, self.said());
            }
            let mut line = String::new();
            if self.stdout.read_line(&mut line).expect("read") == 0 {
                let status = self.mine.wait().expect("wait");
                let seen = format!("mine has ended with exit code {}:\n{}", code(status), self.said());
                return missing(NOT_RUN, seen);
            }
            match line.trim_end() {
                "ready" => return Ok(()),
                line => self.lines.push(line.to_owned()),
            }
        }
    }

    /// What mine has written to standard error.
    pub fn said(&self) -> String {
        read_to_string(&self.errors).unwrap_or_default()
    }

    /// Lets the program end, and mine with it; afterwards its exit code must be the program's.
    pub fn end(mut self) -> Result<String, Reason> {
        writeln!(self.stdin, "go on").expect("write");
        let ended = self.wait()?;
        if ended != self.code {
            let seen = format!("{}, and mine with {ended}\n{}", self.code, self.said());
            return missing(chapters::CODE, format!("the program has ended with {seen}"));
        }
        Ok(self.said())
    }

    /// Ends the program with SIGKILL, which process 1 of a pid namespace cannot ignore either. The exit code of mine.
    pub fn kill(mut self) -> Result<i32, Reason> {
        kill(self.pid, Signal::SIGKILL).expect("kill");
        self.wait()
    }

    fn wait(&mut self) -> Result<i32, Reason> {
        let mut status = None;
        let has_ended = soon(|| {
            status = self.mine.try_wait().expect("wait");
            status.is_some()
        });
        require(has_ended, "the program has ended, and mine has not", self.said())?;
        Ok(code(status.expect("ended")))
    }
}

impl Drop for WaitingProgram {
    fn drop(&mut self) {
        if let Ok(None) = self.mine.try_wait() {
            let host = Pid::from_raw(self.mine.id() as i32);
            let mut processes = children(host);
            processes.push(host);
            end(&processes);
        }
    }
}

/// The identity of a namespace, `pid:[4026531836]`.
pub fn namespace(pid: impl std::fmt::Display, kind: &str) -> PathBuf {
    read_link(format!("/proc/{pid}/ns/{kind}")).unwrap_or_default()
}

/// The lines of /proc/PID/mountinfo as words.
pub fn mounts(pid: impl std::fmt::Display) -> Vec<Vec<String>> {
    let text = read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}
