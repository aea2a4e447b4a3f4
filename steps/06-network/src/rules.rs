//! The rules of packets that pass through the host, by IP and by IPv6, and through the bridge: nft's, in a table of
//! this step's for each of the three. See nft(8).
//!
//! The tables are a function of the leases: each change makes them anew, whole, in one transaction, so that there is no
//! moment without, and none in which it has a rule of a container that is gone.

use std::fmt::Write as _;
use std::io::Write;
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use process::find_in_path;
use shared::{call, explain, kernel_file};

use crate::{BRIDGE, Lease, SUBNET};

/// Host: makes the tables anew, for these containers; without any, removes them. Which of them there are not, where this
/// machine has no such rules, and why.
///
/// # Errors
/// Where nft cannot be started.
pub fn replace(leases: &[Lease]) -> Result<Option<String>> {
    let nobody_else = "it reaches this host and its neighbours, and nobody else";
    let Some(program) = find_in_path("nft") else {
        return Ok(Some(format!("{nobody_else}: nft is not installed (it is in the package nftables)")));
    };
    let (what, all) = (if leases.is_empty() { "REMOVAL" } else { "RULES" }, text(leases));
    let Some(why) = nft(&program, what, &all)? else { return Ok(None) };
    // A kernel may have no rules for what passes through a bridge.
    match nft(&program, what, &without_ports(leases))? {
        None => Ok(Some(format!("a neighbour can take its address: {why}"))),
        Some(why) => Ok(Some(format!("{nobody_else}: {why}"))),
    }
}

/// Host: a container that says it is a router would be the host's way to everybody else by IPv6 (CVE-2020-13401). The rules
/// drop that, too; but a kernel may not have them.
pub fn heed_no_router() {
    let setting = Path::new("/proc/sys/net/ipv6/conf").join(BRIDGE).join("accept_ra");
    let is_off = kernel_file::read(&setting).is_ok_and(|text| text.trim() == "0");
    // Inside Docker /proc/sys is mounted read-only.
    if !is_off && let Err(error) = explain::host_echo(0, &setting).run() {
        explain::note(format_args!("{error:#}"));
    }
}

/// What nft is given.
pub fn text(leases: &[Lease]) -> String {
    without_ports(leases) + &if leases.is_empty() { removal("bridge") } else { ports(leases) }
}

fn without_ports(leases: &[Lease]) -> String {
    let of_ip = if leases.is_empty() { removal("ip") } else { table(leases) };
    // Without it, nft knows no table of it either.
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let of_ipv6 = if leases.is_empty() { removal("ip6") } else { table6() };
    if has_ipv6 { of_ip + &of_ipv6 } else { of_ip }
}

/// The first line makes it, so that there is one to be removed.
fn removal(family: &str) -> String {
    format!("table {family} {BRIDGE} {{}}\ndelete table {family} {BRIDGE}\n")
}

/// At each port of the bridge: what does not come from the addresses that were leased goes nowhere. Root inside can
/// give its interface its neighbour's, and would be answered in that one's place. Who has an address, is asked by ARP,
/// and by IPv6 with an advertisement; in that, the address is behind 8 bytes.
fn ports(leases: &[Lease]) -> String {
    let mut rules = String::new();
    for lease in leases {
        let (port, address) = (lease.port(), lease.address);
        let ethernet = crate::ethernet(address).map(|byte| format!("{byte:02x}")).join(":");
        let (local, ipv6) = (link_local(crate::ethernet(address)), crate::ipv6(address));
        let number = |address: Ipv6Addr| format!("{:#034x}", address.to_bits());
        for other in [
            format!("ether saddr != {ethernet}"),
            format!("arp saddr ip != {address}"),
            format!("ip saddr != {address}"),
            format!("ip6 saddr != {{ ::, {ipv6}, {local} }}"),
            format!("icmpv6 type nd-neighbor-advert @th,64,128 != {{ {}, {} }}", number(ipv6), number(local)),
            // The host and its neighbours would believe it, and send there what is for everybody else.
            "icmpv6 type { nd-router-advert, nd-redirect }".to_owned(),
        ] {
            let _ = writeln!(rules, "        iifname \"{port}\" {other} drop");
        }
    }
    let removal = removal("bridge");
    format!(
        "{removal}table bridge {BRIDGE} {{
    chain ports {{
        type filter hook prerouting priority filter;
{rules}    }}
}}
"
    )
}

/// The address of IPv6 that every interface gives itself, by the Ethernet's: see RFC 4291, appendix A.
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}

/// By IPv6 a container reaches this host and its neighbours, and they it: nobody else, though the host be a router.
fn table6() -> String {
    let removal = removal("ip6");
    format!(
        "{removal}table ip6 {BRIDGE} {{
    chain guard {{
        type filter hook forward priority filter;
        iifname \"{BRIDGE}\" oifname != \"{BRIDGE}\" drop
        iifname != \"{BRIDGE}\" oifname \"{BRIDGE}\" drop
    }}
}}
"
    )
}

/// As `nft list table ip step06` prints it.
fn table(leases: &[Lease]) -> String {
    let mut published = String::new();
    for lease in leases {
        for port in lease.publish.iter().filter(|port| !port.host.ip().is_loopback()) {
            let (from, to, protocol) = (port.host, port.container, port.protocol);
            let own = if from.ip().is_unspecified() { String::new() } else { format!("ip daddr {} ", from.ip()) };
            let _ = writeln!(published, "        {own}{protocol} dport {} dnat to {}:{to}", from.port(), lease.address);
        }
    }
    let removal = removal("ip");
    format!(
        "{removal}table ip {BRIDGE} {{
    # Out: an answer to a container's own address would not find back. The host's stands in for it.
    chain out {{
        type nat hook postrouting priority srcnat;
        ip saddr {SUBNET} oifname != \"{BRIDGE}\" masquerade
    }}
    # In: to a port that is published. From loopback and from containers, the proxy leads there.
    chain in {{
        type nat hook prerouting priority dstnat;
        iifname \"{BRIDGE}\" accept
        fib daddr type != local accept
{published}    }}
    # And to no other: as the host passes packets on, its neighbours could send them to a container's own address.
    chain guard {{
        type filter hook forward priority filter;
        oifname != \"{BRIDGE}\" accept
        iifname \"{BRIDGE}\" accept
        ct state established,related accept
        ct status dnat accept
        drop
    }}
}}
"
    )
}

fn nft(program: &Path, what: &str, text: &str) -> Result<Option<String>> {
    let mut answer = None;
    explain::host(call!("nft -f - <<{what}")).cleanup().run(|| {
        let mut command = Command::new(program);
        command.args(["-f", "-"]).env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut nft = command.spawn()?;
        if let Some(mut stdin) = nft.stdin.take() {
            let _ = stdin.write_all(text.as_bytes()); // where it does not read, it says why
        }
        nft.wait_with_output().map(|output| answer = Some(output))
    })?;
    let said = answer.filter(|output| !output.status.success()).map(|output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().find(|line| line.contains("rror")).unwrap_or("it does not say why");
        format!("nft has not taken the rules ({}): `sudo modprobe nft_masq nft_fib_ipv4` may help", line.trim())
    });
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::publish;

    #[test]
    fn the_table_has_a_rule_for_each_port_that_is_published_to_others() {
        let publish = ["8080:80", "53:53/udp", "127.0.0.1:81:80", "192.0.2.1:82:83/tcp"]
            .map(|text| publish(text).expect(text))
            .to_vec();
        let lease = Lease {
            address: [10, 6, 0, 7].into(),
            ipv6: true,
            publish,
            names: vec![],
            hostname: String::new(),
            added: vec![],
        };
        let table = table(std::slice::from_ref(&lease));
        assert!(table.contains("        tcp dport 8080 dnat to 10.6.0.7:80\n"), "{table}");
        assert!(table.contains("        udp dport 53 dnat to 10.6.0.7:53\n"), "{table}");
        assert!(table.contains("        ip daddr 192.0.2.1 tcp dport 82 dnat to 10.6.0.7:83\n"), "{table}");
        let ports = ports(&[lease]);
        assert!(ports.contains("        iifname \"step06-7\" ether saddr != 02:06:0a:06:00:07 drop\n"), "{ports}");
        assert!(ports.contains("        iifname \"step06-7\" arp saddr ip != 10.6.0.7 drop\n"), "{ports}");
        let ipv6 = "        iifname \"step06-7\" ip6 saddr != { ::, fd06::a:6:0:7, fe80::6:aff:fe06:7 } drop\n";
        assert!(ports.contains(ipv6), "{ports}");
        let advertised = "0xfd06000000000000000a000600000007, 0xfe8000000000000000060afffe060007";
        assert!(ports.contains(&format!("nd-neighbor-advert @th,64,128 != {{ {advertised} }} drop\n")), "{ports}");
        assert!(!table.contains("dport 81"), "what is published on loopback is nobody else's: {table}");
    }
}
