//! What is covered, what is read-only, and which devices can be opened: also for root inside.

use std::path::Path;
use std::process::Command;

use cgroups::Version;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use testing::{Check, World, check, needs, proc};

use crate::home::Home;
use crate::{range, run, sleeping};

pub fn checks() -> Vec<Check> {
    let here = [needs::user_namespaces()];
    vec![
        check("what_the_kernel_tells_of_the_whole_machine_is_covered", here.clone(), || {
            let home = Home::new();
            let id = sleeping(&home, &[]);
            let mounts = proc(home.init(&id), "mountinfo");
            let mount = |point: &str| mounts.lines().find(|line| line.split(' ').nth(4) == Some(point));
            let mut covered = 0;
            for path in
                ["/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]
            {
                let Ok(there) = Path::new(path).metadata() else { continue };
                let line = mount(path).unwrap_or_else(|| panic!("{path} is not covered: {mounts}"));
                assert!(there.is_dir() == line.contains(" - tmpfs ") || !there.is_dir(), "{line}");
                let shown = home.ok(&[
                    "exec",
                    &id,
                    "sh",
                    "-c",
                    &format!("if test -d {path}; then ls {path}; else cat {path}; fi"),
                ]);
                assert_eq!(shown, "", "{path}");
                covered += 1;
            }
            assert!(covered >= 2, "{mounts}");
            for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
                if Path::new(path).exists() {
                    let line = mount(path).unwrap_or_else(|| panic!("{path} is as before: {mounts}"));
                    assert!(
                        line.split(' ').nth(5).is_some_and(|options| options.split(',').any(|it| it == "ro")),
                        "{line}"
                    );
                }
            }
            for file in ["sys/kernel/hostname", "sys/kernel/core_pattern", "sysrq-trigger", "irq/default_smp_affinity"]
            {
                let script = format!(": >>/proc/{file}");
                assert_ne!(home.step(&["-q", "exec", &id, "sh", "-c", &script]).ran().code, 0, "{file}");
            }
        })
        .differs_in([World::CgroupV2, World::DockerRoot]),
        check("a_null_device_that_is_none_masks_nothing", here.clone(), || {
            let home = Home::new();
            let decoy = tempfile::NamedTempFile::new().expect("tempfile");
            let volume = format!("{}:/dev/null", decoy.path().display());
            // What anyone would write first: a mask that shows what the root has put there.
            std::fs::write(decoy.path(), "decoy").expect("write");
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(decoy.path(), open).expect("chmod");
            let options = ["--privileged", "-v", &volume];
            let naive = ["sh", "-c", "mount --bind /dev/null /proc/uptime && cat /proc/uptime"];
            assert_eq!(run(&home, &options, &naive), "decoy");
            home.refuses(&["run", "--rm", "--network", "none", "-v", &volume, "true"], "is not the null device");
        }),
        check("another_directory_in_the_place_of_sys_leads_nowhere", here.clone(), || {
            let home = Home::new();
            let dir = tempfile::tempdir().expect("tempdir");
            std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
            std::os::unix::fs::symlink("/proc/sys/net/ipv4", dir.path().join("kernel")).expect("link");
            let volume = format!("{}:/sys", dir.path().display());
            // What anyone would write first: a path. What was meant for one file is written to another.
            let naive = ["sh", "-c", "echo 77 >/sys/kernel/ip_default_ttl && cat /proc/sys/net/ipv4/ip_default_ttl"];
            assert_eq!(run(&home, &["--privileged", "-v", &volume], &naive), "77");
            home.refuses(
                &["run", "--rm", "--network", "none", "-v", &volume, "true"],
                "/sys is not what this step has mounted",
            );
        }),
        check("what_is_read_only_stays_so_for_root_inside", here.clone(), || {
            let home = Home::new();
            let dir = tempfile::tempdir().expect("tempdir");
            std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
            let volume = format!("{}:/mnt:ro", dir.path().display());
            let options = ["--read-only", "-v", &volume];
            let tries = [
                "mount -o remount,bind,rw {}",
                "mount -o bind {} {}",
                "umount {}",
                "unshare -Urm mount -o remount,bind,rw {}",
                "unshare -Urm sh -c 'umount {} && touch {}/x'",
            ];
            let script: String = ["/", "/mnt", "/proc/sys", "/sys/firmware"]
                .iter()
                .flat_map(|place| tries.map(|text| format!("{} && echo worked: {place}\n", text.replace("{}", place))))
                .collect();
            let script = format!("exec 2>/dev/null\n{script}touch /x /mnt/x /tmp/x; ls /x /mnt/x; echo end");
            let unconfined = ["--security-opt", "seccomp=unconfined"];
            assert_eq!(run(&home, &options, &["sh", "-c", &script]), "end");
            // The list of calls is not all that keeps it so.
            let with = [&options[..], &unconfined].concat();
            assert_eq!(run(&home, &with, &["sh", "-c", &script]), "end");
            assert!(std::fs::read_dir(dir.path()).expect("the volume").next().is_none());
            // A process that exec brings in.
            let id = sleeping(&home, &with);
            assert_eq!(home.ok(&["exec", &id, "sh", "-c", &script]), "end");
            // Where root inside keeps its rights, the first try works: so each of the others was one.
            let shown = run(&home, &[&with[..], &["--cap-add", "SYS_ADMIN"]].concat(), &["sh", "-c", &script]);
            assert!(shown.contains("worked: /\n") && shown.contains("worked: /mnt\n"), "{shown}");
        })
        .differs_in([World::CgroupV2]),
        check("a_new_proc_beside_the_masks_cannot_be_mounted", here.clone(), || {
            let home = Home::new();
            let unconfined = ["--security-opt", "seccomp=unconfined"];
            let script = "unshare -Urm --fork --pid mount -t proc proc /mnt && echo worked";
            for options in [&[][..], &unconfined] {
                assert_eq!(run(&home, options, &["sh", "-c", &format!("{script} 2>/dev/null; echo end")]), "end");
            }
            assert_eq!(run(&home, &["--privileged"], &["sh", "-c", script]), "worked");
        }),
        check("only_devices_of_the_list_can_be_opened", [device_list()], || {
            let home = Home::new();
            let (_dir, node) = node();
            let script = format!("cat </dev/zero | head -c1 >/dev/null && true >{node} && echo opened");
            let volume = format!("{node}:{node}");
            let opens =
                |options: &[&str]| run(&home, options, &["sh", "-c", &format!("exec 2>/dev/null; {script}; echo end")]);
            assert_eq!(opens(&["-v", &volume]), "end");
            assert_eq!(opens(&["--device", &node]), "opened\nend");
            assert_eq!(opens(&["--device", &format!("{node}:{node}:r")]), "end", "not for writing");
            assert_eq!(opens(&["--privileged", "-v", &volume]), "opened\nend");
            let id = sleeping(&home, &["-v", &volume]);
            assert_eq!(home.ok(&["exec", &id, "sh", "-c", &format!("exec 2>/dev/null; {script}; echo end")]), "end");
            let listed = home.json(&id)["state"]["plan"]["devices"]["rules"].to_string();
            assert!(listed.contains("\"c 1:3 rwm\"") && !listed.contains("1:11"), "{listed}");
            let id = sleeping(&home, &["--device", &format!("{node}:{node}:rw")]);
            let listed = home.json(&id)["state"]["plan"]["devices"]["rules"].to_string();
            assert!(listed.ends_with("\"c 1:11 rw\"]"), "{listed}");
            home.refuses(&["run", "--rm", "--device", "/etc/passwd", "true"], "is no device");
            home.refuses(&["run", "--rm", "--device", "/nosuch", "true"], "ENOENT");
        })
        .differs_in([World::CgroupV2, World::SystemdRoot]),
        check("the_program_that_keeps_the_list_is_the_groups", [device_list(), v2()], || {
            let home = Home::new();
            let (_dir, node) = node();
            let id = sleeping(&home, &[]);
            let tree = trees().into_iter().find(|it| it.version == Version::V2).expect("v2");
            let memberships = proc(home.init(&id), "cgroup");
            let group = tree.group_of(&memberships).expect("its group");
            // Another process of the host's, moved into that group: it is the group that has the list.
            let moved = format!("echo $$ >{}/cgroup.procs; true >{node} && echo opened; echo end", group.display());
            let output = Command::new("sh").args(["-c", &moved]).output().expect("sh");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "end\n", "{output:?}");
            let output = Command::new("sh").args(["-c", &format!("true >{node} && echo opened")]).output().expect("sh");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "opened\n", "{output:?}");
        })
        .differs_in([World::CgroupV2]),
    ]
}

/// The kernel's log, opened for writing and not written to: a device that every kernel has, and nobody's list.
fn node() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir_in("/tmp").expect("tempdir");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let node = dir.path().join("log");
    mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 11)).expect("mknod");
    std::fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    let path = node.display().to_string();
    (dir, path)
}

fn trees() -> Vec<cgroups::Hierarchy> {
    cgroups::detect(Path::new("/proc"), "self").expect("hierarchies")
}

fn device_list() -> Option<String> {
    let opens = || {
        let (_dir, node) = node();
        std::fs::File::options().write(true).open(node).is_ok()
    };
    let is_good = || cgroups::may_make_groups() && opens();
    range().or_else(|| (!is_good()).then(|| "needs cgroups, and device nodes that can be opened".to_owned()))
}

fn v2() -> Option<String> {
    trees().iter().all(|it| it.version != Version::V2).then(|| "needs a tree of cgroup v2".to_owned())
}
