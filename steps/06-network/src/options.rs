//! The options of this step: which network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use namespaces::{Namespace, View};
use serde::{Deserialize, Serialize};

use crate::names;

/// Whom the child can reach.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "Whom the child can reach (step 06)")]
pub struct Networking {
    /// Its network [default: bridge for root; none for an ordinary user]
    #[arg(long, value_name = "NETWORK", value_enum)]
    pub(crate) network: Option<Mode>,
    /// Its address on the bridge [default: the first that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<Ipv4Addr>,
    /// A port of the host's by which one of its own is reached
    #[arg(short, long, value_name = "[IP:]HOST:CONTAINER", value_parser = publish)]
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
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/tcp -> {}", self.container, self.host)
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

/// `[IP:]HOST:CONTAINER[/tcp]`.
///
/// # Errors
/// What is none; UDP, which is left open.
pub fn publish(text: &str) -> Result<Publish, String> {
    let usage = || "a published port is [IP:]HOST:CONTAINER, two numbers from 1 to 65535".to_owned();
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if protocol != "tcp" {
        return Err(format!("{protocol}: only tcp ports can be published"));
    }
    let mut parts = ports.rsplitn(3, ':');
    let mut port = || parts.next()?.parse().ok().filter(|port: &u16| *port > 0);
    let (container, host) = (port().ok_or_else(usage)?, port().ok_or_else(usage)?);
    let ip = parts.next().map_or(Ok(Ipv4Addr::UNSPECIFIED), str::parse).map_err(|_| usage())?;
    Ok(Publish { host: SocketAddrV4::new(ip, host), container })
}

/// The networks, by Docker's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The other containers, and through the host everybody else.
    Bridge,
    /// Nobody but itself.
    None,
    /// What the host reaches: no network namespace of its own.
    Host,
}

impl Networking {
    /// Options that contradict each other, in one sentence; and the namespaces that go with them.
    ///
    /// # Errors
    /// `host` with a network namespace that was asked for, the others without one.
    pub fn settle(&self, view: View) -> Result<View> {
        let view = if self.network == Some(Mode::Host) { view.without(Namespace::Net)? } else { view };
        let needs_own = matches!(self.network, Some(Mode::Bridge | Mode::None));
        ensure!(
            view.has(Namespace::Net) || !needs_own,
            "this network needs a network namespace: add `net` to --namespaces, or leave --network out"
        );
        let is_bridge = self.network.is_none_or(|mode| mode == Mode::Bridge) && view.has(Namespace::Net);
        ensure!(is_bridge || self.ip.is_none(), "--ip is an address on the bridge, which this container is not on");
        ensure!(
            is_bridge || self.publish.is_empty(),
            "--publish leads to a container on the bridge, which this one is not: with the host's network it listens there"
        );
        for (number, port) in self.publish.iter().enumerate() {
            let is_twice = self.publish[..number].iter().any(|other| other.host == port.host);
            ensure!(!is_twice, "{} is published twice", port.host);
        }
        Ok(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_two_numbers_and_perhaps_an_address() {
        let host = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
        assert_eq!(publish("8080:80"), Ok(Publish { host: host([0; 4], 8080), container: 80 }));
        assert_eq!(publish("127.0.0.1:8080:80/tcp"), Ok(Publish { host: host([127, 0, 0, 1], 8080), container: 80 }));
        for bad in ["", "80", "0:80", "80:0", "65536:80", "a:80", "1.2.3:80:80", "::1:80:80", "80:80/udp"] {
            assert!(publish(bad).is_err(), "{bad}");
        }
        assert_eq!(publish("8080:80").expect("port").to_string(), "80/tcp -> 0.0.0.0:8080");
    }
}
