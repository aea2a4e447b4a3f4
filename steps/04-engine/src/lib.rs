//! Step 04: who looks after it?
//!
//! The heart is [`create`] and [`cleanup`]: what steps 01 to 03 have written by hand, with its moments named ([`Part`]).
//! Around it lies what a life cycle needs: a directory where each container is written down (`store`, `container`), a
//! parent that stays with it (`monitor`) or none (`orphan`), the table of what may be done when (`states`), its output
//! (`log`, `show`), all its processes at once (`members`), one more process for it (`join`), and what a killed engine has
//! left (`recovery`). What is born in namespaces that are there already, that process or a container that shares another
//! one's, gets in by setns(2) (`setns`). Where a container has a terminal of its own (step 08), a command speaks with it
//! (`attach`).
//!
//! A later step is a [`Recipe`]: its options, its list of parts, and `cli::main`. This step is the first of them; a small
//! one in a crate of its own is `tests/proof/recipe.rs`. (Where its source does not lie in `steps/NN-…`, its calls are
//! nobody's own, and none is folded.)
//!
//! Left open: root inside is still the caller outside (step 05); a container has no network but its own loopback (step
//! 06), no terminal of its own (step 08), and every right over its own namespaces (step 09).

#![deny(unsafe_code)]

pub mod attach;
pub mod cli;
mod commands;
pub mod container;
pub mod directory;
pub mod door;
pub mod identity;
pub mod join;
pub mod letter;
pub mod log;
pub mod members;
pub mod monitor;
mod orphan;
pub mod parts;
pub mod program;
pub mod protect;
pub mod recovery;
mod remedies;
pub mod setns;
pub mod show;
pub mod states;
pub mod store;
mod sys;
mod tables;
pub mod turn;

pub use letter::Letter;
pub use program::{Program, Right};
pub use remedies::known;
pub use setns::Cradle;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Result, bail};
use attach::Talk;
use cgroups::Limits;
use letter::Post;
use namespaces::{Held, Ready, View};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::formula::Formula;
use shared::remedy::Known;

/// A step from 04 on: its options, and what a container is made of. `main` is `engine::cli::main::<Options>()`.
///
/// The options are written down when a container is created; each command that follows reads them back.
pub trait Recipe: clap::Args + Serialize + DeserializeOwned + Send + 'static {
    /// The name of its command: `step` and two digits, by which `clean` knows its groups. `step04`.
    const STEP: &'static str;
    /// What the parts will make. It is written down before they make it; and any process of the same step that reads it
    /// can undo them. So it names things as they are named from anywhere: absolute paths, numbers, names.
    type Plan: Serialize + DeserializeOwned;
    /// The commands that this step adds; [`cli::NoCommand`] where there is none.
    type Command: clap::Subcommand + Send + 'static;
    /// The options that this step adds to `exec`; [`cli::NoOption`] where there is none.
    type Guest: clap::Args + Send + 'static;

    /// Host, the caller's process, once: the same options, in words that mean the same wherever they are read again:
    /// absolute paths, defaults filled in.
    ///
    /// # Errors
    /// Options that contradict each other, or cannot be followed here. Nothing has been made then.
    fn settled(self) -> Result<Self>;
    /// What the container may use up: what takes a cgroup, and on a machine with systemd a scope of its own.
    fn limits(&self) -> &Limits;
    /// Which namespaces are the child's own. Those that it joins in their place, a part joins in `enter`, or is the child's
    /// [`cradle`](Part::cradle).
    fn view(&self) -> &View;
    /// What stays with the container.
    fn keeper(&self) -> Keeper {
        Keeper::Monitor
    }
    /// Where the program's standard streams lead.
    fn streams(&self) -> Streams {
        Streams::Callers
    }
    /// Host, the caller's process: what speaks with a container whose streams are its [own](Streams::Own). `sends`: what is
    /// typed, too.
    ///
    /// # Errors
    /// Where the caller has no terminal to speak from.
    fn talk(&self, _sends: bool) -> Result<Box<dyn Talk>> {
        bail!("it has no terminal of its own")
    }
    /// Host, at the beginning of each run: decides what will be made, where and under which names; makes nothing.
    ///
    /// # Errors
    /// Where this machine cannot do it.
    fn plan(&self, container: &Identity) -> Result<Self::Plan>;
    /// The parts, in the order in which they are prepared, admitted and entered; they are undone in the opposite order.
    fn parts(plan: &Self::Plan) -> Vec<&dyn Part>;
    /// The plan, for one process that `exec` brings in.
    fn for_guest(plan: Self::Plan, _options: &Self::Guest) -> Self::Plan {
        plan
    }
    /// Does a command that this step adds. Its exit code.
    ///
    /// # Errors
    /// The command's own.
    fn run(command: Self::Command) -> Result<u8>;
    /// Host, at the end of `clean`: removes what the parts share, where no container in the store needs it any more.
    /// The last one does that itself, unless its record was damaged.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn clean(_store: &Path) -> Result<()> {
        Ok(())
    }
    /// What to do where a call of this step fails: its own [`Known`], and [`known`].
    fn known() -> Vec<&'static Known> {
        known()
    }
}

/// What stays with a container from its creation to its end, and waits for its first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A process of ours: see [`monitor`].
    Monitor,
    /// The caller, as OCI has it, or whichever subreaper is the nearest above: see prctl(2). What the child opens is closed
    /// before its program is started, and no group may be called `stepNN-…`: without a living maker `clean` removes it.
    Subreaper,
}

/// Where the standard streams of a container's program lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// In the foreground where the caller's do; in the background to a log.
    Callers,
    /// To what a part of the recipe makes. A monitor serves that, in the foreground too, where the command speaks with it.
    Own,
}

/// What a part may know of its container when it plans.
pub struct Identity {
    /// The step that makes it: `step04`.
    pub step: &'static str,
    /// Twelve hexadecimal digits, unique.
    pub id: String,
    /// As the user calls it.
    pub name: Option<String>,
    /// Its directory in the store, in memory: for a socket, say. Removed with the container.
    pub directory: PathBuf,
    /// A place on disk for what outlives a run. The engine does not make it; a part that does removes it in `remove`.
    pub data: PathBuf,
}

/// One part of a container, as it is planned: a plain value that can be written down and read back.
///
/// A part has no state that changes: everything takes `&self`, because [`enter`](Part::enter) runs in the child's copy of
/// memory, and the host would not see a change.
///
/// | moment | runs in | the child is | makes | undone by |
/// | --- | --- | --- | --- | --- |
/// | prepare | host | not born yet | what outlives the child | cleanup, remove |
/// | cradle | host | not born yet | nothing: says where the child is born | – |
/// | admit | host | held at the gate | ties between child and host | the child's death |
/// | enter | child | released | the child's own view | the child's death |
/// | confine | child | about to become the program | nothing: rights are given up | – |
/// | cleanup | host, any process of this step | gone: the end of a run | nothing | – |
/// | remove | host, any process of this step | gone: the end of the container | nothing | – |
pub trait Part {
    /// For errors: `cgroup`.
    fn name(&self) -> &'static str;
    /// Its cgroups, made or not: what is in them is frozen and killed.
    fn groups(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// Host, and no child yet: makes what will outlive the child, as the plan says. Descriptors that it opens are the
    /// child's too, until exec.
    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        Ok(())
    }
    /// Host, and no child yet, right before its birth: the namespaces of another process in which it is born, where some of
    /// them are. One part of a recipe has such at most.
    fn cradle(&self) -> Result<Option<Cradle>> {
        Ok(None)
    }
    /// Host, and the child held: its namespaces exist, and it has run nothing in them yet.
    fn admit(&self, _child: Pid) -> Result<()> {
        Ok(())
    }
    /// Child: changes its own view, and may send the host a letter. A failure here fails the whole container.
    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        Ok(())
    }
    /// Host, and the child ready: receives what this part's `enter` has sent.
    fn entered(&self, _child: Pid, _letter: Letter) -> Result<()> {
        Ok(())
    }
    /// Child, right before exec, and every process that `exec` brings in: says what the program is to be, and which
    /// rights it gives up. It changes nothing itself, as the order matters: see [`Right`].
    fn confine(&self, _program: &mut Program) -> Result<()> {
        Ok(())
    }
    /// Host, and the child ready: lights its term of the formula if the kernel confirms it.
    fn confirm(&self, _child: Pid, _formula: &mut Formula) -> Result<()> {
        Ok(())
    }
    /// Host, and the program has begun: all that there was to print is printed.
    fn begun(&self) -> Result<()> {
        Ok(())
    }
    /// Host, while the program runs: descriptors to poll. [`serve`](Part::serve) is called when one of them is readable.
    fn watch(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
    /// Host, right before the program begins, and while it runs, after each signal too: reads what can be read now, and
    /// never waits.
    fn serve(&self) {}
    /// Host, after [`serve`](Part::serve), where `exec` runs a program: not empty once its caller detaches. The
    /// descriptors are kept until that program ends, and the first of them is read; it does not block.
    fn farewell(&self) -> Option<Letter> {
        None
    }
    /// Host, and the program gone: receives what it has left to be read.
    fn ended(&self) -> Result<()> {
        Ok(())
    }
    /// Helper, before it joins the container to bring a process in: changes what that process inherits.
    fn join(&self) -> Result<()> {
        Ok(())
    }
    /// Host, and a process that `exec` brings in held: ties it to what the container has. `init` is its first process.
    fn admit_guest(&self, _guest: Pid, _init: Pid) -> Result<()> {
        Ok(())
    }
    /// A process that `exec` brings in, in the container's namespaces and root: what `enter` is to the first one.
    fn enter_guest(&self, _letter: &mut Letter) -> Result<()> {
        Ok(())
    }
    /// Host, and the child gone or never born: undoes what `prepare` has made for this run. Another process may call it,
    /// from another directory and cgroup, and again: it relies on the plan alone, and succeeds where there is nothing.
    fn cleanup(&self) -> Result<()> {
        Ok(())
    }
    /// The same for what `prepare` has made for the container, and that outlives a run.
    fn remove(&self) -> Result<()> {
        Ok(())
    }
    /// Host, at any time: bytes on disk of what outlives a run; `None` where there is no such thing.
    fn disk(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Host: makes a container from its parts, up to the moment before its program begins: OCI calls it *created*. A child
/// whose `Ready` is dropped is killed; [`cleanup`] must follow, also after a failure.
///
/// # Errors
/// Those of the parts and of clone(2), and whatever fails in the child.
pub fn create<'a>(
    view: &View,
    parts: &'a [&'a dyn Part],
    mut program: Program,
    formula: &mut Formula,
) -> Result<Ready<'a>> {
    // Host, and no child yet: what will outlive the child.
    each(parts, |part| part.prepare(formula))?;

    // Child, once released: its own view, and a letter from each part.
    let post = Rc::new(Post::open()?);
    let its_post = Rc::clone(&post);
    let enter = move || each(parts, |part| its_post.send(|letter| part.enter(letter)));
    // Child, once started: what it gives up, and its last act.
    let become_program = move || {
        each(parts, |part| part.confine(&mut program))?;
        program.execute()
    };

    // Host, and the child held: what ties it to the host, before it mounts or runs anything.
    let held = clone(parts, view, enter, become_program)?;
    each(parts, |part| part.admit(held.pid()))?;
    let ready = held.release()?;

    // Host, and the child ready: what it has sent; and a term is true if the kernel confirms it.
    each(parts, |part| part.entered(ready.pid(), post.receive()?))?;
    each(parts, |part| part.confirm(ready.pid(), formula))?;
    Ok(ready)
}

/// Host, and the child gone: undoes a run, last made first, and continues after a failure. Reports the first.
///
/// # Errors
/// The first part's that failed.
pub fn cleanup(parts: &[&dyn Part]) -> Result<()> {
    parts.iter().rev().map(|part| named(*part, part.cleanup())).fold(Ok(()), Result::and)
}

/// The same with what outlives a run.
///
/// # Errors
/// The first part's that failed.
pub fn remove(parts: &[&dyn Part]) -> Result<()> {
    parts.iter().rev().map(|part| named(*part, part.remove())).fold(Ok(()), Result::and)
}

/// Host: makes the child in namespaces of its own, or where a part has a cradle, in there as well.
fn clone<'a>(
    parts: &[&dyn Part],
    view: &View,
    enter: impl FnMut() -> Result<()> + 'a,
    program: impl FnMut() -> Result<()> + 'a,
) -> Result<Held<'a>> {
    let mut cradles = parts.iter().map(|part| named(*part, part.cradle()));
    match cradles.find_map(Result::transpose).transpose()? {
        None => namespaces::clone(view, enter, program),
        Some(cradle) => setns::clone_in(&cradle, view, enter, program),
    }
}

fn each<'a>(parts: &[&'a dyn Part], mut act: impl FnMut(&'a dyn Part) -> Result<()>) -> Result<()> {
    parts.iter().try_for_each(|part| named(*part, act(*part)))
}

/// An error from a part names it.
fn named<T>(part: &dyn Part, result: Result<T>) -> Result<T> {
    let name = part.name();
    result.map_err(|error| match error.is::<shared::signals::Interrupted>() || error.to_string().starts_with(name) {
        true => error,
        false => error.context(name),
    })
}
