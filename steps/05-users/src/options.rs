//! The options of this step: which ids there are, and whose the program is.

use std::ffi::OsString;

use anyhow::{Result, ensure};
use namespaces::{Namespace, View};
use serde::{Deserialize, Serialize};

use crate::lookup::{self, Who};
use crate::mapped;
use crate::ranges::{self, Range};

/// Who the child believes to be.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "Who the child believes to be (step 05)")]
pub struct Users {
    /// The user that its program is: a name from its own /etc/passwd and /etc/group, or a number [default: root]
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = lookup::who)]
    pub(crate) user: Option<Who>,
    /// N user ids inside from C on, which are those of the host's from H on [default: 0:100000:65536 or root's line in /etc/subuid; for an ordinary user the own id and those of /etc/subuid]
    #[arg(long, value_name = "C:H:N", value_parser = ranges::range)]
    pub(crate) uidmap: Vec<Range>,
    /// The same for group ids [default: as --uidmap]
    #[arg(long, value_name = "C:H:N", value_parser = ranges::range)]
    pub(crate) gidmap: Vec<Range>,
}

/// The option that this step adds to `exec`.
#[derive(clap::Args, Clone, Debug)]
pub struct GuestUser {
    /// The user that it is: a name from the container's own /etc/passwd and /etc/group, or a number [default: the container's]
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = lookup::who)]
    pub(crate) user: Option<Who>,
}

/// The command that this step adds.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Runs a command of the host's with the ids of a container: to remove what belongs to them
    Unshare {
        /// The program and its arguments [default: /bin/bash, or /bin/sh where there is none]
        #[arg(trailing_var_arg = true)]
        command: Vec<OsString>,
    },
}

impl Command {
    /// Does it. Its exit code.
    ///
    /// # Errors
    /// Those of [`mapped::run`].
    pub fn run(self) -> Result<u8> {
        let Command::Unshare { command } = self;
        mapped::run(&command)
    }
}

impl Users {
    /// Options that contradict each other, in one sentence.
    ///
    /// # Errors
    /// A map without a user namespace, or one that the kernel would refuse.
    pub fn validate(&self, view: &View) -> Result<()> {
        ensure!(
            view.has(Namespace::User) || !self.is_mapped(),
            "a map of ids needs a user namespace: add `user` to --namespaces"
        );
        ranges::validate("--uidmap", &self.uidmap)?;
        ranges::validate("--gidmap", &self.gidmap)
    }

    /// Whether it names the ids.
    pub fn is_mapped(&self) -> bool {
        !self.uidmap.is_empty() || !self.gidmap.is_empty()
    }
}
