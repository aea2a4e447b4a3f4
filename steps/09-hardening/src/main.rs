//! Step 09: what may the child not even try?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against step 08: a list of devices, and what each
//! process gives up before it becomes its program.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::Limits;
use engine::attach::Talk;
use engine::parts::Limited;
use engine::{Identity, Part, Recipe, Streams};
use hardening::Confinement;
use hardening::parts::{Confined, DeviceList};
use layers::Layering;
use layers::parts::LayeredRoot;
use namespaces::View;
use network::Networking;
use network::parts::Network;
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::remedy::Known;
use terminal::parts::Terminal;
use terminal::{Command, GuestOptions, Talking};
use users::Users;
use users::parts::MappedNamespaces;

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
    layering: Layering,
    #[command(flatten)]
    talking: Talking,
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
    rootfs: LayeredRoot,
    confined: Confined,
    terminal: Terminal,
}

impl Recipe for Options {
    const STEP: &'static str = "step09";
    type Plan = Plan;
    type Command = Command;
    type Guest = GuestOptions;

    fn settled(self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        self.users.validate(&self.view)?;
        let view = self.networking.settle(self.view.with_cgroup(), &self.users)?;
        let (layering, root) = self.layering.settle(self.root)?;
        let confinement = self.confinement.settled()?;
        Ok(Options { view: view.settled(), root: root.settled()?, layering, confinement, ..self })
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn view(&self) -> &View {
        &self.view
    }

    fn streams(&self) -> Streams {
        self.talking.streams()
    }

    fn talk(&self, sends: bool) -> Result<Box<dyn Talk>> {
        self.talking.talk(sends)
    }

    fn plan(&self, container: &Identity) -> Result<Plan> {
        let namespaces = MappedNamespaces::plan(&self.users, &self.root, &self.view, container)?;
        let network = Network::plan(&self.networking, &self.view, container)?;
        let namespaces = network.share::<Self>(namespaces, |plan| plan.namespaces)?;
        let limits = self.confinement.with_devices(&self.limits)?;
        let cgroup = Limited::plan(&limits, &self.view, container)?;
        Ok(Plan {
            devices: DeviceList::plan(&self.confinement, &cgroup)?,
            cgroup,
            rootfs: LayeredRoot::plan(&self.layering, &namespaces, &self.root, &self.view, container)?
                .with_volumes(network.volumes(&self.root))
                .with_volumes(self.confinement.volumes()),
            confined: Confined::plan(&self.confinement)?,
            network,
            namespaces,
            terminal: Terminal::plan(&self.talking, container),
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
            // Then nothing of the host's can be reached any more.
            &plan.rootfs,
            // What it covers is in that root; and what each process gives up, it has needed until here.
            &plan.confined,
            // Last: the terminal is made in the container's own /dev/pts.
            &plan.terminal,
        ]
    }

    fn for_guest(plan: Plan, options: &GuestOptions) -> Plan {
        let terminal = Terminal::for_guest(&options.talking);
        Plan { namespaces: plan.namespaces.for_guest(&options.user), terminal, ..plan }
    }

    fn run(command: Command) -> Result<u8> {
        command.run::<Options>(|options| options.talking, |plan| &plan.rootfs)
    }

    fn clean(store: &Path) -> Result<()> {
        network::parts::clean(store)
    }

    fn known() -> Vec<&'static Known> {
        hardening::known()
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}
