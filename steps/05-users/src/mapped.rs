//! A process of the host's with the ids of a container, and nothing else of one: to remove what belongs to them.
//!
//! An ordinary user's container can leave files that belong to ids of the user's range. These are nobody's to remove, as
//! long as one is not root where the ids are: in a user namespace with the same map.

use std::ffi::OsString;

use anyhow::{Result, bail};
use namespaces::{Gate, Namespace, View, clone_child};
use nix::sched::CloneFlags;
use process::Environment;
use shared::{call, explain};

use crate::options::Users;
use crate::ranges::{self, Choice, Map};

/// Host: runs a command so. Its exit code.
///
/// # Errors
/// Where this user has no range: what its containers make is its own.
pub fn run(command: &[OsString]) -> Result<u8> {
    match ranges::choose(&Users::default())? {
        Choice::Ranges(map) => in_a_namespace_of(Some(&map), || process::exec(command, &Environment::inherited())),
        Choice::NoRange { why, .. } => bail!("{why}: what a container makes here is its caller's, for `rm` to remove"),
        Choice::Host => bail!("there is no user namespace"),
    }
}

/// Host: runs `act` in a child that is root in a user namespace with these ids: those of step 01 where there is no range.
/// Its exit code.
///
/// # Errors
/// Those of clone(2) and of [`map_ids`](crate::map_ids), and what fails in the child.
pub fn in_a_namespace_of(map: Option<&Map>, act: impl FnMut() -> Result<()>) -> Result<u8> {
    let enter = || map.map_or(Ok(()), |map| crate::become_root(map.has_groups));
    let mut gate = Gate::new(enter, act)?;
    let flags = CloneFlags::CLONE_NEWUSER;
    let pid = explain::host(call!("clone(child, stack, CLONE_NEWUSER|SIGCHLD, NULL)"))
        .run(|| clone_child(&mut gate, flags))?;
    let held = gate.hold(pid)?;
    match map {
        Some(map) => crate::map_ids(pid, map)?,
        None => namespaces::map_ids(pid, &View::of(vec![Namespace::User]))?,
    }
    held.release()?.start()?.wait()
}
