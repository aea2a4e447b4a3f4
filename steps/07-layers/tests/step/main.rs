//! Step 07, run as a learner runs it, and looked at from the host.

mod committed;
#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/home.rs"]
mod home;
#[allow(dead_code)]
#[path = "../../../04-engine/tests/step/killed.rs"]
mod killed;
#[allow(dead_code)]
#[path = "../../../05-users/tests/step/ordinary.rs"]
mod ordinary;

use std::collections::BTreeMap;
use std::fs::{create_dir, read_to_string, set_permissions, write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use committed::Held;
use home::{Home, rootfs};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use ordinary::{Ordinary, RANGE};
use testing::{Check, World, calls, check, needs, proc, step, tempdir};

/// Most of these tests need no network.
const RUN: &[&str] = &["run", "--network", "none"];

/// The calls of this step, and those that write a container down or remove it.
const OWN: &str = "--pause=mkdir(,chown,chmod,open_tree,move_mount,mount(\"overlay\",umount2,rename,rm";

fn main() -> ExitCode {
    // Made once, before the tests run in processes of their own.
    let root = rootfs();
    if range().is_none() && on_an_overlay().is_none() {
        // A root that belongs to the range already is taken everywhere, also where the file system takes no map of ids.
        let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(root).status().expect("chown");
        assert!(given.success());
    }
    let code = testing::run("step07", checks());
    home::remove_rootfs();
    code
}

/// Temporary files on a file system that can have an upper layer, and lower ones with mapped ids.
fn overlay() -> Option<String> {
    static TRIED: OnceLock<Option<String>> = OnceLock::new();
    let tried = || {
        let home = Home::new();
        let ran = home.step(&[&["-q"], RUN, &["--rm", "true"]].concat()).ran();
        let whole = ran.err.lines().next().unwrap_or_default();
        let is_known = ["no upper layer can be", "takes no map of ids", "has no overlay"];
        (ran.code != 0 && is_known.iter().any(|words| ran.err.contains(words)))
            .then(|| format!("needs a /tmp that can have an upper layer: {whole}"))
    };
    needs::user_namespaces().or_else(|| TRIED.get_or_init(tried).clone())
}

/// Root, who may mount.
fn root_and_overlay() -> Option<String> {
    needs::root().or_else(overlay)
}

/// For [`ordinary`]: a root who has the ids to give.
fn range() -> Option<String> {
    let nested = (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned());
    needs::root().or_else(needs::user_namespaces).or(nested)
}

/// For [`ordinary`]: real user, real group, and the supplementary ones.
fn ids(process: nix::unistd::Pid) -> [String; 3] {
    let status = proc(process, "status");
    let words = |name: &str| {
        let line = process::status::field(&status, name).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    [words("Uid")[0].clone(), words("Gid")[0].clone(), words("Groups").join(" ")]
}

/// A copy of the root that is the test's own.
fn copy_of_root() -> tempfile::TempDir {
    let dir = tempdir();
    let copied = Command::new("cp").arg("-a").arg(rootfs()).arg(dir.path().join("rootfs")).status().expect("cp");
    assert!(copied.success());
    dir
}

/// Everything about what lies in a directory: names, types, rights, owners, times, links, content.
fn checksum(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut directories = vec![dir.to_owned()];
    while let Some(dir) = directories.pop() {
        for entry in std::fs::read_dir(&dir).expect("read").flatten() {
            let (path, it) = (entry.path(), entry.metadata().expect("metadata"));
            let content = match () {
                () if it.is_symlink() => path.read_link().expect("link").display().to_string(),
                () if it.is_file() => {
                    let sum = Command::new("sha256sum").arg(&path).output().expect("sha256sum");
                    String::from_utf8_lossy(&sum.stdout).into_owned()
                }
                () => String::new(),
            };
            let facts = (it.mode(), it.uid(), it.gid(), it.size(), it.mtime(), it.mtime_nsec(), it.ctime_nsec());
            all.insert(path.clone(), format!("{facts:?} {content}"));
            if it.is_dir() {
                directories.push(path);
            }
        }
    }
    all
}

fn checks() -> Vec<Check> {
    let mut checks = vec![
        check("two_on_one_root_do_not_see_each_others_writes", [overlay()], || {
            let home = Home::new();
            let root = copy_of_root();
            let dir = root.path().join("rootfs");
            let before = checksum(&dir);
            let root = dir.display().to_string();
            // Both begin at once, on a root that has no mount points for their files.
            let new = || {
                let words = [&["-q"], RUN, &["-d", "--rootfs", &root, "sleep", "100"]].concat();
                home.step(&words).spawn()
            };
            let [one, other] = [new(), new()].map(|run| {
                let output = run.wait_with_output().expect("wait");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            });
            let change = "echo mine >/etc/passwd; echo new >/new; rm /etc/group; chmod 700 /usr";
            home.ok(&["exec", &one, "sh", "-c", change]);
            assert_eq!(home.ok(&["exec", &one, "cat", "/etc/passwd", "/new"]), "mine\nnew");
            let others =
                home.ok(&["exec", &other, "sh", "-c", "cat /etc/passwd; ls /new /etc/group 2>&1; stat -c %a /usr"]);
            assert!(others.contains("root:") && others.contains("'/new': No such file"), "{others}");
            assert!(others.contains("/etc/group") && others.ends_with("755"), "{others}");
            // What the kernel says of it, to the host.
            let mounts = proc(home.init(&one), "mountinfo");
            let mount = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
            assert!(mount.contains(" - overlay ") && mount.contains("upperdir=upper"), "{mount}");
            assert!(home.data().join("step04-data").join(&one).join("upper/new").exists());
            home.ok(&["rm", "-f", &one, &other]);
            assert_eq!(before, checksum(&dir));
            // One step earlier, it is the root itself.
            let words = [&["--no-overlay", "--rootfs", &root, "--rm"], &["sh", "-c", "echo new >/new"][..]].concat();
            home.ok(&[RUN, &words].concat());
            assert!(dir.join("new").exists() && before != checksum(&dir));
        }),
        check("what_it_writes_outlives_a_run_and_goes_with_it", [overlay()], || {
            let home = Home::new();
            let script = "chmod 711 /; cat /count 2>/dev/null; echo again >>/count";
            let words = [RUN, &["--name", "it", "sh", "-c", script]].concat();
            assert_eq!(home.ok(&words), "");
            let top = home.data().join("step04-data").join(home.id("it"));
            assert_eq!(top.parent().expect("top").metadata().expect("top").mode() & 0o7777, 0o700);
            assert_eq!(home.ok(&["start", "-a", "it"]), "again");
            assert_eq!(home.ok(&["start", "-a", "it"]), "again\nagain");
            assert_eq!(top.join("upper").metadata().expect("upper").mode() & 0o7777, 0o711);
            let disk = home.json("it")["disk"].as_u64().expect("bytes on disk");
            assert!((4096..1 << 20).contains(&disk), "{disk}");
            let listed = home.step(&["ps", "-a", "-s"]).ran().out;
            assert!(
                listed.contains("SIZE") && listed.trim_end().ends_with(&format!(" {} KiB", disk / 1024)),
                "{listed}"
            );
            assert!(!home.step(&["ps", "-a"]).ran().out.contains("SIZE"));
            home.ok(&["rm", "it"]);
            assert!(!top.exists() && !top.parent().expect("top").exists());
        }),
        check("one_upper_layer_is_never_mounted_twice", [overlay()], || {
            let home = Home::new();
            let word = testing::random_word();
            let script = format!("echo {word} >>/count; [ $(wc -l </count) = 1 ] || sleep 1000");
            home.ok(&[RUN, &["--name", "it", "sh", "-c", &script]].concat());
            // While one is about to mount it.
            let held = Held::before("mount(\"overlay\"", &home, &["start", "it"]);
            home.refuses(&["start", "it"], "is still being created");
            assert_eq!(held.end(), (0, String::new()));
            assert_eq!(home.ok(&["start", "it"]), "it");
            // Of each overlay that any process stands on, the kernel has a device of its own.
            let shown = home.data().join("step04-data").join(home.id("it")).join("upper/count");
            let its = |root: &Path| read_to_string(root.join("count")).is_ok_and(|it| it.starts_with(&word));
            let roots = std::fs::read_dir("/proc").expect("proc").flatten().map(|entry| entry.path().join("root"));
            let mut devices: Vec<_> =
                roots.filter(|root| its(root)).filter_map(|root| Some(root.metadata().ok()?.dev())).collect();
            devices.sort_unstable();
            devices.dedup();
            assert_eq!(devices.len(), 1, "{devices:?}");
            assert_eq!(read_to_string(shown).expect("count"), format!("{word}\n{word}\n"));
        }),
        check("a_default_run_fits_on_a_screen", [overlay()], || {
            let home = Home::new();
            let ran = home.step(&["run", "--rm", "true"]).ran();
            let shown = ran.err.replace(&home.data().display().to_string(), "/var/lib");
            let shown = shown.replace(&home.path().display().to_string(), "/run");
            let shown = shown.replace(&rootfs().display().to_string(), "/home/you/container/target/rootfs");
            // What is printed once a machine is not counted, nor what is said of what this user may not do here.
            let is_extra = |line: &&str| line.starts_with('#') || line.contains('✘') || line.contains("EACCES");
            let counted: Vec<_> = shown.lines().filter(|line| !is_extra(line)).collect();
            let lines = testing::lines_on_screen(&counted.join("\n"));
            assert!(ran.code == 0 && lines <= 24, "{lines} lines:\n{}", ran.err);
        }),
        check("a_dry_run_prints_the_calls_of_a_run", [overlay()], || {
            let home = Home::new();
            let [run, dry] = [&[][..], &["--dry-run"]].map(|option| {
                let words = [option, RUN, &["--rm", "true"]].concat();
                let ran = home.narrated(&words).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                let own = ["step04-data", "overlay", "move_mount(", "open_tree(", "umount2("];
                let calls = calls(&home::without_ids(&ran.err)).into_iter();
                calls.filter(|call| own.iter().any(|name| call.contains(name))).collect::<Vec<_>>()
            });
            assert!(run.iter().any(|call| call.contains("mount(\"overlay\", \"root\", \"overlay\"")), "{run:?}");
            assert_eq!(run, dry);
            assert!(std::fs::read_dir(home.data()).expect("data").next().is_none());
        }),
        check("read_only_and_volumes_hold", [overlay()], || {
            let home = Home::new();
            let dir = tempdir();
            set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).expect("chmod");
            let volume = format!("{}:/volume", dir.path().display());
            let script = "echo a >/a; echo b >/volume/b; mkdir /usr/c; exit 0";
            let words = [&["-q"], RUN, &["--rm", "--read-only", "-v", &volume, "sh", "-c", script]].concat();
            let ran = home.step(&words).ran();
            assert_eq!(ran.code, 0, "{}", ran.err);
            assert_eq!(ran.err.matches("Read-only file system").count(), 2, "{}", ran.err);
            assert_eq!(read_to_string(dir.path().join("b")).expect("b"), "b\n");
        }),
        check("a_hundred_layers_with_any_names_are_one_root", [overlay()], || {
            let home = Home::new();
            let dir = tempdir();
            let layers: Vec<_> = (0..100)
                .map(|number| {
                    // Far beyond 4095 bytes in all, with what means something in the options of an overlay.
                    let layer = dir.path().join(format!("a:b,c\\d e{number}{}", "x".repeat(60)));
                    create_dir(&layer).expect("mkdir");
                    write(layer.join(format!("file{number}")), "").expect("write");
                    write(layer.join("top"), number.to_string()).expect("write");
                    layer.display().to_string()
                })
                .collect();
            set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
            let layers = layers.iter().flat_map(|layer| ["--layer", layer]).collect::<Vec<_>>();
            let words = [RUN, &layers, &["--rm", "sh", "-c", "ls -d /file* | wc -l; cat /top"]].concat();
            assert_eq!(home.ok(&words), "100\n99");
            // In the place of the root.
            let root = rootfs().display().to_string();
            let words =
                [&["run", "--network", "none", "--layer", &root], &layers[..2], &["--rm", "ls", "/file0"]].concat();
            let ran = step("step07", [&["-q"], words.as_slice()].concat());
            let ran = ran.with(|it| _ = it.env("XDG_RUNTIME_DIR", home.path()).env("XDG_DATA_HOME", home.data())).ran();
            assert_eq!((ran.code, ran.out.as_str()), (0, "/file0\n"), "{}", ran.err);
        }),
        check("layers_that_cannot_be_are_one_sentence", [overlay()], || {
            let home = Home::new();
            let refuses = |words: &[&str], word| home.refuses(&[RUN, words, &["--rm", "true"]].concat(), word);
            refuses(&["--layer", "/nowhere"], "no such layer /nowhere: ENOENT");
            refuses(&["--layer", "/etc/passwd"], "a layer is a directory");
            refuses(&["--layer", "/usr", "--no-overlay"], "cannot be used with");
            let root = rootfs().display().to_string();
            refuses(&["--layer", &root], "ELOOP");
            let layer = tempdir();
            let many: Vec<_> = (0..500).flat_map(|_| ["--layer", layer.path().to_str().expect("UTF-8")]).collect();
            refuses(&many, "the kernel takes 500 at most");
            assert!(std::fs::read_dir(home.data()).expect("data").next().is_none(), "nothing is left of them");
        }),
        check("where_no_upper_layer_can_be_it_says_so", [root_and_overlay()], || {
            let home = Home::new();
            let [lower, place] = [tempdir(), tempdir()];
            ["upper", "work"].iter().for_each(|name| create_dir(place.path().join(name)).expect("mkdir"));
            let at = |name: &str| place.path().join(name).display().to_string();
            let options =
                format!("lowerdir={},upperdir={},workdir={}", lower.path().display(), at("upper"), at("work"));
            mount(Some("overlay"), &home.data(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                .expect("overlay");
            let words = [&["-q"], RUN, &["--rm", "true"]].concat();
            let ran = home.step(&words).ran();
            assert!(ran.code == 125 && ran.err.contains("(overlay) is an overlay itself"), "{}", ran.err);
            assert!(ran.err.contains("what to do: name a directory on another one"), "{}", ran.err);
            // The second remedy.
            home.ok(&[RUN, &["--no-overlay", "--rm", "true"]].concat());
            nix::mount::umount(&home.data()).expect("umount");
            let ran = home.step(&words).ran();
            assert_eq!(ran.code, 0, "{}", ran.err);
            // A file system without attributes.
            mount(Some("none"), &home.data(), Some("ramfs"), MsFlags::empty(), None::<&str>).expect("ramfs");
            home.refuses(&words[1..], "keeps no attributes of a user");
            nix::mount::umount(&home.data()).expect("umount");
            mount(Some("none"), &home.data(), Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).expect("tmpfs");
            home.refuses(&words[1..], "EROFS");
            nix::mount::umount(&home.data()).expect("umount");
        }),
        check("of_overlays_on_overlays_it_names_the_one_that_is_too_many", [range().or_else(overlay)], || {
            let (home, root, place) = (Home::new(), copy_of_root(), tempdir());
            // An overlay takes no map of ids: its files belong to the range already. Nor does this one take mount points.
            let root = root.path().join("rootfs");
            ["hostname", "hosts", "resolv.conf"]
                .iter()
                .for_each(|name| write(root.join("etc").join(name), "").expect("write"));
            let given = Command::new("chown").args(["-hR", "100000:100000"]).arg(&root).status().expect("chown");
            assert!(given.success());
            let at = |name: &str| place.path().join(name);
            ["empty", "first", "second"].iter().for_each(|name| create_dir(at(name)).expect("mkdir"));
            set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
            let lay = |lower: &Path, on: &Path| {
                let options = format!("lowerdir={}:{}", lower.display(), at("empty").display());
                mount(Some("overlay"), on, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect("overlay");
            };
            lay(&root, &at("first"));
            lay(&at("first"), &at("second"));
            let [root, first, second] = [&root, &at("first"), &at("second")].map(|dir| dir.display().to_string());
            home.ok(&[RUN, &["--rm", "--rootfs", &first, "true"]].concat());
            let too_many = format!("{second} cannot be a layer: it lies on an overlay that lies on another");
            home.refuses(&[RUN, &["--rm", "--rootfs", &second, "true"]].concat(), &too_many);
            home.refuses(&[RUN, &["--rm", "--rootfs", &root, "--layer", &second, "true"]].concat(), &too_many);
            // The remedies.
            home.ok(&[RUN, &["--rm", "--no-overlay", "--read-only", "--rootfs", &second, "true"]].concat());
            let copied = Command::new("cp").args(["-a", &second]).arg(at("copy")).status().expect("cp");
            assert!(copied.success());
            home.ok(&[RUN, &["--rm", "--rootfs", &at("copy").display().to_string(), "true"]].concat());
            [second, first].iter().for_each(|dir| nix::mount::umount(Path::new(dir)).expect("umount"));
        }),
        check("an_upper_layer_that_is_spoilt_between_two_runs_is_one_sentence", [root_and_overlay()], || {
            let home = Home::new();
            home.ok(&[RUN, &["--name", "it", "true"]].concat());
            let dir = home.data().join("step04-data").join(home.id("it"));
            for name in ["upper", "work"] {
                mount(Some("none"), &dir.join(name), Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
                home.refuses(&["start", "-a", "it"], "`upper` and `work` in it are on two file systems");
                nix::mount::umount(&dir.join(name)).expect("umount");
            }
            home.ok(&["start", "-a", "it"]);
        }),
        check("where_the_kernel_mounts_read_only_it_says_so", [root_and_overlay(), needs::tool("chattr")], || {
            let home = Home::new();
            home.ok(&[RUN, &["--name", "it", "true"]].concat());
            let work = home.data().join("step04-data").join(home.id("it")).join("work");
            // What the kernel cannot prepare anything in.
            let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&work).status().expect("chattr").success();
            assert!(chattr("+i"));
            let ran = home.step(&["-q", "start", "-a", "it"]).ran();
            assert!(chattr("-i"));
            assert!(ran.code == 125 && ran.err.contains("lacks what an upper layer needs"), "{}", ran.err);
            home.ok(&["start", "-a", "it"]);
        }),
        check(
            "beside_docker_it_says_where_an_upper_layer_cannot_be",
            [needs::user_namespaces(), on_an_overlay()],
            || {
                let home = Home::new();
                home.refuses(&[RUN, &["--rm", "true"]].concat(), "is an overlay itself");
                home.ok(&[RUN, &["--no-overlay", "--rm", "true"]].concat());
            },
        )
        .differs_in([World::DockerRoot, World::DockerUser]),
        check("a_full_disk_is_the_containers_alone", [root_and_overlay()], || {
            let home = Home::new();
            mount(Some("none"), &home.data(), Some("tmpfs"), MsFlags::empty(), Some("size=2M")).expect("tmpfs");
            let script = "head -c 9000000 /dev/zero >/big; rm /big; echo small >/small; cat /small";
            let words = [&["-q"], RUN, &["--name", "it", "sh", "-c", script]].concat();
            let ran = home.step(&words).ran();
            if ran.err.contains("keeps no attributes") {
                nix::mount::umount(&home.data()).expect("umount");
                return; // before Linux 6.6
            }
            assert_eq!((ran.code, ran.out.as_str()), (0, "small\n"), "{}", ran.err);
            assert!(ran.err.contains("No space left on device"), "{}", ran.err);
            // Nor is half a layer left.
            let half = tempdir();
            mount(Some("none"), half.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64K")).expect("tmpfs");
            home.ok(&[RUN, &["--name", "other", "sh", "-c", "head -c 1200000 /dev/zero >/big"]].concat());
            let archive = half.path().join("a.tar").display().to_string();
            home.refuses(&["commit", "other", &archive], "ENOSPC");
            home.refuses(&["commit", "other", &half.path().join("layer").display().to_string()], "ENOSPC");
            assert!(std::fs::read_dir(half.path()).expect("half").next().is_none());
            assert!(!home.data().join("step04-data").join(home.id("other")).join("commit").is_symlink());
            home.clear();
            nix::mount::umount(&home.data()).expect("umount");
            nix::mount::umount(half.path()).expect("umount");
        }),
        check("what_is_too_deep_for_any_path_is_removed_all_the_same", [overlay()], || {
            let home = Home::new();
            let script =
                "for i in {1..13}; do mkdir -p $(printf 'd/%.0s' {1..100}); cd $(printf 'd/%.0s' {1..100}); done";
            home.ok(&[RUN, &["--name", "it", "bash", "-c", script]].concat());
            // With fewer descriptors than directories on the way, and less stack than functions that call themselves need.
            let few = |words: &[&str]| {
                let ran = home.step(words).with(|command| {
                    let limit = |what, value| move || Ok(setrlimit(what, value, value)?);
                    // SAFETY: setrlimit(2) is async-signal-safe, and nothing else is called.
                    unsafe {
                        command
                            .pre_exec(limit(Resource::RLIMIT_NOFILE, 200))
                            .pre_exec(limit(Resource::RLIMIT_STACK, 256 << 10))
                    };
                });
                let ran = ran.ran();
                assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
                ran.out
            };
            assert_eq!(few(&["-q", "diff", "it"]).lines().filter(|line| line.starts_with("A /d")).count(), 1300);
            few(&["-q", "rm", "it"]);
            assert!(std::fs::read_dir(home.data()).expect("data").next().is_none());
        }),
        check("a_killed_engine_leaves_nothing_of_a_layer", [overlay()], || {
            let run = [&[OWN], RUN, &["--name", "it", "sleep", "0.3"]].concat();
            killed::at_every_pause(|_| {}, &run, killed::Who::Engine);
        }),
        check("a_killed_monitor_leaves_nothing_of_a_layer", [overlay()], || {
            let create = [OWN, "create", "--network", "none", "--name", "it", "true"];
            killed::at_every_pause(|_| {}, &create, killed::Who::Monitor);
        }),
        check("of_a_crowd_of_containers_none_is_lost_and_nothing_left", [overlay()], a_crowd).alone(),
        check("an_ordinary_user_has_an_upper_layer_with_a_range", [ordinary::needed().or_else(overlay)], || {
            ordinary_user(RANGE, "0/0", "5/6");
        }),
        check("an_ordinary_user_has_an_upper_layer_without_one", [ordinary::needed().or_else(overlay)], || {
            ordinary_user("", "0/0", "0/0");
        }),
        check("in_the_network_of_another_container_its_layer_is_its_own", [overlay()], || {
            let home = Home::new();
            shares_a_network(|words| home.ok(words));
        }),
        check("an_ordinary_user_shares_a_network_and_a_range", [ordinary::needed().or_else(overlay)], || {
            let user = Ordinary::new(RANGE);
            shares_a_network(|words| user.ok(words));
            let ids = ["run", "--rm", "--user", "5:6", "--network", "container:web", "id", "-u"];
            assert_eq!(user.ok(&ids), "5");
            user.ok(&["rm", "-f", "web"]);
        }),
        check("this_user_has_an_upper_layer", [needs::ordinary_user(), overlay()], || {
            let home = Home::new();
            // What fails without `userxattr`.
            let script =
                "mkdir q && mv q r && rmdir r && rm -r /root && mkdir /root && touch /root/new && chmod 0 /root";
            home.ok(&[RUN, &["--name", "it", "sh", "-c", script]].concat());
            let diff = home.ok(&["diff", "it"]);
            assert!(diff.contains("C /root\n") && diff.contains("A /root/new"), "{diff}");
        })
        .differs_in([World::SystemdUser]),
    ];
    checks.extend(committed::checks());
    checks
}

fn on_an_overlay() -> Option<String> {
    let kind = nix::sys::statfs::statfs(&std::env::temp_dir()).map(|it| it.filesystem_type());
    (kind != Ok(nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)).then(|| "needs temporary files on an overlay".to_owned())
}

/// What an ordinary user's container does, and what the archive of it says of the owners of two files.
fn ordinary_user(lines: &str, of_root: &str, of_five: &str) {
    let user = Ordinary::new(lines);
    create_dir(user.root().join("d")).and_then(|()| write(user.root().join("d/old"), "")).expect("a directory");
    ["d", "d/old"].iter().for_each(|name| chown(user.root().join(name), Some(65534), Some(65534)).expect("chown"));
    let before = checksum(&user.root());
    let owns = if lines.is_empty() { "" } else { "chown 5:6 /f &&" };
    // What fails without `userxattr`, and what its own user may not look into or remove.
    let script = format!(
        "mkdir q && mv q r && rmdir r && rm -r /d && mkdir /d && touch /d/new && mkdir c && touch c/d /f && {owns} chmod 0 c && chmod 555 /"
    );
    user.ok(&["run", "--name", "it", "--network", "none", "sh", "-c", &script]);
    assert_eq!(before, checksum(&user.root()));
    let diff = user.ok(&["diff", "it"]);
    for line in ["C /d", "A /d/new", "D /d/old", "A /c", "A /c/d", "A /f"] {
        assert!(diff.lines().any(|it| it == line), "{line}: {diff}");
    }
    user.ok(&["commit", "it", "it.tar"]);
    user.ok(&["commit", "it", "layer"]);
    let archive = user.root().with_file_name("it.tar");
    let listed = Command::new("tar").arg("-tvf").arg(&archive).output().expect("tar");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let owner = |name: &str| {
        let line = listed.lines().find(|line| line.ends_with(name)).unwrap_or_else(|| panic!("{name}: {listed}"));
        line.split_whitespace().nth(1).expect("an owner").to_owned()
    };
    assert_eq!((owner(" c/d"), owner(" f"), owner(" d/.wh..wh..opq")), (of_root.into(), of_five.into(), "0/0".into()));
    assert_eq!(
        user.ok(&["run", "--rm", "--network", "none", "--layer", "layer", "sh", "-c", "ls /d /c"]),
        "/c:\nd\n\n/d:\nnew"
    );
    user.ok(&["rm", "it"]);
    let data = user.root().with_file_name(".local").join("share");
    assert!(std::fs::read_dir(data).expect("data").next().is_none());
}

/// With the ids of the other one, and files of its own.
fn shares_a_network(ok: impl Fn(&[&str]) -> String) {
    ok(&["run", "-d", "--name", "web", "--network", "none", "sleep", "100"]);
    let script = "cat /proc/self/uid_map && touch /f && ip address add 192.0.2.7/32 dev lo";
    let map = ok(&["run", "--name", "guest", "--network", "container:web", "sh", "-c", script]);
    assert_eq!(map, ok(&["exec", "web", "cat", "/proc/self/uid_map"]));
    assert!(ok(&["exec", "web", "ip", "address"]).contains("192.0.2.7/32"));
    let has_made = |name: &str| ok(&["diff", name]).lines().any(|line| line == "A /f");
    assert_eq!(["guest", "web"].map(has_made), [true, false]);
    ok(&["rm", "guest"]);
}

/// Eight at a time, each of which writes the same file.
fn a_crowd() {
    let home = Home::new();
    let one = |number: usize| {
        let script = format!("cat /own 2>/dev/null; echo {number} >/own; sleep 0.2; cat /own");
        home.step(&[&["-q"], RUN, &["--rm", "sh", "-c", &script]].concat()).spawn()
    };
    for round in 0..testing::some_of(13) {
        let runs: Vec<_> = (0..8).map(|number| (round * 8 + number, one(round * 8 + number))).collect();
        for (number, run) in runs {
            let output = run.wait_with_output().expect("wait");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{number}\n"));
        }
    }
    assert_eq!(home.all(), "");
    assert!(std::fs::read_dir(home.data()).expect("data").next().is_none());
}
