//! Step 08, run as a learner runs it: in a terminal, which is a pty of the test's own.

#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/home.rs"]
mod home;
#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/killed.rs"]
mod killed;
#[allow(dead_code)]
#[path = "../../../05-users/tests/step/ordinary.rs"]
mod ordinary;
mod screen;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use home::{Home, alive, rootfs};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use ordinary::{Ordinary, RANGE};
use screen::Screen;
use testing::{Check, World, check, needs, proc, wait_until};

fn main() -> ExitCode {
    rootfs(); // made once, before the tests run in processes of their own
    let code = testing::run("step08", checks());
    home::remove_rootfs();
    code
}

/// `run` or `create` with a terminal: the network is another step's.
fn made<'a>(verb: &'a str, options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["-q", verb, "--network", "none"], options, command].concat()
}

fn on_screen(home: &Home, arguments: &[&str]) -> Screen {
    // Else bash tells the terminal more than what is looked for here.
    Screen::of(home.step(arguments).with(|command| _ = command.env("TERM", "dumb")))
}

fn shell(home: &Home, options: &[&str], shell: &str) -> Screen {
    let mut screen = on_screen(home, &made("run", options, &[shell]));
    screen.expect("# ");
    screen
}

/// For [`ordinary`]: a root who has the ids to give.
fn range() -> Option<String> {
    let nested = (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned());
    needs::root().or_else(needs::user_namespaces).or(nested)
}

/// A root whose containers have users.
fn ordinary_inside() -> Option<String> {
    needs::root().or_else(needs::user_namespaces).or_else(needs::own_or_all_ids)
}

/// For [`ordinary`], whose checks are another step's.
fn ids(_: Pid) -> [String; 3] {
    unreachable!()
}

/// A copy of the root that is the test's own.
fn copy_of_root() -> tempfile::TempDir {
    let dir = testing::tempdir();
    let copied = Command::new("cp").arg("-a").arg(rootfs()).arg(dir.path().join("rootfs")).status().expect("cp");
    assert!(copied.success());
    dir
}

/// A user's terminal can be opened once more, by each of its names, and closed to others, as mesg(1) does.
const OPENS_ITS_TERMINAL: &str =
    "for it in /dev/tty /dev/stdout $(tty); do echo here >$it; done; chmod go-w $(tty) && stat -c %u $(tty)";

/// Those of this step, and some that they stand between.
const NEW_CALLS: &str =
    "--pause=bind,clone,open(,ioctl,mount(\"/dev/pts,setsid,dup2,connect,prctl,fork,setpgid,setresuid,execve,echo … >";

type Way = fn(&Home, &Screen);

const NEEDED: fn() -> [Option<String>; 2] = || [needs::user_namespaces(), needs::tool("bash")];

fn checks() -> Vec<Check> {
    vec![
        // First what takes longest, so that it is not waited for at the end.
        check("a_slow_reader_does_not_stall_the_others_for_ever", NEEDED(), || {
            let home = Home::new();
            let script = "read go; i=0; while [ $i -lt 40000 ]; do echo 0123456789012345678901234567890; i=$((i+1)); done; echo last; read end";
            home.ok(&made("run", &["-dit", "--name", "it"], &["sh", "-c", script])[1..]);
            let mut slow = on_screen(&home, &["-q", "attach", "it"]);
            let mut fast = on_screen(&home, &["-q", "attach", "it"]);
            wait_until("both are raw", || slow.is_raw() && fast.is_raw());
            slow.signal(Signal::SIGSTOP);
            fast.types("\r");
            let since = Instant::now();
            fast.expect("last");
            assert!(since.elapsed() > Duration::from_secs(8), "it was waited for");
            slow.signal(Signal::SIGCONT);
            let code = slow.code();
            assert_eq!((code, slow.is_as_before()), (125, true));
            let shown = slow.rest();
            assert!(shown.contains("was too slow"), "{}", &shown[shown.len().saturating_sub(300)..]);
            fast.types("\r");
            assert_eq!(fast.ended().0, 0);
        }),
        check("a_program_has_a_terminal_of_its_own", NEEDED(), || {
            let home = Home::new();
            let mut screen = shell(&home, &["-it", "--name", "it"], "bash");
            assert!(screen.is_raw());
            assert_eq!(screen.says("tty"), "/dev/pts/0");
            assert_eq!(screen.says("stty size"), "33 101");
            assert_eq!(screen.says("echo here > /dev/tty"), "here");
            assert_eq!(screen.says("echo there > /dev/console"), "there");
            // As the host sees it: the leader of a session, with a controlling terminal.
            let init = home.init("it");
            let stat = proc(init, "stat");
            let fields: Vec<_> = stat.rsplit_once(')').expect("stat").1.split_whitespace().collect();
            assert_eq!(fields[3], init.to_string(), "session");
            assert_ne!(fields[4], "0", "controlling terminal");
            screen.types("exit 5\r");
            assert_eq!(screen.ended().0, 5);
            assert_eq!(home.json("it")["end"]["code"], 5);
        }),
        check("the_window_has_its_size_from_the_first_moment_on", NEEDED(), || {
            let home = Home::new();
            for _ in 0..5 {
                let screen = on_screen(&home, &made("run", &["--rm", "-it"], &["stty", "size"]));
                assert_eq!(screen.ended(), (0, "33 101\r\n".to_owned()));
            }
            let mut screen = shell(&home, &["--rm", "-it"], "bash");
            screen.says("n=none; trap 'n=changed' WINCH");
            screen.resize([40, 90]);
            wait_until("it has heard of it", || screen.says("echo $n; stty size") == "changed\n40 90");
            screen.types("exit\r");
            assert_eq!(screen.ended().0, 0);
        }),
        check("bash_has_job_control", NEEDED(), || job_control("bash")).differs_in([World::SystemdUser]),
        check("another_shell_has_it_too", NEEDED(), || job_control("sh")),
        check(
            "less_draws_a_screen_and_draws_it_again_where_that_changes",
            [needs::user_namespaces(), inside("less")],
            || {
                let home = Home::new();
                let script = "seq -f 'n%g.' 1000 >/numbers; exec less -X /numbers";
                let mut screen =
                    on_screen(&home, &made("run", &["-it", "-e", "TERM=xterm", "--name", "it"], &["sh", "-c", script]));
                screen.expect("n32.");
                screen.is_drawn_at([12, 60], "n11.");
                assert_eq!(until_prompt(&mut screen), "", "it stops there");
                screen.types_until(" ", "n22.");
                assert_eq!(until_prompt(&mut screen), "");
                screen.types("\u{10}\u{11}");
                assert_eq!(screen.ended().0, 0);
                // Another terminal, three times as large, is filled at once.
                let mut screen = on_screen(&home, &["-q", "attach", "it"]);
                assert!(screen.expect("n43.").contains("n12."));
                // It is drawn twice, and less drops a key here, too.
                wait_until("it ends", || {
                    screen.types("q");
                    screen.child.try_wait().expect("wait").is_some()
                });
                assert_eq!(screen.ended().0, 0);
            },
        ),
        check("vi_is_left_and_comes_back", [needs::user_namespaces(), needs::tool("bash"), inside("vi")], vi),
        check("tmux_shows_vi_at_every_size", [needs::user_namespaces(), needs::tool("tmux"), inside("vi")], in_tmux),
        check("the_last_output_is_never_lost", NEEDED(), || {
            let home = Home::new();
            let script =
                "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890; i=$((i+1)); done; echo last";
            for turn in 0..20 {
                let (code, shown) = on_screen(&home, &made("run", &["--rm", "-t"], &["sh", "-c", script])).ended();
                assert_eq!((code, shown.lines().count()), (0, 3001), "turn {turn}");
                assert!(shown.trim_end().ends_with("last"), "turn {turn}");
            }
            let id = home.ok(&made("run", &["-d"], &["sleep", "100"])[1..]);
            for turn in 0..20 {
                let (code, shown) = on_screen(&home, &["-q", "exec", "-t", &id, "sh", "-c", script]).ended();
                assert_eq!((code, shown.lines().count()), (0, 3001), "exec, turn {turn}");
            }
            home.ok(&["rm", "-f", &id]);
            // Nor where the caller has no terminal, as in a CI job, and reads slowly.
            let ran = home.step(&made("run", &["--rm", "-t"], &["sh", "-c", script])).ran();
            assert_eq!((ran.code, ran.out.lines().count()), (0, 3001), "{}", ran.err);
        }),
        check("one_detaches_and_comes_back", NEEDED(), || {
            let home = Home::new();
            let mut screen = shell(&home, &["-it", "--name", "it"], "bash");
            assert_eq!(screen.says("x=kept; echo $x"), "kept");
            screen.types("\u{10}\u{11}");
            let (code, shown) = screen.ended();
            assert_eq!(code, 0, "{shown}");
            assert_eq!(home.status("it"), "running");
            let mut screen = on_screen(&home, &["attach", "it"]);
            wait_until("it is raw", || screen.is_raw());
            assert_eq!(screen.says("echo $x"), "kept");
            screen.types("\u{10}");
            screen.types("\u{11}");
            let (code, shown) = screen.ended();
            assert!(code == 0 && shown.contains("detached: container it goes on"), "{code} {shown}");
            // Another one's keys.
            let screen = on_screen(&home, &["-q", "attach", "--detach-keys", "ctrl-x,y", "it"]);
            wait_until("it is raw", || screen.is_raw());
            screen.types("\u{18}y");
            assert_eq!(screen.ended().0, 0);
            let mut screen = on_screen(&home, &["-q", "attach", "it"]);
            wait_until("it is raw", || screen.is_raw());
            screen.types("exit 3\r");
            screen.expect("exit");
            assert_eq!(screen.ended().0, 3);
            home.refuses(&["attach", "it"], "is not running any more");
        }),
        check("a_single_key_is_passed_on_soon", NEEDED(), || {
            let home = Home::new();
            let script = "stty raw -echo; echo ready; dd bs=1 count=2 2>/dev/null | od -An -tx1";
            let mut screen = on_screen(&home, &made("run", &["--rm", "-it"], &["sh", "-c", script]));
            screen.expect("ready");
            screen.types("\u{10}");
            std::thread::sleep(Duration::from_millis(700)); // longer than it is held back
            screen.types("\u{11}");
            screen.expect("10 11");
            assert_eq!(screen.ended().0, 0);
            let mut screen = on_screen(&home, &made("run", &["--rm", "-it"], &["sh", "-c", script]));
            screen.expect("ready");
            screen.types("\u{10}x");
            screen.expect("10 78");
            assert_eq!(screen.ended().0, 0);
        }),
        check("two_see_and_type_the_same", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("run", &["-dit", "-e", "TERM=dumb", "--name", "it"], &["bash"])[1..]);
            let mut one = on_screen(&home, &["-q", "attach", "it"]);
            let mut two = on_screen(&home, &["-q", "attach", "it"]);
            wait_until("both are raw", || one.is_raw() && two.is_raw());
            one.types("echo a''b\r");
            one.expect("\nab");
            two.expect("\nab");
            two.types("echo c''d\r");
            one.expect("\ncd");
            two.expect("\ncd");
            // One leaves, the other one stays, and the end is for all.
            one.types("\u{10}\u{11}");
            assert_eq!(one.ended().0, 0);
            two.types("exit 4\r");
            assert_eq!(two.ended().0, 4);
        }),
        check("the_log_has_what_a_terminal_shows", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("run", &["-dit", "--name", "it"], &["sh", "-c", "tty; printf end"])[1..]);
            home.ok(&["wait", "it"]);
            assert_eq!(home.ok(&["logs", "it"]), "/dev/pts/0\r\nend");
        }),
        check("exec_has_a_terminal_of_its_own", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("run", &["-dit", "-e", "TERM=dumb", "--name", "it"], &["bash"])[1..]);
            let mut screen = on_screen(&home, &["-q", "exec", "-it", "it", "bash"]);
            screen.expect("# ");
            assert!(screen.is_raw());
            assert_eq!(screen.says("tty"), "/dev/pts/1");
            assert_eq!(screen.says("stty size"), "33 101");
            let nap = nap(100);
            screen.types(&format!("{nap}\r"));
            wait_until_in_front(&nap); // Ctrl-C drops what nobody has read yet
            screen.types("\u{3}");
            screen.expect("^C");
            screen.expect("# ");
            screen.resize([20, 70]);
            wait_until("it has the new size", || screen.says("stty size") == "20 70");
            // A process that stays has the terminal, and is not waited for.
            screen.types("sleep 100 & exit 7\r");
            assert_eq!(screen.ended().0, 7);
            home.ok(&["rm", "-f", "it"]);
        }),
        check("one_detaches_from_exec_and_its_program_goes_on", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("run", &["-d", "--name", "it"], &["sleep", "100"])[1..]);
            // It is to write more than a terminal keeps, while nobody is there.
            let script = "echo ready; read go; i=0; while [ $i -lt 3000 ]; do echo 012345678901234567890; i=$((i+1)); done; echo end >/end; sleep 1000";
            let mut screen = on_screen(&home, &["exec", "-it", "it", "sh", "-c", script]);
            screen.expect("ready");
            wait_until("it is raw", || screen.is_raw());
            let helper = testing::child_of(screen.pid()).expect("a helper");
            screen.types("\r\u{10}\u{11}");
            // The end of its terminal is waited for here: the helper, which only root may look into, has it open no more.
            let (code, shown) = screen.ended();
            assert!(code == 0 && shown.contains("detached: the program goes on"), "{code} {shown}");
            wait_until("it has written all", || home.step(&["-q", "exec", "it", "test", "-s", "/end"]).ran().code == 0);
            // Other keys; and what is left ends with the container.
            let screen = on_screen(&home, &["-q", "exec", "-it", "--detach-keys", "ctrl-x,y", "it", "sleep", "1000"]);
            wait_until("it is raw", || screen.is_raw());
            let other = testing::child_of(screen.pid()).expect("a helper");
            screen.types("\u{18}y");
            assert_eq!(screen.ended().0, 0);
            assert!(alive(helper) && alive(other));
            home.ok(&["rm", "-f", "it"]);
            wait_until("both have ended", || !alive(helper) && !alive(other));
        }),
        check("what_goes_on_after_exec_ends_with_its_helper", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("run", &["-d", "--name", "it"], &["sleep", "100"])[1..]);
            let screen = on_screen(&home, &["-q", "exec", "-it", "it", "sleep", "1000"]);
            wait_until("it is raw", || screen.is_raw());
            let helper = testing::child_of(screen.pid()).expect("a helper");
            let program = testing::child_of(helper).expect("a program");
            screen.types("\u{10}\u{11}");
            assert_eq!(screen.ended().0, 0);
            assert!(alive(program));
            kill(helper, Signal::SIGKILL).expect("kill");
            wait_until("it has ended", || !alive(program));
            // As the host's first process does, which they are left to: their pid namespace ends no sooner.
            let _ = (waitpid(helper, None), waitpid(program, None));
            home.ok(&["rm", "-f", "it"]);
        }),
        check("a_terminal_belongs_to_its_user", [ordinary_inside()], || {
            let home = Home::new();
            let opens = ["sh", "-c", OPENS_ITS_TERMINAL];
            let id = home.ok(&made("run", &["-d"], &["sleep", "100"])[1..]);
            for (user, uid) in [("1000:1000", 1000), ("0", 0)] {
                let shown = format!("here\r\nhere\r\nhere\r\n{uid}\r");
                assert_eq!(home.ok(&made("run", &["--rm", "-t", "--user", user], &opens)[1..]), shown, "run");
                assert_eq!(home.ok(&[&["exec", "-t", "--user", user, &id], &opens[..]].concat()), shown, "exec");
            }
            home.ok(&["rm", "-f", &id]);
        }),
        check("an_ordinary_users_program_has_its_terminal_too", [ordinary::needed()], || {
            let user = Ordinary::new(RANGE);
            let opens = ["sh", "-c", OPENS_ITS_TERMINAL];
            let id = user.ok(&["run", "-d", "--network", "none", "sleep", "100"]);
            for (of, uid) in [("1000:1000", 1000), ("0", 0)] {
                let shown = format!("here\r\nhere\r\nhere\r\n{uid}\r");
                let run = ["run", "--rm", "--network", "none", "-t", "--user", of];
                assert_eq!(user.ok(&[&run, &opens[..]].concat()), shown, "run");
                assert_eq!(user.ok(&[&["exec", "-t", "--user", of, &id], &opens[..]].concat()), shown, "exec");
            }
        }),
        check("a_created_one_is_started_and_attached", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("create", &["-it", "--name", "it"], &["bash"])[1..]);
            for turn in 0..2 {
                let mut screen = on_screen(&home, &["-q", "start", "-ai", "it"]);
                screen.expect("# ");
                assert_eq!(screen.says("stty size"), "33 101", "turn {turn}");
                screen.types("exit 6\r");
                assert_eq!(screen.ended().0, 6);
            }
        }),
        check("without_a_terminal_there_is_one_sentence", NEEDED(), || {
            let home = Home::new();
            home.refuses(&made("run", &["-it"], &["bash"])[1..], "the input device is not a TTY");
            assert_eq!(home.all(), "", "nothing was made");
            home.ok(&made("run", &["-d", "--name", "it"], &["sleep", "100"])[1..]);
            home.refuses(&["exec", "-it", "it", "bash"], "the input device is not a TTY");
            home.refuses(&["attach", "it"], "has no terminal");
            home.refuses(&["start", "-ai", "it"], "no terminal");
            home.refuses(&made("run", &["-it", "--detach-keys", "ctrl-?"], &["bash"])[1..], "no terminal has a key");
            home.ok(&["rm", "-f", "it"]);
        }),
        check("without_i_the_input_is_empty_and_with_it_is_the_callers", NEEDED(), || {
            let home = Home::new();
            let read =
                "if read line; then echo \"got $line\"; else echo nothing; fi; cat /proc/self/stat | cut -d' ' -f7";
            let ran = |options: &[&str]| {
                let step = home.step(&made("run", &[options, &["--rm"]].concat(), &["sh", "-c", read]));
                let given = std::process::Stdio::from(std::fs::File::open("/proc/version").expect("a file"));
                step.with(|command| _ = command.stdin(given)).ran().out
            };
            assert_eq!(ran(&[]), "nothing\n0\n");
            assert!(ran(&["-i"]).starts_with("got Linux version"), "{}", ran(&["-i"]));
            let id = home.ok(&made("run", &["-d"], &["sleep", "100"])[1..]);
            assert_eq!(home.ok(&["exec", &id, "sh", "-c", read]), "nothing\n0");
            home.ok(&["rm", "-f", &id]);
        }),
        check("the_callers_terminal_is_as_it_was_on_every_way_out", NEEDED(), || {
            let ways: [(&str, Way, i32); 6] = [
                ("the container is killed", |home, _| drop(home.ok(&["kill", "it"])), 137),
                ("and removed", |home, _| drop(home.ok(&["rm", "-f", "it"])), 137),
                ("its monitor is killed", |home, _| kill(home.monitor("it"), Signal::SIGKILL).expect("kill"), 125),
                ("SIGTERM", |_, screen| screen.signal(Signal::SIGTERM), 143),
                ("SIGHUP", |_, screen| screen.signal(Signal::SIGHUP), 129),
                ("SIGINT", |_, screen| screen.signal(Signal::SIGINT), 130),
            ];
            for (how, act, expected) in ways {
                let home = Home::new();
                let mut screen = on_screen(
                    &home,
                    &made("run", &["-it", "--name", "it"], &["sh", "-c", "echo ready; exec sleep 100"]),
                );
                screen.expect("ready");
                wait_until("it is raw", || screen.is_raw());
                // The shell would have heard SIGINT, and so been given it.
                wait_until("sleep has begun", || proc(home.init("it"), "comm").trim() == "sleep");
                act(&home, &screen);
                assert_eq!(screen.ended().0, expected, "{how}");
                if how.starts_with("SIG") {
                    assert_eq!(home.status("it"), "running", "{how}: it goes on");
                }
            }
        }),
        check(
            "a_killed_command_leaves_it_raw_and_reset_helps",
            [needs::user_namespaces(), needs::tool("stty")],
            || {
                let home = Home::new();
                let mut screen = shell(&home, &["-it", "--name", "it"], "bash");
                wait_until_it_reads(home.init("it"));
                screen.signal(Signal::SIGKILL);
                screen.code();
                assert!(screen.is_raw());
                screen.run(Command::new("stty").arg("sane"));
                assert!(!screen.is_raw());
                // The container has not noticed.
                let mut screen = on_screen(&home, &["-q", "attach", "it"]);
                screen.expect("# ");
                screen.types("exit\r");
                assert_eq!(screen.ended().0, 0);
            },
        ),
        check("a_program_that_is_late_draws_for_who_attaches", NEEDED(), || {
            let home = Home::new();
            let mut screen = shell(&home, &["-it", "--name", "it"], "bash");
            wait_until_it_reads(home.init("it"));
            screen.signal(Signal::SIGKILL);
            screen.code();
            kill(home.init("it"), Signal::SIGSTOP).expect("kill");
            let mut screen = on_screen(&home, &["-q", "attach", "it"]);
            wait_until("it is raw", || screen.is_raw());
            // Two sizes that are told at once would both be told by then.
            std::thread::sleep(Duration::from_millis(200));
            kill(home.init("it"), Signal::SIGCONT).expect("kill");
            screen.expect("# ");
            assert_eq!(screen.says("stty size"), "33 101");
            screen.types("exit\r");
            assert_eq!(screen.ended().0, 0);
        }),
        check("a_program_that_draws_nothing_has_the_true_size_soon", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("run", &["-dit", "--name", "it"], &["sleep", "100"])[1..]);
            let screen = on_screen(&home, &["-q", "attach", "it"]);
            wait_until("it is raw", || screen.is_raw());
            wait_until("its size is the window's", || {
                home.ok(&["exec", "it", "stty", "-F", "/proc/1/fd/0", "size"]).trim() == "33 101"
            });
            screen.types("\u{10}\u{11}");
            assert_eq!(screen.ended().0, 0);
        }),
        check("a_stopped_command_gives_the_terminal_back_meanwhile", NEEDED(), || {
            let home = Home::new();
            let mut screen = shell(&home, &["--rm", "-it"], "bash");
            screen.signal(Signal::SIGTSTP);
            wait_until("it has stopped", || proc(screen.pid(), "stat").contains(") T "));
            assert!(screen.is_as_before());
            screen.signal(Signal::SIGCONT);
            wait_until("it is raw again", || screen.is_raw());
            assert_eq!(screen.says("echo here"), "here");
            screen.types("exit\r");
            assert_eq!(screen.ended().0, 0);
        }),
        check("nothing_is_typed_into_the_callers_terminal", [needs::user_namespaces()], || {
            let home = Home::new();
            let root = home::own_root(&["typist"]);
            let root = root.path().join("rootfs").display().to_string();
            let typist = ["/usr/local/bin/typist", "id"];
            let tries = |options: &[&str]| {
                let screen = on_screen(&home, &made("run", &[options, &["--rm", "--rootfs", &root]].concat(), &typist));
                let mut screen = screen;
                let code = screen.code();
                (code, screen.unread(), screen.rest())
            };
            for options in [&[][..], &["-i"]] {
                let (code, unread, shown) = tries(options);
                assert_eq!((code, unread), (1, 0), "{options:?}: {shown}");
                assert!(shown.contains("1: Operation not permitted"), "{shown}");
            }
            // With a terminal of its own it reaches that one.
            let (_, unread, shown) = tries(&["-t"]);
            assert_eq!(unread, 0, "{shown}");
        }),
        check("nothing_is_read_from_the_callers_terminal", [needs::user_namespaces()], || {
            let home = Home::new();
            let script = "for fd in 0 1 2; do read line <&$fd && echo \"$fd: $line\"; done; echo end >&2";
            let id = home.ok(&made("run", &["-d"], &["sleep", "100"])[1..]);
            for words in [made("run", &["--rm"], &["sh", "-c", script]), vec!["-q", "exec", &id, "sh", "-c", script]] {
                let mut screen = on_screen(&home, &words);
                screen.types("one\rtwo\rthree\r");
                let shown = screen.expect("end");
                assert!(!["0: ", "1: one", "2: "].iter().any(|read| shown.contains(read)), "{words:?}: {shown}");
                assert!(shown.contains("one"), "what is typed is echoed: {shown}");
                screen.code();
            }
            home.ok(&["rm", "-f", &id]);
        }),
        check("a_detached_one_has_nothing_of_the_callers_terminal", NEEDED(), || {
            let home = Home::new();
            let mut screen = shell(&home, &["-it", "--name", "it"], "bash");
            screen.says("sleep 100 & echo $!");
            let terminal = std::fs::metadata(format!("/proc/{}/fd/0", screen.pid())).expect("a terminal");
            screen.types("\u{10}\u{11}");
            assert_eq!(screen.ended().0, 0);
            for process in [home.init("it"), home.monitor("it")] {
                assert!(has_nothing_of(process, &terminal), "{process}");
            }
            home.ok(&["rm", "-f", "it"]);
        }),
        check("an_init_reaps_and_passes_signals_on", NEEDED(), init),
        check("the_network_of_one_with_an_init_is_shared", NEEDED(), || {
            let home = Home::new();
            home.ok(&made("run", &["-d", "--init", "--name", "web"], &["sleep", "100"])[1..]);
            home.ok(&["run", "-dt", "--init", "--name", "guest", "--network", "container:web", "sleep", "100"]);
            let of = |name: &str| home.ok(&["exec", name, "readlink", "/proc/self/ns/net", "/proc/self/ns/user"]);
            assert_eq!(of("guest"), of("web"));
            home.ok(&["exec", "guest", "ip", "address", "add", "192.0.2.7/32", "dev", "lo"]);
            assert!(home.ok(&["exec", "web", "ip", "address"]).contains("192.0.2.7/32"));
        }),
        check(
            "an_init_can_be_another_user",
            [needs::root(), needs::user_namespaces(), needs::own_or_all_ids()],
            || {
                let home = Home::new();
                let options = ["-d", "--init", "--user", "1000:1000"];
                let id = home.ok(&made("run", &options, &["sleep", "100"])[1..]);
                let ids = proc(home.init(&id), "status");
                assert!(ids.contains("Uid:\t101000\t") || ids.contains("Uid:\t1000\t"), "{ids}");
                // Its environment is its caller's.
                let look = home.step(&["-q", "exec", &id, "cat", "/proc/1/environ"]).ran();
                assert!(look.code == 1 && look.out.is_empty() && look.err.contains("Permission denied"), "{look:?}");
                home.ok(&["kill", "-s", "TERM", &id]);
                wait_until("it has ended", || home.status(&id) == "stopped");
                assert_eq!(home.json(&id)["end"]["code"], 143);
            },
        ),
        check("a_default_run_fits_on_a_screen", NEEDED(), || {
            let home = Home::new();
            let shown = on_screen(&home, &["run", "--rm", "-it", "--network", "none", "true"]).ended().1;
            let shown = shown.replace(&home.path().display().to_string(), "/run");
            let shown = shown.replace(&rootfs().display().to_string(), "/home/you/container/target/rootfs");
            // What this user may not have takes lines of its own.
            let is_why =
                |line: &str| line.starts_with("# ") || line.contains("= EACCES") || line.trim_start().starts_with('✘');
            let counted: Vec<_> = shown.lines().filter(|line| !is_why(line)).map(str::trim_end).collect();
            let lines = testing::lines_on_screen(&counted.join("\n"));
            assert!(lines <= 24, "{lines} lines:\n{shown}");
        }),
        check("a_dry_run_prints_the_calls_of_a_run", NEEDED(), || {
            let home = Home::new();
            let [run, dry] = [&[][..], &["--dry-run"]].map(|option| {
                let run = ["run", "--rm", "-t", "--network", "none", "true"];
                let ran = home.narrated(&[option, &run].concat()).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                let calls = testing::calls(&home::without_ids(&ran.err)).into_iter();
                let is_ours = |call: &String| {
                    ["child open(", "child ioctl(N, T", "setsid", "dup"].iter().any(|it| call.contains(it))
                };
                calls.filter(is_ours).collect::<Vec<_>>()
            });
            assert!(run.iter().any(|call| call.contains("TIOCSCTTY")), "{run:?}");
            assert_eq!(run, dry);
        }),
        check("a_killed_engine_leaves_nothing", NEEDED(), || {
            let run = [NEW_CALLS, "run", "--network", "none", "--name", "it", "-t", "--init", "sleep", "0.2"];
            killed::at_every_pause(|_| {}, &run, killed::Who::Engine);
        }),
        check("a_killed_monitor_leaves_nothing", NEEDED(), || {
            let create = [NEW_CALLS, "create", "--network", "none", "--name", "it", "-it", "--init", "true"];
            killed::at_every_pause(|_| {}, &create, killed::Who::Monitor);
        }),
        check("a_killed_exec_leaves_nothing", NEEDED(), || {
            let before = |home: &Home| drop(home.ok(&made("run", &["-d", "--name", "it"], &["sleep", "100"])[1..]));
            killed::at_every_pause(before, &[NEW_CALLS, "exec", "-t", "it", "true"], killed::Who::Engine);
        }),
        check("a_crowd_at_eight_at_a_time", NEEDED(), || {
            let home = Home::new();
            let mut running: Vec<(usize, Screen)> = Vec::new();
            let all = testing::some_of(100);
            for number in 0..all + 8 {
                if running.len() == 8 || number >= all {
                    let Some((number, screen)) = (!running.is_empty()).then(|| running.remove(0)) else { break };
                    let (code, shown) = screen.ended();
                    // A slow machine's is told that it waits for the others' lock.
                    let own = shown.lines().filter(|line| !line.starts_with("# another step is at work"));
                    assert!(code == 0 && own.eq([format!("n{number}")]), "{number}: {code} {shown:?}");
                }
                if number < all {
                    let word = format!("echo n{number}");
                    running.push((number, on_screen(&home, &made("run", &["--rm", "-it"], &["sh", "-c", &word]))));
                }
            }
            assert_eq!(home.all(), "");
        }),
        check("a_crowd_detached_at_eight_at_a_time", NEEDED(), || {
            let home = Home::new();
            let (all, next) = (testing::some_of(100), AtomicUsize::new(0));
            let one_after_the_other = || {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < all) {
                    let script = format!("tty; echo n{number}");
                    let id = home.ok(&made("run", &["-d", "-t"], &["sh", "-c", &script])[1..]);
                    assert_eq!(home.ok(&["logs", "-f", &id]), format!("/dev/pts/0\r\nn{number}\r"));
                }
            };
            std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(one_after_the_other))));
            wait_until("all have ended", || home.all().matches("\"stopped\"").count() == all);
            home.clear();
        }),
    ]
}

/// Whether a process has no descriptor of a terminal.
fn has_nothing_of(process: Pid, terminal: &Metadata) -> bool {
    let id = |it: &Metadata| (it.dev(), it.ino());
    let fds = std::fs::read_dir(format!("/proc/{process}/fd")).expect("fd").flatten();
    fds.flat_map(|fd| std::fs::metadata(fd.path())).all(|it| id(&it) != id(terminal))
}

/// That the root has this program, which it has from this machine.
fn inside(program: &str) -> Option<String> {
    let path = rootfs().join("bin").join(program);
    (!path.exists()).then(|| format!("needs {program}"))
}

/// What else less shows before it asks, whose prompt is `:` or the file's name.
fn until_prompt(screen: &mut Screen) -> String {
    let shown = screen.expect("\u{1b}[K");
    shown.trim_matches(['\r', '\n', ':']).to_owned()
}

/// Until a shell sleeps, as its prompt is shown a moment before. A signal in that moment it notices with the next key.
fn wait_until_it_reads(shell: Pid) {
    wait_until("the shell waits for a key", || proc(shell, "stat").contains(") S "));
}

/// A command that sleeps for longer than this test takes, and that no other test has.
fn nap(seconds: u32) -> String {
    format!("sleep {seconds}.{}", std::process::id())
}

/// Until a command is what the keys of its terminal go to: a shell has a moment before, and behind it, in which they end nothing.
fn wait_until_in_front(command: &str) {
    let is_in_front = |process: &PathBuf| {
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // The third and the sixth behind the name: its process group, and the one in front. See proc_pid_stat(5).
        fields.get(2) == fields.get(5)
    };
    wait_until(&format!("{command} is in front"), || testing::processes(command).iter().any(is_in_front));
}

fn job_control(name: &str) {
    let home = Home::new();
    let mut screen = shell(&home, &["-it"], name);
    let (first, second) = (nap(100), nap(101));
    screen.types(&format!("{first}\r"));
    wait_until_in_front(&first);
    screen.types("\u{3}");
    screen.expect("^C");
    screen.expect("# ");
    assert_eq!(screen.says("echo $?"), "130", "{name}: Ctrl-C");
    screen.types(&format!("{second}\r"));
    wait_until_in_front(&second);
    screen.types("\u{1a}");
    screen.expect("topped");
    screen.expect("# ");
    assert!(screen.says("jobs").contains("topped"), "{name}: Ctrl-Z");
    screen.types("fg\r");
    screen.expect(&second);
    wait_until_in_front(&second);
    screen.types("\u{1c}");
    screen.expect("^\\");
    screen.expect("# ");
    assert_eq!(screen.says("echo $?"), "131", "{name}: fg, Ctrl-\\");
    // Typed before bash has made its terminal raw, it would arrive as the byte 0.
    screen.expect("# ");
    screen.types("\u{4}");
    let (code, shown) = screen.ended();
    assert!(!shown.contains("job control"), "{shown}");
    assert_eq!(code, 0, "{name}: Ctrl-D");
}

fn vi() {
    let home = Home::new();
    // Of an xterm, vim asks this and that, which nobody here answers.
    let mut screen = on_screen(&home, &made("run", &["--rm", "-it", "-e", "TERM=vt100"], &["bash"]));
    screen.expect("# ");
    screen.says("echo zone >/f");
    screen.types("vi /f\r");
    screen.expect("zone");
    screen.types("x");
    screen.expect("one");
    // Its own shell's job control, and then it draws again.
    screen.types("\u{1a}");
    screen.expect("topped");
    screen.types("fg\r");
    screen.expect("one");
    screen.resize([15, 70]);
    screen.expect("one");
    screen.types(":wq\r");
    screen.expect("written");
    screen.expect("# ");
    assert_eq!(screen.says("cat /f; stty size"), "one\n15 70");
    screen.types("exit\r");
    assert_eq!(screen.ended().0, 0);
}

/// tmux(1) is a terminal that can be asked for what stands on its screen.
fn in_tmux() {
    struct Tmux<'a>(&'a Home);
    impl Tmux<'_> {
        fn command(&self, arguments: &[&str]) -> Command {
            let mut command = Command::new("tmux");
            command.args(["-f", "/dev/null", "-S"]).arg(self.0.path().join("tmux")).args(arguments);
            command.env("XDG_RUNTIME_DIR", self.0.path()).env("XDG_DATA_HOME", self.0.data());
            // What the windows run. Without it, it is the shell in /etc/passwd: for many a user nologin(8), which ends at once.
            command.env("SHELL", "/bin/sh");
            command
        }
    }
    impl Drop for Tmux<'_> {
        fn drop(&mut self) {
            let _ = self.command(&["kill-server"]).output();
        }
    }
    let home = Home::new();
    let terminal = Tmux(&home);
    let tmux = |arguments: &[&str]| {
        let output = terminal.command(arguments).output().expect("tmux");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (step, root) = (testing::program("step08").display().to_string(), rootfs().display().to_string());
    let run = format!(
        "{step} -q run -it --name it -e TERM=screen --network none --rootfs {root} sh -c 'echo sword >/f; exec vi /f'"
    );
    tmux(&["new-session", "-d", "-x", "70", "-y", "20", "sh"]);
    let types = |line: &str| drop(tmux(&["send-keys", line, "Enter"]));
    // vi writes a ~ where a file has no line.
    let shows = |first: &str, rows: usize| {
        wait_until(&format!("{first:?} stands above {rows} empty lines"), || {
            let screen = tmux(&["capture-pane", "-p"]);
            screen.lines().next() == Some(first) && screen.lines().filter(|line| *line == "~").count() == rows
        });
    };
    types(&run);
    shows("sword", 18);
    tmux(&["send-keys", "x"]);
    shows("word", 18);
    for (size, rows) in [(["-x", "50", "-y", "10"], 8), (["-x", "90", "-y", "30"], 28)] {
        tmux(&[&["resize-window"], &size[..]].concat());
        shows("word", rows);
    }
    // What is typed together with them goes nowhere.
    let is_back = || {
        wait_until("the shell is back", || tmux(&["display-message", "-p", "#{pane_current_command}"]).trim() == "sh");
    };
    tmux(&["send-keys", "C-p", "C-q"]);
    is_back();
    // Nobody has cleared the screen.
    types("clear; echo back");
    shows("back", 0);
    assert_eq!(home.status("it"), "running");
    types(&format!("{step} -q attach it"));
    shows("word", 28);
    types(":wq");
    is_back();
    assert_eq!(home.json("it")["end"]["code"], 0);
    types("clear; echo back");
    shows("back", 0);
}

fn init() {
    let home = Home::new();
    let count = |of: &str| {
        let guest = home.ok(&["exec", of, "sh", "-c", "cat /proc/[0-9]*/stat | grep -c ') Z ' || true"]);
        guest.trim().parse::<usize>().expect("a number")
    };
    // Orphans: their parent has ended, and they will, later than the shell that would still wait for them.
    let script = "(sleep 1 & sleep 1 & sleep 1 &); exec sleep 100";
    let plain = home.ok(&made("run", &["-d"], &["sh", "-c", script])[1..]);
    wait_until("there are zombies", || count(&plain) == 3);
    let with = home.ok(&made("run", &["-d", "--init"], &["sh", "-c", script])[1..]);
    let sleeps = || home.ok(&["exec", &with, "ps", "-eo", "comm"]).matches("sleep").count();
    wait_until("there are no others", || sleeps() == 1);
    assert_eq!(count(&with), 0);
    // What it has of its caller's is not for those inside.
    let peek = home.step(&["-q", "exec", &with, "cat", "/proc/1/environ"]).ran();
    assert!(peek.code == 1 && peek.out.is_empty(), "{peek:?}");
    // SIGTERM: the one does not hear it.
    home.ok(&["kill", "-s", "TERM", &plain, &with]);
    wait_until("it has ended", || home.status(&with) == "stopped");
    assert_eq!(home.json(&with)["end"]["code"], 143);
    assert!(alive(home.init(&plain)));
    home.ok(&["rm", "-f", &plain]);
    // Its exit code, and that of no program.
    for (command, code) in [(&["sh", "-c", "exit 9"][..], 9), (&["no-such-program"], 127), (&["/etc"], 126)] {
        assert_eq!(home.step(&made("run", &["--rm", "--init"], command)).ran().code, code, "{command:?}");
    }
    // In its own group, a key's signal reaches it once.
    let script = "trap 'n=$((n+1))' INT; n=0; echo ready; while :; do read line; echo \"n=$n\"; done";
    let mut screen = on_screen(&home, &made("run", &["--rm", "-it", "--init"], &["bash", "-c", script]));
    screen.expect("ready");
    wait_until("it is raw", || screen.is_raw());
    screen.types("\u{3}");
    std::thread::sleep(Duration::from_millis(200));
    screen.types("\r");
    screen.expect("n=1");
    screen.signal(Signal::SIGTERM);
    assert_eq!(screen.ended().0, 143);
    // And a shell has job control.
    let mut screen = shell(&home, &["--rm", "-it", "--init"], "bash");
    assert_eq!(screen.says("echo $$"), "2");
    let nap = nap(100);
    screen.types(&format!("{nap}\r"));
    wait_until_in_front(&nap);
    screen.types("\u{1a}");
    screen.expect("Stopped");
    screen.expect("# ");
    screen.types("fg\r");
    screen.expect(&format!("\n{nap}"));
    wait_until_in_front(&nap);
    screen.types("\u{3}");
    screen.expect("^C");
    screen.expect("# ");
    screen.types("exit 2\r");
    assert_eq!(screen.ended().0, 2);
}
