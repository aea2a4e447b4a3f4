//! Step 02: what may the child use up?
//!
//! The formula so far: cgroup + namespaces. New against step 01: the cgroup.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::{Cgroup, Limits};
use namespaces::View;
use process::Environment;
use shared::explain::{self, Narration};
use shared::formula::{Formula, Term};

/// Runs a command in namespaces and a cgroup of its own
#[derive(clap::Parser, Debug)]
#[command(name = "step02", version)]
struct Options {
    #[command(flatten)]
    narration: Narration,
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    limits: Limits, // new in this step
    /// The program and its arguments [default: /bin/bash, or /bin/sh where there is none]
    #[arg(trailing_var_arg = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    match explain::parse::<Options>() {
        Ok(options) => explain::run(&options.narration, cgroups::known(), || run(&options)),
        Err(code) => code,
    }
}

fn run(options: &Options) -> Result<u8> {
    options.view.validate()?;

    // Host, and no child yet: what will outlive the child.
    cgroups::ask_for_scope("step02", &options.limits)?; // new in this step: where systemd owns the tree
    let cgroup = Cgroup::new("step02", &options.limits)?; // new in this step
    let status = cgroup.create().and_then(|()| contain(options, &cgroup));

    // Host, and the child gone: also after a failure above.
    cgroup.print_counters();
    explain::with_cleanup(status, cgroup.remove())
}

fn contain(options: &Options, cgroup: &Cgroup) -> Result<u8> {
    let view = &options.view.clone().with_cgroup();

    // Child, once released: its own view.
    let enter = || {
        namespaces::keep_mounts_private(view)?; // before any mount
        namespaces::set_hostname(view, "step02")?;
        namespaces::set_loopback_up(view)?;
        namespaces::unshare_cgroup(view)?;
        namespaces::mount_proc(view)
    };
    // Child, once started: its last act.
    let program = || process::exec(&options.command, &Environment::inherited());

    // Host, and the child held: root inside, and inside its limits before it mounts or runs anything.
    let held = namespaces::clone(view, enter, program)?;
    namespaces::map_ids(held.pid(), view)?;
    cgroup.admit(held.pid())?; // new in this step
    let ready = held.release()?;

    // Host, and the child ready: a term is true if the kernel confirms it.
    let mut formula = Formula::default();
    formula.light(Term::Cgroup, &cgroup.facts(ready.pid())?)?; // new in this step
    formula.light(Term::Namespace, &namespaces::facts(ready.pid(), view)?)?;
    formula.print();

    ready.start()?.wait()
}
