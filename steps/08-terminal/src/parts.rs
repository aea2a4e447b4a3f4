//! This step as a part of a container.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use engine::attach::Left;
use engine::log::Log;
use engine::{Identity, Letter, Part, Program, Right};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use shared::explain;
use shared::failure::During;
use shared::formula::Formula;
use shared::signals;

use crate::caller::{Caller, Far, check_input, own_window};
use crate::hub::Hub;
use crate::keys::Keys;
use crate::options::{GuestTalking, Talking};
use crate::{Pty, init, line, set_size};

/// The terminal of a container's program, or of a process that `exec` brings in.
#[derive(Default, Serialize, Deserialize)]
pub struct Terminal {
    tty: bool,
    interactive: bool,
    init: bool,
    /// `exec`: those that detach.
    #[serde(skip)]
    keys: Keys,
    /// The container's, in the store.
    directory: PathBuf,
    /// Without a terminal: the caller's, for writing.
    #[serde(skip)]
    outputs: Cell<[Option<File>; 2]>,
    /// Monitor: until there is a terminal to connect to.
    #[serde(skip)]
    listener: Cell<Option<OwnedFd>>,
    /// Monitor.
    #[serde(skip)]
    hub: OnceCell<Hub>,
    /// `exec`: until its program has begun.
    #[serde(skip)]
    master: Cell<Option<OwnedFd>>,
    /// `exec`: until its program has ended, as [`Hub`] has it.
    #[serde(skip)]
    peer: Cell<Option<OwnedFd>>,
    /// `exec`.
    #[serde(skip)]
    caller: OnceCell<Caller>,
    /// `exec`: the caller detaches.
    #[serde(skip)]
    leaves: Cell<bool>,
}

impl Terminal {
    /// As the options say.
    pub fn plan(options: &Talking, container: &Identity) -> Self {
        let Talking { interactive, tty, init, .. } = *options;
        let directory = container.directory.clone();
        Terminal { tty, interactive, init, directory, ..Terminal::default() }
    }

    /// The same, for a process that `exec` brings in.
    pub fn for_guest(options: &GuestTalking) -> Self {
        let GuestTalking { tty, interactive, ref detach_keys } = *options;
        // With a terminal, its helper would keep them open once the caller has detached.
        let outputs = Cell::new(if tty { [None, None] } else { crate::write_only() });
        Terminal { tty, interactive, keys: detach_keys.clone(), outputs, ..Terminal::default() }
    }
}

impl Part for Terminal {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        match self.tty {
            true => self.listener.set(Some(line::listen_in(&self.directory)?)),
            false => self.outputs.set(crate::write_only()),
        }
        Ok(())
    }

    fn enter(&self, letter: &mut Letter) -> Result<()> {
        if !self.tty {
            return Ok(());
        }
        let pty = crate::make()?;
        crate::bind_console(&pty)?;
        self.take(pty, letter)
    }

    fn enter_guest(&self, letter: &mut Letter) -> Result<()> {
        if self.tty { self.take(crate::make()?, letter) } else { Ok(()) }
    }

    fn admit_guest(&self, _guest: Pid, _init: Pid) -> Result<()> {
        if self.tty && self.interactive { check_input() } else { Ok(()) }
    }

    fn entered(&self, _child: Pid, mut letter: Letter) -> Result<()> {
        if !self.tty || explain::dry_run() {
            return Ok(());
        }
        let (peer, master) = (letter.descriptors.pop(), letter.descriptors.pop());
        let pty = Pty { master: master.context("no terminal has arrived")?, peer: peer.context("half a terminal")? };
        match self.listener.take() {
            Some(listener) => {
                let hub = Hub::new(listener, pty, Log::open(&self.directory)?)?;
                self.hub.set(hub).ok().context("it has a terminal already")
            }
            None => {
                own_window().into_iter().for_each(|window| set_size(pty.master.as_fd(), window));
                self.master.set(Some(pty.master));
                self.peer.set(Some(pty.peer));
                Ok(())
            }
        }
    }

    fn begun(&self) -> Result<()> {
        let Some(master) = self.master.take() else { return Ok(()) };
        let caller = Caller::new(Far::Terminal(master), self.interactive, &self.keys)?;
        self.caller.set(caller).ok().context("it has begun already")
    }

    fn watch(&self) -> Vec<BorrowedFd<'_>> {
        self.hub.get().map(Hub::watch).into_iter().chain(self.caller.get().map(Caller::watch)).collect()
    }

    fn serve(&self) {
        self.hub.get().into_iter().for_each(Hub::serve);
        let Some(caller) = self.caller.get() else { return };
        match caller.serve() {
            Ok(None | Some(Left::Container)) => {}
            Ok(Some(Left::Caller)) => self.leaves.set(true),
            // The caller can be reached no more: its program shall know.
            Err(_) => caller.hang_up(),
        }
    }

    fn farewell(&self) -> Option<Letter> {
        let caller = self.caller.get().filter(|_| self.leaves.take())?;
        caller.restore();
        let peer = self.peer.take(); // or the terminal would end where the program closes it
        Some(Letter { descriptors: caller.take_far().into_iter().chain(peer).collect(), ..Letter::default() })
    }

    fn ended(&self) -> Result<()> {
        drop(self.peer.take());
        if let Some(caller) = self.caller.get() {
            // What it has started in the background may have the terminal still, and is not waited for.
            while caller.serve()?.is_none() && !caller.has_shown_all() {
                signals::wait(&[caller.watch()])?.map_or(Ok(()), signals::interrupt)?;
            }
        }
        self.hub.get().map_or(Ok(()), Hub::end)
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        let interactive = self.interactive;
        match program.uid {
            _ if !self.tty => {
                let outputs = self.outputs.take();
                program.gives_up(Right::Session, move || crate::leave(interactive, outputs));
            }
            // Known by now: in the order of the parts, namespaces come first.
            Some(uid) => program.gives_up(Right::Session, move || crate::give(uid)),
            None => {}
        }
        if self.init {
            program.gives_up(Right::Place, init::stay);
        }
        Ok(())
    }
}

impl Terminal {
    /// Child: sends both ends, and takes one.
    fn take(&self, pty: Pty, letter: &mut Letter) -> Result<()> {
        for end in [&pty.master, &pty.peer] {
            letter.descriptors.push(end.try_clone().during("dup()")?);
        }
        crate::take(pty.peer.as_fd())
    }
}
