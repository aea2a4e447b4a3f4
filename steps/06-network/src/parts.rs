//! This step as a part of a container.

use std::cell::{OnceCell, RefCell};
use std::io::{ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, bail, ensure};
use engine::directory::read;
use engine::store::Store;
use engine::{Cradle, Identity, Letter, Part, Recipe};
use namespaces::{Namespace, View};
use nix::unistd::Pid;
use process::find_in_path;
use rootfs::{Root, Volume};
use serde::{Deserialize, Serialize};
use shared::explain;
use shared::failure::During;
use shared::formula::{Formula, Term};
use users::parts::MappedNamespaces;

use crate::BRIDGE;
use crate::join::Other;
use crate::lease::{self, LARGEST, Lease};
use crate::options::{Mode, Networking};
use crate::pasta::{self, Pasta};
use crate::proxy::{self, Proxy};
use crate::{names, readback, rules};

/// In the container's directory: the published ports, a line each, as long as it has them.
const PORTS: &str = "ports";

/// The network of a container. Its address is no part of the plan: it is leased when the container is made, and written
/// down in the container's directory, where any process finds it.
#[derive(Serialize, Deserialize)]
pub struct Network {
    mode: Mode,
    /// Where it is none and nobody has asked for that: why.
    why: Option<String>,
    /// Where it is another container's.
    other: Option<Other>,
    options: Networking,
    names: Vec<String>,
    hostname: String,
    /// The container's, in the store.
    directory: PathBuf,
    /// In the process that has taken it, and in its child.
    #[serde(skip)]
    lease: OnceCell<Lease>,
    /// In the monitor.
    #[serde(skip)]
    proxy: OnceCell<Proxy>,
    /// The same.
    #[serde(skip)]
    pasta: RefCell<Option<Child>>,
}

impl Network {
    /// As the options say, and this user may.
    ///
    /// # Errors
    /// A bridge that this user may not make.
    pub fn plan(options: &Networking, view: &View, container: &Identity) -> Result<Self> {
        let may = readback::may_administer();
        let has_pasta = find_in_path(pasta::PROGRAM).is_some();
        let needs_root = "a bridge takes root, with CAP_NET_ADMIN over the host's network";
        let not_installed = "pasta is not installed (it is in the package passt)";
        let other = match &options.network {
            Some(Mode::Container(name)) => Some(Other::find(name, view, container)?),
            _ => None,
        };
        let (mode, why) = match options.network.clone() {
            Some(mode @ Mode::Container(_)) => (mode, None),
            _ if !view.has(Namespace::Net) => (Mode::Host, None),
            None if may || explain::dry_run() || options.ip.is_some() => (Mode::Bridge, None),
            None if has_pasta || !options.publish.is_empty() => (Mode::Pasta, None),
            None => (Mode::None, Some(format!("{needs_root}, and {not_installed}"))),
            Some(mode) => (mode, None),
        };
        if !explain::dry_run() {
            ensure!(may || mode != Mode::Bridge, "{needs_root}");
            ensure!(has_pasta || mode != Mode::Pasta, "{not_installed}");
            ensure!(!may || mode != Mode::Pasta, "pasta is for an ordinary user: root has the bridge");
        }
        Ok(Network {
            mode,
            why,
            other,
            options: options.clone(),
            names: container.name.iter().chain(&view.hostname).cloned().collect(),
            hostname: view.hostname.clone().unwrap_or_else(|| container.id.clone()),
            directory: container.directory.clone(),
            lease: OnceCell::new(),
            proxy: OnceCell::new(),
            pasta: RefCell::default(),
        })
    }

    /// The namespaces of this container; those of another one's have its ids.
    ///
    /// # Errors
    /// Those of [`Other::share`].
    pub fn share<R: Recipe>(
        &self,
        own: MappedNamespaces,
        its: impl FnOnce(R::Plan) -> MappedNamespaces,
    ) -> Result<MappedNamespaces> {
        match &self.other {
            Some(other) => other.share::<R>(own, its),
            None => Ok(own),
        }
    }

    /// The files that it writes, for the container to see.
    pub fn volumes(&self, root: &Root) -> Vec<Volume> {
        names::volumes(root, &self.directory)
    }

    fn lease(&self) -> Result<&Lease> {
        self.lease.get().context("no address has been leased")
    }

    /// Host, and no child yet: takes ports and an address, and makes what all share. The caller has the lock.
    fn join(&self) -> Result<()> {
        // First: nothing is to be undone yet where somebody has such a port.
        let doors = proxy::listen(&self.options.publish)?;
        let _line = explain::one_line(format_args!("bridge {BRIDGE}"));
        let address = lease::address(&self.directory, self.options.ip)?;
        let no_ipv6 = readback::why_no_ipv6()?;
        if let Some(why) = &no_ipv6 {
            explain::notice(format_args!("the container has no address of IPv6: {why}"));
        }
        let lease = Lease {
            address,
            ipv6: no_ipv6.is_none(),
            publish: self.options.publish.clone(),
            names: self.names.clone(),
            hostname: self.hostname.clone(),
            added: self.options.add_host.clone(),
        };
        lease::write(&self.directory, &lease)?;
        if !doors.is_empty() {
            let _ = self.proxy.set(Proxy::new(doors, &lease.publish, lease.address)?);
        }
        crate::make_bridge(lease::store(&self.directory)?, lease.ipv6)?;
        if lease.ipv6 {
            rules::heed_no_router();
        }
        let others = lease::others(&self.directory)?;
        let all: Vec<_> = others.iter().map(|(_, lease)| lease).chain([&lease]).cloned().collect();
        self.write_files(Some(&lease), &all)?;
        let _ = self.lease.set(lease);
        if let Some(why) = publish(&others, &all)? {
            explain::notice(why);
        }
        crate::forward()
    }

    /// Host, and the child held: its network, where there is no bridge.
    fn plug_in_pasta(&self, child: Pid) -> Result<()> {
        let program = find_in_path(pasta::PROGRAM).unwrap_or_default();
        match pasta::start(&program, child, &self.options.publish)? {
            Pasta::Runs(process) => _ = self.pasta.replace(Some(process)),
            Pasta::Refuses(why) if self.options.network.is_some() || !self.options.publish.is_empty() => {
                bail!("{}: {why}", pasta::PROGRAM)
            }
            Pasta::Refuses(why) => {
                explain::notice(format_args!("the container reaches nobody: {}: {why}", pasta::PROGRAM));
            }
            Pasta::DryRun => {}
        }
        Ok(())
    }

    /// Where there are none of these, there is no such file.
    fn write_ports(&self) -> Result<()> {
        if self.options.publish.is_empty() {
            return Ok(());
        }
        let lines: String = self.options.publish.iter().map(|port| format!("{port}\n")).collect();
        names::write(&self.directory, PORTS, &lines)
    }

    fn write_files(&self, own: Option<&Lease>, all: &[Lease]) -> Result<()> {
        self.write_ports()?;
        let hosts = names::hosts(own, &self.hostname, &self.options.add_host, all);
        names::write_all(&self.directory, &hosts, &self.hostname, &self.options.dns)
    }
}

/// Host: tells the kernel, and the neighbours, who is there now. Why there are no rules, where there are none.
fn publish(others: &[(PathBuf, Lease)], all: &[Lease]) -> Result<Option<String>> {
    for (directory, lease) in others {
        // One may be just going.
        let _ = names::write(directory, "hosts", &names::hosts(Some(lease), &lease.hostname, &lease.added, all));
    }
    rules::replace(all)
}

impl Part for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        if let Some(why) = &self.why {
            explain::notice(format_args!("the container reaches nobody: {why}"));
        }
        if self.mode == Mode::Bridge {
            let _lock = lease::lock()?;
            return self.join();
        }
        if self.mode == Mode::Pasta {
            // One that somebody has is found before anything is made. Then they are free again, for pasta to take.
            drop(proxy::listen(&self.options.publish)?);
        }
        let _line = explain::one_line("names");
        self.write_files(None, &[])
    }

    fn cradle(&self) -> Result<Option<Cradle>> {
        self.other.as_ref().map_or(Ok(None), Other::cradle)
    }

    fn admit(&self, child: Pid) -> Result<()> {
        match self.mode {
            Mode::Bridge => crate::plug_in(self.lease()?, child),
            Mode::Pasta => self.plug_in_pasta(child),
            Mode::None | Mode::Host | Mode::Container(_) => Ok(()),
        }
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        if self.mode == Mode::Bridge { crate::configure(self.lease()?) } else { Ok(()) }
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        match self.mode {
            Mode::Bridge => formula.light(Term::Namespace, &readback::facts(child, self.lease()?)?),
            Mode::Pasta if self.pasta.borrow().is_some() => {
                formula.light(Term::Namespace, &[readback::way_out(child, None)?])
            }
            Mode::Pasta | Mode::None | Mode::Host => Ok(()),
            Mode::Container(_) => {
                let facts = self.other.as_ref().map_or(Ok(Vec::new()), |other| other.facts(child))?;
                formula.light(Term::Namespace, &facts)
            }
        }
    }

    fn watch(&self) -> Vec<BorrowedFd<'_>> {
        self.proxy.get().into_iter().flat_map(Proxy::watch).collect()
    }

    fn serve(&self) {
        self.proxy.get().into_iter().for_each(Proxy::serve);
    }

    fn cleanup(&self) -> Result<()> {
        // In another process than the monitor it is gone: the kernel has ended it with that one.
        self.pasta.take().map_or(Ok(()), pasta::end)?;
        if !self.options.publish.is_empty() {
            lease::strike_out(&self.directory, PORTS)?;
        }
        if self.mode != Mode::Bridge {
            return Ok(());
        }
        // Another process reads what the one that has taken it has written down. Without, nothing has been made.
        let lease = match self.lease.get().map_or_else(|| lease::of(&self.directory), |it| Ok(Some(it.clone()))) {
            Ok(None) => return Ok(()),
            Ok(lease) => lease,
            // Its cable goes with its network namespace, if a moment later.
            Err(damage) => {
                explain::note(format_args!("{damage:#}"));
                None
            }
        };
        let _lock = lease::lock()?;
        let _line = explain::one_line("network");
        lease.as_ref().map_or(Ok(()), crate::unplug)?;
        let others = lease::others(&self.directory)?;
        if others.is_empty() {
            crate::remove_bridge(lease::store(&self.directory)?)?;
        }
        let all: Vec<_> = others.iter().map(|(_, lease)| lease.clone()).collect();
        if let Some(why) = publish(&others, &all)? {
            explain::note(why); // so there were none to begin with
        }
        // Last: until then it says to the next process that there is something to undo.
        lease::give_back(&self.directory)
    }
}

/// Host: removes the bridge and the rules, where no container is left that says that it is on it.
///
/// # Errors
/// Where the kernel refuses.
pub fn clean(store: &Path) -> Result<()> {
    if !readback::may_administer() || !crate::has_bridge(store)? {
        return Ok(());
    }
    let _lock = lease::lock()?;
    if lease::is_any(store)? {
        return Ok(());
    }
    explain::note("a bridge without containers is left");
    crate::remove_bridge(store)?;
    rules::replace(&[]).map(drop)
}

/// Prints the published ports of a container.
///
/// # Errors
/// Where there is no such container, or it is damaged.
pub fn print_ports<R: Recipe>(word: &str) -> Result<u8> {
    let container = Store::open::<R>()?.find(word)?;
    container.is_whole()?;
    let ports = match read(&container.identity().directory.join(PORTS), LARGEST) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        ports => ports.during("cannot read the published ports")?,
    };
    std::io::stdout().write_all(&ports).during("cannot write to standard output")?;
    Ok(0)
}
