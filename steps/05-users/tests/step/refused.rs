//! What the kernel refuses, in words; and what it allows, and nobody would expect.

use std::fs::write;
use std::path::Path;
use std::process::Command;

use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use testing::{Check, Ran, Run, check, needs, program};
use users::MountAttributes;

use crate::home::{Home, rootfs};
use crate::{copy_of_root, give, idmap, range};

pub fn checks() -> Vec<Check> {
    vec![
        check("a_mount_that_is_mapped_already_is_named", [idmap()], || {
            let home = Home::new();
            let root = copy_of_root();
            let dir = root.path().join("rootfs");
            let mapped = Mapped::new(&dir, home.path());
            let volume = format!("{}:/mnt:idmap", mapped.0.display());
            home.refuses(
                &["run", "--rm", "-v", &volume, "true"],
                "is mapped already, or belongs to another user namespace",
            );
        }),
        check("ids_that_a_nested_root_does_not_have_are_not_its_to_give", [range(), needs::tool("unshare")], || {
            let maps = ["--uidmap", "0:500000:10"];
            let ran = from(&["unshare", "--user", "--map-root-user", "--mount"], &maps);
            assert!(ran.code == 125 && ran.err.contains("echo ") && ran.err.contains("EPERM"), "{ran:?}");
            assert!(ran.err.contains("what to do: these ids are not this root's to give"), "{ran:?}");
            // Nor is a mount, in a mount namespace of another's.
            let ran = from(&["unshare", "--user", "--map-root-user"], &maps);
            assert!(ran.code == 125 && ran.err.contains("open_tree(") && ran.err.contains("EPERM"), "{ran:?}");
            assert!(ran.err.contains("what to do: a root that belongs to other ids takes CAP_SYS_ADMIN"), "{ran:?}");
        }),
        check("id_0_of_the_host_takes_a_capability_of_its_own", [range(), needs::tool("setpriv")], || {
            let without = ["setpriv", "--bounding-set=-setfcap", "--inh-caps=-setfcap"];
            let ran = from(&without, &["--uidmap", "0:0:65536"]);
            assert!(ran.code == 125 && ran.err.contains("EPERM") && ran.err.contains("takes CAP_SETFCAP"), "{ran:?}");
            // A range without it does not.
            assert_eq!(from(&without, &[]).code, 0);
        }),
        check("ids_that_another_user_has_too_are_named", [range()], || {
            let shown = |lines: &str| {
                let place = tempfile::NamedTempFile::new_in("/tmp").expect("tempfile");
                write(place.path(), lines).expect("write");
                mount(Some(place.path()), "/etc/subuid", None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
                let ran = from(&["env"], &[]);
                umount2("/etc/subuid", MntFlags::MNT_DETACH).expect("umount");
                assert_eq!(ran.code, 0, "{ran:?}");
                ran.err
            };
            let notice = shown("ada:165535:65536\n");
            assert!(notice.contains("# ids 165535 to 165535 are user ada's, too"), "{notice}");
            assert!(notice.contains("--add-subuids 231071-296606"), "{notice}");
            assert!(!shown("ada:165536:65536\nbob:99999:1\n").contains("too"));
            // Its own line it has for itself.
            let notice = shown("ada:100000:65536\n0:300000:65536\n");
            assert!(!notice.contains("too") && notice.contains("root is 300000 outside"), "{notice}");
        }),
        check("a_root_that_belongs_to_nobody_inside_is_named", [idmap()], || {
            let home = Home::new();
            let root = copy_of_root();
            let dir = root.path().join("rootfs");
            let words = ["run", "--rm", "--rootfs", &dir.display().to_string(), "test", "-w", "/"].map(str::to_owned);
            let words = words.each_ref().map(String::as_str);
            for owner in [70_000, 65_535, 0, 100_007] {
                give(&dir, owner);
                let ran = home.step(&words).ran();
                let said = format!("# {} belongs to id {owner} of the host's, which is nobody inside", dir.display());
                assert_eq!(ran.err.contains(&said), owner == 70_000, "{ran:?}");
                assert_eq!(ran.code == 1, owner == 70_000, "{ran:?}");
            }
        }),
        check("help_names_what_a_volume_takes", [], || {
            let shown = testing::step("step05", ["run", "--help"]).ran().out;
            assert!(shown.contains("SRC:DST[:OPTIONS]") && shown.contains("idmap"), "{shown}");
            testing::refuses("step05", &["run", "-v", "/tmp:/x:idmaped", "true"], 125, "idmap");
        }),
    ]
}

/// Runs the step by way of this command, and with these options.
fn from(command: &[&str], options: &[&str]) -> Ran {
    let home = Home::new();
    let mut run = Command::new(command[0]);
    run.args(&command[1..]).arg(program("step05")).args(["--color=never", "run", "--rm", "--rootfs"]).arg(rootfs());
    run.args(options).arg("true").env("XDG_RUNTIME_DIR", home.path());
    Run::new(run).ran()
}

/// A directory of the host's, once more, with a map.
struct Mapped(std::path::PathBuf);

impl Mapped {
    fn new(dir: &Path, beside: &Path) -> Self {
        let mut holder = Command::new("unshare").args(["--user", "sleep", "100"]).spawn().expect("unshare");
        let holder_pid = Pid::from_raw(holder.id() as i32);
        testing::wait_until("it sleeps", || testing::proc(holder_pid, "cmdline").starts_with("sleep"));
        for file in ["uid_map", "gid_map"] {
            write(format!("/proc/{holder_pid}/{file}"), "0 200000 65536").expect("map");
        }
        let tree = users::open_tree(dir).expect("open_tree");
        let attributes = MountAttributes { idmap: true, read_only: false };
        users::map_tree(tree.as_fd(), &attributes, holder_pid).expect("mount_setattr");
        holder.kill().and_then(|()| holder.wait()).expect("kill");
        let place = beside.join("mapped");
        std::fs::create_dir(&place).expect("mkdir");
        let path = std::ffi::CString::new(place.display().to_string()).expect("no NUL");
        rootfs::sys::move_mount(tree.as_fd(), AT_FDCWD, &path).expect("move_mount");
        Mapped(place)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("umount");
    }
}
