//! Who has which address: written down in the container's own directory before it is used, so that it comes back with that
//! directory, whatever becomes of the engine.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engine::directory::{read, replace};
use engine::turn::wait_for_lock;
use serde::{Deserialize, Serialize};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::lock::Lock;

use crate::options::Publish;
use crate::{GATEWAY, SUBNET};

/// In the container's directory.
const FILE: &str = "lease.json";
/// Bytes of a file that we have written there, at most.
pub(crate) const LARGEST: u64 = 1 << 20;

/// What a container has on the network as long as it lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it has [that of IPv6](crate::ipv6), too.
    pub ipv6: bool,
    /// The ports of the host's that lead to it.
    pub publish: Vec<Publish>,
    /// As its neighbours call it.
    pub names: Vec<String>,
    /// As it calls itself.
    pub hostname: String,
    /// Hosts that were named for it.
    pub added: Vec<(String, IpAddr)>,
}

impl Lease {
    /// All of its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        crate::addresses(self.address, self.ipv6)
    }

    /// The host's end of its cable, by the last number of its address: the kernel takes a name once, so no two containers
    /// have one address even if this step were wrong about it.
    pub fn port(&self) -> String {
        format!("{}-{}", crate::BRIDGE, self.address.octets()[3])
    }
}

/// One engine at a time changes this network namespace. The kernel drops the lock with the process, and there is no file to
/// be left.
///
/// # Errors
/// [`Interrupted`](shared::signals::Interrupted), by a signal.
pub fn lock() -> Result<Option<Lock>> {
    if explain::dry_run() { Ok(None) } else { wait_for_lock(Path::new("/proc/self/ns/net")).map(Some) }
}

/// The address that is wanted, or the first that is free. The caller has the lock until it is [written down](write()).
///
/// # Errors
/// Where it is taken, or none is free.
pub fn address(directory: &Path, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
    let taken: Vec<_> = others(directory)?.into_iter().map(|(_, lease)| lease.address).collect();
    choose(&taken, wanted)
}

/// Writes down what a container has.
///
/// # Errors
/// Where the kernel refuses.
pub fn write(directory: &Path, lease: &Lease) -> Result<()> {
    let file = directory.join(FILE);
    let text = serde_json::to_vec(lease).context("cannot write the lease down")?;
    explain::host(call!("echo {} > {}", lease.address, file.display())).run(|| replace(&file, &text))
}

fn choose(taken: &[Ipv4Addr], wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
    let [a, b, c, host] = GATEWAY.octets();
    let mut free = (host + 1..=254).map(|last| Ipv4Addr::new(a, b, c, last)).filter(|it| !taken.contains(it));
    let Some(wanted) = wanted else {
        return free.next().with_context(|| format!("no address of {SUBNET} is free: remove a container, or `clean`"));
    };
    ensure!(wanted.octets()[..3] == [a, b, c], "{wanted} is not in {SUBNET}, where the containers are");
    ensure!(!taken.contains(&wanted), "another container has the address {wanted}");
    ensure!(free.any(|it| it == wanted), "{wanted} is the host's own address, or that of all: choose another one");
    Ok(wanted)
}

/// What this container has, if it has anything.
///
/// # Errors
/// Where that cannot be read.
pub fn of(directory: &Path) -> Result<Option<Lease>> {
    let path = directory.join(FILE);
    let text = match read(&path, LARGEST) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.during(format_args!("cannot read {}", path.display()))?,
    };
    serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display()))
}

/// What the other containers of the same store have. One whose lease is damaged has none: its cable keeps its name taken.
///
/// # Errors
/// Where the store cannot be listed.
pub fn others(directory: &Path) -> Result<Vec<(PathBuf, Lease)>> {
    let dirs = directories(store(directory)?)?.into_iter().filter(|dir| dir != directory);
    Ok(dirs.filter_map(|dir| Some((dir.clone(), of(&dir).ok()??))).collect())
}

/// Whether some container of the store has a lease, be it a damaged one.
///
/// # Errors
/// Where the store cannot be listed.
pub fn is_any(store: &Path) -> Result<bool> {
    Ok(directories(store)?.iter().any(|dir| !matches!(of(dir), Ok(None))))
}

/// The store that a container's directory is in.
///
/// # Errors
/// None of a directory that the engine has made.
pub fn store(directory: &Path) -> Result<&Path> {
    directory.parent().context("a container's directory is in the store")
}

fn directories(store: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(store) {
        // In a dry run; or somebody has removed all of it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during(format_args!("cannot list {}", store.display()))?,
    };
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Strikes it out. The caller has the lock, and has undone what it stands for.
///
/// # Errors
/// Where the kernel refuses.
pub fn give_back(directory: &Path) -> Result<()> {
    strike_out(directory, FILE)
}

/// Removes what was written down, if it was.
///
/// # Errors
/// Where the kernel refuses.
pub fn strike_out(directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(name);
    explain::host(call!("rm {}", path.display())).cleanup().run(|| match std::fs::remove_file(&path) {
        // Or the whole directory is gone.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_container_at_a_time() {
        let at = |last| Ipv4Addr::new(10, 6, 0, last);
        assert_eq!(choose(&[], None).expect("free"), at(2));
        assert_eq!(choose(&[at(2), at(4), at(3)], None).expect("free"), at(5));
        assert_eq!(choose(&[at(2)], Some(at(77))).expect("free"), at(77));
        for (wanted, word) in
            [(at(2), "another container"), (at(1), "own"), (at(255), "own"), ([1, 2, 3, 4].into(), "not in")]
        {
            let error = choose(&[at(2)], Some(wanted)).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
        let all: Vec<_> = (2..=254).map(at).collect();
        assert!(choose(&all, None).is_err_and(|error| error.to_string().contains("no address")));
    }

    #[test]
    fn a_lease_is_in_the_containers_directory_and_nowhere_else() {
        let store = tempfile::tempdir().expect("tempdir");
        let [one, other] = ["one", "other"].map(|name| store.path().join(name));
        [&one, &other].into_iter().for_each(|dir| std::fs::create_dir(dir).expect("mkdir"));
        let lease = Lease {
            address: address(&one, None).expect("free"),
            ipv6: true,
            publish: Vec::new(),
            names: Vec::new(),
            hostname: "one".to_owned(),
            added: Vec::new(),
        };
        write(&one, &lease).expect("write");
        assert_eq!(of(&one).expect("read"), Some(lease.clone()));
        assert_eq!(others(&other).expect("list"), [(one.clone(), lease.clone())]);
        assert_ne!(address(&other, None).expect("free"), lease.address);
        // What is no file keeps nobody waiting.
        let odd = store.path().join("odd");
        std::fs::create_dir(&odd).expect("mkdir");
        nix::unistd::mkfifo(&odd.join(FILE), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
        assert!(of(&odd).is_err());
        assert_eq!(others(&other).expect("list"), [(one.clone(), lease.clone())]);
        std::fs::remove_dir_all(&odd).expect("rm -r");
        give_back(&one).expect("rm");
        assert_eq!(of(&one).expect("read"), None);
        std::fs::remove_dir_all(&other).expect("rm -r");
        assert_eq!(others(&one).expect("list"), []);
    }
}
