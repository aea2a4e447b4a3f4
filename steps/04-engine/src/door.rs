//! How commands speak with a monitor: the one that has made it, and the one that has its program begin.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use shared::call;
use shared::explain;
use shared::failure::{During, Failure, answer};
use shared::signals;

use crate::container::Container;
use crate::identity::has_ended;
use crate::monitor::LOOK;

/// To a command that waits for an answer: "it is done". Anything else is a failure's exit code, sentence and remedy.
const DONE: u8 = 0;

/// A command that waits for an answer, and gets one. One that was killed hears nothing; the container lives on, and is
/// listed.
pub struct Asker(pub(crate) Option<UnixStream>);

/// Makes the socket `start`.
pub(crate) fn listen(container: &Container) -> Result<UnixListener> {
    let listener = explain::host(call!("bind({})", container.path("start").display())).run(|| {
        // Of the last time that it was started.
        let _ = std::fs::remove_file(container.at("start"));
        // By way of a descriptor: an address has at most 107 bytes, and a path can be longer. See unix(7).
        UnixListener::bind(container.at("start")).map(OwnedFd::from)
    })?;
    Ok(listener.into())
}

/// Monitor: waits until a command wants the program to begin; `None` where the child has ended before.
///
/// # Errors
/// [`Interrupted`](signals::Interrupted), by a signal; where no command can find the container any more.
pub fn wait_for_start(listener: &UnixListener, container: &Container, child: Pid) -> Result<Option<Asker>> {
    if explain::dry_run() {
        explain::note("dry run: here the monitor waits for `start`");
        return Ok(Some(Asker(None)));
    }
    listener.set_nonblocking(true).during("cannot listen")?;
    // First the look, then the wait: the SIGCHLD of a child that has ended already may have been taken before.
    while !has_ended(child)? {
        if let Some(received) = signals::wait_for(&[listener.as_fd()], Some(LOOK))? {
            signals::interrupt(received)?;
            continue;
        }
        match listener.accept() {
            Ok((asker, _)) => return Ok(Some(Asker(Some(asker)))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(container.exists(), "its directory is gone");
            }
            Err(error) => return Err(error).during("cannot accept a connection"),
        }
    }
    Ok(None)
}

impl Asker {
    /// Monitor, or the child itself where it has none: answers it.
    pub fn answer<T>(&mut self, started: &Result<T>) {
        let Some(mut asker) = self.0.take() else { return };
        let _ = asker.write_all(&started.as_ref().map_or_else(|error| Failure::of(error).to_bytes(), |_| vec![DONE]));
    }
}

/// Host: has the program of a created container begin. An ending signal ends the wait for that, and not the container.
///
/// # Errors
/// 127 where the program was not found, 126 where it cannot be executed.
pub fn start(container: &Container) -> Result<()> {
    let late = format!(
        "container {} does not wait to be started any more: another engine has started or ended it, or its monitor was killed",
        container.name()
    );
    let monitor = explain::host(call!("connect({})", container.path("start").display()))
        .run(|| UnixStream::connect(container.at("start")).map(OwnedFd::from));
    let monitor = monitor.with_context(|| late.clone())?;
    explain::note("the last gate opens: the child becomes its program");
    if explain::dry_run() {
        return Ok(());
    }
    let answer = answer(&mut UnixStream::from(monitor), signals::interrupt)?;
    // Without a monitor it is the child that listens, and exec has closed its end.
    ensure!(answer.is_some() || container.state().is_ok_and(|state| state.is_orphan()), late);
    Ok(())
}
