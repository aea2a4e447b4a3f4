//! mount_setattr(2), as this step calls it.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

/// What mount_setattr(2) sets on a mount and on all mounts below it; other flags stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountAttributes {
    /// Owners of files are mapped as the ids of a user namespace, and no device node can be opened.
    pub idmap: bool,
    /// Nothing can be written.
    pub read_only: bool,
}

impl MountAttributes {
    fn set(&self) -> u64 {
        let idmap = if self.idmap { libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NODEV } else { 0 };
        idmap | if self.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 }
    }
}

impl fmt::Display for MountAttributes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let idmap = self.idmap.then_some("MOUNT_ATTR_IDMAP|MOUNT_ATTR_NODEV");
        let names: Vec<_> = idmap.into_iter().chain(self.read_only.then_some("MOUNT_ATTR_RDONLY")).collect();
        f.write_str(&if names.is_empty() { "0".to_owned() } else { names.join("|") })
    }
}

/// mount_setattr(2), Linux 5.12: a mount that is attached nowhere yet becomes private, with all mounts below it, and gets
/// these attributes.
///
/// # Errors
/// EINVAL where a file system takes no id map; EPERM where the mount is mapped already, or without CAP_SYS_ADMIN in the
/// user namespace of the file system.
pub fn mount_setattr(mount: BorrowedFd, attributes: &MountAttributes, user_namespace: BorrowedFd) -> nix::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set(),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    rootfs::sys::mount_setattr(mount, &attr, true)
}
