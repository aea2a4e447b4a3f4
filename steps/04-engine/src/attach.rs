//! A command that speaks with a container whose streams are its own, as a terminal is: by way of its monitor, which lives
//! on without the command. [`Talk`] is the step's that makes such streams; what it ends with is the engine's.

use anyhow::{Result, ensure};
use shared::explain;

use crate::container::Container;
use crate::monitor;

/// Host, the caller's process: shows what a container writes, and sends it what is typed.
pub trait Talk {
    /// Connects, has the container started if it is not (`start`), and speaks with it.
    ///
    /// # Errors
    /// Those of `start`; [`Interrupted`](shared::signals::Interrupted), by a signal: the container goes on.
    fn speak(self: Box<Self>, container: &Container, start: &mut dyn FnMut() -> Result<()>) -> Result<Left>;
}

/// Which side has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The container: it has ended, most likely.
    Container,
    /// The caller, who wants the container to go on.
    Caller,
}

/// Host, the caller's process: speaks with a container until it ends, whose exit code this is; or until the caller
/// detaches: 0.
///
/// # Errors
/// Those of [`Talk::speak`]; where its monitor was killed, or has cut the connection.
pub fn attach(container: &Container, talk: Box<dyn Talk>, start: &mut dyn FnMut() -> Result<()>) -> Result<u8> {
    if explain::dry_run() {
        return talk.speak(container, start).map(|_| 0);
    }
    // Before it starts: with --rm, its directory can be gone a moment later.
    let mut exit = container.open_end()?;
    let init = container.state()?.init;
    if talk.speak(container, start)? == Left::Caller {
        return Ok(0);
    }
    let goes_on = format!("container {} goes on without this command, which was too slow for it", container.name());
    // Where it does not, its monitor cleans up.
    let end = monitor::end(container, &mut exit, || {
        ensure!(!init.is_some_and(|init| init.lives()), goes_on.clone());
        Ok(())
    })?;
    Ok(end.code)
}
