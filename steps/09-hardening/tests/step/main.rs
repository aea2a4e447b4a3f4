//! Step 09, run as a learner runs it, and looked at from the host.

mod calls;
mod escapes;
#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/home.rs"]
mod home;
#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/killed.rs"]
mod killed;
mod others;
mod paths;

use std::path::Path;
use std::process::{Command, ExitCode};

use hardening::capabilities::{Capability, Set};
use home::Home;
use nix::unistd::Pid;
use testing::{Check, World, check, needs, proc};

fn main() -> ExitCode {
    // Made once, before the tests run in processes of their own: a root with the program that tries to escape.
    let root = home::rootfs_with(&["escape"]);
    if range().is_none() {
        // A root that belongs to the range already is taken everywhere, also where the file system takes no map of ids.
        let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(root).status().expect("chown");
        assert!(given.success());
    }
    let code = testing::run(
        "step09",
        [checks(), calls::checks(), paths::checks(), escapes::checks(), others::checks()]
            .into_iter()
            .flatten()
            .collect(),
    );
    home::remove_rootfs();
    code
}

/// The root.
pub fn root() -> String {
    home::rootfs().display().to_string()
}

/// A root with a range of ids of its own.
pub fn range() -> Option<String> {
    let nested = (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned());
    needs::root().or_else(needs::user_namespaces).or(nested)
}

/// The network and the layers are other steps': inside Docker and on User Mode Linux no upper layer can be.
const OTHERS: &[&str] = &["--network", "none", "--no-overlay"];

/// The output of a program in a container with these options; without a network, as that is no part of it.
pub fn run(home: &Home, options: &[&str], command: &[&str]) -> String {
    home.ok(&[&["run", "--rm"], OTHERS, options, command].concat())
}

/// A field of `/proc/PID/status`.
fn field(pid: Pid, name: &str) -> String {
    let status = proc(pid, "status");
    let value = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    value.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn sets(pid: Pid) -> [Set; 5] {
    let set = |name| Set(u64::from_str_radix(&field(pid, name), 16).expect("a mask"));
    ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(set)
}

/// Docker's fourteen, or those of them that this process has itself.
fn fourteen() -> Set {
    Set::of(&[], &[])
}

/// A container of these options that sleeps.
fn sleeping(home: &Home, options: &[&str]) -> String {
    home.ok(&[&["run", "-d"], OTHERS, options, &["sleep", "100"]].concat())
}

/// Does it with a process that `exec` has brought in, while that runs.
fn with_guest(home: &Home, id: &str, options: &[&str], look: impl FnOnce(Pid)) {
    let script = ["sh", "-c", "echo ready; exec cat"];
    let guest = home.step(&[&["-q", "exec", "-i"], options, &[id], &script].concat()).until_ready();
    // The engine, the helper, the guest.
    let helper = testing::child_of(guest.step()).expect("a helper");
    look(testing::child_of(helper).expect("a guest"));
    assert_eq!(guest.end().code, 0);
}

fn checks() -> Vec<Check> {
    let here = [needs::user_namespaces()];
    vec![
        check("a_program_has_dockers_fourteen_capabilities_and_can_get_no_more", here.clone(), || {
            let home = Home::new();
            let id = sleeping(&home, &[]);
            let look = |pid| {
                assert_eq!(sets(pid), [fourteen(), fourteen(), fourteen(), Set(0), Set(0)]);
                assert_eq!(field(pid, "NoNewPrivs"), "1");
                assert_eq!(field(pid, "Seccomp"), "2");
            };
            look(home.init(&id));
            with_guest(&home, &id, &[], look);
        })
        .differs_in(World::SLOW),
        check("in_the_network_of_another_container_it_has_no_more_rights", here.clone(), || {
            let home = Home::new();
            let web = sleeping(&home, &[]);
            let join = ["--no-overlay", "--network", &format!("container:{web}")];
            let id = home.ok(&[&["run", "-d"], &join[..], &["sleep", "100"]].concat());
            let guest = home.init(&id);
            for kind in ["ns/net", "ns/user"] {
                assert_eq!(testing::proc_link(guest, kind), testing::proc_link(home.init(&web), kind));
            }
            assert_eq!(sets(guest), [fourteen(), fourteen(), fourteen(), Set(0), Set(0)]);
            assert_eq!(["NoNewPrivs", "Seccomp"].map(|name| field(guest, name)), ["1", "2"]);
        }),
        check("another_user_has_none_and_nothing_ambient", [range()], || {
            let home = Home::new();
            let id = sleeping(&home, &["--user", "1000", "--cap-add", "NET_ADMIN"]);
            let bounds = Set(fourteen().0 | 1 << Capability::named("NET_ADMIN").expect("a name").number());
            let look = |pid| assert_eq!(sets(pid), [bounds, Set(0), Set(0), Set(0), Set(0)]);
            look(home.init(&id));
            with_guest(&home, &id, &[], look);
            with_guest(&home, &id, &["--user", "0"], |pid| {
                assert_eq!(sets(pid), [bounds, bounds, bounds, Set(0), Set(0)]);
            });
        }),
        check("capabilities_are_added_and_dropped_by_name", here.clone(), || {
            let home = Home::new();
            for (options, wanted) in [
                (&["--cap-drop", "ALL"][..], Set(0)),
                (&["--cap-drop", "all", "--cap-add", "cap_kill"], Set(1 << 5)),
                (&["--cap-drop", "NET_RAW", "--cap-drop", "CAP_CHOWN"], Set(fourteen().0 & !(1 << 13 | 1))),
                (&["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"], Set(Set::ALL.0 & !(1 << 21))),
            ] {
                let status = run(&home, options, &["cat", "/proc/self/status"]);
                let mask =
                    |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a mask").to_owned();
                let masks =
                    ["CapBnd:\t", "CapEff:\t"].map(|name| u64::from_str_radix(&mask(name), 16).expect("a mask"));
                assert_eq!(masks, [wanted.0; 2], "{options:?}");
            }
            home.refuses(&["run", "--rm", "--cap-add", "NOSUCH", "true"], "no capability has this name");
        }),
        check("what_was_found_is_printed_by_name", here.clone(), || {
            let home = Home::new();
            let ran = home.step(&["run", "--rm", "--network", "none", "true"]).ran();
            let line = "  ✔ namespace 14 capabilities, no_new_privs, 2 filters";
            assert!(ran.code == 0 && ran.err.lines().any(|it| it == line), "{}", ran.err);
            let ran = home.narrated(&["run", "--rm", "--network", "none", "true"]).ran();
            let names = "14: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT \
                         MKNOD AUDIT_WRITE SETFCAP";
            assert!(ran.err.lines().any(|it| it.contains("CapEff") && it.ends_with(names)), "{}", ran.err);
        }),
        check("a_hint_of_a_pause_names_the_child_as_the_host_does", here.clone(), || {
            let home = Home::new();
            let run = home.step(&[&["run", "--rm", "--pause=open_tree"], OTHERS, &["true"]].concat());
            let mut run = run.with(|command| _ = command.stdin(std::process::Stdio::piped())).spawn();
            let printed = testing::collect(run.stderr.take().expect("piped"));
            // Enter, as often as is asked; the last line of all comes with the end.
            std::io::Write::write_all(&mut run.stdin.take().expect("piped"), &[b'\n'; 1000]).expect("enter");
            assert_eq!(testing::end_of(&mut run, testing::PATIENCE), 0);
            let hints: Vec<_> = printed.iter().filter(|line| line.contains("second terminal: ")).collect();
            assert!(hints.iter().any(|hint| hint.contains("ls -l /proc/") && hint.contains("/fd")), "{hints:?}");
            assert!(!hints.iter().any(|hint| hint.contains("/proc/1/")), "{hints:?}");
        }),
        check("a_default_run_fits_on_a_screen", here.clone(), || {
            let home = Home::new();
            let _ = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
            let ran = home.step(&["run", "--rm", "true"]).ran();
            let shown = ran.err.replace(&home.data().display().to_string(), "/var/lib");
            let shown = shown.replace(&home.path().display().to_string(), "/run");
            let shown = shown.replace(&home::rootfs().display().to_string(), "/home/you/container/target/rootfs");
            // What is printed once a machine is not counted, nor what is said of what this user may not do here.
            let is_extra = |line: &&str| line.starts_with('#') || line.contains('✘') || line.contains("EACCES");
            let counted: Vec<_> = shown.lines().filter(|line| !is_extra(line)).collect();
            let lines = testing::lines_on_screen(&counted.join("\n"));
            assert!(ran.code == 0 && lines <= 24, "{lines} lines:\n{}", ran.err);
        }),
        check("a_dry_run_prints_the_calls_of_a_run", [range()], || {
            let home = Home::new();
            let words = ["bpf(", "keyctl(", "setrlimit(", "prctl(PR_CAP", "capset(", "seccomp(", "NO_NEW_PRIVS"];
            let [run, dry] = [&[][..], &["--dry-run"]].map(|option| {
                let root = root();
                let words_of_it = [option, &["run", "--rm", "--network", "none", "--rootfs", &root, "true"]].concat();
                let ran = home.narrated(&words_of_it).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                let calls = testing::calls(&home::without_ids(&ran.err)).into_iter();
                calls.filter(|call| words.iter().any(|word| call.contains(word))).collect::<Vec<_>>()
            });
            assert!(run.len() > 30, "{run:?}");
            assert_eq!(run, dry);
        }),
        check("a_setuid_program_gives_no_rights_unless_that_is_asked_for", [range()], || {
            let home = Home::new();
            let setuid = Path::new(&root()).join("tmp/setuid");
            let copied =
                Command::new("cp").args(["-p"]).arg(Path::new(&root()).join("usr/bin/id")).arg(&setuid).status();
            assert!(copied.expect("cp").success());
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
            std::fs::set_permissions(&setuid, mode).expect("chmod");
            let user =
                |option: &[&str]| run(&home, &[&["--user", "1000:1000"], option].concat(), &["/tmp/setuid", "-u"]);
            assert_eq!(user(&[]), "1000");
            assert_eq!(user(&["--security-opt", "no-new-privileges=false"]), "0");
            std::fs::remove_file(setuid).expect("remove");
        }),
        check("privileged_is_as_it_was_before_and_says_so", here.clone(), || {
            let home = Home::new();
            let ran =
                home.step(&["run", "--rm", "--network", "none", "--privileged", "cat", "/proc/self/status"]).ran();
            assert!(ran.code == 0 && ran.err.contains("# privileged: root inside has every right"), "{ran:?}");
            for line in ["NoNewPrivs:\t0", "Seccomp:\t0"] {
                assert!(ran.out.lines().any(|it| it == line) || needs::root().is_some(), "{}", ran.out);
            }
            run(&home, &["--privileged"], &["mount", "-t", "tmpfs", "none", "/mnt"]);
            let before = Path::new("/proc/keys").exists();
            let kinds = run(&home, &["--privileged"], &["stat", "-c", "%F", "/proc/uptime", "/proc/interrupts"]);
            assert!(!before || !kinds.contains("character"), "{kinds}");
            home.refuses(&["run", "--rm", "--privileged", "--cap-drop", "ALL", "true"], "leave one out");
        }),
        check("a_process_has_limits_of_its_own", here.clone(), || {
            let home = Home::new();
            let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc";
            let limits = |options: &[&str]| run(&home, options, &["bash", "-c", script]);
            let (_, hard) =
                nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("getrlimit");
            assert!(limits(&[]).starts_with(&format!("{}\n{hard}\n", hard.min(1024))), "{}", limits(&[]));
            let asked = ["--ulimit", "nofile=64:128", "--ulimit", "core=0"];
            assert_eq!(limits(&asked), "64\n128\n0");
            let id = sleeping(&home, &asked);
            assert_eq!(home.ok(&["exec", &id, "bash", "-c", script]), "64\n128\n0");
            home.refuses(&["run", "--rm", "--ulimit", "nofile=2:1", "true"], "above the hard one");
            home.refuses(&["run", "--rm", "--ulimit", "nofile=1:99999999999", "true"], "EPERM");
        }),
        check("what_is_killed_first_where_memory_runs_out_can_be_said", here.clone(), || {
            let home = Home::new();
            let number = |pid: Pid| proc(pid, "oom_score_adj").trim().to_owned();
            let has_it = |option: &[&str], wanted: &str| {
                let id = sleeping(&home, option);
                assert_eq!(number(home.init(&id)), wanted, "{option:?}");
                with_guest(&home, &id, &[], |guest| assert_eq!(number(guest), wanted, "{option:?}"));
            };
            let own = number(Pid::this());
            has_it(&[], &own);
            has_it(&["--oom-score-adj", "700"], "700");
            // Below the caller's own it is as the kernel says.
            let may = std::fs::write("/proc/self/oom_score_adj", "-1").is_ok();
            std::fs::write("/proc/self/oom_score_adj", &own).expect("as before");
            if may {
                has_it(&["--oom-score-adj", "-700"], "-700");
            } else {
                home.refuses(&["run", "--rm", "--oom-score-adj", "-700", "true"], "EACCES");
            }
        })
        .differs_in([World::CgroupV2]),
        check("an_engine_that_is_killed_leaves_nothing", [range()], || {
            let at = "--pause=bpf,open_tree,keyctl,capset,seccomp";
            let run = [&[at, "run"], OTHERS, &["--name", "it", "--oom-score-adj", "1", "sleep", "0.3"]].concat();
            killed::at_every_pause(|_| {}, &run, killed::Who::Engine);
        }),
        check("of_a_crowd_of_containers_none_is_lost_and_none_is_left", here.clone(), a_crowd).alone(),
        check("the_callers_keys_are_not_inherited", [needs::user_namespaces(), keys()], || {
            let home = Home::new();
            let word = testing::random_word();
            let description = testing::random_word();
            // In a session keyring of this test's own, with a key in it.
            hardening::sys::join_session_keyring().expect("keyctl");
            add_key(&description, &word);
            let inherited = |step: &str| {
                let words = ["-q", "run", "--rm", "--rootfs", &root(), "/usr/local/bin/escape", "keys", &description];
                testing::step(step, words).with(|it| _ = it.env("XDG_RUNTIME_DIR", home.path())).ran().out
            };
            assert_eq!(inherited("step05"), format!("works: {word}\n"));
            let seccomp = ["--security-opt", "seccomp=unconfined"];
            let command = ["/usr/local/bin/escape", "keys", &description];
            assert_eq!(run(&home, &[], &command), "EPERM");
            assert_eq!(run(&home, &seccomp, &command), "ENOKEY");
            let id = sleeping(&home, &seccomp);
            assert_eq!(home.ok(&[&["exec", &id], &command[..]].concat()), "ENOKEY");
        }),
    ]
}

/// Eight at a time, each with a word and a limit of its own.
fn a_crowd() {
    let home = Home::new();
    let one = |number: usize| {
        let (limit, script) = (format!("nofile={}", 100 + number), format!("echo {number} $(ulimit -n)"));
        home.step(&[&["-q", "run", "--rm"], OTHERS, &["--ulimit", &limit, "sh", "-c", &script]].concat()).spawn()
    };
    let numbers: Vec<_> = (0..testing::some_of(100)).collect();
    for eight in numbers.chunks(8) {
        let runs: Vec<_> = eight.iter().map(|number| (number, one(*number))).collect();
        for (number, run) in runs {
            let output = run.wait_with_output().expect("wait");
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(out, format!("{number} {}\n", 100 + number), "{err}");
        }
    }
    assert_eq!(home.all(), "");
}

/// That the kernel keeps keys, and for this user.
fn keys() -> Option<String> {
    let own = std::thread::spawn(hardening::sys::join_session_keyring).join().expect("a thread");
    own.err().map(|error| format!("needs a session keyring: {error}"))
}

fn add_key(description: &str, payload: &str) {
    let (kind, description) = (c"user", std::ffi::CString::new(description).expect("no NUL"));
    let session = libc::KEY_SPEC_SESSION_KEYRING;
    // SAFETY: all that is pointed to outlives the call, and the payload's length is passed beside it.
    let key = unsafe {
        libc::syscall(libc::SYS_add_key, kind.as_ptr(), description.as_ptr(), payload.as_ptr(), payload.len(), session)
    };
    assert!(key > 0, "add_key: {}", nix::errno::Errno::last());
}
