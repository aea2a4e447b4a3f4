//! Step 01, run as a learner runs it, and looked at from the host.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::signal::Signal;
use testing::{Check, World, check, narrated, needs, proc, proc_link, program, step};

const WAIT: [&str; 3] = ["sh", "-c", "echo ready; cat"];
/// Where a user namespace is not needed, as root, or not to be had.
const WITHOUT_USER: [&str; 2] = ["--namespaces", "pid,mount,net,ipc,uts"];
const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("mount", "mnt"),
    ("user", "user"),
    ("net", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn main() -> ExitCode {
    testing::run("step01", checks())
}

fn checks() -> Vec<Check> {
    vec![
        check("the_child_has_six_namespaces_of_its_own", [needs::user_namespaces()], || {
            let own = own_namespaces(&[]);
            assert_eq!(own, BTreeSet::from(["pid", "mnt", "user", "net", "ipc", "uts"]));
        })
        .differs_in(World::SLOW),
        check(
            "it_has_those_that_were_named_and_no_other",
            [needs::user_namespaces(), needs::namespace("time")],
            || {
                for (name, file) in KINDS {
                    let own = own_namespaces(&["--namespaces", &format!("user,{name}")]);
                    assert_eq!(own, BTreeSet::from(["user", file]), "user,{name}");
                }
            },
        ),
        check("root_needs_no_user_namespace", [needs::root()], || {
            for (name, file) in KINDS.into_iter().filter(|(name, _)| !["user", "time"].contains(name)) {
                assert_eq!(own_namespaces(&["--namespaces", name]), BTreeSet::from([file]), "{name}");
            }
        }),
        check("the_child_is_root_inside_and_the_caller_outside", [needs::user_namespaces()], || {
            let mut live = step("step01", ["sh", "-c", "echo ready; id -u; id -g; cat"]).until_ready();
            let words = |pid, file| proc(pid, file).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let (me, child) = (nix::unistd::getpid(), live.pid());
            // Root has more ids than one to give, unless it is root of one alone.
            let has_more =
                nix::unistd::getuid().is_root() && ["uid_map", "gid_map"].iter().all(|it| words(me, it)[2] != "1");
            for (file, id) in [("uid_map", nix::unistd::getuid().as_raw()), ("gid_map", nix::unistd::getgid().as_raw())]
            {
                let own = ["0".to_owned(), id.to_string(), "1".to_owned()];
                let each: Vec<_> = words(me, file).chunks(3).flat_map(|it| [&it[0], &it[0], &it[2]]).cloned().collect();
                assert_eq!(words(child, file), if has_more { each } else { own.to_vec() }, "{file}");
            }
            assert_eq!(words(child, "setgroups"), [if has_more { "allow" } else { "deny" }]);
            assert_eq!((live.line(), live.line()), ("0\n".to_owned(), "0\n".to_owned()));
            live.end();
        }),
        check("the_child_is_pid_1_and_sees_no_process_of_the_host", [needs::user_namespaces()], || {
            let mut live = step("step01", ["sh", "-c", "echo ready; echo $$; echo /proc/[0-9]*; cat"]).until_ready();
            let pid = live.pid();
            assert_eq!(live.line(), "1\n");
            assert_eq!(live.line(), "/proc/1\n", "there are others");
            let ids: Vec<_> = proc(pid, "status")
                .lines()
                .find(|line| line.starts_with("NSpid:"))
                .expect("NSpid")
                .split_whitespace()
                .skip(1)
                .map(str::to_owned)
                .collect();
            assert_eq!(ids, [pid.to_string(), "1".to_owned()]);
            live.end();
        }),
        check("the_first_try_shows_the_hosts_processes", [needs::root()], || {
            let me = std::process::id();
            let ran = testing::Run::new(Command::new(program("step01_first_try")))
                .with(|it| {
                    it.args(["ls", "-d", &format!("/proc/{me}")]);
                })
                .ran();
            assert!(ran.out.contains(&format!("/proc/{me}")), "{ran:?}");
            let ran = step("step01", [WITHOUT_USER[0], WITHOUT_USER[1], "ls", "-d", &format!("/proc/{me}")]).ran();
            assert!(ran.code == 2 && ran.err.contains("No such file"), "{ran:?}");
        }),
        check("the_hosts_name_stays", [needs::user_namespaces()], || {
            let before = nix::unistd::gethostname().expect("name");
            let word = testing::random_word();
            let ran = step("step01", ["--hostname", &word, "uname", "-n"]).ran();
            assert_eq!(ran.out, format!("{word}\n"), "{}", ran.err);
            assert_eq!(nix::unistd::gethostname().expect("name"), before);
        }),
        check("loopback_is_up_and_there_is_nothing_else", [needs::user_namespaces()], || {
            let live = step("step01", WAIT).until_ready();
            let pid = live.pid();
            let devices = proc(pid, "net/dev");
            let devices: Vec<_> =
                devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
            assert_eq!(devices, ["lo"]);
            // The kernel gives lo its address when it is set up.
            assert!(proc(pid, "net/fib_trie").contains("127.0.0.1"));
            live.end();
        }),
        check("a_mount_inside_stays_inside", [needs::root(), needs::shared_root()], || {
            let dir = tempfile::tempdir().expect("tempdir");
            let path = dir.path().display().to_string();
            let mount = ["mount", "-t", "tmpfs", "none", &path];
            let mounted = || std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").contains(&path);

            // Without a user namespace: with one, the kernel itself lets nothing out.
            let ran = step("step01", WITHOUT_USER.iter().chain(&mount)).ran();
            assert_eq!((ran.code, mounted()), (0, false), "{}", ran.err);
            let first_try = Command::new(program("step01_first_try")).args(mount).output().expect("first try");
            assert!(mounted(), "the first try leaks no mount: {first_try:?}");
            nix::mount::umount(dir.path()).expect("umount");
        }),
        check("mounts_are_private_in_the_child", [needs::user_namespaces(), needs::shared_root()], || {
            let live = step("step01", WAIT).until_ready();
            let info = proc(live.pid(), "mountinfo");
            assert!(!info.contains(" shared:") && !info.contains(" master:"), "{info}");
            live.end();
        })
        .differs_in(World::SLOW),
        check("a_process_of_the_host_cannot_be_signalled", [needs::user_namespaces()], || {
            let try_it = |name: &str| {
                let mut victim = Command::new("sleep").arg("60").spawn().expect("sleep");
                let ran = step(name, [program("signal_host").display().to_string(), victim.id().to_string()]).ran();
                // Dying takes a moment, on a busy machine a longer one; not dying is seen for as long as this.
                let times = if ran.out.starts_with("signalled") { 1000 } else { 20 };
                let dead = (0..times).any(|_| {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    victim.try_wait().expect("wait").is_some()
                });
                let _ = victim.kill();
                victim.wait().expect("wait");
                (dead, ran.out)
            };
            let (dead, out) = try_it("step00");
            assert!(dead && out.starts_with("signalled"), "one step earlier it works: {out}");
            let (dead, out) = try_it("step01");
            assert!(!dead && out.contains("ESRCH"), "{out}");
        }),
        check("no_descriptor_of_the_caller_goes_in", [needs::user_namespaces()], || {
            let line = format!("exec 9</etc/passwd; exec {} sh -c 'echo ready; cat'", program("step01").display());
            let mut shell = Command::new("sh");
            shell.args(["-c", &line]);
            let live = testing::Run::new(shell).until_ready();
            let dir = format!("/proc/{}/fd", live.pid());
            let mut open: Vec<_> = std::fs::read_dir(dir).expect("fd").flatten().map(|it| it.file_name()).collect();
            open.sort();
            assert_eq!(open, ["0", "1", "2"]);
            live.end();
        }),
        check("the_program_gets_its_signals_as_usual", [needs::user_namespaces()], || {
            let live = step("step01", ["sh", "-c", "echo ready; exec cat"]).until_ready();
            let pid = live.pid();
            testing::wait_until("cat runs", || proc(pid, "comm") == "cat\n");
            let mask = |of: nix::unistd::Pid, name: &str| {
                let status = proc(of, "status");
                let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("mask");
                u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
            };
            assert_eq!(mask(pid, "SigBlk:"), 0);
            // Of the signals that everybody knows, 1 to 31; the C library keeps the next two for itself.
            assert_eq!(mask(pid, "SigIgn:") & ((1 << 31) - 1), 0);
            live.end();
            // A caller that ignores and blocks some; what nohup(1) ignores stays so.
            let mut live = testing::Run::new(Command::new(program("step01")))
                .with(|it| {
                    it.args(["-q", "sh", "-c", "echo ready; exec cat"]);
                    before_exec(it, || {
                        // SAFETY: SIG_IGN runs no code of ours.
                        let ignore =
                            |signal| unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
                        ignore(Signal::SIGUSR1)?;
                        ignore(Signal::SIGHUP)?;
                        nix::sys::signal::SigSet::from(Signal::SIGTERM).thread_block()
                    });
                })
                .until_ready();
            let pid = testing::child_of(live.step()).expect("a child");
            testing::wait_until("cat runs", || proc(pid, "comm") == "cat\n");
            assert_eq!(mask(pid, "SigBlk:"), 0);
            assert_eq!(mask(pid, "SigIgn:") & ((1 << 31) - 1), 1 << (libc::SIGHUP - 1));
            live.stdin = None;
            live.end();
        }),
        check("a_caller_that_ignores_the_end_of_children_gets_the_exit_code", [needs::user_namespaces()], || {
            let mut ignoring = Command::new("bash");
            // Not every shell hands it on; bash does.
            ignoring.args(["-c", "trap '' CHLD; exec \"$0\" sh -c 'exit 3'"]).arg(program("step01"));
            assert_eq!(testing::Run::new(ignoring).ran().code, 3);
        }),
        check("what_the_caller_ignores_ends_nothing", [needs::user_namespaces()], || {
            let mut ignoring = Command::new("sh");
            ignoring.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program("step01")).args(WAIT);
            let mut live = testing::Run::new(ignoring).until_ready();
            live.until_it_echoes();
            live.signal(Signal::SIGHUP);
            live.until_it_echoes();
            assert_eq!(live.end().code, 0);
        }),
        check("a_program_that_listens_gets_the_signal", [needs::user_namespaces()], || {
            let script = "trap 'echo heard; exit 9' TERM; echo ready; while :; do read x || sleep 0.05; done";
            let dir = tempfile::tempdir().expect("tempdir");
            // The kernel cuts the second name after 15 bytes, within a character.
            for name in ["sh", "ßßßßßßßß"] {
                let shell = dir.path().join(name).display().to_string();
                std::os::unix::fs::symlink("/bin/bash", &shell).expect("symlink");
                let mut live = step("step01", [&shell, "-c", script]).until_ready();
                live.signal(Signal::SIGTERM);
                live.stdin = None;
                assert_eq!((name, live.line().as_str()), (name, "heard\n"));
                assert_eq!(live.end().code, 9);
            }
        }),
        check(
            "a_signal_that_comes_after_exec_is_the_programs",
            [needs::user_namespaces(), needs::tool("strace")],
            || {
                // The step is late to notice that its program has begun: strace (-D: in the background) holds it up.
                let mut late = Command::new("strace");
                late.args(["-D", "-o", "/dev/null", "-e", "inject=ppoll:delay_enter=200000"]).arg(program("step01"));
                late.args(["sh", "-c", "trap 'echo heard; exit 9' TERM; echo ready; while :; do sleep 0.05; done"]);
                let mut live = testing::Run::new(late).until_ready();
                live.signal(Signal::SIGTERM);
                assert_eq!(live.line(), "heard\n");
                assert_eq!(live.end().code, 9);
            },
        ),
        check("the_formula_is_lit_by_what_was_read_back", [needs::user_namespaces()], || {
            let mut live = narrated("step01", WAIT).until_ready();
            let (pid, printed) = (live.pid(), live.printed());
            for file in ["pid", "mnt", "user", "net", "ipc", "uts"] {
                let (own, host) =
                    (proc_link(pid, &format!("ns/{file}")), proc_link(live.step(), &format!("ns/{file}")));
                let line = printed.lines().find(|line| line.contains(&format!("✔ {file} namespace")));
                assert!(line.is_some_and(|line| line.contains(&own) && line.contains(&host)), "{file}: {printed}");
            }
            assert!(printed.contains("Container = cgroup + [namespace] + rootfs + engine"), "{printed}");
            live.end();
        }),
        check("a_default_run_fits_on_a_screen", [needs::user_namespaces()], || {
            let ran = step("step01", ["true"]).ran();
            assert!(ran.code == 0 && testing::lines_on_screen(&ran.err) <= 24, "{}", ran.err);
            assert!(ran.err.lines().any(|line| line.starts_with("host  clone(")), "{}", ran.err);
        }),
        check("a_dry_run_and_a_real_one_make_the_same_calls", [needs::user_namespaces()], || {
            let [dry, real] =
                [["--dry-run", "true"], ["--color=never", "true"]].map(|it| narrated("step01", it).ran().err);
            assert!(
                real.contains("[namespace]") && !dry.contains("[namespace]"),
                "nothing is true in a dry run: {dry}"
            );
            assert_eq!(testing::calls(&dry), testing::calls(&real));
        }),
        check("a_pause_says_what_to_look_at", [needs::user_namespaces()], || {
            let mut paused = Command::new("sh");
            let step01 = [&[program("step01").to_str().expect("UTF-8")], testing::VERBOSE].concat().join(" ");
            paused.args(["-c", &format!("yes '' | {step01} --pause true")]);
            let printed = testing::Run::new(paused).ran().err;
            let clone = printed.lines().find(|line| line.starts_with("host  clone")).expect("clone");
            let pid = clone.rsplit(' ').next().expect("a pid");
            for look in [
                format!("cat /proc/{pid}/uid_map"),
                format!("/proc/{pid}/mountinfo"),
                format!("--target {pid} hostname"),
            ] {
                assert!(printed.contains(&look), "no {look:?} in {printed}");
            }
        }),
        check("what_a_pause_says_shows_the_childs_name", [needs::user_namespaces(), needs::tool("nsenter")], || {
            let name = testing::random_word();
            let mut paused = narrated("step01", ["--pause=sethostname,ioctl", "--hostname", &name, "true"])
                .with(|command| _ = command.stdin(Stdio::piped()))
                .spawn();
            let printed = testing::collect(paused.stderr.take().expect("piped"));
            let mut stdin = paused.stdin.take().expect("piped");
            let hint = || loop {
                let line = printed.recv_timeout(testing::PATIENCE).expect("a hint");
                if let Some((_, hint)) = line.split_once("second terminal: ") {
                    return hint.trim().to_owned();
                }
            };
            let look = hint();
            stdin.write_all(b"\n").expect("enter");
            hint(); // now the name is set
            let mut shell = Command::new("sh");
            shell.args(["-c", &look]);
            let seen = testing::Run::new(shell).ran();
            drop(stdin);
            assert_eq!(testing::end_of(&mut paused, testing::PATIENCE), 0);
            assert_eq!((seen.out.trim(), seen.code), (name.as_str(), 0), "{look}: {}", seen.err);
        }),
        check("a_proc_of_another_pid_namespace_is_refused", [needs::user_namespaces(), needs::tool("unshare")], || {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user", "--pid", "--fork"]).arg(program("step01")).args(["-q", "true"]);
            let ran = testing::Run::new(unshare).ran();
            assert!(ran.code == 125 && ran.err.contains("--mount-proc"), "{ran:?}");
        }),
        check("a_dry_run_works_where_the_real_thing_is_forbidden", [needs::no_user_namespaces()], || {
            assert_eq!(step("step01", ["--dry-run", "true"]).ran().code, 0);
        })
        .differs_in([World::DockerPlain]),
        check("a_machine_that_forbids_user_namespaces_gets_a_remedy", [needs::no_user_namespaces()], || {
            let ran = step("step01", ["true"]).ran();
            assert_eq!(ran.code, 125);
            assert!(ran.err.contains("error: clone(") && ran.err.contains("what to do: "), "{}", ran.err);
            assert!(!ran.err.contains("[namespace]"), "{}", ran.err);
        })
        .differs_in([World::DockerPlain]),
        check("a_step_runs_inside_a_step", [needs::user_namespaces()], || {
            let inner = program("step01").display().to_string();
            let ran = step("step01", [&inner, "--hostname", "inner", "uname", "-n"]).ran();
            assert_eq!((ran.code, ran.out.as_str()), (0, "inner\n"), "{}", ran.err);
        }),
        check("closed_standard_streams_do_no_harm", [needs::user_namespaces()], || {
            let step01 = program("step01");
            for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 | true"] {
                let line = format!("{} sh -c 'exit 3' {closed}", step01.display());
                let status = Command::new("sh").args(["-c", &line]).output().expect("sh").status;
                assert_eq!(status.code(), Some(if closed.ends_with("true") { 0 } else { 3 }), "{closed}");
            }
        }),
        check("bad_input_gets_one_sentence", [], || {
            for (arguments, word) in [
                (["--namespaces", "bogus"], "bogus"),
                (["--namespaces", ""], "--namespaces"),
                (["--hostname", ""], "1 to 64"),
                (["--hostname", &"x".repeat(65)], "1 to 64"),
                (["--hostname", "two\nlines"], "letters"),
                (["--hostname", "-x"], "-x"),
                (["--namespaces=pid", "--hostname=x"], "uts"),
                (["--quiet", "--pause"], "--pause"),
                (["--color", "blue"], "blue"),
            ] {
                testing::refuses("step01", &[arguments[0], arguments[1], "true"], 125, word);
            }
        }),
        check("a_command_that_cannot_run_says_why", [needs::user_namespaces()], || {
            testing::refuses("step01", &["-q", "no-such-command"], 127, "not found");
            testing::refuses("step01", &["-q", "/"], 126, "directory");
        }),
        check("an_ordinary_user_without_a_user_namespace_gets_a_remedy", [needs::ordinary_user()], || {
            let ran = step("step01", ["--namespaces", "pid", "true"]).ran();
            assert_eq!(ran.code, 125);
            assert!(ran.err.contains("EPERM") && ran.err.contains("add `user`"), "{}", ran.err);
        }),
        check("it_ends_with_the_step_at_every_pause", [needs::user_namespaces()], || {
            testing::end_at_every_pause("step01", &[]);
        }),
        check("root_inside_may_use_another_users_closed_directory", [needs::root(), needs::user_namespaces()], || {
            let dir = tempfile::tempdir().expect("a directory");
            let home = dir.path().join("home");
            std::fs::create_dir(&home).expect("a directory");
            let tool = home.join("tool");
            std::fs::copy("/bin/true", &tool).expect("a copy");
            let nobody = Some(65534);
            std::os::unix::fs::chown(&home, nobody, nobody).expect("chown");
            std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).expect("chmod");
            let ran = step("step01", [&tool]).ran();
            assert_eq!(ran.code, 0, "{}", ran.err);
        }),
        check(
            "whose_a_closed_directory_is_is_said_as_it_is_outside",
            [needs::root(), needs::user_namespaces()],
            || {
                let dir = tempfile::tempdir().expect("a directory");
                let open =
                    |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
                // The test's own directories, up to that of all temporary files.
                dir.path().ancestors().take_while(|path| path.to_string_lossy().contains("/check-")).for_each(open);
                let step01 = dir.path().join("step01");
                std::fs::copy(program("step01"), &step01).expect("a copy");
                let no_id = |what: &str| format!("a {what} that has no id in this user namespace");
                let refused = |owner, group, path: &str| {
                    let home = dir.path().join(format!("{owner}-{group}"));
                    std::fs::create_dir(&home).expect("a directory");
                    std::fs::write(home.join("plain"), "").expect("a file");
                    for (path, mode) in [(home.join("plain"), 0o654), (home.clone(), 0o700)] {
                        std::os::unix::fs::chown(&path, Some(owner), Some(group)).expect("chown");
                        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
                    }
                    let mut nobody = Command::new(&step01);
                    nobody.arg("-q").arg(home.join(path)).uid(65534).gid(65534);
                    testing::Run::new(nobody).ran()
                };
                for owner in [1234, 0] {
                    let ran = refused(owner, owner, "tool");
                    let whose = format!("mode 0700, of {} and {}; this process", no_id("user"), no_id("group"));
                    let caller = "this process is user 0 (65534 outside) and group 0 (65534 outside)";
                    assert!(
                        ran.code == 126 && ran.err.contains(&whose) && ran.err.contains(caller),
                        "{owner}: {ran:?}"
                    );
                }
                let ran = refused(65534, 1234, "plain");
                let whose = format!("mode 0654, of user 0 (65534 outside) and {}; ", no_id("group"));
                assert!(ran.code == 126 && ran.err.contains(&whose), "{ran:?}");
            },
        ),
        check("a_root_that_may_not_map_all_ids_learns_why", [needs::root(), needs::user_namespaces()], || {
            let without = |capability: libc::c_ulong| {
                step("step01", ["cat", "/proc/self/uid_map"])
                    .with(|it| {
                        before_exec(it, move || {
                            // SAFETY: takes numbers, and touches no memory of ours.
                            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
                            nix::errno::Errno::result(dropped).map(drop)
                        });
                    })
                    .ran()
            };
            let ran = without(7);
            assert_eq!(ran.out.split_whitespace().collect::<Vec<_>>(), ["0", "0", "1"], "{}", ran.err);
            assert!(ran.code == 0 && ran.err.contains("this root has no CAP_SETUID"), "{}", ran.err);
            // Without this one, the kernel takes no map with id 0 in it.
            let ran = without(31);
            assert!(ran.code == 125 && ran.err.contains("leave `user` out"), "{}", ran.err);
        }),
        check("the_callers_supplementary_groups_stay_outside", [needs::root(), needs::user_namespaces()], || {
            for namespaces in ["user,pid,mount", "pid,mount"] {
                let ran = step("step01", ["-q", "--namespaces", namespaces, "id", "-G"])
                    .with(|it| before_exec(it, || nix::unistd::setgroups(&[54321.into()])))
                    .ran();
                assert_eq!((ran.out.as_str(), ran.code), ("0\n", 0), "{}", ran.err);
            }
        }),
        check("what_the_caller_has_made_of_itself_stays_outside", [needs::user_namespaces()], || {
            let (me, is_root) = (nix::unistd::getpid(), nix::unistd::geteuid().is_root());
            let own = |pid| {
                let status = proc(pid, "status");
                let cpus =
                    status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).expect("a list").to_owned();
                let stat = proc(pid, "stat");
                let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(38);
                (cpus, fields.take(1).collect::<String>(), proc(pid, "personality"), proc(pid, "timerslack_ns"))
            };
            let before = own(me);
            let live = narrated("step01", WAIT)
                .with(|it| {
                    before_exec(it, move || {
                        let mut first = nix::sched::CpuSet::new();
                        let all = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
                        first.set((0..1024).find(|cpu| all.is_set(*cpu) == Ok(true)).unwrap_or(0))?;
                        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &first)?;
                        nix::sys::prctl::set_timerslack(1)?;
                        nix::sys::personality::set(nix::sys::personality::Persona::ADDR_NO_RANDOMIZE)?;
                        // SAFETY: a sched_param of this form outlives the call. Only root may, and not everywhere.
                        let _ = is_root
                            && unsafe {
                                libc::sched_setscheduler(0, libc::SCHED_RR, &libc::sched_param { sched_priority: 1 })
                            } == 0;
                        Ok(())
                    })
                })
                .until_ready();
            assert_eq!(own(live.pid()), before);
            live.end();
        }),
        check("what_the_caller_has_set_for_its_programs_reaches_them", [needs::user_namespaces()], || {
            let live = step("step01", WAIT)
                .with(|it| {
                    before_exec(it, || {
                        // SAFETY: takes numbers, and touches no memory of ours.
                        nix::errno::Errno::result(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) })?;
                        nix::sys::prctl::set_no_new_privs()?;
                        // SAFETY: the same.
                        nix::errno::Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }).map(drop)
                    })
                })
                .until_ready();
            let status = proc(live.pid(), "status");
            for line in ["THP_enabled:\t0", "NoNewPrivs:\t1"] {
                assert!(status.lines().any(|it| it == line), "{line}: {status}");
            }
            // The fields behind the name, from the state on: the nice value is the 17th. proc_pid_stat(5).
            let stat = proc(live.pid(), "stat");
            assert_eq!(
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(16)),
                Some("19"),
                "{stat}"
            );
            live.end();
        }),
        check(
            "the_kernel_may_kill_the_program_for_want_of_memory",
            [needs::user_namespaces(), needs_to_be_spared()],
            || {
                let live = narrated("step01", WAIT)
                    .with(|it| {
                        before_exec(it, || {
                            std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(|_| nix::Error::EACCES)
                        })
                    })
                    .until_ready();
                assert_eq!(proc(live.pid(), "oom_score_adj"), "0\n");
                assert_eq!(proc(live.step(), "oom_score_adj"), "-1000\n", "the step itself is spared still");
                live.end();
            },
        )
        .differs_in([World::CgroupV2]),
        check("every_signal_that_can_be_caught_is_passed_on", [needs::user_namespaces()], || {
            // Job control stays the caller's, SIGCHLD is the step's own, and these two answer its own writes. The C library
            // keeps 32 and 33 for itself.
            use libc::{SIGCHLD, SIGKILL, SIGPIPE, SIGSTOP, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ};
            let kept = [SIGCHLD, SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGPIPE, SIGXFSZ, SIGTERM, 32, 33];
            let passed: Vec<i32> = (1..=64).filter(|signal| !kept.contains(signal)).collect();
            let traps: String = passed.iter().map(|signal| format!("trap 'echo {signal}' {signal}; ")).collect();
            let script = format!("{traps} trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done");
            let mut live = narrated("step01", ["bash", "-c", &script]).until_ready();
            for signal in passed {
                // SAFETY: takes two numbers.
                assert_eq!(unsafe { libc::kill(live.step().as_raw(), signal) }, 0);
                assert_eq!(live.line(), format!("{signal}\n"));
            }
            live.signal(Signal::SIGTERM);
            assert_eq!(live.ended().code, 9);
        }),
        check("a_program_that_does_not_listen_is_ended_by_four_signals_alone", [needs::user_namespaces()], || {
            for name in ["step00", "step01"] {
                let mut live = step(name, ["-q", "sh", "-c", "echo ready; exec cat"]).until_ready();
                let pid = testing::child_of(live.step()).expect("a child");
                testing::wait_until("cat runs", || proc(pid, "comm") == "cat\n");
                for signal in [libc::SIGUSR1, libc::SIGALRM, libc::SIGWINCH, libc::SIGCONT, 34, 64] {
                    // SAFETY: takes two numbers.
                    assert_eq!(unsafe { libc::kill(live.step().as_raw(), signal) }, 0);
                }
                live.stdin.as_mut().expect("piped").write_all(b"still here\n").expect("a line for cat");
                assert_eq!((name, live.line().as_str()), (name, "still here\n"));
                assert_eq!(live.end().code, 0);
            }
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
                let live = step("step01", ["-q", "sh", "-c", "echo ready; exec cat"]).until_ready();
                let pid = testing::child_of(live.step()).expect("a child");
                testing::wait_until("cat runs", || proc(pid, "comm") == "cat\n");
                live.signal(signal);
                assert_eq!(live.ended().code, 128 + signal as i32);
            }
        }),
    ]
}

/// Which namespaces of the child are not the host's, by the kernel's own word.
fn own_namespaces(options: &[&str]) -> BTreeSet<&'static str> {
    let live = step("step01", options.iter().chain(&WAIT)).until_ready();
    let (step, child) = (live.step(), live.pid());
    let differs = |file: &&str| {
        let path = format!("ns/{file}");
        std::path::Path::new("/proc/self").join(&path).exists() && proc_link(step, &path) != proc_link(child, &path)
    };
    let own = KINDS.iter().map(|(_, file)| *file).filter(differs).collect();
    live.end();
    own
}

/// In the process that becomes the step, right before it does.
fn before_exec(command: &mut Command, act: impl Fn() -> nix::Result<()> + Send + Sync + 'static) {
    // SAFETY: the closures here make system calls and allocate nothing that another thread could have locked.
    unsafe { command.pre_exec(move || Ok(act()?)) };
}

/// Whether this process may ask the kernel never to kill it.
fn needs_to_be_spared() -> Option<String> {
    let status = proc(nix::unistd::getpid(), "status");
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("hexadecimal");
    (mask & (1 << 24) == 0).then(|| "needs CAP_SYS_RESOURCE".to_owned())
}
