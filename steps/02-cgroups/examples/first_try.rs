//! What anyone would write first: start the command, then put it into a group that allows 20 processes.
//! `step02_first_try COMMAND [ARG…]`.
//!
//! It is a race, and the command wins it: what it has forked before its pid is written stays outside, without a limit.

use std::process::Command;

use cgroups::{Cgroup, Limits};
use nix::unistd::Pid;

fn main() -> anyhow::Result<()> {
    let mut words: Vec<_> = std::env::args().skip(1).collect();
    if words.is_empty() {
        words.push("sh".to_owned());
    }
    let limits = Limits { pids_limit: Some(20), ..Limits::default() };

    let mut child = Command::new(&words[0]).args(&words[1..]).spawn()?; // it runs from here on
    let cgroup = Cgroup::new("step02", &limits)?;
    cgroup.create()?;
    cgroup.admit(Pid::from_raw(child.id() as i32))?;

    child.wait()?;
    cgroup.remove()
}
