//! Step 03, run as a learner runs it, and looked at from the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{create_dir_all, read_to_string, write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use shared::mountinfo;
use testing::{Check, World, check, narrated, needs, program, step};

const WAIT: [&str; 3] = ["sh", "-c", "echo ready; cat"];

fn main() -> ExitCode {
    // Made once, before the tests run in processes of their own.
    rootfs();
    let code = testing::run("step03", checks());
    // A static is never dropped.
    if let Some(root) = ROOT.get() {
        std::fs::remove_dir_all(root.path()).expect("remove the root");
    }
    code
}

fn checks() -> Vec<Check> {
    vec![
        check("the_child_stands_in_the_new_root", [needs::user_namespaces()], || {
            let live = inside(&WAIT).until_ready();
            let root = Path::new("/proc").join(live.pid().to_string()).join("root").metadata().expect("root");
            let wanted = rootfs().metadata().expect("rootfs");
            assert_eq!((root.dev(), root.ino()), (wanted.dev(), wanted.ino()));
            live.end();
        })
        .differs_in(World::SLOW),
        check("no_mount_of_the_host_is_left", [needs::user_namespaces()], || {
            let live = inside(&WAIT).until_ready();
            let process = Path::new("/proc").join(live.pid().to_string());
            let mounts = mountinfo::read(&process).expect("mountinfo");
            let at_root = mounts.iter().filter(|mount| mount.point == Path::new("/")).count();
            assert_eq!(at_root, 1, "{mounts:?}");
            let mut points: BTreeSet<_> = mounts.iter().map(|mount| mount.point.display().to_string()).collect();
            points.remove("/dev/mqueue"); // some kernels have none
            let devices = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| format!("/dev/{name}"));
            let wanted = ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm"].map(str::to_owned);
            assert_eq!(points, wanted.into_iter().chain(devices).collect());
            live.end();
        })
        .differs_in(World::SLOW),
        check("a_file_of_the_host_cannot_be_read", [needs::user_namespaces()], || {
            let (dir, word) = secret();
            let file = dir.path().join("secret").display().to_string();
            assert_eq!(step("step01", ["-q", "cat", &file]).ran().out, word, "one step earlier it works");
            let ran = inside(&["cat", &file]).ran();
            assert!(ran.code != 0 && ran.out.is_empty(), "{ran:?}");
        }),
        check("a_chroot_is_broken_out_of_and_a_pivoted_root_is_not", [needs::user_namespaces()], || {
            let (dir, word) = secret();
            let file = dir.path().join("secret").display().to_string();
            let breakout = ["/usr/local/bin/chroot_breakout", &file];
            let mut first_try = Command::new(program("step03_first_try"));
            first_try.arg(rootfs()).args(breakout);
            let ran = testing::Run::new(first_try).ran();
            assert_eq!(ran.out, format!("broke out: {word}"), "one step earlier it works: {}", ran.err);
            let ran = inside(&breakout).ran();
            assert!(ran.out.starts_with("still inside: "), "{ran:?}");
        }),
        check("the_usual_devices_work", [needs::user_namespaces()], || {
            let script = "echo x >/dev/null && test $(head -c 4 /dev/zero | od -An -tx1 | tr -d ' ') = 00000000 \
                && test $(head -c 8 /dev/urandom | wc -c) = 8 && ! echo x 2>/dev/null >/dev/full \
                && test -c /dev/tty && test -d /dev/pts && test -d /dev/shm && test -L /dev/fd && echo y >/dev/shm/x \
                && test -e /dev/ptmx && echo good";
            let ran = inside(&["sh", "-c", script]).ran();
            assert_eq!(ran.out, "good\n", "{}", ran.err);
            let ran = inside(&["sh", "-c", "ls /dev"]).ran();
            let names: Vec<_> = ran.out.lines().filter(|name| *name != "mqueue").collect();
            assert_eq!(
                names,
                [
                    "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
                    "urandom", "zero"
                ]
            );
        }),
        check(
            "root_without_a_user_namespace_gets_nodes_of_its_own",
            [needs::root(), initial_user_namespace(), needs::tool("mknod")],
            || {
                let options = ["--namespaces", "pid,mount,net,ipc,uts"];
                let ran = narrated(
                    "step03",
                    options.iter().chain(&[
                        "--rootfs",
                        &rootfs_str(),
                        "sh",
                        "-c",
                        "stat -c '%t:%T %a' /dev/null; echo x >/dev/null",
                    ]),
                )
                .ran();
                assert_eq!((ran.code, ran.out.as_str()), (0, "1:3 666\n"), "{}", ran.err);
                assert!(ran.err.contains("S_IFCHR"), "{}", ran.err);
            },
        ),
        check("sys_is_read_only", [needs::user_namespaces()], || {
            // The first gets a new one, without the cgroup trees; the second the host's.
            for (options, wanted) in [(&["-q"][..], 1), (&["-q", "--namespaces", "user,mount,pid"], 2)] {
                let arguments =
                    ["--rootfs", &rootfs_str(), "sh", "-c", "mkdir /sys/fs/cgroup/x; mkdir /sys/kernel/x; exit 7"];
                let ran = step("step03", options.iter().chain(&arguments)).ran();
                assert_eq!((ran.code, ran.err.matches("ead-only").count()), (7, wanted), "{options:?} {ran:?}");
            }
        })
        .differs_in([World::CgroupV2, World::DockerRoot, World::DockerUser]),
        check("the_environment_is_not_the_hosts", [needs::user_namespaces()], || {
            let word = testing::random_word();
            let ran = inside_with(&["--env", &format!("GIVEN={word}"), "--env", "TAKEN"], &["env"])
                .with(|command| {
                    command.env("TAKEN", "taken").env("HOSTS_SECRET", "secret").env("TERM", "dumb");
                })
                .ran();
            let names: BTreeMap<_, _> = ran.out.lines().filter_map(|line| line.split_once('=')).collect();
            assert_eq!(names.get("GIVEN"), Some(&word.as_str()));
            assert_eq!(names.get("TAKEN"), Some(&"taken"));
            assert!(!names.contains_key("HOSTS_SECRET") && names.contains_key("PATH") && names.contains_key("HOME"));
        }),
        check("volumes_are_seen_inside", [needs::user_namespaces()], || {
            let (dir, word) = secret();
            let volume = |mode: &str| format!("{}:/volume{mode}", dir.path().display());
            let script = "cat /volume/secret; echo new >/volume/new";
            let ran = inside_with(&["-v", &volume("")], &["sh", "-c", script]).ran();
            assert_eq!((ran.code, ran.out.as_str()), (0, word.as_str()), "{}", ran.err);
            assert_eq!(read_to_string(dir.path().join("new")).expect("new"), "new\n");
            let ran =
                inside_with(&["-v", &volume(":ro")], &["sh", "-c", "cat /volume/secret; echo x >/volume/other"]).ran();
            assert!(ran.code != 0 && ran.out == word && ran.err.contains("ead-only"), "{ran:?}");
            let file = format!("{}:/a/file", dir.path().join("secret").display());
            assert_eq!(inside_with(&["-v", &file], &["cat", "/a/file"]).ran().out, word);
        }),
        check("a_link_in_the_root_does_not_lead_out_of_it", [needs::user_namespaces()], || {
            let (dir, _) = secret();
            let outside = tempfile::tempdir().expect("tempdir");
            let copy = small_root();
            // As the child will see it, this is /outside in the root; on the host it is the host's directory.
            symlink(outside.path(), copy.path().join("link")).expect("link");
            let volume = format!("{}:/link/made", dir.path().display());
            let root = copy.path().display().to_string();
            let there = copy.path().join(outside.path().strip_prefix("/").expect("absolute"));
            let ran = step("step03", ["-q", "--rootfs", &root, "-v", &volume, "true"]).ran();
            assert_eq!(std::fs::read_dir(outside.path()).expect("outside").count(), 0, "made on the host: {ran:?}");
            // There is no `true` in this root, which is found out at the very end.
            assert_eq!((ran.code, there.join("made").is_dir()), (127, true), "{ran:?}");
            for name in ["proc", "dev", "sys"] {
                let copy = small_root();
                let _ = std::fs::remove_dir(copy.path().join(name));
                symlink(outside.path(), copy.path().join(name)).expect("link");
                let root = copy.path().display().to_string();
                let ran = step("step03", ["-q", "--rootfs", &root, "true"]).ran();
                assert_eq!(std::fs::read_dir(outside.path()).expect("outside").count(), 0, "{name}: {ran:?}");
                assert!(!ran.err.contains("panicked"), "{}", ran.err);
            }
        }),
        check(
            "a_link_is_read_again_if_somebody_mounts_meanwhile",
            [needs::user_namespaces(), needs::tool("strace")],
            || {
                // As openat2(2) answers then: strace does so in its place, twice.
                let mut strace = Command::new("strace");
                strace.args(["-f", "-o", "/dev/null", "-e", "inject=openat2:error=EAGAIN:when=1..2"]);
                strace.arg(program("step03")).args(["-q", "--rootfs"]).arg(rootfs()).args(["echo", "hi"]);
                let ran = testing::Run::new(strace).ran();
                assert_eq!((ran.code, ran.out.as_str()), (0, "hi\n"), "{}", ran.err);
            },
        ),
        check("a_read_only_root_takes_no_write", [needs::user_namespaces()], || {
            let script = "echo x >/tmp/x; echo y >/dev/shm/y && echo shm";
            let ran = inside_with(&["--read-only"], &["sh", "-c", script]).ran();
            assert!(ran.out == "shm\n" && ran.err.contains("ead-only"), "{ran:?}");
            assert!(!rootfs().join("tmp/x").exists());
        }),
        check("the_program_begins_in_the_directory_that_was_named", [needs::user_namespaces()], || {
            assert_eq!(inside_with(&["-w", "/tmp"], &["pwd"]).ran().out, "/tmp\n");
            assert_eq!(inside_with(&["-w", "/made/for/it"], &["pwd"]).ran().out, "/made/for/it\n");
        }),
        check("the_formula_is_lit_by_what_was_read_back", [needs::user_namespaces()], || {
            let ran = inside(&["true"]).ran();
            let with = "Container = [cgroup] + [namespace] + [rootfs] + engine";
            let without = "Container = cgroup ✘ + [namespace] + [rootfs] + engine";
            assert!(ran.err.contains(if cgroups::may_make_groups() { with } else { without }), "{}", ran.err);
        }),
        check(
            "without_the_right_to_make_groups_it_goes_on_and_says_why",
            [
                needs::user_namespaces(),
                cgroups::may_make_groups().then(|| "needs a user who may not make cgroups".to_owned()),
            ],
            || {
                let ran = inside(&["true"]).ran();
                assert_eq!(ran.code, 0, "{}", ran.err);
                assert!(ran.err.contains("cgroup is not possible here: mkdir "), "{}", ran.err);
                let ran = inside_with(&["--pids-limit", "5"], &["true"]).ran();
                assert!(
                    ran.code == 125 && ran.err.contains("error: "),
                    "a limit that was asked for is not dropped: {}",
                    ran.err
                );
            },
        )
        .differs_in([World::CgroupV2, World::DockerUser]),
        check(
            "a_limit_holds_in_the_root_too",
            [
                needs::user_namespaces(),
                (!cgroups::may_make_groups()).then(|| "needs a user who may make cgroups".to_owned()),
                has_pids(),
            ],
            || {
                let ran = inside_with(&["--pids-limit", "20"], &["/usr/local/bin/fork_bomb"]).ran();
                assert_eq!(ran.out, "19 forks, then EAGAIN\n", "{}", ran.err);
            },
        )
        .differs_in([World::CgroupV2, World::DockerRoot, World::DockerUser]),
        check("roots_that_are_none_are_refused", [], || {
            let dir = tempfile::tempdir().expect("tempdir");
            let gone = dir.path().join("gone").display().to_string();
            let file = dir.path().join("file");
            write(&file, "").expect("file");
            testing::refuses("step03", &["-q", "--rootfs", &gone, "true"], 125, "ENOENT");
            testing::refuses("step03", &["-q", "--rootfs", &file.display().to_string(), "true"], 125, "is a file");
            testing::refuses("step03", &["-q", "--rootfs", "/", "true"], 125, "host's own root");
            testing::refuses("step03", &["-q", "--namespaces", "user,pid", "true"], 125, "mount namespace");
            for (volume, word) in [
                ("/no/such:/x", "ENOENT"),
                ("/tmp:x", "absolute"),
                ("/tmp:/a/../../b", "`..`"),
                ("/tmp", "SRC:DST"),
                ("/tmp:/x:rx", "SRC:DST"),
                (":/x", "source"),
                ("/tmp:/", "cover"),
            ] {
                testing::refuses(
                    "step03",
                    &["-q", "--rootfs", &dir.path().display().to_string(), "-v", volume, "true"],
                    125,
                    word,
                );
            }
            testing::refuses("step03", &["-q", "--workdir", "x", "true"], 125, "absolute");
            testing::refuses("step03", &["-q", "--env", "=x", "true"], 125, "NAME=VALUE");
        }),
        check("a_root_without_the_command_says_so", [needs::user_namespaces()], || {
            let empty = tempfile::tempdir().expect("tempdir");
            let root = empty.path().display().to_string();
            testing::refuses("step03", &["-q", "--rootfs", &root, "no-such"], 127, &root);
            testing::refuses("step03", &["-q", "--rootfs", &root], 127, "/bin/sh");
            let script = empty.path().join("script");
            write(&script, "#!/no/interpreter\n").expect("script");
            std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("chmod");
            testing::refuses("step03", &["-q", "--rootfs", &root, "/script"], 126, "/no/interpreter");
        }),
        check(
            "a_full_disk_under_the_root_says_so",
            [needs::root(), needs::user_namespaces(), needs::tool("mount")],
            || {
                // In a mount namespace of its own, so that nothing of it is left on this machine.
                let line = format!(
                    "mount -t tmpfs -o nr_inodes=2 none /mnt && exec {} -q --rootfs /mnt true",
                    program("step03").display()
                );
                let mut unshare = Command::new("unshare");
                unshare.args(["-m", "sh", "-c", &line]);
                let ran = testing::Run::new(unshare).ran();
                assert!(
                    ran.code == 125 && ran.err.contains("ENOSPC") && ran.err.contains("the disk is full"),
                    "{ran:?}"
                );
            },
        ),
        check(
            "a_dry_run_and_a_real_one_make_the_same_calls",
            [
                needs::user_namespaces(),
                (!cgroups::may_make_groups()).then(|| "needs a user who may make cgroups".to_owned()),
            ],
            || {
                let [dry, real] = ["--dry-run", "--color=never"].map(|it| narrated_inside(it, "/bin/true").ran().err);
                assert_eq!(testing::calls(&dry), testing::calls(&real));
            },
        )
        .differs_in([World::CgroupV2]),
        check(
            "the_narration_is_what_strace_sees",
            [needs::user_namespaces(), needs::tool("strace")],
            the_narration_is_what_strace_sees,
        )
        .differs_in([World::CgroupV2]),
        check("it_ends_with_the_step_at_every_pause", [needs::user_namespaces()], || {
            testing::end_at_every_pause("step03", &["--rootfs", &rootfs_str()]);
        }),
        check("a_step_runs_inside_a_step", [needs::user_namespaces()], || {
            let inner = program("step03").display().to_string();
            let ran = step("step01", [&inner, "-q", "--rootfs", &rootfs_str(), "uname", "-n"]).ran();
            assert_eq!((ran.code, ran.out.as_str()), (0, "step03\n"), "{}", ran.err);
        })
        .differs_in([World::CgroupV2]),
        check(
            "the_default_root_is_made_where_it_is_not_there",
            [needs::user_namespaces(), default_root_is_ours()],
            || {
                let ran = step("step03", ["sh", "-c", "test ! -e /home && echo inside"]).ran();
                assert_eq!((ran.code, ran.out.as_str()), (0, "inside\n"), "{}", ran.err);
            },
        ),
        check("a_default_run_fits_on_a_screen", [needs::user_namespaces()], || {
            let ran = step("step03", ["--rootfs", &rootfs_str(), "true"]).ran();
            assert!(testing::lines_on_screen(&ran.err) <= 24, "{}", ran.err);
            let order = ["mount(", "chdir(", "/proc: ", "/sys: ", "/dev: ", "pivot_root(", "umount2("];
            let found: Vec<_> = ran.err.lines().filter_map(|line| line.strip_prefix("child ")).collect();
            let mut rest = found.iter();
            for begin in order {
                assert!(rest.any(|line| line.starts_with(begin)), "{begin} in {found:#?}");
            }
        })
        .differs_in([World::CgroupV2]),
        check(
            "two_starts_on_one_root_make_its_directories_once",
            [needs::user_namespaces(), needs::tool("strace")],
            || {
                // As if another step had made it between the look and the mkdir: strace answers the first look.
                let mut strace = Command::new("strace");
                strace.args(["-f", "-o", "/dev/null", "-e", "inject=openat2:error=ENOENT:when=1"]);
                strace.arg(program("step03")).args(["-q", "--rootfs"]).arg(rootfs()).args(["echo", "hi"]);
                let ran = testing::Run::new(strace).ran();
                assert_eq!((ran.code, ran.out.as_str()), (0, "hi\n"), "{}", ran.err);
            },
        ),
        check("a_link_that_leads_to_nothing_gets_its_target_inside", [needs::user_namespaces()], || {
            let (dir, word) = secret();
            let word = word.trim().to_owned();
            let root = rootfs();
            let names = ["to_dir", "to_file", "chain"].map(|name| format!("{name}-{word}"));
            symlink(format!("/made-{word}/dir"), root.join(&names[0])).expect("link");
            symlink(format!("made-{word}/file"), root.join(&names[1])).expect("link");
            symlink(format!("tmp/../deep-{word}/down"), root.join(&names[2])).expect("link");
            let source = dir.path().display();
            let volumes = [
                format!("{source}:/{}", names[0]),
                format!("{source}/secret:/{}", names[1]),
                format!("{source}:/{}", names[2]),
            ];
            let volumes: Vec<_> = volumes.iter().flat_map(|it| ["-v", it]).collect();
            let script = format!("cat /made-{word}/dir/secret /made-{word}/file /deep-{word}/down/secret");
            let ran = inside_with(&volumes, &["sh", "-c", &script]).ran();
            assert_eq!(ran.out, format!("{word}\n").repeat(3), "{}", ran.err);
            assert!(root.join(format!("made-{word}/file")).is_file() && root.join(format!("made-{word}/dir")).is_dir());
            assert!(!Path::new(&format!("/made-{word}")).exists(), "made on the host");
        }),
        check("a_volume_is_mounted_before_those_that_lie_in_it", [needs::user_namespaces()], || {
            let [(outer, first), (inner, second)] = [secret(), secret()];
            let (outer, inner) = (outer.path().display(), inner.path().display());
            let volumes = [format!("{inner}:/volume/inner"), format!("{outer}:/volume")];
            let script = ["cat", "/volume/secret", "/volume/inner/secret"];
            let ran = inside_with(&["-v", &volumes[0], "-v", &volumes[1]], &script).ran();
            assert_eq!(ran.out, first + &second, "{}", ran.err);
            let twice = [format!("{inner}:/volume"), format!("{outer}:/volume/.")];
            let root = rootfs_str();
            let refused = ["-q", "--rootfs", &root, "-v", &twice[0], "-v", &twice[1], "true"];
            testing::refuses("step03", &refused, 125, "two volumes at /volume: ");
        }),
        check("a_volume_that_another_covers_through_a_link_is_named", [needs::user_namespaces()], || {
            let [(first, _), (second, word)] = [secret(), secret()];
            let (first, second) = (first.path().display(), second.path().display());
            let (root, random) = (rootfs(), testing::random_word());
            let [link, dir] = ["z", "m"].map(|name| format!("{name}-{random}"));
            symlink(format!("/{dir}"), root.join(&link)).expect("link");
            create_dir_all(root.join(&dir).join("sub")).expect("mkdir");
            // One above the other, and two at one place; each in both orders of the command line.
            for below in [format!("/{dir}/sub"), format!("/{dir}")] {
                let volumes = [format!("{second}:{below}"), format!("{first}:/{link}")];
                let [a, b] = &volumes;
                for [a, b] in [[a, b], [b, a]] {
                    let arguments = ["-q", "--rootfs", &rootfs_str(), "-v", a, "-v", b, "true"].map(str::to_owned);
                    testing::refuses("step03", &arguments, 125, &format!("the volume {second} at {below} is covered"));
                }
            }
            // Beside each other, both are seen.
            let volumes = [format!("{second}:/{link}/sub"), format!("{first}:/{link}-beside")];
            let command = ["cat", &format!("/{dir}/sub/secret")];
            assert_eq!(inside_with(&["-v", &volumes[0], "-v", &volumes[1]], &command).ran().out, word);
        }),
        check("a_file_in_the_way_is_named_as_the_root_has_it", [needs::user_namespaces()], || {
            let (dir, _) = secret();
            let copy = small_root();
            let root = copy.path().display().to_string();
            write(copy.path().join("file"), "").expect("file");
            std::fs::create_dir(copy.path().join("dir")).expect("mkdir");
            let source = dir.path().display();
            for (volume, words) in [
                (format!("{source}:/file"), ["openat2(AT_FDCWD, \"file\"", "ENOTDIR"]),
                (format!("{source}:/file/below"), ["openat2(AT_FDCWD, \"file", "ENOTDIR"]),
                (format!("{source}/secret:/dir"), ["/dir is a directory", "a file"]),
            ] {
                let ran = step("step03", ["-q", "--rootfs", &root, "-v", &volume, "true"]).ran();
                let named = words.iter().all(|word| ran.err.contains(word)) && ran.err.contains(&root);
                assert!(ran.code == 125 && named && !ran.err.contains("/proc/self/fd"), "{volume}: {}", ran.err);
            }
            std::fs::remove_dir(copy.path().join("proc")).expect("rmdir");
            write(copy.path().join("proc"), "").expect("file");
            testing::refuses("step03", &["-q", "--rootfs", &root, "true"], 125, "openat2(AT_FDCWD, \"proc\"");
        }),
        check(
            "a_directory_that_is_closed_on_the_way_is_named",
            [needs::user_namespaces(), needs::ordinary_user()],
            || {
                let dir = tempfile::tempdir().expect("tempdir");
                let closed = dir.path().join("closed");
                create_dir_all(closed.join("root")).expect("mkdir");
                let mode = |mode| std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).expect("chmod");
                let [root, way] = [closed.join("root"), closed.clone()].map(|path| path.display().to_string());
                let sentence = format!("this user may not search the directory {way} (mode 0600)");
                mode(0o600);
                let run = |arguments: &[&str]| step("step03", [&["-q"], arguments, &["true"]].concat()).ran();
                let volume = format!("{root}:/volume");
                let rans = [run(&["--rootfs", &root]), run(&["--rootfs", &rootfs_str(), "-v", &volume])];
                mode(0o700);
                for ran in rans {
                    assert!(ran.code == 125 && ran.err.contains(&sentence), "{}", ran.err);
                    assert!(ran.err.contains(&format!("chmod o+x {way}")), "{}", ran.err);
                }
            },
        ),
        check(
            "a_closed_directory_in_the_root_is_named_as_the_host_has_it",
            [needs::root(), needs::user_namespaces(), needs::tool("setpriv"), nobody_may_run_it()],
            || {
                // Its name is that of a directory of the host's, which is open to all.
                let dir = tempfile::tempdir_in("/tmp").expect("tempdir");
                std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
                let root = dir.path().canonicalize().expect("path");
                for name in ["proc", "sys", "dev", "tmp"] {
                    create_dir_all(root.join(name)).expect("mkdir");
                }
                std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o700)).expect("chmod");
                let mut nobody = Command::new("setpriv");
                nobody.args(NOBODY).arg(program("step03"));
                nobody.args(["-q", "--rootfs"]).arg(&root).args(["-v", "/:/tmp/x", "true"]);
                let ran = testing::Run::new(nobody).ran();
                let sentence = format!("this user may not search the directory {}/tmp (mode 0700)", root.display());
                assert!(ran.code == 125 && ran.err.contains(&sentence), "{}", ran.err);
            },
        ),
        check(
            "in_a_chroot_it_is_the_steps_own_root_that_is_no_mount_point",
            [needs::root(), initial_user_namespace(), needs::tool("chroot"), needs::tool("unshare")],
            || {
                let dir = tempfile::tempdir().expect("tempdir");
                let root = dir.path().join("root");
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-scripts/host.sh");
                let made = Command::new(script).arg(&root).arg(program("step03")).output().expect("host.sh");
                assert!(made.status.success(), "{made:?}");
                create_dir_all(root.join("inner")).expect("mkdir");
                // In a mount namespace of its own, so that nothing of it is left on this machine.
                let line = "mount -t proc proc proc && exec chroot . /usr/local/bin/step03 -q \
                    --namespaces mount,pid,net,ipc,uts --rootfs /inner true";
                let mut unshare = Command::new("unshare");
                unshare.args(["-m", "sh", "-c", line]).current_dir(&root);
                let ran = testing::Run::new(unshare).ran();
                let remedy = "this step's own root is not a mount point, as after chroot(8)";
                assert!(ran.code == 125 && ran.err.contains("EINVAL") && ran.err.contains(remedy), "{}", ran.err);
            },
        ),
        check("what_a_killed_script_has_left_is_removed_by_the_next_one", [], || {
            let dir = tempfile::tempdir().expect("tempdir");
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-scripts/host.sh");
            let partial = || {
                let entries = std::fs::read_dir(dir.path()).expect("dir").flatten();
                let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
                names.filter(|name| name.contains(".partial.")).collect::<Vec<_>>()
            };
            let run = || Command::new(&script).arg(dir.path().join("root")).output().expect("host.sh");
            let mut killed = Command::new(&script);
            let mut killed = killed.arg(dir.path().join("root")).process_group(0).spawn().expect("host.sh");
            testing::wait_until("the script is at work", || !partial().is_empty());
            let group = nix::unistd::Pid::from_raw(killed.id() as i32);
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).expect("kill");
            killed.wait().expect("wait");
            assert_eq!(partial().len(), 1, "a killed script cannot clean up");
            // Its id is another process's by now: that of process 1, as this test may have begun in the script's clock tick.
            let name = partial().concat();
            let (_, began) = name.rsplit_once('.').expect("a time");
            let recycled = format!("root.partial.1.{began}");
            std::fs::rename(dir.path().join(&name), dir.path().join(&recycled)).expect("rename");
            assert!(run().status.success());
            assert_eq!(partial(), Vec::<String>::new());
            // Also where there is nothing left to make.
            create_dir_all(dir.path().join(&recycled).join(".made-by")).expect("mkdir");
            assert!(run().status.success());
            assert_eq!(partial(), Vec::<String>::new());
        }),
    ]
}

/// Every call of the lesson that strace sees is printed, and every printed one is seen: by whom, in which order, with which
/// words and flags, and with which first word of its answer.
fn the_narration_is_what_strace_sees() {
    let [dir, store] = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    // What the child resets, where it may: of the caller's, which is this test.
    nix::sys::prctl::set_timerslack(1).expect("prctl");
    let may_set_groups = nix::unistd::setgroups(&[54321.into()]).is_ok();
    for name in ["step00", "step01", "step02", "step03", "step04"] {
        if name == "step02" && !cgroups::may_make_groups() {
            continue;
        }
        let trace = dir.path().join(name);
        let mut strace = Command::new("strace");
        // A file for each process, so that no line of one interrupts that of another.
        strace.args(["-ff", "-s", "999", "-o"]).arg(&trace).arg(format!("-e{}", LESSON.join(","))).arg(program(name));
        strace.args(testing::VERBOSE);
        if name == "step04" {
            strace.args(["run", "--rm"]);
        }
        if name >= "step03" {
            let volumes = ["-v", "/dev/null:/traced:ro", "-v", "/dev/zero:/traced-too"];
            strace.args(["--read-only", "-w", "/tmp", "--rootfs", &rootfs_str()]).args(volumes);
        }
        strace.arg("/bin/true").env("XDG_RUNTIME_DIR", store.path()).env("XDG_DATA_HOME", store.path());
        let ran = testing::Run::new(strace).ran();
        assert_eq!(ran.code, 0, "{name}: {}", ran.err);
        let birth = ran.err.lines().find(|line| line.starts_with("host  clone") || line.starts_with("host  fork"));
        let child = birth.and_then(|line| line.rsplit(' ').next()).expect("the child's pid");
        let printed: Vec<_> = ran.err.lines().filter_map(printed_call).collect();
        for who in ["host", "child"] {
            let mut seen = Vec::new();
            for entry in std::fs::read_dir(dir.path()).expect("traces").flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                if file.starts_with(name) && file.ends_with(&format!(".{child}")) == (who == "child") {
                    seen.extend(read_to_string(entry.path()).expect("a trace").lines().filter_map(seen_call));
                }
            }
            let mut printed: Vec<_> = printed.iter().filter(|it| it.0 == who).map(|it| it.1.clone()).collect();
            if who == "host" {
                // It is strace that has executed the step.
                assert_eq!(seen.remove(0).name, "execve");
            }
            if name == "step04" && who == "host" {
                // The engine makes directories in one that it has open, and gives itself its name back after execve.
                let is_its_own = |call: &Traced| ["mkdir", "prctl"].contains(&call.name.as_str());
                for calls in [&mut seen, &mut printed] {
                    calls.retain(|call| !is_its_own(call));
                }
            }
            let names = |calls: &[Traced]| calls.iter().map(|call| call.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&printed), names(&seen), "{name}, {who}");
            for (printed, seen) in printed.iter().zip(&seen) {
                assert!(printed.is_as(seen), "{name}, {who}: {printed:?} is not {seen:?}");
            }
        }
        let has_own_groups = name != "step00" && may_set_groups && needs::own_or_all_ids().is_none();
        assert_eq!(printed.iter().any(|(_, call)| call.name == "setgroups"), has_own_groups, "{name}: {}", ran.err);
        assert!(printed.len() > 5, "{name}: {}", ran.err);
    }
}

const LESSON: [&str; 28] = [
    "chdir",
    "clone",
    "clone3",
    "close_range",
    "execve",
    "fchdir",
    "fork",
    "ioctl",
    "kill",
    "mkdir",
    "mkdirat",
    "mknodat",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "openat2",
    "pivot_root",
    "prctl",
    "rmdir",
    "setgroups",
    "sethostname",
    "setns",
    "symlinkat",
    "umask",
    "umount2",
    "unshare",
    "vfork",
];

/// A call as it is printed, or as strace has seen it.
#[derive(Clone, Debug)]
struct Traced {
    name: String,
    /// A number, where that is what it begins with.
    first: Option<String>,
    quoted: BTreeSet<String>,
    flags: BTreeSet<String>,
    /// None where it was printed before it was made.
    answer: Option<String>,
}

/// `child mount("none", "/", NULL, MS_REC|MS_PRIVATE, NULL) = 0`.
fn printed_call(line: &str) -> Option<(String, Traced)> {
    let (who, call) = line.split_once(' ')?;
    let (call, answer) =
        call.trim_start().rsplit_once(" = ").map_or((call.trim_start(), None), |(call, it)| (call, Some(it)));
    // An errno that is fine stands for what is -1 to strace.
    let answer = answer.map(|answer| if answer.starts_with('E') { "-1" } else { answer });
    // mkdir and rmdir are printed as the shell's commands.
    let call = match call.split_once(' ') {
        Some((name @ ("mkdir" | "rmdir"), path)) => format!("{name}({path:?})"),
        _ => call.to_owned(),
    };
    Some((who.to_owned(), traced(&call, answer)?))
}

/// `mount("none", "/", NULL, MS_REC|MS_PRIVATE, NULL) = 0`.
fn seen_call(line: &str) -> Option<Traced> {
    let (call, answer) = line.rsplit_once(" = ")?;
    let call = traced(call.trim_end(), Some(answer))?;
    let is_a_question = match call.name.as_str() {
        "prctl" => !call.flags.iter().any(|flag| flag.starts_with("PR_SET_")),
        "ioctl" => !call.flags.contains("SIOCSIFFLAGS"),
        _ => false,
    };
    // The C library's fork(2).
    let is_fork = call.flags.contains("CLONE_CHILD_SETTID");
    let fork = |call: Traced| Traced { name: "fork".to_owned(), first: None, flags: BTreeSet::new(), ..call };
    (!is_a_question).then(|| if is_fork { fork(call) } else { call })
}

fn traced(call: &str, answer: Option<&str>) -> Option<Traced> {
    let (name, arguments) = call.split_once('(').filter(|(name, _)| LESSON.contains(name))?;
    let first = arguments.split([',', ')']).next().filter(|first| first.parse::<u32>().is_ok()).map(str::to_owned);
    let (quoted, plain): (Vec<_>, Vec<_>) = arguments.split('"').enumerate().partition(|(at, _)| at % 2 == 1);
    let words = plain.iter().flat_map(|(_, text)| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase()) && !word.ends_with('_');
    let is_flag = |word: &&str| is_name(word) && *word != "NULL";
    Some(Traced {
        name: name.to_owned(),
        first,
        quoted: quoted.into_iter().map(|(_, text)| text.to_owned()).collect(),
        flags: words.filter(is_flag).map(str::to_owned).collect(),
        answer: answer.and_then(|answer| answer.split(' ').next()).map(str::to_owned),
    })
}

impl Traced {
    /// As far as both write it alike.
    fn is_as(&self, seen: &Traced) -> bool {
        // Without flags, strace prints this one.
        let flags = seen.flags.iter().filter(|flag| *flag != "O_RDONLY").cloned().collect();
        let is_like = |one: &Option<String>, other: &Option<String>| one.is_none() || other.is_none() || one == other;
        let has_all_words = self.quoted.is_subset(&seen.quoted);
        has_all_words && self.flags == flags && is_like(&self.first, &seen.first) && is_like(&self.answer, &seen.answer)
    }
}

static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();

/// A root of this machine's own tools, and of the programs that misbehave. Made once.
fn rootfs() -> PathBuf {
    let made = ROOT.get_or_init(|| {
        let dir = testing::tempdir();
        testing::make_root(&dir.path().join("rootfs"), &["chroot_breakout", "fork_bomb"]);
        dir
    });
    made.path().join("rootfs")
}

fn rootfs_str() -> String {
    rootfs().display().to_string()
}

/// A root with nothing but the directories.
fn small_root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    for name in ["proc", "sys", "dev"] {
        create_dir_all(dir.path().join(name)).expect("mkdir");
    }
    dir
}

/// A file of the host that nobody else knows.
fn secret() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("tempdir");
    let word = format!("{}\n", testing::random_word());
    write(dir.path().join("secret"), &word).expect("secret");
    (dir, word)
}

fn inside(command: &[&str]) -> testing::Run {
    inside_with(&[], command)
}

fn inside_with(options: &[&str], command: &[&str]) -> testing::Run {
    let root = rootfs_str();
    step("step03", ["--rootfs", &root].iter().chain(options).chain(command))
}

/// The same, and it prints every call.
fn narrated_inside(option: &str, command: &str) -> testing::Run {
    narrated("step03", [option, "--rootfs", &rootfs_str(), command])
}

fn has_pids() -> Option<String> {
    let all = cgroups::detect(Path::new("/proc"), "self").expect("hierarchies");
    let there = all.iter().any(|it| it.controllers.iter().any(|name| name == "pids"));
    (!there).then(|| "needs the pids controller".to_owned())
}

fn initial_user_namespace() -> Option<String> {
    (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned())
}

/// Where another user has built this project, this user may not write to its target directory.
fn default_root_is_ours() -> Option<String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let may = nix::unistd::access(&target, nix::unistd::AccessFlags::W_OK).is_ok() || target.join("rootfs").exists();
    (!may).then(|| "needs a target directory that it may write to".to_owned())
}

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

fn nobody_may_run_it() -> Option<String> {
    let ran = Command::new("setpriv").args(NOBODY).arg(program("step03")).arg("--version").output();
    let runs = ran.is_ok_and(|ran| ran.status.success());
    (!runs).then(|| "needs a project that every user can read".to_owned())
}
