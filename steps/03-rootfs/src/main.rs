//! Step 03: where does the child stand?
//!
//! The formula so far: cgroup + namespaces + rootfs. New against step 02: the rootfs.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cgroups::{Cgroup, Limits};
use namespaces::View;
use rootfs::Root;
use shared::explain::{self, Narration};
use shared::formula::{Formula, Term};

/// Runs a command in namespaces, a cgroup and a root of its own
#[derive(clap::Parser, Debug)]
#[command(name = "step03", version)]
struct Options {
    #[command(flatten)]
    narration: Narration,
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    root: Root, // new in this step
    /// The program and its arguments [default: /bin/bash, or /bin/sh where there is none]
    #[arg(trailing_var_arg = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    match explain::parse::<Options>() {
        Ok(options) => explain::run(&options.narration, rootfs::known(), || run(&options)),
        Err(code) => code,
    }
}

fn run(options: &Options) -> Result<u8> {
    options.view.validate()?;
    rootfs::validate(&options.view)?; // new in this step
    let dir = options.root.prepare()?; // new in this step
    let mut formula = Formula::default();

    // Host, and no child yet: what will outlive the child. New in this step: where no limit was asked for, a user who
    // may make no cgroups gets the rest.
    cgroups::ask_for_scope("step03", &options.limits)?;
    let cgroup = Cgroup::new("step03", &options.limits)?;
    let status = cgroup.create_or_go_without(&mut formula).and_then(|()| contain(options, &dir, &cgroup, formula));

    // Host, and the child gone: also after a failure above.
    cgroup.print_counters();
    explain::with_cleanup(status, cgroup.remove())
}

fn contain(options: &Options, dir: &Path, cgroup: &Cgroup, mut formula: Formula) -> Result<u8> {
    let view = &options.view.clone().with_cgroup();
    let hostname = view.hostname.as_deref().unwrap_or("step03"); // new in this step: the environment has it too

    // Child, once released: its own view.
    let enter = || {
        namespaces::keep_mounts_private(view)?; // before any mount
        namespaces::set_hostname(view, hostname)?;
        namespaces::set_loopback_up(view)?;
        namespaces::unshare_cgroup(view)?;
        rootfs::enter(&options.root, dir, view) // new in this step: `/proc` too is made in there
    };
    // Child, once started: its last act, found and run inside.
    let program = || {
        process::exec(&options.command, &options.root.environment(hostname))
            .with_context(|| format!("in the root {}", dir.display()))
    };

    // Host, and the child held: root inside, and inside its limits before it mounts or runs anything.
    let held = namespaces::clone(view, enter, program)?;
    namespaces::map_ids(held.pid(), view)?;
    cgroup.admit(held.pid())?;
    let ready = held.release()?;

    // Host, and the child ready: a term is true if the kernel confirms it.
    formula.light(Term::Cgroup, &cgroup.facts(ready.pid())?)?;
    formula.light(Term::Namespace, &namespaces::facts(ready.pid(), view)?)?;
    formula.light(Term::Rootfs, &rootfs::facts(ready.pid(), dir)?)?; // new in this step
    formula.print();

    ready.start()?.wait()
}
