//! The rules of packets that pass through the host: nft's, in one table of this step's. See nft(8).
//!
//! The table is a function of the leases: each change makes it anew, whole, in one transaction, so that there is no moment
//! without, and none in which it has a rule of a container that is gone.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use process::find_in_path;
use shared::{call, explain};

use crate::{BRIDGE, Lease, SUBNET};

/// Host: makes the table anew, for these containers; without any, removes it. Why there is none, where this machine has no
/// such rules.
///
/// # Errors
/// Where nft cannot be started.
pub fn replace(leases: &[Lease]) -> Result<Option<String>> {
    let Some(program) = find_in_path("nft") else {
        return Ok(Some("nft is not installed (it is in the package nftables)".to_owned()));
    };
    if leases.is_empty() { nft(&program, "REMOVAL", &removal()) } else { nft(&program, "RULES", &table(leases)) }
}

/// The first line makes it, so that there is one to be removed.
fn removal() -> String {
    format!("table ip {BRIDGE} {{}}\ndelete table ip {BRIDGE}\n")
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
    let removal = removal();
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
        let lease =
            Lease { address: [10, 6, 0, 7].into(), publish, names: vec![], hostname: String::new(), added: vec![] };
        let table = table(&[lease]);
        assert!(table.contains("        tcp dport 8080 dnat to 10.6.0.7:80\n"), "{table}");
        assert!(table.contains("        udp dport 53 dnat to 10.6.0.7:53\n"), "{table}");
        assert!(table.contains("        ip daddr 192.0.2.1 tcp dport 82 dnat to 10.6.0.7:83\n"), "{table}");
        assert!(!table.contains("dport 81"), "what is published on loopback is nobody else's: {table}");
    }
}
