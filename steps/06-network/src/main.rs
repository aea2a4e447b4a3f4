//! Step 06: whom can the child reach?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against step 05: the network namespace has a
//! cable to the others.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::Limits;
use engine::parts::Limited;
use engine::{Identity, Part, Recipe};
use namespaces::View;
use network::parts::Network;
use network::{Command, Networking};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::remedy::Known;
use users::parts::{MappedNamespaces, MappedRoot};
use users::{GuestUser, Users};

/// The options of the steps before, and whom the child can reach.
#[derive(clap::Args, Serialize, Deserialize)]
struct Options {
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    networking: Networking,
}

/// The parts of a container, as they are written down.
#[derive(Serialize, Deserialize)]
struct Plan {
    namespaces: MappedNamespaces,
    cgroup: Limited,
    network: Network,
    rootfs: MappedRoot,
}

impl Recipe for Options {
    const STEP: &'static str = "step06";
    type Plan = Plan;
    type Command = Command;
    type Guest = GuestUser;

    fn settled(self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        self.users.validate(&self.view)?;
        let view = self.networking.settle(self.view.with_cgroup(), &self.users)?;
        Ok(Options { view: view.settled(), root: self.root.settled()?, ..self })
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn view(&self) -> &View {
        &self.view
    }

    fn plan(&self, container: &Identity) -> Result<Plan> {
        let namespaces = MappedNamespaces::plan(&self.users, &self.root, &self.view, container)?;
        let network = Network::plan(&self.networking, &self.view, container)?;
        let namespaces = network.share::<Self>(namespaces, |plan| plan.namespaces)?;
        Ok(Plan {
            cgroup: Limited::plan(&self.limits, &self.view, container)?,
            rootfs: MappedRoot::plan(&namespaces, &self.root, &self.view, container)?
                .with_volumes(network.volumes(&self.root)),
            network,
            namespaces,
        })
    }

    fn parts(plan: &Plan) -> Vec<&dyn Part> {
        vec![
            // First: the child becomes root inside, and makes mounts private; everything after it mounts.
            &plan.namespaces,
            // Then, in the order of the steps: a cgroup, and the namespace that hides the others.
            &plan.cgroup,
            // A cable, as soon as the child is root over its network namespace.
            &plan.network,
            // Last: nothing of the host's can be reached any more.
            &plan.rootfs,
        ]
    }

    fn for_guest(plan: Plan, options: &GuestUser) -> Plan {
        Plan { namespaces: plan.namespaces.for_guest(options), ..plan }
    }

    fn run(command: Command) -> Result<u8> {
        command.run::<Options>()
    }

    fn clean(store: &Path) -> Result<()> {
        network::parts::clean(store)
    }

    fn known() -> Vec<&'static Known> {
        network::known()
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}
