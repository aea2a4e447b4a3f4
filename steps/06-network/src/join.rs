//! The network of another container: `--network container:NAME`. Who shares it shares the user namespace that owns it, as
//! with Docker: root inside has the same rights over the network as the other's root. So the child is born in both, and
//! its other namespaces are new and belong to that user namespace. See [`Cradle`].
//!
//! The two are one where it comes to ids: the map is the other's. Neither sees the other's processes or files.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use engine::container::State;
use engine::identity::Process;
use engine::join::to_join;
use engine::states::Status;
use engine::store::Store;
use engine::{Cradle, Identity, Recipe};
use namespaces::{Namespace, View};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use shared::explain::{self, Returned};
use shared::failure::During;
use shared::formula::Fact;
use users::parts::MappedNamespaces;

/// Whose network it is.
#[derive(Serialize, Deserialize)]
pub struct Other {
    name: String,
    /// The process whose namespaces are shared.
    member: Process,
    /// Which: where the other one has none of its own, or the child is to have none, the user namespace is not among them.
    shared: Vec<(Namespace, String)>,
    /// In the process that has found it.
    #[serde(skip)]
    state: State,
}

impl Other {
    /// A container of the same step, which runs.
    ///
    /// # Errors
    /// Where there is none of this name, it does not run, another step has made it, or it is this one; where its processes
    /// could see the child.
    pub fn find(name: &str, view: &View, container: &Identity) -> Result<Self> {
        let may_share = |kind: &Namespace| match kind {
            Namespace::Net => true,
            Namespace::User => view.has(Namespace::User),
            _ => false,
        };
        if explain::dry_run() {
            let kinds = [Namespace::User, Namespace::Net].into_iter().filter(may_share);
            let shared = kinds.map(|kind| (kind, String::new())).collect();
            let (member, state) = (Process { pid: 0, start: 0 }, State::default());
            return Ok(Other { name: name.to_owned(), member, shared, state });
        }
        let other = Store::of(container.step)?.find(name)?;
        let directory: PathBuf = other.identity().directory;
        ensure!(directory != container.directory, "a container has its own network, or that of another one");
        other.is_whole()?;
        other.is_ours()?;
        let snapshot = other.snapshot()?;
        let (status, state) = (snapshot.status, snapshot.state);
        let runs = matches!(status, Status::Running | Status::Paused);
        ensure!(runs, "container {name} is {status}: its network is there as long as it runs");
        let member = to_join(state.init.context("a container that runs has a first process")?);
        let pid = Pid::from_raw(member.pid);
        let own = namespaces::own_of(pid)?;
        let sees_all = !own.contains(&Namespace::Pid);
        let shared =
            own.into_iter().filter(may_share).map(|kind| Ok((kind, namespaces::link(&pid.to_string(), kind)?)));
        let other = Other { name: name.to_owned(), member, shared: shared.collect::<Result<_>>()?, state };
        ensure!(
            !sees_all || !other.shares_user(),
            "container {name} has no pid namespace: it could look into a process that shares its user namespace before that \
             is its program"
        );
        Ok(other)
    }

    /// These namespaces of a container, with the ids of the other one where they share a user namespace.
    ///
    /// # Errors
    /// Where the other one's plan cannot be read.
    pub fn share<R: Recipe>(
        &self,
        own: MappedNamespaces,
        its: impl FnOnce(R::Plan) -> MappedNamespaces,
    ) -> Result<MappedNamespaces> {
        if !self.shares_user() {
            return Ok(own);
        }
        let plan = self.state.plan::<R>().with_context(|| format!("container {}", self.name))?;
        Ok(own.shared_with(plan.map(its)))
    }

    /// Host, and no child yet: where it is born. Nowhere else than usual where both are the host's.
    ///
    /// # Errors
    /// Where the other one has ended.
    pub fn cradle(&self) -> Result<Option<Cradle>> {
        let Other { name, member, shared, .. } = self;
        if shared.is_empty() {
            return Ok(None);
        }
        let process =
            if explain::dry_run() { Some(Returned::stand_in().during("/dev/null")?) } else { member.open()? };
        let Some(process) = process else { bail!("container {name} has just ended, and its network with it") };
        Ok(Some(Cradle { process, namespaces: shared.iter().map(|(kind, _)| *kind).collect() }))
    }

    /// Host: that the child is in there.
    ///
    /// # Errors
    /// ENOENT where the child is gone.
    pub fn facts(&self, child: Pid) -> Result<Vec<Fact>> {
        let fact = |(kind, its): &(Namespace, String)| {
            let (name, child) = (&self.name, namespaces::link(&child.to_string(), *kind)?);
            Ok(Fact {
                what: format!("{} of {name}", kind.file()),
                host: String::new(),
                holds: child == *its,
                child,
                brief: format!("{} is that of {name}", kind.file()),
            })
        };
        if explain::dry_run() { Ok(Vec::new()) } else { self.shared.iter().map(fact).collect() }
    }

    fn shares_user(&self) -> bool {
        self.shared.iter().any(|(kind, _)| *kind == Namespace::User)
    }
}
