//! Why a mount's owners cannot be mapped, where the errno alone leaves the reader to guess.

use std::path::Path;

use anyhow::Error;
use nix::errno::Errno;
use shared::failure::{Failure, STEP_FAILED, is};
use shared::mountinfo::{self, Mount};

use crate::ranges::Map;

/// An error of mount_setattr(2) for what the host has at this path: EINVAL, with the file system that takes no map.
pub fn no_map(error: Error, path: &Path, map: &Map) -> Error {
    let because = match () {
        () if is(&error, Errno::EINVAL) => "takes no map of ids",
        () if is(&error, Errno::EPERM) => "is mapped already, or belongs to another user namespace",
        () => return error,
    };
    let mounts = mountinfo::read(Path::new("/proc/self")).unwrap_or_default();
    let kinds = kinds(&mounts, path).join(" or ");
    let (uid, gid) = (map.uids.to_outside(0).unwrap_or(0), map.gids.to_outside(0).unwrap_or(0));
    let path = path.display();
    Failure {
        code: STEP_FAILED,
        sentence: format!("the file system of {path} ({kinds}) {because}: {error:#}"),
        remedy: Some(format!(
            "copy it to a file system that takes one, such as ext4, xfs or btrfs (`cp -a {path} DIR`); or give a copy of it \
             to the container's ids (`chown -hR {uid}:{gid} DIR`; a new root: `rootfs-scripts/host.sh --owner {uid} DIR`); \
             or keep the ids of the host with --uidmap 0:0:65536"
        )),
    }
    .into()
}

/// The types of the file systems at this path and below it, each once.
fn kinds(mounts: &[Mount], path: &Path) -> Vec<String> {
    // The one that it is on: the longest mount point above it, of two at one place the later.
    let own = mounts.iter().filter(|mount| path.starts_with(&mount.point)).max_by_key(|it| it.point.as_os_str().len());
    let below = mounts.iter().filter(|mount| mount.point.starts_with(path) && mount.point != path);
    let mut kinds: Vec<_> = own.into_iter().chain(below).map(|mount| mount.kind.clone()).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_systems_of_a_path_are_those_at_and_below_it() {
        let mount = |point: &str, kind: &str| Mount {
            device: 0,
            root: "/".into(),
            point: point.into(),
            propagation: String::new(),
            kind: kind.into(),
            options: vec![],
        };
        let mounts = [
            mount("/", "ext4"),
            mount("/srv", "xfs"),
            mount("/srv", "overlay"),
            mount("/srv/root/data", "tmpfs"),
            mount("/srv/rootless", "nfs"),
        ];
        assert_eq!(kinds(&mounts, Path::new("/srv/root")), ["overlay", "tmpfs"]);
        assert_eq!(kinds(&mounts, Path::new("/home")), ["ext4"]);
    }
}
