//! Step 02, run as a learner runs it, and looked at from the host.

use std::fs::{create_dir, read_to_string, remove_dir, write};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use cgroups::{Hierarchy, Version, detect};
use nix::unistd::{AccessFlags, access};
use testing::{Check, World, check, narrated, needs, proc, program, step};

const WAIT: [&str; 3] = ["sh", "-c", "echo ready; cat"];

fn main() -> ExitCode {
    testing::run("step02", checks())
}

fn checks() -> Vec<Check> {
    vec![
        check("the_child_is_in_a_group_of_every_hierarchy", [may_make_groups()], || {
            let mut live = narrated("step02", WAIT).until_ready();
            let (pid, name) = (live.pid(), format!("step02-{}", live.step()));
            let theirs = detect(Path::new("/proc"), &pid.to_string()).expect("hierarchies");
            for Hierarchy { version, own, controllers, .. } in &theirs {
                assert_eq!(own.file_name().and_then(|it| it.to_str()), Some(name.as_str()), "{controllers:?}");
                let file = if *version == Version::V1 { "tasks" } else { "cgroup.procs" };
                let members = read_to_string(own.join(file)).expect("members");
                assert!(members.lines().any(|it| it == pid.to_string()), "{controllers:?}: {members}");
            }
            let printed = live.printed();
            let echoes = printed.lines().filter(|line| line.starts_with(&format!("host  echo {pid} > "))).count();
            assert_eq!((echoes, theirs.len()), (hierarchies().len(), hierarchies().len()), "{printed}");
            live.end();
        })
        .differs_in(World::SLOW),
        check(
            "a_limit_is_what_the_kernel_says_it_is",
            [controller("memory"), controller("pids"), controller("cpu")],
            || {
                let number = 100 + u64::from(testing::random_word().as_bytes()[0]);
                let (memory, count) = (format!("{number}M"), number.to_string());
                let options = ["--memory", &memory, "--pids-limit", &count, "--cpus", "0.5", "--cpu-shares", "1024"];
                let live = step("step02", options.iter().chain(&WAIT)).until_ready();
                let pid = live.pid();
                let read = |on_v1: (&str, &str), on_v2: (&str, &str)| {
                    let (version, dir) = group_of(pid, on_v1.0, on_v2.0);
                    let file = if version == Version::V1 { on_v1.1 } else { on_v2.1 };
                    let text = read_to_string(dir.join(file)).unwrap_or_else(|error| panic!("{dir:?} {file}: {error}"));
                    text.trim().to_owned()
                };
                let bytes = (number << 20).to_string();
                assert_eq!(read(("memory", "memory.limit_in_bytes"), ("memory", "memory.max")), bytes);
                assert_eq!(read(("pids", "pids.max"), ("pids", "pids.max")), count);
                let quota = read(("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.max"));
                assert!(quota == "50000" || quota == "50000 100000", "{quota}");
                // The default of one version is the default of the other.
                let shares = read(("cpu", "cpu.shares"), ("cpu", "cpu.weight"));
                assert!(shares == "1024" || shares == "100", "{shares}");
                live.end();
            },
        )
        .differs_in(World::SLOW),
        check("swap_is_no_way_around_the_limit", [controller("memory"), counts_swap()], || {
            let live = step("step02", ["--memory", "64M"].iter().chain(&WAIT)).until_ready();
            let (version, dir) = group_of(live.pid(), "memory", "memory");
            let (file, wanted) = match version {
                Version::V1 => ("memory.memsw.limit_in_bytes", "67108864\n"),
                Version::V2 => ("memory.swap.max", "0\n"),
            };
            assert_eq!(read_to_string(dir.join(file)).expect(file), wanted);
            live.end();
        })
        .differs_in([World::CgroupV2, World::SystemdRoot]),
        check("a_step_runs_inside_a_step", [may_make_groups(), needs::root()], || {
            let inner = program("step02").display().to_string();
            // It sees the groups of the outer one, and makes its own in there.
            let ran = step("step02", ["-q", "--namespaces", "mount,pid", &inner, "sh", "-c", "exit 3"]).ran();
            assert_eq!(ran.code, 3, "{}", ran.err);
        })
        .differs_in([World::CgroupV2]),
        check("a_fork_bomb_stops_at_the_limit", [controller("pids")], || {
            let bomb = program("fork_bomb").display().to_string();
            assert_eq!(step("step01", ["-q", &bomb]).ran().out, "300 forks\n", "one step earlier it works");
            let ran = narrated("step02", ["--pids-limit", "20", &bomb]).ran();
            assert_eq!(ran.out, "19 forks, then EAGAIN\n", "{}", ran.err);
            assert!(counter(&ran.err, "# pids: forks refused: ") >= 1, "{}", ran.err);
        })
        .differs_in([World::CgroupV2, World::DockerRoot, World::DockerUser]),
        check("a_memory_hog_is_killed", [controller("memory")], || {
            let hog = program("memory_hog").display().to_string();
            assert_eq!(step("step01", ["-q", &hog, "128"]).ran().out, "128 MiB taken\n", "one step earlier it works");
            let ran = narrated("step02", ["--memory", "64M", &hog, "128"]).ran();
            assert_eq!((ran.code, ran.out.as_str()), (137, ""), "{}", ran.err);
            let printed = ran.err.lines().find(|line| line.starts_with("# memory: ")).expect("a counter");
            assert!(printed.contains("peak, 1 killed"), "{printed}");
        })
        .differs_in([World::CgroupV2]),
        check("a_spinner_is_held_back", [controller("cpu")], || {
            let spinner = program("cpu_spinner").display().to_string();
            let free = narrated("step02", ["--cpus", "1", &spinner, "500"]).ran();
            let ran = narrated("step02", ["--cpus", "0.05", &spinner, "500"]).ran();
            assert!(counter(&ran.err, "# cpu: held back in ") >= 3, "{}", ran.err);
            assert!(counter(&free.err, "# cpu: held back in ") < counter(&ran.err, "# cpu: held back in "));
        })
        .differs_in([World::CgroupV2])
        .alone(),
        check("the_child_runs_on_the_processors_that_were_named", [controller("cpuset")], || {
            let own = proc(nix::unistd::Pid::this(), "status");
            let own = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("list");
            let cpu = own.trim().rsplit([',', '-']).next().expect("a number").to_owned();
            let live = step("step02", ["--cpuset-cpus", &cpu].iter().chain(&WAIT)).until_ready();
            let status = proc(live.pid(), "status");
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).expect("list").to_owned();
            assert_eq!(line.split_whitespace().nth(1), Some(cpu.as_str()));
            live.end();
            testing::refuses("step02", &["-q", "--cpuset-cpus", "8000", "true"], 125, "this machine has the CPUs");
        })
        .differs_in([World::CgroupV2, World::SystemdRoot]),
        check("a_disk_is_limited_as_the_kernel_says", [controller("blkio"), block_device().err()], || {
            let disk = block_device().expect("a disk");
            let rate = format!("{disk}:1M");
            let options = ["--device-write-bps", &rate, "--device-read-bps", &rate];
            let live = step("step02", options.iter().chain(&WAIT)).until_ready();
            let (version, dir) = group_of(live.pid(), "blkio", "io");
            let files: &[(&str, &str)] = match version {
                Version::V1 => {
                    &[("blkio.throttle.write_bps_device", " 1048576"), ("blkio.throttle.read_bps_device", " 1048576")]
                }
                Version::V2 => &[("io.max", "rbps=1048576 wbps=1048576")],
            };
            for (file, wanted) in files {
                let text = read_to_string(dir.join(file)).expect("limits");
                assert!(text.contains(wanted), "{file}: {text}");
            }
            live.end();
        })
        .differs_in([World::CgroupV2, World::SystemdRoot]),
        check(
            "on_v1_a_device_that_is_not_listed_cannot_be_opened",
            [controller_of(Version::V1, "devices"), needs::root(), unlisted_device().err()],
            || {
                let device = unlisted_device().expect("a device");
                let read = ["--namespaces", "pid", "head", "-c", "0", device];
                assert_eq!(step("step01", read).ran().code, 0, "one step earlier it works");
                let ran = step("step02", read).ran();
                assert!(ran.code != 0 && ran.err.contains("Operation not permitted"), "{}", ran.err);
            },
        ),
        check("the_childs_own_group_is_its_root", [may_make_groups(), needs::user_namespaces()], || {
            let ran = step("step02", ["cat", "/proc/self/cgroup"]).ran();
            let paths = ran.out.lines().filter(|line| !line.contains(":name=")).map(|line| line.rsplit(':').next());
            let paths: Vec<_> = paths.collect();
            assert!(!paths.is_empty() && paths.iter().all(|path| *path == Some("/")), "{}", ran.out);
        })
        .differs_in([World::CgroupV2]),
        check(
            "the_child_is_inside_before_it_runs_and_the_first_try_is_too_late",
            [controller("pids"), processors()],
            || {
                let bomb = program("fork_bomb");
                let forks =
                    |out: &str| out.split(' ').next().and_then(|count| count.parse::<u32>().ok()).expect("a count");
                let first_try = || {
                    let mut command = Command::new(program("step02_first_try"));
                    command.arg(&bomb);
                    forks(&testing::Run::new(command).ran().out)
                };
                assert!((0..20).any(|_| first_try() > 20), "it never loses the race");
                for _ in 0..5 {
                    let ran = step("step02", ["-q", "--pids-limit", "20", &bomb.display().to_string()]).ran();
                    assert_eq!(forks(&ran.out), 19);
                }
            },
        )
        .differs_in([World::CgroupV2])
        .alone(),
        check("what_the_program_leaves_running_ends_too", [may_make_groups(), needs::root()], || {
            let ran = narrated("step02", ["--namespaces", "uts", "sh", "-c", "sleep 300 & exit 4"]).ran();
            assert_eq!(ran.code, 4, "{}", ran.err);
            let rmdirs: Vec<_> = ran.err.lines().filter(|line| line.starts_with("host  rmdir ")).collect();
            let is_in_use = |line: &&str| line.ends_with(" = EBUSY");
            let is_removed = |line: &&str| line.ends_with(" = 0");
            assert!(rmdirs.iter().any(is_in_use) && rmdirs.last().is_some_and(is_removed), "{}", ran.err);
        })
        .differs_in([World::CgroupV2]),
        check("the_formula_is_lit_by_what_was_read_back", [may_make_groups(), needs::user_namespaces()], || {
            let ran = step("step02", ["true"]).ran();
            assert!(ran.err.contains("Container = [cgroup] + [namespace] + rootfs + engine"), "{}", ran.err);
        })
        .differs_in([World::CgroupV2]),
        check("a_step_never_removes_the_group_of_another_that_lives", [may_make_groups()], || {
            // By another name, and in another pid namespace: neither its name nor its pid says that it lives.
            let dir = tempfile::tempdir().expect("tempdir");
            let other_name = dir.path().join("other-name");
            std::os::unix::fs::symlink(program("step02"), &other_name).expect("link");
            let mut renamed = Command::new(&other_name);
            renamed.args(WAIT);
            let renamed = testing::Run::new(renamed).until_ready();
            let inner = program("step02").display().to_string();
            let nested = step("step01", [inner.as_str()].iter().chain(&WAIT)).until_ready();
            for _ in 0..2 {
                assert_eq!(step("step02", ["true"]).ran().code, 0);
                assert_eq!(step("step01", [inner.as_str(), "true"]).ran().code, 125, "its name, step02-1, is taken");
            }
            for live in [renamed, nested] {
                let ran = live.end();
                assert_eq!(ran.code, 0, "{}", ran.err);
            }
        })
        .differs_in([World::CgroupV2]),
        check(
            "a_group_that_another_process_removes_meanwhile_is_empty",
            [may_make_groups(), has_version(Version::V2)],
            || {
                let tree = hierarchies().into_iter().find(|it| it.version == Version::V2).expect("v2");
                let dir = tree.own.join(format!("step02-gone-{}", std::process::id()));
                for _ in 0..2000 {
                    create_dir(&dir).expect("mkdir");
                    std::thread::scope(|scope| {
                        scope.spawn(|| remove_dir(&dir).expect("rmdir"));
                        cgroups::end_all(&dir).expect("there is nothing to end");
                    });
                }
            },
        )
        .differs_in([World::CgroupV2]),
        check(
            "a_tree_that_is_mounted_twice_is_used_where_it_can_be",
            [may_make_groups(), needs::root(), needs::tool("unshare")],
            || {
                let tree = hierarchies().first().expect("a tree").mount.display().to_string();
                let dir = tempfile::tempdir().expect("tempdir");
                let dir = dir.path().display().to_string();
                // What is mounted last is found first: here nobody can write, and here nobody can even look.
                for over in ["mount -o remount,bind,ro \"$2\"", "mount -t tmpfs none \"$2\""] {
                    let script =
                        format!("mount --bind \"$1\" \"$2\" && {over} && shift 2 && exec \"$0\" \"$@\" echo hi");
                    let mut unshare = Command::new("unshare");
                    unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
                    unshare.arg(program("step02")).args([&tree, &dir]).args(testing::VERBOSE);
                    let ran = testing::Run::new(unshare).ran();
                    assert_eq!((ran.code, ran.out.as_str()), (0, "hi\n"), "{over}: {}", ran.err);
                    assert!(ran.err.contains("[cgroup]") && !ran.err.contains(&dir), "{over}: {}", ran.err);
                }
            },
        ),
        check("several_steps_at_once_do_not_disturb_each_other", [controller("pids")], || {
            let run = || {
                let arguments = ["-q", "--pids-limit", "20", "sh", "-c", "echo ready; cat"];
                step("step02", arguments).until_ready()
            };
            let lives: Vec<_> = (0..4).map(|_| run()).collect();
            for live in lives {
                let ran = live.end();
                assert_eq!(ran.code, 0, "{}", ran.err);
            }
        })
        .differs_in([World::CgroupV2]),
        check(
            "on_v2_a_step_that_is_alone_in_its_group_steps_aside",
            [controller_of(Version::V2, "memory"), not_of_systemd()],
            || {
                alone_in_a_group("");
            },
        )
        .differs_in([World::CgroupV2]),
        check(
            "on_v2_an_ordinary_user_has_limits_in_a_group_that_was_delegated",
            [controller_of(Version::V2, "memory"), not_of_systemd(), needs::root(), others_may_run_it()],
            || alone_in_a_group("setpriv --reuid=65534 --regid=65534 --clear-groups"),
        )
        .differs_in([World::CgroupV2]),
        check(
            "a_controller_that_is_not_there_is_no_silence",
            [controller("cpuset").is_none().then(|| "needs a machine without cpuset".to_owned()), may_make_groups()],
            || {
                testing::refuses("step02", &["-q", "--cpuset-cpus", "0", "true"], 125, "cpuset");
            },
        )
        .differs_in([World::CgroupV2]),
        check(
            "a_user_who_may_not_make_groups_gets_a_remedy",
            [writable().is_none().then(|| "needs a user who may not make cgroups".to_owned())],
            || {
                let ran = step("step02", ["true"]).ran();
                assert_eq!(ran.code, 125, "{}", ran.err);
                let advice = if process::remedies::in_docker() { "docker run " } else { "sudo" };
                let wanted = ["error: ", "what to do: ", advice];
                assert!(wanted.iter().all(|part| ran.err.contains(part)), "{}", ran.err);
                assert!(!ran.err.contains("Container ="), "{}", ran.err);
            },
        )
        .differs_in([World::CgroupV2, World::DockerPlain, World::DockerUser]),
        check("a_dry_run_makes_no_group", [], || {
            let ran = narrated("step02", ["--dry-run", "true"]).ran();
            assert_eq!(ran.code, 0, "{}", ran.err);
            assert!(ran.err.contains("mkdir ") && !ran.err.contains("[cgroup]"), "{}", ran.err);
        })
        .differs_in([World::CgroupV2]),
        check("a_dry_run_and_a_real_one_make_the_same_calls", [may_make_groups(), needs::user_namespaces()], || {
            let [dry, real] =
                [["--dry-run", "true"], ["--color=never", "true"]].map(|it| narrated("step02", it).ran().err);
            assert_eq!(testing::calls(&dry), testing::calls(&real));
        })
        .differs_in([World::CgroupV2]),
        check("bad_input_gets_one_sentence", [], || {
            for (option, values) in [
                ("--memory", &["abc", "-1", "0", "1", "18446744073709551616", "9223372036854775807", "64X", ""][..]),
                ("--cpus", &["0", "-1", "1e9", "NaN", "inf", "abc", ""]),
                ("--cpu-shares", &["0", "1", "262145", "-1", "abc"]),
                ("--pids-limit", &["0", "-1", "1.5", "abc", "18446744073709551616"]),
                ("--cpuset-cpus", &["", "a", "3-1", "0-4294967295", ","]),
                ("--device-write-bps", &["", "/dev/null:1M", "/no/such:1M", "/dev/null", "/:1M"]),
                ("--device-read-bps", &["/no/such:1M"]),
            ] {
                for value in values {
                    testing::refuses("step02", &[&format!("{option}={value}"), "true"], 125, option);
                }
            }
        }),
        check("a_paused_step_keeps_nobody_waiting", [may_make_groups(), needs::user_namespaces()], || {
            let pauses = testing::count_pauses(step("step02", ["--pause", "true"]));
            for pause in (0..pauses).step_by(3) {
                let paused = step("step02", ["--pause", "true"]).with(|command| {
                    command.stdin(Stdio::piped());
                });
                let mut paused = paused.spawn();
                let printed = testing::collect(paused.stderr.take().expect("piped"));
                let mut stdin = paused.stdin.take().expect("piped");
                stdin.write_all(&b"\n".repeat(pause)).expect("enter");
                let mut seen = 0;
                while seen <= pause {
                    seen += printed.recv_timeout(testing::PATIENCE).expect("a pause").matches("[Enter]").count();
                }
                let other = step("step02", ["-q", "true"]).ran();
                assert_eq!((other.code, other.err.as_str()), (0, ""), "beside a step at pause {pause}");
                drop(stdin);
                assert_eq!(testing::end_of(&mut paused, testing::PATIENCE), 0);
            }
        }),
        check(
            "after_a_shell_inside_the_terminal_is_the_steps_again",
            [may_make_groups(), needs::user_namespaces(), needs::tool("script"), needs::tool("bash")],
            || {
                // An interactive shell takes the terminal; a step that then waits for Enter must be able to read.
                let mut terminal = Command::new("sh");
                let line = format!("{} --pause=rmdir bash -ic 'exit 7'; echo code \\$?", program("step02").display());
                terminal.args(["-c", &format!("yes '' | head -n 100 | script -qec \"{line}\" /dev/null")]);
                let ran = testing::Run::new(terminal).ran();
                assert!(ran.out.contains("is about to call: rmdir") && ran.out.contains("code 7"), "{ran:?}");
                assert!(!ran.out.contains("is about to call: mkdir"), "only where it was asked for: {ran:?}");
            },
        ),
        check("it_ends_with_the_step_at_every_pause", [may_make_groups(), needs::user_namespaces()], || {
            testing::end_at_every_pause("step02", &[]);
        }),
        check("with_limits_too_it_ends_at_every_pause", [controller("pids"), needs::user_namespaces()], || {
            testing::end_at_every_pause("step02", &["--pids-limit", "20"]);
        })
        .differs_in([World::CgroupV2]),
        check(
            "the_program_gets_every_cpu_of_its_list_whatever_its_caller_had",
            [controller("cpuset"), two_cpus(), needs::tool("taskset")],
            || {
                let [first, last] = two_cpus_of_ours().expect("two");
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &last]).arg(program("step02"));
                command.args(["-q", "--cpuset-cpus", &format!("{first},{last}"), "cat", "/proc/self/status"]);
                let ran = testing::Run::new(command).ran();
                let line = ran.out.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
                let list = cgroups::CpuList::numbers(line);
                assert_eq!(list, cgroups::CpuList::numbers(&format!("{first},{last}")), "{}", ran.err);
            },
        )
        .differs_in([World::CgroupV2]),
        check("the_default_run_fits_on_one_screen", [may_make_groups(), needs::user_namespaces()], || {
            let ran = step("step02", ["true"]).ran();
            assert!(ran.code == 0 && testing::lines_on_screen(&ran.err) <= 24, "{}", ran.err);
            for call in ["mkdir ", "echo ", "rmdir "] {
                assert!(ran.err.contains(&format!("host  {call}")), "{call} is new here: {}", ran.err);
            }
        })
        .differs_in([World::CgroupV2]),
        check("what_is_confirmed_is_one_line", [controller("memory"), controller("pids")], || {
            let ran = step("step02", ["--memory", "64M", "--pids-limit", "20", "true"]).ran();
            let line = ran.err.lines().find(|line| line.starts_with("  ✔ cgroup ")).expect("a line");
            assert!(line.contains(" 64M, ") && line.contains("pids.max 20"), "{line}");
        })
        .differs_in([World::CgroupV2]),
        check("limits_outlive_a_daemon_reload", [systemd_gives_scopes(), controller_of_scope("memory")], || {
            let options = ["--memory", "64M", "--pids-limit", "20"];
            let live = step("step02", options.iter().chain(&WAIT)).until_ready();
            let (_, group) = group_of(live.pid(), "memory", "memory");
            let read = |file: &str| read_to_string(group.join(file)).expect(file).trim().to_owned();
            let limits = || (read("memory.max"), read("pids.max"));
            let wanted = ("67108864".to_owned(), "20".to_owned());
            assert_eq!(limits(), wanted);
            let mut systemctl = Command::new("systemctl");
            systemctl.args(needs::root().map(|_| "--user")).arg("daemon-reload");
            assert!(systemctl.status().expect("systemctl").success());
            // It answers when it has read everything anew; the groups are gone over right after that.
            std::thread::sleep(std::time::Duration::from_secs(2));
            assert_eq!(limits(), wanted, "{}", group.display());
            assert_eq!(live.end().code, 0);
        })
        .differs_in(World::SYSTEMD),
        check("a_scope_of_its_own_changes_nothing_for_the_program", [systemd_gives_scopes()], || {
            let word = testing::random_word();
            let script = "read -r line; echo \"$line $1\"; env; grep SigBlk /proc/self/status; exit 7";
            let run = |command: &mut Command| {
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
                child.stdin.take().expect("piped").write_all(word.as_bytes()).expect("write");
                let output = child.wait_with_output().expect("wait");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                // The shell sets `_`; the id is systemd's name for the scope, and every unit's process has one.
                let is_same = |line: &&str| !line.starts_with("_=") && !line.starts_with("INVOCATION_ID=");
                (output.status.code(), text.lines().filter(is_same).map(str::to_owned).collect::<Vec<_>>())
            };
            // A dollar sign, because systemd-run(1) may replace what looks like a variable.
            let words = ["sh", "-c", script, "sh", "$HOME ${HOME} $$"];
            let plain = run(Command::new(words[0]).args(&words[1..]));
            let contained = run(Command::new(program("step02")).arg("-q").args(words));
            assert_eq!(contained, plain);
        })
        .differs_in(World::SYSTEMD),
        check("where_systemd_delegates_no_cpuset_a_sentence_says_so", [no_cpuset_is_delegated()], || {
            testing::refuses("step02", &["-q", "--cpuset-cpus", "0", "true"], 125, "systemd delegates no more");
        })
        .differs_in([World::SystemdUser]),
    ]
}

/// As `systemd-run --scope -p Delegate=yes` has it: a group with nobody in it but the step, and which is the step's user's.
fn alone_in_a_group(become_user: &str) {
    let tree = hierarchies().into_iter().find(|it| it.version == Version::V2).expect("v2");
    // Below the top: this process's own group cannot pass controllers on as long as this process is in it.
    let outer = tree.mount.join(format!("outer-{}", testing::random_word()));
    let control = tree.mount.join("cgroup.subtree_control");
    let is_passed_on = read_to_string(&control).expect("control").split_whitespace().any(|it| it == "memory");
    if !is_passed_on {
        write(&control, "+memory").expect("pass on");
    }
    create_dir(&outer).expect("mkdir");
    if !become_user.is_empty() {
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            std::os::unix::fs::chown(outer.join(file), Some(65534), Some(65534)).expect("chown");
        }
    }
    let step02 = program("step02");
    let into = format!("echo $$ > {}/cgroup.procs", outer.display());
    let verbose = testing::VERBOSE.join(" ");
    let line = format!("{into}; exec {become_user} {} {verbose} --memory 64M true", step02.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]);
    let ran = testing::Run::new(shell).ran();
    let left = std::fs::read_dir(&outer).expect("outer").flatten().filter(|it| it.path().is_dir()).count();
    let handed_on = read_to_string(outer.join("cgroup.subtree_control")).expect("control");
    testing::wait_until("the outer group is empty", || remove_dir(&outer).is_ok());
    if !is_passed_on {
        write(&control, "-memory").expect("take back");
    }
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(".host/cgroup.procs") && ran.err.contains("[cgroup]"), "{}", ran.err);
    assert_eq!((left, handed_on.trim()), (0, ""));
}

fn hierarchies() -> Vec<Hierarchy> {
    detect(Path::new("/proc"), "self").expect("hierarchies")
}

fn has_version(version: Version) -> Option<String> {
    (!hierarchies().iter().any(|it| it.version == version)).then(|| format!("needs a tree of version {version:?}"))
}

/// That it may make groups, and the default namespaces around them.
fn may_make_groups() -> Option<String> {
    writable().or_else(needs::user_namespaces)
}

fn writable() -> Option<String> {
    (!cgroups::may_make_groups()).then(|| "needs a user who may make cgroups".to_owned())
}

/// By its name on v1; v2 will do as well.
fn controller(name: &str) -> Option<String> {
    let on = |version| controller_of(version, name);
    let reason = on(Version::V1).and_then(|on_v1| on(Version::V2).map(|on_v2| [on_v1, on_v2]));
    // Of two reasons, the one of the version that has the controller.
    let reason =
        reason.map(|reasons| reasons.into_iter().max_by_key(|it| it.contains("a user who")).unwrap_or_default());
    reason.or_else(needs::user_namespaces)
}

fn controller_of(version: Version, name: &str) -> Option<String> {
    if version == Version::V2 && systemd_gives_scopes().is_none() {
        return controller_of_scope(if name == "blkio" { "io" } else { name });
    }
    let name = if version == Version::V2 && name == "blkio" { "io" } else { name };
    let here = hierarchies();
    let has = |it: &Hierarchy| it.version == version && it.controllers.iter().any(|there| there == name);
    match here.iter().find(|it| has(it)) {
        None => Some(format!("needs the {name} controller of cgroup {version:?}")),
        Some(it) => (access(&it.own, AccessFlags::W_OK).is_err())
            .then(|| format!("needs a user who may make groups of the {name} controller ({version:?})")),
    }
}

/// Where the child's group is in the hierarchy with this controller.
fn group_of(pid: nix::unistd::Pid, on_v1: &str, on_v2: &str) -> (Version, PathBuf) {
    let theirs = detect(Path::new("/proc"), &pid.to_string()).expect("hierarchies");
    let has = |it: &&Hierarchy| {
        it.controllers.iter().any(|name| name == if it.version == Version::V1 { on_v1 } else { on_v2 })
    };
    let it = theirs.iter().find(has).expect("a hierarchy");
    (it.version, it.own.clone())
}

/// The number behind these words of a note; 0 where there is none, as nothing was counted.
fn counter(printed: &str, words: &str) -> u64 {
    let Some(line) = printed.lines().find(|line| line.starts_with(words)) else { return 0 };
    line[words.len()..].split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// A kernel may be built, or started, so that it does not count swap.
fn counts_swap() -> Option<String> {
    let all = hierarchies();
    let tree = all.iter().find(|it| it.controllers.iter().any(|name| name == "memory"))?;
    // The top of version 2 has no limits; a group below it does.
    let below = std::fs::read_dir(&tree.mount).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut groups = below.chain([tree.own.clone()]);
    let counts =
        groups.any(|dir| dir.join("memory.swap.max").exists() || dir.join("memory.memsw.limit_in_bytes").exists());
    (!counts).then(|| "needs a kernel that counts swap".to_owned())
}

/// A disk of this machine.
fn block_device() -> Result<String, String> {
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut paths = disks.map(|disk| Path::new("/dev").join(disk.file_name()));
    let is_there = |path: &PathBuf| {
        read_to_string(Path::new("/sys/block").join(path.file_name().unwrap_or_default()).join("size"))
            .is_ok_and(|size| size.trim() != "0")
            && path.exists()
    };
    paths.find(is_there).map(|path| path.display().to_string()).ok_or("needs a disk".to_owned())
}

/// A device that can be opened here, and that is not among those that every container gets.
fn unlisted_device() -> Result<&'static str, String> {
    let known = ["/dev/kmsg", "/dev/loop-control", "/dev/fuse", "/dev/mem"];
    let first_user_namespace = process::sys::in_first_user_namespace();
    let device = known.into_iter().find(|path| first_user_namespace && std::fs::File::open(path).is_ok());
    device.ok_or("needs a device like /dev/kmsg that it may open".to_owned())
}

/// On a single one, the process that starts the other runs on, and wins the race after all.
fn processors() -> Option<String> {
    let alone = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
    alone.then(|| "needs two processors, to lose a race".to_owned())
}

/// In a home directory that is closed to others, only its owner can run what was built there.
fn others_may_run_it() -> Option<String> {
    let mut try_it = Command::new("setpriv");
    try_it.args(["--reuid=65534", "--regid=65534", "--clear-groups", "test", "-x"]).arg(program("step02"));
    let may = try_it.output().is_ok_and(|tried| tried.status.success());
    (!may).then(|| "needs setpriv, and a directory that other users may enter".to_owned())
}

/// Two CPUs that this process may use.
fn two_cpus_of_ours() -> Option<[String; 2]> {
    let status = proc(nix::unistd::Pid::this(), "status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let numbers = cgroups::CpuList::numbers(list)?;
    let (first, last) = (numbers.first()?, numbers.last()?);
    (first != last).then(|| [first.to_string(), last.to_string()])
}

fn two_cpus() -> Option<String> {
    two_cpus_of_ours().is_none().then(|| "needs two CPUs".to_owned())
}

/// A machine where systemd owns the tree of v2, and gives this user a scope.
fn systemd_gives_scopes() -> Option<String> {
    (!cgroups::is_owned_by_systemd())
        .then(|| "needs cgroup v2 alone, and a systemd that can be asked for a scope".to_owned())
}

/// There, a step would not stay in the group that a test has made for it.
fn not_of_systemd() -> Option<String> {
    cgroups::is_owned_by_systemd().then(|| "needs a tree that systemd does not own".to_owned())
}

/// What a scope of systemd's has: for root all of the tree's, for an ordinary user what the user's manager has.
fn controller_of_scope(name: &str) -> Option<String> {
    let Some(tree) = hierarchies().into_iter().find(|it| it.version == Version::V2) else {
        return Some("needs cgroup v2".to_owned());
    };
    let uid = nix::unistd::getuid();
    let manager = format!("user.slice/user-{uid}.slice/user@{uid}.service");
    let dir = if uid.is_root() { tree.mount } else { tree.mount.join(manager) };
    let words = read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let has = words.split_whitespace().any(|word| word == name);
    (!has).then(|| format!("needs a systemd that delegates the {name} controller"))
}

fn no_cpuset_is_delegated() -> Option<String> {
    let has = controller_of_scope("cpuset").is_none();
    systemd_gives_scopes().or_else(|| has.then(|| "needs a systemd that delegates no cpuset".to_owned()))
}
