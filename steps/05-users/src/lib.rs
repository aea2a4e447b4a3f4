//! Step 05: who does the child believe to be? See user_namespaces(7), mount_setattr(2).
//!
//! Until here root inside was the caller outside. Now the ids inside are a range of ids that no user of the host logs in
//! with: root inside is 100000 there, and owns nothing. The functions are in the order in which they run: the host
//! opens the root before there is a child ([`open_tree`]), and while that is held, maps its ids ([`map_ids`]) and those
//! of the root ([`map_tree`]); the child becomes root ([`become_root`]) and stands on that ([`stand_on`]), and right
//! before exec it becomes who its program is to be ([`switch_to`]).
//!
//! Beside it: which ids those are (`ranges`), the two helpers of an ordinary user (`helpers`), who a name of the
//! container's is (`lookup`), a file system that takes no map (`why`), what the kernel confirms (`readback`), and all that
//! as parts of a container (`parts`).
//!
//! Left open:
//! - Root inside still has every right over its own namespaces: it can undo what a mount forbids (`mount -o
//!   remount,bind,dev /`), so a device node that lies in the root is out of its reach only until then (step 09).
//! - What it makes in its root is root's on the disk, setuid programs too, as the map works both ways: that directory
//!   belongs below one that only root can enter.
//! - All containers of root have the same range, as Docker's have: were one broken out of, it could write the files of the
//!   others.
//! - An ordinary user's root filesystem is not mapped, as that takes root: what a user of the container's makes in it
//!   belongs to an id of the range outside, and only `step05 unshare rm` removes it. An upper layer is step 07's.
//! - The terminal of the caller, in the foreground, stays the caller's: `/dev/stdout` cannot be opened anew there (step
//!   08).

#![forbid(unsafe_code)]

mod helpers;
pub mod lookup;
pub mod mapped;
mod options;
pub mod parts;
pub mod ranges;
mod readback;
mod remedies;
mod sys;
mod why;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::AT_FDCWD;
use nix::sys::prctl::{get_pdeathsig, set_dumpable};
use nix::unistd::{Gid, Pid, Uid, fchdir, setgroups, setresgid, setresuid};
use shared::{call, explain};

pub use lookup::{Account, Who};
pub use options::{Command, GuestUser, Users};
pub use ranges::{Map, Range, Writer};
pub use remedies::known;
pub use sys::MountAttributes;

/// Host, and no child yet: a mount of its own for a directory or file of the host's, which is nowhere mounted yet.
///
/// The host opens it, as the child could not: a directory of mode 0700 on the way is closed to the ids that it will have.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN. open_tree(2), Linux 5.2.
pub fn open_tree(path: &Path) -> Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a NUL byte in a path")?;
    explain::host(call!("open_tree(AT_FDCWD, {path:?}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE)"))
        .run(|| rootfs::sys::copy_mount(&name, true))
}

/// Host, and the child held: says which ids of the host's the ids inside are.
///
/// # Errors
/// EPERM for ids that are not the caller's to give; what newuidmap(1) and newgidmap(1) say. user_namespaces(7).
pub fn map_ids(child: Pid, map: &Map) -> Result<()> {
    match map.writer {
        // All lines in one write(2): a map can be written once.
        Writer::Root => {
            let proc = Path::new("/proc").join(child.to_string());
            explain::host_echo(&map.uids, &proc.join("uid_map")).run()?;
            explain::host_echo(&map.gids, &proc.join("gid_map")).run()
        }
        // The kernel lets an ordinary user map one id, the own one. These two have root's right, and give what /etc/subuid
        // and /etc/subgid say.
        Writer::Helpers => {
            helpers::run("newuidmap", child, &map.uids)?;
            helpers::run("newgidmap", child, &map.gids)
        }
    }
}

/// Host, and the child's ids mapped: maps the owners of the files in a mount in the same way, or just changes its flags.
///
/// On the disk the root belongs to id 0, which is not in the map: to root inside it would be a stranger's. With
/// MOUNT_ATTR_IDMAP the child's user namespace says who it is: 0 on the disk is 0 inside, and what the child makes
/// belongs to 0 on the disk. So a device node on the disk would be root's own, too: with a map, there are none (NODEV).
///
/// # Errors
/// EINVAL where the file system takes no map; EPERM where it is another user namespace's. mount_setattr(2), Linux 5.12.
pub fn map_tree(tree: BorrowedFd, attributes: &MountAttributes, child: Pid) -> Result<()> {
    let namespace = readback::user_namespace(child)?;
    let (number, user) = (tree.as_raw_fd(), namespace.as_raw_fd());
    // Where `/` is shared, so is the copy: what the child mounts in it would appear on the host.
    let attr = format!("{{attr_set={attributes}, propagation=MS_PRIVATE, userns_fd={user}}}");
    explain::host(call!("mount_setattr({number}, \"\", AT_EMPTY_PATH|AT_RECURSIVE, {attr})"))
        .run(|| sys::mount_setattr(tree, attributes, namespace.as_fd()))
}

/// Child, its ids mapped: becomes root in its user namespace. Until then it is nobody there (65534), its files would be
/// the caller's, and exec would leave it without rights.
///
/// # Errors
/// EINVAL where the map has no id 0.
pub fn become_root(may_set_groups: bool) -> Result<()> {
    let _root = explain::one_line("root inside");
    switch_to(&Account::ROOT, may_set_groups)?;
    be_dumpable()
}

/// Child: gets its own /proc/self/fd back, by which volumes are mounted. It is closed to a process that is not dumpable,
/// as one is that has changed its ids. Only before it shares a pid namespace with others: one of theirs could look into
/// the engine's memory and files. CVE-2016-9962, CVE-2019-5736.
fn be_dumpable() -> Result<()> {
    explain::child(call!("prctl(PR_SET_DUMPABLE, 1)")).run(|| set_dumpable(true))
}

/// Child, and every process that `exec` brings in: becomes this user. In this order, as setresuid(2) removes the right
/// to the other two. With a single id setgroups(2) is denied, and there are no groups to set.
///
/// # Errors
/// EINVAL for an id that is not in the map; EPERM where setgroups(2) is denied.
pub fn switch_to(account: &Account, may_set_groups: bool) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<_> = account.groups.iter().copied().map(Gid::from_raw).collect();
    let dies_with_host = explain::dry_run() || get_pdeathsig().is_ok_and(|signal| signal.is_some());
    if may_set_groups {
        explain::child(call!("setgroups({}, {:?})", groups.len(), account.groups)).run(|| setgroups(&groups))?;
    }
    explain::child(call!("setresgid({gid}, {gid}, {gid})")).run(|| setresgid(gid, gid, gid))?;
    // These two clear what has the child die with its host: nothing is waited for until that is set again.
    explain::child(call!("setresuid({uid}, {uid}, {uid})")).at_once().run(|| setresuid(uid, uid, uid))?;
    if dies_with_host { namespaces::die_with_host() } else { Ok(()) }
}

/// Child: mounts the root, and stands on it. On `/`, which is always there; pivot_root(2) will swap the two.
///
/// # Errors
/// EINVAL where `/` cannot be mounted on, as after chroot(8). move_mount(2).
pub fn stand_on(tree: BorrowedFd) -> Result<()> {
    let number = tree.as_raw_fd();
    explain::child(call!("move_mount({number}, \"\", AT_FDCWD, \"/\", MOVE_MOUNT_F_EMPTY_PATH)"))
        .run(|| rootfs::sys::move_mount(tree, AT_FDCWD, c"/"))?;
    explain::child(call!("fchdir({number})")).run(|| fchdir(tree))
}
