//! Step 03: where does the child stand? See pivot_root(2), mount_namespaces(7).
//!
//! The child gives itself a new root: the folder becomes a mount, gets its `/proc`, `/sys`, `/dev` and volumes, is
//! swapped with the host's root, and the host's root is taken off. After that there is no path that leads back.
//!
//! Left open: nobody looks after the container (step 04). Root inside is still the caller outside (step 05), and where
//! the caller is root it can write the host's settings in `/proc/sys`; it has every right over its own namespaces, and
//! so can make a read-only mount writable again (step 09). What it writes into its root stays there, mount points made
//! for it too (step 07).

#![forbid(unsafe_code)]

mod inside;
mod remedies;
mod root;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use namespaces::{Namespace, View, mount};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::{Mode, SFlag, umask};
use nix::unistd::{Pid, chdir, pivot_root};
use shared::failure::During;
use shared::formula::Fact;
use shared::{call, explain, kernel_file, mountinfo, sys};

use inside::{Inside, Make, Place, Tree};
pub use remedies::known;
pub use root::{Root, Variable, Volume, path_inside, variable};

/// Host: what this step cannot do without.
pub fn validate(view: &View) -> Result<()> {
    // In the host's mount namespace, pivot_root would move the host's own root.
    ensure!(view.has(Namespace::Mount), "a root of its own needs a mount namespace: add `mount` to --namespaces");
    Ok(())
}

/// Child: makes `dir` its root, with everything in it that programs expect.
pub fn enter(root: &Root, dir: &Path, view: &View) -> Result<()> {
    make_mount_point(dir)?;
    // From here on, what is opened in it is on the new mount.
    let inside = Inside::open(dir)?;
    mount_proc(&inside, view)?;
    mount_sys(&inside, view)?;
    make_dev(&inside, view)?;
    mount_volumes(&inside, root)?;
    inside.place(&root.workdir, Make::Folder)?;
    if root.read_only {
        inside.set_read_only()?; // last: until here places had to be made in it
    }
    pivot(dir)?;
    stand_in(&root.workdir) // until now it stands at the top of the new root
}

/// Child, in its root: goes to a folder in there.
///
/// Not by chdir(2) alone: this process still has descriptors of the host's, and a path like `/proc/self/fd/7` would be
/// the way to them. That was CVE-2024-21626. Links of that kind fail here with ELOOP.
pub fn stand_in(workdir: &Path) -> Result<()> {
    let _workdir = explain::group(workdir.display());
    Inside::open(Path::new("/"))?.find(workdir)?.stand_in()
}

/// Child: binds the folder onto itself. pivot_root(2) takes only a mount point as the new root, else EBUSY.
fn make_mount_point(dir: &Path) -> Result<()> {
    let dir = dir.to_str().context("rootfs: its path is no UTF-8")?;
    mount(dir, dir, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)
}

/// Child: swaps the roots, and takes the old one off.
fn pivot(dir: &Path) -> Result<()> {
    change_dir(dir)?;
    // The old root comes to lie on the same place, above the new one: so no folder has to be made for it inside.
    explain::child(call!("pivot_root(\".\", \".\")")).run(|| pivot_root(".", "."))?;
    // Left there, it would be the way out: everything of the host's is still below it. A plain umount is EBUSY, as there
    // are mounts below it; MNT_DETACH takes it out of sight now, with all of them.
    explain::child(call!("umount2(\".\", MNT_DETACH)")).run(|| umount2(".", MntFlags::MNT_DETACH))
}

fn change_dir(dir: &Path) -> Result<()> {
    explain::child(call!("chdir({dir:?})")).run(|| chdir(dir))
}

/// Child: `/proc`, of its own pid namespace where it has one. While the old root is still there: the kernel gives a
/// user namespace a new `/proc` only where it sees a whole one already.
fn mount_proc(inside: &Inside, view: &View) -> Result<()> {
    let _proc = explain::group("/proc");
    let proc = inside.place(Path::new("proc"), Make::Folder)?;
    if !view.has(Namespace::Pid) {
        return mount("/proc", &proc.path(), None, MsFlags::MS_BIND | MsFlags::MS_REC, None);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount("proc", &proc.path(), Some("proc"), flags, None)
}

/// Child: `/sys`, to look at and not to write: it is the host's hardware. It belongs to the network namespace, so
/// without one of its own the child gets the host's.
fn mount_sys(inside: &Inside, view: &View) -> Result<()> {
    let _sys = explain::group("/sys");
    let sys = inside.place(Path::new("sys"), Make::Folder)?;
    if view.has(Namespace::Net) {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        return mount("sysfs", &sys.path(), Some("sysfs"), flags, None);
    }
    bind_read_only("/sys", &sys)
}

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

/// Child: a small `/dev` with no disk of the host in it.
fn make_dev(inside: &Inside, view: &View) -> Result<()> {
    let _dev = explain::group("/dev");
    let path = Path::new("dev");
    let covered = inside.place(path, Make::Folder)?;
    mount("tmpfs", &covered.path(), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=64M"))?;
    // New and empty: no link of the root's is in it, so names in it can be used as they are.
    let dev = inside.place(path, Make::Folder)?;

    // The caller's mask would take rights away from the nodes.
    set_umask(0)?;
    let may_make_nodes = !view.has(Namespace::User) && sys::in_first_user_namespace();
    for (name, numbers) in DEVICES {
        if may_make_nodes {
            dev.node(name.as_ref(), SFlag::S_IFCHR, numbers)?;
        } else {
            // A user namespace may make no device node, EPERM: it could be one of the host's disk. It may bind the host's.
            dev.node(name.as_ref(), SFlag::S_IFREG, (0, 0))?;
            mount(&format!("/dev/{name}"), &format!("{}/{name}", dev.path()), None, MsFlags::MS_BIND, None)?;
        }
    }
    set_umask(0o022)?;
    for (to, name) in LINKS {
        dev.link(to, name)?;
    }

    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mount_new = |name: &str, kind: &str, flags, data| {
        dev.folder(name.as_ref())?;
        mount(kind, &format!("{}/{name}", dev.path()), Some(kind), flags, data)
    };
    mount_new("pts", "devpts", flags, Some("newinstance,ptmxmode=0666,mode=0620"))?;
    mount_new("shm", "tmpfs", flags | MsFlags::MS_NODEV, Some("mode=1777,size=64M"))?;
    // Message queues belong to the ipc namespace; some kernels are built without them.
    if view.has(Namespace::Ipc) && kernel_has("mqueue") {
        mount_new("mqueue", "mqueue", flags | MsFlags::MS_NODEV, None)?;
    }
    Ok(())
}

/// Child: what is taken away from the rights of new files.
pub fn set_umask(mask: u32) -> Result<()> {
    explain::child(call!("umask({mask:#o})")).run(|| {
        umask(Mode::from_bits_truncate(mask));
        Ok::<_, nix::Error>(())
    })
}

/// Child: the host's folders and files that were asked for.
fn mount_volumes(inside: &Inside, root: &Root) -> Result<()> {
    for Volume { source, target, read_only } in &root.volumes {
        let make = if source.is_dir() { Make::Folder } else { Make::File };
        let place = inside.place(target, make)?;
        let source = source.to_str().context("rootfs: a volume's path is no UTF-8")?;
        if *read_only {
            bind_read_only(source, &place)?;
        } else {
            mount(source, &place.path(), None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
        }
    }
    Ok(())
}

/// Child: binds what is the host's, read-only from the first moment on.
///
/// Bound first and made read-only then, it would have to be found a second time, by a path that another container on the
/// same root may have bent meanwhile; and another mount would become read-only.
fn bind_read_only(source: &str, place: &Place) -> Result<()> {
    let tree = Tree::of(source)?;
    tree.set_read_only()?;
    tree.move_to(place)
}

/// Whether the kernel knows a type of file system. proc_filesystems(5).
fn kernel_has(kind: &str) -> bool {
    kernel_file::read("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with(kind)))
}

/// Host: what the kernel says of the child's root: that it is this folder, and that nothing lies above or under it.
pub fn facts(child: Pid, dir: &Path) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let process = Path::new("/proc").join(child.to_string());
    let identity = |path: PathBuf| {
        let it = path.metadata().during(format_args!("cannot look at {}", path.display()))?;
        Ok::<_, anyhow::Error>(format!("device {} inode {}", it.dev(), it.ino()))
    };
    let (wanted, child_root) = (identity(dir.to_owned())?, identity(process.join("root"))?);
    let mounts = mountinfo::read(&process)?;
    // Between pivot_root and umount2 there are two mounts at `/`: the new root, and the host's above it.
    let roots = mounts.iter().filter(|mount| mount.point == Path::new("/")).count();
    Ok(vec![
        Fact {
            brief: format!("its / is {}", dir.display()),
            what: "root".to_owned(),
            holds: child_root == wanted,
            host: identity("/".into())?,
            child: format!("{child_root}, {}", dir.display()),
        },
        Fact {
            brief: "nothing of the host's mounted above or below it".to_owned(),
            what: "mounts".to_owned(),
            holds: roots == 1,
            host: mountinfo::read(Path::new("/proc/self"))?.len().to_string(),
            child: format!("{}, {roots} of them at /", mounts.len()),
        },
    ])
}
