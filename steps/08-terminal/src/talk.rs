//! The commands that speak with a container's terminal: `run`, `start -a`, `attach`.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use engine::attach::{Left, Talk, attach};
use engine::container::{Container, Snapshot};
use engine::states::{Status, Verb};
use engine::store::Store;
use engine::{Recipe, Streams};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shared::explain;
use shared::signals::{self, Received};

use crate::Window;
use crate::caller::{Caller, Far, check_input, own_window};
use crate::keys::Keys;
use crate::line::{self, Message};

/// A command that will speak with a container's terminal.
pub struct Talker {
    sends: bool,
    keys: Keys,
}

/// Host, the caller's process, before anything is made.
///
/// # Errors
/// Where something is to be sent, and there is no terminal to type on.
pub fn talker(sends: bool, keys: &Keys) -> Result<Box<dyn Talk>> {
    if sends && !explain::dry_run() {
        check_input()?;
    }
    Ok(Box::new(Talker { sends, keys: keys.clone() }))
}

impl Talk for Talker {
    fn speak(self: Box<Self>, container: &Container, start: &mut dyn FnMut() -> Result<()>) -> Result<Left> {
        let line = line::connect_to(container)?;
        if explain::dry_run() {
            return start().map(|()| Left::Container);
        }
        let Snapshot { status, state, .. } = container.snapshot()?;
        let runs = status == Status::Running;
        if let Some(window) = own_window() {
            // A program that runs already has drawn its screen elsewhere: a change of size has it draw it here, too.
            let rows = if runs { window.rows.saturating_add(1) } else { window.rows };
            // Before it starts, as its program asks at once.
            let _ = line::say(line.as_fd(), &Message::Size(Window { rows, ..window }).to_bytes());
        }
        start()?;
        // What this command prints of itself is over: from here on its terminal is the container's.
        let caller = Caller::new(Far::Monitor(line), self.sends, &self.keys)?;
        if runs {
            caller.wait_for_its_screen()?;
        }
        loop {
            match caller.serve()? {
                Some(Left::Caller) => {
                    drop(caller);
                    let name = container.name();
                    explain::notice(format_args!("detached: container {name} goes on (`attach {name}` comes back)"));
                    return Ok(Left::Caller);
                }
                Some(left) => return Ok(left),
                None => {}
            }
            match signals::wait(&[caller.watch()])? {
                // The first is a monitor's, the second was only to be noticed.
                Some(received) if received.is(Signal::SIGCHLD) || received.is(Signal::SIGWINCH) => {}
                Some(received) if received.is(Signal::SIGCONT) => caller.again()?,
                // The caller's terminal is closed. That of the container is not.
                Some(received) if received.is(Signal::SIGHUP) => signals::interrupt(received)?,
                Some(received) => match state.init.filter(|init| matches!(init.open(), Ok(Some(_)))) {
                    // No key's signal has reached it, as it is in another session.
                    Some(init) => {
                        process::pass_on(Pid::from_raw(init.pid), Received { by_terminal: false, ..received })?
                    }
                    None => signals::interrupt(received)?,
                },
                None => {}
            }
        }
    }
}

/// Host: `attach`. The container's exit code, or 0 where it goes on.
///
/// # Errors
/// Where it does not run, or has no terminal; those of [`attach`].
pub fn run<R: Recipe>(word: &str, talk: impl FnOnce(R) -> Result<Box<dyn Talk>>) -> Result<u8> {
    let container = Store::open::<R>()?.find(word)?;
    container.allows(Verb::Exec)?;
    let recipe: R = container.config.recipe()?;
    let name = container.name();
    ensure!(
        recipe.streams() == Streams::Own,
        "container {name} has no terminal: `logs -f {name}` shows what it writes"
    );
    attach(&container, talk(recipe)?, &mut || Ok(()))
}
