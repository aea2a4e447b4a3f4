//! What the kernel says of the child's root.

use std::path::Path;

use anyhow::Result;
use nix::unistd::Pid;
use shared::formula::Fact;
use shared::{explain, mountinfo};

/// Host: that the child's root is an overlay of so many layers, with an upper one, and that no mount of the host's lies
/// above or below it.
///
/// # Errors
/// Where the child is gone.
pub fn facts(child: Pid, lowers: usize) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let mounts = mountinfo::read(&Path::new("/proc").join(child.to_string()))?;
    let root = mounts.iter().rfind(|mount| mount.point == Path::new("/"));
    let option = |name: &str| root.and_then(|it| it.options.iter().find_map(|it| it.strip_prefix(name)));
    let lower = option("lowerdir=").unwrap_or_default();
    let own = Path::new("/proc/self");
    let host = mountinfo::read(own)?.into_iter().rfind(|mount| mount.point == Path::new("/")).map(|it| it.kind);
    Ok(vec![
        Fact {
            brief: format!("its / is an upper layer on {lowers} lower"),
            what: "root".to_owned(),
            holds: root.is_some_and(|it| it.kind == "overlay")
                && lower.split(':').count() == lowers
                && option("upperdir=") == Some("upper"),
            host: host.unwrap_or_default(),
            child: root.map_or(String::new(), |it| format!("{}, lowerdir={lower}", it.kind)),
        },
        rootfs::mounts_fact(&mounts)?,
    ])
}
