//! The network of another container: `--network container:NAME`. The child has no network namespace of its own then; it is
//! born in that one, which this process has joined meanwhile.
//!
//! It is a guest there: its user namespace is another one, so that root inside has no rights over what it finds. To share that
//! one, too, the process that makes the child would have to join it first, as the child's other namespaces belong to where
//! they were made; and nobody comes back from a user namespace, while this process has to clean up outside.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use engine::Identity;
use engine::identity::Process;
use engine::states::Status;
use engine::store::Store;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use shared::failure::During;
use shared::{call, explain};

use crate::readback;

/// Whose network it is.
#[derive(Serialize, Deserialize)]
pub struct Other {
    name: String,
    /// Its first process.
    init: Process,
}

impl Other {
    /// A container of the same step, which runs.
    ///
    /// # Errors
    /// Where there is none of this name, it does not run, another step has made it, or it is this one.
    pub fn find(name: &str, container: &Identity) -> Result<Self> {
        let other = Store::of(container.step)?.find(name)?;
        let directory: PathBuf = other.identity().directory;
        ensure!(directory != container.directory, "a container has its own network, or that of another one");
        other.is_whole()?;
        other.is_ours()?;
        let status = other.status()?;
        let runs = matches!(status, Status::Running | Status::Paused);
        ensure!(runs, "container {name} is {status}: its network is there as long as it runs");
        ensure!(
            readback::may_administer(),
            "the network of another container takes root: an ordinary user has rights over it only inside that container. \
             They reach each other by published ports"
        );
        let init = other.state()?.init.context("a container that runs has a first process")?;
        Ok(Other { name: name.to_owned(), init })
    }

    /// Host, and no child yet: joins that network namespace. The way back.
    ///
    /// # Errors
    /// Where the container has ended; EPERM.
    pub fn join(&self) -> Result<Option<File>> {
        let way_back = File::open("/proc/self/ns/net").during("cannot open /proc/self/ns/net")?;
        let Other { name, init } = self;
        let Some(process) = init.open()? else { bail!("container {name} has just ended, and its network with it") };
        explain::host(call!("setns(pidfd of {}, CLONE_NEWNET)", init.pid))
            .run(|| setns(process, CloneFlags::CLONE_NEWNET))?;
        Ok((!explain::dry_run()).then_some(way_back))
    }
}

/// Host, and the child there: goes back.
///
/// # Errors
/// EPERM.
pub fn leave(way_back: File) -> Result<()> {
    explain::host(call!("setns(its own, CLONE_NEWNET)")).cleanup().run(|| setns(way_back, CloneFlags::CLONE_NEWNET))
}
