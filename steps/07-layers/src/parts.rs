//! This step as a part of a container.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use engine::container::{Container, Life};
use engine::monitor::PATIENCE;
use engine::states::Status;
use engine::store::Store;
use engine::{Identity, Letter, Part, Program, Recipe};
use namespaces::View;
use nix::errno::Errno;
use nix::unistd::Pid;
use rootfs::{Root, Volume};
use serde::{Deserialize, Serialize};
use shared::failure::{self, During};
use shared::formula::{Formula, Term};
use shared::lock::try_lock;
use shared::signals;
use users::parts::{MappedNamespaces, MappedRoot, Tree};
use users::ranges::is_owner_inside;

use crate::ids::{Inside, OwnerIds};
use crate::layer::Layer;
use crate::options::Layering;
use crate::{commit, diff, readback};

/// A root of layers: what the container writes is its own.
#[derive(Serialize, Deserialize)]
pub struct LayeredRoot {
    root: MappedRoot,
    /// None where the root itself is written to, as in step 06.
    layers: Option<Layers>,
}

#[derive(Serialize, Deserialize)]
struct Layers {
    /// The container's own directory on disk.
    data: Tree,
    /// The root, and what lies on it.
    lowers: Vec<Tree>,
    inside: Inside,
}

impl LayeredRoot {
    /// As the options say.
    ///
    /// # Errors
    /// Those of [`MappedRoot::plan`].
    pub fn plan(
        layering: &Layering,
        namespaces: &MappedNamespaces,
        root: &Root,
        view: &View,
        container: &Identity,
    ) -> Result<Self> {
        let root = MappedRoot::plan(namespaces, root, view, container)?;
        let Some(on_the_root) = layering.on_the_root() else { return Ok(LayeredRoot { root, layers: None }) };
        let inside = Inside(namespaces.choice().clone());
        let lower = |dir: &Path| {
            let is_strange = inside.0.given_by_root().is_some_and(|map| !is_owner_inside(dir, map));
            Tree::new(dir, Path::new("/"), is_strange, false)
        };
        let lowers = std::iter::once(root.dir()).chain(on_the_root.iter().map(PathBuf::as_path)).map(lower).collect();
        let data = Tree::new(&container.data, Path::new("/"), false, false);
        Ok(LayeredRoot { root: root.without_root(), layers: Some(Layers { data, lowers, inside }) })
    }

    /// The same, and the child sees these of the host's, too; they need not be there before `prepare`.
    pub fn with_volumes(self, more: Vec<Volume>) -> Self {
        LayeredRoot { root: self.root.with_volumes(more), ..self }
    }

    fn layers(&self) -> Result<&Layers> {
        self.layers.as_ref().context("it has no layer of its own: it was made with --no-overlay")
    }
}

impl Layers {
    /// The trees that the host opens for the child, where that may not search the way to them itself.
    fn opened_by_host(&self) -> impl Iterator<Item = &Tree> {
        let is_opened = self.inside.0.given_by_root().is_some();
        std::iter::once(&self.data).chain(&self.lowers).filter(move |_| is_opened)
    }

    fn upper(&self) -> PathBuf {
        self.data.source().join("upper")
    }

    /// Whose files are not mapped belong to the ids of the container already.
    fn lower(&self, tree: &Tree) -> Result<Layer> {
        Layer::open(tree.source(), if tree.is_mapped() { OwnerIds::Same } else { self.inside.ids() })
    }

    fn changes(&self) -> Result<Vec<diff::Change>> {
        self.inside.with_all_rights(|| {
            let lowers: Vec<_> = self.lowers.iter().rev().map(|tree| self.lower(tree)).collect::<Result<_>>()?;
            let upper = Layer::open(&self.upper(), self.inside.ids())?;
            diff::changes(&upper, &lowers.iter().collect::<Vec<_>>())
        })
    }
}

impl Part for LayeredRoot {
    fn name(&self) -> &'static str {
        "layers"
    }

    fn prepare(&self, formula: &mut Formula) -> Result<()> {
        if let Some(layers) = &self.layers {
            let top = layers.lowers.last().context("there is a root")?.source();
            let mode = top.metadata().map_or(0o755, |it| it.mode() & 0o7777); // a dry run may have none
            crate::make_upper(layers.data.source(), layers.lowers.len(), layers.inside.root(), mode)?;
            layers.opened_by_host().try_for_each(Tree::open)?;
        }
        self.root.prepare(formula)
    }

    fn admit(&self, child: Pid) -> Result<()> {
        if let Some(layers) = &self.layers {
            let map = layers.inside.0.given_by_root();
            layers.opened_by_host().zip(map.into_iter().cycle()).try_for_each(|(tree, map)| tree.map(map, child))?;
        }
        self.root.admit(child)
    }

    fn enter(&self, letter: &mut Letter) -> Result<()> {
        let Some(layers) = &self.layers else { return self.root.enter(letter) };
        crate::stand_beside(&layers.data, &layers.lowers, layers.opened_by_host().next().is_some())?;
        let overlay = crate::mount_overlay(layers.data.source(), &layers.lowers)?;
        users::stand_on(overlay.as_fd())?;
        self.root.fill_and_pivot()
    }

    fn entered(&self, child: Pid, letter: Letter) -> Result<()> {
        self.layers.iter().flat_map(Layers::opened_by_host).for_each(Tree::close);
        self.root.entered(child, letter)
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        self.root.confine(program)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        match &self.layers {
            Some(layers) => formula.light(Term::Rootfs, &readback::facts(child, layers.lowers.len())?),
            None => self.root.confirm(child, formula),
        }
    }

    fn disk(&self) -> Result<Option<u64>> {
        let Some(layers) = self.layers.as_ref().filter(|layers| layers.upper().exists()) else { return Ok(None) };
        let upper = || commit::size(&Layer::open(&layers.upper(), layers.inside.ids())?);
        layers.inside.with_all_rights(upper).map(Some)
    }

    fn remove(&self) -> Result<()> {
        let Some(layers) = &self.layers else { return Ok(()) };
        crate::remove_upper(layers.data.source(), |remove| layers.inside.with_all_rights(remove))
    }
}

/// Prints what a container has changed.
///
/// # Errors
/// Where there is no such container, or it writes into its root itself.
pub fn print_changes<R: Recipe>(word: &str, root: impl Fn(&R::Plan) -> &LayeredRoot) -> Result<u8> {
    let (_, plan) = planned::<R>(word)?;
    let changes: String = root(&plan).layers()?.changes()?.iter().map(|change| format!("{change}\n")).collect();
    std::io::stdout().write_all(changes.as_bytes()).during("cannot write to standard output")?;
    Ok(0)
}

/// Makes a layer of what a container has written: all of one moment, as nothing in it runs.
///
/// # Errors
/// Where it runs; those of [`commit::directory`] and [`commit::archive`].
pub fn commit<R: Recipe>(word: &str, to: &Path, root: impl Fn(&R::Plan) -> &LayeredRoot) -> Result<u8> {
    let (container, plan) = planned::<R>(word)?;
    let layers = root(&plan).layers()?;
    // Until it is whole, nobody starts or removes it. A paused one is its monitor's, and does not run either.
    let status = container.status()?;
    let life = match status {
        Status::Running | Status::Creating => {
            bail!("container {word} runs, and a layer is of one moment: `pause` or `stop` it before")
        }
        Status::Paused | Status::Created => None,
        Status::Stopped | Status::Dead => Some(take(&container)?),
    };
    // Nor does another commit.
    let data = layers.data.source();
    let at_work = try_lock(data).map_err(|errno| match errno {
        Errno::EWOULDBLOCK => anyhow!("another commit of container {word} is at work"),
        errno => anyhow!("cannot lock {}: {}", data.display(), failure::errno(errno)),
    })?;
    let is_as_it_was = || {
        let is_same = life.is_some() || container.status().is_ok_and(|now| now == status);
        ensure!(is_same, "container {word} went on while its layer was made: commit it once more");
        Ok(())
    };
    let from = commit::Source { data, inside: &layers.inside, is_as_it_was: &is_as_it_was };
    let is_archive = to.extension().is_some_and(|extension| extension == "tar");
    let committed = if is_archive { commit::archive(&from, to) } else { commit::directory(&from, to) };
    drop(at_work);
    drop(life);
    committed.map(|()| 0)
}

/// Takes a container into this process's care, as soon as no other is at work on it.
fn take(container: &Container) -> Result<Life> {
    let since = Instant::now();
    loop {
        if let Some(life) = container.take()? {
            return Ok(life);
        }
        ensure!(since.elapsed() < PATIENCE, "another engine is at work on container {}", container.name());
        signals::pause(signals::MOMENT)?;
    }
}

fn planned<R: Recipe>(word: &str) -> Result<(Container, R::Plan)> {
    let container = Store::open::<R>()?.find(word)?;
    container.is_whole()?;
    container.is_ours()?;
    let plan = container.state()?.plan::<R>()?;
    let plan = plan.with_context(|| format!("container {word} has not been made yet"))?;
    Ok((container, plan))
}
