//! An ordinary user: with a range, by newuidmap(1), and without one. Called by root, these tests make that user: nobody, with
//! files of its own at `/etc/subuid` and `/etc/subgid`.

use std::fs::{create_dir, set_permissions, write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{Check, Ran, Run, World, check, needs, proc, program, step, wait_until};

use crate::home::{Home, alive, rootfs};
use crate::{copy_of_root, ids};

/// Debian's.
const NOBODY: u32 = 65_534;
const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// An ordinary user, with a root of its own.
pub struct Ordinary {
    dir: tempfile::TempDir,
}

impl Ordinary {
    /// With these lines in both files.
    pub fn new(lines: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("check-").tempdir_in("/tmp").expect("tempdir");
        let root = copy_of_root();
        let copied = Command::new("cp").arg("-a").arg(root.path().join("rootfs")).arg(dir.path()).status().expect("cp");
        assert!(copied.success());
        std::fs::DirBuilder::new().mode(0o700).create(dir.path().join("run")).expect("mkdir");
        let given = Command::new("chown").args(["-hR", "65534:65534"]).arg(dir.path()).status().expect("chown");
        assert!(given.success());
        for file in FILES {
            let own = dir.path().join(file.replace('/', "_"));
            write(&own, lines).expect("write");
            mount(Some(&own), file, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
        }
        Ordinary { dir }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn step(&self, words: &[&str]) -> Run {
        let root = self.root().display().to_string();
        let mut arguments = vec!["--color=never"];
        for word in words {
            arguments.push(word);
            if ["run", "create"].contains(word) {
                arguments.extend(["--rootfs", &root]);
            }
        }
        step(&env!("CARGO_PKG_NAME")[..6], arguments).with(|command| {
            let home = self.dir.path();
            command
                .uid(NOBODY)
                .gid(NOBODY)
                .env("XDG_RUNTIME_DIR", home.join("run"))
                .env("HOME", home)
                .current_dir(home);
        })
    }

    pub fn ok(&self, words: &[&str]) -> String {
        let Ran { code, out, err } = self.step(&[&["-q"], words].concat()).ran();
        assert_eq!(code, 0, "{words:?}: {err}");
        out.trim_end_matches('\n').to_owned()
    }

    fn init(&self, id: &str) -> Pid {
        let all: serde_json::Value = serde_json::from_str(&self.ok(&["inspect", id])).expect("json");
        Pid::from_raw(all[0]["state"]["init"]["pid"].as_i64().expect("pid") as i32)
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        let ids = self.step(&["-q", "ps", "-aq"]).ran().out;
        for id in ids.lines() {
            self.step(&["-q", "rm", "-f", id]).ran();
        }
        FILES.iter().for_each(|file| umount2(*file, MntFlags::MNT_DETACH).expect("umount"));
    }
}

/// For both files.
pub const RANGE: &str = "nobody:300000:65536\n";

/// Root, to make that user; the helpers; and a machine that lets an ordinary user make namespaces.
pub fn needed() -> Option<String> {
    let has_name =
        nix::unistd::User::from_uid(NOBODY.into()).is_ok_and(|user| user.is_some_and(|it| it.name == "nobody"));
    let is_readable = || {
        let mut command = Command::new(program(&env!("CARGO_PKG_NAME")[..6]));
        command.arg("--version").uid(NOBODY).gid(NOBODY).output().is_ok_and(|output| output.status.success())
    };
    // User Mode Linux: its files are another kernel's, which lets root alone make some. See HOSTFS_SUPER_MAGIC in the kernel.
    let is_hostfs = || nix::sys::statfs::statfs("/tmp").is_ok_and(|it| it.filesystem_type().0 as u64 == 0x00c0_ffee);
    needs::root()
        .or_else(crate::range)
        .or_else(|| needs::tool("newuidmap"))
        .or_else(|| is_hostfs().then(|| "needs a /tmp in which another user can make files".to_owned()))
        .or_else(|| (!has_name).then(|| "needs a user nobody".to_owned()))
        .or_else(|| (!is_readable()).then(|| "needs programs that nobody may read".to_owned()))
        .or_else(|| FILES.iter().find(|file| !Path::new(file).exists()).map(|file| format!("needs {file}")))
}

/// A user with a range on this very machine.
fn own_range() -> Option<String> {
    let name =
        nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map_or(String::new(), |user| user.name);
    let has_line = |file: &&str| std::fs::read_to_string(file).is_ok_and(|text| first_id(&text, &name).is_some());
    needs::ordinary_user().or_else(needs::user_namespaces).or_else(|| needs::tool("newuidmap")).or_else(|| {
        FILES
            .iter()
            .find(|file| !has_line(file))
            .map(|file| format!("needs a line of its own in {file}, as the machine with systemd has it"))
    })
}

fn first_id(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split(':').next()?.parse().ok())
}

fn has_own_range() {
    let home = Home::new();
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("user").expect("a name");
    let first = first_id(&std::fs::read_to_string(FILES[0]).expect("subuid"), &user.name).expect("a line");
    let id = home.ok(&["run", "-d", "--user", "1000:1000", "sleep", "100"]);
    let map = proc(home.init(&id), "uid_map");
    let map: Vec<_> = map.split_whitespace().collect();
    assert_eq!(map[..5], ["0", &user.uid.to_string(), "1", "1", &first.to_string()]);
    wait_until("it sleeps", || proc(home.init(&id), "cmdline").starts_with("sleep"));
    assert_eq!(ids(home.init(&id))[0], (first + 999).to_string());
    home.ok(&["exec", "--user", "0", &id, "sh", "-c", "mkdir -m 700 /theirs && chown 5:6 /theirs"]);
    home.ok(&["rm", "-f", &id]);
    let theirs = rootfs().join("theirs");
    assert_eq!(theirs.metadata().expect("theirs").uid(), first + 4);
    home.ok(&["unshare", "rm", "-r", &theirs.display().to_string()]);
    assert!(!theirs.exists());
}

/// The helper is stopped before it has written the map; its caller is killed, and then it goes on.
fn killed_in(helper: &str) {
    let user = Ordinary::new(RANGE);
    let bin = user.dir.path().join("bin");
    let (began, go_on) = (user.dir.path().join("run/began"), user.dir.path().join("run/go-on"));
    let real = process::find_in_path(helper).expect("needed").display().to_string();
    let script = format!(
        "#!/bin/sh\necho $1 $PPID >{0}.new && mv {0}.new {0}\nwhile [ ! -e {1} ]; do sleep 0.01; done\nexec {real} \"$@\"\n",
        began.display(),
        go_on.display()
    );
    create_dir(&bin).expect("mkdir");
    write(bin.join(helper), script).expect("write");
    set_permissions(bin.join(helper), PermissionsExt::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    let run = user.step(&["run", "--name", "it", "--user", "1000", "sleep", "100"]);
    let mut step = run.with(|command| _ = command.env("PATH", path)).spawn();

    let read = || std::fs::read_to_string(&began).ok();
    wait_until("the helper runs", || read().is_some());
    let pids: Vec<_> =
        read().expect("it").split_whitespace().map(|it| Pid::from_raw(it.parse().expect("pid"))).collect();
    let [child, caller] = pids[..] else { panic!("{pids:?}") };
    kill(caller, Signal::SIGKILL).expect("kill");
    wait_until("the child has ended with its host", || !alive(child));
    write(&go_on, "").expect("write");
    testing::end_of(&mut step, testing::PATIENCE);
    user.ok(&["clean"]);
    assert_eq!(user.ok(&["ps", "-aq"]), "", "{helper}");
}

pub fn checks() -> Vec<Check> {
    vec![
        check("a_user_of_this_machine_with_a_range_has_it", [own_range()], has_own_range)
            .differs_in([World::SystemdUser]),
        check("an_ordinary_user_has_a_range_by_newuidmap", [needed()], || {
            let user = Ordinary::new(RANGE);
            let script = "chown 5:6 /tmp; setpriv --reuid=33 --regid=34 --clear-groups sleep 100";
            let id = user.ok(&["run", "-d", "sh", "-c", script]);
            let init = user.init(&id);
            let map = |name: &str| proc(init, name).split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(map("uid_map"), "0 65534 1 1 300000 65536");
            assert_eq!(map("gid_map"), "0 65534 1 1 300000 65536");
            assert_eq!(ids(init), ["65534", "65534", ""]);
            let child = || testing::child_of(init).filter(|it| proc(*it, "cmdline").starts_with("sleep"));
            wait_until("another user runs inside", || child().is_some());
            assert_eq!(ids(child().expect("sleep")), ["300032", "300033", ""]);
            let tmp = user.root().join("tmp").metadata().expect("tmp");
            assert_eq!((tmp.uid(), tmp.gid()), (300_004, 300_005), "what it makes, and gives away, is of the range");
            assert_eq!(user.ok(&["exec", "--user", "1000", &id, "id", "-u"]), "1000");
            user.ok(&["stop", "-t", "0", &id]);
        }),
        check("an_ordinary_user_can_map_the_own_group_alone", [needed()], || {
            let user = Ordinary::new(RANGE);
            // newgidmap denies setgroups(2) then: where its user's group is the one that may not read a file, no process
            // may leave it.
            for maps in [
                &["--uidmap", "0:65534:1"][..],
                &["--uidmap", "0:65534:1", "--uidmap", "1:300000:100", "--gidmap", "0:65534:1"],
            ] {
                let id = user.ok(&[&["run", "-d"], maps, &["sleep", "100"]].concat());
                assert_eq!(proc(user.init(&id), "setgroups"), "deny\n");
                assert_eq!(user.ok(&["exec", "--user", "0:0", &id, "id", "-g"]), "0");
                user.ok(&["rm", "-f", &id]);
            }
            // One of the range is given by root, and nobody's way around a file.
            let id = user.ok(&["run", "-d", "--uidmap", "0:65534:1", "--gidmap", "0:300000:1", "sleep", "100"]);
            assert_eq!(
                (proc(user.init(&id), "setgroups"), ids(user.init(&id))[2].as_str()),
                ("allow\n".to_owned(), "")
            );
            assert_eq!(user.ok(&["exec", "--user", "0", &id, "id", "-G"]), "0");
        }),
        check("a_helper_without_roots_rights_is_named", [needed()], || {
            let user = Ordinary::new(RANGE);
            let bin = user.dir.path().join("bin");
            create_dir(&bin).expect("mkdir");
            let copy = bin.join("newuidmap");
            std::fs::copy(process::find_in_path("newuidmap").expect("needed"), &copy).expect("cp");
            set_permissions(&copy, PermissionsExt::from_mode(0o755)).expect("chmod");
            let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
            let ran = user.step(&["-q", "run", "--rm", "true"]).with(|command| _ = command.env("PATH", path)).ran();
            assert!(ran.code == 125 && ran.err.contains("newuidmap has not mapped the ids: "), "{ran:?}");
            assert!(ran.err.contains("what to do: ") && ran.err.contains("its setuid bit"), "{ran:?}");
            assert!(!ran.err.contains("usermod"), "the line is there: {ran:?}");
        }),
        check("an_ordinary_users_program_can_be_another_user", [needed()], || {
            let user = Ordinary::new(RANGE);
            let id =
                user.ok(&["run", "-d", "--user", "1000:1000", "sh", "-c", "echo out >/dev/stdout; exec sleep 100"]);
            let init = user.init(&id);
            wait_until("it sleeps", || proc(init, "cmdline").starts_with("sleep"));
            assert_eq!(ids(init), ["300999", "300999", "300999"]);
            assert_eq!(user.ok(&["logs", &id]), "out");
            // Whose id it is not, the user can still end it.
            user.ok(&["kill", &id]);
            assert_eq!(user.ok(&["wait", &id]), "137");
        }),
        check("what_belongs_to_other_ids_is_removed_with_the_same_map", [needed()], || {
            let user = Ordinary::new(RANGE);
            let script = "mkdir /theirs && touch /theirs/file && chown -R 5:6 /theirs && chmod 700 /theirs";
            user.ok(&["run", "--rm", "sh", "-c", script]);
            let theirs = user.root().join("theirs");
            assert_eq!(theirs.metadata().expect("theirs").uid(), 300_004);
            let mut plain = Command::new("rm");
            plain.arg("-rf").arg(&theirs).uid(NOBODY).gid(NOBODY);
            assert_ne!(Run::new(plain).ran().code, 0, "it is not the user's");
            user.ok(&["unshare", "rm", "-rf", &theirs.display().to_string()]);
            assert!(!theirs.exists());
            // Whose exit code it is.
            assert_eq!(user.step(&["-q", "unshare", "sh", "-c", "exit 7"]).ran().code, 7);
        }),
        check("an_engine_killed_while_newuidmap_runs_leaves_nothing", [needed()], || {
            for helper in ["newuidmap", "newgidmap"] {
                killed_in(helper);
            }
        }),
        check("an_ordinary_user_without_a_range_has_one_id_and_the_reason", [needed()], || {
            let single = |user: &Ordinary, path: Option<&Path>, word: &str| {
                let run = user.step(&["run", "--rm", "cat", "/proc/self/uid_map"]);
                let ran = run.with(|command| _ = path.map(|path| command.env("PATH", path))).ran();
                let map: Vec<_> = ran.out.split_whitespace().collect();
                assert_eq!(map, ["0", "65534", "1"], "{ran:?}");
                assert!(ran.err.contains("those of step 01, as ") && ran.err.contains(word), "{word}: {}", ran.err);
            };
            let user = Ordinary::new("somebody:300000:65536\n");
            single(&user, None, "user nobody has no range of ids in /etc/subuid");
            let refused = user.step(&["-q", "run", "--rm", "--user", "1000", "true"]).ran();
            assert!(refused.code == 125 && refused.err.contains("the container has no such id"), "{refused:?}");
            drop(user);
            let user = Ordinary::new(RANGE);
            let empty = user.dir.path().join("empty");
            create_dir(&empty).expect("mkdir");
            chown(&empty, Some(NOBODY), Some(NOBODY)).expect("chown");
            single(&user, Some(&empty), "newuidmap is not installed");
        }),
        check("without_new_rights_there_is_no_range", [needed(), needs::tool("setpriv")], || {
            let user = Ordinary::new(RANGE);
            let root = user.root().display().to_string();
            let step = program("step05").display().to_string();
            let mut command = Command::new("setpriv");
            command.args(["--no-new-privs", &step, "run", "--rm", "--rootfs", &root, "cat", "/proc/self/uid_map"]);
            command.uid(NOBODY).gid(NOBODY).env("XDG_RUNTIME_DIR", user.dir.path().join("run"));
            let ran = Run::new(command).ran();
            assert!(ran.code == 0 && ran.err.contains("no_new_privs"), "{ran:?}");
            assert_eq!(ran.out.split_whitespace().collect::<Vec<_>>(), ["0", "65534", "1"]);
        }),
        check("a_range_that_is_not_the_users_is_refused_in_words", [needed()], || {
            let user = Ordinary::new(RANGE);
            let maps = ["--uidmap", "0:65534:1", "--uidmap", "1:500000:10"];
            let ran = user.step(&[&["-q", "run", "--rm"], &maps[..], &["true"]].concat()).ran();
            assert_eq!(ran.code, 125, "{ran:?}");
            assert!(
                ran.err.contains("newuidmap has not mapped the ids: ") && ran.err.contains("not allowed"),
                "{ran:?}"
            );
            assert!(ran.err.contains("what to do: /etc/subuid and /etc/subgid"), "{ran:?}");
            let ran = user.step(&["-q", "run", "--rm", "-v", "/usr:/mnt:idmap", "true"]).ran();
            assert!(ran.code == 125 && ran.err.contains("takes root"), "{ran:?}");
        }),
    ]
}
