//! The command line of every step from 04 on: the engine's commands, around the options of a [`Recipe`].

use std::process::ExitCode;

use cgroups::Limits;
use clap::{Parser, Subcommand};
use nix::sys::signal::Signal;
use serde::Serialize;
use shared::explain::{self, Narration};
use shared::failure::During;

use crate::join::Guest;
use crate::show::Show;
use crate::states::Verb;
use crate::store::name;
use crate::{Recipe, commands, protect};

/// Runs containers, and looks after them
#[derive(Parser)]
#[command(name = R::STEP, version, disable_help_subcommand = true)]
// Options may stand before the subcommand or behind it.
#[command(mut_args(|arg| if arg.is_positional() { arg } else { arg.global(true) }))]
struct Options<R: Recipe> {
    #[command(flatten)]
    narration: Narration,
    #[command(subcommand)]
    command: Command<R>,
}

#[derive(Subcommand)]
enum Command<R: Recipe> {
    /// Creates a container and starts it; in the foreground until it ends
    Run {
        /// In the background: print its id, and keep what it writes in a log
        #[arg(short, long)]
        detach: bool,
        #[command(flatten)]
        new: New<R>,
    },
    /// Creates a container, up to the moment before its program begins
    Create {
        #[command(flatten)]
        new: New<R>,
    },
    /// Starts created or stopped containers
    Start {
        /// Show what it writes until it ends, and end with its exit code
        #[arg(short, long)]
        attach: bool,
        /// And send it what is typed, where it has a terminal of its own (step 08)
        #[arg(short, long, requires = "attach")]
        interactive: bool,
        #[command(flatten)]
        containers: Containers,
    },
    /// Lists containers; with -q only their ids
    Ps {
        /// Those that do not run, too
        #[arg(short, long)]
        all: bool,
        /// And how much of the disk is theirs
        #[arg(short, long)]
        size: bool,
        /// A table to read, or a JSON object for each container
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Shows what a detached container has written
    Logs {
        #[command(flatten)]
        show: Show,
        /// By name, by id, or by the beginning of an id
        #[arg(value_parser = name)]
        container: String,
    },
    /// Runs one more program in a running container
    Exec {
        /// By name, by id, or by the beginning of an id
        #[arg(value_parser = name)]
        container: String,
        #[command(flatten)]
        options: R::Guest,
        #[command(flatten)]
        guest: Guest,
    },
    /// Freezes all processes of running containers
    Pause(Containers),
    /// Lets paused containers go on
    Unpause(Containers),
    /// Asks containers to end (SIGTERM), and after a while ends them (SIGKILL to every process)
    Stop {
        /// Seconds between the two
        #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
        time: u32,
        #[command(flatten)]
        containers: Containers,
    },
    /// Sends a signal to the first process of containers
    Kill {
        /// Which: KILL, SIGTERM, 15, RTMIN+3
        #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
        signal: i32,
        #[command(flatten)]
        containers: Containers,
    },
    /// Waits until containers have ended, and prints their exit codes
    Wait(Containers),
    /// Prints everything that is known of containers, as JSON
    Inspect(Containers),
    /// Removes containers that do not run
    Rm {
        /// Those that run, too: they are killed first
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        containers: Containers,
    },
    /// Removes what is left of dead containers, and of engines and steps that were killed
    Clean {
        /// And every container that does not run: created and stopped ones
        #[arg(short, long)]
        all: bool,
    },
    #[command(flatten)]
    More(R::Command),
}

/// Containers, as all commands but those that make one take them.
#[derive(clap::Args)]
struct Containers {
    /// By name, by id, or by the beginning of an id
    #[arg(value_name = "CONTAINERS", required = true, value_parser = name)]
    words: Vec<String>,
}

/// A container to be made.
#[derive(clap::Args)]
pub(crate) struct New<R: Recipe> {
    /// What it is called
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Remove it when it has ended
    #[arg(long)]
    pub rm: bool,
    #[command(flatten)]
    pub recipe: R,
    /// The program and its arguments [default: /bin/bash, or /bin/sh where there is none]
    #[arg(trailing_var_arg = true)]
    pub command: Vec<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Format {
    Table,
    Json,
}

/// For a step that adds no command.
#[derive(Subcommand, Clone, Copy, Debug)]
pub enum NoCommand {}

/// For a step that adds no option to `exec`.
#[derive(clap::Args, Clone, Copy, Debug, Serialize)]
pub struct NoOption {}

/// The `main` of a step. The file that calls it says which step this is.
#[track_caller]
pub fn main<R: Recipe>() -> ExitCode {
    match explain::parse_from::<Options<R>>(protect::arguments()) {
        Ok(options) => explain::run(&options.narration, R::known(), || run(options.command)),
        Err(code) => code,
    }
}

fn run<R: Recipe>(command: Command<R>) -> anyhow::Result<u8> {
    match &command {
        // These put this program's own process into a container, or beside one for long. `start` may (see there).
        Command::Run { new, .. } => protect::begin_again::<R>("run", new.recipe.limits())?,
        Command::Create { new } => protect::begin_again::<R>("create", new.recipe.limits())?,
        Command::Exec { .. } => protect::begin_again::<R>("exec", &Limits::default())?,
        // These only print: there is nothing to clean up, and where nobody reads, a signal would be waited for in vain.
        Command::Logs { .. } | Command::Wait(_) => {
            process::reset_signals().during("cannot reset the signals")?;
        }
        _ => {}
    }
    match command {
        Command::Run { detach: false, new } => commands::run(new),
        Command::Run { detach: true, new } => commands::run_detached(new),
        Command::Create { new } => commands::create(new),
        Command::Start { attach, interactive, containers } => {
            commands::start::<R>(&containers.words, attach, interactive)
        }
        Command::Ps { all, size, format } => commands::ps::<R>(all, size, format),
        Command::Logs { show, container } => commands::logs::<R>(&container, show),
        Command::Exec { container, options, guest } => commands::exec::<R>(&container, &guest, &options),
        Command::Pause(containers) => commands::pause::<R>(&containers.words),
        Command::Unpause(containers) => commands::unpause::<R>(&containers.words),
        Command::Stop { time, containers } => commands::stop::<R>(&containers.words, time),
        Command::Kill { signal, containers } => commands::kill::<R>(&containers.words, signal),
        Command::Wait(containers) => commands::wait::<R>(&containers.words),
        Command::Inspect(containers) => commands::inspect::<R>(&containers.words),
        Command::Rm { force, containers } => {
            commands::rm::<R>(&containers.words, if force { Verb::RmForce } else { Verb::Rm })
        }
        Command::Clean { all } => commands::clean::<R>(all),
        Command::More(command) => R::run(command),
    }
}

/// As kill(1) takes it: with or without `SIG`, or its number. Real-time signals are named by the first or the last:
/// signal(7).
fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_uppercase();
    let word = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let names = |number: i32| match Signal::try_from(number) {
        Ok(signal) => vec![number.to_string(), signal.as_str().replacen("SIG", "", 1)],
        Err(_) => vec![number.to_string(), format!("RTMIN+{}", number - first), format!("RTMAX-{}", last - number)],
    };
    let word = match word {
        "RTMIN" => "RTMIN+0",
        "RTMAX" => "RTMAX-0",
        word => word,
    };
    (1..=last)
        .filter(|number| Signal::try_from(*number).is_ok() || *number >= first)
        .find(|number| names(*number).iter().any(|name| name == word))
        .ok_or_else(|| "no signal has this name or number; `kill -l` lists them".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal(text), Ok(15), "{text}");
        }
        assert_eq!(signal("RTMIN+1"), Ok(libc::SIGRTMIN() + 1));
        assert_eq!(signal("SIGRTMAX-1"), Ok(libc::SIGRTMAX() - 1));
        for text in ["", "0", "-9", "65", "33", "RTMAX+1", "RTMIN-1", "RTMIN+99", "NONE"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
