//! Step 04: who looks after it?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against step 03: the engine, which has every command
//! but `run`. What this step is made of is written here; how it is looked after, in the library. For `run -d` that is
//! `cli::run`, which starts the program again (`protect`), `commands`, `monitor::create`, which forks the monitor,
//! `live` and
//! `bear` there, and `create` in lib.rs; monitor.rs has a picture.

use std::process::ExitCode;

use anyhow::Result;
use cgroups::Limits;
use engine::cli::{NoCommand, NoOption};
use engine::parts::{Limited, Namespaces, Rootfs};
use engine::{Identity, Part, Recipe};
use namespaces::View;
use rootfs::Root;
use serde::{Deserialize, Serialize};

/// The options of the steps before.
#[derive(clap::Args, Serialize, Deserialize)]
struct Options {
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    root: Root,
}

/// The parts of a container, as they are written down.
#[derive(Serialize, Deserialize)]
struct Plan {
    namespaces: Namespaces,
    cgroup: Limited,
    rootfs: Rootfs,
}

impl Recipe for Options {
    const STEP: &'static str = "step04";
    type Plan = Plan;
    type Command = NoCommand;
    type Guest = NoOption;

    fn settled(self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        Ok(Options { view: self.view.with_cgroup().settled(), limits: self.limits, root: self.root.settled()? })
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn view(&self) -> &View {
        &self.view
    }

    fn plan(&self, container: &Identity) -> Result<Plan> {
        Ok(Plan {
            namespaces: Namespaces::plan(&self.view, container),
            cgroup: Limited::plan(&self.limits, &self.view, container)?,
            rootfs: Rootfs::plan(&self.root, &self.view, container)?,
        })
    }

    fn parts(plan: &Plan) -> Vec<&dyn Part> {
        vec![
            // First: it makes mounts private, and everything after it mounts.
            &plan.namespaces,
            // Then, in the order of the steps: a cgroup, and the namespace that hides the others.
            &plan.cgroup,
            // Last: nothing of the host's can be reached any more.
            &plan.rootfs,
        ]
    }

    fn run(command: NoCommand) -> Result<u8> {
        match command {}
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}
