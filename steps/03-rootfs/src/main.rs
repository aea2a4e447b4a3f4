//! Step 03: where does the child stand?
//!
//! The formula so far: cgroup + namespaces + rootfs.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use cgroups::{Cgroup, Limits};
use namespaces::View;
use rootfs::Root;
use shared::explain::{self, Narration};
use shared::formula::{Formula, Term};

const STEP: &str = "step03";

/// Runs a command in namespaces, a cgroup and a root of its own
#[derive(clap::Parser, Debug)]
#[command(name = STEP, version)]
struct Options {
    #[command(flatten)]
    narration: Narration,
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    root: Root,
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
    let mut formula = Formula::default();
    cgroups::ask_for_scope(STEP, &options.limits)?;
    rootfs::validate(&options.view)?;
    let dir = options.root.prepare()?;

    // Host, and no child yet: what will outlive the child.
    let cgroup = Cgroup::new(STEP, &options.limits)?;
    // Without the right to make groups there are no limits; but if none was asked for, the rest can still be had.
    let made = cgroup.create_or_go_without(&mut formula);
    let code = made.and_then(|()| contain(options, &dir, &cgroup, &mut formula));

    // Host, and the child gone: also after a failure above.
    cgroup.print_counters();
    explain::with_cleanup(code, cgroup.remove())
}

fn contain(options: &Options, dir: &Path, cgroup: &Cgroup, formula: &mut Formula) -> Result<u8> {
    // A cgroup namespace as well: there is a group for it to begin at.
    let view = &options.view.clone().with_cgroup();
    let hostname = view.hostname.as_deref().unwrap_or(STEP);

    // Child, once released: its own view.
    let enter = || {
        namespaces::keep_mounts_private(view)?; // before any mount
        namespaces::set_hostname(view, hostname)?;
        namespaces::set_loopback_up(view)?;
        namespaces::unshare_cgroup(view)?;
        rootfs::enter(&options.root, dir, view)
    };
    // Child, once started: its last act.
    let program = || rootfs::exec(&options.root, dir, &options.command, hostname);

    // Host, and the child held: root inside, and inside its limits before it mounts or runs anything.
    let held = namespaces::clone(view, enter, program)?;
    namespaces::map_ids(held.pid(), view)?;
    cgroup.admit(held.pid())?;
    let ready = held.release()?;

    // Host, and the child ready: a term is true if the kernel confirms it.
    formula.light(Term::Cgroup, &cgroup.facts(ready.pid())?)?;
    formula.light(Term::Namespace, &namespaces::facts(ready.pid(), view)?)?;
    formula.light(Term::Rootfs, &rootfs::facts(ready.pid(), dir)?)?;
    formula.print();

    ready.start()?.wait()
}
