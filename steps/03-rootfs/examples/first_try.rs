//! What anyone would write first: chroot. `step03_first_try ROOTFS COMMAND [ARG…]`.
//!
//! chroot(2) changes where paths begin, and nothing else: the host's mounts are all still there, and root inside
//! finds the way back. See the example `chroot_breakout`.

use std::ffi::OsString;

use clap::Parser;
use namespaces::View;
use process::Environment;
use shared::{call, explain};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    view: View,
    rootfs: String,
    #[arg(trailing_var_arg = true)]
    command: Vec<OsString>,
}

fn main() -> anyhow::Result<()> {
    let Options { view, rootfs, command } = Options::parse();
    let enter = || {
        namespaces::keep_mounts_private(&view)?;
        explain::child(call!("chroot({rootfs:?})")).run(|| nix::unistd::chroot(rootfs.as_str()))?;
        explain::child(call!("chdir(\"/\")")).run(|| nix::unistd::chdir("/"))
    };
    let held = namespaces::clone(&view, enter, || process::exec(&command, &Environment::inherited()))?;
    namespaces::map_ids(held.pid(), &view)?;
    shared::signals::hold()?; // else the wait below would not sleep
    std::process::exit(held.release()?.start()?.wait()?.into())
}
