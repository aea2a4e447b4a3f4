//! The options of this step: what the root is made of.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use engine::Recipe;
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::failure::During;

use crate::parts::{self, LayeredRoot};

/// The kernel takes no more in one overlay: `OVL_MAX_STACK` in fs/overlayfs/params.h.
const MOST: usize = 500;

/// What the child writes on.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "What the child writes on (step 07)")]
pub struct Layering {
    /// A directory that lies on the root, or in its place; the lowest first, as `commit` makes them. None is written to
    #[arg(long, value_name = "DIR")]
    layer: Vec<PathBuf>,
    /// Let it write into the root itself, as step 06 does
    #[arg(long, conflicts_with = "layer")]
    no_overlay: bool,
}

/// The commands that this step adds.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Those of the step before.
    #[command(flatten)]
    Network(network::Command),
    /// Lists what a container has added (A), changed (C) and deleted (D) in its root
    Diff {
        /// By name, by id, or by the beginning of an id
        #[arg(value_parser = engine::store::name)]
        container: String,
    },
    /// Makes a layer of what a container has written: a directory for `--layer`, or an archive
    Commit {
        /// By name, by id, or by the beginning of an id
        #[arg(value_parser = engine::store::name)]
        container: String,
        /// Where: not there yet, and an archive if it ends so
        #[arg(value_name = "DIR|FILE.tar")]
        to: PathBuf,
    },
}

impl Command {
    /// Does it, where this is a container's root. Its exit code.
    ///
    /// # Errors
    /// Those of [`parts::print_changes`], of [`parts::commit`], and of the steps before.
    pub fn run<R: Recipe>(self, root: impl Fn(&R::Plan) -> &LayeredRoot) -> Result<u8> {
        match self {
            Command::Network(command) => command.run::<R>(),
            Command::Diff { container } => parts::print_changes::<R>(&container, root),
            Command::Commit { container, to } => parts::commit::<R>(&container, &to, root),
        }
    }
}

impl Layering {
    /// Paths that mean the same wherever they are read again; and the root, which is the lowest layer where none is given.
    ///
    /// # Errors
    /// A layer that is no directory, or more of them than the kernel takes.
    pub fn settle(mut self, root: Root) -> Result<(Self, Root)> {
        for layer in &mut self.layer {
            let shown = layer.display().to_string();
            *layer = layer.canonicalize().during(format_args!("layers: no such layer {shown}"))?;
            ensure!(layer.is_dir(), "layers: {shown} is a file: a layer is a directory (unpack an archive first)");
        }
        let root = if root.has_dir() || self.layer.is_empty() { root } else { root.with_dir(self.layer.remove(0)) };
        ensure!(self.layer.len() < MOST, "layers: the kernel takes {MOST} at most, the root among them");
        Ok((self, root))
    }

    /// What lies on the root, the lowest first; `None` where the root itself is written to.
    pub(crate) fn on_the_root(&self) -> Option<&[PathBuf]> {
        (!self.no_overlay).then_some(&self.layer)
    }
}
