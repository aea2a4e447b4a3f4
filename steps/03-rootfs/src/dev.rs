//! A small `/dev` with no disk of the host's in it.

use std::path::Path;

use anyhow::Result;
use namespaces::{Namespace, View, mount};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, umask};
use process::sys::in_first_user_namespace;
use shared::explain::Returned;
use shared::{call, explain, kernel_file};

use crate::inside::{Make, Place, place};

/// Name and numbers of the devices that every program may expect. Documentation/admin-guide/devices.txt.
const DEVICES: [(&str, (u64, u64)); 6] =
    [("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("random", (1, 8)), ("urandom", (1, 9)), ("tty", (5, 0))];

/// Programs expect these too.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Child, standing in the new root: mounts an empty `/dev` and fills it.
pub fn make(view: &View) -> Result<()> {
    let _dev = explain::one_line("/dev");
    let path = Path::new("dev");
    let covered = place(path, Make::Directory)?;
    mount("tmpfs", &covered.path(), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=64M"))?;
    // New and empty: no link of the root's is in it, so names in it can be used as they are.
    let dev = place(path, Make::Directory)?;

    // The caller's mask would take rights from the nodes.
    set_umask(0)?;
    make_devices(&dev, view)?;
    set_umask(0o022)?;
    for (to, name) in LINKS {
        dev.link(to, name)?;
    }

    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_new(&dev, "pts", "devpts", flags, Some("newinstance,ptmxmode=0666,mode=0620"))?;
    mount_new(&dev, "shm", "tmpfs", flags | MsFlags::MS_NODEV, Some("mode=1777,size=64M"))?;
    // Message queues belong to the ipc namespace; some kernels are built without them.
    if view.has(Namespace::Ipc) && kernel_has("mqueue") {
        mount_new(&dev, "mqueue", "mqueue", flags | MsFlags::MS_NODEV, None)?;
    }
    Ok(())
}

fn make_devices(dev: &Place, view: &View) -> Result<()> {
    let may_make_nodes = !view.has(Namespace::User) && in_first_user_namespace();
    for (name, numbers) in DEVICES {
        if may_make_nodes {
            dev.node(name.as_ref(), SFlag::S_IFCHR, numbers)?;
        } else {
            // A user namespace may make no device node, EPERM: it could be one of the host's disk. It may bind the host's.
            dev.node(name.as_ref(), SFlag::S_IFREG, (0, 0))?;
            mount(&format!("/dev/{name}"), &format!("{}/{name}", dev.path()), None, MsFlags::MS_BIND, None)?;
        }
    }
    Ok(())
}

fn mount_new(dev: &Place, name: &str, kind: &str, flags: MsFlags, data: Option<&str>) -> Result<()> {
    dev.directory(name.as_ref())?;
    mount(kind, &format!("{}/{name}", dev.path()), Some(kind), flags, data)
}

/// Child: the permission bits that new files do not get. umask(2), which cannot fail.
pub fn set_umask(mask: u32) -> Result<()> {
    let set = || Ok::<_, nix::Error>(Mask(umask(Mode::from_bits_truncate(mask))));
    explain::child(call!("umask({mask:03o})")).run(set).map(drop)
}

/// What umask(2) returns: the mask before.
struct Mask(Mode);

impl Returned for Mask {
    fn printed(&self) -> String {
        format!("{:03o}", self.0.bits())
    }
    fn stand_in() -> std::io::Result<Self> {
        Ok(Mask(Mode::empty()))
    }
}

/// Whether the kernel knows a type of file system. proc_filesystems(5).
fn kernel_has(kind: &str) -> bool {
    kernel_file::read("/proc/filesystems").is_ok_and(|text| lists(&text, kind))
}

/// `nodev mqueue` (with a tab), or a line with the type alone.
fn lists(filesystems: &str, kind: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().last() == Some(kind))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    #[test]
    fn devices_have_the_numbers_of_this_machines_own() {
        for (name, (major, minor)) in DEVICES {
            let there = Path::new("/dev").join(name).metadata().expect(name);
            assert!(there.file_type().is_char_device(), "{name}");
            assert_eq!(there.rdev(), nix::sys::stat::makedev(major, minor), "{name}");
        }
    }

    #[test]
    fn a_file_system_is_known_by_its_whole_name() {
        let text = "nodev\ttmpfs\nnodev\tmqueue\n\text4\n";
        assert!(lists(text, "mqueue") && lists(text, "ext4"));
        assert!(!lists(text, "queue") && !lists(text, "xfs"));
    }
}
