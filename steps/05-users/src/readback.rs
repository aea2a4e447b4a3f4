//! What the kernel says of the child's ids: `/proc/PID/uid_map`, `gid_map`, and whose process it is outside.

use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::unistd::Pid;
use process::status::field;
use shared::explain::{self, Returned};
use shared::failure::During;
use shared::formula::Fact;
use shared::kernel_file;

use crate::ranges::{Map, Ranges};

/// Host: that the maps are those that were written, and that root inside is who they say outside.
///
/// # Errors
/// ENOENT where the child is gone.
pub fn facts(child: Pid, map: &Map) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let root = map.uids.to_outside(0).context("the map has no id 0")?;
    let status = read(&child.to_string(), "status")?;
    let uid = field(&status, "Uid").and_then(|ids| ids.split_whitespace().next()).unwrap_or_default();
    let uid_map = map_fact("uid_map", child, &map.uids)?;
    let gid_map = map_fact("gid_map", child, &map.gids)?;
    Ok(vec![
        Fact {
            what: "uid of root".to_owned(),
            host: "0".to_owned(),
            holds: uid == root.to_string(),
            child: uid.to_owned(),
            brief: format!("root is {uid} outside"),
        },
        Fact { brief: format!("{} ids", map.uids.count()), ..uid_map },
        gid_map,
    ])
}

/// Host: the child's user namespace, as a descriptor.
///
/// # Errors
/// ENOENT where the child is gone.
pub fn user_namespace(child: Pid) -> Result<OwnedFd> {
    let path = format!("/proc/{child}/ns/user");
    let open = || if explain::dry_run() { OwnedFd::stand_in() } else { File::open(&path).map(OwnedFd::from) };
    open().during(format_args!("cannot open {path}"))
}

fn map_fact(name: &str, child: Pid, wanted: &Ranges) -> Result<Fact> {
    let [host, child] = [read("self", name)?, read(&child.to_string(), name)?].map(|map| plain(&map));
    Ok(Fact { what: name.to_owned(), host, holds: child == plain(&wanted.to_string()), child, brief: String::new() })
}

fn read(process: &str, name: &str) -> Result<String> {
    kernel_file::read(format!("/proc/{process}/{name}"))
}

/// The kernel aligns the numbers; between two lines, a comma.
fn plain(map: &str) -> String {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    map.lines().map(line).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_as_it_was_written() {
        assert_eq!(
            plain("         0       1000          1\n         1     100000      65536\n"),
            "0 1000 1, 1 100000 65536"
        );
        assert_eq!(plain("0 1000 1\n1 100000 65536"), "0 1000 1, 1 100000 65536");
    }
}
