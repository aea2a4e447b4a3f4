//! Step 07: what does the child write on? See the kernel's Documentation/filesystems/overlayfs.rst.
//!
//! Until here all containers on one root wrote into it. Now the root is a *lower* layer that nobody writes to, and what
//! the child writes goes to an *upper* one of its own; the overlay shows both as one. The functions are in the order in
//! which they run: the host makes the upper layer, on disk ([`make_upper`]); the child goes to it and mounts the lower
//! ones beside it, under short names ([`stand_beside`]), and then the overlay ([`mount_overlay`]), which becomes its root.
//! The upper layer outlives the run, and goes with the container ([`remove_upper`]).
//!
//! Beside it: a layer as it lies on the disk (`layer`), read with the container's ids (`ids`); what has changed (`diff`),
//! and that as a layer of its own (`commit`), a directory or an archive (`archive`); where a layer cannot be (`why`);
//! what the kernel confirms (`readback`), and all that as a part of a container (`parts`).
//!
//! Left open:
//! - What is mounted in the root on the host is not in the overlay: that shows file systems, not mounts.
//! - A file that is changed is copied up whole first, and a hard link is cut by that; a directory of a lower layer
//!   cannot be renamed (EXDEV: mv(1) copies it). So the kernel has it.
//! - Nothing limits how much of the disk a container fills: a quota of the file system would.
//! - An archive is made and not read: step 10 unpacks them.

#![deny(unsafe_code)]

mod archive;
pub mod commit;
pub mod diff;
mod ids;
pub mod layer;
mod options;
pub mod parts;
mod readback;
mod remedies;
mod sys;
mod why;

use std::ffi::CString;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use engine::directory::{self, Directory};
use namespaces::mount;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{Gid, Uid, chown};
use shared::failure::{During, is};
use shared::{call, explain};
use users::parts::Tree;

pub use options::{Command, Layering};
pub use remedies::known;

/// Host, and no child yet: a directory on disk, `data`, for what the container writes. In it:
///
/// ```text
/// upper          its own layer; whose files and rights are the same as at the top of the layer below
/// work           for the kernel, in which it prepares what then appears in `upper` at once
/// root           where the overlay is mounted
/// 0, 1, …        where the lower layers are mounted, the lowest first
/// commit         a link to where a layer is being made of it, as long as that takes
/// ```
///
/// One that is started again finds them there. `owner` is root inside, where that is not the caller.
///
/// # Errors
/// EACCES, EROFS, ENOSPC; where the directory above is open to others.
pub fn make_upper(data: &Path, lowers: usize, owner: Option<(u32, u32)>, mode: u32) -> Result<()> {
    if data.join("upper").exists() {
        return Ok(());
    }
    let _line = explain::one_line("upper layer");
    make_data(data)?;
    let numbers = (0..lowers).map(|number| number.to_string());
    for name in ["upper", "work", "root"].map(str::to_owned).into_iter().chain(numbers) {
        let dir = data.join(name);
        explain::host(call!("mkdir({dir:?}, 0700)")).run(|| directory::make(&dir))?;
    }
    for dir in [data, &data.join("upper"), &data.join("work")] {
        let Some((uid, gid)) = owner else { break };
        explain::host(call!("chown({dir:?}, {uid}, {gid})"))
            .run(|| chown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))?;
    }
    let upper = data.join("upper");
    why::without_attributes(&upper)?; // before it may be closed to its owner, too
    // It is the top of the root that the child sees.
    explain::host(call!("chmod({upper:?}, {mode:#o})"))
        .run(|| std::fs::set_permissions(&upper, Permissions::from_mode(mode)))
}

/// Nobody may enter the one above but this user: what root inside makes setuid would be so outside, too.
fn make_data(data: &Path) -> Result<()> {
    let top = data.parent().unwrap_or(Path::new("/"));
    for _ in 0..1000 {
        if !top.exists() {
            explain::host(call!("mkdir -p {}", top.display())).run(|| make_all(top))?;
        }
        if !explain::dry_run() && Directory::open(top)?.is_none() {
            continue;
        }
        match explain::host(call!("mkdir({data:?}, 0700)")).run(|| directory::make(data)) {
            // The last container is just going, and takes the directory of all along.
            Err(error) if is(&error, Errno::ENOENT) => {}
            Err(error) if is(&error, Errno::EEXIST) => return Ok(()),
            made => return made,
        }
    }
    bail!("{} vanishes as often as it is made: name another place in XDG_DATA_HOME", top.display())
}

fn make_all(dir: &Path) -> std::io::Result<()> {
    dir.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    match directory::make(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()), // by another container, a moment ago
        made => made,
    }
}

/// Child: goes to that directory, and mounts the lower layers there, under names that are numbers. In the options of an
/// overlay `:` and `,` mean something, and beyond 4095 bytes mount(2) cuts them off without a word: paths would be cut.
///
/// # Errors
/// EACCES where a directory is closed to this user. move_mount(2).
pub fn stand_beside(data: &Tree, lowers: &[Tree], is_opened_by_host: bool) -> Result<()> {
    let _line = explain::one_line("layers");
    if !is_opened_by_host {
        rootfs::stand_on(data.source())?;
    } else {
        users::stand_on(data.mount()?.as_fd())?;
    }
    for (number, lower) in lowers.iter().enumerate() {
        let name = number.to_string();
        if !is_opened_by_host {
            // It is who its caller is, and reaches them as that does.
            let source = lower.source().to_str().context("the path of a layer is not UTF-8")?;
            mount(source, &name, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
            continue;
        }
        let tree = lower.mount()?;
        let path = CString::new(name.as_str()).unwrap_or_default();
        explain::child(call!("move_mount({}, \"\", AT_FDCWD, {name:?}, MOVE_MOUNT_F_EMPTY_PATH)", tree.as_raw_fd()))
            .run(|| rootfs::sys::move_mount(tree.as_fd(), AT_FDCWD, &path))?;
    }
    Ok(())
}

/// Child, standing beside its layers: what it will see, as a mount that is nowhere yet; and the layers are not to be seen
/// any more. The lowest is the last that the kernel asks.
///
/// With `userxattr` the kernel keeps its notes, such as "what is below this directory is hidden", in attributes that a user
/// may set; the others are closed to root of a user namespace alone, and rmdir(2) and rename(2) would fail there.
/// Always, so that a layer is read as it was written, by root and by an ordinary user. Linux 5.11.
///
/// # Errors
/// EINVAL where one of them is on a file system that cannot have it.
pub fn mount_overlay(data: &Path, lowers: &[Tree]) -> Result<OwnedFd> {
    let names: Vec<_> = (0..lowers.len()).rev().map(|number| number.to_string()).collect();
    let options = format!("userxattr,lowerdir={},upperdir=upper,workdir=work", names.join(":"));
    mount("overlay", "root", Some("overlay"), MsFlags::empty(), Some(&options))
        .map_err(|error| why::no_overlay(error, data, lowers))?;
    let overlay = explain::child(call!("open_tree(AT_FDCWD, \"root\", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)"))
        .run(|| rootfs::sys::copy_mount(c"root", false))?;
    why::read_only(&overlay, data)?;
    explain::child(call!("umount2(\".\", MNT_DETACH)")).run(|| umount2(".", MntFlags::MNT_DETACH))?;
    Ok(overlay)
}

/// Host, any process, and the container to be removed: removes what it has written, and then the directory of all, if
/// it was the last. `with_all_rights` does it as root inside, where files of ids that are not this user's are in the way.
///
/// # Errors
/// Where the kernel refuses.
pub fn remove_upper(data: &Path, with_all_rights: impl Fn(&dyn Fn() -> Result<()>) -> Result<()>) -> Result<()> {
    if data.exists() {
        if let Err(error) = commit::discard(data, &with_all_rights) {
            explain::notice(format_args!("{error:#}: what a killed commit has left is yours to remove"));
        }
        explain::host(call!("rm -r {}", data.display())).cleanup().announce()?;
        let remove = || layer::remove(data).during(format_args!("rm -r {}", data.display()));
        if !explain::dry_run() {
            remove().or_else(|_| with_all_rights(&remove))?;
        }
    }
    if let Some(top) = data.parent().filter(|_| !explain::dry_run()) {
        let _ = std::fs::remove_dir(top); // ENOTEMPTY: there are others
    }
    Ok(())
}
