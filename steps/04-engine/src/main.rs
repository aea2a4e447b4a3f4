//! Step 04: who looks after it?
//!
//! The formula is whole: cgroup + namespaces + rootfs + engine. New against step 03: every command but `run`.

mod commands;
mod tables;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use engine::join::Guest;
use engine::log::Show;
use engine::parts::Recipe;
use engine::protect;
use engine::states::Verb;
use engine::store::name;
use nix::sys::signal::Signal;
use shared::explain::{self, Narration};
use shared::signals;

/// Runs containers, and looks after them
#[derive(Parser, Debug)]
#[command(name = "step04", version, disable_help_subcommand = true)]
// Options may stand before the subcommand or behind it.
#[command(mut_args(|arg| if arg.is_positional() { arg } else { arg.global(true) }))]
struct Options {
    #[command(flatten)]
    narration: Narration,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Creates a container and starts it; in the foreground until it ends
    Run {
        /// In the background: print its id, and keep what it writes in a log
        #[arg(short, long)]
        detach: bool,
        #[command(flatten)]
        new: New,
    },
    /// Creates a container, up to the moment before its program begins
    Create {
        #[command(flatten)]
        new: New,
    },
    /// Starts created or stopped containers
    Start {
        /// Show what it writes until it ends, and end with its exit code
        #[arg(short, long)]
        attach: bool,
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Lists containers; with -q only their ids
    Ps {
        /// Those that do not run, too
        #[arg(short, long)]
        all: bool,
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
        guest: Guest,
    },
    /// Freezes all processes of running containers
    Pause {
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Lets paused containers go on
    Unpause {
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Asks containers to end (SIGTERM), and after a while ends them (SIGKILL to every process)
    Stop {
        /// Seconds between the two
        #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
        time: u32,
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Sends a signal to the first process of containers
    Kill {
        /// Which: KILL, SIGTERM, 15
        #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
        signal: Signal,
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Waits until containers have ended, and prints their exit codes
    Wait {
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Tells everything that is known of containers, as JSON
    Inspect {
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Removes containers that do not run
    Rm {
        /// Those that run, too: they are killed first
        #[arg(short, long)]
        force: bool,
        /// By name, by id, or by the beginning of an id
        #[arg(required = true, value_parser = name)]
        containers: Vec<String>,
    },
    /// Takes away what is left of dead containers, and of engines and steps that were killed
    Clean {
        /// And every container that does not run: created and stopped ones
        #[arg(short, long)]
        all: bool,
    },
}

/// A container to be made.
#[derive(clap::Args, Debug)]
struct New {
    /// What it is called
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Remove it when it has ended
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    recipe: Recipe,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Format {
    Table,
    Json,
}

fn main() -> ExitCode {
    match explain::parse::<Options>() {
        Ok(options) => explain::run(&options.narration, engine::known(), || run(options.command)),
        Err(code) => code,
    }
}

fn run(command: Command) -> anyhow::Result<u8> {
    match &command {
        Command::Run { new, .. } | Command::Create { new } => cgroups::ask_for_scope("step04", &new.recipe.limits)?,
        // An ordinary user may move a process only between groups that are both below the user's manager.
        Command::Exec { .. } => cgroups::ask_for_scope("step04", &cgroups::Limits::default())?,
        _ => {}
    }
    match command {
        // These put this program's own process into a container, or beside one for long. `start` may (see there).
        Command::Run { .. } | Command::Create { .. } | Command::Exec { .. } => {
            protect::against_writers()?;
        }
        // These only print.
        Command::Ps { .. } | Command::Logs { .. } | Command::Wait { .. } | Command::Inspect { .. } => {
            signals::end_with_pipe()?;
        }
        _ => {}
    }
    match command {
        Command::Run { detach: false, new } => commands::run(new),
        Command::Run { detach: true, new } => commands::run_detached(new),
        Command::Create { new } => commands::create(new),
        Command::Start { attach, containers } => commands::start(&containers, attach),
        Command::Ps { all, format } => commands::ps(all, format),
        Command::Logs { show, container } => commands::logs(&container, show),
        Command::Exec { container, guest } => commands::exec(&container, &guest),
        Command::Pause { containers } => commands::pause(&containers),
        Command::Unpause { containers } => commands::unpause(&containers),
        Command::Stop { time, containers } => commands::stop(&containers, time),
        Command::Kill { signal, containers } => commands::kill(&containers, signal),
        Command::Wait { containers } => commands::wait(&containers),
        Command::Inspect { containers } => commands::inspect(&containers),
        Command::Rm { force, containers } => commands::rm(&containers, if force { Verb::RmForce } else { Verb::Rm }),
        Command::Clean { all } => commands::clean(all),
    }
}

/// As kill(1) takes it: with or without `SIG`, or its number.
fn signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let by_number = text.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    by_number
        .or_else(|| name.parse().ok())
        .ok_or_else(|| "no signal has this name or number; `kill -l` lists them".to_owned())
}
