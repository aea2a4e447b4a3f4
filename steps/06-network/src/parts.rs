//! This step as a part of a container.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engine::{Identity, Letter, Part};
use namespaces::{Namespace, View};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use shared::explain;
use shared::formula::{Formula, Term};

use crate::BRIDGE;
use crate::lease::{self, Lease};
use crate::options::{Mode, Networking};
use crate::readback;

/// The network of a container. Its address is no part of the plan: it is leased when the container is made, and written
/// down in the container's directory, where any process finds it.
#[derive(Serialize, Deserialize)]
pub struct Network {
    mode: Mode,
    /// Where it is none and nobody has asked for that: why.
    why: Option<String>,
    ip: Option<Ipv4Addr>,
    /// The container's, in the store.
    directory: PathBuf,
    /// In the process that has taken it, and in its child.
    #[serde(skip)]
    lease: OnceCell<Lease>,
}

impl Network {
    /// As the options say, and this user may.
    ///
    /// # Errors
    /// A bridge that this user may not make.
    pub fn plan(options: &Networking, view: &View, container: &Identity) -> Result<Self> {
        let may = explain::dry_run() || readback::may_administer();
        let needs_root = "a bridge takes root, with CAP_NET_ADMIN over the host's network";
        let (mode, why) = match options.network {
            _ if !view.has(Namespace::Net) => (Mode::Host, None),
            None if !may => (Mode::None, Some(needs_root.to_owned())),
            mode => (mode.unwrap_or(Mode::Bridge), None),
        };
        ensure!(mode != Mode::Bridge || may, "{needs_root}");
        ensure!(mode == Mode::Bridge || options.ip.is_none(), "--ip is an address on the bridge: {needs_root}");
        Ok(Network { mode, why, ip: options.ip, directory: container.directory.clone(), lease: OnceCell::new() })
    }

    fn store(&self) -> Result<&Path> {
        self.directory.parent().context("a container's directory is in the store")
    }

    fn lease(&self) -> Result<&Lease> {
        self.lease.get().context("no address has been leased")
    }
}

impl Part for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        if let Some(why) = &self.why {
            explain::notice(format_args!("the container reaches nobody: {why}"));
        }
        if self.mode != Mode::Bridge {
            return Ok(());
        }
        let _lock = lease::lock()?;
        let _line = explain::one_line(format_args!("bridge {BRIDGE}"));
        let lease = lease::take(&self.directory, self.ip)?;
        let _ = self.lease.set(lease);
        crate::make_bridge(self.store()?)?;
        crate::forward()
    }

    fn admit(&self, child: Pid) -> Result<()> {
        if self.mode == Mode::Bridge { crate::plug_in(self.lease()?, child) } else { Ok(()) }
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        if self.mode == Mode::Bridge { crate::configure(self.lease()?) } else { Ok(()) }
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        if self.mode != Mode::Bridge {
            return Ok(());
        }
        formula.light(Term::Namespace, &readback::facts(child, self.lease()?)?)
    }

    fn cleanup(&self) -> Result<()> {
        if self.mode != Mode::Bridge {
            return Ok(());
        }
        // Another process reads what the one that has taken it has written down. Without, nothing has been made.
        let written = if self.lease.get().is_none() { lease::of(&self.directory)? } else { None };
        let Some(lease) = self.lease.get().or(written.as_ref()) else { return Ok(()) };
        let _lock = lease::lock()?;
        let _line = explain::one_line("network");
        crate::unplug(lease)?;
        if lease::others(&self.directory)?.is_empty() {
            crate::remove_bridge(self.store()?)?;
        }
        // Last: until then it says to whoever is next that there is something to undo.
        lease::give_back(&self.directory)
    }
}
