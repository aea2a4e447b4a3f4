//! What anyone would write first: make a group that allows 20 processes, start the command, put it in.
//! `step02_first_try COMMAND [ARG…]`.
//!
//! It is a race: what the command has forked before its pid is written stays outside, without a limit.

use std::process::Command;

use cgroups::{Cgroup, Limits};
use nix::unistd::Pid;

fn main() -> anyhow::Result<()> {
    let mut words: Vec<_> = std::env::args().skip(1).collect();
    if words.is_empty() {
        words.push("sh".to_owned());
    }
    let limits = Limits { pids_limit: Some(20), ..Limits::default() };

    let cgroup = Cgroup::new("step02", &limits)?;
    cgroup.create()?;
    let mut child = Command::new(&words[0]).args(&words[1..]).spawn()?; // it runs from here on
    cgroup.admit(Pid::from_raw(child.id() as i32))?;

    child.wait()?;
    cgroup.remove()
}
