//! What stands in `/proc` and `/sys` and is the host's: found by descriptors, so that no link of a root's leads elsewhere.
//!
//! The root may be changed by another container meanwhile: with `/proc` renamed, and a directory of its own in its place,
//! the masks would lie there. So the directory that is looked into must be a procfs, and what is mounted over a file
//! must be the null device, and no file of the root's: CVE-2025-31133, CVE-2025-52881.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat, makedev};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use shared::explain::{self, Returned};
use shared::failure::During;

/// Not to be read: Docker's list (`DefaultPaths` in moby's oci/defaults.go).
pub const MASKED: [(Top, &[&str]); 2] = [
    (
        Top::Proc,
        &[
            "acpi",
            "asound",
            "interrupts",
            "kcore",
            "keys",
            "latency_stats",
            "sched_debug",
            "scsi",
            "timer_list",
            "timer_stats",
        ],
    ),
    (Top::Sys, &["devices/virtual/powercap", "firmware"]),
];

/// Not to be written to: settings of the whole kernel. Docker's list, too.
pub const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// A file system of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Top {
    /// `/proc`
    Proc,
    /// `/sys`
    Sys,
}

/// Something in it.
pub struct There {
    /// For mount(2): its descriptor, which no link can redirect.
    pub path: String,
    /// A directory is covered by an empty one, a file by the null device.
    pub is_directory: bool,
    /// Held open, so that the number in `path` stays its own.
    pub descriptor: OwnedFd,
}

impl Top {
    fn path(self) -> &'static str {
        ["/proc", "/sys"][self as usize]
    }

    fn kind(self) -> FsType {
        [PROC_SUPER_MAGIC, SYSFS_MAGIC][self as usize]
    }

    /// Child, in its root: what of these is there. Not every kernel has all.
    ///
    /// # Errors
    /// Where `/proc`, or `/sys`, is another file system.
    pub fn find(self, names: &[&str]) -> Result<Vec<There>> {
        let top = openat2(AT_FDCWD, self.path(), OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC));
        let top = top.during(self.path())?;
        let kind = fstatfs(&top).during(self.path())?.filesystem_type();
        ensure!(kind == self.kind(), "{} is not what this step has mounted there: it cannot be masked", self.path());
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
        let how = how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let mut found = Vec::new();
        for name in names {
            match openat2(&top, *name, how) {
                Err(Errno::ENOENT) => {}
                opened => found.push(There::of(opened.during(format_args!("{}/{name}", self.path()))?)?),
            }
        }
        Ok(found)
    }
}

impl There {
    fn of(descriptor: OwnedFd) -> Result<Self> {
        let kind = fstat(&descriptor).during("a path to be masked")?.st_mode & SFlag::S_IFMT.bits();
        let is_directory = kind == SFlag::S_IFDIR.bits();
        Ok(There { path: format!("/proc/self/fd/{}", descriptor.as_raw_fd()), is_directory, descriptor })
    }
}

/// Child, in its root: what is not to be read there.
///
/// # Errors
/// Those of [`Top::find`].
pub fn masked() -> Result<Vec<There>> {
    let mut found = Vec::new();
    for (top, names) in MASKED {
        found.extend(top.find(names)?);
    }
    // How often each processor has been too hot: a side channel.
    let names: Vec<_> = processors().iter().map(|name| format!("devices/system/cpu/{name}/thermal_throttle")).collect();
    found.extend(Top::Sys.find(&names.iter().map(String::as_str).collect::<Vec<_>>())?);
    Ok(found)
}

/// `cpu0`, `cpu1`, …
fn processors() -> Vec<String> {
    let all = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let names = all.filter_map(|entry| entry.file_name().into_string().ok());
    let is_one = |name: &String| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
    names.filter(is_one).collect()
}

/// Child, in its root: the null device, and nothing else that a root may have put in its place.
///
/// # Errors
/// Where it is another file.
pub fn null_device() -> Result<There> {
    let path = Path::new("/dev/null");
    if explain::dry_run() {
        return There::of(OwnedFd::stand_in().during("/dev/null")?);
    }
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let null = openat2(AT_FDCWD, path, how).during(path.display())?;
    let there = fstat(&null).during(path.display())?;
    let is_null = there.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && there.st_rdev == makedev(1, 3);
    ensure!(is_null, "/dev/null of this container is not the null device: nothing can be masked with it");
    There::of(null)
}
