//! What a container has changed, and that as a layer.

use std::fs::{create_dir, remove_dir_all, set_permissions, write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use testing::{Check, check, needs, tempdir, wait_until};

use crate::home::Home;
use crate::killed::{Who, at_every_pause};
use crate::{RUN, copy_of_root, overlay, root_and_overlay};

/// A root in which something can be changed, and with the mount points of each container.
fn root() -> tempfile::TempDir {
    let root = copy_of_root();
    let dir = root.path().join("rootfs");
    let made = Command::new("sh").current_dir(&dir).args(["-c", "mkdir -p d/sub e && touch d/old d/sub/x e/f gone etc/hostname etc/resolv.conf etc/hosts && ln -s /nowhere link"]).status();
    assert!(made.expect("sh").success());
    root
}

/// What the container `it` on this root has run.
fn ran(home: &Home, root: &Path, name: &str, script: &str) {
    let root = root.display().to_string();
    home.ok(&[RUN, &["--rootfs", &root, "--name", name, "bash", "-c", script]].concat());
}

const CHANGE: &str =
    "rm -r d; mkdir d; touch d/new; rm gone e/f; echo g >e/g; mkdir n; echo a >n/a; ln n/a n/b; chmod 4755 n/a;
    chown 5:6 n; ln -s /etc n/link; mkfifo n/pipe; rm link; mkdir link; echo x >>etc/passwd; chmod 700 usr;
    echo begin >n/holes; truncate -s 50M n/holes; echo end >>n/holes; touch -d @1000000000.5 n/a n";

const CHANGES: &str = "C /d\nA /d/new\nD /d/old\nD /d/sub\nC /e\nD /e/f\nA /e/g\nC /etc/passwd\nD /gone\nC /link\nA /n\nA /n/a\n\
                       A /n/b\nA /n/holes\nA /n/link\nA /n/pipe\nC /usr";

pub fn checks() -> Vec<Check> {
    vec![
        check("diff_prints_what_has_changed", [overlay()], || {
            let (home, root) = (Home::new(), root());
            let dir = root.path().join("rootfs");
            ran(&home, &dir, "it", CHANGE);
            assert_eq!(home.ok(&["diff", "it"]), CHANGES);
            // Of one that runs, too; and nothing of a container that has changed nothing, or changed it back.
            let root = dir.display().to_string();
            home.ok(&[RUN, &["--rootfs", &root, "-d", "--name", "other", "sleep", "100"]].concat());
            assert_eq!(home.ok(&["diff", "other"]), "");
            home.ok(&["exec", "other", "sh", "-c", "touch /a; rm /a; mkdir /b; rmdir /b"]);
            assert_eq!(home.ok(&["diff", "other"]), "");
            home.ok(&["exec", "other", "sh", "-c", "rm -r /d/sub; mkdir -p /d/sub/y; echo >/d/sub/y/z"]);
            assert_eq!(home.ok(&["diff", "other"]), "C /d\nC /d/sub\nD /d/sub/x\nA /d/sub/y\nA /d/sub/y/z");
            home.ok(&["exec", "other", "sh", "-c", "rm -r /d/sub; printf 'a\\033b' >/e/\"$(printf 'x\\033y\\nz')\""]);
            let diff = home.ok(&["diff", "other"]);
            assert!(diff.contains("D /d/sub\n") && diff.lines().count() == 4 && !diff.contains('\x1b'), "{diff}");
            home.ok(&[RUN, &["--no-overlay", "--rootfs", &root, "--name", "plain", "true"]].concat());
            home.refuses(&["diff", "plain"], "--no-overlay");
            home.refuses(&["diff", "nobody"], "no container");
        }),
        check("a_committed_layer_is_what_docker_commit_would_make", [overlay()], || {
            let (home, root, place) = (Home::new(), root(), tempdir());
            let dir = root.path().join("rootfs");
            ran(&home, &dir, "it", CHANGE);
            let layer = place.path().join("a:b,c");
            home.ok(&["commit", "it", &layer.display().to_string()]);
            is_whole(&home, &dir, &layer);
            let it = |name: &str| layer.join(name).symlink_metadata().expect("metadata");
            assert_eq!(it("n").mtime(), 1_000_000_000);
            assert_eq!((it("n/a").ino(), it("n/a").nlink()), (it("n/b").ino(), 2));
            assert!(it("n/holes").len() == (50 << 20) + 4 && it("n/holes").blocks() < 100, "{:?}", it("n/holes"));
            assert!(it("gone").file_type().is_char_device() && it("gone").rdev() == 0);
            // What root inside owns, the caller owns outside; the others, too, where they can be.
            let caller = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            assert_eq!((it("n/a").uid(), it("n/a").gid()), caller);
            // A container on top changes nothing of it; what it has changed is a layer of its own.
            let before = crate::checksum(&layer);
            let (root, first) = (dir.display().to_string(), layer.display().to_string());
            let on_top = [
                RUN,
                &["--rootfs", &root, "--layer", &first],
                &["--name", "top", "sh", "-c", "rm d/new; mkdir d/sub; touch gone"],
            ]
            .concat();
            home.ok(&on_top);
            assert_eq!(home.ok(&["diff", "top"]), "C /d\nD /d/new\nA /d/sub\nA /gone");
            let second = place.path().join("second").display().to_string();
            home.ok(&["commit", "top", &second]);
            let both = [RUN, &["--rootfs", &root, "--layer", &first, "--layer", &second], &["--rm", "ls", "d", "gone"]]
                .concat();
            assert_eq!(home.ok(&both), "gone\n\nd:\nsub");
            assert_eq!(before, crate::checksum(&layer));
            home.refuses(&["commit", "it", &first], "is there already");
            assert_eq!(before, crate::checksum(&layer));
        }),
        check("an_archive_is_a_layer_again_once_it_is_unpacked", [root_and_overlay(), needs::tool("tar")], || {
            let (home, root, place) = (Home::new(), root(), tempdir());
            let dir = root.path().join("rootfs");
            let long = "l".repeat(150);
            let script =
                format!("{CHANGE}; mkdir n/{long}; touch n/{long}/{long}; ln n/{long}/{long} n/z; ln -s {long} n/s");
            ran(&home, &dir, "it", &script);
            let archive = place.path().join("it.tar");
            home.ok(&["commit", "it", &archive.display().to_string()]);
            assert!(archive.metadata().expect("archive").len() < 100_000, "its holes are in it");
            let list = Command::new("tar").arg("-tf").arg(&archive).output().expect("tar");
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            for name in ["d/.wh..wh..opq", "e/.wh.f", ".wh.gone", "n/holes"] {
                assert!(list.lines().any(|line| line == name), "{name}: {list}");
            }
            let layer = place.path().join("unpacked");
            create_dir(&layer).expect("mkdir");
            // As the tutorial has it.
            let unpacked = Command::new("sh").current_dir(&layer).args(["-c", UNPACK, "sh"]).arg(&archive).status();
            assert!(unpacked.expect("sh").success());
            is_whole(&home, &dir, &layer);
            let owner = layer.join("n").metadata().expect("n");
            assert_eq!((owner.uid(), owner.gid()), (5, 6));
            assert_eq!(layer.join("n/z").metadata().expect("z").nlink(), 2);
            home.refuses(&["commit", "it", &archive.display().to_string()], "is there already");
            // A name that an archive cannot have.
            ran(&home, &dir, "bad", "touch /e/.wh.f");
            let bad = place.path().join("bad.tar");
            home.refuses(&["commit", "bad", &bad.display().to_string()], "/e/.wh.f: in an archive");
            assert!(!bad.exists());
        }),
        check(
            "attributes_and_capabilities_are_in_a_layer",
            [root_and_overlay(), needs::tool("setfattr"), needs::tool("setcap")],
            || {
                let (home, place) = (Home::new(), tempdir());
                let root = root();
                let dir = root.path().join("rootfs");
                let root = dir.display().to_string();
                home.ok(&[RUN, &["--rootfs", &root, "-d", "--name", "it", "sleep", "100"]].concat());
                home.ok(&["exec", "it", "sh", "-c", "touch /a /b; chmod 755 /a"]);
                // Root inside would do it by setcap(8), which this root does not have.
                let top = home.data().join("step04-data").join(home.id("it")).join("upper");
                let done = |program: &str, words: &[&str], file: &str| {
                    assert!(Command::new(program).args(words).arg(top.join(file)).status().expect(program).success());
                };
                done("setfattr", &["-n", "user.colour", "-v", "red"], "a");
                done("setcap", &["-n", "100000", "cap_net_raw+ep"], "b");
                home.refuses(
                    &["commit", "it", &place.path().join("l").display().to_string()],
                    "runs, and a layer is of one moment",
                );
                home.ok(&["pause", "it"]);
                let layer = place.path().join("layer");
                home.ok(&["commit", "it", &layer.display().to_string()]);
                home.ok(&["commit", "it", &place.path().join("it.tar").display().to_string()]);
                let said = |program: &str, words: &[&str], file: &str| {
                    let output = Command::new(program).args(words).arg(layer.join(file)).output().expect(program);
                    String::from_utf8_lossy(&output.stdout).into_owned()
                };
                assert_eq!(said("getfattr", &["--absolute-names", "--only-values", "-n", "user.colour"], "a"), "red");
                let capabilities = said("getcap", &["-n"], "b");
                assert!(capabilities.contains("cap_net_raw") && !capabilities.contains("rootid"), "{capabilities}");
                let archive = std::fs::read(place.path().join("it.tar")).expect("archive");
                let text = String::from_utf8_lossy(&archive);
                assert!(
                    text.contains("SCHILY.xattr.user.colour=red") && text.contains("SCHILY.xattr.security.capability=")
                );
                assert!(!text.contains("user.overlay."), "the kernel's notes mean nothing elsewhere");
            },
        ),
        check("no_link_of_the_containers_is_followed_on_the_host", [overlay()], || {
            let (home, root, secret) = (Home::new(), root(), tempdir());
            write(secret.path().join("secret"), "secret").expect("write");
            let dir = root.path().join("rootfs");
            let script = format!(
                "rm -r e; ln -s {0} e; ln -s {0}/secret s; mkdir x; ln -s ../../../../../../../.. x/up",
                secret.path().display()
            );
            ran(&home, &dir, "it", &script);
            assert_eq!(home.ok(&["diff", "it"]), "C /e\nA /s\nA /x\nA /x/up");
            let place = tempdir();
            for name in ["layer", "it.tar"] {
                home.ok(&["commit", "it", &place.path().join(name).display().to_string()]);
            }
            assert!(place.path().join("layer/e").symlink_metadata().expect("e").is_symlink());
            let archive = std::fs::read(place.path().join("it.tar")).expect("archive");
            assert!(!String::from_utf8_lossy(&archive).contains("secretsecret") && archive.len() < 20_000);
        }),
        check("a_layer_is_made_on_another_file_system", [overlay().or_else(attributes_in_memory)], || {
            let (home, root, place) = (Home::new(), root(), in_memory());
            let dir = root.path().join("rootfs");
            assert_ne!(place.path().metadata().expect("place").dev(), home.data().metadata().expect("data").dev());
            ran(&home, &dir, "it", &format!("{CHANGE}; chmod 555 /"));
            let layer = place.path().join("layer");
            home.ok(&["commit", "it", &layer.display().to_string()]);
            let it = |name: &str| layer.join(name).symlink_metadata().expect("metadata");
            assert_eq!((it("n/a").ino(), it("n/a").nlink(), it("n/a").mode() & 0o7777), (it("n/b").ino(), 2, 0o4755));
            assert!(it("n/holes").len() == (50 << 20) + 4 && it("n/holes").blocks() < 100, "{:?}", it("n/holes"));
            assert!(it("gone").file_type().is_char_device() && it("gone").rdev() == 0);
            assert_eq!((it("n").mtime(), it("").mode() & 0o7777), (1_000_000_000, 0o555));
            is_whole(&home, &dir, &layer);
            set_permissions(&layer, PermissionsExt::from_mode(0o755)).expect("chmod"); // to be removed by this user
            assert_eq!(left_in(place.path()), ["layer"]);
            home.refuses(&["commit", "it", &place.path().join("no/layer").display().to_string()], "is not a directory");
        }),
        check("a_file_system_without_attributes_has_no_layer", [root_and_overlay()], || {
            let (home, place) = (Home::new(), tempdir());
            mount(Some("none"), place.path(), Some("ramfs"), MsFlags::empty(), None::<&str>).expect("ramfs");
            home.ok(&[RUN, &["--name", "it", "sh", "-c", "rm -r /root; mkdir /root"]].concat());
            let ran = home.step(&["-q", "commit", "it", &place.path().join("layer").display().to_string()]).ran();
            assert!(ran.code == 125 && ran.err.contains("user.overlay.opaque\"): EOPNOTSUPP"), "{}", ran.err);
            assert!(ran.err.contains("what to do: this file system does not keep"), "{}", ran.err);
            assert!(left_in(place.path()).is_empty());
            nix::mount::umount(place.path()).expect("umount");
        }),
        check("a_layer_that_is_being_made_is_of_one_moment_and_nobody_elses", [overlay().or_else(freezer)], || {
            let (home, place) = (Home::new(), tempdir());
            home.ok(&[RUN, &["-d", "--name", "it", "sh", "-c", "chmod 777 /; touch /new; sleep 1000"]].concat());
            wait_until("it has written", || home.ok(&["diff", "it"]).contains("A /new"));
            home.ok(&["pause", "it"]);
            let to = place.path().join("layer").display().to_string();
            let held = Held::before("renameat2(", &home, &["commit", "it", &to]);
            let [hidden] = &left_in(place.path())[..] else { panic!("{:?}", left_in(place.path())) };
            let hidden = place.path().join(hidden);
            assert_eq!(hidden.metadata().expect("a place").mode() & 0o7777, 0o700, "others could put links into it");
            assert_eq!(hidden.join("layer").metadata().expect("a layer").mode() & 0o7777, 0o777);
            for other in ["other", "other.tar"] {
                let other = place.path().join(other).display().to_string();
                home.refuses(&["commit", "it", &other], "another commit of container it is at work");
            }
            assert_eq!(held.end(), (0, String::new()));
            assert_eq!(left_in(place.path()), ["layer"]);
            for (call, to) in [("cp", "second"), ("open(", "second.tar")] {
                let held = Held::before(call, &home, &["commit", "it", &place.path().join(to).display().to_string()]);
                home.ok(&["unpause", "it"]);
                let (code, printed) = held.end();
                assert!(code == 125 && printed.contains("it went on while its layer was made"), "{to}: {printed}");
                home.ok(&["pause", "it"]);
            }
            assert_eq!(left_in(place.path()), ["layer"]);
        }),
        check("what_a_killed_commit_leaves_goes_with_the_next_or_with_the_container", [overlay()], || {
            let (home, [one, other]) = (Home::new(), [tempdir(), tempdir()]);
            home.ok(&[RUN, &["--name", "it", "sh", "-c", "mkdir a; echo b >a/b; chmod 555 /"]].concat());
            let to = |place: &tempfile::TempDir| place.path().join("layer").display().to_string();
            let kill = |place: &tempfile::TempDir| {
                Held::before("renameat2(", &home, &["commit", "it", &to(place)]).kill();
                let [hidden] = &left_in(place.path())[..] else { panic!("{:?}", left_in(place.path())) };
                assert!(hidden.starts_with(".commit-") && place.path().join(hidden).join("layer/a/b").exists());
                place.path().join(hidden)
            };
            kill(&one);
            home.ok(&["commit", "it", &to(&other)]);
            assert_eq!((left_in(one.path()), left_in(other.path())), (vec![], vec!["layer".to_owned()]));
            set_permissions(to(&other), PermissionsExt::from_mode(0o755)).expect("chmod"); // to be removed by this user
            kill(&one);
            home.ok(&["rm", "it"]);
            assert!(left_in(one.path()).is_empty() && left_in(&home.data()).is_empty());
            // What is at that name by then, and not of that commit, stays.
            home.ok(&[RUN, &["--name", "it", "sh", "-c", "mkdir a; touch a/b"]].concat());
            let hidden = kill(&one);
            remove_dir_all(&hidden).and_then(|()| create_dir(&hidden)).expect("mkdir");
            write(hidden.join("mine"), "").expect("write");
            let removed = home.step(&["rm", "it"]).ran();
            assert!(removed.code == 0 && removed.err.contains("is yours to remove"), "{}", removed.err);
            assert!(hidden.join("mine").exists() && left_in(&home.data()).is_empty());
        }),
        check("a_killed_commit_leaves_no_half_layer", [overlay()], || {
            for name in ["layer", "it.tar"] {
                let place = tempdir();
                let to = place.path().join(name);
                let before = |home: &Home| {
                    let _ = remove_dir_all(&to).or_else(|_| std::fs::remove_file(&to));
                    // The one before is removed, and what it has left with it.
                    assert!(left_in(place.path()).is_empty());
                    home.ok(&[RUN, &["--name", "it", "sh", "-c", "mkdir a; echo b >a/b"]].concat());
                };
                at_every_pause(before, &["commit", "it", &to.display().to_string()], Who::Engine);
                assert_eq!(left_in(place.path()), [name]);
            }
            // While it copies, too: at any moment.
            let (home, place) = (Home::new(), tempdir());
            home.ok(&[RUN, &["--name", "it", "bash", "-c", "for i in {1..2000}; do echo $i >/file$i; done"]].concat());
            let mut halves = 0;
            for number in 0..20_u64 {
                for name in ["layer", "it.tar"] {
                    let to = place.path().join(name);
                    let mut run = home.step(&["-q", "commit", "it", &to.display().to_string()]).spawn();
                    std::thread::sleep(Duration::from_millis(number * 10));
                    let _ = nix::sys::signal::kill(Pid::from_raw(run.id() as i32), Signal::SIGKILL);
                    testing::end_of(&mut run, testing::PATIENCE);
                    match name {
                        "layer" if to.exists() => {
                            assert_eq!(
                                std::fs::read_dir(&to)
                                    .expect("layer")
                                    .flatten()
                                    .filter(|it| it.file_name().to_string_lossy().starts_with("file"))
                                    .count(),
                                2000
                            );
                            remove_dir_all(&to).expect("remove");
                        }
                        "it.tar" if to.exists() => {
                            let list = Command::new("tar").arg("-tf").arg(&to).output().expect("tar");
                            assert_eq!(
                                String::from_utf8_lossy(&list.stdout)
                                    .lines()
                                    .filter(|it| it.starts_with("file"))
                                    .count(),
                                2000
                            );
                            std::fs::remove_file(&to).expect("remove");
                        }
                        _ => halves += 1,
                    }
                    let left = left_in(place.path());
                    assert!(left.iter().all(|it| it.starts_with(".commit-")), "{left:?}");
                }
            }
            assert!(halves > 0, "none was killed");
            // What is left of them is no hindrance, and goes with the next.
            home.ok(&["commit", "it", &place.path().join("layer").display().to_string()]);
            assert_eq!(left_in(place.path()), ["layer"]);
        }),
    ]
}

/// A command that waits for Enter before a call.
pub struct Held {
    child: Child,
    lines: Receiver<String>,
}

impl Held {
    pub fn before(call: &str, home: &Home, words: &[&str]) -> Self {
        let pause = format!("--pause={call}");
        let step = home.narrated(&[&[pause.as_str()], words].concat());
        let mut child = step.with(|command| _ = command.stdin(Stdio::piped())).spawn();
        let lines = testing::collect(child.stderr.take().expect("piped"));
        while !lines.recv_timeout(testing::PATIENCE).expect("a pause").starts_with("[Enter]") {}
        Held { child, lines }
    }

    /// Lets it go on: its exit code, and its error.
    pub fn end(mut self) -> (i32, String) {
        self.child.stdin.take();
        let code = testing::end_of(&mut self.child, testing::PATIENCE);
        (code, self.lines.iter().filter(|line| line.contains("error:")).collect())
    }

    fn kill(mut self) {
        self.child.kill().expect("kill");
        testing::end_of(&mut self.child, testing::PATIENCE);
    }
}

/// The names in a directory, sorted.
fn left_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|it| it.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// For what is paused.
fn freezer() -> Option<String> {
    (!cgroups::may_make_groups()).then(|| "needs a cgroup to pause a container in".to_owned())
}

/// A directory in memory, where temporary files are not.
fn in_memory() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("check-").tempdir_in("/dev/shm").expect("tempdir");
    set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).expect("chmod");
    dir
}

/// One that keeps the attributes of a layer.
pub fn attributes_in_memory() -> Option<String> {
    needs::tool("setfattr").or_else(|| {
        let dir = in_memory();
        let set = Command::new("setfattr").args(["-n", "user.trial", "-v", "y"]).arg(dir.path()).output();
        let keeps = set.expect("setfattr").status.success();
        (!keeps).then(|| "needs a file system in memory that keeps attributes (Linux 6.6)".to_owned())
    })
}

/// For an archive in the directory in which it is unpacked: `sh -c UNPACK sh FILE.tar`.
const UNPACK: &str = r#"tar --xattrs --xattrs-include='*' -xpf "$1"
find . -name '.wh..wh..opq' | while read -r file; do
    rm "$file" && setfattr -n user.overlay.opaque -v y "${file%/*}"
done
find . -name '.wh.*' | while read -r file; do
    rm "$file" && mknod "${file%/*}/${file##*/.wh.}" c 0 0
done"#;

/// That a container on this root and layer sees what [`CHANGE`] has left.
fn is_whole(home: &Home, root: &Path, layer: &Path) {
    let (root, layer) = (root.display().to_string(), layer.display().to_string());
    let script =
        "ls d e; ls gone e/f 2>&1 | wc -l; stat -c '%A %h %u:%g' n/a; stat -c '%F' n/link n/pipe link; cat n/a;
        stat -c %a usr; tail -c 4 n/holes; head -c 6 n/holes; stat -c %s n/holes; stat -c %Y n/a";
    let words = [RUN, &["--rootfs", &root, "--layer", &layer], &["--rm", "sh", "-c", script]].concat();
    let expected = "d:\nnew\n\ne:\ng\n2\n-rwsr-xr-x 2 0:0\nsymbolic link\nfifo\ndirectory\na\n700\nend\nbegin\n52428804\n1000000000";
    assert_eq!(home.ok(&words), expected);
}
