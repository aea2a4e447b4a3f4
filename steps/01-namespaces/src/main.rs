//! Step 01: what does the child see?
//!
//! The formula so far: namespaces.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use namespaces::View;
use process::Environment;
use shared::explain::{self, Narration};
use shared::formula::{Formula, Term};

const STEP: &str = "step01";

/// Runs a command in namespaces of its own
#[derive(clap::Parser, Debug)]
#[command(name = STEP, version)]
struct Options {
    #[command(flatten)]
    narration: Narration,
    #[command(flatten)]
    view: View,
    /// The program and its arguments [default: /bin/bash, or /bin/sh where there is none]
    #[arg(trailing_var_arg = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    match explain::parse::<Options>() {
        Ok(options) => explain::run(&options.narration, namespaces::known(), || run(&options)),
        Err(code) => code,
    }
}

fn run(options: &Options) -> Result<u8> {
    options.view.validate()?;
    let mut formula = Formula::default();

    contain(options, &mut formula)
}

fn contain(options: &Options, formula: &mut Formula) -> Result<u8> {
    let view = &options.view;
    let hostname = view.hostname.as_deref().unwrap_or(STEP);

    // Child, once released: its own view.
    let enter = || {
        namespaces::keep_mounts_private(view)?; // before any mount
        namespaces::set_hostname(view, hostname)?;
        namespaces::set_loopback_up(view)?;
        namespaces::unshare_cgroup(view)?; // by default from step 02 on
        namespaces::mount_proc(view)
    };
    // Child, once started: its last act.
    let program = || process::exec(&options.command, &Environment::inherited());

    // Host, and the child held: root inside, before it mounts or runs anything.
    let held = namespaces::clone(view, enter, program)?;
    namespaces::map_ids(held.pid(), view)?;
    let ready = held.release()?;

    // Host, and the child ready: a term is true if the kernel confirms it.
    formula.light(Term::Namespace, &namespaces::facts(ready.pid(), view)?)?;
    formula.print();

    ready.start()?.wait()
}
