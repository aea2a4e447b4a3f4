//! Step 07: what does the child write on?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against step 06: the root is a lower layer, and
//! what the child writes is its own.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::Limits;
use engine::parts::Limited;
use engine::{Identity, Part, Recipe};
use layers::parts::LayeredRoot;
use layers::{Command, Layering};
use namespaces::View;
use network::Networking;
use network::parts::Network;
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::remedy::Known;
use users::parts::MappedNamespaces;
use users::{GuestUser, Users};

/// The options of the steps before, and what the child writes on.
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
    #[command(flatten)]
    layering: Layering,
}

/// The parts of a container, as they are written down.
#[derive(Serialize, Deserialize)]
struct Plan {
    namespaces: MappedNamespaces,
    cgroup: Limited,
    network: Network,
    rootfs: LayeredRoot,
}

impl Recipe for Options {
    const STEP: &'static str = "step07";
    type Plan = Plan;
    type Command = Command;
    type Guest = GuestUser;

    fn settled(self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        self.users.validate(&self.view)?;
        let view = self.networking.settle(self.view.with_cgroup(), &self.users)?;
        let (layering, root) = self.layering.settle(self.root)?;
        Ok(Options { view: view.settled(), root: root.settled()?, layering, ..self })
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
            rootfs: LayeredRoot::plan(&self.layering, &namespaces, &self.root, &self.view, container)?
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
        command.run::<Options>(|plan| &plan.rootfs)
    }

    fn clean(store: &Path) -> Result<()> {
        network::parts::clean(store)
    }

    fn known() -> Vec<&'static Known> {
        layers::known()
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}
