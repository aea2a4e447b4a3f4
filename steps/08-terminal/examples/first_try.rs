//! What anyone would write first: a terminal of the host's, handed down as standard streams to a program in namespaces of its own.
//! `step08_first_try COMMAND [ARG…]`.
//!
//! It works for `echo`. But a terminal has a name in the `/dev/pts` where it was made, and the program sees another one: so
//! tty(1) says "not a tty". And it is the terminal of no session: a shell has no job control, and Ctrl-C ends nothing. Compare
//! `src/lib.rs`, where it is made inside, and taken.

use std::fs::File;
use std::io::{Read, Write, stdout};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use nix::pty::openpty;

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    ensure!(!words.is_empty(), "usage: step08_first_try COMMAND [ARG…]");
    let pty = openpty(None, None)?;
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c"]);
    inside.arg("mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && exec \"$@\"").arg("sh").args(&words);
    let end = || Ok::<_, std::io::Error>(Stdio::from(pty.slave.try_clone()?));
    let mut child = inside.stdin(end()?).stdout(end()?).stderr(end()?).spawn()?;
    // Open here, the terminal would not end with the program.
    drop((inside, pty.slave));
    let (mut master, mut bytes) = (File::from(pty.master), [0; 4096]);
    // At the end EIO.
    while let Ok(count @ 1..) = master.read(&mut bytes) {
        stdout().write_all(&bytes[..count])?;
    }
    std::process::exit(child.wait()?.code().unwrap_or(1));
}
