//! Step 02: what may the child use up?
//!
//! The formula so far: cgroup + namespaces.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::{Cgroup, Limits};
use namespaces::View;
use process::Environment;
use shared::explain::{self, Narration};
use shared::formula::{Formula, Term};

const STEP: &str = "step02";

/// Runs a command in namespaces and a cgroup of its own
#[derive(clap::Parser, Debug)]
#[command(name = STEP, version)]
struct Options {
    #[command(flatten)]
    narration: Narration,
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    limits: Limits,
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
    let mut formula = Formula::default();
    cgroups::ask_for_scope(STEP, &options.limits)?;

    // Host, and no child yet: what will outlive the child.
    let cgroup = Cgroup::new(STEP, &options.limits)?;
    let code = cgroup.create().and_then(|()| contain(options, &cgroup, &mut formula));

    // Host, and the child gone: also after a failure above.
    cgroup.print_counters();
    explain::with_cleanup(code, cgroup.remove())
}

fn contain(options: &Options, cgroup: &Cgroup, formula: &mut Formula) -> Result<u8> {
    // A cgroup namespace as well: there is a group for it to begin at.
    let view = &options.view.clone().with_cgroup();
    let hostname = view.hostname.as_deref().unwrap_or(STEP);

    // Child, once released: its own view.
    let enter = || {
        namespaces::keep_mounts_private(view)?; // before any mount
        namespaces::set_hostname(view, hostname)?;
        namespaces::set_loopback_up(view)?;
        namespaces::unshare_cgroup(view)?;
        namespaces::mount_proc(view)
    };
    // Child, once started: its last act.
    let program = || process::exec(&options.command, &Environment::inherited());

    // Host, and the child held: root inside, and inside its limits before it mounts or runs anything.
    let held = namespaces::clone(view, enter, program)?;
    namespaces::map_ids(held.pid(), view)?;
    cgroup.admit(held.pid())?;
    let ready = held.release()?;

    // Host, and the child ready: a term is true if the kernel confirms it.
    formula.light(Term::Cgroup, &cgroup.facts(ready.pid())?)?;
    formula.light(Term::Namespace, &namespaces::facts(ready.pid(), view)?)?;
    formula.print();

    ready.start()?.wait()
}
