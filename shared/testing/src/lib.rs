//! Runs a step as a learner would, and looks at it from the host.
//!
//! A test here has three answers: it passes, it fails, or this machine cannot decide it, and then it is *ignored* with the
//! reason. Each runs in a process of its own, several side by side, and after each nothing of what it made may be left:
//! no process, cgroup, mount or temporary file.

mod checks;
mod root;
mod surroundings;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::mountinfo;

pub use checks::{Check, World, check, is_exhaustive, run, some_of};
pub use root::make_root;
use surroundings::{children, reap};
pub use surroundings::{groups_of_steps, interfaces, tempdir, without_own_groups};

/// Longer than anything takes, on a machine in software emulation, too: a test that waits so long waits for ever.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The options with which a step prints every call: those of [`narrated`].
pub const VERBOSE: &[&str] = &["--verbose"];

/// A program of this project, where cargo has put it: `step01`, or an example by its name.
pub fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("own path"); // target/debug/deps/step-0123456789abcdef
    let built = tests.ancestors().nth(2).expect("target/debug");
    let path = [built.join(name), built.join("examples").join(name)].into_iter().find(|path| path.exists());
    path.unwrap_or_else(|| panic!("{name} is not built: cargo build --workspace --bins --examples"))
}

/// A program, ready to be run.
pub struct Run {
    command: Command,
    /// Whether it prints every call.
    is_narrated: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Ran {
    /// As a shell has it: 128 and the number of the signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error: the narration, and the errors.
    pub err: String,
}

/// A step with arguments, as on the command line.
pub fn step<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Run {
    let mut command = Command::new(program(name));
    command.args(arguments);
    Run::new(command)
}

/// The same, and it prints every call: `host  clone(…) = 4711`, `child execve(…) = …`.
pub fn narrated<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Run {
    let mut command = Command::new(program(name));
    command.args(VERBOSE).args(arguments);
    Run { is_narrated: true, ..Run::new(command) }
}

impl Run {
    /// Any command.
    pub fn new(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Run { command, is_narrated: false }
    }

    /// Changes something about it.
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Runs it to its end.
    pub fn ran(mut self) -> Ran {
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let (out, err) = (child.stdout.take().map(collect), child.stderr.take().map(collect));
        let code = end_of(&mut child, PATIENCE);
        let text = |from: Option<mpsc::Receiver<String>>| from.as_ref().map_or(String::new(), rest);
        Ran { code, out: text(out), err: text(err) }
    }

    /// Starts it, and leaves the rest to the caller.
    pub fn spawn(mut self) -> Child {
        self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command))
    }

    /// Starts it, and comes back when its program has said "ready": so the program is `sh -c 'echo ready; …'`.
    pub fn until_ready(mut self) -> Live {
        self.command.stdin(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let err = collect(child.stderr.take().expect("piped"));
        let out = collect(child.stdout.take().expect("piped"));
        let mut live = Live { stdin: child.stdin.take(), child, out, err, printed: String::new() };
        match live.out.recv_timeout(PATIENCE) {
            Ok(line) if line == "ready\n" => {}
            answer => panic!("no \"ready\" but {answer:?}: {}", live.printed()),
        }
        // Lines that were printed before that are in another pipe, and may arrive later.
        while self.is_narrated && !live.printed.contains("child execve(") {
            live.printed +=
                &live.err.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no execve in {}", live.printed));
        }
        live
    }
}

/// A step whose program runs now.
pub struct Live {
    child: Child,
    /// What the program reads.
    pub stdin: Option<ChildStdin>,
    out: mpsc::Receiver<String>,
    err: mpsc::Receiver<String>,
    printed: String,
}

impl Live {
    /// The step itself.
    pub fn step(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// The child, as the host sees it.
    pub fn pid(&self) -> Pid {
        child_of(self.step()).unwrap_or_else(|| panic!("{} has no child", self.step()))
    }

    /// The narration so far.
    pub fn printed(&mut self) -> String {
        self.printed.extend(self.err.try_iter());
        self.printed.clone()
    }

    /// The next line of the program's.
    pub fn line(&mut self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no further line: {}", self.printed()))
    }

    /// Waits until the program gives back a line, as `cat` does: then it is `cat` itself that runs, and not the shell that
    /// is about to start it and that would ignore a signal meanwhile.
    pub fn until_it_echoes(&mut self) {
        let word = format!("{}\n", random_word());
        self.stdin.as_mut().expect("piped").write_all(word.as_bytes()).expect("a line for cat");
        assert_eq!(self.line(), word);
    }

    /// Sends the step a signal, for its program.
    pub fn signal(&self, signal: Signal) {
        kill(self.step(), signal).expect("kill");
    }

    /// Closes the program's standard input, and waits for the step's end.
    pub fn end(mut self) -> Ran {
        drop(self.stdin.take());
        self.ended()
    }

    /// Waits for the step's end, which something else brings about.
    pub fn ended(mut self) -> Ran {
        let code = end_of(&mut self.child, PATIENCE);
        Ran { code, out: rest(&self.out), err: std::mem::take(&mut self.printed) + &rest(&self.err) }
    }
}

/// Whatever a failed test leaves does not run on.
impl Drop for Live {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads in a thread of its own, line by line: a full pipe would hold the step up.
pub fn collect(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    receive
}

/// The rest of the output of a program that has ended. Another process that has it open must close it soon.
fn rest(from: &mpsc::Receiver<String>) -> String {
    let mut text = String::new();
    loop {
        match from.recv_timeout(PATIENCE) {
            Ok(line) => text += &line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return text,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("somebody still holds its output: {:?}", children()),
        }
    }
}

/// Waits for the end; what takes longer hangs.
pub fn end_of(child: &mut Child, patience: Duration) -> i32 {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return code(status);
        }
        if since.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The first child of a process.
pub fn child_of(parent: Pid) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw)
}

/// Waits until it is so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The directories in /proc of the processes that have these words on their command line, and no others.
pub fn processes(command: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let is_it = |process: &PathBuf| {
        let words = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        words.trim_end_matches('\0').replace('\0', " ") == command
    };
    all.filter(is_it).collect()
}

/// Something that nobody can have written into the code: six letters.
pub fn random_word() -> String {
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("urandom");
    bytes.iter().map(|byte| (b'a' + byte % 26) as char).collect()
}

/// How many lines it takes on a screen of 110 columns.
pub fn lines_on_screen(text: &str) -> usize {
    text.lines().map(|line| line.chars().count().div_ceil(110).max(1)).sum()
}

/// What the kernel says at `/proc/PID/…`.
pub fn proc(pid: Pid, name: &str) -> String {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Where a link at `/proc/PID/…` leads: `pid:[4026531836]`.
pub fn proc_link(pid: Pid, name: &str) -> String {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}")).display().to_string()
}

/// What tests need of a machine: `None` where it is there, else the reason.
pub mod needs {
    use std::sync::OnceLock;

    use super::*;

    /// User id 0 here, with the rights over namespaces and mounts, which root of a Docker container has not.
    pub fn root() -> Option<String> {
        match nix::unistd::geteuid().is_root() {
            false => Some("needs root".to_owned()),
            true => (!has(CAP_SYS_ADMIN)).then(|| "needs root with CAP_SYS_ADMIN".to_owned()),
        }
    }

    /// capability.h
    const CAP_SYS_ADMIN: u32 = 21;
    /// The same.
    pub(crate) const CAP_NET_ADMIN: u32 = 12;

    /// Whether this process has this right.
    pub(crate) fn has(capability: u32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        let effective = u64::from_str_radix(effective.expect("CapEff"), 16).expect("a mask");
        effective >> capability & 1 == 1
    }

    /// For root: that it may become another user, as where more than one id is mapped.
    pub fn own_or_all_ids() -> Option<String> {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let has_one = map.split_whitespace().nth(2) == Some("1");
        (nix::unistd::geteuid().is_root() && has_one).then(|| "needs a root that may become another user".to_owned())
    }

    /// Another user id.
    pub fn ordinary_user() -> Option<String> {
        nix::unistd::geteuid().is_root().then(|| "needs an ordinary user".to_owned())
    }

    /// That this user may make user namespaces.
    pub fn user_namespaces() -> Option<String> {
        static TRIED: OnceLock<Option<String>> = OnceLock::new();
        TRIED.get_or_init(try_user_namespace).clone()
    }

    fn try_user_namespace() -> Option<String> {
        let flags = nix::sched::CloneFlags::CLONE_NEWUSER;
        let mut command = Command::new("true");
        // SAFETY: between fork and exec there is one system call, which takes no lock.
        unsafe { command.pre_exec(move || Ok(nix::sched::unshare(flags)?)) };
        command.status().err().map(|error| format!("needs user namespaces: {error}"))
    }

    /// That it may not.
    pub fn no_user_namespaces() -> Option<String> {
        user_namespaces().is_none().then(|| "needs a machine that forbids user namespaces".to_owned())
    }

    /// That the kernel has this kind of namespace, by its file below `/proc/PID/ns`.
    pub fn namespace(kind: &str) -> Option<String> {
        let there = Path::new("/proc/self/ns").join(kind).exists();
        (!there).then(|| format!("needs a kernel with {kind} namespaces"))
    }

    /// That `/` is mounted shared.
    pub fn shared_root() -> Option<String> {
        let mounts = mountinfo::read(Path::new("/proc/self")).expect("mountinfo");
        let root = mounts.iter().rfind(|mount| mount.point == Path::new("/"));
        let shared = root.is_some_and(|mount| mount.propagation.contains("shared:"));
        (!shared).then(|| "needs a shared /".to_owned())
    }

    /// That a program is installed.
    pub fn tool(name: &str) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let there = std::env::split_paths(&path).any(|dir| dir.join(name).exists());
        (!there).then(|| format!("needs {name} to be installed"))
    }
}

/// The calls of a narration, without what differs from run to run: pids, descriptors and the results.
pub fn calls(narration: &str) -> Vec<String> {
    let printed = narration.lines().filter(|line| line.starts_with("host  ") || line.starts_with("child "));
    printed.map(|line| without_numbers(line.rsplit_once(" = ").map_or(line, |(call, _)| call))).collect()
}

/// Every number, and the dry run's `…` in the place of one, becomes `N`.
pub fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' | '…' if plain.ends_with('N') => {}
            '0'..='9' | '…' => plain.push('N'),
            c => plain.push(c),
        }
    }
    plain
}

/// Ends the step with each signal at each of its pauses, and while its program runs. Nothing may run on, and the
/// exit code must say what happened. SIGKILL may leave a group, and nothing that runs.
pub fn end_at_every_pause(name: &str, arguments: &[&str]) {
    // A shell listens to SIGINT itself, and would go on; these two do not.
    let paused = |program| narrated(name, ["--pause"].iter().chain(arguments).chain(&[program]));
    let pauses = count_pauses(paused("true"));
    assert!(pauses > 3, "{name} pauses just {pauses} times");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        for pause in 0..=pauses {
            let runs = pause == pauses;
            let mut step =
                paused(if runs { "cat" } else { "true" }).command.stdin(Stdio::piped()).spawn().expect("spawn");
            let err = collect(step.stderr.take().expect("piped"));
            let out = collect(step.stdout.take().expect("piped"));
            let mut stdin = step.stdin.take().expect("piped");
            stdin.write_all(&b"\n".repeat(pause)).expect("enter");
            let mut printed = String::new();
            if runs {
                stdin.write_all(b"ready\n").expect("a line for cat");
                while out.recv_timeout(PATIENCE).expect("a line of cat's") != "ready\n" {}
            } else {
                while printed.matches("[Enter]").count() <= pause {
                    printed += &err.recv_timeout(PATIENCE).expect("a pause");
                }
            }
            kill(Pid::from_raw(step.id() as i32), signal).expect("kill");
            // A step that cleans up does not pause: nobody presses Enter, and cat sees no end of its input.
            let code = end_of(&mut step, PATIENCE);
            drop(stdin);
            let cleans_up =
                printed.contains("execve(") && !printed.ends_with("execve(\"/usr/bin/true\", [\"true\"], …)\n");
            printed.extend(err.iter());
            let expected = [128 + signal as i32, if cleans_up { 0 } else { 128 + signal as i32 }];
            assert!(expected.contains(&code), "{name} at pause {pause}, {signal}, exit code {code}: {printed}");
            wait_until("nothing runs on", || {
                reap();
                children().is_empty()
            });
            if signal == Signal::SIGKILL {
                // What is left then is for `step04 clean`, which has tests of its own.
                let is_its = |group: &String| group.contains(&format!("{name}-{}", step.id()));
                groups_of_steps().iter().rev().filter(|group| is_its(group)).for_each(|group| {
                    let _ = std::fs::remove_dir(group);
                });
            }
            assert!(
                groups_of_steps().is_empty(),
                "{name} at pause {pause}, {signal}: groups left: {:?}",
                groups_of_steps()
            );
        }
    }
}

/// How often a step that was given `--pause` waits for Enter.
pub fn count_pauses(mut step: Run) -> usize {
    let mut step = step.command.stdin(Stdio::piped()).spawn().expect("spawn");
    step.stdin.take().expect("piped").write_all(&b"\n".repeat(1000)).expect("enter");
    let printed = step.wait_with_output().expect("wait").stderr;
    String::from_utf8_lossy(&printed).lines().filter(|line| line.starts_with("[Enter]")).count()
}

/// Bad input: exit code 125, one sentence that has this word in it, and no more. Standard output stays empty.
pub fn refuses<A: AsRef<OsStr> + std::fmt::Debug>(name: &str, arguments: &[A], code: i32, word: &str) {
    let ran = step(name, arguments).ran();
    assert_eq!(ran.code, code, "{name} {arguments:?}: {}", ran.err);
    let errors: Vec<_> = ran.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{name} {arguments:?}: {}", ran.err);
    assert!(ran.err.contains(word), "{name} {arguments:?} does not say {word:?}: {}", ran.err);
    assert!(!ran.err.contains("panicked") && ran.out.is_empty(), "{name} {arguments:?}: {}{}", ran.err, ran.out);
}
