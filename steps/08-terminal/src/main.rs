//! Step 08: how do we talk to the child?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against step 07: its program has a terminal of its
//! own, which commands come to and leave.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::Limits;
use engine::attach::Talk;
use engine::parts::Limited;
use engine::{Identity, Part, Recipe, Streams};
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

/// The options of the steps before, and how one talks to the child.
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
}

/// The parts of a container, as they are written down.
#[derive(Serialize, Deserialize)]
struct Plan {
    namespaces: MappedNamespaces,
    cgroup: Limited,
    network: Network,
    rootfs: LayeredRoot,
    terminal: Terminal,
}

impl Recipe for Options {
    const STEP: &'static str = "step08";
    type Plan = Plan;
    type Command = Command;
    type Guest = GuestOptions;

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
        Ok(Plan {
            cgroup: Limited::plan(&self.limits, &self.view, container)?,
            rootfs: LayeredRoot::plan(&self.layering, &namespaces, &self.root, &self.view, container)?
                .with_volumes(network.volumes(&self.root)),
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
            // A cable, as soon as the child is root over its network namespace.
            &plan.network,
            // Then nothing of the host's can be reached any more.
            &plan.rootfs,
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
        terminal::known()
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}
