//! Step 03: where does the child stand? See pivot_root(2), mount_namespaces(7).
//!
//! The child gives itself a new root: a directory becomes a mount, gets its `/proc`, `/sys`, `/dev` and volumes, is
//! swapped with the host's root, and the host's root is unmounted. After that no path leads back.
//!
//! Beside it: paths in an untrusted root (`inside`), `/dev` (`dev`), what is mounted read-only
//! (`read_only`), the options, the default root, what the kernel confirms, and the reasons of failures.
//!
//! Left open:
//! - Nobody looks after the container (step 04).
//! - Until execve(2) the child's program is this step's own file, and an untrusted root decides what is executed
//!   next: with `/bin/sh -> /proc/self/exe`, or a script whose interpreter is that, it is the step again, now with
//!   libraries of the root's, which can write to the step's file on the host once nothing executes it. That was
//!   CVE-2019-5736. Step 04 runs from a copy of itself that cannot be written to.
//! - Root inside is still the caller outside (step 05), and where the caller is root it can write the host's settings in
//!   `/proc/sys`.
//! - It has every right over its own namespaces, so it can make a read-only mount writable again (step 09).
//! - What it writes into its root stays there, and so do the mount points that were made for it (step 07).

#![deny(unsafe_code)]

mod default_root;
mod dev;
mod inside;
mod options;
mod read_only;
mod readback;
mod remedies;
pub mod sys;
mod volume;
mod why;

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use namespaces::{Namespace, View, mount};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{chdir, pivot_root};
use shared::{call, explain};

pub use dev::set_umask;
pub use inside::{Make, Place, place, stand_in};
pub use options::{Root, Variable, path_inside, variable};
pub use readback::{facts, mounts_fact};
pub use remedies::known;
pub use volume::Volume;

/// Host: what this step cannot do without.
///
/// # Errors
/// Without a mount namespace: pivot_root would move the host's own root.
pub fn validate(view: &View) -> Result<()> {
    ensure!(view.has(Namespace::Mount), "a root of its own needs a mount namespace: add `mount` to --namespaces");
    Ok(())
}

/// Child: makes `dir` its root, with everything in it that programs expect.
///
/// # Errors
/// The call that failed, and the root.
pub fn enter(root: &Root, dir: &Path, view: &View) -> Result<()> {
    let enter = || stand_on(dir).and_then(|()| fill_and_pivot(root, view, bind));
    enter().with_context(|| format!("in the root {}", dir.display()))
}

/// Child: makes the directory a mount, and stands on it.
///
/// # Errors
/// EACCES, with the directory that is closed to this user.
pub fn stand_on(dir: &Path) -> Result<()> {
    // pivot_root(2) takes only a mount point as the new root, else EBUSY. Bound onto itself, the directory is one.
    let path = dir.to_str().context("its path is not UTF-8")?;
    mount(path, path, None, MsFlags::MS_BIND | MsFlags::MS_REC, None).map_err(|error| why::closed(error, dir))?;
    // After the bind: from here on `.` is the new mount, and what is opened or mounted in it is on that.
    explain::child(call!("chdir({dir:?})")).run(|| chdir(dir)).map_err(|error| why::closed(error, dir))?;
    Ok(())
}

/// Child, standing on a mount: fills it, and makes it its root. The order, and why it is this one.
///
/// # Errors
/// The call that failed; those of `mount_volume`.
pub fn fill_and_pivot(root: &Root, view: &View, mount_volume: impl Fn(&Volume) -> Result<()>) -> Result<()> {
    // While the host's /proc and /sys are visible: a user namespace may mount a new /proc only where it sees a whole
    // one already.
    mount_proc(view)?;
    mount_sys(view)?;
    dev::make(view)?; // binds the host's devices where it may make none
    volume::mount_all(&root.volumes, mount_volume)?; // after those, as a volume may lie in one of them
    make_workdir(root)?; // after the volumes, as it may lie in one
    if root.read_only {
        read_only::set_root_read_only()?; // after every mount point has been made
    }

    // The old root is then mounted at the same place, above the new one: so no directory is needed for it inside.
    explain::child(call!("pivot_root(\".\", \".\")")).run(|| pivot_root(".", "."))?;
    // If it stayed, it would be the way out: everything of the host's is still below it. A plain umount fails with EBUSY,
    // as there are mounts below it; MNT_DETACH detaches all of them at once.
    explain::child(call!("umount2(\".\", MNT_DETACH)")).run(|| umount2(".", MntFlags::MNT_DETACH))?;

    // Now `.` is `/`. Only inside can a link in the workdir be followed as the program would.
    if root.workdir == Path::new("/") { Ok(()) } else { stand_in(&root.workdir) }
}

/// Child, in its root: becomes the program, found and run inside, with an environment that has nothing of the host's.
///
/// # Errors
/// Those of [`process::exec`], and the root.
pub fn exec(root: &Root, dir: &Path, command: &[OsString], hostname: &str) -> Result<()> {
    process::exec(command, &root.environment(hostname)).with_context(|| format!("in the root {}", dir.display()))
}

/// Child: `/proc`, of its own pid namespace where it has one, else the host's.
fn mount_proc(view: &View) -> Result<()> {
    let _proc = explain::one_line("/proc");
    let proc = place(Path::new("proc"), Make::Directory)?;
    if !view.has(Namespace::Pid) {
        return mount("/proc", &proc.path(), None, MsFlags::MS_BIND | MsFlags::MS_REC, None);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount("proc", &proc.path(), Some("proc"), flags, None)
}

/// Child: `/sys`, read-only, as it is the host's hardware. It shows the network namespace of the process that mounts it; a
/// process without one of its own may mount no new one (EPERM), and gets the host's.
fn mount_sys(view: &View) -> Result<()> {
    let _sys = explain::one_line("/sys");
    let sys = place(Path::new("sys"), Make::Directory)?;
    if !view.has(Namespace::Net) {
        return read_only::bind("/sys", &sys);
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount("sysfs", &sys.path(), Some("sysfs"), flags, None)
}

/// Child: a directory or file of the host that was asked for, from where the host has it.
///
/// # Errors
/// Those of mount(2); one with `idmap`.
pub fn bind(Volume { source, target, read_only, idmap }: &Volume) -> Result<()> {
    ensure!(!idmap, "a volume with `idmap` takes a range of ids, which step 05 is the first to have");
    let make = match why::metadata(source) {
        Ok(there) if there.is_dir() => Make::Directory,
        Ok(_) => Make::File,
        Err(_) if explain::dry_run() => Make::File, // it may be one that would have been made by now
        Err(error) => return Err(error),
    };
    let place = place(target, make)?;
    let path = source.to_str().context("a volume's path is not UTF-8")?;
    let mounted = if *read_only {
        read_only::bind(path, &place)
    } else {
        mount(path, &place.path(), None, MsFlags::MS_BIND | MsFlags::MS_REC, None)
    };
    mounted.map_err(|error| why::closed(error, source))
}

/// Child: the directory in which the program begins, made where it is missing.
fn make_workdir(root: &Root) -> Result<()> {
    let _workdir = explain::one_line(root.workdir.display());
    match root.workdir.as_path() {
        top if top == Path::new("/") => Ok(()),
        workdir => place(workdir, Make::Directory).map(drop),
    }
}
