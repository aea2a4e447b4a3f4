//! The containment matrix of TUTORIAL.md: what a program that misbehaves reaches from within each step.
//!
//! Each cell is tried, and judged from the host's side. Everything is bounded: files in temporary directories, processes of
//! our own, a host name in a namespace of its own, settings that are opened and not written.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cgroups::Version;
use nix::errno::Errno;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{Ran, Run, program, random_word};

use crate::only;

/// What step 06 says of a kernel like User Mode Linux, where it works without a cable.
pub const NO_BRIDGE: &str = "this kernel has no such interfaces";
/// What step 07 says where it works on the root itself.
pub const NO_UPPER: &str = "no upper layer can be in";
/// The steps, by the first word of their command.
pub const STEPS: [&str; 10] =
    ["step00", "step01", "step02", "step03", "step04", "step05", "step06", "step07", "step08", "step09"];

/// A row: what is tried, whether it works in a step, and what stops it.
pub struct Row {
    pub what: &'static str,
    /// Does it in this step; whether it has worked.
    works: fn(&Playground, &str) -> bool,
    pub stopped_by: &'static str,
}

/// What the misbehaviours need around them.
pub struct Playground {
    dir: tempfile::TempDir,
    /// Options of step 06.
    network: &'static [&'static str],
    /// Of step 07.
    layers: &'static [&'static str],
}

/// What stands in a cell, as the legend above the table says.
const WORKS: &str = "○";
const STOPPED: &str = "●";
const WORKS_ON_V2: &str = "◐";

pub const ROWS: [Row; 40] = [
    Row {
        what: "see a process of the host",
        works: see_process,
        stopped_by: "pid namespace, and a `/proc` of its own",
    },
    Row { what: "signal a process of the host", works: signal_process, stopped_by: "pid namespace" },
    Row { what: "leave a process behind", works: leave_process, stopped_by: "pid namespace: all end with PID 1" },
    Row { what: "rename the host", works: rename_host, stopped_by: "uts namespace" },
    Row {
        what: "mount over the host's `/proc`",
        works: mount_over_proc,
        stopped_by: "mount namespace that is not shared",
    },
    Row { what: "connect to a socket on the host's loopback", works: connect, stopped_by: "network namespace" },
    Row { what: "answer on a port of the host's", works: answer, stopped_by: "network namespace" },
    Row {
        what: "find the host's shared memory (System V)",
        works: find_shared_memory,
        stopped_by: "ipc namespace, and a `/proc` of its own",
    },
    Row { what: "make a device node", works: make_node, stopped_by: "user namespace" },
    Row {
        what: "open a device of the host's (`/dev/kmsg`) for writing",
        works: open_device,
        stopped_by: "cgroup v1: the list of devices; then a `/dev` without it",
    },
    Row { what: "run 300 processes (fork bomb)", works: fork_bomb, stopped_by: "cgroup: `--pids-limit`" },
    Row {
        what: "the same, with the cgroup tree mounted once more and the limit lifted (called by root)",
        works: lifted_fork_bomb,
        stopped_by: "user namespace with a range: the group's files are the host's root's",
    },
    Row { what: "take 128 MiB of memory", works: memory_hog, stopped_by: "cgroup: `--memory`" },
    Row { what: "use a whole processor", works: cpu_hog, stopped_by: "cgroup: `--cpus`" },
    Row { what: "read a file of the host", works: read_file, stopped_by: "`pivot_root`" },
    Row { what: "change a file of the host", works: change_file, stopped_by: "`pivot_root`" },
    Row { what: "break out of a `chroot`", works: break_out, stopped_by: "`pivot_root`, and the old root taken off" },
    Row {
        what: "change a file of the host's root in a volume (called by root)",
        works: change_volume,
        stopped_by: "user namespace with a range",
    },
    Row {
        what: "leave a setuid-root program in a volume (called by root)",
        works: leave_setuid,
        stopped_by: "user namespace with a range: outside, its owner is an id that nobody has",
    },
    Row {
        what: "change the root of another container",
        works: change_root,
        stopped_by: "overlay: what it writes is a layer of its own",
    },
    Row {
        what: "open a setting of the host for writing (called by root)",
        works: open_setting,
        stopped_by: "user namespace with a range",
    },
    Row {
        what: "have the kernel start a program at a crash (`core_pattern`, called by root)",
        works: |place, step| place.sh(step, ": >>/proc/sys/kernel/core_pattern").code == 0,
        stopped_by: "user namespace with a range; and the path is read-only",
    },
    Row {
        what: "have the kernel start a program when a cgroup of version 1 is empty (`release_agent`)",
        works: open_release_agent,
        stopped_by: "user namespace, and a cgroup namespace: the file is in a tree's first group alone",
    },
    Row {
        what: "read the kernel's log (where `kernel.dmesg_restrict` is 1)",
        works: |place, step| escapes(place, step, &["syslog"]),
        stopped_by: "user namespace; and the list of calls",
    },
    Row {
        what: "type into the terminal that it was started from (where `dev.tty.legacy_tiocsti` is 1)",
        works: type_in,
        stopped_by: "`setsid`: it is not its session's",
    },
    Row {
        what: "read what is typed at the terminal that it was started from",
        works: read_typed,
        stopped_by: "an empty input, and an output that can only be written to",
    },
    Row {
        what: "read a file of the host by way of another process (`/proc/PID/root`)",
        works: read_through_process,
        stopped_by: "pid namespace, and a `/proc` of its own",
    },
    Row {
        what: "read a file that the caller has left open",
        works: read_left_open,
        stopped_by: "`close_range`, right before `execve`",
    },
    Row {
        what: "open a file by its number on the disk, past every directory (shocker)",
        works: |place, step| escapes(place, step, &["handle", "/tmp/handled"]),
        stopped_by: "user namespace; and the list of calls",
    },
    Row {
        what: "have the kernel run a program of its own (`bpf`)",
        works: |place, step| escapes(place, step, &["bpf"]),
        stopped_by: "user namespace; and the list of calls",
    },
    Row {
        what: "open a device node that lies in the root (`--no-overlay`), the mount's flags changed",
        works: open_node_in_root,
        stopped_by: "cgroup v1: the list of devices; from step 05 on a mount that is nodev",
    },
    Row {
        what: "make a read-only root writable again",
        works: write_read_only_root,
        stopped_by: "capabilities: no CAP_SYS_ADMIN, and none to be had",
    },
    Row {
        what: "the same with a read-only volume",
        works: write_read_only_volume,
        stopped_by: "capabilities: no CAP_SYS_ADMIN, and none to be had",
    },
    Row {
        what: "be root in a user namespace of its own",
        works: |place, step| place.sh(step, "unshare -U true").code == 0,
        stopped_by: "seccomp: the list of calls",
    },
    Row {
        what: "mount a new `/proc`, with nothing covered",
        works: |place, step| place.sh(step, "unshare -Urm --fork --pid mount -t proc proc /mnt").code == 0,
        stopped_by: "seccomp; without that, masks that are locked in a new namespace",
    },
    Row {
        what: "read what the kernel counts of all (`/proc/interrupts`)",
        works: |place, step| !place.sh(step, "cat /proc/interrupts").out.is_empty(),
        stopped_by: "masks: the null device is mounted over it",
    },
    Row {
        what: "gain rights by a setuid program, as an ordinary user inside",
        works: use_setuid,
        stopped_by: "no_new_privs",
    },
    Row {
        what: "read a key of the caller's session keyring",
        works: read_key,
        stopped_by: "a session keyring of its own; and the list of calls",
    },
    Row {
        what: "make calls by a queue that no list of calls sees (`io_uring`)",
        works: |place, step| escapes(place, step, &["io_uring"]),
        stopped_by: "seccomp: the list of calls",
    },
    Row {
        what: "switch off that addresses are random (`personality`)",
        works: |place, step| escapes(place, step, &["layout"]),
        stopped_by: "seccomp, by the argument",
    },
];

impl Playground {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let programs = ["chroot_breakout", "fork_bomb", "memory_hog", "cpu_spinner", "greeter", "typist", "escape"];
        testing::make_root(&dir.path().join("rootfs"), &programs);
        let mut place = Playground { dir, network: &[], layers: &[] };
        // The other way to a root that belongs to a range, where the file system takes no map: its files do.
        let ran = place.step("step05", &[], &["true"]).ran();
        if ran.err.contains("takes no map of ids") {
            let root = place.dir.path().join("rootfs");
            let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(root).status().expect("chown");
            assert!(given.success());
        }
        if place.step("step06", &[], &["true"]).ran().err.contains(NO_BRIDGE) {
            place.network = &["--network", "none"];
        }
        if place.step("step07", &[], &["true"]).ran().err.contains(NO_UPPER) {
            place.layers = &["--no-overlay"];
        }
        place
    }

    /// Whether this misbehaviour works in each step.
    pub fn tried(&self, row: &Row) -> [bool; STEPS.len()] {
        STEPS.map(|step| (row.works)(self, step))
    }

    /// A step with options (those of step 02 only where there are cgroups), and a command.
    fn step(&self, step: &str, limits: &[&str], command: &[&str]) -> Run {
        let arguments = self.arguments(step, limits, command);
        testing::step(step, arguments).with(|command| self.at_home(command))
    }

    /// Its containers, and what these write, are in a directory of its own.
    fn at_home(&self, command: &mut Command) {
        command.env("XDG_RUNTIME_DIR", self.dir.path()).env("XDG_DATA_HOME", self.dir.path());
    }

    fn arguments(&self, step: &str, limits: &[&str], command: &[&str]) -> Vec<String> {
        let root = self.dir.path().join("rootfs").display().to_string();
        let mut arguments = vec!["-q"];
        if step >= "step04" {
            arguments.extend(["run", "--rm"]);
        }
        if step >= "step02" {
            arguments.extend(limits);
        }
        if step >= "step03" {
            arguments.extend(["--rootfs", &root]);
        }
        if step >= "step06" {
            arguments.extend(self.network);
        }
        if step >= "step07" {
            arguments.extend(self.layers.iter().filter(|option| !limits.contains(option)));
        }
        arguments.into_iter().chain(command.iter().copied()).map(str::to_owned).collect()
    }

    /// A file of the root's, from outside, and as this step sees it: before step 03 it stands outside itself.
    fn file(&self, step: &str, name: &str) -> (PathBuf, PathBuf) {
        let outside = self.dir.path().join("rootfs").join(name);
        let inside = if step >= "step03" { Path::new("/").join(name) } else { outside.clone() };
        (outside, inside)
    }

    /// The option with which it writes to the root itself, where another one would be between them.
    fn on_the_root(step: &str) -> &'static [&'static str] {
        if step >= "step07" { &["--no-overlay"] } else { &[] }
    }

    /// A program of the project's, as this step sees it.
    fn program(&self, step: &str, name: &str) -> PathBuf {
        if step >= "step03" { Path::new("/usr/local/bin").join(name) } else { program(name) }
    }

    fn sh(&self, step: &str, script: &str) -> Ran {
        tried(self.step(step, &[], &["sh", "-c", script]))
    }

    /// One of the programs in `examples/`; from step 03 on it stands in the root.
    fn example(&self, step: &str, limits: &[&str], name: &str, argument: &str) -> Ran {
        let path = self.program(step, name).display().to_string();
        tried(self.step(step, limits, &[&path, argument]))
    }

    /// The same step inside namespaces that stand for the host: `unshare` with these flags, `before`, the step, `after`.
    fn on_a_host_of_its_own(&self, flags: &str, before: &str, step: &str, script: &str, after: &str) -> Ran {
        let root = self.dir.path().join("rootfs").display().to_string();
        let options = match step {
            step if step >= "step07" => {
                format!("run --rm --rootfs {root} {}", [self.network, self.layers].concat().join(" "))
            }
            "step06" => format!("run --rm --rootfs {root} {}", self.network.join(" ")),
            "step04" | "step05" => format!("run --rm --rootfs {root}"),
            "step03" => format!("--rootfs {root}"),
            _ => String::new(),
        };
        let step = program(step).display().to_string();
        let mut command = Command::new("unshare");
        command.args([
            flags,
            "sh",
            "-c",
            // 125 to 127: not even tried.
            &format!(
                "{before}\n{step} -q {options} sh -c '{script}' >/dev/null 2>&1\n[ $? -lt 125 ] || exit 125\n{after}"
            ),
        ]);
        self.at_home(&mut command);
        tried(Run::new(command))
    }
}

/// What could not even be tried was not stopped.
fn tried(run: Run) -> Ran {
    let ran = run.ran();
    assert!(![125, 126, 127].contains(&ran.code), "not tried: {ran:?}");
    ran
}

/// A process of the host's, with a word of its own.
struct Victim(Child);

impl Victim {
    fn new(word: &str) -> Self {
        Victim(Command::new("sleep").arg0(word).arg("100").spawn().expect("sleep"))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn see_process(place: &Playground, step: &str) -> bool {
    let word = random_word();
    let victim = Victim::new(&word);
    place.sh(step, &format!("cat /proc/{}/cmdline", victim.0.id())).out.contains(&word)
}

fn signal_process(place: &Playground, step: &str) -> bool {
    let mut victim = Victim::new("");
    place.sh(step, &format!("kill -KILL {}", victim.0.id()));
    (0..20).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        victim.0.try_wait().expect("wait").is_some()
    })
}

fn leave_process(place: &Playground, step: &str) -> bool {
    // As long as it lives it has the output open, so this waits for its end.
    let script = "(while kill -0 $$ 2>/dev/null; do sleep 0.02; done; echo still here) &";
    place.sh(step, script).out.contains("still here")
}

fn rename_host(place: &Playground, step: &str) -> bool {
    let word = random_word();
    let ran = place.on_a_host_of_its_own("--uts", "hostname host", step, &format!("hostname {word}"), "hostname");
    ran.out.trim() == word
}

fn mount_over_proc(place: &Playground, step: &str) -> bool {
    let after = "test -e /proc/self && echo there";
    let shared = "mount --make-rshared /";
    let ran = place.on_a_host_of_its_own("--mount", shared, step, "mount -t tmpfs none /proc", after);
    ran.out.trim() != "there"
}

fn connect(place: &Playground, step: &str) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    listener.set_nonblocking(true).expect("nonblocking");
    tried(place.step(step, &[], &["bash", "-c", &format!("echo hello >/dev/tcp/127.0.0.1/{port}")]));
    let mut said = String::new();
    match listener.accept() {
        Ok((mut stream, _)) => stream.read_to_string(&mut said).is_ok() && said == "hello\n",
        Err(_) => false,
    }
}

fn answer(place: &Playground, step: &str) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let greeter = place.program(step, "greeter");
    // Where it is PID 1, `timeout` is ended by SIGTERM, as it asks for it; the greeter would not be.
    let words = ["timeout", "300", &greeter.display().to_string(), &address.port().to_string()];
    let mut step = place.step(step, &[], &words).spawn();
    let printed = testing::collect(step.stdout.take().expect("piped"));
    let line = printed.recv_timeout(testing::PATIENCE).expect("it listens");
    assert!(line.starts_with("listening"), "{line}");
    let mut said = String::new();
    let _ = TcpStream::connect(address).and_then(|mut stream| stream.read_to_string(&mut said));
    kill(Pid::from_raw(step.id() as i32), Signal::SIGTERM).expect("kill");
    testing::end_of(&mut step, testing::PATIENCE);
    said.starts_with("hello, ")
}

fn find_shared_memory(place: &Playground, step: &str) -> bool {
    let made = Command::new("ipcmk").args(["--shmem", "4096"]).output().expect("ipcmk");
    let id = String::from_utf8_lossy(&made.stdout).split_whitespace().last().unwrap_or_default().to_owned();
    assert!(id.parse::<u32>().is_ok(), "{made:?}");
    let ran = place.sh(step, "cat /proc/sysvipc/shm");
    let gone = Command::new("ipcrm").args(["--shmem-id", &id]).status().expect("ipcrm");
    assert!(gone.success());
    ran.out.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(&id))
}

/// Nothing is written to it.
fn open_device(place: &Playground, step: &str) -> bool {
    place.sh(step, "test -c /dev/kmsg && : >>/dev/kmsg").code == 0
}

fn make_node(place: &Playground, step: &str) -> bool {
    let file = place.dir.path().join("rootfs/tmp/node");
    let path = if step >= "step03" { PathBuf::from("/tmp/node") } else { file.clone() };
    let _ = std::fs::remove_file(&file);
    place.sh(step, &format!("mknod {} c 1 3", path.display()));
    file.exists()
}

fn fork_bomb(place: &Playground, step: &str) -> bool {
    place.example(step, &["--pids-limit", "20"], "fork_bomb", "300").out.contains("300 forks")
}

/// Before step 02 there is no limit that it could lift.
fn lifted_fork_bomb(place: &Playground, step: &str) -> bool {
    let in_root = ("/tmp".to_owned(), "/usr/local/bin/fork_bomb".to_owned());
    let on_host = (place.dir.path().display().to_string(), program("fork_bomb").display().to_string());
    let (dir, fork_bomb) = if step >= "step03" { in_root } else { on_host };
    let lift = format!("mount -t cgroup2 none {dir}; test -e {dir}/pids.max || mount -t cgroup -o pids none {dir}");
    let script = match step {
        "step00" | "step01" => format!("{fork_bomb} 300"),
        _ => format!("{lift}; echo max >{dir}/pids.max; {fork_bomb} 300"),
    };
    tried(place.step(step, &["--pids-limit", "20"], &["sh", "-c", &script])).out.contains("300 forks")
}

fn memory_hog(place: &Playground, step: &str) -> bool {
    place.example(step, &["--memory", "32M"], "memory_hog", "128").out.contains("128 MiB taken")
}

/// Compared with a program that nothing holds back, and that begins when it has begun: where the machine is busy, neither gets
/// a whole processor. A kernel that is itself kept waiting, as User Mode Linux is on a busy machine, counts that as used: there
/// it takes longer, and one look in three may be wrong.
fn cpu_hog(place: &Playground, step: &str) -> bool {
    let is_alone = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
    let ms: u32 = if is_alone { 3000 } else { 700 };
    let spinner = |step| place.program(step, "cpu_spinner").display().to_string();
    let spin = |step, ms: u32| place.step(step, &["--cpus", "0.1"], &[&spinner(step), &ms.to_string()]).spawn();
    let used = |spinner: Child| {
        let ended = spinner.wait_with_output().expect("wait");
        let printed = String::from_utf8(ended.stdout).expect("utf-8");
        let used: Vec<u64> = printed.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [used, _all] = used[..] else { panic!("not tried: {printed}") };
        used
    };
    let uses_as_much = || {
        // By the odd number it is found.
        let held = spin(step, ms + 1);
        testing::wait_until("it spins", || !testing::processes(&format!("{} {}", spinner(step), ms + 1)).is_empty());
        let free = spin("step00", ms);
        used(held) * 2 > used(free)
    };
    let first = uses_as_much();
    if uses_as_much() == first { first } else { uses_as_much() }
}

fn read_file(place: &Playground, step: &str) -> bool {
    let word = random_word();
    let file = place.dir.path().join("secret");
    std::fs::write(&file, &word).expect("secret");
    place.sh(step, &format!("cat {}", file.display())).out == word
}

fn change_file(place: &Playground, step: &str) -> bool {
    let file = place.dir.path().join("mine");
    std::fs::write(&file, "mine").expect("file");
    place.sh(step, &format!("echo theirs >{}", file.display()));
    std::fs::read_to_string(&file).expect("file") != "mine"
}

/// A directory of the host's that anyone may write to, and what a step sees it as.
fn with_volume(place: &Playground, step: &str, mode: &str, script: &str) -> PathBuf {
    let dir = place.dir.path().join("shared");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    std::fs::write(dir.join("mine"), "mine").expect("file");
    let volume = format!("{}:/mnt{mode}", dir.display());
    let (options, there): (&[&str], _) =
        if step >= "step03" { (&["-v", &volume], "/mnt".to_owned()) } else { (&[], dir.display().to_string()) };
    let script = script.replace("DIR", &there);
    tried(place.step(step, options, &["sh", "-c", &script]));
    dir
}

fn change_volume(place: &Playground, step: &str) -> bool {
    let dir = with_volume(place, step, "", "echo theirs >DIR/mine; true");
    std::fs::read_to_string(dir.join("mine")).expect("file") != "mine"
}

fn leave_setuid(place: &Playground, step: &str) -> bool {
    let dir = with_volume(place, step, "", "cp /bin/sh DIR/sh; chmod 4755 DIR/sh; true");
    let left = dir.join("sh").metadata().expect("it was left");
    (left.uid(), left.mode() & 0o4000) == (0, 0o4000)
}

fn break_out(place: &Playground, step: &str) -> bool {
    let word = random_word();
    let file = place.dir.path().join("secret");
    std::fs::write(&file, &word).expect("secret");
    place.example(step, &[], "chroot_breakout", &file.display().to_string()).out.contains(&word)
}

fn change_root(place: &Playground, step: &str) -> bool {
    let (root, name) = (place.dir.path().join("rootfs"), random_word());
    // Up to step 02 it has no root of its own, and the other's is a directory of its host's.
    let here = if step >= "step03" { Path::new("/") } else { &root };
    place.sh(step, &format!("echo >{}", here.join(&name).display()));
    root.join(&name).exists()
}

/// The same, of a tree that it mounts; and in a mount namespace, as step 00 has none.
fn open_release_agent(place: &Playground, step: &str) -> bool {
    let dir = if step >= "step03" { "/mnt".into() } else { place.dir.path().join("rootfs/mnt") };
    let (dir, said) = (dir.display(), place.file(step, "tmp/agent"));
    let _ = std::fs::remove_file(&said.0);
    let script = format!(
        "mount -t cgroup -o pids none {dir} && test -e {dir}/release_agent && : >>{dir}/release_agent && : >{}",
        said.1.display()
    );
    place.on_a_host_of_its_own("--mount", "", step, &script, "");
    said.0.exists()
}

/// Opened to be added to, and nothing is.
fn open_setting(place: &Playground, step: &str) -> bool {
    place.sh(step, ": >>/proc/sys/vm/swappiness").code == 0
}

/// Nobody reads what is typed there.
fn type_in(place: &Playground, step: &str) -> bool {
    let typist = if step >= "step03" { "/usr/local/bin/typist".into() } else { program("typist") };
    let (pty, code) = in_a_terminal(place.step(step, &[], &[&typist.display().to_string(), "id"]), "");
    assert!(code < 125, "not tried: {code}");
    let mut unread = 0i32;
    // SAFETY: the kernel writes an int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::FIONREAD, &mut unread) }).expect("FIONREAD");
    unread > 0
}

/// By its input, or else by its output.
fn read_typed(place: &Playground, step: &str) -> bool {
    let script = "read line || read line <&1; [ \"$line\" = typed ] && exit 77; exit 78";
    let (_, code) = in_a_terminal(place.step(step, &[], &["sh", "-c", script]), "typed\n");
    assert!([77, 78].contains(&code), "not tried: {code}");
    code == 77
}

/// In the foreground of a terminal, which nobody else reads. Its exit code.
fn in_a_terminal(run: Run, typed: &str) -> (OpenptyResult, i32) {
    let pty = openpty(None, None).expect("a terminal");
    nix::unistd::write(&pty.master, typed.as_bytes()).expect("keys");
    let end = || Stdio::from(pty.slave.try_clone().expect("dup"));
    let run = run.with(|command| {
        command.stdin(end()).stdout(end()).stderr(Stdio::null());
        let take = || {
            nix::unistd::setsid()?;
            // SAFETY: takes two numbers and touches no memory of ours.
            Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: between fork and exec there are two system calls, which take no lock.
        unsafe { command.pre_exec(take) };
    });
    let code = testing::end_of(&mut run.spawn(), testing::PATIENCE);
    (pty, code)
}

fn read_through_process(place: &Playground, step: &str) -> bool {
    let word = random_word();
    let victim = Victim::new("");
    let file = place.dir.path().join("secret");
    std::fs::write(&file, &word).expect("secret");
    let other = format!("cat /proc/{}/root{}", victim.0.id(), file.display());
    // What it can see anyway: up to step 02, its own first process stands in the host's root, as it does itself.
    let first = if step >= "step03" { format!("cat /proc/1/root{}", file.display()) } else { "true".to_owned() };
    place.sh(step, &format!("{other} || {first}")).out == word
}

fn read_left_open(place: &Playground, step: &str) -> bool {
    let word = random_word();
    let file = place.dir.path().join("secret");
    std::fs::write(&file, &word).expect("secret");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec 9<{}; exec \"$@\"", file.display()), "sh"]).arg(program(step));
    command.args(place.arguments(step, &[], &["sh", "-c", "cat <&9"]));
    place.at_home(&mut command);
    tried(Run::new(command)).out == word
}

/// `escape`, which prints what it has got.
fn escapes(place: &Playground, step: &str, words: &[&str]) -> bool {
    std::fs::write(place.file(step, "tmp/handled").0, "handled").expect("a file");
    let escape = place.program(step, "escape").display().to_string();
    let words: Vec<_> =
        words.iter().map(|word| word.replace("/tmp", &place.file(step, "tmp").1.display().to_string())).collect();
    let command: Vec<_> = [escape.as_str()].into_iter().chain(words.iter().map(String::as_str)).collect();
    tried(place.step(step, &[], &command)).out.starts_with("works")
}

/// The kernel's log, opened for writing, and nothing is written to it.
fn open_node_in_root(place: &Playground, step: &str) -> bool {
    let (outside, inside) = place.file(step, "tmp/log");
    let _ = std::fs::remove_file(&outside);
    make_log(&outside);
    let change = if step >= "step03" { "mount -o remount,bind,dev / 2>/dev/null; " } else { "" };
    let script = format!("{change}true >{}", inside.display());
    tried(place.step(step, Playground::on_the_root(step), &["sh", "-c", &script])).code == 0
}

fn make_log(path: &Path) {
    let made = Command::new("mknod").args(["-m", "666"]).arg(path).args(["c", "1", "11"]).status().expect("mknod");
    assert!(made.success());
}

fn write_read_only_root(place: &Playground, step: &str) -> bool {
    let (outside, inside) = place.file(step, "tmp/written");
    let _ = std::fs::remove_file(&outside);
    let (option, change): (&[&str], _) =
        if step >= "step03" { (&["--read-only"], "mount -o remount,bind,rw /; ") } else { (&[], "") };
    let script = format!("{change}echo x >{}", inside.display());
    tried(place.step(step, &[option, Playground::on_the_root(step)].concat(), &["sh", "-c", &script]));
    outside.exists()
}

fn write_read_only_volume(place: &Playground, step: &str) -> bool {
    let dir = with_volume(place, step, ":ro", "mount -o remount,bind,rw DIR 2>/dev/null; echo x >DIR/written");
    dir.join("written").exists()
}

fn use_setuid(place: &Playground, step: &str) -> bool {
    let (outside, inside) = place.file(step, "tmp/id");
    let owner = place.dir.path().join("rootfs").metadata().expect("root").uid();
    let script = "cp /usr/bin/id \"$0\" && chown \"$1:$1\" \"$0\" && chmod 4755 \"$0\"";
    let made = Command::new("sh").args(["-c", script]).arg(outside).arg(owner.to_string()).status().expect("sh");
    assert!(made.success());
    place.sh(step, &format!("setpriv --reuid 1000 --clear-groups {} -u", inside.display())).out.trim() == "0"
}

fn read_key(place: &Playground, step: &str) -> bool {
    let (name, word) = (random_word(), random_word());
    let escape = place.program(step, "escape").display().to_string();
    let mut command = Command::new(program("escape"));
    command.args(["with-key", &name, &word]).arg(program(step));
    command.args(place.arguments(step, &[], &[&escape, "keys", &name]));
    place.at_home(&mut command);
    tried(Run::new(command)).out.contains(&word)
}

/// That device nodes and setuid programs count where temporary files are.
pub fn counting_files() -> Option<String> {
    let dir = tempfile::tempdir().expect("tempdir");
    let flags = nix::sys::statvfs::statvfs(dir.path()).expect("statvfs").flags();
    use nix::sys::statvfs::FsFlags;
    flags
        .intersects(FsFlags::ST_NODEV | FsFlags::ST_NOSUID)
        .then(|| "needs a TMPDIR that is not mounted nodev or nosuid".to_owned())
}

/// Whether the kernel shows its log to root alone.
fn restricts_log() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/dmesg_restrict").is_ok_and(|text| text.trim() != "0")
}

/// All rows are tried on version 1; those that a cgroup decides on a machine of version 2 alone, too.
fn is_for_here(row: &Row) -> bool {
    if row.what.contains("of version 1") {
        return only(Version::V1).is_none();
    }
    only(Version::V2).is_some() || row.what.contains("cgroup") || row.stopped_by.contains("cgroup")
}

/// Whether limits are the host's alone to write: so systemd mounts version 2. See cgroups(7).
fn has_nsdelegate() -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    only(Version::V2).is_none() && mounts.lines().any(|it| it.contains(" cgroup2 ") && it.contains("nsdelegate"))
}

/// The table as the text has it.
/// How many parts of the table are tried side by side.
pub const PARTS: usize = 4;

/// Whether a row is in this part. What is measured is in none of them: nothing else may run beside it.
fn is_in(part: Option<usize>, number: usize, row: &Row) -> bool {
    let is_measured = row.what == "use a whole processor";
    part.map_or(is_measured, |part| !is_measured && number % PARTS == part)
}

/// A part of the table, as it is found here; `None`: what is measured.
pub fn table(place: &Playground, part: Option<usize>) -> String {
    let mut table = format!(
        "| what a program tries | {} | stopped by |\n| --- |{} --- |\n",
        STEPS.map(|step| &step["step".len()..]).join(" | "),
        " --- |".repeat(STEPS.len())
    );
    let rows = ROWS.iter().enumerate().filter(|(number, row)| is_in(part, *number, row)).map(|(_, row)| row);
    for row in rows.filter(|row| is_for_here(row)) {
        let tried = place.tried(row);
        let mut cells = tried.map(|works| if works { WORKS } else { STOPPED });
        // Where the tree is mounted so, the text's last column says it.
        let is_lifted = row.what.starts_with("the same, with the cgroup tree");
        if is_lifted && has_nsdelegate() && tried[..2] == [true; 2] && !tried[2..].contains(&true) {
            cells[..5].fill(WORKS);
        }
        // And where no upper layer can be, what the text says of the others.
        if row.what == "change the root of another container" && !place.layers.is_empty() {
            cells[7..].fill(STOPPED);
        }
        // And where the kernel allows it to nobody but root.
        if row.what.starts_with("type into") && crate::legacy_tiocsti().is_some() {
            cells[..8].fill(WORKS);
        }
        if row.what.starts_with("read the kernel's log") && !restricts_log() {
            cells[1..].fill(STOPPED);
        }
        // The differences between the two versions: a list of devices, which v2 has not before step 09.
        let both = match row.what {
            what if what.starts_with("open a device of the host's") => 2..3,
            what if what.starts_with("open a device node") => 2..5,
            _ => 0..0,
        };
        if tried[both.clone()].iter().all(|works| *works == only(Version::V1).is_some()) {
            cells[both].fill(WORKS_ON_V2);
        }
        table += &format!("| {} | {} | {} |\n", row.what, cells.join(" | "), row.stopped_by);
    }
    table
}
