//! Step 05, run as a learner runs it, and looked at from the host.

#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/home.rs"]
mod home;
#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/killed.rs"]
mod killed;
mod ordinary;
mod refused;
mod user;

use std::fs::{create_dir, read_to_string, set_permissions, write};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use home::{Home, alive, rootfs};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use testing::{Check, World, calls, check, needs, proc, program, step, wait_until};

fn main() -> ExitCode {
    // Made once, before the tests run in processes of their own.
    let root = rootfs();
    if range().is_none() && idmap().is_some() {
        // The other way to a root that belongs to a range: its files do.
        give(&root, 100_000);
    }
    let code = testing::run("step05", checks());
    home::remove_rootfs();
    code
}

/// A root who has a range of ids to give.
fn range() -> Option<String> {
    let nested = (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned());
    let has_line =
        |file: &str| read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.starts_with("root:")));
    let other = ["/etc/subuid", "/etc/subgid"].into_iter().any(has_line);
    let other = other.then(|| "needs a root whose range is the usual one".to_owned());
    needs::root().or_else(needs::user_namespaces).or(nested).or(other)
}

/// And temporary files on a file system that takes a map.
fn idmap() -> Option<String> {
    static TRIED: OnceLock<Option<String>> = OnceLock::new();
    let tried = || {
        let home = tempfile::tempdir().expect("tempdir");
        let root = rootfs().display().to_string();
        let run = step("step05", ["-q", "run", "--rm", "--rootfs", &root, "true"]);
        let ran = run.with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path())).ran();
        ran.err.contains("takes no map of ids").then(|| "needs a file system that takes a map of ids".to_owned())
    };
    range().or_else(|| TRIED.get_or_init(tried).clone())
}

/// A copy of the root that is the test's own.
fn copy_of_root() -> tempfile::TempDir {
    let dir = testing::tempdir();
    let copied = Command::new("cp").arg("-a").arg(rootfs()).arg(dir.path().join("rootfs")).status().expect("cp");
    assert!(copied.success());
    dir
}

/// Gives a root to the ids of a container: `chown -hR`.
fn give(root: &Path, id: u32) {
    let given = Command::new("chown").args(["-hR", &format!("{id}:{id}")]).arg(root).status().expect("chown");
    assert!(given.success());
}

/// The calls that this step makes.
const OWN: &str = "--pause=open_tree,echo '0,mount_setattr,setgroups,setres,prctl,move_mount,fchdir,execve";

fn checks() -> Vec<Check> {
    let mut checks = vec![
        check("root_inside_is_nobody_outside", [range()], root_inside_is_nobody_outside).differs_in(World::SLOW),
        check("a_default_run_fits_on_a_screen", [needs::user_namespaces()], || {
            let home = Home::new();
            let ran = home.step(&["run", "--rm", "true"]).ran();
            // Where root has its containers, and the default root; the directories of a test have longer names.
            let shown = ran.err.replace(&home.path().display().to_string(), "/run/user/1000");
            let shown = shown.replace(&rootfs().display().to_string(), "/home/you/container/target/rootfs");
            let lines = testing::lines_on_screen(&shown);
            assert!(ran.code == 0 && lines <= 24, "{lines} lines:\n{}", ran.err);
        })
        .differs_in([World::CgroupV2]),
        check("a_dry_run_prints_the_calls_of_a_run", [range()], || {
            let home = Home::new();
            let words = |dry: &'static [&str]| [dry, &["run", "--rm", "--user", "1000:1000", "true"]].concat();
            let [run, dry] = [&[][..], &["--dry-run"]].map(|option| {
                let ran = home.narrated(&words(option)).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                let own = ["id_map", "open_tree(", "mount_setattr(", "setgroups", "setres", "move_mount(", "fchdir("];
                let calls = calls(&home::without_ids(&ran.err)).into_iter();
                calls.filter(|call| own.iter().any(|name| call.contains(name))).collect::<Vec<_>>()
            });
            assert!(run.iter().any(|call| call.starts_with("child setresuid(N, N, N)")), "{run:?}");
            assert_eq!(run, dry);
        }),
        check("what_root_inside_makes_is_roots_on_the_disk", [idmap()], files_are_mapped)
            .differs_in([World::CgroupV2, World::SystemdRoot]),
        check("a_root_that_belongs_to_the_range_already_is_taken_as_it_is", [range()], || {
            let home = Home::new();
            let root = copy_of_root();
            let dir = root.path().join("rootfs");
            give(&dir, 100_000);
            let root = dir.display().to_string();
            home.ok_with_root(&root, &["run", "--rm", "sh", "-c", "touch /made && chown 5:6 /made"]);
            let made = dir.join("made").metadata().expect("made");
            assert_eq!((made.uid(), made.gid()), (100_005, 100_006));
        }),
        check("files_of_the_hosts_root_in_a_volume_are_not_its_own", [range()], || {
            let home = Home::new();
            let dir = tempfile::tempdir().expect("tempdir");
            let file = dir.path().join("file");
            write(&file, "before").expect("write");
            let volume = format!("{}:/volume", dir.path().display());
            let change = "echo after >/volume/file; rm -f /volume/file; touch /volume/new; chown 0 /volume/file";
            home.step(&["-q", "run", "--rm", "-v", &volume, "sh", "-c", change]).ran();
            assert_eq!(read_to_string(&file).expect("it is there"), "before");
            assert!(!dir.path().join("new").exists());
            // One step earlier they are.
            let earlier =
                step("step04", ["-q", "run", "--rm", "--rootfs", &rootfs().display().to_string(), "-v", &volume]);
            let earlier =
                earlier.with(|command| _ = command.args(["sh", "-c", change]).env("XDG_RUNTIME_DIR", home.path()));
            earlier.ran();
            assert!(dir.path().join("new").exists() && !file.exists());
        }),
        check("a_volume_with_idmap_is_its_own", [idmap()], || {
            let home = Home::new();
            let dir = tempfile::tempdir().expect("tempdir");
            let volume = format!("{}:/volume:idmap", dir.path().display());
            home.ok(&[
                "run",
                "--rm",
                "-v",
                &volume,
                "sh",
                "-c",
                "touch /volume/0; touch /volume/7; chown 7:8 /volume/7",
            ]);
            let owner = |name: &str| {
                let made = dir.path().join(name).metadata().expect(name);
                (made.uid(), made.gid())
            };
            assert_eq!((owner("0"), owner("7")), ((0, 0), (7, 8)));
            let volume = format!("{}:/volume:ro,idmap", dir.path().display());
            let ran = home.step(&["-q", "run", "--rm", "-v", &volume, "touch", "/volume/1"]).ran();
            assert!(ran.code == 1 && ran.err.contains("Read-only"), "{ran:?}");
            // A file, too.
            let volume = format!("{}:/etc/seven:idmap", dir.path().join("7").display());
            assert_eq!(home.ok(&["run", "--rm", "-v", &volume, "stat", "-c", "%u:%g", "/etc/seven"]), "7:8");
        }),
        check("idmap_is_refused_where_there_is_no_range", [needs::user_namespaces()], || {
            let home = Home::new();
            let words = ["run", "--rm", "--namespaces", "mount,pid", "-v", "/usr:/mnt:idmap", "true"];
            home.refuses(&words, if needs::root().is_none() { "takes root" } else { "" });
            let root = rootfs().display().to_string();
            testing::refuses("step03", &["-q", "--rootfs", &root, "-v", "/usr:/mnt:idmap", "true"], 125, "step 05");
        }),
        check("a_root_and_a_volume_below_a_closed_directory_are_mounted", [range()], || {
            let home = Home::new();
            let closed = tempfile::tempdir_in("/tmp").expect("tempdir");
            set_permissions(closed.path(), PermissionsExt::from_mode(0o700)).expect("chmod");
            let root = copy_of_root();
            let dir = closed.path().join("rootfs");
            let moved = Command::new("cp").arg("-a").arg(root.path().join("rootfs")).arg(&dir).status().expect("cp");
            assert!(moved.success());
            if idmap().is_some() {
                give(&dir, 100_000);
            }
            create_dir(closed.path().join("volume")).expect("mkdir");
            write(closed.path().join("volume/file"), "read").expect("write");
            let volume = format!("{}:/volume", closed.path().join("volume").display());
            let words = ["run", "--rm", "-v", &volume, "cat", "/volume/file"];
            assert_eq!(home.ok_with_root(&dir.display().to_string(), &words), "read");
        }),
        check("a_device_node_in_the_root_cannot_be_opened", [idmap()], || {
            let home = Home::new();
            let root = copy_of_root();
            let node = root.path().join("rootfs/zero");
            mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 5)).expect("mknod");
            let root = root.path().join("rootfs").display().to_string();
            let open = ["run", "--rm", "--rootfs", &root, "head", "-c1", "/zero"];
            let ran = home.step(&[&["-q"], &open[..]].concat()).ran();
            assert!(ran.code != 0 && ran.err.contains("Permission denied"), "{ran:?}");
            // One step earlier it can.
            let earlier = step("step04", [&["-q"], &open[..]].concat());
            assert_eq!(earlier.with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path())).ran().code, 0);
        }),
        check("a_process_that_exec_brings_in_is_root_inside_too", [range()], || {
            let home = Home::new();
            let id = home.ok(&["run", "-d", "sleep", "100"]);
            let guest = home.step(&["-q", "exec", &id, "sh", "-c", "echo ready; cat"]).until_ready();
            let inside = deepest(guest.step());
            assert_eq!(ids(inside), ids(home.init(&id)));
            assert_eq!(ids(inside), ["100000", "100000", ""]);
            guest.end();
            home.ok(&["exec", &id, "sh", "-c", "touch /tmp/made && chown 5 /tmp/made && rm /tmp/made"]);
        })
        .differs_in(World::SLOW),
        check("a_program_of_another_user_can_open_dev_stdout_anew", [range()], || {
            let home = Home::new();
            let script = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdout";
            let id = home.ok(&["run", "-d", "--user", "1000:1000", "sh", "-c", script]);
            assert_eq!(home.ok(&["wait", &id]), "1", "it may write there, and not read what others wrote");
            let ran = home.step(&["-q", "logs", &id]).ran();
            assert_eq!(ran.out, "out\n");
            assert!(ran.err.starts_with("err\n") && ran.err.contains("Permission denied"), "{}", ran.err);
        }),
        check("maps_are_as_the_options_say", [range()], || {
            let home = Home::new();
            let root = copy_of_root();
            let dir = root.path().join("rootfs");
            give(&dir, 200_000);
            let root = dir.display().to_string();
            let maps = ["--uidmap", "0:200000:1000", "--uidmap", "1000:300000:10", "--gidmap", "0:200000:7"];
            let id = home.ok_with_root(&root, &[&["run", "-d"], &maps[..], &["sleep", "100"]].concat());
            let map = |name: &str| proc(home.init(&id), name).split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(map("uid_map"), "0 200000 1000 1000 300000 10");
            assert_eq!(map("gid_map"), "0 200000 7");
            home.ok(&["rm", "-f", &id]);
            for (words, word) in [
                (&["--uidmap", "1:100000:5"][..], "no root"),
                (&["--uidmap", "0:100000:5", "--uidmap", "4:7:5"], "in common"),
                (&["--uidmap", "0:1"], "C:H:N"),
                (&["--uidmap", "0:100000:5", "--namespaces", "mount,pid"], "user namespace"),
            ] {
                home.refuses(&[&["run", "--rm", "--rootfs", &root], words, &["true"]].concat(), word);
            }
        }),
        check("what_is_mounted_inside_does_not_appear_on_the_host", [range(), needs::shared_root()], || {
            let home = Home::new();
            let dir = tempfile::tempdir().expect("tempdir");
            let volume = format!("{}:/volume", dir.path().display());
            let script = "mount -t tmpfs none /volume && mount -t tmpfs none /mnt && echo ready && cat";
            let live = home.step(&["-q", "run", "--rm", "-v", &volume, "sh", "-c", script]).until_ready();
            let inside = proc(live.pid(), "mountinfo");
            assert!(inside.contains(" /volume ") && inside.contains(" /mnt "), "{inside}");
            let host = proc(Pid::this(), "mountinfo");
            let places = [dir.path().to_owned(), rootfs()].map(|place| place.display().to_string());
            assert!(!host.lines().any(|line| places.iter().any(|place| line.contains(place))), "{host}");
            live.end();
        }),
        check("a_killed_engine_takes_a_program_of_another_user_along", [range()], || {
            let home = Home::new();
            // Without a pid namespace nothing but the parent-death signal ends it.
            let kinds = "--namespaces=user,mount";
            let words = ["-q", "run", "--user", "1000", kinds, "sh", "-c", "echo ready; exec sleep 1000"];
            let live = home.step(&words).until_ready();
            let inside = live.pid();
            wait_until("it sleeps", || proc(inside, "cmdline").starts_with("sleep"));
            assert_eq!(ids(inside), ["101000", "100000", "100000"]);
            kill(live.step(), Signal::SIGKILL).expect("kill");
            assert_eq!(live.ended().code, 137);
            wait_until("it is gone", || !alive(inside));
        }),
        check("without_a_range_the_ids_are_those_of_step_01_and_it_says_why", [needs::user_namespaces()], || {
            let home = Home::new();
            let root = rootfs().display().to_string();
            let step = program("step05").display().to_string();
            let script = format!("{step} run --rm --rootfs {root} cat /proc/self/uid_map");
            let mut nested = Command::new("unshare");
            nested.args(["--user", "--map-root-user", "sh", "-c", &script]).env("XDG_RUNTIME_DIR", home.path());
            let ran = testing::Run::new(nested).ran();
            let map: Vec<_> = ran.out.split_whitespace().collect();
            assert_eq!(map, ["0", "0", "1"], "{ran:?}");
            assert!(
                ran.err.contains("those of step 01, as this user namespace has no ids 100000 to 165535"),
                "{ran:?}"
            );
        })
        .differs_in([World::CgroupV2]),
        check("a_file_system_that_takes_no_map_is_named_with_the_ways_out", [range()], || {
            let home = Home::new();
            let volume = ["run", "--rm", "-v", "/proc/sys:/mnt:idmap", "true"];
            let ran = home.step(&[&["-q"], &volume[..]].concat()).ran();
            assert!(
                ran.code == 125 && ran.err.contains("of /proc/sys (proc) takes no map of ids: mount_setattr("),
                "{ran:?}"
            );
            assert!(ran.err.contains("chown -hR 100000:100000") && ran.err.contains("--uidmap 0:0:65536"), "{ran:?}");
        }),
        check("a_root_on_overlay_is_named_with_the_ways_out", [range(), overlay()], || {
            let home = Home::new();
            let root = copy_of_root();
            let dir = root.path().join("rootfs");
            give(&dir, 0);
            let overlay = Overlay::new(&dir, root.path());
            let ran = home.step(&["-q", "run", "--rm", "--rootfs", &dir.display().to_string(), "true"]).ran();
            assert!(ran.code == 125 && ran.err.contains("(overlay) takes no map of ids"), "{ran:?}");
            // One of them, and on this very file system: the command that it names.
            let script = ran.err.split('`').find(|it| it.starts_with("rootfs-scripts/")).expect("the script");
            let own = dir.join("own");
            let script = script.replace("DIR", &own.display().to_string());
            let project = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
            let made = Command::new("sh").args(["-c", &script]).current_dir(project).status().expect("sh");
            assert!(made.success(), "{script}");
            home.ok_with_root(&own.display().to_string(), &["run", "--rm", "touch", "/made"]);
            home.ok_with_root(&dir.display().to_string(), &["run", "--rm", "--uidmap", "0:0:65536", "touch", "/made"]);
            drop(overlay);
        }),
        check("a_killed_engine_leaves_nothing_of_a_range", [range()], || {
            let volume = "/usr:/mnt:ro";
            let run = ["run", "--name", "it", "--user", "1000", "-v", volume, "sleep", "0.3"];
            killed::at_every_pause(|_| {}, &run, killed::Who::Engine);
        })
        .differs_in([World::CgroupV2]),
        check("a_killed_monitor_leaves_nothing_of_a_range", [range()], || {
            killed::at_every_pause(|_| {}, &["create", "--name", "it", "--user", "1000", "true"], killed::Who::Monitor);
        }),
        check("killed_at_a_call_of_this_step_they_leave_nothing_of_a_mapped_volume", [idmap()], || {
            let place = tempfile::tempdir().expect("tempdir");
            let volume = format!("{}:/mnt:idmap", place.path().display());
            let run = [OWN, "run", "--name", "it", "--user", "1000", "-v", &volume, "true"];
            killed::at_every_pause(|_| {}, &run, killed::Who::Engine);
            killed::at_every_pause(|_| {}, &run, killed::Who::Monitor);
        }),
        check("a_killed_exec_leaves_nothing_of_another_user", [range()], || {
            let before = |home: &Home| drop(home.ok(&["run", "-d", "--name", "it", "sleep", "100"]));
            let namespace = |pid: Pid| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            let after = |home: &Home| {
                let init = home.init("it");
                let is_guest = |pid: Pid| pid != init && alive(pid) && namespace(pid) == namespace(init);
                let all = || std::fs::read_dir("/proc").expect("/proc").flatten();
                let pids = || all().filter_map(|it| it.file_name().to_str()?.parse().ok().map(Pid::from_raw));
                wait_until("what exec has brought in is gone", || !pids().any(is_guest));
                assert_eq!(home.status("it"), "running");
            };
            for who in [killed::Who::Engine, killed::Who::Child] {
                let exec = [OWN, "exec", "--user", "1000", "it", "true"];
                killed::at_every_pause_then(before, &exec, who, after);
            }
        }),
        check("who_comes_by_exec_is_closed_to_the_containers_root", [range()], closed_to_root_inside),
        check("of_a_crowd_of_containers_none_is_lost_and_none_is_left", [range()], a_crowd).alone(),
    ];
    checks.extend(user::checks().into_iter().chain(ordinary::checks()).chain(refused::checks()));
    checks
}

/// Uid, gid and supplementary groups of a process, as the host has them.
fn ids(process: Pid) -> [String; 3] {
    let status = proc(process, "status");
    ["Uid:", "Gid:", "Groups:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        let numbers: Vec<_> = line.split_whitespace().collect();
        match name {
            "Groups:" => numbers.join(" "),
            _ => {
                assert!(numbers.iter().all(|number| *number == numbers[0]), "{name} {line}");
                numbers[0].to_owned()
            }
        }
    })
}

fn deepest(pid: Pid) -> Pid {
    std::iter::successors(Some(pid), |pid| testing::child_of(*pid)).last().expect("itself")
}

fn overlay() -> Option<String> {
    let kinds = read_to_string("/proc/filesystems").unwrap_or_default();
    (!kinds.contains("\toverlay\n")).then(|| "needs overlayfs".to_owned())
}

/// A directory, covered by an overlay over itself.
struct Overlay<'a>(&'a Path);

impl<'a> Overlay<'a> {
    fn new(dir: &'a Path, beside: &Path) -> Self {
        let [upper, work] = ["upper", "work"].map(|name| beside.join(name));
        [&upper, &work].into_iter().for_each(|dir| create_dir(dir).expect("mkdir"));
        let options = format!("lowerdir={},upperdir={},workdir={}", dir.display(), upper.display(), work.display());
        mount(Some("overlay"), dir, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect("overlay");
        Overlay(dir)
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).expect("umount");
    }
}

/// Eight at a time, each with a user and a word of its own.
fn a_crowd() {
    let home = Home::new();
    let root = rootfs().display().to_string();
    let one = |number: usize| {
        let (user, volume) = (format!("{}", 1000 + number), format!("{root}/usr:/mnt:ro"));
        let script = format!("echo {number} $(id -u) $(id -g)");
        let words = ["-q", "run", "--rm", "--rootfs", &root, "--user", &user, "-v", &volume, "sh", "-c", &script];
        step("step05", words).with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path()))
    };
    let numbers: Vec<_> = (0..testing::some_of(100)).collect();
    for eight in numbers.chunks(8) {
        let runs: Vec<_> = eight.iter().map(|number| (number, one(*number).spawn())).collect();
        for (number, run) in runs {
            let output = run.wait_with_output().expect("wait");
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(out, format!("{number} {} 0\n", 1000 + number), "{err}");
        }
    }
    assert_eq!(home.all(), "");
    assert_eq!(testing::groups_of_steps(), Vec::<String>::new());
}

fn root_inside_is_nobody_outside() {
    let home = Home::new();
    let id =
        home.ok(&["run", "-d", "sh", "-c", "id -u >/tmp/id; setpriv --reuid=33 --regid=33 --clear-groups sleep 100"]);
    let init = home.init(&id);
    let map = |name: &str| proc(init, name).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!((map("uid_map").as_str(), map("gid_map").as_str()), ("0 100000 65536", "0 100000 65536"));
    assert_eq!(ids(init), ["100000", "100000", ""]);
    wait_until("another user runs inside", || {
        testing::child_of(init).is_some_and(|it| proc(it, "cmdline").starts_with("sleep"))
    });
    assert_eq!(ids(testing::child_of(init).expect("sleep")), ["100033", "100033", ""]);
    home.ok(&["exec", &id, "rm", "/tmp/id"]);
}

fn files_are_mapped() {
    let home = Home::new();
    let root = copy_of_root();
    let dir = root.path().join("rootfs");
    let secret = dir.join("secret");
    write(&secret, "a secret").expect("write");
    set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("chmod");
    let tool = dir.join("tool");
    write(&tool, "#!/bin/sh\n").expect("write");
    chown(&tool, Some(33), Some(34)).expect("chown");
    set_permissions(&tool, PermissionsExt::from_mode(0o6755)).expect("chmod");
    let root = dir.display().to_string();
    let script = "cat /secret; touch /made; mkdir /dir; touch /theirs; chown 1000:1001 /theirs; chmod 4755 /made; \
                  stat -c ' %u:%g:%a' /tool; touch /beyond && chown 65536 /beyond || echo no";
    let out = home.ok_with_root(&root, &["run", "--rm", "sh", "-c", script]);
    assert_eq!(out, "a secret 33:34:6755\nno");
    let on_disk = |name: &str| {
        let it = dir.join(name).metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
        (it.uid(), it.gid(), it.mode() & 0o7777)
    };
    assert_eq!(on_disk("made"), (0, 0, 0o4755));
    assert_eq!(on_disk("dir"), (0, 0, 0o755));
    assert_eq!(on_disk("theirs"), (1000, 1001, 0o644));
    assert_eq!(on_disk("tool"), (33, 34, 0o6755), "nothing on the disk was changed for it");
    assert_eq!(on_disk("secret"), (0, 0, 0o600));
}

/// Whose the files below `/proc/PID` are of a process that is about to run a program: one that may look into its memory. Of
/// `exec`'s it must not be one of the container's, as it still has the engine's memory and files. CVE-2019-5736.
fn closed_to_root_inside() {
    let home = Home::new();
    let owner_before_execve = |words: &[&str]| {
        let run = home.narrated(&[&["--pause=execve"], words].concat());
        let mut step = run.with(|command| _ = command.stdin(Stdio::piped())).spawn();
        // The engine's own, of itself, comes first.
        writeln!(step.stdin.as_ref().expect("piped")).expect("Enter");
        let printed = testing::collect(step.stderr.take().expect("piped"));
        while !printed.recv_timeout(testing::PATIENCE).expect("a pause").starts_with("[Enter] the child") {}
        let child = deepest(Pid::from_raw(step.id() as i32));
        assert_eq!(ids(child)[0], "100000", "it is root inside by now");
        let owner = Path::new("/proc").join(child.to_string()).join("status").metadata().expect("status").uid();
        drop(step.stdin.take());
        assert_eq!(testing::end_of(&mut step, testing::PATIENCE), 0);
        owner
    };
    // Nobody is there yet who could look.
    assert_eq!(owner_before_execve(&["run", "--name", "it", "true"]), 100_000);
    let id = home.ok(&["run", "-d", "sleep", "100"]);
    assert_eq!(owner_before_execve(&["exec", &id, "true"]), 0);
    assert_eq!(owner_before_execve(&["exec", "--user", "0", &id, "true"]), 0);
}
