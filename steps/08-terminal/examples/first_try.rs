//! What anyone would write first: a cable, its end inside made ready on the host, where one knows how, and then moved in.
//! `step06_first_try COMMAND [ARG…]`, as root.
//!
//! The interface is there, and nobody answers: an interface that is moved into another network namespace loses its
//! addresses and routes, and is set down. Compare `src/lib.rs`, where it is born inside.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    ensure!(!words.is_empty(), "usage: step06_first_try COMMAND [ARG…]");
    // A network namespace, for as long as something runs in it.
    let mut inside = Command::new("unshare");
    inside.args(["--net", "sh", "-c", "echo ready; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut inside = inside.spawn()?;
    BufReader::new(inside.stdout.take().context("piped")?).read_line(&mut String::new())?;
    let pid = inside.id().to_string();
    ip("link add first-out type veth peer name first-in")?;
    ip("address add 10.66.0.1/24 dev first-out")?;
    ip("link set first-out up")?;
    ip("address add 10.66.0.2/24 dev first-in")?;
    ip("link set first-in up")?;
    ip(&format!("link set first-in netns {pid}"))?;
    let status = Command::new("nsenter").args(["--net", "--target", &pid]).args(&words).status()?;
    ip("link delete first-out")?;
    inside.kill()?;
    inside.wait()?;
    std::process::exit(status.code().unwrap_or(1));
}

fn ip(words: &str) -> Result<()> {
    ensure!(Command::new("ip").args(words.split(' ')).status()?.success(), "ip {words} has failed");
    Ok(())
}
