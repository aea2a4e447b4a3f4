//! A store of its own for each test, and what one sees of it from the host.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::OnceLock;

use engine::states::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{narrated, step, wait_until};

/// `$XDG_RUNTIME_DIR` of one test, and `$XDG_DATA_HOME` in it. Dropped, everything in it is removed.
pub struct Home(tempfile::TempDir);

/// A command that waits for Enter, as long as this is there.
pub struct Paused {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Home {
    pub fn new() -> Self {
        let home = Home(tempfile::tempdir().expect("tempdir"));
        std::fs::create_dir(home.data()).expect("mkdir");
        home
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub fn store(&self) -> PathBuf {
        self.0.path().join("step04")
    }

    /// `step04` with these arguments; `run` and `create` get a root.
    pub fn step(&self, arguments: &[&str]) -> testing::Run {
        self.prepared(step, arguments)
    }

    /// The same, and it prints every call.
    pub fn narrated(&self, arguments: &[&str]) -> testing::Run {
        self.prepared(narrated, arguments)
    }

    fn prepared(&self, step: fn(&str, Vec<String>) -> testing::Run, arguments: &[&str]) -> testing::Run {
        let mut arguments: Vec<_> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let makes = arguments.iter().position(|it| it == "run" || it == "create");
        if let Some(place) = makes.filter(|_| !arguments.iter().any(|it| it == "--rootfs")) {
            let root = rootfs().display().to_string();
            arguments.splice(place + 1..place + 1, ["--rootfs".to_owned(), root]);
        }
        arguments.insert(0, "--color=never".to_owned());
        // Step 05 has these tests' home, too.
        step(&env!("CARGO_PKG_NAME")[..6], arguments).with(|command| {
            command.env("XDG_RUNTIME_DIR", self.0.path()).env("XDG_DATA_HOME", self.data());
        })
    }

    /// Its standard output, without the last newline; it must end with 0.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.step(&[&["-q"], arguments].concat()).ran();
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.out.trim_end_matches('\n').to_owned()
    }

    pub fn ok_with_root(&self, root: &str, arguments: &[&str]) -> String {
        let (verb, rest) = arguments.split_first().expect("a verb");
        self.ok(&[&[*verb, "--rootfs", root], rest].concat())
    }

    /// One sentence with this word in it, and 125; nothing on standard output.
    pub fn refuses(&self, arguments: &[&str], word: &str) {
        let ran = self.step(&[&["-q"], arguments].concat()).ran();
        assert_eq!(ran.code, 125, "{arguments:?}: {}", ran.err);
        assert_eq!(ran.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(word) && ran.out.is_empty(), "{arguments:?}: {ran:?}");
    }

    /// A line for each container.
    pub fn all(&self) -> String {
        let ran = self.step(&["ps", "-a", "--format", "json"]).ran();
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out.trim_end_matches('\n').to_owned()
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        self.json_if_there(name).unwrap_or_else(|| panic!("no container {name}"))
    }

    /// One with `--rm` may be gone at any moment.
    pub fn json_if_there(&self, name: &str) -> Option<serde_json::Value> {
        let ran = self.step(&["-q", "inspect", name]).ran();
        let all: serde_json::Value = serde_json::from_str(&ran.out).expect("json");
        let is_gone = ran.code == 125 && (ran.err.contains("no container") || ran.err.contains("just been removed"));
        assert!(ran.code == 0 || is_gone, "{ran:?}");
        all.get(0).cloned()
    }

    pub fn status(&self, name: &str) -> String {
        self.json(name)["status"].as_str().expect("a status").to_owned()
    }

    pub fn id(&self, name: &str) -> String {
        self.json(name)["config"]["id"].as_str().expect("an id").to_owned()
    }

    pub fn init(&self, name: &str) -> Pid {
        self.pid(name, "init")
    }

    pub fn monitor(&self, name: &str) -> Pid {
        self.pid(name, "monitor")
    }

    fn pid(&self, name: &str, which: &str) -> Pid {
        let pid = self.json(name)["state"][which]["pid"].as_i64().expect("a pid");
        Pid::from_raw(pid as i32)
    }

    pub fn directory(&self, id: &str) -> PathBuf {
        self.store().join(id)
    }

    /// The files of a container whose names begin so.
    pub fn files(&self, id: &str, begin: &str) -> Vec<PathBuf> {
        let all = list(&self.directory(id)).into_iter();
        all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))).collect()
    }

    /// Whether a process has the lock of any container.
    pub fn is_looked_after(&self) -> bool {
        list(&self.store()).iter().any(|dir| shared::lock::is_locked(dir))
    }

    /// Removes whatever is there; then nothing may be left.
    pub fn clear(&self) {
        let ids = self.ok(&["ps", "-aq"]);
        let ids: Vec<_> = ids.lines().collect();
        if !ids.is_empty() {
            self.ok(&[&["rm", "-f"], ids.as_slice()].concat());
        }
        self.ok(&["clean"]);
        assert!(!self.store().exists(), "{:?}", list(&self.store()));
        assert!(list(&self.data()).is_empty(), "{:?}", list(&self.data().join("step04-data")));
        let groups = testing::groups_of_steps();
        let left: Vec<_> = groups.iter().filter(|group| ids.iter().any(|id| group.contains(id))).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.store().is_dir() {
            return;
        }
        if !std::thread::panicking() {
            return self.clear();
        }
        // What a failed test leaves would make the next one fail, too.
        let ids = self.step(&["-q", "ps", "-aq"]).ran().out;
        let ids: Vec<_> = ids.lines().collect();
        if !ids.is_empty() {
            self.step(&[&["-q", "rm", "-f"], ids.as_slice()].concat()).ran();
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A container of this name in this state.
pub fn in_state(home: &Home, name: &str, status: Status) -> Option<Paused> {
    let command = ["sleep", "1000"];
    match status {
        Status::Creating => {
            let making = home.narrated(&[&["--pause", "create", "--name", name], &command[..]].concat());
            let making = making.with(|command| {
                command.stdin(Stdio::piped());
            });
            let mut child = making.spawn();
            let mut stdin = child.stdin.take().expect("piped");
            let printed = testing::collect(child.stderr.take().expect("piped"));
            // Until the child is held: there are groups by then, and a process.
            loop {
                let line = printed.recv_timeout(testing::PATIENCE).expect("a pause");
                if line.starts_with("[Enter]") && line.contains("uid_map") {
                    break;
                }
                if line.starts_with("[Enter]") {
                    std::io::Write::write_all(&mut stdin, b"\n").expect("enter");
                }
            }
            std::thread::spawn(move || printed.iter().for_each(drop));
            return Some(Paused { child, _stdin: Some(stdin) });
        }
        Status::Created => drop(home.ok(&[&["create", "--name", name], &command[..]].concat())),
        Status::Running => drop(home.ok(&[&["run", "-d", "--name", name], &command[..]].concat())),
        Status::Paused => {
            home.ok(&[&["run", "-d", "--name", name], &command[..]].concat());
            home.ok(&["pause", name]);
        }
        Status::Stopped => {
            home.ok(&[&["run", "-d", "--name", name], &command[..]].concat());
            home.ok(&["stop", "-t", "0", name]);
        }
        Status::Dead => {
            home.ok(&[&["run", "-d", "--name", name], &command[..]].concat());
            kill(home.monitor(name), Signal::SIGKILL).expect("kill");
            wait_until("it is dead", || home.status(name) == "dead");
        }
    }
    None
}

/// Whether a process runs: one that has ended and that nobody has waited for does not.
pub fn alive(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")))
}

/// A call that writes something down: the store's.
pub fn writes_down(call: &str) -> bool {
    let words = ["mkdir ", "rename(", "rm ", "symlink(", "echo … > ", "echo N > "];
    words.iter().any(|word| call.starts_with(&format!("host  {word}")) && !call.contains("/cgroup"))
}

/// Printed calls in which every container has the same id, and every step the same group.
pub fn without_ids(printed: &str) -> String {
    let is_id = |word: &str| word.len() == 12 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let mut plain = String::new();
    let mut word = String::new();
    for c in printed.chars().chain(['\0']) {
        if is_word(c) {
            word.push(c);
            continue;
        }
        plain += if is_id(&word) { "ID" } else { &word };
        plain.push(c);
        word.clear();
    }
    let mut lines = Vec::new();
    for line in plain.trim_end_matches('\0').lines() {
        let words = line.replace("step04-ID", "GROUP");
        // step03-4711, where 4711 is its pid.
        let group = words.split("step03-").enumerate().map(|(number, part)| match number {
            0 => part.to_owned(),
            _ => format!("GROUP{}", part.trim_start_matches(|c: char| c.is_ascii_digit())),
        });
        lines.push(group.collect::<String>());
    }
    lines.join("\n")
}

fn list(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();

/// A root of this machine's own tools. Made once.
pub fn rootfs() -> PathBuf {
    rootfs_with(&[])
}

/// The same, with programs of the project in it, where it is the first that is asked for.
pub fn rootfs_with(programs: &[&str]) -> PathBuf {
    ROOT.get_or_init(|| own_root(programs)).path().join("rootfs")
}

/// A static is never dropped.
pub fn remove_rootfs() {
    if let Some(root) = ROOT.get() {
        std::fs::remove_dir_all(root.path()).expect("the root is removed");
    }
}

/// A root with these programs of the project in it.
pub fn own_root(programs: &[&str]) -> tempfile::TempDir {
    let dir = testing::tempdir();
    testing::make_root(&dir.path().join("rootfs"), programs);
    dir
}
