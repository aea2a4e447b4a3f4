//! Step 00: what does the kernel know of a process?
//!
//! The formula so far: nothing of it. A child is made, looked at beside its parent, and waited for.

mod gate;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::unistd::Pid;
use process::{Environment, check::Report, look::Look};
use shared::explain::{self, Narration};
use shared::failure::During;
use shared::formula::Formula;

const USAGE: &str = "step00 [OPTIONS] [COMMAND [ARG]...]
       step00 [OPTIONS] look PID [PID]
       step00 [OPTIONS] check [--json]
       step00 [OPTIONS] -- look    (a program of that name)";

/// Runs a command as any shell does, and shows what the kernel knows of it
#[derive(Parser, Debug)]
#[command(name = "step00", version, override_usage = USAGE, disable_help_subcommand = true)]
#[command(subcommand_help_heading = "Instead of a command")]
// Options may stand before the subcommand or behind it.
#[command(mut_args(|arg| if arg.is_positional() { arg } else { arg.global(true) }))]
struct Options {
    #[command(flatten)]
    narration: Narration,
    #[command(subcommand)]
    instead: Option<Instead>,
    /// The program and its arguments [default: /bin/bash, or /bin/sh where there is none]
    #[arg(trailing_var_arg = true, help_heading = "Arguments")]
    command: Vec<OsString>,
}

#[derive(Subcommand, Debug)]
enum Instead {
    /// Shows any process as the formula sees it, or two of them side by side
    Look {
        /// The process: its pid, or `self`
        #[arg(value_parser = pid)]
        pid: Pid,
        /// Another one, to compare
        #[arg(value_parser = pid, value_name = "PID")]
        other: Option<Pid>,
    },
    /// Tries out what this machine allows. Exit code 0 if steps 01 to 09 can run here
    Check {
        /// Print it as one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match explain::parse::<Options>() {
        Ok(options) => {
            explain::run(&options.narration, [process::known(), process::remedies::of_tried_calls()].concat(), || {
                match options.instead {
                    None => run(&options.command),
                    Some(Instead::Look { pid, other }) => look(pid, other),
                    Some(Instead::Check { json }) => check(json),
                }
            })
        }
        Err(code) => code,
    }
}

fn run(command: &[OsString]) -> Result<u8> {
    let host = Pid::this();
    // Child: stops at the gate, and once the gate is open becomes the program.
    let child = || {
        process::start_clean()?;
        gate::stop(host)?;
        process::exec(command, &Environment::inherited())
    };

    let pid = process::fork(child)?;
    explain::child_is(pid);
    let code = if explain::dry_run() {
        // Printed here, as no child was born that could.
        process::start_clean()?;
        gate::stop(host)?;
        gate::open(pid)?;
        process::exec(command, &Environment::inherited())?;
        0
    } else {
        // Host: also after a failure, no child is left behind.
        accompany(host, pid).inspect_err(|_| gate::end(pid))?
    };
    Formula::default().print();
    Ok(code)
}

/// Host: looks at the child while it is held, lets it go on, and waits for its end.
fn accompany(host: Pid, child: Pid) -> Result<u8> {
    gate::wait_until_stopped(child)?;
    if !explain::quiet() {
        show(host, child);
    }
    gate::open(child)?;
    let code = process::wait(child)?;
    explain::note(format_args!("waited for {child}: exit code {code}"));
    Ok(code)
}

/// Host: what cannot be looked at runs all the same.
fn show(host: Pid, child: Pid) {
    let table = if explain::verbose() { Look::beside } else { Look::differences };
    match Look::at(host).and_then(|host| Ok(table(&host.titled("host"), &Look::at(child)?.titled("child")))) {
        Ok(both) => explain::line(format_args!("{}", both.trim_end())),
        Err(error) => explain::note(format_args!("{error:#}")),
    }
}

fn look(pid: Pid, other: Option<Pid>) -> Result<u8> {
    let look = Look::at(pid)?;
    match other {
        Some(other) => print(&look.beside(&Look::at(other)?))?,
        None => print(&look.alone(&Look::at(Pid::this())?))?,
    }
    Ok(0)
}

fn check(json: bool) -> Result<u8> {
    if explain::dry_run() {
        explain::note("each namespace, mount and cgroup that the steps need would be made, and removed at once");
        return Ok(0);
    }
    let report = Report::make()?;
    print(&if json { report.json() } else { report.table() })?;
    Ok(if report.steps_can_run() { 0 } else { 1 })
}

/// To standard output, as the answer that was asked for. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).during("cannot write the answer"),
        _ => Ok(()),
    }
}

fn pid(word: &str) -> Result<Pid, String> {
    match word.parse() {
        _ if word == "self" => Ok(Pid::this()),
        Ok(number) if number > 0 => Ok(Pid::from_raw(number)),
        _ => Err("a process id is a number greater than 0".to_owned()),
    }
}
