//! Step 09: what may the child not even try?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against the step before: a list of devices, and what
//! each process gives up before it becomes its program.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::Limits;
use engine::parts::Limited;
use engine::{Identity, Part, Recipe};
use hardening::Confinement;
use hardening::parts::{Confined, DeviceList};
use namespaces::View;
use network::parts::{self, Network};
use network::{Command, Networking};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::remedy::Known;
use users::parts::{MappedNamespaces, MappedRoot};
use users::{GuestUser, Users};

/// The options of the steps before, and what the child may not even try.
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
    confinement: Confinement,
}

/// The parts of a container, as they are written down.
#[derive(Serialize, Deserialize)]
struct Plan {
    namespaces: MappedNamespaces,
    cgroup: Limited,
    devices: DeviceList,
    network: Network,
    rootfs: MappedRoot,
    confined: Confined,
}

impl Recipe for Options {
    const STEP: &'static str = "step09";
    type Plan = Plan;
    type Command = Command;
    type Guest = GuestUser;

    fn settled(self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        self.users.validate(&self.view)?;
        let view = self.networking.settle(self.view.with_cgroup())?;
        let confinement = self.confinement.settled()?;
        Ok(Options { view: view.settled(), root: self.root.settled()?, confinement, ..self })
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
        let limits = self.confinement.with_devices(&self.limits)?;
        let cgroup = Limited::plan(&limits, &self.view, container)?;
        Ok(Plan {
            rootfs: MappedRoot::plan(&namespaces, &self.root, &self.view, container)?
                .with_volumes(network.volumes(&self.root))
                .with_volumes(self.confinement.volumes()),
            devices: DeviceList::plan(&self.confinement, &cgroup)?,
            confined: Confined::plan(&self.confinement)?,
            cgroup,
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
            // As soon as the group is there, and before anybody is in it.
            &plan.devices,
            // A cable, as soon as the child is root over its network namespace.
            &plan.network,
            // Nothing of the host's can be reached any more.
            &plan.rootfs,
            // Last: what it covers is in that root; and what each process gives up, it has needed until here.
            &plan.confined,
        ]
    }

    fn for_guest(plan: Plan, options: &GuestUser) -> Plan {
        Plan { namespaces: plan.namespaces.for_guest(options), ..plan }
    }

    fn run(command: Command) -> Result<u8> {
        match command {
            Command::Users(users::Command::Unshare { command }) => users::mapped::run(&command),
            Command::Port { container } => parts::print_ports::<Options>(&container),
        }
    }

    fn clean(store: &Path) -> Result<()> {
        parts::clean(store)
    }

    fn known() -> Vec<&'static Known> {
        hardening::known()
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}
