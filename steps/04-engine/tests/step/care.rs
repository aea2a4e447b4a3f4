//! The cares of the engine: a record that is damaged or exchanged, an `exec` that is stopped, signals, secrets.

use std::fs::{File, create_dir, remove_dir, set_permissions, write};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{proc, random_word, wait_until};

use crate::home::{Home, alive};

/// Others could rename it, and put one of theirs into its place.
pub fn exchanged_store() {
    let home = Home::new();
    let open = home.path().join("open");
    create_dir(&open).expect("mkdir");
    let store = open.join("step04");
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&store).expect("mkdir");
    let ps = |mode: u32| {
        set_permissions(&open, PermissionsExt::from_mode(mode)).expect("chmod");
        home.step(&["-q", "ps"]).with(|command| _ = command.env("XDG_RUNTIME_DIR", &open)).ran()
    };
    assert_eq!(ps(0o755).code, 0);
    assert_eq!(ps(0o1777).code, 0, "as /tmp is");
    let ran = ps(0o777);
    assert!(ran.code == 125 && ran.err.contains("alone can look into"), "{ran:?}");
    // And where nobody may make one, it is not tried for ever.
    if testing::needs::root().is_none() {
        let ran = home.step(&["create", "true"]).with(|command| _ = command.env("XDG_RUNTIME_DIR", "/proc")).ran();
        assert!(ran.code == 125 && ran.err.contains("mkdir /proc/step04: ENOENT"), "{ran:?}");
    }
}

type Damage = fn(&Path);

/// A FIFO, a directory, a huge file: `ps` and `clean` go on, and `rm -f` removes it.
pub fn damaged() {
    let home = Home::new();
    let good = home.ok(&["create", "true"]);
    let damages: [(&str, Damage); 5] = [
        ("config.json", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo")),
        ("state.json", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo")),
        ("exit", |path| create_dir(path).expect("mkdir")),
        ("config.json", |path| std::fs::File::create(path).and_then(|file| file.set_len(1 << 40)).expect("huge")),
        ("state.json", |_| {}),
    ];
    for verb in [&["rm", "-f"][..], &["clean"]] {
        for (file, damage) in &damages {
            let bad = home.ok(&["run", "-d", "sleep", "100"]);
            let init = home.init(&bad);
            if verb == ["clean"] {
                kill(home.monitor(&bad), Signal::SIGKILL).expect("kill");
                wait_until("it is dead", || home.status(&bad) == "dead");
            }
            let path = home.directory(&bad).join(file);
            std::fs::remove_file(&path).expect("rm");
            damage(&path);
            assert!(home.step(&["ps", "-a"]).ran().out.contains(&good), "{file}");
            match verb {
                ["clean"] => home.ok(verb),
                _ => home.ok(&[verb, &[&bad]].concat()),
            };
            assert!(!home.directory(&bad).exists(), "{verb:?} {file}");
            wait_until("its process has ended", || !alive(init));
            assert_eq!(home.status(&good), "created");
        }
    }
}

/// What is recorded can be damaged: a group that is not the container's is neither frozen nor emptied.
pub fn forged_groups() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sleep", "100"]);
    let state = home.directory(&id).join("state.json");
    let text = std::fs::read_to_string(&state).expect("state");
    let groups = home.json(&id)["state"]["groups"].clone();
    let own = groups[0]["path"].as_str().expect("a path");
    let other = Path::new(own).with_file_name("another");
    create_dir(&other).expect("mkdir");
    let mut victim = Command::new("sleep").arg("100").spawn().expect("sleep");
    write(other.join("cgroup.procs"), victim.id().to_string()).expect("it is put in");
    write(&state, text.replace(own, &other.display().to_string())).expect("state");
    let _ = home.step(&["-q", "pause", &id]).ran();
    let _ = home.step(&["-q", "unpause", &id]).ran();
    home.ok(&["rm", "-f", &id]);
    assert!(alive(Pid::from_raw(victim.id() as i32)));
    victim.kill().expect("kill");
    victim.wait().expect("wait");
    wait_until("nobody is in there", || remove_dir(&other).is_ok());
    let _ = remove_dir(own);
    home.ok(&["clean"]);
}

fn ends_with(home: &Home, id: &str, here: &str) {
    let since = std::time::Instant::now();
    home.ok(&["stop", "-t", "0", id]);
    assert!(since.elapsed() < Duration::from_secs(30), "{here}");
    assert_eq!(home.status(id), "stopped");
}

/// As Ctrl-Z does, to the whole foreground; and one that waits for Enter with its child at the gate.
pub fn stopped_exec() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sleep", "100"]);
    let live = home.step(&["-q", "exec", &id, "sh", "-c", "echo ready; cat"]).until_ready();
    kill(live.step(), Signal::SIGSTOP).expect("kill");
    wait_until("it has stopped", || proc(live.step(), "stat").contains(") T "));
    ends_with(&home, &id, "a stopped exec");
    kill(live.step(), Signal::SIGCONT).expect("kill");
    assert_eq!(live.ended().code, 137);

    home.ok(&["start", &id]);
    let pausing = home.step(&["--pause=echo,umask", "exec", &id, "true"]).with(|command| {
        command.stdin(Stdio::piped());
    });
    let mut child = pausing.spawn();
    let lines = testing::collect(child.stderr.take().expect("piped"));
    while !lines.recv_timeout(testing::PATIENCE).expect("a pause").starts_with("[Enter]") {}
    ends_with(&home, &id, "an exec at a pause");
    drop(child.stdin.take());
    assert_ne!(testing::end_of(&mut child, testing::PATIENCE), 0);
}

/// Its child is nobody's whom PID 1 would wait for: here that is this test, which waits for nobody.
pub fn killed_exec() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sleep", "100"]);
    let live = home.step(&["-q", "exec", &id, "sh", "-c", "echo ready; cat"]).until_ready();
    let helper = testing::child_of(live.step()).expect("a helper");
    let guest = testing::child_of(helper).expect("a guest");
    kill(live.step(), Signal::SIGKILL).expect("kill");
    wait_until("what it has brought in has ended", || !alive(guest));
    ends_with(&home, &id, "a killed exec");
    live.ended();
}

pub fn real_time_signals() {
    let home = Home::new();
    // No shell here knows their names: its number is 34 and more for each C library.
    let number = libc::SIGRTMIN() + 2;
    for name in [number.to_string(), "RTMIN+2".to_owned(), "SIGRTMIN+2".to_owned()] {
        let script = format!("trap 'echo got it' {number}; echo ready; while :; do sleep 0.05; done");
        let id = home.ok(&["run", "-d", "sh", "-c", &script]);
        wait_until("it listens", || home.ok(&["logs", &id]) == "ready");
        home.ok(&["kill", "-s", &name, &id]);
        wait_until("it has got it", || home.ok(&["logs", &id]) == "ready\ngot it");
        home.ok(&["rm", "-f", &id]);
    }
    home.refuses(&["kill", "-s", "RTMAX+1", "it"], "no signal");
    home.refuses(&["kill", "-s", "65", "it"], "no signal");
}

/// A command line can be read by every user, for as long as the process lives.
pub fn secrets() {
    let home = Home::new();
    let secret = random_word();
    let id = home.ok(&["run", "-d", "-e", &format!("PASSWORD={secret}"), "sh", "-c", "echo $PASSWORD; exec sleep 100"]);
    wait_until("it has it", || home.ok(&["logs", &id]) == secret);
    assert!(!proc(home.monitor(&id), "cmdline").contains(&secret));
    assert!(proc(home.monitor(&id), "cmdline").starts_with("step04\0run\0"), "and what it is can be seen");
    assert!(!proc(home.init(&id), "cmdline").contains(&secret));
}

/// Blocked in write(2), as what reads the pipe does nothing.
pub fn deaf_logs() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sh", "-c", "yes | head -c 1000000"]);
    home.ok(&["wait", &id]);
    let mut logs = home.step(&["-q", "logs", &id]).spawn();
    let _unread = until_full(&mut logs);
    kill(Pid::from_raw(logs.id() as i32), Signal::SIGINT).expect("kill");
    assert_eq!(testing::end_of(&mut logs, testing::PATIENCE), 130);
}

/// The same; and the key is the program's, if that listens.
pub fn deaf_start() {
    let home = Home::new();
    let yes = home.ok(&["create", "yes"]);
    let mut start = home.step(&["-q", "start", "-a", &yes]).spawn();
    let _unread = until_full(&mut start);
    kill(Pid::from_raw(start.id() as i32), Signal::SIGINT).expect("kill");
    assert_eq!(testing::end_of(&mut start, testing::PATIENCE), 130);

    let listens = "trap 'exit 7' INT; yes | head -c 1000000; while :; do sleep 0.05; done";
    let id = home.ok(&["create", "sh", "-c", listens]);
    let mut start = home.step(&["-q", "start", "-a", &id]).spawn();
    let _unread = until_full(&mut start);
    kill(Pid::from_raw(start.id() as i32), Signal::SIGINT).expect("kill");
    assert_eq!(home.ok(&["wait", &id]), "7");
    assert!(start.try_wait().expect("wait").is_none(), "it has more to show");
    kill(Pid::from_raw(start.id() as i32), Signal::SIGINT).expect("kill");
    assert_eq!(testing::end_of(&mut start, testing::PATIENCE), 130);
}

/// Both have connected before the monitor looks: one is answered, and the other one does not wait for the program's end.
pub fn two_starts() {
    let home = Home::new();
    let id = home.ok(&["create", "sleep", "100"]);
    let monitor = home.monitor(&id);
    kill(monitor, Signal::SIGSTOP).expect("kill");
    wait_until("it has stopped", || proc(monitor, "stat").contains(") T "));
    let connect = || UnixStream::connect(home.directory(&id).join("start")).expect("connect");
    let mut starts = [connect(), connect()];
    kill(monitor, Signal::SIGCONT).expect("kill");
    let answers = starts.each_mut().map(|start| {
        start.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        start.read(&mut [0; 1]).map_err(|error| error.kind())
    });
    assert!(matches!(answers, [Ok(1), Ok(0) | Err(ErrorKind::ConnectionReset)]), "{answers:?}");
}

/// Waits until the pipe that it writes to is full; its unread end.
fn until_full(writer: &mut Child) -> ChildStdout {
    let unread = writer.stdout.take().expect("piped");
    let path = format!("/proc/self/fd/{}", unread.as_raw_fd());
    let other = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).expect("the pipe's other end");
    // Not writable is full. See poll(2).
    let is_full = || poll(&mut [PollFd::new(other.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO).expect("poll") == 0;
    wait_until("it writes to a full pipe", is_full);
    unread
}

/// On v2 a group that passes controllers on has no processes of its own: PID 1 is in a group below it, and so is a guest.
pub fn guest_of_a_moved_init() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "--memory", "100M", "sleep", "100"]);
    let init = home.init(&id);
    let groups = testing::groups_of_steps();
    let group = Path::new(groups.iter().find(|group| group.contains(&id)).expect("a group"));
    let inner = group.join("inner");
    create_dir(&inner).expect("mkdir");
    write(inner.join("cgroup.procs"), init.to_string()).expect("it is put in");
    write(group.join("cgroup.subtree_control"), "+memory").expect("the controller is passed on");
    let live = home.step(&["-q", "exec", &id, "sh", "-c", "echo ready; cat"]).until_ready();
    let helper = testing::child_of(live.step()).expect("a helper");
    let guest = testing::child_of(helper).expect("a guest");
    assert!(proc(init, "cgroup").contains("/inner\n"));
    assert_eq!(proc(guest, "cgroup"), proc(init, "cgroup"));
    assert_eq!(live.end().code, 0);
    // Not where somebody has put PID 1 elsewhere.
    let elsewhere = group.with_file_name("elsewhere");
    create_dir(&elsewhere).expect("mkdir");
    write(elsewhere.join("cgroup.procs"), init.to_string()).expect("it is put in");
    home.refuses(&["exec", &id, "true"], "EBUSY");
    home.ok(&["rm", "-f", &id]);
    wait_until("nobody is in there", || remove_dir(&elsewhere).is_ok());
}

/// A caller that may use fewer CPUs than the container, as by taskset(1), has that narrowed for no process in it.
pub fn guests_cpus() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "--cpuset-cpus", "0-1", "sleep", "100"]);
    let mut one = CpuSet::new();
    one.set(0).and_then(|()| sched_setaffinity(Pid::this(), &one)).expect("affinity");
    let live = home.step(&["-q", "exec", &id, "sh", "-c", "echo ready; cat"]).until_ready();
    let helper = testing::child_of(live.step()).expect("a helper");
    let guest = testing::child_of(helper).expect("a guest");
    let cpus = |pid| proc(pid, "status").lines().find(|line| line.starts_with("Cpus_allowed_list")).map(str::to_owned);
    assert_eq!(cpus(guest).as_deref(), Some("Cpus_allowed_list:\t0-1"));
    assert_eq!(cpus(guest), cpus(home.init(&id)));
    assert_eq!(live.end().code, 0);
}

/// As at logout: no command can find what runs there, so it ends; and what would outlive it goes, too.
pub fn vanished_store() {
    let home = Home::new();
    let ids = [home.ok(&["run", "-d", "sleep", "1000"]), home.ok(&["create", "sleep", "1000"])];
    let all: Vec<_> = ids.iter().flat_map(|id| [home.init(id), home.monitor(id)]).collect();
    if cgroups::may_make_groups() {
        home.ok(&["pause", &ids[0]]);
    }
    std::fs::remove_dir_all(home.store()).expect("rm");
    wait_until("nothing runs on", || !all.iter().any(|pid| alive(*pid)));
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
}

/// A shell in which `/run` and `/var/lib` are its own, with a directory for the sessions of root and of another user, who is
/// `nobody`; `as_user` is that one.
fn in_sessions(script: &str) -> testing::Ran {
    let mut shell = Command::new("unshare");
    // The root may itself lie below /run, which is covered last.
    let run = "set -e; mount -t tmpfs none /mnt; mkdir /mnt/rootfs /mnt/user; mount --bind $ROOT /mnt/rootfs
        mount --no-mtab --move /mnt /run; mount -t tmpfs none /var/lib
        chmod 755 /run; mkdir -m 700 /run/user/0 /run/user/65534; chown 65534:65534 /run/user/65534
        unset TMPDIR XDG_RUNTIME_DIR
        as_user() { XDG_RUNTIME_DIR=/run/user/65534 setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; }; ";
    shell.args(["--mount", "sh", "-c", &format!("{run}{script}")]);
    shell.env("ROOT", crate::home::rootfs()).env("STEP04", testing::program("step04"));
    testing::Run::new(shell).ran()
}

/// A login session of root's names a directory that goes with it; the one of a user who calls by sudo is theirs.
pub fn roots_store() {
    let ran = in_sessions(
        "id=$(XDG_RUNTIME_DIR=/run/user/0 $STEP04 -q create --rootfs /run/rootfs true)
        test \"$($STEP04 -q ps -aq)\" = $id; test -d /run/step04/$id
        test \"$(XDG_RUNTIME_DIR=/run/user/65534 $STEP04 -q ps -aq)\" = $id
        $STEP04 -q rm $id; $STEP04 -q clean; ls /run/user/0 /run/user/65534",
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(!ran.out.contains("step04"), "{}", ran.out);
}

/// Without *lingering*, what is below `/run/user` goes with the last session; and that is printed.
pub fn logout() {
    let ran = in_sessions(
        "start() { as_user $STEP04 run -d --name it --rootfs /run/rootfs sleep 100; as_user $STEP04 -q stop -t 0 it
        as_user $STEP04 start it; as_user $STEP04 -q rm -f it; as_user $STEP04 -q clean; }
        start; echo ==== >&2; mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/nobody; start",
    );
    let (ends, lives_on) = ran.err.split_once("====").expect("two runs");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ends.matches("it ends when you log out").count(), 2, "{ends}");
    assert!(!lives_on.contains("log out"), "{lives_on}");
}

/// By `nohup`, or by `&` in a script: what those have ignored, the program of a detached container would never receive.
pub fn what_the_caller_ignores() {
    let home = Home::new();
    // A command of the engine's, run by a shell that ignores both.
    let run = home.step(&["-q", "run", "-d", "--name", "it", "sleep", "100"]).with(|command| {
        let engine = [command.get_program()].into_iter().chain(command.get_args()).map(ToOwned::to_owned);
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"trap "" HUP INT; exec "$@""#, "sh"]).args(engine.collect::<Vec<_>>());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = shell;
    });
    let ran = run.ran();
    assert_eq!(ran.code, 0, "{}", ran.err);
    let status = proc(home.init("it"), "status");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("SigIgn");
    let [hangup, interrupt] = [Signal::SIGHUP, Signal::SIGINT].map(|signal| 1 << (signal as i32 - 1));
    assert_eq!(u64::from_str_radix(ignored.trim(), 16).expect("a mask") & (hangup | interrupt), 0, "{ignored}");
    home.ok(&["rm", "-f", "it"]);
}

/// It names no directory, least of all the current one.
pub fn empty_tmpdir() {
    let home = Home::new();
    // Where the store would be if it did: nothing that a store can be in.
    let name = format!("step04-{}", nix::unistd::geteuid());
    write(home.path().join(&name), "").expect("a file");
    let ran = home.step(&["-q", "ps"]).with(|command| {
        command.current_dir(home.path()).env("TMPDIR", "").env("XDG_RUNTIME_DIR", "/nosuch");
    });
    let ran = ran.ran();
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
}

/// The new version of a file is written beside it, never through a link that somebody has put there.
pub fn link_in_the_way() {
    let home = Home::new();
    let id = home.ok(&["create", "--name", "it", "true"]);
    let victim = home.path().join("victim");
    write(&victim, "untouched").expect("a file");
    let link = home.directory(&id).join("state.json.new");
    std::os::unix::fs::symlink(&victim, &link).expect("a link");
    home.ok(&["start", "it"]);
    wait_until("its end is written down", || home.status("it") == "stopped");
    assert_eq!(std::fs::read_to_string(&victim).expect("the file"), "untouched");
    assert!(!link.is_symlink());
}

/// It ends when the step is about to freeze it, and then has no group: that is no machine without a freezer.
pub fn pause_of_one_that_ends() {
    let home = Home::new();
    home.ok(&["run", "-d", "--name", "it", "sleep", "1000"]);
    let waits = |command: &mut Command| _ = command.stdin(Stdio::piped());
    let mut pause = home.step(&["--pause=echo", "pause", "it"]).with(waits).spawn();
    let printed = testing::collect(pause.stderr.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("[Enter]") {
        said += &printed.recv_timeout(testing::PATIENCE).expect("a pause");
    }
    home.ok(&["kill", "it"]);
    wait_until("it has ended", || home.status("it") == "stopped");
    drop(pause.stdin.take());
    assert_eq!(testing::end_of(&mut pause, testing::PATIENCE), 125);
    said.extend(printed.iter());
    assert!(said.contains("not running any more") && !said.contains("freezer ("), "{said}");
}
