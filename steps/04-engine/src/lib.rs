//! Step 04: who looks after it?
//!
//! The heart is [`create`] and [`cleanup`]: the recipe that steps 01 to 03 have written by hand, with its four moments
//! named ([`Part`]). Around it lies what a life cycle takes: a folder where each container is written down (`store`, `container`), a
//! parent that stays with it (`monitor`), the table of what may be done when (`states`), its output (`log`), all its
//! processes at once (`members`), one more process for it (`join`).
//!
//! Left open: root inside is still the caller outside (step 05); a container has no network but its own loopback (step
//! 06), no terminal of its own (step 08), and every right over its own namespaces (step 09).

#![forbid(unsafe_code)]

pub mod container;
pub mod identity;
pub mod join;
pub mod log;
pub mod members;
pub mod monitor;
pub mod parts;
pub mod protect;
pub mod recovery;
mod remedies;
pub mod setns;
pub mod states;
pub mod store;

pub use remedies::known;

use std::path::PathBuf;

use anyhow::Result;
use namespaces::{Ready, View};
use nix::unistd::Pid;
use shared::formula::Formula;

/// What a container is made of: one term of the formula, or a part of one.
///
/// A part describes, and the kernel keeps: everything takes `&self`, because what [`enter`](Part::enter) writes into
/// memory is written into the child's copy of it.
///
/// | moment | runs in | the child is | makes | undone by |
/// | --- | --- | --- | --- | --- |
/// | prepare | host | not born yet | what outlives the child | cleanup |
/// | admit | host | held at the gate | ties between child and host | the child's death |
/// | enter | child | let through | the child's own view | the child's death |
/// | cleanup | host | gone | nothing | – |
pub trait Part {
    /// The folders of its cgroups, made or not: written down before anything is made, so that every other command can
    /// freeze and end what is in them, and take them away if their maker was killed.
    fn cgroups(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// Host, and no child yet: makes what will outlive the child.
    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        Ok(())
    }
    /// Host, and the child held: ties it to what the host has for it, before it has run anything.
    fn admit(&self, _child: Pid) -> Result<()> {
        Ok(())
    }
    /// Child: changes its own view. Fails for the whole container.
    fn enter(&self) -> Result<()> {
        Ok(())
    }
    /// Host, and the child ready: lights its term of the formula if the kernel confirms it.
    fn confirm(&self, _child: Pid, _formula: &mut Formula) -> Result<()> {
        Ok(())
    }
    /// Host, and the child gone, or never born: takes away what `prepare` has made. Succeeds where there is nothing.
    fn cleanup(&self) -> Result<()> {
        Ok(())
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
    program: impl FnMut() -> Result<()> + 'a,
    formula: &mut Formula,
) -> Result<Ready<'a>> {
    // Host, and no child yet: what will outlive the child.
    parts.iter().try_for_each(|part| part.prepare(formula))?;

    // Child, once released: its own view.
    let enter = || parts.iter().try_for_each(|part| part.enter());

    // Host, and the child held: what ties it to the host, before it mounts or runs anything.
    let held = namespaces::clone(view, enter, program)?;
    parts.iter().try_for_each(|part| part.admit(held.pid()))?;
    let ready = held.release()?;

    // Host, and the child ready: a term is true if the kernel confirms it.
    parts.iter().try_for_each(|part| part.confirm(ready.pid(), formula))?;
    Ok(ready)
}

/// Host, and the child gone: takes everything away, last made first, and stops at no failure. Reports the first.
pub fn cleanup(parts: &[&dyn Part]) -> Result<()> {
    parts.iter().rev().map(|part| part.cleanup()).fold(Ok(()), Result::and)
}
