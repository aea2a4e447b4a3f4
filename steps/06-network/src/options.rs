//! The options of this step: which network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use engine::Recipe;
use namespaces::{Namespace, View};
use serde::{Deserialize, Serialize};
use users::Users;

use crate::{names, parts};

/// Whom the child can reach.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "Whom the child can reach (step 06)")]
pub struct Networking {
    /// Its network [default: bridge for root; for an ordinary user pasta, where it is installed]
    #[arg(long, value_name = "bridge|pasta|none|host|container:NAME", value_parser = network)]
    pub(crate) network: Option<Mode>,
    /// Its address on the bridge [default: the first that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<Ipv4Addr>,
    /// A port of the host's by which one of its own is reached
    #[arg(short, long, value_name = "[IP:]HOST:CONTAINER[/udp]", value_parser = publish)]
    pub(crate) publish: Vec<Publish>,
    /// A server that it asks for names [default: the host's]
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<IpAddr>,
    /// A name of a host, for its /etc/hosts
    #[arg(long, value_name = "NAME:IP", value_parser = names::added)]
    pub(crate) add_host: Vec<(String, IpAddr)>,
}

/// A port of the host's that leads to one of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Publish {
    /// The host's: where it is listened on.
    pub host: SocketAddrV4,
    /// The container's.
    pub container: u16,
    /// Of what.
    pub protocol: Protocol,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Single packets.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if *self == Protocol::Tcp { "tcp" } else { "udp" })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{} -> {}", self.container, self.protocol, self.host)
    }
}

/// The command that this step adds.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Those of the step before.
    #[command(flatten)]
    Users(users::Command),
    /// Lists the published ports of a container
    Port {
        /// Its name, its id, or the beginning of that
        container: String,
    },
}

/// `[IP:]HOST:CONTAINER[/tcp|/udp]`.
///
/// # Errors
/// What is none.
pub fn publish(text: &str) -> Result<Publish, String> {
    let usage = || "a published port is [IP:]HOST:CONTAINER, two numbers from 1 to 65535".to_owned();
    let (ports, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("{other}: a port is one of tcp or udp")),
    };
    let mut parts = ports.rsplitn(3, ':');
    let mut port = || parts.next()?.parse().ok().filter(|port: &u16| *port > 0);
    let (container, host) = (port().ok_or_else(usage)?, port().ok_or_else(usage)?);
    let ip = parts.next().map_or(Ok(Ipv4Addr::UNSPECIFIED), str::parse).map_err(|_| usage())?;
    Ok(Publish { host: SocketAddrV4::new(ip, host), container, protocol })
}

/// The networks, by Docker's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The other containers, and through the host everybody else.
    Bridge,
    /// What an ordinary user of the host reaches, by the program pasta.
    Pasta,
    /// Nobody but itself.
    None,
    /// What the host reaches: no network namespace of its own.
    Host,
    /// What the container of this name reaches: its network namespace.
    Container(String),
}

fn network(text: &str) -> Result<Mode, String> {
    match (text, text.strip_prefix("container:")) {
        ("bridge", _) => Ok(Mode::Bridge),
        ("pasta", _) => Ok(Mode::Pasta),
        ("none", _) => Ok(Mode::None),
        ("host", _) => Ok(Mode::Host),
        (_, Some(name)) if !name.is_empty() => Ok(Mode::Container(name.to_owned())),
        _ => Err("a network is bridge, pasta, none, host, or container:NAME".to_owned()),
    }
}

impl Command {
    /// Does it. Its exit code.
    ///
    /// # Errors
    /// Those of [`parts::print_ports`], and of the steps before.
    pub fn run<R: Recipe>(self) -> Result<u8> {
        match self {
            Command::Users(command) => command.run(),
            Command::Port { container } => parts::print_ports::<R>(&container),
        }
    }
}

impl Networking {
    /// Options that contradict each other, in one sentence; and the namespaces that go with them.
    ///
    /// # Errors
    /// `host` with a network namespace that was asked for, the others without one; another container's network, with ids of
    /// its own, or where that one's neighbours could see into it.
    pub fn settle(&self, view: View, users: &Users) -> Result<View> {
        if matches!(self.network, Some(Mode::Container(_))) && view.has(Namespace::User) {
            ensure!(
                !users.is_mapped(),
                "--uidmap and --gidmap: with the network of another container, the ids are that one's: leave them out"
            );
            ensure!(
                view.has(Namespace::Pid),
                "with the network of another container it needs a pid namespace, as they share the user namespace: add `pid` \
                 to --namespaces"
            );
        }
        let is_anothers = matches!(self.network, Some(Mode::Host | Mode::Container(_)));
        let view = if is_anothers { view.without(Namespace::Net)? } else { view };
        let needs_own = matches!(self.network, Some(Mode::Bridge | Mode::Pasta | Mode::None));
        ensure!(
            view.has(Namespace::Net) || !needs_own,
            "this network needs a network namespace: add `net` to --namespaces, or leave --network out"
        );
        let is_one_of =
            |modes: &[Mode]| view.has(Namespace::Net) && self.network.as_ref().is_none_or(|it| modes.contains(it));
        ensure!(
            is_one_of(&[Mode::Bridge]) || self.ip.is_none(),
            "--ip is an address on the bridge, which this container is not on"
        );
        ensure!(
            is_one_of(&[Mode::Bridge, Mode::Pasta]) || self.publish.is_empty(),
            "--publish leads to a container on the bridge, or with pasta, which this one is not: \
             with another's network it listens there"
        );
        for (number, port) in self.publish.iter().enumerate() {
            let is_twice = |other: &Publish| other.host == port.host && other.protocol == port.protocol;
            ensure!(!self.publish[..number].iter().any(is_twice), "{} is published twice", port.host);
        }
        Ok(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_two_numbers_and_perhaps_an_address() {
        let tcp = |ip: [u8; 4], port| Publish {
            host: SocketAddrV4::new(ip.into(), port),
            container: 80,
            protocol: Protocol::Tcp,
        };
        assert_eq!(publish("8080:80"), Ok(tcp([0; 4], 8080)));
        assert_eq!(publish("127.0.0.1:8080:80/tcp"), Ok(tcp([127, 0, 0, 1], 8080)));
        assert_eq!(publish("8080:80/udp"), Ok(Publish { protocol: Protocol::Udp, ..tcp([0; 4], 8080) }));
        for bad in ["", "80", "0:80", "80:0", "65536:80", "a:80", "1.2.3:80:80", "::1:80:80", "80:80/sctp", "80:80/"] {
            assert!(publish(bad).is_err(), "{bad}");
        }
        assert_eq!(publish("8080:80").expect("port").to_string(), "80/tcp -> 0.0.0.0:8080");
    }
}
