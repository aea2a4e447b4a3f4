//! `--user`: who a name of the container's is, also where its files are hostile.

use std::fs::{File, create_dir, read_to_string, remove_file, write};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::mkfifo;
use testing::{Check, World, check, needs, proc};

use crate::home::{self, Home};
use crate::{copy_of_root, deepest, idmap, ids, range};

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nada:x:1000:1001::/home/ada:/bin/sh\n";
const GROUP: &str = "root:x:0:\nada:x:1001:\nlog:x:4:ada,bob\nmail:x:8:ada\n";

/// A root with these two users, and its directory.
fn root_with_users() -> (tempfile::TempDir, String) {
    let root = copy_of_root();
    let dir = root.path().join("rootfs");
    write(dir.join("etc/passwd"), PASSWD).expect("passwd");
    write(dir.join("etc/group"), GROUP).expect("group");
    let dir = dir.display().to_string();
    (root, dir)
}

pub fn checks() -> Vec<Check> {
    vec![
        check("a_program_is_the_user_that_was_asked_for", [range()], is_the_user).differs_in([
            World::CgroupV2,
            World::DockerRoot,
            World::DockerUser,
        ]),
        check("exec_is_the_containers_user_or_another_one", [range()], exec_is_the_user),
        check("home_is_the_users_and_what_is_given_counts_more", [range()], || {
            let home = Home::new();
            let (_root, dir) = root_with_users();
            let shown = |options: &[&str]| {
                home.ok_with_root(&dir, &[&["run", "--rm"], options, &["sh", "-c", "echo $HOME"]].concat())
            };
            assert_eq!(shown(&[]), "/root");
            assert_eq!(shown(&["--user", "ada"]), "/home/ada");
            assert_eq!(shown(&["--user", "4711"]), "/");
            assert_eq!(shown(&["--user", "ada", "-e", "HOME=/root"]), "/root");
        }),
        check("who_is_nobody_inside_is_refused", [range()], || {
            let home = Home::new();
            let (_root, dir) = root_with_users();
            for (user, word) in [
                ("nosuch", "no user \"nosuch\""),
                ("ada:nosuch", "no group \"nosuch\""),
                ("65536", "has no user id 65536"),
                ("ada:65536", "has no group id 65536"),
                ("", "USER:GROUP"),
            ] {
                home.refuses(&["run", "--rm", "--rootfs", &dir, "--user", user, "true"], word);
            }
            // It is looked up when the program begins, as in Docker.
            let id = home.ok_with_root(&dir, &["create", "--user", "nosuch", "true"]);
            home.refuses(&["start", &id], "no user \"nosuch\"");
        }),
        check("a_hostile_passwd_or_group_is_not_read", [range()], || {
            hostile("passwd", "ada:x:7:7::/stolen:\n", "ada", "no user \"ada\"");
            hostile("group", "log:x:7:\n", "0:log", "no group \"log\"");
        }),
        check("no_name_is_looked_up_by_libraries_of_the_root", [range()], || {
            let home = Home::new();
            let (_root, dir) = root_with_users();
            // getpwnam(3) would read which libraries those are, and wait for a writer.
            let nsswitch = Path::new(&dir).join("etc/nsswitch.conf");
            let _ = remove_file(&nsswitch);
            mkfifo(&nsswitch, Mode::from_bits_truncate(0o644)).expect("mkfifo");
            home.ok_with_root(&dir, &["run", "--rm", "--user", "ada:mail", "true"]);
            let id = home.ok_with_root(&dir, &["run", "-d", "--user", "ada", "sleep", "100"]);
            home.ok(&["exec", "--user", "ada:log", &id, "true"]);
        }),
        check("a_files_capabilities_hold_in_a_mapped_root", [idmap(), needs::tool("setcap")], || {
            let home = Home::new();
            let (_root, dir) = root_with_users();
            let tool = Path::new(&dir).join("usr/bin/rights");
            std::fs::copy(Path::new(&dir).join("usr/bin/grep"), &tool).expect("cp");
            let set = Command::new("setcap").arg("cap_net_raw+ep").arg(&tool).status().expect("setcap");
            assert!(set.success());
            let rights = ["run", "--rm", "--user", "ada", "rights", "CapEff", "/proc/self/status"];
            assert_eq!(home.ok_with_root(&dir, &rights), "CapEff:\t0000000000002000");
            let without = ["run", "--rm", "--user", "ada", "grep", "CapEff", "/proc/self/status"];
            assert_eq!(home.ok_with_root(&dir, &without), "CapEff:\t0000000000000000");
        }),
        check("the_callers_terminal_is_not_given_away", [range()], || {
            let home = Home::new();
            let terminal = openpty(None, None).expect("a terminal");
            let of = || fstat(&terminal.slave).map(|it| (it.st_uid, it.st_gid, it.st_mode)).expect("fstat");
            let before = of();
            let end = || Stdio::from(terminal.slave.try_clone().expect("dup"));
            let words =
                ["-q", "run", "--rm", "--user", "1000", "sh", "-c", "test -t 1 && stat -Lc %u:%g /dev/fd/1; cat"];
            let run = home.step(&words).with(|command| _ = command.stdin(Stdio::piped()).stdout(end()).stderr(end()));
            let mut run = run.spawn();
            let mut line = String::new();
            let mut reader = BufReader::new(File::from(terminal.master.try_clone().expect("dup")));
            reader.read_line(&mut line).expect("the program runs");
            // Root outside, who is nobody inside.
            let owner = if before.0 == 0 { "65534:" } else { "" };
            assert!(line.starts_with(owner), "{line:?}");
            assert_eq!(of(), before);
            drop(run.stdin.take());
            assert_eq!(testing::end_of(&mut run, testing::PATIENCE), 0);
            assert_eq!(of(), before);
        }),
        check("a_setuid_root_program_left_in_a_volume_is_not_roots_outside", [idmap()], || {
            let home = Home::new();
            let dir = tempfile::tempdir().expect("tempdir");
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(dir.path(), open).expect("chmod");
            let volume = format!("{}:/volume", dir.path().display());
            let root = home::rootfs().display().to_string();
            let left = |step: &str| {
                let words = ["-q", "run", "--rm", "--rootfs", &root, "-v", &volume, "sh", "-c"];
                let script = "rm -f /volume/sh; cp /bin/sh /volume/sh && chmod 4755 /volume/sh";
                let run = testing::step(step, words).with(|command| _ = command.arg(script));
                let ran = run.with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path())).ran();
                assert_eq!(ran.code, 0, "{ran:?}");
                let it = dir.path().join("sh").metadata().expect("sh");
                (std::os::unix::fs::MetadataExt::uid(&it), std::os::unix::fs::MetadataExt::mode(&it) & 0o7777)
            };
            assert_eq!(left("step05"), (100_000, 0o4755));
            assert_eq!(left("step04"), (0, 0o4755), "one step earlier it is");
        }),
    ]
}

/// Puts one after the other at the place of this file. What lies outside has a line that would do.
fn hostile(name: &str, outside: &str, user: &str, unknown: &str) {
    let home = Home::new();
    let (_root, dir) = root_with_users();
    let file = Path::new(&dir).join("etc").join(name);
    let plain = read_to_string(&file).expect("read");
    let secret = tempfile::NamedTempFile::new_in("/tmp").expect("tempfile");
    write(secret.path(), outside).expect("write");
    type Make<'a> = &'a dyn Fn(&Path);
    let sparse = |size: u64| move |path: &Path| File::create(path).and_then(|file| file.set_len(size)).expect("file");
    let cases: [(Make, &str); 8] = [
        (&|path| mkfifo(path, Mode::from_bits_truncate(0o644)).expect("mkfifo"), "no regular file"),
        (&|path| create_dir(path).expect("mkdir"), "no regular file"),
        (&sparse(1 << 30), "larger than 4 MiB"),
        (&sparse(4 << 20), unknown),
        (&|path| write(path, "x".repeat(5 << 20)).expect("one line"), "larger than 4 MiB"),
        // Of the host's root it would be a file, and inside it is nothing.
        (&|path| symlink(secret.path(), path).expect("symlink"), unknown),
        (&|path| symlink("/proc/self/fd/0", path).expect("symlink"), "EXDEV"),
        (&|path| symlink(name, path).expect("symlink"), "ELOOP"),
    ];
    for (make, word) in cases {
        remove_file(&file).or_else(|_| std::fs::remove_dir(&file)).expect("rm");
        make(&file);
        home.refuses(&["run", "--rm", "--rootfs", &dir, "--user", user, "true"], word);
        // A number needs no file; one that is there must be one, though.
        if word == unknown {
            home.ok_with_root(&dir, &["run", "--rm", "--user", "1000:1000", "true"]);
        }
    }
    // One that leads elsewhere inside is followed.
    remove_file(&file).expect("rm");
    symlink("/usr/elsewhere", &file).expect("symlink");
    write(Path::new(&dir).join("usr/elsewhere"), plain).expect("write");
    home.ok_with_root(&dir, &["run", "--rm", "--user", user, "true"]);
}

fn is_the_user() {
    let home = Home::new();
    let (_root, dir) = root_with_users();
    let runs_as = |user: &str| {
        let words = ["run", "-d", "--user", user, "sh", "-c", "exec sleep 100"];
        let id = home.ok_with_root(&dir, &words);
        let init = home.init(&id);
        testing::wait_until("it sleeps", || proc(init, "cmdline").starts_with("sleep"));
        let status = proc(init, "status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let is_root = user == "0";
            let line = format!("{set}:\t0000000000000000");
            assert!(status.contains(&line) || is_root, "{user}: {status}");
        }
        let ids = ids(init);
        home.ok(&["rm", "-f", &id]);
        ids
    };
    assert_eq!(
        runs_as("ada"),
        ["101000", "101001", "100004 100008 101001"],
        "its groups, and the primary one among them"
    );
    assert_eq!(runs_as("1000"), ["101000", "101001", "100004 100008 101001"]);
    assert_eq!(runs_as("ada:mail"), ["101000", "100008", "100008"]);
    assert_eq!(runs_as("4711:4712"), ["104711", "104712", "104712"]);
    assert_eq!(runs_as("0"), ["100000", "100000", "100000"]);
}

fn exec_is_the_user() {
    let home = Home::new();
    let (_root, dir) = root_with_users();
    let id = home.ok_with_root(&dir, &["run", "-d", "--user", "ada", "sleep", "100"]);
    let guest = |options: &[&str]| {
        let words = [&["-q", "exec"], options, &[&id, "sh", "-c", "echo ready; cat"]].concat();
        let guest = home.step(&words).until_ready();
        let inside = deepest(guest.step());
        let ids = ids(inside);
        let rights = proc(inside, "status").lines().find(|line| line.starts_with("CapEff")).map(str::to_owned);
        guest.end();
        (ids, rights.is_some_and(|rights| !rights.ends_with("0000000000000000")))
    };
    let own = ["101000", "101001", "100004 100008 101001"].map(str::to_owned);
    assert_eq!(guest(&[]), (own, false));
    assert_eq!(guest(&["--user", "0"]), (["100000", "100000", "100000"].map(str::to_owned), true));
    assert_eq!(guest(&["-u", "33:4"]), (["100033", "100004", "100004"].map(str::to_owned), false));
    let ran = home.step(&["-q", "exec", "--user", "nosuch", &id, "true"]).ran();
    assert!(ran.code == 125 && ran.err.contains("no user \"nosuch\""), "{ran:?}");
}
