//! What hardly anybody does, until somebody does it.

use std::fs::{File, create_dir, read_dir, write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::states::{STATES, Status};
use nix::fcntl::{OFlag, openat};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, mkdirat, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use testing::{program, wait_until};

use crate::home::{self, Home};

pub fn dry_runs() {
    let commands: [&[&str]; 11] = [
        &["start", "it"],
        &["start", "-a", "it"],
        &["exec", "it", "true"],
        &["pause", "it"],
        &["unpause", "it"],
        &["kill", "it"],
        &["stop", "-t", "0", "it"],
        &["rm", "it"],
        &["rm", "-f", "it"],
        &["clean"],
        &["clean", "--all"],
    ];
    for status in STATES.into_iter().filter(|it| *it != Status::Paused || cgroups::may_make_groups()) {
        let home = Home::new();
        let _paused = home::in_state(&home, "it", status);
        let look = || (home.json("it"), testing::groups_of_steps());
        let before = look();
        for command in commands {
            let ran = home.step(&[&["--dry-run"], command].concat()).ran();
            assert!(ran.code == 0 || ran.code == 125, "{command:?} in {status}: {ran:?}");
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(look(), before, "dry {command:?} in {status}: {}", ran.err);
        }
    }
}

/// More than the log keeps: a reader that is too far behind loses lines, and says so; what it shows is in order.
pub fn long_output() {
    let home = Home::new();
    home.ok(&["create", "--name", "long", "seq", "1", "400000"]);
    let ran = home.step(&["-q", "start", "-a", "long"]).ran();
    let (mut last, mut count) = (0, 0);
    for line in ran.out.lines() {
        let number: u32 = line.parse().expect("a number");
        assert!(number > last, "{number} after {last}");
        (last, count) = (number, count + 1);
    }
    assert_eq!((last, ran.code), (400_000, 0));
    assert!(count == 400_000 || ran.err.contains("some lines may be missing"), "{count}: {}", ran.err);
    home.ok(&["start", "long"]);
    home.ok(&["wait", "long"]);
    assert_eq!(home.files(&home.id("long"), "log.").len(), 2);
}

/// A line that is split has one time.
pub fn stamps() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sh", "-c", "head -c 50000 /dev/zero | tr '\\0' x; echo; echo next"]);
    home.ok(&["wait", &id]);
    let text = home.ok(&["logs", "-t", &id]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].ends_with(&format!("Z {}", "x".repeat(50_000))) && lines[1].ends_with("Z next"));
}

pub fn endless_output() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "--namespaces", "user,mount", "sh", "-c", "yes & sleep 0.2; exit 4"]);
    wait_until("it is seen to have ended", || !home::alive(home.init(&id)));
    home.ok(&["wait", &id]);
    assert_eq!(home.json(&id)["end"]["code"], 4);
    let id = home.ok(&["run", "-d", "sh", "-c", "yes & yes >&2"]);
    std::thread::sleep(Duration::from_millis(200));
    home.ok(&["stop", "-t", "0", &id]);
    assert_eq!(home.status(&id), "stopped");
}

pub fn nested_groups() {
    let home = Home::new();
    // Whichever of these there is.
    let script = "mkdir -p /tmp/c; mount -t cgroup2 none /tmp/c || mount -t cgroup -o pids none /tmp/c; \
        mkdir -p /tmp/c/sub/sub; sleep 1000 & echo $! >/tmp/c/sub/sub/cgroup.procs; echo made; \
        while test ! -e /tmp/seen; do sleep 0.05; done; exit 5";
    let id = home.ok(&["run", "-d", "sh", "-c", script]);
    wait_until("it has made one", || home.ok(&["logs", &id]).ends_with("made"));
    assert!(testing::groups_of_steps().iter().any(|group| group.contains(&id)));
    home.ok(&["exec", &id, "touch", "/tmp/seen"]);
    assert_eq!(home.ok(&["wait", &id]), "5");
    home.ok(&["run", "--rm", "rm", "/tmp/seen"]);
    assert_eq!(home.json(&id)["end"]["error"], serde_json::Value::Null);
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());

    // So deep that no path leads there, and that nobody may have as many files open.
    let id = home.ok(&["create", "true"]);
    let group = testing::groups_of_steps().into_iter().find(|group| group.contains(&id)).expect("a group");
    let mut dir = File::open(group).expect("a group");
    let name = "d".repeat(60);
    for _ in 0..100 {
        mkdirat(&dir, &name[..], Mode::from_bits_truncate(0o755)).expect("mkdir");
        dir = openat(&dir, &name[..], OFlag::O_DIRECTORY, Mode::empty()).expect("open").into();
    }
    let mut rm = Command::new("sh");
    rm.args(["-c", "ulimit -n 50; exec \"$0\" -q rm \"$1\""]).arg(program("step04")).arg(&id);
    rm.env("XDG_RUNTIME_DIR", home.path());
    assert_eq!(testing::Run::new(rm).ran().code, 0);
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
}

/// Frozen, a process of version 1 does not die of SIGKILL. Its engine is asked to end; its monitor is gone; or it was frozen
/// where only those inside have made a group.
pub fn frozen() {
    let home = Home::new();
    let mut engine = home.step(&["-q", "run", "--name", "it", "sleep", "1000"]).spawn();
    wait_until("it runs", || home.all().contains("running"));
    home.ok(&["pause", "it"]);
    kill(Pid::from_raw(engine.id() as i32), Signal::SIGTERM).expect("kill");
    assert_eq!(testing::end_of(&mut engine, testing::PATIENCE), 143);
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());

    let id = home.ok(&["run", "-d", "sleep", "1000"]);
    home.ok(&["pause", &id]);
    kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
    wait_until("it is dead", || home.status(&id) == "dead");
    home.ok(&["rm", &id]);
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());

    let id = home.ok(&["run", "-d", "sleep", "1000"]);
    let init = home.init(&id).to_string();
    let groups: Vec<_> = testing::groups_of_steps().into_iter().filter(|group| group.contains(&id)).collect();
    let of_freezer = |file: &str| groups.iter().find(|group| Path::new(group).join(file).exists());
    let (file, word) =
        if of_freezer("freezer.state").is_some() { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    let inner = Path::new(of_freezer(file).expect("a freezer")).join("inner");
    create_dir(&inner).expect("a group below");
    write(inner.join("cgroup.procs"), init).expect("it is put in");
    write(inner.join(file), word).expect("it is frozen");
    home.ok(&["rm", "-f", &id]);
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
}

/// Killed while it is frozen, as by a `stop` that was killed half way, the child lives on: but nobody looks after it.
pub fn frozen_child() {
    let home = Home::new();
    let id = home.ok(&["create", "sleep", "1000"]);
    let groups: Vec<_> = testing::groups_of_steps().into_iter().filter(|group| group.contains(&id)).collect();
    let freezers = [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")].into_iter();
    let mut freezers = freezers.flat_map(|(file, word)| groups.iter().map(move |it| (Path::new(it).join(file), word)));
    let (file, word) = freezers.find(|(file, _)| file.exists()).expect("a freezer");
    write(file, word).expect("it is frozen");
    kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
    let since = Instant::now();
    while home.status(&id) != "dead" {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", home.status(&id));
        std::thread::sleep(Duration::from_millis(20));
    }
    home.ok(&["clean"]);
    assert_eq!(home.all(), "");
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
}

/// A threaded group does not say which processes are in it: reading its `cgroup.procs` is EOPNOTSUPP.
pub fn threaded() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "--namespaces", "user,mount", "sleep", "1000"]);
    let groups = testing::groups_of_steps();
    let is_v2 = |group: &&String| group.contains(&id) && Path::new(group).join("cgroup.type").exists();
    let inner = Path::new(groups.iter().find(is_v2).expect("a group of v2")).join("inner");
    create_dir(&inner).expect("a group below");
    write(inner.join("cgroup.type"), "threaded").expect("it is threaded");
    let mut sleep = Command::new("sleep").arg("1000").spawn().expect("sleep");
    write(inner.parent().expect("a group").join("cgroup.procs"), sleep.id().to_string()).expect("it is put in");
    write(inner.join("cgroup.threads"), sleep.id().to_string()).expect("and further in");
    home.ok(&["rm", "-f", &id]);
    assert!(testing::end_of(&mut sleep, Duration::from_secs(10)) == 137);
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
}

pub fn cut_log() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "echo", "whole"]);
    home.ok(&["wait", &id]);
    let log = &home.files(&id, "log.")[0];
    // In the middle of a character.
    let cut = [std::fs::read(log).expect("log"), b"{\"log\":\"caf\xc3".to_vec()].concat();
    write(log, cut).expect("log");
    assert_eq!(home.ok(&["logs", &id]), "whole");
}

/// Ends a command with SIGTERM while it waits for Enter.
fn end_in_pause(home: &Home, arguments: &[&str]) {
    let mut step = home.narrated(arguments).with(|command| _ = command.stdin(Stdio::piped())).spawn();
    let printed = testing::collect(step.stderr.take().expect("piped"));
    while !printed.recv_timeout(testing::PATIENCE).expect("a pause").starts_with("[Enter]") {}
    kill(Pid::from_raw(step.id() as i32), Signal::SIGTERM).expect("kill");
    assert_eq!(testing::end_of(&mut step, testing::PATIENCE), 143, "{arguments:?}");
}

pub fn paused_exec() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sleep", "1000"]);
    end_in_pause(&home, &["--pause=setns", "exec", &id, "true"]);
}

/// At setns, where strace kills it; and at the first word to its host, when there is a child that holds the line as well.
pub fn killed_helper() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sleep", "1000"]);
    // A pid namespace does not end before somebody has waited for such a child, and who it goes to may not.
    set_child_subreaper(true).expect("prctl");
    for call in ["setns", "sendto"] {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("inject={call}:signal=KILL")]).arg(program("step04"));
        strace.args(["-q", "exec", &id, "true"]).env("XDG_RUNTIME_DIR", home.path());
        let ran = testing::Run::new(strace).ran();
        assert!(ran.code == 125 && ran.err.contains("the helper was killed"), "{call}: {ran:?}");
        assert_eq!(home.status(&id), "running");
    }
    let reaped = || waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|it| it != WaitStatus::StillAlive);
    testing::wait_until("its child has ended, too", reaped);
}

/// Before it has a monitor, and before that has heard of it.
pub fn interrupted_start() {
    let home = Home::new();
    home.ok(&["run", "-d", "--name", "it", "sh", "-c", "exit 3"]);
    home.ok(&["wait", "it"]);
    end_in_pause(&home, &["--pause=fork", "start", "it"]);
    assert_eq!(home.status("it"), "stopped");
    end_in_pause(&home, &["--pause=fork", "run", "-d", "--name", "never", "true"]);
    end_in_pause(&home, &["--pause=connect", "run", "-d", "--rm", "--name", "gone", "sleep", "1000"]);
    assert_eq!(home.all().lines().count(), 1);
    home.ok(&["start", "it"]);
    assert_eq!(home.ok(&["wait", "it"]), "3");
}

/// Where nothing could be left undone: what was asked for first is done, and no more.
pub fn interrupted_list() {
    let home = Home::new();
    for name in ["a", "b"] {
        home.ok(&["run", "--name", name, "true"]);
    }
    end_in_pause(&home, &["--pause=rename", "rm", "a", "b"]);
    let left = home.all();
    assert!(left.lines().count() == 1 && left.contains("\"b\""), "{left}");
}

pub fn endless_logs() {
    let home = Home::new();
    home.ok(&["run", "-d", "--name", "yes", "yes"]);
    for way in [&["logs", "-f", "yes"][..], &["start", "-a", "yes"]] {
        let mut logs = home.step(&[&["-q"], way].concat()).spawn();
        let printed = testing::collect(logs.stdout.take().expect("piped"));
        for _ in 0..1000 {
            assert_eq!(printed.recv_timeout(testing::PATIENCE).as_deref(), Ok("y\n"));
        }
        std::thread::spawn(move || printed.iter().for_each(drop));
        kill(Pid::from_raw(logs.id() as i32), Signal::SIGINT).expect("kill");
        // To `start -a` the signal is the program's, which does not listen.
        assert_eq!((way, testing::end_of(&mut logs, testing::PATIENCE)), (way, 130));
    }
}

pub fn log_of_a_second_life() {
    let home = Home::new();
    home.ok(&["run", "--name", "it", "echo", "hello"]);
    assert_eq!(home.ok(&["start", "-a", "it"]), "hello");
    assert_eq!(home.ok(&["logs", "it"]), "hello");
}

pub fn full_disk() {
    let home = Home::new();
    // In a mount namespace of its own, so that nobody else has this disk.
    let script = "mount -t tmpfs -o size=600k none $XDG_RUNTIME_DIR || exit 99
        id=$(step04 run -d --rootfs $ROOT sh -c 'seq 1 200000; exit 3') || exit 98
        step04 wait $id; step04 inspect $id; step04 rm $id; step04 clean; ls $XDG_RUNTIME_DIR";
    let mut shell = Command::new("unshare");
    let step04 = format!("step04() {{ {} -q \"$@\"; }}; ", program("step04").display());
    shell.args(["--mount", "sh", "-c", &format!("{step04}{script}")]);
    shell.env("XDG_RUNTIME_DIR", home.path()).env("ROOT", home::rootfs());
    let ran = testing::Run::new(shell).ran();
    assert_eq!(ran.out.lines().next(), Some("3"), "{ran:?}");
    assert!(ran.out.contains("lines of the log are lost"), "{ran:?}");
    assert!(ran.err.is_empty(), "{ran:?}");
}

pub fn broken_directory() {
    let home = Home::new();
    let good = home.ok(&["create", "true"]);
    let broken: [(&str, &[u8]); 6] = [
        ("config.json", b"{"),
        ("config.json", b""),
        ("state.json", b"x"),
        ("exit", b"{{"),
        ("exit", b"\xff\xfe"),
        ("log.18446744073709551615", b""),
    ];
    for (file, text) in broken {
        let bad = home.ok(&["run", "-d", "sleep", "100"]);
        kill(home.monitor(&bad), Signal::SIGKILL).expect("kill");
        wait_until("it is dead", || home.status(&bad) == "dead");
        write(home.directory(&bad).join(file), text).expect("broken");
        let ran = home.step(&["ps", "-a"]).ran();
        assert!(ran.out.contains(&good), "{file}: {ran:?}");
        assert!(file != "config.json" || (ran.code == 125 && ran.err.contains(&bad)), "{file}: {ran:?}");
        home.ok(&["clean"]);
        assert!(!home.directory(&bad).exists(), "{file}");
        let groups = testing::groups_of_steps();
        assert!(groups.iter().all(|group| !group.contains(&bad)), "{file}: {groups:?}");
        assert_eq!(home.status(&good), "created");
    }
    // One with nothing in it.
    create_dir(home.directory("aaaaaaaaaaaa")).expect("mkdir");
    home.ok(&["clean"]);
    assert!(!home.directory("aaaaaaaaaaaa").exists());
}

/// As the shell's `ulimit` makes them: too few descriptors to ask with, and no file that may grow.
pub fn few_resources() {
    let home = Home::new();
    let shell = |limit: String, words: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit}; exec \"$0\" -q {words}")]).arg(program("step04"));
        shell.env("XDG_RUNTIME_DIR", home.path()).env("ROOT", home::rootfs());
        testing::Run::new(shell).ran()
    };
    let root = home::rootfs().display().to_string();
    let victim = testing::step("step03", ["--rootfs", &root, "sh", "-c", "echo ready; cat"]).until_ready();
    let id = home.ok(&["run", "-d", "sleep", "1000"]);
    for files in 3..16 {
        let ran = shell(format!("-n {files}"), "clean");
        assert!([0, 125, 127].contains(&ran.code), "{files} descriptors: {ran:?}");
        assert_eq!(home.status(&id), "running", "{files} descriptors: {ran:?}");
    }
    assert_eq!(victim.end().code, 0);
    home.ok(&["rm", "-f", &id]);

    let ran = shell("-f 0".to_owned(), "run --rm --rootfs \"$ROOT\" true");
    assert!(ran.code == 125 && ran.err.contains("EFBIG"), "{ran:?}");
}

pub fn callers() {
    let home = Home::new();
    for mask in [0o777, 0] {
        let ran = home.step(&["-q", "run", "--rm", "echo", "hi"]).with(|command| {
            let set = move || {
                umask(Mode::from_bits_truncate(mask));
                Ok(())
            };
            // SAFETY: umask(2) is one system call, and takes no lock.
            unsafe { command.pre_exec(set) };
        });
        let ran = ran.ran();
        assert_eq!((ran.code, ran.out.as_str()), (0, "hi\n"), "umask {mask:o}: {}", ran.err);
    }
    // A path longer than a socket's address may be.
    let long = home.path().join("x".repeat(200));
    create_dir(&long).expect("mkdir");
    let long_home = |arguments: &[&str]| {
        home.step(arguments).with(|command| {
            command.env("XDG_RUNTIME_DIR", &long);
        })
    };
    let ran = long_home(&["-q", "create", "--rm", "echo", "hi"]).ran();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(long_home(&["-q", "start", "-a", ran.out.trim()]).ran().out, "hi\n");
    wait_until("it is removed", || long_home(&["-q", "ps", "-aq"]).ran().out.is_empty());
    // Nothing to read from, nothing to write to.
    let mut shell = Command::new("sh");
    let command = format!("{} -q run -d --rootfs {} true", program("step04").display(), home::rootfs().display());
    shell.args(["-c", &format!("{command} <&- >&- 2>&-")]).env("XDG_RUNTIME_DIR", home.path());
    assert_eq!(testing::Run::new(shell).ran().code, 0);
    wait_until("it has ended", || home.all().contains("stopped"));
}

/// As if the caller had no rights over its mounts, and the kernel held a page of the copy that is to be sealed: strace
/// answers EPERM and EBUSY in their place.
pub fn busy_copy() {
    let home = Home::new();
    let run = |busy: &str| {
        let mut strace = Command::new("strace");
        // The first fcntl of the engine asks whether it is a copy already, the second seals one.
        strace.args(["-o", "/dev/null", "-e", &format!("inject=fcntl:error=EBUSY:when={busy}")]);
        strace.args(["-e", "inject=open_tree:error=EPERM"]);
        strace.arg(program("step04")).args(["-q", "run", "--rm", "--rootfs"]).arg(home::rootfs()).args(["echo", "hi"]);
        strace.env("XDG_RUNTIME_DIR", home.path());
        testing::Run::new(strace).ran()
    };
    let patient = run("2..4");
    assert_eq!((patient.code, patient.out.as_str()), (0, "hi\n"), "{}", patient.err);
    let given_up = run("2+");
    assert_eq!((given_up.code, given_up.out.as_str()), (125, ""), "{}", given_up.err);
    assert!(given_up.err.contains("EBUSY") && home.all().is_empty(), "{}", given_up.err);
}

/// As on a file system that cannot: strace answers ENOLCK where a lock that was taken is to be released.
pub fn stubborn_lock() {
    let home = Home::new();
    home.ok(&["run", "true"]);
    let mut strace = Command::new("strace");
    strace.args(["-o", "/dev/null", "-e", "inject=flock:error=ENOLCK:when=2+"]);
    strace.arg(program("step04")).args(["-q", "ps", "-a"]).env("XDG_RUNTIME_DIR", home.path());
    let ran = testing::Run::new(strace).ran();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

/// Read twice, a file could be gone the second time, as that of a container with `--rm`: stopped, and without an exit code.
pub fn one_moment() {
    let home = Home::new();
    home.ok(&["run", "--name", "it", "true"]);
    for format in ["table", "json"] {
        let trace = home.path().join("trace");
        let mut strace = Command::new("strace");
        strace.args(["-e", "openat", "-o"]).arg(&trace).arg(program("step04")).args(["ps", "-a", "--format", format]);
        strace.env("XDG_RUNTIME_DIR", home.path());
        assert!(testing::Run::new(strace).ran().out.contains("it"));
        let opened = std::fs::read_to_string(trace).expect("trace");
        let count = |file: &str| opened.matches(&format!("/{file}\"")).count();
        assert_eq!(["config.json", "state.json", "exit"].map(count), [1, 1, 1], "{format}");
    }
}

pub fn full_output() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "echo", "x"]);
    home.ok(&["wait", &id]);
    let ps = ["ps", "-a"];
    let json = ["ps", "-a", "--format", "json"];
    for arguments in [&ps[..], &["-q", "ps", "-a"], &json, &["inspect", &id], &["wait", &id], &["logs", &id]] {
        let ran = home.step(arguments).with(|command| {
            command.stdout(std::fs::File::options().write(true).open("/dev/full").expect("/dev/full"));
        });
        let ran = ran.ran();
        assert!(
            ran.code == 125 && ran.err.contains("ENOSPC") && !ran.err.contains("panicked"),
            "{arguments:?}: {ran:?}"
        );
    }
    // A reader who has seen enough, before there is anything.
    let (reader, writer) = nix::unistd::pipe().expect("pipe");
    drop(reader);
    let ran = home.step(&["logs", &id]).with(|command| _ = command.stdout(writer)).ran();
    assert_eq!((ran.code, ran.err.as_str()), (128 + Signal::SIGPIPE as i32, ""));
}

/// The empty store is removed by the last one to leave it: no look at it may count on the look before.
pub fn fleeting_store() {
    let home = Home::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // Fails while an engine is at work in it.
                let _ = std::fs::DirBuilder::new().mode(0o700).create(home.store());
                let _ = std::fs::remove_dir(home.store());
            }
        });
        let since = Instant::now();
        let looks = ["ps", "clean"].into_iter().cycle().take_while(|_| since.elapsed() < Duration::from_secs(1));
        let ended: Vec<_> = looks.map(|verb| home.step(&["-q", verb]).ran()).collect();
        is_over.store(true, Ordering::Relaxed);
        for ran in ended {
            assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        }
    });
}

/// The second one gets a sentence; nobody hangs, and nothing is left.
pub fn many_at_once() {
    let home = Home::new();
    let commands: [&[&str]; 11] = [
        &["run", "-d", "--name", "one", "sleep", "0.05"],
        &["create", "--name", "one", "sh", "-c", "exit 3"],
        &["start", "one"],
        &["start", "-a", "one"],
        &["exec", "one", "true"],
        &["stop", "-t", "0", "one"],
        &["kill", "one"],
        &["rm", "one"],
        &["rm", "-f", "one"],
        &["ps", "-a"],
        &["clean"],
    ];
    let since = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let home = &home;
            scope.spawn(move || {
                let mut turn = worker * 5;
                while since.elapsed() < Duration::from_secs(4) {
                    turn += usize::from(testing::random_word().as_bytes()[0]);
                    let command = commands[turn % commands.len()];
                    let began = Instant::now();
                    let ran = home.step(&[&["-q"], command].concat()).ran();
                    assert!([0, 3, 125, 137].contains(&ran.code), "{command:?}: {ran:?}");
                    // Of two at once, the one that gets more than "no" reads which was faster.
                    let is_said = ran.err.contains("any more: another engine") || ran.err.contains("has just");
                    for errno in ["ENOENT", "ECONN", "ESRCH", "EBADF", "panicked"] {
                        assert!(is_said || !ran.err.contains(errno), "{command:?}: {ran:?}");
                    }
                    let took = began.elapsed();
                    assert!(took < testing::PATIENCE, "{command:?} takes {took:?}: {ran:?}");
                }
            });
        }
    });
    assert!(read_dir(home.path()).expect("home").count() <= 2, "the store, and the place for data");
}
