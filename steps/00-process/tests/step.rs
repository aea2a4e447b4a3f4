//! Step 00, run as a learner runs it, and looked at from outside.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use testing::{Check, World, check, narrated, needs, program, step};

fn main() -> ExitCode {
    testing::run("step00", checks())
}

/// Debian's.
const NOBODY: u32 = 65_534;

/// A user of this name, who may run the program; and files to cover.
fn nobody() -> Option<String> {
    let is_there = ["/etc/subuid", "/etc/subgid"].into_iter().find(|file| !std::path::Path::new(file).exists());
    let runs = || std::process::Command::new(program("step00")).arg("--version").uid(NOBODY).gid(NOBODY).output();
    let has_name =
        nix::unistd::User::from_uid(NOBODY.into()).is_ok_and(|user| user.is_some_and(|it| it.name == "nobody"));
    let reason = (!has_name).then(|| "needs a user nobody".to_owned());
    reason.or(is_there.map(|file| format!("needs {file}"))).or_else(|| {
        (!runs().is_ok_and(|it| it.status.success())).then(|| "needs a program that nobody may read".to_owned())
    })
}

/// What `check` of this program says of step 05: who can run it, and why not, or with what less.
fn about_step_05(mut program: std::process::Command) -> (String, String) {
    program.args(["check", "--json"]);
    let ran = testing::Run::new(program).ran();
    let printed: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let text = |name: &str| printed["steps"][5][name].as_str().unwrap_or_default().to_owned();
    assert!(text("step").starts_with("05"), "{printed}");
    (text("works"), text("reason"))
}

fn checks() -> Vec<Check> {
    vec![
        check("the_exit_code_is_the_commands", [], || {
            for code in [0, 1, 7, 125] {
                assert_eq!(step("step00", ["sh", "-c", &format!("exit {code}")]).ran().code, code);
            }
            assert_eq!(step("step00", ["sh", "-c", "kill -9 $$"]).ran().code, 137);
            // A real-time signal: it has a number, and no name of its own.
            assert_eq!(step("step00", ["sh", "-c", "kill -40 $$"]).ran().code, 168);
        }),
        check("standard_output_is_the_commands_alone", [], || {
            let word = testing::random_word();
            let ran = narrated("step00", ["echo", &word]).ran();
            assert_eq!(ran.out, format!("{word}\n"));
            assert!(ran.err.contains("fork()") && ran.err.contains("execve("), "{}", ran.err);
            assert_eq!(step("step00", ["-q", "true"]).ran().err, "");
        })
        .differs_in([World::CgroupV2, World::DockerRoot, World::DockerUser]),
        check("nothing_is_isolated", [], || {
            let mut live = narrated("step00", ["sh", "-c", "echo ready; echo $$; cat"]).until_ready();
            let pid = nix::unistd::Pid::from_raw(live.line().trim().parse().expect("a pid"));
            for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
                let file = format!("ns/{kind}");
                assert_eq!(testing::proc_link(pid, &file), testing::proc_link(live.step(), &file));
            }
            let printed = live.end().err;
            assert!(printed.contains("Container = cgroup + namespace + rootfs + engine"), "{printed}");
        })
        .differs_in(World::SLOW),
        check("a_default_run_fits_on_a_screen_and_names_what_is_the_same", [], || {
            let ran = step("step00", ["true"]).ran();
            assert!(ran.code == 0 && testing::lines_on_screen(&ran.err) <= 24, "{}", ran.err);
            let (shown, named) = ran.err.split_once("the same for both").expect("both parts");
            let begins = |text: &str, word: &str| text.lines().any(|line| line.trim_start().starts_with(word));
            for what in ["pid ", "state ", "parent "] {
                assert!(begins(shown, what), "{what}: {}", ran.err);
            }
            for term in ["cgroup ", "namespace ", "rootfs ", "rights "] {
                assert!(begins(named, term), "{term}: {}", ran.err);
            }
            let whole = narrated("step00", ["true"]).ran().err;
            for kind in ["ipc ", "mnt ", "uid ", "mounts "] {
                assert!(begins(&whole, kind) && !begins(&ran.err, kind), "{kind}: {whole}");
            }
        })
        .differs_in([World::CgroupV2]),
        check("look_shows_what_the_kernel_says", [], || {
            let mut sleep = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
            let pid = nix::unistd::Pid::from_raw(sleep.id() as i32);
            let ran = step("step00", ["look", &pid.to_string()]).ran();
            for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
                let link = testing::proc_link(pid, &format!("ns/{kind}"));
                let inode = link.trim_end_matches(']').rsplit('[').next().expect("an inode");
                let mut rows = ran.out.lines().filter(|line| line.trim_start().starts_with(&format!("{kind} ")));
                assert!(rows.any(|row| row.contains(inode)), "{kind} {inode}: {}", ran.out);
            }
            sleep.kill().and_then(|()| sleep.wait()).expect("kill");
            assert_eq!(ran.code, 0);
        })
        .differs_in([World::CgroupV2, World::DockerRoot, World::DockerUser]),
        check("look_distinguishes_two_processes", [needs::user_namespaces()], || {
            let live = step("step01", ["sh", "-c", "echo ready; cat"]).until_ready();
            let pid = live.pid().to_string();
            let ran = step("step00", ["look", "self", &pid]).ran();
            for kind in ["ipc", "mnt", "net", "pid", "user", "uts"] {
                let mut rows = ran.out.lines().filter(|line| line.trim_start().starts_with(&format!("{kind} ")));
                assert!(rows.any(|row| row.contains('≠')), "{kind}: {}", ran.out);
            }
            live.end();
        }),
        check("what_look_may_not_read_it_says", [needs::ordinary_user(), another_users_first_process()], || {
            let ran = step("step00", ["look", "1"]).ran();
            assert_eq!(ran.code, 0, "{}", ran.err);
            assert!(ran.out.contains("not allowed") && ran.out.contains("root may look"), "{}", ran.out);
        })
        .differs_in([World::SystemdUser, World::DockerUser]),
        check("look_refuses_what_is_no_process", [], || {
            for (pid, word) in [
                ("0", "greater than 0"),
                ("-1", "unexpected argument"),
                ("x", "greater than 0"),
                ("4194304", "4194304"),
            ] {
                testing::refuses("step00", &["look", pid], 125, word);
            }
        }),
        check("check_agrees_with_what_the_steps_can_do", [], || {
            let root = Ground::make();
            let ran = step("step00", ["check", "--json"]).with(|it| root.have_store(it)).ran();
            let printed: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
            let claims = printed["steps"].as_array().expect("steps");
            assert_eq!(claims.len(), STEPS.len(), "{printed}");
            for (name, claim) in STEPS.into_iter().zip(claims) {
                assert_eq!(claim["step"].as_str().map(|it| &it[..2]), Some(&name[4..]), "{claim}");
                let run =
                    |options: &[&str]| step(name, root.default_run(name, options)).with(|it| root.have_store(it)).ran();
                let options = options_that_are_needed(claim);
                let (plain, with_them) = (run(&[]), run(&options));
                let runs = claim["works"] == "here";
                // What the default root cannot be, this one is, where it lies on another file system.
                let is_of_another_root = claim["reason"].as_str().is_some_and(|it| it.contains("the default root"));
                let runs_plain = runs && (options.is_empty() || is_of_another_root && plain.code == 0);
                assert_eq!(plain.code == 0, runs_plain, "{name}: {claim} {}", plain.err);
                assert_eq!(with_them.code == 0, runs, "{name} {options:?}: {claim} {}", with_them.err);
            }
            assert_eq!(ran.code == 0, printed["ok"] == true, "{printed}");
            let table = step("step00", ["check"]).with(|it| root.have_store(it)).ran().out;
            assert_eq!(printed["cgroup"]["in_scope"], table.contains("(in a scope"), "{printed}");
        })
        .differs_in(World::SLOW.into_iter().chain([World::DockerPlain])),
        check(
            "check_says_what_to_do_about_a_limit_on_namespaces",
            [needs::user_namespaces(), needs::tool("unshare")],
            || {
                let mut limited = std::process::Command::new("unshare");
                let script = "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$0\" check";
                limited.args(["--user", "--map-root-user", "sh", "-c", script]).arg(program("step00"));
                let table = testing::Run::new(limited).ran().out;
                assert!(table.contains("what to do: a limit on namespaces is reached"), "{table}");
            },
        ),
        check("check_tries_the_file_system_of_the_default_root", [needs::root(), needs::user_namespaces()], || {
            let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target");
            // What it says of step 05, with this program, where one of them lies on a file system that takes no map.
            let dir = testing::tempdir();
            let copy = dir.path().join("step00");
            std::fs::copy(program("step00"), &copy).expect("cp");
            mount(Some("proc"), target, Some("proc"), MsFlags::empty(), None::<&str>).expect("mount");
            let checked = || about_step_05(std::process::Command::new(&copy));
            let (works, reason) = checked();
            umount2(target, MntFlags::MNT_DETACH).expect("umount");
            assert_eq!(works, "here");
            assert!(
                reason.contains("not with the default root: its file system (proc) takes no map of ids"),
                "{reason}"
            );
            assert!(!checked().1.contains("(proc)"));
        }),
        check("check_knows_who_has_a_range", [needs::root(), needs::tool("newuidmap"), nobody()], || {
            let shown = |id: u32, lines: &str| {
                let file = tempfile::NamedTempFile::new_in("/tmp").expect("tempfile");
                std::fs::write(file.path(), lines).expect("write");
                std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644)).expect("chmod");
                let places = ["/etc/subuid", "/etc/subgid"];
                for place in places {
                    mount(Some(file.path()), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
                }
                let mut command = std::process::Command::new(program("step00"));
                command.uid(id).gid(id);
                let (_, reason) = about_step_05(command);
                places.iter().for_each(|place| umount2(*place, MntFlags::MNT_DETACH).expect("umount"));
                reason
            };
            let one_id = "but with one id inside: ";
            assert!(!shown(NOBODY, "nobody:300000:65536\n").contains(one_id));
            assert!(!shown(NOBODY, "65534:300000:65536\n").contains(one_id), "a user is named by its number, too");
            assert!(shown(NOBODY, "6553:300000:65536\n").contains("a line for this user"));
            // newuidmap asks for the name of its caller.
            let nameless = shown(4_123_456, "4123456:300000:65536\n");
            assert!(nameless.contains(one_id) && nameless.contains("a name in /etc/passwd"), "{nameless}");
        }),
        check("inside_docker_check_advises_what_docker_can_do", [needs_docker()], || {
            let table = step("step00", ["check"]).ran().out;
            for remedy in table.lines().filter(|line| line.contains("what to do: ")) {
                assert!(remedy.contains("docker run ") && !remedy.contains("sudo"), "{table}");
            }
            // Docker's filter hides clone3(2), which the kernel has, since it cannot look at the flags.
            let has_filter = testing::proc(nix::unistd::getpid(), "status").contains("Seccomp:\t2");
            assert_eq!(table.contains("clone3 ✘"), has_filter, "{table}");
            assert_eq!(table.contains("seccomp filter"), has_filter, "{table}");
        })
        .differs_in([World::DockerPlain, World::DockerRoot, World::DockerUser]),
        check("a_dry_run_prints_the_same_and_does_nothing", [], || {
            let dir = tempfile::tempdir().expect("tempdir");
            let file = dir.path().join("never");
            let touch = |option| narrated("step00", [option, "touch", &file.display().to_string()]).ran();
            let dry = touch("--dry-run");
            assert!(dry.code == 0 && !file.exists(), "{dry:?}");
            let real = touch("--color=never");
            assert!(real.code == 0 && file.exists(), "{real:?}");
            // Host and child run at the same time.
            let [mut dry, mut real] = [dry, real].map(|ran| testing::calls(&ran.err));
            dry.sort();
            real.sort();
            assert_eq!(dry, real);
        }),
        check("each_line_can_have_its_time", [], || {
            let ran = narrated("step00", ["--times", "sleep", "0.3"]).ran();
            let time_of = |call: &str| {
                let line = ran.err.lines().find(|line| line.contains(call)).expect("a line");
                let (time, rest) = line.split_once(' ').expect("a time");
                assert!(rest.starts_with(call), "{line}");
                time.parse::<f64>().expect("seconds")
            };
            // A minute may end meanwhile.
            let slept = (time_of("# waited for") - time_of("child execve(")).rem_euclid(60.0);
            assert!((0.3..10.0).contains(&slept), "{slept}: {}", ran.err);
        }),
        check("a_command_that_cannot_run_says_why", [], || {
            let dir = tempfile::tempdir().expect("tempdir");
            let file = |name: &str, text: &str, mode: u32| {
                let path = dir.path().join(name);
                std::fs::write(&path, text).expect("write");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
                path.display().to_string()
            };
            testing::refuses("step00", &["-q", "no-such-command"], 127, "not found");
            testing::refuses("step00", &["-q", "/no/such/command"], 127, "ENOENT");
            testing::refuses("step00", &["-q", "/"], 126, "directory");
            testing::refuses("step00", &["-q", ""], 127, "not found");
            testing::refuses("step00", &["-q", &file("plain", "true\n", 0o644)], 126, "EACCES");
            testing::refuses("step00", &["-q", &file("format", "true\n", 0o755)], 126, "ENOEXEC");
            testing::refuses("step00", &["-q", &file("script", "#!/no/sh -e\n", 0o755)], 126, "\"/no/sh\"");
            testing::refuses("step00", &["--no-such-option"], 125, "--no-such-option");
        }),
        check("a_pause_waits_for_enter_and_leaves_the_rest_to_the_program", [], || {
            let word = testing::random_word();
            let pauses = testing::count_pauses(step("step00", ["--pause", "cat"]));
            let input = format!("{}{word}\n", "\n".repeat(pauses));
            let line = format!("printf '{input}' | {} --pause cat", program("step00").display());
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &line]);
            let ran = testing::Run::new(shell).ran();
            assert_eq!(ran.out, format!("{word}\n"), "{}", ran.err);
            assert_eq!(ran.err.lines().filter(|line| line.starts_with("[Enter]")).count(), pauses);
        }),
        check("it_ends_with_the_step", [], || testing::end_at_every_pause("step00", &[])),
        check("of_the_causes_of_eacces_the_true_one_is_named", [needs::own_or_all_ids()], || {
            let dir = tempfile::tempdir().expect("a directory");
            let set_mode = |path: &std::path::Path, mode| {
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
            };
            // The test's own directories, up to that of all temporary files.
            let is_own = |path: &&std::path::Path| path.to_string_lossy().contains("/check-");
            dir.path().ancestors().take_while(is_own).for_each(|path| set_mode(path, 0o755));
            set_mode(dir.path(), 0o755);
            let place = |name: &str| dir.path().join(name);
            std::fs::copy(program("step00"), place("step00")).expect("a copy");
            for (closed, mode) in [("closed", 0o600), ("open", 0o755)] {
                std::fs::create_dir(place(closed)).expect("a directory");
                std::fs::copy("/bin/true", place(closed).join("tool")).expect("a copy");
                set_mode(&place(closed), mode);
            }
            std::fs::write(place("of_others"), "").expect("a file");
            set_mode(&place("of_others"), 0o644 | 0o010);
            std::os::unix::fs::symlink("closed/tool", place("link")).expect("a link");
            std::fs::write(place("script"), format!("#!{}/closed/tool\n", dir.path().display())).expect("a file");
            set_mode(&place("script"), 0o755);
            // As root, by a user to whom the modes apply.
            let run = |words: &[&str]| {
                let mut command = std::process::Command::new(place("step00"));
                command.arg("-q").args(words).env("PATH", place("closed")).current_dir(dir.path());
                if nix::unistd::geteuid().is_root() {
                    std::os::unix::process::CommandExt::uid(&mut command, 65534);
                    std::os::unix::process::CommandExt::gid(&mut command, 65534);
                }
                testing::Run::new(command).ran()
            };
            for (path, code, why) in [
                ("closed/tool", 126, "/closed may not be searched: mode 0600"),
                ("link", 126, "/closed may not be searched: mode 0600"),
                ("script", 126, "/closed/tool\": "),
                ("open", 126, "it is a directory"),
                ("of_others", 126, "mode 0654"),
                ("/dev/null", 126, "it is no regular file"),
            ] {
                let ran = run(&[&dir.path().join(path).display().to_string()]);
                assert!(ran.code == code && ran.err.contains(why), "{path}: {ran:?}");
            }
            let ran = run(&["tool"]);
            assert!(ran.code == 127 && ran.err.contains("closed may not be searched"), "{ran:?}");
            set_mode(&place("closed"), 0o755);
        }),
        check("a_mount_without_exec_is_named", [needs::root()], || {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().display().to_string();
            let flags = nix::mount::MsFlags::MS_NOEXEC;
            nix::mount::mount(Some("none"), dir.path(), Some("tmpfs"), flags, None::<&str>).expect("mount");
            let tool = dir.path().join("tool");
            std::fs::copy("/bin/true", &tool).expect("a copy");
            testing::refuses("step00", &["-q", &tool.display().to_string()], 126, &format!("{path} is mounted noexec"));
            nix::mount::umount(dir.path()).expect("umount");
        }),
        check("a_small_stack_is_enough_or_refused_before_anything_is_made", [needs::user_namespaces()], || {
            let root = Ground::make();
            for name in STEPS {
                let run_after = |command: &str| {
                    let mut shell = std::process::Command::new("sh");
                    shell.args(["-c", &format!("{command}; exec \"$0\" \"$@\"")]).arg(program(name));
                    shell.args(root.default_run(name, &[]));
                    testing::Run::new(shell).with(|it| root.have_store(it)).ran()
                };
                // An ordinary user's step 02 may make no group.
                let (usual, small) = (run_after("true"), run_after("ulimit -s 256"));
                assert_eq!(small.code, usual.code, "{name}: {}", small.err);
                let refused = run_after("ulimit -s 64");
                let sentence = "error: the stack of this process is limited to 64 KiB";
                assert!(refused.code == 125 && refused.err.starts_with(sentence), "{name}: {refused:?}");
            }
        }),
    ]
}

const STEPS: [&str; 10] =
    ["step00", "step01", "step02", "step03", "step04", "step05", "step06", "step07", "step08", "step09"];

/// A root for those steps that give the program one, and a store for those that keep containers.
struct Ground(tempfile::TempDir);

impl Ground {
    fn make() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        testing::make_root(&dir.path().join("root"), &[]);
        Ground(dir)
    }

    fn have_store(&self, command: &mut std::process::Command) {
        command.env("XDG_RUNTIME_DIR", self.0.path()).env("XDG_DATA_HOME", self.0.path());
    }

    /// The arguments of a step that runs `true` as it does by default.
    fn default_run(&self, name: &str, options: &[&str]) -> Vec<OsString> {
        let root = self.0.path().join("root").into_os_string();
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let has_engine = name >= "step04";
        let mut arguments = words(if has_engine { &["run", "--rm"] } else { &[] });
        arguments.extend(words(options));
        if name >= "step03" {
            arguments.extend(["--rootfs".into(), root]);
        }
        arguments.push("true".into());
        arguments
    }
}

/// What `check` says that a step has to be given, as it does not run here without: `but with `--no-overlay` alone`,
/// `give the step the option --namespaces …`, `or --uidmap …`.
fn options_that_are_needed(claim: &serde_json::Value) -> Vec<&str> {
    let [reason, remedy] = ["reason", "remedy"].map(|word| claim[word].as_str().unwrap_or_default());
    let in_reason = reason.split("but with `").skip(1).filter_map(|rest| rest.split_once("` alone"));
    let in_remedy = remedy.split("; ").filter_map(|way| {
        let map = || Some(&way[way.find(" or --uidmap ")? + " or ".len()..]);
        way.strip_prefix("give the step the option ").or_else(map)
    });
    in_reason.map(|(option, _)| option).chain(in_remedy).flat_map(|option| option.split(' ')).collect()
}

fn another_users_first_process() -> Option<String> {
    let is_ours = std::fs::metadata("/proc/1").is_ok_and(|it| it.uid() == nix::unistd::geteuid().as_raw());
    is_ours.then(|| "needs a process 1 of another user".to_owned())
}

fn needs_docker() -> Option<String> {
    (!process::remedies::in_docker()).then(|| "needs to run inside Docker".to_owned())
}
