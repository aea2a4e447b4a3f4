//! Step 05: who does the child believe to be?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against step 04: the namespaces have a range of ids,
//! and the root belongs to them.

use std::process::ExitCode;

use anyhow::Result;
use cgroups::Limits;
use engine::parts::Limited;
use engine::{Identity, Part, Recipe};
use namespaces::View;
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::remedy::Known;
use users::parts::{MappedNamespaces, MappedRoot};
use users::{Command, GuestUser, Users};

/// The options of the steps before, and who the child believes to be.
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
}

/// The parts of a container, as they are written down.
#[derive(Serialize, Deserialize)]
struct Plan {
    namespaces: MappedNamespaces,
    cgroup: Limited,
    rootfs: MappedRoot,
}

impl Recipe for Options {
    const STEP: &'static str = "step05";
    type Plan = Plan;
    type Command = Command;
    type Guest = GuestUser;

    fn settled(self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        self.users.validate(&self.view)?;
        Ok(Options { view: self.view.with_cgroup().settled(), root: self.root.settled()?, ..self })
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn view(&self) -> &View {
        &self.view
    }

    fn plan(&self, container: &Identity) -> Result<Plan> {
        let namespaces = MappedNamespaces::plan(&self.users, &self.root, &self.view, container)?;
        Ok(Plan {
            cgroup: Limited::plan(&self.limits, &self.view, container)?,
            rootfs: MappedRoot::plan(&namespaces, &self.root, &self.view, container)?,
            namespaces,
        })
    }

    fn parts(plan: &Plan) -> Vec<&dyn Part> {
        vec![
            // First: the child becomes root inside, and makes mounts private; everything after it mounts.
            &plan.namespaces,
            // Then, in the order of the steps: a cgroup, and the namespace that hides the others.
            &plan.cgroup,
            // Last: nothing of the host's can be reached any more.
            &plan.rootfs,
        ]
    }

    fn for_guest(plan: Plan, options: &GuestUser) -> Plan {
        Plan { namespaces: plan.namespaces.for_guest(options), ..plan }
    }

    fn run(command: Command) -> Result<u8> {
        command.run()
    }

    fn known() -> Vec<&'static Known> {
        users::known()
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}
