//! A container without a monitor, as OCI has it: what has made it ends, and the nearest subreaper above adopts its first
//! process and waits for it. See PR_SET_CHILD_SUBREAPER in prctl(2).
//!
//! ```text
//! create    create (lib.rs) ── state.json ── opens the gate ─┐
//! child        └─ enter ── held ─────────────────────────────┴─ waits at its own door ── exec, program
//! start                                                         └─ connects ───────────┘
//! ```
//!
//! While its maker lives, the child dies with it: there is never one that no record names. How it ends, and when its
//! groups are removed, is the caller's concern: nobody here writes down an end, and `rm` undoes the parts.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use anyhow::Result;
use namespaces::Ready;
use nix::sys::prctl::set_pdeathsig;
use shared::call;
use shared::explain;
use shared::failure::During;

use crate::container::{Container, Life, State};
use crate::door::{self, Asker};
use crate::{Part, Program, Recipe, monitor, sys};

/// Host: makes a container up to the moment before its program begins; [`door::start`] by any process is what it then
/// waits for.
///
/// # Errors
/// Those of [`create`](crate::create). Nothing is left then.
pub fn create<R: Recipe>(container: &Container, life: &Life) -> Result<()> {
    match make::<R>(container, life) {
        Err(error) => monitor::finish::<R>(container, life, false, Err(error)).map(drop),
        made => made,
    }
}

fn make<R: Recipe>(container: &Container, life: &Life) -> Result<()> {
    let recipe: R = container.config.recipe()?;
    let door = OwnDoor(door::listen(container)?);
    let plan = recipe.plan(&container.identity())?;
    let made = R::parts(&plan);
    let parts: Vec<_> =
        [life as &dyn Part].into_iter().chain(made.iter().copied()).chain([&door as &dyn Part]).collect();
    let born = monitor::bear(container, &recipe, &plan, &parts);
    let left = born.and_then(|(ready, state)| leave(container, ready, state));
    left.or_else(|error| explain::with_cleanup(Err(error), crate::cleanup(&made)).map(drop))
}

/// Host: from here on nothing of ours stays with it.
fn leave(container: &Container, ready: Ready, state: State) -> Result<()> {
    let child = ready.start()?; // up to its own door
    container.save(&State { monitor: None, ..state })?;
    std::mem::forget(child); // dropped, it would be killed
    Ok(())
}

/// The child's last part: it waits itself for the command that has it begin.
struct OwnDoor(UnixListener);

impl Part for OwnDoor {
    fn name(&self) -> &'static str {
        "start"
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        explain::child(call!("prctl(PR_SET_PDEATHSIG, 0)")).run(|| set_pdeathsig(None))?;
        // Its end of the gate is among them: to its maker that looks like exec, and it goes.
        explain::child(call!("close_range(3, ~0U, 0)")).printed_first().run(|| {
            explain::hush();
            sys::close_all_but(self.0.as_fd())
        })?;
        if !explain::dry_run() {
            program.asker = Some(Asker(Some(self.0.accept().during("cannot accept a connection")?.0)));
        }
        Ok(())
    }
}
