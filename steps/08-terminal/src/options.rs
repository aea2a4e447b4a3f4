//! The options of this step: how one talks to the child.

use anyhow::{Result, ensure};
use engine::attach::Talk;
use engine::store::name;
use engine::{Recipe, Streams};
use layers::parts::LayeredRoot;
use serde::{Deserialize, Serialize};
use users::GuestUser;

use crate::keys::Keys;
use crate::talk::{self, talker};

/// How one talks to the child.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "How one talks to the child (step 08)")]
pub struct Talking {
    /// Give its program what this command reads: with -t, the keys that are typed
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal of its own
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Have an init as its first process, which reaps and passes signals on
    #[arg(long)]
    pub(crate) init: bool,
    /// The keys that detach from its terminal: single characters, and ctrl- with one
    #[arg(long, value_name = "KEY,…", default_value_t)]
    pub(crate) detach_keys: Keys,
}

/// The options that this step adds to `exec`.
#[derive(clap::Args, Clone, Debug)]
pub struct GuestTalking {
    /// Give it what this command reads: with -t, the keys that are typed
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal of its own
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The keys that detach from its terminal: it goes on, and cannot be attached to again
    #[arg(long, value_name = "KEY,…", default_value_t)]
    pub(crate) detach_keys: Keys,
}

/// The options of `exec`, those of the steps before among them.
#[derive(clap::Args)]
#[allow(missing_docs)]
pub struct GuestOptions {
    #[command(flatten)]
    pub user: GuestUser,
    #[command(flatten)]
    pub talking: GuestTalking,
}

/// The commands that this step adds, and those of the steps before.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Shows what a container's terminal shows, and types there
    Attach {
        /// The keys that detach [default: those of its creation]
        #[arg(long, value_name = "KEY,…")]
        detach_keys: Option<Keys>,
        /// By name, by id, or by the beginning of an id
        #[arg(value_parser = name)]
        container: String,
    },
    /// Those of the steps before.
    #[command(flatten)]
    Earlier(layers::Command),
}

impl Command {
    /// Does it, where these are a container's options of this step, and this is its root. Its exit code.
    ///
    /// # Errors
    /// Those of [`attach`](engine::attach::attach), and of the steps before.
    pub fn run<R: Recipe>(
        self,
        talking: impl FnOnce(R) -> Talking,
        root: impl Fn(&R::Plan) -> &LayeredRoot,
    ) -> Result<u8> {
        match self {
            Command::Attach { detach_keys, container } => {
                talk::run(&container, |options| talking(options).with_keys(detach_keys).talk(true))
            }
            Command::Earlier(command) => command.run::<R>(root),
        }
    }
}

impl Talking {
    /// Where the program's streams lead.
    pub fn streams(&self) -> Streams {
        if self.tty { Streams::Own } else { Streams::Callers }
    }

    /// The same, and these keys detach, if any were given.
    pub fn with_keys(self, keys: Option<Keys>) -> Self {
        Talking { detach_keys: keys.unwrap_or(self.detach_keys), ..self }
    }

    /// The caller's side of its terminal.
    ///
    /// # Errors
    /// Where it has none; where something is to be sent, and the caller has none to type on.
    pub fn talk(&self, sends: bool) -> Result<Box<dyn Talk>> {
        ensure!(self.tty, "it has no terminal to type on: it was created without -t");
        talker(sends && self.interactive, &self.detach_keys)
    }
}
