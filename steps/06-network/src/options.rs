//! The options of this step: which network.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use namespaces::{Namespace, View};
use serde::{Deserialize, Serialize};

/// Whom the child can reach.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "Whom the child can reach (step 06)")]
pub struct Networking {
    /// Its network [default: bridge for root; none for an ordinary user]
    #[arg(long, value_name = "NETWORK", value_enum)]
    pub(crate) network: Option<Mode>,
    /// Its address on the bridge [default: the first that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<Ipv4Addr>,
}

/// The networks, by Docker's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The other containers, and through the host everybody else.
    Bridge,
    /// Nobody but itself.
    None,
    /// What the host reaches: no network namespace of its own.
    Host,
}

impl Networking {
    /// Options that contradict each other, in one sentence; and the namespaces that go with them.
    ///
    /// # Errors
    /// `host` with a network namespace that was asked for, the others without one.
    pub fn settle(&self, view: View) -> Result<View> {
        let view = if self.network == Some(Mode::Host) { view.without(Namespace::Net)? } else { view };
        let needs_own = matches!(self.network, Some(Mode::Bridge | Mode::None));
        ensure!(
            view.has(Namespace::Net) || !needs_own,
            "this network needs a network namespace: add `net` to --namespaces, or leave --network out"
        );
        let is_bridge = self.network.is_none_or(|mode| mode == Mode::Bridge) && view.has(Namespace::Net);
        ensure!(is_bridge || self.ip.is_none(), "--ip is an address on the bridge, which this container is not on");
        Ok(view)
    }
}
