//! The scripts that make a root out of something else than this machine's own tools. The tests of the step run `host.sh`,
//! the tutorial's `busybox.sh`.

use std::fs::{create_dir_all, read_dir, read_to_string, set_permissions, write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use testing::{self, Check, Run, World, check, needs, random_word, step};

fn main() -> ExitCode {
    testing::run("step03", checks())
}

/// Root, and the tools that set and read them.
fn capabilities() -> Vec<Option<String>> {
    all_ids().into_iter().chain(["setcap", "getcap", "getfattr"].map(needs::tool)).collect()
}

fn checks() -> Vec<Check> {
    vec![
        check("alpine_sh_unpacks_an_archive_with_the_right_checksum", [needs::tool("sha256sum")], || {
            let made = Archive::new();
            let sum = output(Command::new("sha256sum").arg(&made.path));
            let sum = sum.split(' ').next().expect("a checksum");
            let alpine = |name: &str, sha256: &str| {
                let dest = made.dir.path().join(name);
                let mut script = script("alpine.sh", &dest);
                script.env("ARCHIVE", &made.path).env("SHA256", sha256);
                (Run::new(script).ran(), dest)
            };
            let (ran, dest) = alpine("given", sum);
            assert_eq!(ran.code, 0, "{ran:?}");
            made.expect_unpacked(&dest);
            assert!(read_to_string(dest.join(".made-by")).expect(".made-by").contains("mini.tar.gz"));

            for (wrong, word) in [("0", "not 0"), ("", "no checksum")] {
                let (ran, dest) = alpine("wrong", wrong);
                assert!(ran.code == 1 && ran.err.contains(word) && ran.out.is_empty(), "{ran:?}");
                assert!(!dest.exists());
            }
            write(made.dir.path().join("mini.tar.gz.sha256"), format!("{sum}  mini.tar.gz\n")).expect("write");
            let (ran, dest) = alpine("beside", "");
            assert_eq!(ran.code, 0, "{ran:?}");
            made.expect_unpacked(&dest);
            made.expect_nothing_else(&["given", "beside", "mini.tar.gz.sha256"]);
        }),
        check("a_root_with_an_owner_belongs_to_the_ids_from_that_one_on", all_ids(), || {
            let made = Archive::new();
            let from = made.dir.path().join("from");
            let outside = made.dir.path().join("outside");
            write(&outside, "").expect("write");
            set_permissions(&outside, PermissionsExt::from_mode(0o600)).expect("chmod");
            symlink(&outside, from.join("link")).expect("symlink");
            chown(from.join("bin/tool"), Some(1), Some(7)).expect("chown");
            set_permissions(from.join("bin/tool"), PermissionsExt::from_mode(0o4751)).expect("chmod");
            output(Command::new("tar").arg("-C").arg(&from).arg("-czf").arg(&made.path).arg("."));
            let sum = output(Command::new("sha256sum").arg(&made.path));
            // 1 among them: what has become 1 already is not counted on once more.
            for owner in [1, 100_000] {
                let dest = made.dir.path().join(format!("root-{owner}"));
                let alpine = |dest: &Path, owner: &str| {
                    let mut script = Command::new(path("alpine.sh"));
                    script.args(["--owner", owner]).arg(dest).env("ARCHIVE", &made.path);
                    script.env("SHA256", sum.split(' ').next().expect("sum"));
                    Run::new(script).ran()
                };
                let ran = alpine(&dest, &owner.to_string());
                assert_eq!(ran.code, 0, "{ran:?}");
                let of = |name: &str| {
                    let it = dest.join(name).symlink_metadata().expect(name);
                    (it.uid() - owner, it.gid() - owner, it.mode() & 0o7777)
                };
                assert_eq!([of("."), of("etc/word"), of("tmp")], [(0, 0, 0o755), (0, 0, 0o644), (0, 0, 0o1777)]);
                assert_eq!((of("bin/tool"), of("link")), ((1, 7, 0o4751), (0, 0, 0o777)));
                let it = outside.metadata().expect("outside");
                assert_eq!((it.uid(), it.mode() & 0o7777), (0, 0o600), "a link leads to no other file");
                let ran = alpine(&dest, "7");
                assert!(ran.code == 1 && ran.err.contains("to make one with owner 7"), "{ran:?}");
                for wrong in ["", "root", "-1"] {
                    let ran = alpine(&made.dir.path().join("wrong"), wrong);
                    assert!(ran.code == 2 && ran.err.contains("--owner takes an id"), "{ran:?}");
                }
            }
        }),
        check("a_root_with_an_owner_keeps_the_capabilities_of_files", capabilities(), || {
            let made = Archive::new();
            let from = made.dir.path().join("from");
            let set = Command::new("setcap").arg("cap_net_raw+ep").arg(from.join("bin/tool")).status().expect("setcap");
            assert!(set.success());
            let mut tar = Command::new("tar");
            tar.args(["--xattrs", "--xattrs-include=security.capability", "-C"]).arg(&from).arg("-czf").arg(&made.path);
            output(tar.arg("."));
            let sum = output(Command::new("sha256sum").arg(&made.path));
            let of = |options: &[&str], name: &str| {
                let dest = made.dir.path().join(name);
                let mut script = Command::new(path("alpine.sh"));
                script.args(options).arg(&dest).env("ARCHIVE", &made.path);
                output(script.env("SHA256", sum.split(' ').next().expect("sum")));
                let tool = dest.join("bin/tool");
                assert_eq!(tool.metadata().expect("tool").mode() & 0o7777, 0o751);
                let shown = output(Command::new("getcap").arg("-n").arg(&tool));
                shown.trim_end().rsplit_once("tool ").map(|(_, rights)| rights.to_owned()).unwrap_or_default()
            };
            assert_eq!(of(&[], "plain"), "cap_net_raw=ep");
            // Of that container's root, and of no other: else whoever runs it on the host would have them.
            assert_eq!(of(&["--owner", "100000"], "given"), "cap_net_raw=ep [rootid=100000]");
        }),
        check("debian_sh_passes_its_options_to_mmdebstrap", registry(), || {
            let dir = tempfile::tempdir().expect("tempdir");
            let dest = dir.path().join("root");
            // One static program that is not even configured: seconds instead of half a minute. Old package lists, which a
            // registry of a fixed day has, are as good here.
            let options =
                ["--variant=extract", "--include=busybox-static", "--aptopt=Acquire::Check-Valid-Until \"false\""];
            // Longer than a test may take: it is the network's time.
            let mut debian = Command::new("timeout");
            debian.arg("300").arg(path("debian.sh")).arg(&dest).args(options).env("SUITE", suite());
            output(&mut debian);
            assert!(read_to_string(dest.join(".made-by")).expect(".made-by").contains("Debian"));
            let word = random_word();
            let busybox = ["-q", "--rootfs", &dest.display().to_string(), "busybox", "echo", &word].map(str::to_owned);
            let ran = step("step03", busybox).ran();
            assert_eq!(ran.out, format!("{word}\n"), "{ran:?}");
            let mut again = script("debian.sh", &dest);
            again.arg("--include=hello");
            let ran = Run::new(again).ran();
            assert!(ran.code == 1 && ran.err.contains("--include=hello"), "{ran:?}");
        })
        .on_this_network(),
        check("docker_sh_exports_an_image_and_leaves_no_container", [docker()], || {
            let made = Archive::new();
            let image = format!("rootfs-scripts-{}", random_word());
            let _image = Image::import(&made.path, &image);
            let dest = made.dir.path().join("root");
            let mut script = script("docker.sh", &dest);
            script.env("IMAGE", &image);
            let ran = Run::new(script).ran();
            assert_eq!(ran.code, 0, "{ran:?}");
            made.expect_unpacked(&dest);
            let left = ["ps", "--all", "--quiet", "--filter", &format!("ancestor={image}")].map(str::to_owned);
            assert_eq!(output(Command::new("docker").args(left)), "");
            made.expect_nothing_else(&["root"]);
        })
        .differs_in([World::DockerHost]),
    ]
}

/// A root as an archive, with something in it that nobody can have written into a script.
struct Archive {
    dir: tempfile::TempDir,
    path: PathBuf,
    word: String,
}

impl Archive {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let (from, path) = (dir.path().join("from"), dir.path().join("mini.tar.gz"));
        let word = random_word();
        for name in ["dev", "etc", "bin"] {
            create_dir_all(from.join(name)).expect("mkdir");
        }
        // In place of a device: an ordinary user can make none.
        write(from.join("dev/null"), "no device").expect("write");
        write(from.join("etc/word"), &word).expect("write");
        write(from.join("bin/tool"), "#!/bin/sh\n").expect("write");
        set_permissions(from.join("bin/tool"), PermissionsExt::from_mode(0o751)).expect("chmod");
        output(Command::new("tar").arg("-C").arg(&from).arg("-czf").arg(&path).arg("."));
        Archive { dir, path, word }
    }

    fn expect_unpacked(&self, root: &Path) {
        assert_eq!(read_to_string(root.join("etc/word")).expect("etc/word"), self.word);
        assert_eq!(root.join("bin/tool").metadata().expect("bin/tool").permissions().mode() & 0o7777, 0o751);
        // The container gets a /dev of its own.
        assert_eq!(read_dir(root.join("dev")).expect("dev").count(), 0);
        assert!(["proc", "sys", "tmp"].iter().all(|name| root.join(name).is_dir()));
    }

    fn expect_nothing_else(&self, names: &[&str]) {
        let entries = read_dir(self.dir.path()).expect("the directory").flatten();
        let names: Vec<_> = names.iter().copied().chain(["from", "mini.tar.gz"]).collect();
        let left = entries.map(|it| it.file_name()).filter(|it| !names.iter().any(|name| it == name));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
    }
}

/// An image of Docker's, removed also after a failure.
struct Image(String);

impl Image {
    fn import(archive: &Path, name: &str) -> Self {
        output(Command::new("docker").arg("import").arg(archive).arg(name));
        Image(name.to_owned())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

fn script(name: &str, dest: &Path) -> Command {
    let mut command = Command::new(path(name));
    command.arg(dest);
    command
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-scripts").join(name)
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Root who may give a file to any id.
fn all_ids() -> [Option<String>; 3] {
    [
        needs::tool("sha256sum"),
        needs::root(),
        (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned()),
    ]
}

fn docker() -> Option<String> {
    let answers = Command::new("docker").args(["ps", "-q"]).output().is_ok_and(|it| it.status.success());
    (!answers).then(|| "needs docker and a daemon that answers".to_owned())
}

/// What debian.sh needs, and that the test was asked for: nobody expects `cargo test` to use the network.
fn registry() -> [Option<String>; 5] {
    let is_ci = std::env::var_os("CHECK_RECORD").is_some_and(|path| !path.is_empty());
    let routes = read_to_string("/proc/net/route").unwrap_or_default();
    let has_route = routes.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
    [
        needs::tool("mmdebstrap"),
        needs::root(),
        (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned()),
        (!has_route).then(|| "needs a network, to reach a package registry".to_owned()),
        (!is_ci).then(|| "needs a package registry, which only .ci/run asks".to_owned()),
    ]
}

/// This machine's own Debian, whose keys it has.
fn suite() -> String {
    let release = read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| release.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    if value("ID=") == "debian" { value("VERSION_CODENAME=").to_owned() } else { "stable".to_owned() }
}
