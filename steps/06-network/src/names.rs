//! What programs look up names in: three files of the container's own, which it has mounted over those of its root. See
//! hosts(5), hostname(5), resolv.conf(5).

use std::fs::{File, read_to_string};
use std::io::{Seek, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Result;
use rootfs::{Root, Volume};
use shared::{call, explain};

use crate::Lease;

/// Host and inside: the directory is the container's in the store, and `/etc`.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// Where systemd's stub, which listens on the host's loopback, has its servers from.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The files, as volumes; one that was asked for at the same place counts more.
pub fn volumes(root: &Root, directory: &Path) -> Vec<Volume> {
    let volume = |name: &&str| {
        let (source, target) = (directory.join(name), Path::new("/etc").join(name));
        Volume { source, target, read_only: true, idmap: false }
    };
    let is_free = |volume: &Volume| !root.volumes().iter().any(|it| it.target == volume.target);
    FILES.iter().map(volume).filter(is_free).collect()
}

/// Host, and no child yet: writes them.
///
/// # Errors
/// Where the kernel refuses.
pub fn write_all(directory: &Path, hosts: &str, hostname: &str, dns: &[IpAddr]) -> Result<()> {
    let servers = if dns.is_empty() { servers_of_the_host() } else { dns.to_vec() };
    if servers.is_empty() {
        explain::notice("the host names no server for names but its own loopback: name one with --dns");
    }
    let servers: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    write(directory, "hosts", hosts)?;
    write(directory, "hostname", &format!("{hostname}\n"))?;
    write(directory, "resolv.conf", &servers)
}

/// The same file that the container has mounted, and not another one in its place, which it would not see.
///
/// # Errors
/// Where the kernel refuses.
pub fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    explain::host(call!("echo … > {}", path.display())).cleanup().run(|| {
        // Never waits, as for the reader of a FIFO, and follows no link.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = File::options().write(true).create(true).truncate(false).custom_flags(flags).open(&path)?;
        // The umask of an engine's caller may be narrower, and who reads it is nobody's user here.
        file.set_permissions(PermissionsExt::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        let end = file.stream_position()?;
        file.set_len(end)
    })
}

/// Loopback, itself, who else was named, and all on the bridge who have a name. Without a lease, itself is loopback.
pub fn hosts(own: Option<&Lease>, hostname: &str, added: &[(String, IpAddr)], all: &[Lease]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    let mut line = |address: IpAddr, names: &str| text += &format!("{address} {names}\n");
    match own {
        Some(lease) => lease.addresses().for_each(|address| line(address, hostname)),
        None => line(Ipv4Addr::LOCALHOST.into(), hostname),
    }
    added.iter().for_each(|(name, address)| line(*address, name));
    for lease in all.iter().filter(|lease| !lease.names.is_empty()) {
        lease.addresses().for_each(|address| line(address, &lease.names.join(" ")));
    }
    text
}

/// Those that a container can reach. On 127.0.0.53 systemd's stub listens, for the host alone: then those behind it.
fn servers_of_the_host() -> Vec<IpAddr> {
    let read = |path: &str| servers(&read_to_string(path).unwrap_or_default());
    let own = read("/etc/resolv.conf");
    if own.is_empty() { read(BEHIND_THE_STUB) } else { own }
}

fn servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    // Nor one that is reached by IPv6, which does not lead out of a container.
    let is_reached = |it: &IpAddr| matches!(it, IpAddr::V4(address) if !address.is_loopback());
    text.lines().filter_map(server).filter(is_reached).collect()
}

/// `NAME:IP`.
///
/// # Errors
/// What is none of these.
pub fn added(text: &str) -> Result<(String, IpAddr), String> {
    let (name, address) = text.split_once(':').unwrap_or((text, ""));
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    match address.parse() {
        Ok(address) if !name.is_empty() && name.chars().all(fits) => Ok((name.to_owned(), address)),
        _ => Err("a host is NAME:IP, the name of letters, digits, `-`, `.` and `_`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_stub_is_no_server_of_a_containers() {
        let text =
            "# generated\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n nameserver 2001:db8::1\nsearch example\n";
        assert_eq!(servers(text), ["192.0.2.1".parse::<IpAddr>().expect("address")]);
    }

    #[test]
    fn hosts_has_itself_and_its_neighbours() {
        let lease = |last: u8, names: &[&str]| Lease {
            address: Ipv4Addr::new(10, 6, 0, last),
            ipv6: last == 2,
            publish: Vec::new(),
            names: names.iter().map(|it| (*it).to_owned()).collect(),
            hostname: String::new(),
            added: Vec::new(),
        };
        let added = [added("far:192.0.2.7").expect("NAME:IP")];
        let all = [lease(2, &["web"]), lease(3, &["db"]), lease(4, &[])];
        let text = hosts(Some(&all[0]), "0a1b", &added, &all);
        let expected = "127.0.0.1 localhost\n::1 localhost\n10.6.0.2 0a1b\nfd06::a:6:0:2 0a1b\n192.0.2.7 far\n\
                        10.6.0.2 web\nfd06::a:6:0:2 web\n10.6.0.3 db\n";
        assert_eq!(text, expected);
        assert!(["", "a", "a:b", ":1.2.3.4", "a b:1.2.3.4"].iter().all(|text| super::added(text).is_err()));
    }
}
