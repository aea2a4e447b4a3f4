//! Ways out that others had, tried against the default, and against what anyone would write first, where they work.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, RenameFlags, fcntl, renameat2};
use nix::unistd::Pid;
use testing::{Check, check, needs, proc, wait_until};

use crate::home::{self, Home};
use crate::{OTHERS, field, sleeping};

pub fn checks() -> Vec<Check> {
    let here = [needs::user_namespaces()];
    vec![
        check("the_engines_program_is_not_overwritten", here.clone(), the_engines_program_is_not_overwritten),
        check("no_descriptor_of_the_callers_leads_out", here.clone(), no_descriptor_of_the_callers_leads_out),
        check("a_process_that_comes_in_cannot_be_traced", here.clone(), a_process_that_comes_in_cannot_be_traced),
        check("a_console_that_is_a_link_leads_nowhere", here.clone(), a_console_that_is_a_link_leads_nowhere),
        check("no_link_that_changes_leads_a_volume_out", here, no_link_that_changes_leads_a_volume_out),
    ]
}

/// CVE-2019-5736.
fn the_engines_program_is_not_overwritten() {
    let home = Home::new();
    let root = home::own_root(&["overwrite_engine"]);
    let rootfs = root.path().join("rootfs");
    let evil = rootfs.join("bin/evil");
    std::fs::write(&evil, "#!/proc/self/exe\n").expect("evil");
    std::fs::set_permissions(&evil, PermissionsExt::from_mode(0o755)).expect("chmod");
    if needs::root().is_none() {
        let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(&rootfs).status().expect("chown");
        assert!(given.success());
    }
    let attacked = |options: &[&str], exec: &dyn Fn(&str)| {
        let root = rootfs.display().to_string();
        let id = home.ok(&[&["run", "-d", "--rootfs", &root], OTHERS, options, &["overwrite_engine"]].concat());
        wait_until("it waits", || home.ok(&["logs", &id]) == "ready");
        exec(&id);
        home.ok(&["wait", &id]);
        home.ok(&["logs", &id])
    };
    let spoilt = |name: &str, of: &str| {
        let copy = root.path().join(name);
        std::fs::copy(testing::program(of), &copy).expect("a copy");
        // As if it were the attacker's own: the range of ids is not what this is about.
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o777)).expect("chmod");
        copy
    };

    let naive = spoilt("naive", "step04_first_try");
    let log = attacked(&["--privileged"], &|id| {
        let mut command = Command::new(&naive);
        command.args([&home.init(id).to_string(), "/", "/bin/evil"]);
        testing::Run::new(command).ran();
    });
    assert_eq!(log, "ready\noverwritten");
    assert!(std::fs::read(&naive).expect("the copy").starts_with(b"#!/bin/sh"), "on the host");

    let engine = spoilt("engine", "step09");
    let before = std::fs::read(&engine).expect("the copy");
    let log = attacked(&[], &|id| {
        let mut command = Command::new(&engine);
        command.args(["-q", "exec", id, "/bin/evil"]).env("XDG_RUNTIME_DIR", home.path());
        let ran = testing::Run::new(command).ran();
        assert!(ran.err.contains("file too short"), "the engine itself has run inside: {}", ran.err);
    });
    assert!(log.starts_with("ready\nrefused: "), "{log}");
    assert!(std::fs::read(&engine).expect("the copy") == before);
}

/// CVE-2024-21626.
fn no_descriptor_of_the_callers_leads_out() {
    let home = Home::new();
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    let word = testing::random_word();
    std::fs::write(dir.path().join("secret"), &word).expect("secret");
    let open = File::open(dir.path()).expect("open");
    fcntl(&open, FcntlArg::F_SETFD(FdFlag::empty())).expect("not close-on-exec");
    let id = sleeping(&home, &[]);

    let number = open.as_raw_fd();
    let mut naive = Command::new(testing::program("step04_first_try"));
    naive.args([&home.init(&id).to_string(), &format!("/proc/self/fd/{number}"), "cat", "secret"]);
    assert_eq!(testing::Run::new(naive).ran().out, word);

    // Every number that could be one of the engine's, too.
    for number in 3..=number.max(9) {
        let workdir = format!("/proc/self/fd/{number}");
        let run = [&["run", "--rm"], OTHERS, &["-w", &workdir]].concat();
        for way in [&run[..], &["exec", "-w", &workdir, &id]] {
            let ran = home.step(&[&["-q"], way, &["sh", "-c", "cat secret; ls -a ..; pwd"]].concat()).ran();
            assert!(ran.code == 125 && ran.out.is_empty(), "{way:?}: {ran:?}");
        }
    }
    let run = [&["run", "--rm"], OTHERS].concat();
    for way in [&run[..], &["exec", &id]] {
        let shown = home.ok(&[way, &["sh", "-c", "ls /proc/self/fd"]].concat());
        assert_eq!(shown, "0\n1\n2\n3", "3 is that of ls itself");
    }
}

/// CVE-2016-9962: until it has become its program, it has what is the host's. As far as it has given up its capabilities, it is
/// like any other process inside but for that.
fn a_process_that_comes_in_cannot_be_traced() {
    comes_in_untraced(&[]);
    // A process that becomes another user for it is not dumpable anyway; this one stays root.
    if crate::range().is_none() {
        comes_in_untraced(&["--uidmap", "0:0:65536", "--gidmap", "0:0:65536"]);
    }
}

fn comes_in_untraced(options: &[&str]) {
    let home = Home::new();
    let id = sleeping(&home, &[&["--cap-add", "SYS_PTRACE"], options].concat());
    let tries = |guest: Pid| {
        let inside = field(guest, "NSpid").split('\t').next_back().expect("a pid").to_owned();
        let script = format!(
            "escape trace {inside}; readlink /proc/{inside}/exe >/dev/null || echo no program; \
             readlink /proc/{inside}/fd/2 >/dev/null || echo no descriptors; : </proc/{inside}/mem && echo memory"
        );
        home.ok(&["exec", &id, "bash", "-c", &format!("exec 2>/dev/null; {script}; true")])
    };
    let mut paused = home.narrated(&["--pause=seccomp", "exec", "-i", &id, "sh", "-c", "echo ready; exec cat"]);
    paused = paused.with(|command| _ = command.stdin(std::process::Stdio::piped()));
    let mut step = paused.spawn();
    let printed = testing::collect(step.stderr.take().expect("piped"));
    loop {
        let line = printed.recv_timeout(testing::PATIENCE).expect("a pause");
        if line.starts_with("[Enter]") {
            break;
        }
    }
    let helper = testing::child_of(Pid::from_raw(step.id() as i32)).expect("a helper");
    let guest = testing::child_of(helper).expect("a guest");
    assert_eq!(field(guest, "NoNewPrivs"), "1", "it has given up the rest");
    assert_eq!(tries(guest), "EPERM\nno program\nno descriptors");

    // It goes on, and is any program.
    let mut stdin = step.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, b"\n\n\n").expect("enter");
    wait_until("it is cat", || proc(guest, "cmdline").starts_with("cat"));
    assert_eq!(tries(guest), "works: \nmemory");
    drop(stdin);
    step.wait().expect("wait");
}

/// CVE-2025-52565: the terminal is mounted where `/dev/console` leads, over a file that a mask would have covered.
fn a_console_that_is_a_link_leads_nowhere() {
    let home = Home::new();
    let root = home::own_root(&[]);
    let rootfs = root.path().join("rootfs");
    let dev = rootfs.join("dev");
    std::fs::create_dir_all(&dev).expect("mkdir");
    std::os::unix::fs::symlink("/proc/uptime", dev.join("console")).expect("link");
    if needs::root().is_none() {
        let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(&rootfs).status().expect("chown");
        assert!(given.success());
    }
    let root = rootfs.display().to_string();
    fn start<'o>(root: &'o str, options: &[&'o str]) -> Vec<&'o str> {
        [&["run", "-d", "-t", "--rootfs", root], OTHERS, options, &["sleep", "100"]].concat()
    }
    let id = home.ok(&start(&root, &[]));
    let mounts = proc(home.init(&id), "mountinfo");
    let is_mounted = |at: &str| mounts.lines().any(|line| line.split(' ').nth(4) == Some(at));
    assert!(is_mounted("/dev/console") && !is_mounted("/proc/uptime"), "{mounts}");
    // What anyone would write first follows it.
    let naive = ["sh", "-c", "ln -s /proc/uptime /mnt/console; mount --bind /dev/null /mnt/console; cat /proc/uptime"];
    assert_eq!(home.ok(&[&["run", "--rm", "--privileged", "--rootfs", &root], OTHERS, &naive].concat()), "");
    // A whole directory in the place of this step's.
    let other = tempfile::tempdir().expect("tempdir");
    std::fs::set_permissions(other.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    std::os::unix::fs::symlink("/proc/uptime", other.path().join("console")).expect("link");
    let volume = format!("{}:/dev", other.path().display());
    home.refuses(&start(&root, &["-v", &volume]), "/dev/null");
    std::fs::remove_dir_all(&dev).expect("remove");
    std::os::unix::fs::symlink("/proc", &dev).expect("link");
    home.refuses(&start(&root, &[]), "/dev/null");
}

/// CVE-2021-30465, CVE-2018-15664: the target of a volume is a directory, and a moment later a link to somewhere outside.
fn no_link_that_changes_leads_a_volume_out() {
    let home = Home::new();
    let root = home::own_root(&[]);
    let rootfs = root.path().join("rootfs");
    let outside = root.path().join("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    std::fs::create_dir(rootfs.join("swapped")).expect("mkdir");
    std::os::unix::fs::symlink(&outside, rootfs.join("link")).expect("link");
    let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("chmod");
    [&outside, &rootfs, &rootfs.join("swapped")].into_iter().for_each(|it| open(it));
    if needs::root().is_none() {
        let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(&rootfs).status().expect("chown");
        assert!(given.success());
    }
    // What anyone would write first: make the target from outside.
    std::fs::create_dir(rootfs.join("link/first")).expect("mkdir");
    std::fs::remove_dir(outside.join("first")).expect("it is outside");

    let volume = tempfile::tempdir().expect("tempdir");
    open(volume.path());
    std::fs::write(volume.path().join("mine"), "").expect("file");
    let (ends, swapped) = (AtomicBool::new(false), AtomicU32::new(0));
    let runs = 12;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Relaxed) {
                let (one, other) = (rootfs.join("swapped"), rootfs.join("link"));
                renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).expect("renameat2");
                swapped.fetch_add(1, Relaxed);
            }
        });
        for number in 0..runs {
            let option = format!("{}:/swapped/{number}", volume.path().display());
            let rootfs = rootfs.display().to_string();
            let options = ["-q", "run", "--rm", "--rootfs", &rootfs, "-v", &option];
            let ran = home.step(&[&options[..], OTHERS, &["true"]].concat()).ran();
            assert!([0, 125].contains(&ran.code), "{ran:?}");
            let there = std::fs::read_dir(&outside).expect("outside").next();
            if there.is_some() {
                ends.store(true, Relaxed);
            }
            assert!(there.is_none(), "{there:?}");
        }
        ends.store(true, Relaxed);
    });
    assert!(swapped.load(Relaxed) > runs);
}
