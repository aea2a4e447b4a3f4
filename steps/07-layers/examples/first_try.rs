//! What anyone would write first: a copy of the root for each container. `step07_first_try ROOT COMMAND [ARG…]`.
//!
//! It works, and costs the whole root each time, in time and on the disk, however little the container writes. Compare
//! `src/lib.rs`, where it costs one mount(2).

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [root, command @ ..] = &words[..] else { anyhow::bail!("usage: step07_first_try ROOT COMMAND [ARG…]") };
    let copy = format!("/tmp/copy-{}", std::process::id());
    let begun = Instant::now();
    ensure!(Command::new("cp").args(["-a", root, &copy]).status()?.success(), "cp has failed");
    let size = Command::new("du").args(["-sh", &copy]).output()?.stdout;
    let size = String::from_utf8_lossy(&size);
    println!("copied {} in {} ms", size.split('\t').next().context("a size")?, begun.elapsed().as_millis());
    let step = std::env::current_exe()?.ancestors().nth(2).context("target")?.join("step06");
    let status = Command::new(step).args(["-q", "run", "--rm", "--rootfs", &copy]).args(command).status()?;
    std::fs::remove_dir_all(&copy)?;
    std::process::exit(status.code().unwrap_or(1));
}
