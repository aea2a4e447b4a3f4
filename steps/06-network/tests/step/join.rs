//! The network of another container, and the user namespace that owns it.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{Check, calls, check, child_of, interfaces, needs, proc, proc_link, step, wait_until};

use crate::home::{self, Home, rootfs};
use crate::killed::{self, Who};
use crate::place::{self, bridged, inside};

const JOIN: [&str; 2] = ["--network", "container:web"];
/// The calls by which a child is born in there.
const BIRTH: &str = "--pause=fork,prctl,setns,clone";

pub fn checks() -> Vec<Check> {
    vec![
        check("the_network_of_another_container_is_shared_with_its_user_namespace", [bridged()], shared),
        check("this_user_shares_a_network", [needs::ordinary_user(), needs::user_namespaces()], || {
            let home = Home::new();
            home.ok(&["run", "-d", "--name", "web", "--network", "none", "sleep", "100"]);
            home.ok(&[&["run", "-d", "--name", "guest"], &JOIN[..], &["sleep", "100"]].concat());
            are_together(home.init("web"), home.init("guest"));
            home.ok(&["exec", "guest", "ip", "address", "add", "192.0.2.7/32", "dev", "lo"]);
            assert!(home.ok(&["exec", "web", "ip", "address"]).contains("192.0.2.7/32"));
        }),
        check("with_the_network_of_another_container_some_options_are_refused", [bridged()], refused),
        check("a_container_finds_the_network_of_another_one_again", [bridged()], again),
        check("a_container_outlives_the_one_whose_network_it_has", [bridged()], || {
            let home = Home::new();
            home.ok(&["run", "-d", "--name", "web", "--uidmap", "0:200000:1000", "sleep", "100"]);
            home.ok(&[&["run", "-d", "--name", "guest"], &JOIN[..], &["sleep", "100"]].concat());
            are_together(home.init("web"), home.init("guest"));
            let user = proc_link(home.init("guest"), "ns/user");
            home.ok(&["rm", "-f", "web"]);
            assert_eq!(interfaces(), ["lo"], "the cable went with the one that had it");
            let left = home.ok(&["exec", "guest", "cat", "/proc/self/net/dev"]);
            assert!(left.contains("lo:") && !left.contains("eth0"), "{left}");
            // Its ids stay: a third one is as much at home there.
            home.ok(&["run", "-d", "--name", "third", "--network", "container:guest", "sleep", "100"]);
            assert_eq!(proc_link(home.init("third"), "ns/user"), user);
            assert_eq!(home.ok(&["exec", "third", "id", "-u"]), "0");
        }),
        check("without_a_user_namespace_another_containers_network_is_joined_as_a_guest", [bridged()], || {
            let home = Home::new();
            home.ok(&["run", "-d", "--name", "web", "--namespaces", "net,mount,pid", "sleep", "100"]);
            let [web, host] = [home.init("web"), Pid::this()];
            assert_eq!(proc_link(web, "ns/user"), proc_link(host, "ns/user"));
            home.ok(&[&["run", "-d", "--name", "guest"], &JOIN[..], &["sleep", "100"]].concat());
            let guest = home.init("guest");
            assert_eq!(proc_link(guest, "ns/net"), proc_link(web, "ns/net"));
            assert_ne!(proc_link(guest, "ns/user"), proc_link(host, "ns/user"), "the host's root is nobody's to share");
            let ran = home.step(&["-q", "exec", "guest", "ip", "link", "set", "lo", "down"]).ran();
            assert!(ran.code != 0 && ran.err.contains("not permitted"), "{ran:?}");
        }),
        check("a_dry_run_prints_the_birth_in_another_containers_network", [bridged()], || {
            let home = Home::new();
            home.ok(&["run", "-d", "--name", "web", "sleep", "100"]);
            let [run, dry] = [&[][..], &["--dry-run"]].map(|option| {
                let ran = home.narrated(&[option, &["run", "--rm"], &JOIN[..], &["true"]].concat()).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                let words = ["fork(", "prctl(", "setns(", "clone(", "_map", "setres", "mount_setattr("];
                let calls = calls(&home::without_ids(&ran.err)).into_iter();
                calls.filter(|call| words.iter().any(|word| call.contains(word))).collect::<Vec<_>>()
            });
            let clone = "child clone(child, stack, CLONE_PARENT|CLONE_NEWNS|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWPID|SIGCHLD, NULL)";
            assert!(run.iter().any(|call| call == clone), "{run:?}");
            assert!(!run.iter().any(|call| call.contains("_map")), "a map is written once: {run:?}");
            assert_eq!(run, dry);
        }),
        check("nobody_inside_looks_into_a_process_that_is_born_there", [bridged(), needs::tool("nsenter")], closed),
        check("a_killed_engine_leaves_nothing_in_another_containers_network", [bridged()], || {
            killed_at_birth(Who::Engine);
        }),
        check("a_killed_helper_leaves_nothing_in_another_containers_network", [bridged()], || {
            killed_at_birth(Who::Monitor); // the first process that the engine makes
        }),
        check("a_key_at_the_birth_in_another_containers_network_ends_the_run", [bridged()], || {
            let run = [&[BIRTH, "run", "--rm", "--name", "it"], &JOIN[..], &["true"]].concat();
            killed::interrupt_at_every_pause(web, &run);
        }),
    ]
}

fn web(home: &Home) {
    home.ok(&["run", "-d", "--name", "web", "sleep", "100"]);
}

/// Both are root over one network; of what else they have, each has its own.
pub fn are_together(one: Pid, other: Pid) {
    for kind in ["user", "net"] {
        assert_eq!(proc_link(one, &format!("ns/{kind}")), proc_link(other, &format!("ns/{kind}")));
    }
    for kind in ["pid", "mnt", "uts", "ipc", "cgroup"] {
        assert_ne!(proc_link(one, &format!("ns/{kind}")), proc_link(other, &format!("ns/{kind}")));
    }
    let ids = |process| {
        let status = proc(process, "status");
        ["Uid", "Gid", "Groups"].map(|name| process::status::field(&status, name).unwrap_or_default().to_owned())
    };
    assert_eq!(ids(one), ids(other));
}

fn shared() {
    let home = Home::new();
    web(&home);
    home.ok(&[&["run", "-d", "--name", "guest"], &JOIN[..], &["sleep", "100"]].concat());
    let (web, guest, monitor) = (home.init("web"), home.init("guest"), home.monitor("guest"));
    are_together(web, guest);
    assert!(proc(guest, "status").contains("Uid:\t100000\t100000\t100000\t100000\n"));
    assert_eq!(child_of(monitor), Some(guest), "its parent is its monitor");
    for kind in ["ns/user", "ns/net"] {
        assert_eq!(proc_link(monitor, kind), proc_link(Pid::this(), kind), "which has stayed outside");
    }
    let of_guest = home.ok(&["exec", "guest", "readlink", "/proc/self/ns/net", "/proc/self/ns/user"]);
    assert_eq!(of_guest, format!("{}\n{}", proc_link(web, "ns/net"), proc_link(web, "ns/user")));
    // On one loopback.
    let _server = inside(web, || place::serve("127.0.0.1:8080", "web"));
    let ask = "exec 3<>/dev/tcp/127.0.0.1/8080; echo >&3; cat <&3";
    assert_eq!(home.ok(&["exec", "guest", "bash", "-c", ask]), "web 127.0.0.1");
    // With the rights of the other's root: over interfaces, and over ports below 1024.
    home.ok(&["exec", "guest", "ip", "address", "add", "192.0.2.7/32", "dev", "lo"]);
    assert!(home.ok(&["exec", "web", "ip", "address"]).contains("192.0.2.7/32"));
    let own = home::own_root(&["greeter"]);
    let dir = own.path().join("rootfs").display().to_string();
    home.ok(&[&["run", "-d", "--name", "greeter", "--rootfs", &dir], &JOIN[..], &["greeter", "80"]].concat());
    let mut word = String::new();
    let mut hear = |mut stream: TcpStream| stream.read_to_string(&mut word).is_ok();
    wait_until("it listens", || TcpStream::connect(("10.6.0.2", 80)).is_ok_and(&mut hear));
    assert_eq!(word, "hello, 10.6.0.1\n");
    // Another user has none of these.
    let reads =
        ["--rm", "--user", "1000:1000", "bash", "-c", "id -u; ip address add 192.0.2.8/32 dev lo 2>/dev/null; echo $?"];
    assert_eq!(home.ok(&[&["run"], &JOIN[..], &reads].concat()), "1000\n2");
    // A volume, and a root, are the container's own.
    let made = testing::tempdir();
    std::os::unix::fs::chown(made.path(), Some(100_000), Some(100_000)).expect("chown");
    let volume = format!("{}:/volume", made.path().display());
    home.ok(&[&["run", "--rm", "-v", &volume], &JOIN[..], &["touch", "/volume/it"]].concat());
    let file = std::fs::metadata(made.path().join("it")).expect("it is there");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&file), 100_000);
    // A clock of its own is no flag of clone(2).
    let time = ["--rm", "--namespaces", "mount,pid,user,time", "readlink", "/proc/self/ns/time"];
    assert_ne!(home.ok(&[&["run"], &JOIN[..], &time].concat()), proc_link(web, "ns/time"));
    assert_eq!(interfaces(), ["lo", "step06", "step06-2"], "they have no cable");
    // They end, and the other one stays as it is.
    home.ok(&["rm", "-f", "guest", "greeter"]);
    assert_eq!(
        (interfaces(), home.status("web")),
        (["lo", "step06", "step06-2"].map(str::to_owned).to_vec(), "running".to_owned())
    );
}

fn refused() {
    let home = Home::new();
    web(&home);
    let refuses = |options: &[&str], word: &str| home.refuses(&[&["run", "--rm"], options, &["true"]].concat(), word);
    let refuses_to_join = |name: &str, word: &str| refuses(&["--network", &format!("container:{name}")], word);
    home.ok(&["create", "--name", "idle", "true"]);
    refuses_to_join("idle", "is created: its network is there as long as it runs");
    home.ok(&["start", "-a", "idle"]);
    refuses_to_join("idle", "is stopped");
    refuses_to_join("nobody", "no container \"nobody\"");
    refuses_to_join("", "a network is bridge");
    home.refuses(&["create", "--name", "self", "--network", "container:self", "true"], "has its own network");
    refuses(&[&JOIN[..], &["--ip", "10.6.0.9"]].concat(), "not on");
    refuses(&[&JOIN[..], &["-p", "81:80"]].concat(), "it listens there");
    // Its ids are the other's.
    for option in ["--uidmap", "--gidmap"] {
        refuses(&[&JOIN[..], &[option, "0:200000:100"]].concat(), "the ids are that one's");
    }
    // Nobody in a shared user namespace may see the pids of the host's.
    refuses(&[&JOIN[..], &["--namespaces", "user,mount"]].concat(), "add `pid`");
    home.ok(&["run", "-d", "--name", "open", "--namespaces", "user,mount,net", "sleep", "100"]);
    refuses_to_join("open", "container open has no pid namespace");
    let root = rootfs().display().to_string();
    let of_step05 = |words: &[&str]| {
        step("step05", [&["-q"], words].concat()).with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path())).ran()
    };
    assert_eq!(of_step05(&["create", "--name", "other", "--rootfs", &root, "true"]).code, 0);
    refuses_to_join("other", "is one of step05");
    assert_eq!(of_step05(&["rm", "other"]).code, 0);
}

/// Each start looks for it anew.
fn again() {
    let home = Home::new();
    web(&home);
    home.ok(&[&["run", "-d", "--name", "guest"], &JOIN[..], &["sleep", "100"]].concat());
    home.ok(&["stop", "-t", "0", "guest"]);
    home.ok(&["start", "guest"]);
    are_together(home.init("web"), home.init("guest"));
    home.ok(&["stop", "-t", "0", "guest", "web"]);
    home.refuses(&["start", "guest"], "container web is stopped");
    assert_eq!((home.status("guest"), interfaces()), ("stopped".to_owned(), vec!["lo".to_owned()]));
    home.ok(&["start", "web"]);
    home.ok(&["start", "guest"]);
    are_together(home.init("web"), home.init("guest"));
    // Killed, its monitor leaves nothing that `clean` would not remove.
    kill(home.monitor("guest"), Signal::SIGKILL).expect("kill");
    wait_until("it is dead", || home.status("guest") == "dead");
    home.ok(&["clean"]);
    assert!(!home.all().contains("\"guest\""), "{}", home.all());
    assert_eq!(home.status("web"), "running");
}

/// Root in the same user namespace, who would even see the pids of the host: what it can say of a process's program.
fn looks_into(web: Pid, process: Pid) -> bool {
    let exe = format!("/proc/{process}/exe");
    let looked = Command::new("nsenter").args(["--user", "--target", &web.to_string(), "readlink", &exe]).output();
    looked.expect("nsenter").status.success()
}

fn closed() {
    let home = Home::new();
    web(&home);
    let web = home.init("web");
    assert!(looks_into(web, web), "it looks into what is its own");
    // Before the helper makes the child, and before that is root inside.
    let run = [&["--pause=clone,setresgid", "run", "--rm"], &JOIN[..], &["true"]].concat();
    let mut step = home.narrated(&run).with(|command| _ = command.stdin(std::process::Stdio::piped())).spawn();
    let printed = testing::collect(step.stderr.take().expect("piped"));
    let mut stdin = step.stdin.take().expect("piped");
    for call in ["clone", "setresgid"] {
        let is_it = |line: &String| line.starts_with("[Enter]") && line.contains(call);
        while !is_it(&printed.recv_timeout(testing::PATIENCE).expect("a pause")) {}
        let process = child_of(Pid::from_raw(step.id() as i32)).expect("a child");
        assert_eq!(proc_link(process, "ns/user"), proc_link(web, "ns/user"));
        assert!(!looks_into(web, process), "at {call}");
        std::io::Write::write_all(&mut stdin, b"\n").expect("enter");
    }
    assert_eq!(testing::end_of(&mut step, testing::PATIENCE), 0);
}

fn killed_at_birth(who: Who) {
    let run = [&[BIRTH, "run", "--name", "it"], &JOIN[..], &["true"]].concat();
    killed::at_every_pause_then(web, &run, who, |home| {
        home.ok(&["clean"]);
        let web = home.init("web");
        let its = proc_link(web, "ns/user");
        // A process that has ended, and that nobody has waited for, still has one.
        let user = |pid: &Pid| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap_or_default();
        let is_there = |pid: &Pid| home::alive(*pid) && user(pid).as_os_str() == its.as_str();
        let all = || {
            std::fs::read_dir("/proc").expect("/proc").flatten().filter_map(|it| it.file_name().to_str()?.parse().ok())
        };
        wait_until("nobody else is in there", || {
            all().map(Pid::from_raw).filter(is_there).collect::<Vec<_>>() == [web]
        });
        assert_eq!(
            (home.status("web"), interfaces()),
            ("running".to_owned(), ["lo", "step06", "step06-2"].map(str::to_owned).to_vec())
        );
    });
}
