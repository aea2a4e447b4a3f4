//! The network of an ordinary user, who may make no cable out of a network namespace: pasta(1) plays it. In the
//! container it is an interface that hands each packet to it; on the host it is a program with ordinary sockets, and
//! needs no right.
//!
//! Another program, in memory of its own: so it can be killed, and must not outlive the container. It is a child of the
//! monitor, which ends it; and where the monitor is killed, the kernel does.

use std::fs::File;
use std::io::{BufRead, BufReader, Error, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Result;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use shared::explain::Returned;
use shared::{call, explain};

use crate::options::{Protocol, Publish};
use crate::{INSIDE, sys};

/// Its name, for PATH.
pub const PROGRAM: &str = "pasta";

/// What became of it.
pub enum Pasta {
    /// The container has its interface.
    Runs(Child),
    /// It has none, and this is why.
    Refuses(String),
    /// Nothing was done.
    DryRun,
}

impl Returned for Pasta {
    fn printed(&self) -> String {
        match self {
            Pasta::Runs(process) => process.id().to_string(),
            Pasta::Refuses(why) => format!("({why})"),
            Pasta::DryRun => String::new(),
        }
    }
    fn stand_in() -> std::io::Result<Self> {
        Ok(Pasta::DryRun)
    }
}

/// Host, and the child held: an interface in its network namespace, with the address and the routes of the host's own.
///
/// # Errors
/// ENOENT where there is no such program.
pub fn start(program: &Path, child: Pid, publish: &[Publish]) -> Result<Pasta> {
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|protocol| ports(publish, protocol));
    let child = child.to_string();
    let mut words = vec![
        // Stays our child. When all is ready it writes its pid, which we wait for, to its standard output.
        "-f",
        "-q",
        "-P",
        "/proc/self/fd/1",
        // Sets the interface up, with this name.
        "--config-net",
        "-I",
        INSIDE,
        // Else the address of the gateway would mean the host's 127.0.0.1, with all that listens there.
        "--no-map-gw",
        // Else 127.0.0.1 inside would lead there, too, to each port on which the host listens.
        "-T",
        "none",
        "-U",
        "none",
    ];
    // Else each port on which the container listens would be published.
    words.extend(tcp.iter().flat_map(|port| ["-t", port]).chain(udp.iter().flat_map(|port| ["-u", port])));
    words.push(&child);
    explain::host(call!("{PROGRAM} {}", words.join(" "))).run(|| run(program, &words))
}

/// What `-t` and `-u` take.
fn ports(publish: &[Publish], protocol: Protocol) -> Vec<String> {
    let port = |it: &Publish| format!("{}/{}:{}", it.host.ip(), it.host.port(), it.container);
    let ports: Vec<_> = publish.iter().filter(|it| it.protocol == protocol).map(port).collect();
    if ports.is_empty() { vec!["none".to_owned()] } else { ports }
}

fn run(program: &Path, words: &[&str]) -> std::io::Result<Pasta> {
    // A pipe that nobody reads any more would end it.
    let mut said = File::from(memfd_create("pasta", MFdFlags::MFD_CLOEXEC).map_err(Error::from)?);
    let mut command = Command::new(program);
    command.args(words).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said.try_clone()?);
    // A key like Ctrl-C is for the program in the container, which may go on, and then needs its network.
    command.process_group(0);
    let mut process = sys::end_with_this_process(&mut command).spawn()?;
    let mut pid = String::new();
    let output = process.stdout.take();
    output.map_or(Ok(0), |output| BufReader::new(output).read_line(&mut pid))?;
    if !pid.is_empty() {
        return Ok(Pasta::Runs(process));
    }
    process.wait()?;
    let mut text = String::new();
    said.rewind()?;
    said.read_to_string(&mut text)?;
    let last = text.lines().rfind(|line| !line.contains("syslog")).unwrap_or("it does not say why");
    Ok(Pasta::Refuses(last.trim().to_owned()))
}

/// Host, and the child gone: ends it. By itself it would notice that its network namespace is gone only seconds later.
///
/// # Errors
/// None but those of kill(2) and waitpid(2).
pub fn end(mut pasta: Child) -> Result<()> {
    explain::host(call!("kill({}, SIGKILL)", pasta.id())).cleanup().run(|| {
        pasta.kill()?;
        pasta.wait().map(drop)
    })
}
