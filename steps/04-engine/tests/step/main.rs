//! Step 04, run as a learner runs it, and looked at from the host.

mod care;
mod home;
mod killed;
mod odd;
mod proof;

use std::collections::BTreeSet;
use std::fs::{create_dir, read_dir, read_link, read_to_string, write};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use engine::states::{Answer, STATES, Status, TABLE, Verb};
use home::{Home, alive, rootfs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{Check, World, check, narrated, needs, proc, proc_link, program, step, wait_until};

const WAIT: [&str; 3] = ["sh", "-c", "echo ready; cat"];

fn main() -> ExitCode {
    // Made once, before the tests run in processes of their own.
    rootfs();
    let code = testing::run("step04", checks());
    home::remove_rootfs();
    code
}

fn groups() -> Option<String> {
    (!cgroups::may_make_groups())
        .then(|| "needs a user who may make cgroups".to_owned())
        .or_else(needs::user_namespaces)
}

fn has_cgroup_kill() -> Option<String> {
    let all = cgroups::detect(Path::new("/proc"), "self").unwrap_or_default();
    let v2 = all.iter().find(|it| it.version == cgroups::Version::V2);
    // The tree's top has none.
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = kernel.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let is_new = (numbers.next(), numbers.next()) >= (Some(5), Some(14));
    (v2.is_none() || !is_new).then(|| "needs cgroup v2 with cgroup.kill".to_owned())
}

fn checks() -> Vec<Check> {
    vec![
        check("run_makes_the_calls_of_step_03_and_those_of_a_life", [needs::user_namespaces()], run_is_step_03),
        check("the_exit_code_is_the_programs", [needs::user_namespaces()], || {
            let home = Home::new();
            for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
                // As PID 1 a shell cannot kill itself: its child does.
                let ran = home.step(&["-q", "run", "--rm", "sh", "-c", &format!("sh -c '{script}'; exit $?")]).ran();
                assert_eq!(ran.code, code, "{script}: {}", ran.err);
            }
            for (command, code) in [("nosuch", 127), ("/etc", 126)] {
                for way in [&["run"][..], &["run", "-d"]] {
                    let ran = home.step(&[&["-q"], way, &[command]].concat()).ran();
                    assert_eq!(ran.code, code, "{way:?} {command}: {}", ran.err);
                    assert_eq!(home.all(), "", "a container whose program cannot begin is none");
                }
            }
        })
        .differs_in([World::CgroupV2, World::DockerRoot, World::DockerUser]),
        check("a_default_run_fits_on_a_screen", [needs::user_namespaces()], || {
            let home = Home::new();
            let ran = home.step(&["run", "--rm", "true"]).ran();
            // The longest place of a store's; the directory of a test has a longer name.
            let shown = ran.err.replace(&home.path().display().to_string(), "/run/user/1000");
            let lines = testing::lines_on_screen(&shown);
            assert!(ran.code == 0 && lines <= 24, "{lines} lines:\n{}", ran.err);
        })
        .differs_in([World::CgroupV2]),
        check("a_foreground_container_is_kept_until_it_is_removed", [needs::user_namespaces()], || {
            let home = Home::new();
            assert_eq!(home.step(&["-q", "run", "--name", "once", "sh", "-c", "exit 3"]).ran().code, 3);
            assert_eq!(home.status("once"), "stopped");
            assert_eq!(home.json("once")["end"]["code"], 3);
            home.ok(&["rm", "once"]);
            assert_eq!(home.all(), "");
        }),
        check("a_detached_container_has_a_monitor_and_no_engine", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            let (init, monitor) = (home.init(&id), home.monitor(&id));
            assert!(proc(init, "status").contains(&format!("PPid:\t{monitor}\n")));
            let field = |pid, number: usize| {
                let stat = proc(pid, "stat");
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(number - 3)).map(str::to_owned)
            };
            assert_eq!(field(monitor, 6), Some(monitor.to_string()), "a session of its own");
            assert_eq!(field(init, 6), Some(init.to_string()), "and one for the container");
            for number in 0..3 {
                assert_eq!(proc_link(monitor, &format!("fd/{number}")), "/dev/null");
            }
            assert_eq!(proc_link(monitor, "cwd"), "/");
            assert_eq!(proc_link(init, "fd/0"), "/dev/null");
        })
        .differs_in(World::SLOW),
        check("a_created_container_waits_before_exec", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["create", "sleep", "100"]);
            assert_eq!(home.status(&id), "created");
            let init = home.init(&id);
            assert!(proc_link(init, "ns/pid") != proc_link(Pid::this(), "ns/pid"), "in its namespaces already");
            assert!(!proc(init, "cmdline").starts_with("sleep"));
            home.ok(&["start", &id]);
            assert!(proc(init, "cmdline").starts_with("sleep"), "the same process");
        }),
        check("every_command_in_every_state_does_what_the_table_says", [needs::user_namespaces()], || {
            STATES.iter().filter(|state| **state != Status::Paused).for_each(every_command_in);
        }),
        check("every_command_does_what_the_table_says_when_paused", [groups()], || every_command_in(&Status::Paused))
            .differs_in([World::CgroupV2]),
        check("a_stopped_container_starts_again", [needs::user_namespaces()], || {
            let home = Home::new();
            home.ok(&["create", "--name", "again", "sh", "-c", "echo so; exit 4"]);
            for _ in 0..2 {
                let ran = home.step(&["-q", "start", "--attach", "again"]).ran();
                assert_eq!((ran.code, ran.out.as_str()), (4, "so\n"), "{}", ran.err);
            }
            assert_eq!(home.ok(&["logs", "again"]), "so\nso");
        })
        .differs_in([World::CgroupV2]),
        check("start_attached_shows_all_that_a_short_container_writes", [needs::user_namespaces()], || {
            let home = Home::new();
            for _ in 0..20 {
                let id = home.ok(&["create", "--rm", "sh", "-c", "echo out; echo err >&2; exit 5"]);
                let ran = home.step(&["-q", "start", "-a", &id]).ran();
                assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (5, "out\n", "err\n"));
            }
            wait_until("--rm", || home.all().is_empty());
        }),
        check("logs_keep_both_streams_with_times", [needs::user_namespaces()], logs_keep),
        check("a_log_does_not_grow_without_end", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "sh", "-c", "yes $(seq -s. 40) | head -c 12000000; echo; echo last"]);
            home.ok(&["wait", &id]);
            let sizes: Vec<_> =
                home.files(&id, "log.").iter().map(|path| path.metadata().expect("log").len()).collect();
            assert!(sizes.len() == 2 && sizes.iter().sum::<u64>() < (17 << 20), "{sizes:?}");
            assert!(home.ok(&["logs", &id]).ends_with("\nlast"));
        }),
        check("exec_joins_everything_of_the_container", [needs::user_namespaces()], exec_joins).differs_in(World::SLOW),
        check("exec_takes_its_own_environment_and_directory", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "-e", "OLD=old", "-w", "/usr", "sleep", "100"]);
            assert_eq!(home.ok(&["exec", &id, "sh", "-c", "echo $OLD $NEW; pwd"]), "old\n/usr");
            assert_eq!(
                home.ok(&["exec", "-e", "NEW=new", "-w", "/tmp", &id, "sh", "-c", "echo $OLD $NEW; pwd"]),
                "old new\n/tmp"
            );
            for (command, code) in [(&["sh", "-c", "exit 9"][..], 9), (&["nosuch"], 127), (&["/etc"], 126)] {
                assert_eq!(home.step(&[&["-q", "exec", &id], command].concat()).ran().code, code);
            }
        }),
        check("the_engine_cannot_be_written_over_from_inside", [needs::user_namespaces()], engine_is_not_overwritten)
            .differs_in([World::DockerUser]),
        check("no_descriptor_of_the_host_leads_out", [needs::user_namespaces()], no_descriptor_leads_out),
        check("pause_stops_every_process_and_unpause_lets_them_go_on", [groups()], || {
            // Made first, it is removed last: when nobody writes into it any more.
            let dir = tempfile::tempdir().expect("tempdir");
            let home = Home::new();
            let volume = format!("{}:/ticks", dir.path().display());
            let script = "(while :; do echo x >>/ticks/child; done) & while :; do echo x >>/ticks/first; done";
            let id = home.ok(&["run", "-d", "-v", &volume, "sh", "-c", script]);
            let sizes = || ["child", "first"].map(|name| dir.path().join(name).metadata().map_or(0, |it| it.len()));
            let moves = || {
                let before = sizes();
                std::thread::sleep(Duration::from_millis(150));
                let after = sizes();
                [after[0] > before[0], after[1] > before[1]]
            };
            wait_until("both write", || moves() == [true; 2]);
            home.ok(&["pause", &id]);
            assert_eq!(moves(), [false; 2]);
            assert_eq!(home.status(&id), "paused");
            home.ok(&["unpause", &id]);
            wait_until("both write again", || moves() == [true; 2]);
        })
        .differs_in(World::SLOW),
        check(
            "a_user_without_cgroups_reads_that_pause_takes_one",
            [needs::user_namespaces(), may_not_make_groups()],
            || {
                let home = Home::new();
                let id = home.ok(&["run", "-d", "sleep", "100"]);
                home.refuses(&["pause", &id], "takes a cgroup");
                assert_eq!(home.status(&id), "running");
            },
        )
        .differs_in([World::DockerUser]),
        check("stop_asks_first_and_kills_then", [needs::user_namespaces()], || {
            let home = Home::new();
            let polite = "trap 'echo bye; exit 6' TERM; echo ready; while :; do sleep 0.05; done";
            let id = home.ok(&["run", "-d", "sh", "-c", polite]);
            wait_until("it listens", || home.ok(&["logs", &id]) == "ready");
            home.ok(&["stop", &id]);
            assert_eq!((&home.json(&id)["end"]["code"], home.ok(&["logs", &id]).as_str()), (&6.into(), "ready\nbye"));
            // PID 1 of a pid namespace: the kernel does not even deliver what it has no handler for.
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            home.ok(&["stop", "-t", "0", &id]);
            assert_eq!(home.json(&id)["end"]["code"], 137);
        }),
        check("an_engine_that_was_stopped_is_woken_to_clean_up", [needs::user_namespaces()], || {
            let home = Home::new();
            let live = home.step(&["-q", "run", "--name", "fore", "sh", "-c", "echo ready; cat"]).until_ready();
            // As Ctrl-Z does at a terminal.
            kill(live.step(), Signal::SIGSTOP).expect("kill");
            wait_until("it has stopped", || proc(live.step(), "stat").contains(") T "));
            home.ok(&["stop", "-t", "0", "fore"]);
            assert_eq!(live.ended().code, 137);
            assert_eq!(home.json("fore")["end"]["code"], 137);
        })
        .differs_in([World::CgroupV2]),
        check("stop_ends_what_has_left_the_first_process", [needs::user_namespaces()], || {
            let home = Home::new();
            // Without a pid namespace its children outlive it, unless somebody ends them.
            let script = "for i in 1 2 3; do sleep 1000 & echo $!; done; trap '' TERM; echo ready";
            for end in ["while :; do sleep 0.05; done", "exit 0"] {
                let script = format!("{script}; {end}");
                let id = home.ok(&["run", "-d", "--namespaces", "user,mount", "sh", "-c", &script]);
                let mut log = String::new();
                wait_until("it runs", || {
                    log = home.ok(&["logs", &id]);
                    log.ends_with("ready")
                });
                home.ok(&["stop", "-t", "0", &id]);
                let pids: Vec<i32> = log.lines().filter_map(|line| line.parse().ok()).collect();
                assert_eq!(pids.len(), 3);
                assert!(pids.iter().all(|pid| !alive(Pid::from_raw(*pid))), "{end}: {pids:?}");
                assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
            }
        })
        .differs_in([World::CgroupV2]),
        check("a_fork_bomb_is_stopped", [groups()], || {
            let home = Home::new();
            let bomb = "echo ready; f() { f | f & }; while :; do f; done 2>/dev/null";
            let id = home.ok(&["run", "-d", "--pids-limit", "40", "sh", "-c", bomb]);
            wait_until("it runs", || home.ok(&["logs", &id]) == "ready");
            home.ok(&["stop", "-t", "0", &id]);
            assert_eq!(home.status(&id), "stopped");
        })
        .differs_in([World::CgroupV2]),
        check("kill_sends_any_signal", [needs::user_namespaces()], || {
            let home = Home::new();
            let script = "trap 'echo usr1; exit 8' USR1; echo ready; while :; do sleep 0.05; done";
            for signal in ["USR1", "sigusr1", "10"] {
                let id = home.ok(&["run", "-d", "sh", "-c", script]);
                wait_until("it listens", || home.ok(&["logs", &id]) == "ready");
                home.ok(&["kill", "-s", signal, &id]);
                assert_eq!(home.ok(&["wait", &id]), "8");
            }
            home.refuses(&["kill", "-s", "NOSUCH", "x"], "no signal");
        }),
        check("wait_tells_the_code_of_a_container_that_is_gone_then", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["create", "--rm", "sh", "-c", "exit 11"]);
            let wait = home.step(&["-q", "wait", &id]).spawn();
            // Until it has the file open that will tell it, and waits for the monitor.
            let open = format!("/proc/{}/fd", wait.id());
            let has_open = || {
                let all = read_dir(&open).into_iter().flatten().flatten();
                let all: Vec<_> = all.filter_map(|it| read_link(it.path()).ok()).collect();
                let is_pidfd = |link: &std::path::PathBuf| link.to_string_lossy().contains("pidfd");
                all.iter().any(|it| it.ends_with("exit")) && all.iter().any(is_pidfd)
            };
            wait_until("it waits", has_open);
            home.ok(&["start", &id]);
            assert_eq!(wait.wait_with_output().expect("wait").stdout, b"11\n");
            wait_until("it is removed", || home.all().is_empty());
        }),
        check("ctrl_c_ends_a_foreground_container_and_leaves_its_record", [needs::user_namespaces()], || {
            let home = Home::new();
            for signal in [Signal::SIGINT, Signal::SIGTERM] {
                let live = home.step(&["-q", "run", "--name", "fore", "cat"]);
                let live = live.with(|command| {
                    command.stdin(Stdio::piped());
                });
                let mut child = live.spawn();
                wait_until("it runs", || home.all().contains("fore") && home.status("fore") == "running");
                kill(Pid::from_raw(child.id() as i32), signal).expect("kill");
                // Not `child.wait()`, which closes cat's standard input.
                assert_eq!(testing::end_of(&mut child, testing::PATIENCE), 128 + signal as i32);
                assert_eq!(home.json("fore")["end"]["code"], 128 + signal as i32);
                home.ok(&["rm", "fore"]);
            }
        }),
        check("containers_are_found_by_name_by_id_and_by_its_beginning", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["create", "--name", "web", "true"]);
            for word in [&id, "web", &id[..5]] {
                assert_eq!(home.json(word)["config"]["id"], id.as_str());
            }
            home.refuses(&["create", "--name", "web", "true"], "is taken");
            home.refuses(&["stop", "nosuch"], "no container");
            home.ok(&["rm", "web"]);
            home.ok(&["create", "--name", "web", "true"]);
        }),
        check("ids_and_names_are_names_and_not_paths", [], || {
            let home = Home::new();
            let long = "x".repeat(65);
            let bad = ["../x", "/etc", ".", "..", "a/b", "", "a b", "a\nb", "a\u{1b}[2Jb", "_x", "ä", &long];
            for name in bad {
                home.refuses(&["create", "--name", name, "true"], "a name has 1 to 64");
                for verb in ["start", "rm", "inspect", "kill", "stop", "pause", "wait", "logs"] {
                    home.refuses(&[verb, "--", name], "a name has 1 to 64");
                }
                home.refuses(&["exec", "--", name, "true"], "a name has 1 to 64");
            }
            assert!(!home.store().exists(), "nothing was made for them");
        }),
        check("a_name_belongs_to_one_of_many_engines", [needs::user_namespaces()], || {
            let home = Home::new();
            let tries: Vec<_> = (0..8).map(|_| home.step(&["-q", "create", "--name", "one", "true"]).spawn()).collect();
            let made = tries.into_iter().map(|mut it| it.wait().expect("wait").code()).filter(|code| *code == Some(0));
            assert_eq!(made.count(), 1);
            assert_eq!(home.all().lines().count(), 1);
            // And many that end the same one do not get in each other's way.
            let ends = ["stop", "kill", "rm", "rm"].map(|verb| {
                let force: &[&str] = if verb == "rm" { &["-f"] } else { &[] };
                home.step(&[&["-q", verb], force, &["one"]].concat()).spawn()
            });
            ends.into_iter().for_each(|mut it| drop(it.wait()));
            home.step(&["-q", "rm", "-f", "one"]).ran();
            assert_eq!(home.all(), "");
        }),
        check("nobody_else_may_look_into_the_store", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "--name", "mine", "sh", "-c", "echo secret"]);
            for dir in [home.store(), home.directory(&id)] {
                assert_eq!(dir.metadata().expect("store").permissions().mode() & 0o777, 0o700, "{dir:?}");
            }
            let open = Home::new();
            create_dir(open.store()).expect("mkdir");
            std::fs::set_permissions(open.store(), PermissionsExt::from_mode(0o755)).expect("chmod");
            open.refuses(&["ps"], "alone can look into");
            std::fs::remove_dir(open.store()).expect("rmdir");
            std::os::unix::fs::symlink("/etc", open.store()).expect("symlink");
            open.refuses(&["ps"], "alone can look into");
            std::fs::remove_file(open.store()).expect("rm");
        }),
        check("a_pid_that_was_given_to_another_process_is_not_the_container", [needs::user_namespaces()], || {
            let home = Home::new();
            let mut other = Command::new("sleep").arg("100").spawn().expect("sleep");
            // The kernel's clock for that ticks a hundred times a second, and it never gives a pid away so fast.
            std::thread::sleep(Duration::from_millis(30));
            let id = home.ok(&["create", "sleep", "100"]);
            kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
            wait_until("it is dead", || home.status(&id) == "dead");
            // As if the kernel had used both numbers again.
            let path = home.directory(&id).join("state.json");
            let (init, monitor) = (home.init(&id).to_string(), home.monitor(&id).to_string());
            let text = read_to_string(&path).expect("state").replace(&init, &other.id().to_string());
            write(&path, text.replace(&monitor, &other.id().to_string())).expect("state");
            for arguments in [&["kill"][..], &["stop", "-t", "0"], &["rm", "-f"]] {
                home.step(&[&["-q"], arguments, &[&id]].concat()).ran();
            }
            assert_eq!(home.all(), "");
            assert!(other.try_wait().expect("wait").is_none(), "a stranger was killed");
            other.kill().expect("kill");
            other.wait().expect("wait");
        }),
        check("a_container_without_its_monitor_is_dead_and_says_so", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "--name", "left", "sleep", "100"]);
            let init = home.init(&id);
            kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
            wait_until("its processes end with it", || !alive(init));
            assert_eq!(home.status("left"), "dead");
            assert!(home.step(&["ps", "-a"]).ran().out.contains("Dead: its monitor was killed"));
            home.refuses(&["wait", "left"], "its monitor was killed");
            home.step(&["-q", "clean"]).ran();
            assert_eq!(home.all(), "");
            assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
        })
        .differs_in([World::CgroupV2]),
        check("clean_removes_what_is_ours_and_nothing_else", [groups()], clean_takes_what_is_ours)
            .differs_in([World::CgroupV2])
            .alone(),
        check("clean_removes_what_a_killed_step_has_left", [groups()], || {
            let home = Home::new();
            for earlier in ["step02", "step03"] {
                let root = rootfs().display().to_string();
                let root: &[&str] = if earlier == "step03" { &["--rootfs", &root] } else { &[] };
                let mut live = step(earlier, root.iter().chain(&WAIT)).until_ready();
                kill(live.step(), Signal::SIGKILL).expect("kill");
                live.stdin = None;
                assert_eq!(live.end().code, 137);
                assert_ne!(testing::groups_of_steps(), Vec::<String>::new(), "{earlier} has left nothing to clean");
                home.ok(&["clean"]);
                assert_eq!(testing::groups_of_steps(), Vec::<String>::new(), "{earlier}");
            }
        })
        .differs_in([World::CgroupV2]),
        check("several_at_once_are_reported_one_by_one", [needs::user_namespaces()], || {
            let home = Home::new();
            for (name, code) in [("a", "0"), ("b", "3"), ("c", "4")] {
                home.ok(&["create", "--name", name, "sh", "-c", &format!("exit {code}")]);
            }
            let ran = home.step(&["-q", "start", "b", "nosuch", "c"]).ran();
            assert_eq!((ran.code, ran.out.as_str()), (125, "b\nc\n"), "{}", ran.err);
            assert_eq!(home.ok(&["wait", "c", "b"]), "4\n3");
            // The monitor's message is printed also where it has removed the container by then.
            home.ok(&["create", "--rm", "--name", "gone", "nosuch"]);
            assert_eq!(home.step(&["-q", "start", "gone"]).ran().code, 127);
            home.ok(&["run", "-d", "--name", "d", "sleep", "1000"]);
            home.ok(&["clean", "--all"]);
            assert_eq!((home.all().lines().count(), home.status("d").as_str()), (1, "running"));
        }),
        check(
            "without_a_place_of_its_own_the_store_is_in_a_directory_for_all",
            [needs::ordinary_user(), no_run_user()],
            || {
                let home = Home::new();
                let tmp = home.path().display().to_string();
                let without = || {
                    home.step(&["-q", "ps", "-a"]).with(|command| {
                        command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", &tmp);
                    })
                };
                let uid = nix::unistd::geteuid();
                let store = home.path().join(format!("step04-{uid}"));
                create_dir(&store).expect("mkdir");
                std::fs::set_permissions(&store, PermissionsExt::from_mode(0o777)).expect("chmod");
                let ran = without().ran();
                assert!(ran.code == 125 && ran.err.contains("alone can look into"), "{ran:?}");
            },
        ),
        check("a_key_reaches_the_step_and_its_program_at_once", [needs::user_namespaces()], || {
            let home = Home::new();
            // As a terminal has it: every process of the group in its foreground hears it.
            for signal in [Signal::SIGINT, Signal::SIGQUIT] {
                let cat = home.step(&["-q", "run", "--name", "fore", "sh", "-c", "echo ready; cat"]).with(|command| {
                    std::os::unix::process::CommandExt::process_group(command, 0);
                });
                let mut live = cat.until_ready();
                live.until_it_echoes();
                kill(Pid::from_raw(-live.step().as_raw()), signal).expect("kill");
                assert_eq!(live.ended().code, 128 + signal as i32);
                home.ok(&["rm", "fore"]);
            }
        }),
        check("json_is_what_programs_read", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["create", "--name", "json", "echo", "a\"b\n"]);
            let out = home.step(&["ps", "-a", "--format", "json"]).ran().out;
            let row: serde_json::Value = serde_json::from_str(&out).expect("json");
            assert_eq!((&row["id"], &row["status"]), (&id.clone().into(), &"created".into()));
            assert_eq!(row["command"][1], "a\"b\n");
            assert_eq!(row["pid"], home.init(&id).as_raw());
            let table = home.step(&["ps", "-a"]).ran().out;
            assert!(table.lines().count() == 2 && table.contains("echo a\"b\\n"), "{table}");
        }),
        check("a_dry_run_prints_the_same_calls_and_does_nothing", [needs::user_namespaces(), groups()], || {
            let home = Home::new();
            // The first container makes the store; the second finds it.
            home.ok(&["create", "true"]);
            for way in [&["run", "--rm"][..], &["create"]] {
                let arguments = [way, &["/bin/true"]].concat();
                let before = home.all();
                let dry = home.narrated(&[&["--dry-run"], arguments.as_slice()].concat()).ran();
                assert_eq!((dry.code, home.all()), (0, before), "{}", dry.err);
                let real = home.narrated(&arguments).ran();
                let calls = |printed: &str| testing::calls(&home::without_ids(printed));
                let (dry, real) = (calls(&dry.err), calls(&real.err));
                let missing: Vec<_> =
                    real.iter().filter(|call| !dry.contains(call) && !home::writes_down(call)).collect();
                assert!(missing.is_empty(), "{way:?}: {missing:?} in {dry:#?}");
            }
        }),
        check("what_is_gone_already_is_not_printed_as_removed", [needs::user_namespaces(), groups()], || {
            let home = Home::new();
            home.ok(&["run", "--name", "it", "true"]);
            let printed = home.narrated(&["rm", "it"]).ran().err;
            assert!(printed.contains("rm -r ") && !printed.contains("rmdir "), "{printed}");
        }),
        check("where_user_namespaces_are_forbidden_nothing_is_left", [needs::no_user_namespaces()], || {
            let home = Home::new();
            for way in [&["run"][..], &["run", "-d"], &["create"]] {
                let ran = home.step(&[&["-q"], way, &["true"]].concat()).ran();
                assert!(ran.code == 125 && ran.err.contains("what to do:"), "{}", ran.err);
                assert_eq!(home.all(), "");
            }
            assert_eq!(home.step(&["--dry-run", "run", "true"]).ran().code, 0);
        })
        .differs_in([World::DockerPlain]),
        check("bad_options_make_nothing", [], || {
            let home = Home::new();
            home.refuses(&["run", "--namespaces", "user,pid", "true"], "mount namespace");
            home.refuses(&["run", "--rootfs", "/no/such", "true"], "ENOENT");
            home.refuses(&["run", "--memory", "1", "true"], "--memory");
            home.refuses(&["start"], "required");
            home.refuses(&["stop", "-t", "-1", "x"], "unexpected argument");
            home.refuses(&["nosuch"], "unrecognized");
            assert!(!home.store().exists());
        }),
        check("a_key_at_a_pause_ends_the_command", [needs::user_namespaces()], || {
            let nothing = |_: &Home| {};
            let listens = "trap exit TERM; echo ready; while :; do sleep 0.01; done";
            let running = |home: &Home| {
                home.ok(&["run", "-d", "--name", "it", "sh", "-c", listens]);
                wait_until("it listens", || home.ok(&["logs", "it"]) == "ready");
            };
            killed::interrupt_at_every_pause(nothing, &["run", "--name", "it", "/bin/true"]);
            killed::interrupt_at_every_pause(nothing, &["create", "--name", "it", "/bin/true"]);
            killed::interrupt_at_every_pause(running, &["stop", "it"]);
        }),
        check("a_killed_engine_loses_nothing_while_it_creates", [needs::user_namespaces()], || {
            killed::at_every_pause(|_| {}, &["create", "--name", "it", "/bin/true"], killed::Who::Engine);
        })
        .differs_in([World::CgroupV2]),
        check("a_killed_engine_loses_nothing_while_it_runs_one", [needs::user_namespaces()], || {
            killed::at_every_pause(|_| {}, &["run", "--name", "it", "/bin/true"], killed::Who::Engine);
        }),
        check("a_killed_monitor_loses_nothing_while_it_creates", [needs::user_namespaces()], || {
            killed::at_every_pause(|_| {}, &["create", "--name", "it", "/bin/true"], killed::Who::Monitor);
        })
        .differs_in([World::CgroupV2]),
        check("a_killed_engine_loses_nothing_while_it_starts_one_again", [needs::user_namespaces()], || {
            killed::at_every_pause(stopped, &["start", "it"], killed::Who::Engine);
        }),
        check("a_killed_monitor_loses_nothing_while_it_starts_one_again", [needs::user_namespaces()], || {
            killed::at_every_pause(stopped, &["start", "it"], killed::Who::Monitor);
        }),
        check("a_killed_engine_loses_nothing_while_it_ends_one", [needs::user_namespaces()], || {
            let running = |home: &Home| {
                home.ok(&["run", "-d", "--name", "it", "sleep", "100"]);
            };
            for arguments in [&["stop", "-t", "0", "it"][..], &["kill", "it"], &["rm", "-f", "it"]] {
                killed::at_every_pause(running, arguments, killed::Who::Engine);
            }
        })
        .differs_in([World::CgroupV2]),
        check("a_killed_engine_loses_nothing_while_it_pauses_and_cleans", [groups()], || {
            let running = |home: &Home| {
                home.ok(&["run", "-d", "--name", "it", "sleep", "100"]);
            };
            let dead = |home: &Home| {
                let id = home.ok(&["run", "-d", "--name", "it", "sleep", "100"]);
                kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
                wait_until("it is dead", || home.status(&id) == "dead");
            };
            killed::at_every_pause(running, &["pause", "it"], killed::Who::Engine);
            killed::at_every_pause(dead, &["clean"], killed::Who::Engine);
        })
        .differs_in([World::CgroupV2]),
        // The clean-up of another test would remove what is left of a dead one.
        check("a_dry_run_of_every_command_changes_nothing", [needs::user_namespaces()], odd::dry_runs).alone(),
        check("start_attached_shows_all_of_a_long_output", [needs::user_namespaces()], odd::long_output),
        check("whoever_writes_without_end_does_not_keep_a_container_alive", [groups()], odd::endless_output),
        check("groups_that_were_made_inside_go_with_the_container", [groups(), needs::root()], odd::nested_groups)
            .differs_in([World::CgroupV2]),
        check("a_frozen_container_can_be_removed_by_anybody", [groups()], odd::frozen).differs_in([World::CgroupV2]),
        check("a_frozen_child_looks_after_nobody", [groups()], odd::frozen_child).differs_in([World::CgroupV2]),
        check("threads_in_groups_of_their_own_end_too", [groups(), has_cgroup_kill()], odd::threaded)
            .differs_in([World::CgroupV2]),
        check("a_log_that_a_full_disk_has_cut_can_be_read", [needs::user_namespaces()], odd::cut_log),
        check("a_paused_exec_hears_signals", [needs::user_namespaces()], odd::paused_exec),
        check(
            "an_exec_whose_helper_is_killed_says_so",
            [needs::user_namespaces(), needs::tool("strace")],
            odd::killed_helper,
        ),
        check("an_interrupted_start_loses_no_container", [needs::user_namespaces()], odd::interrupted_start),
        check("a_key_ends_a_list_of_containers_half_way", [needs::user_namespaces()], odd::interrupted_list),
        check("a_key_ends_the_logs_of_whoever_writes_without_end", [needs::user_namespaces()], odd::endless_logs),
        check("a_second_life_is_logged_and_shown", [needs::user_namespaces()], odd::log_of_a_second_life),
        check(
            "a_full_disk_loses_lines_and_no_exit_code",
            [needs::root(), needs::user_namespaces(), needs::tool("unshare")],
            odd::full_disk,
        ),
        check("a_broken_directory_is_named_and_keeps_nobody_else", [needs::user_namespaces()], odd::broken_directory),
        check("few_resources_end_no_container", [needs::user_namespaces()], odd::few_resources),
        check("odd_callers_get_what_others_get", [needs::user_namespaces()], odd::callers),
        check(
            "a_copy_that_the_kernel_still_holds_is_waited_for",
            [needs::user_namespaces(), needs::tool("strace")],
            odd::busy_copy,
        ),
        check(
            "a_lock_that_cannot_be_released_is_no_panic",
            [needs::user_namespaces(), needs::tool("strace")],
            odd::stubborn_lock,
        ),
        check("ps_shows_one_moment_of_a_container", [needs::user_namespaces(), needs::tool("strace")], odd::one_moment),
        check("no_reader_is_no_panic", [needs::user_namespaces()], odd::full_output),
        check("any_signal_ends_what_has_not_begun", [needs::user_namespaces()], || {
            let home = Home::new();
            let id = home.ok(&["create", "sleep", "100"]);
            home.ok(&["kill", "-s", "TERM", &id]);
            assert_eq!(home.status(&id), "stopped");
        }),
        check("a_store_may_come_and_go_at_any_moment", [], odd::fleeting_store),
        check("many_engines_at_once_tell_no_lies", [needs::user_namespaces()], odd::many_at_once),
        check(
            "the_readme_shows_what_happens",
            [needs::root(), pure_v2(), default_root_is_ours()],
            the_readme_shows_what_happens,
        )
        .differs_in([World::CgroupV2]),
        check("a_later_step_stores_its_options_and_adds_its_own", [needs::user_namespaces()], proof::options),
        check("a_part_works_on_both_sides_and_confines_guests_too", [needs::user_namespaces()], proof::both_sides),
        check("what_outlives_a_run_goes_with_the_container", [needs::user_namespaces()], proof::outlives),
        check("a_namespace_is_joined_in_place_of_a_new_one", [groups(), needs::root()], proof::joined),
        check("a_container_without_a_monitor_is_started_by_another_process", [needs::user_namespaces()], proof::orphan),
        check("any_process_undoes_a_part_from_its_plan", [needs::user_namespaces()], proof::killed)
            .differs_in([World::CgroupV2]),
        check("a_store_that_others_may_exchange_is_not_used", [], care::exchanged_store),
        check("a_damaged_container_hangs_nobody_and_can_be_removed", [needs::user_namespaces()], care::damaged),
        check("only_groups_that_are_known_again_are_touched", [groups(), needs::root()], care::forged_groups)
            .differs_in([World::CgroupV2]),
        check(
            "what_the_caller_of_a_detached_one_ignores_reaches_it",
            [needs::user_namespaces()],
            care::what_the_caller_ignores,
        ),
        check("an_empty_tmpdir_is_none", [], care::empty_tmpdir),
        check("a_link_beside_a_record_is_not_followed", [needs::user_namespaces()], care::link_in_the_way),
        check("pause_says_that_it_has_ended_meanwhile", [groups()], care::pause_of_one_that_ends),
        check("a_stopped_exec_keeps_no_container_from_ending", [needs::user_namespaces()], care::stopped_exec)
            .differs_in([World::CgroupV2]),
        check("a_killed_exec_keeps_no_container_from_ending", [needs::user_namespaces()], care::killed_exec)
            .differs_in([World::CgroupV2]),
        check(
            "exec_finds_the_first_process_in_a_group_of_its_own",
            [groups(), needs::root(), pure_v2()],
            care::guest_of_a_moved_init,
        )
        .differs_in([World::CgroupV2]),
        check("exec_may_use_the_containers_processors", [groups(), two_processors(), cpuset()], care::guests_cpus)
            .differs_in([World::CgroupV2]),
        check("kill_takes_real_time_signals_by_name_and_number", [needs::user_namespaces()], care::real_time_signals),
        check("options_are_in_no_command_line_that_stays", [needs::user_namespaces()], care::secrets),
        check("a_line_that_is_split_has_one_time", [needs::user_namespaces()], odd::stamps),
        check("a_key_ends_logs_that_nobody_reads", [needs::user_namespaces()], care::deaf_logs),
        check("a_key_ends_a_start_that_nobody_reads", [needs::user_namespaces()], care::deaf_start),
        check("a_second_start_is_answered_at_once", [needs::user_namespaces()], care::two_starts),
        check("a_container_that_nobody_can_find_ends", [needs::user_namespaces()], care::vanished_store)
            .differs_in([World::CgroupV2]),
        check(
            "roots_containers_are_found_from_every_session",
            [needs::root(), needs::user_namespaces(), needs::tool("unshare")],
            care::roots_store,
        ),
        check(
            "what_will_not_outlive_the_session_is_said",
            [needs::root(), needs::user_namespaces(), needs::own_or_all_ids(), needs::tool("unshare")],
            care::logout,
        ),
        check("a_crowd_of_containers_comes_and_goes", [needs::user_namespaces(), two_processors()], a_crowd).alone(),
    ]
}

fn may_not_make_groups() -> Option<String> {
    cgroups::may_make_groups().then(|| "needs a user who may not make cgroups".to_owned())
}

/// The heart is step 03's recipe: all of its calls are there, in the same order, and what comes on top belongs to a life.
fn run_is_step_03() {
    let home = Home::new();
    let root = rootfs().display().to_string();
    let options = ["--rootfs", &root, "--hostname", "same", "/bin/true"];
    let plain = narrated("step03", ["--color=never"].iter().chain(&options)).ran();
    let engine = home.narrated(&[&["run", "--rm"][..], &options].concat()).ran();
    assert_eq!((plain.code, engine.code), (0, 0), "{}{}", plain.err, engine.err);
    let calls = |printed: &str| testing::calls(&home::without_ids(printed));
    let mut rest = Vec::new();
    let all = calls(&engine.err);
    let mut engine = all.iter();
    for call in calls(&plain.err) {
        // The gate's and the store's descriptors count differently: `without_numbers` has taken them away.
        loop {
            let next =
                engine.next().unwrap_or_else(|| panic!("step03 has {call:?}, and step04 not, or not there: {all:#?}"));
            if *next == call {
                break;
            }
            rest.push(next.clone());
        }
    }
    rest.extend(engine.cloned());
    for call in rest {
        let protection = ["open_tree", "mount_setattr", "memfd_create", "sendfile", "fcntl"];
        let of_a_life = [&protection[..], &["close_range", "execve(\"/proc/self/fd"]].concat();
        let known = of_a_life.iter().any(|name| call.starts_with(&format!("host  {name}"))) || home::writes_down(&call);
        assert!(known, "step04 calls {call:?}, and step03 does not");
    }
}

/// Before a test: a container that has ended.
fn stopped(home: &Home) {
    home.step(&["-q", "run", "--name", "it", "/bin/true"]).ran();
}

/// Makes a container in that state, does the command, and looks what has become of it.
fn every_command_in(status: &Status) {
    for (verb, row) in TABLE {
        let column = STATES.iter().position(|it| it == status).expect("a column");
        let answer = row[column];
        let home = Home::new();
        let _paused = home::in_state(&home, "it", *status);
        assert_eq!(home.status("it"), status.to_string(), "before {verb:?}");
        let init = home.json("it")["state"]["init"]["pid"].as_i64();
        let arguments = match verb {
            Verb::Start => vec!["start", "it"],
            Verb::Exec => vec!["exec", "it", "true"],
            Verb::Pause => vec!["pause", "it"],
            Verb::Unpause => vec!["unpause", "it"],
            Verb::Kill => vec!["kill", "it"],
            Verb::Stop => vec!["stop", "-t", "0", "it"],
            Verb::Wait => vec!["wait", "it"],
            Verb::Rm => vec!["rm", "it"],
            Verb::RmForce => vec!["rm", "-f", "it"],
        };
        let needs_freezer = verb == Verb::Pause && *status == Status::Running && !cgroups::may_make_groups();
        if needs_freezer {
            continue; // a test of its own
        }
        let here = format!("{verb:?} of a container that is {status}");
        if verb == Verb::Wait && matches!(status, Status::Creating | Status::Created | Status::Running | Status::Paused)
        {
            // It waits for the end, which somebody else must bring about.
            let mut waiting = home.step(&["-q", "wait", "it"]).spawn();
            std::thread::sleep(Duration::from_millis(100));
            assert!(waiting.try_wait().expect("wait").is_none(), "{here} does not wait");
            if *status == Status::Creating {
                home.ok(&["rm", "-f", "it"]);
                assert_eq!(waiting.wait().expect("wait").code(), Some(125), "{here}: it never came to be");
            } else {
                home.ok(&["kill", "it"]);
                assert_eq!(waiting.wait().expect("wait").code(), Some(0), "{here}");
                assert_eq!(home.status("it"), "stopped", "{here}");
            }
            continue;
        }
        let ran = home.step(&[&["-q"], arguments.as_slice()].concat()).ran();
        match answer {
            Answer::Refused(why) => {
                assert_eq!(ran.code, 125, "{here}: {}", ran.err);
                assert!(ran.err.contains(why), "{here} says {}", ran.err);
                assert_eq!(home.status("it"), status.to_string(), "{here} is refused, and changes it");
            }
            Answer::To(next) => {
                assert_eq!(ran.code, 0, "{here}: {}", ran.err);
                wait_until(&format!("{here} leads to {next}, not {}", home.status("it")), || {
                    home.status("it") == next.to_string()
                });
                let same = home.json("it")["state"]["init"]["pid"].as_i64() == init;
                assert!(same || (verb == Verb::Start && *status == Status::Stopped), "{here}: another process");
            }
            Answer::Gone => {
                assert_eq!(ran.code, 0, "{here}: {}", ran.err);
                assert_eq!(home.all(), "", "{here}");
            }
        }
    }
}

fn logs_keep() {
    let home = Home::new();
    let script =
        "echo one; echo two >&2; printf '\\303\\244\\377'; sleep 0.2; head -c 40000 /dev/zero | tr '\\0' z; echo";
    let id = home.ok(&["run", "-d", "sh", "-c", script]);
    let followed = home.step(&["-q", "logs", "-f", &id]).ran();
    home.ok(&["wait", &id]);
    let ran = home.step(&["-q", "logs", &id]).ran();
    let expected = format!("one\nä\u{fffd}{}\n", "z".repeat(40000));
    assert_eq!((ran.out.as_str(), ran.err.as_str()), (expected.as_str(), "two\n"));
    assert_eq!((followed.out, followed.err), (ran.out, ran.err), "followed or not, it is the same");
    let timed = home.step(&["-q", "logs", "--timestamps", &id]).ran().out;
    for line in timed.lines() {
        let time = line.split(' ').next().expect("a time");
        let time = humantime::parse_rfc3339(time).unwrap_or_else(|_| panic!("no time: {line}"));
        assert!(time.elapsed().expect("the past") < Duration::from_secs(60));
    }
    let log = read_to_string(home.directory(&id).join("log.0")).expect("log");
    assert!(log.lines().count() == 5 && log.lines().all(|line| line.len() < 20_000), "a line of 40000 bytes is cut");
    // In the foreground there is none, and that is said.
    home.ok(&["run", "--name", "fore", "echo", "hello"]);
    assert!(home.step(&["logs", "fore"]).ran().err.contains("it has no log"));
}

fn exec_joins() {
    let home = Home::new();
    let id = home.ok(&["run", "-d", "sleep", "100"]);
    let init = home.init(&id);
    let mut live = home.narrated(&[&["exec", &id], &WAIT[..]].concat()).until_ready();
    let printed = live.printed();
    let line =
        printed.lines().find(|line| line.contains("clone(child, stack, SIGCHLD, NULL)")).expect("a clone").to_owned();
    let guest = Pid::from_raw(line.rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid"));
    for kind in ["pid", "mnt", "user", "net", "ipc", "uts", "cgroup"] {
        let kind = format!("ns/{kind}");
        assert_eq!(proc_link(guest, &kind), proc_link(init, &kind));
        assert!(
            proc_link(guest, &kind) != proc_link(Pid::this(), &kind)
                || proc_link(init, &kind) == proc_link(Pid::this(), &kind)
        );
    }
    assert_eq!(proc(guest, "cgroup"), proc(init, "cgroup"));
    assert_eq!(cgroups::may_make_groups(), proc(guest, "cgroup").contains(&format!("/step04-{id}")));
    let helper = testing::child_of(live.step()).expect("a helper");
    assert!(proc(guest, "status").contains(&format!("PPid:\t{helper}\n")), "the helper waits for it");
    assert!(proc(guest, "status").lines().any(|line| line.starts_with("NSpid:") && line.split('\t').count() == 3));
    // It goes with the container.
    home.ok(&["kill", &id]);
    assert_eq!(live.ended().code, 137);
}

/// CVE-2019-5736, against what anyone would write first, where it works, and against the engine.
fn engine_is_not_overwritten() {
    let home = Home::new();
    let root = home::own_root(&["overwrite_engine"]);
    let evil = root.path().join("rootfs/bin/evil");
    write(&evil, "#!/proc/self/exe\n").expect("evil");
    std::fs::set_permissions(&evil, PermissionsExt::from_mode(0o755)).expect("chmod");
    let attacked = |namespaces: &str, exec: &dyn Fn(&str)| {
        let rootfs = root.path().join("rootfs").display().to_string();
        let id = home.ok_with_root(&rootfs, &["run", "-d", "--namespaces", namespaces, "overwrite_engine"]);
        wait_until("it waits", || home.ok(&["logs", &id]) == "ready");
        exec(&id);
        home.ok(&["wait", &id]);
        home.ok(&["logs", &id]) + &home.json(&id)["end"].to_string()
    };

    let naive = root.path().join("naive");
    std::fs::copy(program("step04_first_try"), &naive).expect("a copy to be spoilt");
    let log = attacked("pid,mount,user", &|id| {
        let pid = home.init(id).to_string();
        let mut command = Command::new(&naive);
        command.args([&pid, "/", "/bin/evil"]);
        testing::Run::new(command).ran();
    });
    assert!(log.starts_with("ready\noverwritten"), "one would write it so first, and it works: {log}");
    assert!(std::fs::read(&naive).expect("the copy").starts_with(b"#!/bin/sh"), "on the host");

    // A file of its own: what the container's monitor runs, too, nobody could write to as long as that lives (ETXTBSY).
    let engine = root.path().join("engine");
    std::fs::copy(program("step04"), &engine).expect("a copy");
    let before = std::fs::read(&engine).expect("the copy");
    let exec_evil = |id: &str| {
        let mut command = Command::new(&engine);
        command.args(["-q", "exec", id, "/bin/evil"]).env("XDG_RUNTIME_DIR", home.path());
        let ran = testing::Run::new(command).ran();
        assert!(ran.err.contains("file too short"), "the engine itself has run inside: {}", ran.err);
    };
    if needs::root().is_none() {
        // Without a user namespace the attacker has every right over the host's mounts, but not over this one.
        for namespaces in ["pid,mount,user", "pid,mount"] {
            let log = attacked(namespaces, &exec_evil);
            assert!(log.contains("refused: Read-only file system"), "{namespaces}: {log}");
        }
    } else {
        let log = attacked("pid,mount,user", &exec_evil);
        assert!(log.contains("refused: Operation not permitted"), "{log}");
    }
    assert!(std::fs::read(&engine).expect("the copy") == before);
}

/// CVE-2024-21626: a descriptor of the host's that the caller has left open, against both.
fn no_descriptor_leads_out() {
    let home = Home::new();
    let dir = tempfile::tempdir().expect("tempdir");
    let word = testing::random_word();
    write(dir.path().join("secret"), &word).expect("secret");
    let open = std::fs::File::open(dir.path()).expect("open");
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("not close-on-exec");
    let id = home.ok(&["run", "-d", "sleep", "100"]);

    let number = open.as_raw_fd();
    let workdir = format!("/proc/self/fd/{number}");
    let mut naive = Command::new(program("step04_first_try"));
    naive.args([&home.init(&id).to_string(), &workdir, "cat", "secret"]);
    let ran = testing::Run::new(naive).ran();
    assert_eq!(ran.out, word, "one would write it so first, and it works: {}", ran.err);

    // Every number that could be one of ours, too: the directory of the store, a pidfd, the gate.
    for number in 3..=number.max(12) {
        let workdir = format!("/proc/self/fd/{number}");
        for way in [&["run", "--rm", "-w", &workdir][..], &["exec", "-w", &workdir, &id]] {
            let ran = home.step(&[&["-q"], way, &["sh", "-c", "cat secret; ls -a ..; pwd"]].concat()).ran();
            assert!(ran.code == 125 && !ran.out.contains(&word), "{way:?}: {ran:?}");
        }
    }
    for way in [&["run", "--rm"][..], &["exec", &id]] {
        let ran = home.step(&[&["-q"], way, &["sh", "-c", "ls /proc/self/fd"]].concat()).ran();
        assert_eq!(ran.out, "0\n1\n2\n3\n", "3 is that of ls itself");
    }
}

/// Every line of the README's two runs occurs in a run of today, in that order; ids and numbers are not compared.
fn the_readme_shows_what_happens() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("project");
    let readme = read_to_string(project.join("README.md")).expect("README.md");
    let blocks: Vec<_> = readme.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    let home = Home::new();
    for block in blocks {
        let commands = block.lines().filter_map(|line| line.strip_prefix("root# "));
        let script: Vec<_> = commands
            .map(|line| format!("echo '# '; {}", line.replace("cargo run --quiet --bin step03 --", "step03")))
            .collect();
        let built = program("step04").parent().expect("target/debug").display().to_string();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("PATH={built}:$PATH; exec 2>&1; {}", script.join("\n"))]);
        shell.env("XDG_RUNTIME_DIR", home.path());
        let ran = testing::Run::new(shell).ran();
        let plain = |line: &str| {
            // How wide a column is depends on what stands in it.
            let line = home::without_ids(line).replace(&home.path().display().to_string(), "/run");
            let line = line.replace(&project.display().to_string(), "/home/you/container");
            testing::without_numbers(&line.split_whitespace().collect::<Vec<_>>().join(" "))
                .replace("seconds", "second")
        };
        let mut lines = ran.out.lines();
        for line in block.lines().filter(|line| *line != "⋮" && !line.starts_with("root# ")) {
            assert!(lines.any(|it| plain(it) == plain(line)), "the README has {line:?}, and not this run: {}", ran.out);
        }
    }
}

fn pure_v2() -> Option<String> {
    let all = cgroups::detect(Path::new("/proc"), "self").expect("hierarchies");
    let pure = !all.is_empty() && all.iter().all(|it| it.version == cgroups::Version::V2);
    (!pure).then(|| "needs a machine of cgroup v2 alone".to_owned())
}

/// Where another user has built this project, its target directory is not this one's to write to.
fn default_root_is_ours() -> Option<String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let may = nix::unistd::access(&target, nix::unistd::AccessFlags::W_OK).is_ok() || target.join("rootfs").exists();
    (!may).then(|| "needs a target directory that it may write to".to_owned())
}

/// Groups and directories with a mark that nobody holds go; others stay.
fn clean_takes_what_is_ours() {
    let home = Home::new();
    let trees = cgroups::detect(Path::new("/proc"), "self").expect("hierarchies");
    let own = &trees[0].own;
    let word = testing::random_word();
    // Names that look like ours, and are not.
    let strangers =
        [format!("web-{word}"), format!("step04-{word}z"), format!("xstep04-{word}")].map(|name| own.join(name));
    strangers.iter().for_each(|dir| create_dir(dir).expect("mkdir"));
    let dead = home.ok(&["run", "-d", "sleep", "100"]);
    let lives = home.ok(&["run", "-d", "sleep", "100"]);
    kill(home.monitor(&dead), Signal::SIGKILL).expect("kill");
    wait_until("it is dead", || home.status(&dead) == "dead");
    let groups = || BTreeSet::from_iter(testing::groups_of_steps());
    let before = groups();

    let dry = home.narrated(&["--dry-run", "clean"]).ran();
    assert!(dry.code == 0 && dry.err.contains(&dead) && !dry.err.contains(&lives), "{}", dry.err);
    assert_eq!(groups(), before, "a dry run does nothing");
    assert_eq!(home.status(&dead), "dead");

    let real = home.step(&["clean"]).ran();
    assert_eq!(real.code, 0, "{}", real.err);
    assert_eq!(home.status(&lives), "running");
    let left: Vec<_> = groups().into_iter().filter(|group| group.contains(&dead)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(groups().iter().any(|group| group.contains(&lives)));
    for dir in strangers {
        std::fs::remove_dir(&dir).expect("it is still there");
    }
    home.ok(&["rm", "-f", &lives]);
    home.ok(&["clean"]);
    assert!(!home.store().exists(), "nothing at all is left");
}

/// Where systemd has made a directory for this user, that is the place.
fn no_run_user() -> Option<String> {
    let uid = nix::unistd::geteuid();
    Path::new(&format!("/run/user/{uid}")).exists().then(|| "needs a user without a directory in /run/user".to_owned())
}

fn cpuset() -> Option<String> {
    let all = cgroups::detect(Path::new("/proc"), "self").unwrap_or_default();
    let has_it = all.iter().any(|it| it.controllers.iter().any(|name| name == "cpuset"));
    (!has_it).then(|| "needs the cgroup controller cpuset".to_owned())
}

fn two_processors() -> Option<String> {
    let one = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
    one.then(|| "needs a machine with more than one processor".to_owned())
}

/// Eight at a time; none lost, none doubled, nothing left.
fn a_crowd() {
    let home = Home::new();
    let each = testing::some_of(25);
    let all = 8 * each;
    let eight_at_a_time = |what: &(dyn Fn(usize) + Sync)| {
        std::thread::scope(|scope| {
            for worker in 0..8 {
                scope.spawn(move || (0..each).for_each(|turn| what(worker * each + turn)));
            }
        });
    };
    eight_at_a_time(&|number| {
        home.ok(&["run", "-d", "--name", &format!("c{number}"), "sleep", "1000"]);
    });
    let ids: BTreeSet<_> = home.ok(&["ps", "-q"]).lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), all);
    let inits: BTreeSet<_> = ids.iter().map(|id| home.init(id)).collect();
    assert_eq!(inits.len(), all);
    for init in &inits {
        assert!(
            read_link(format!("/proc/{init}/exe")).is_ok_and(|exe| exe.to_string_lossy().contains("/bin/")),
            "{init}"
        );
    }
    eight_at_a_time(&|number| {
        home.ok(&["stop", "-t", "0", &format!("c{number}")]);
    });
    assert_eq!(home.ok(&["ps", "-q"]), "");
    assert_eq!(home.ok(&["ps", "-aq"]).lines().count(), all);
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
    eight_at_a_time(&|number| {
        home.ok(&["rm", &format!("c{number}")]);
    });
    assert_eq!(home.all(), "");
    let _ = std::io::stdout().flush();
}
