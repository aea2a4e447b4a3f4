//! The parent of a container, from its making to its end: Docker's *shim*.
//!
//! Somebody must wait for the program, or nobody learns how it ended; somebody must read what it writes, or it stops
//! when the pipe is full; and somebody must take its cgroup away. An engine that did this itself could not be ended, or
//! replaced by a newer one, without ending its containers. So each container has a small process of its own for it. In
//! the foreground that is the engine's command itself; a detached container's is made by fork, and lets go of the
//! terminal.
//!
//! ```text
//! step04 run -d ── fork ───────────────┬─ hears "created" ─ connects ──────┬─ hears "started" ─ prints the id
//! monitor          └─ create (lib.rs) ─┴─ waits at its socket ─ start ─────┴─ log ··· wait ─ cleanup ─ exit code
//! child                  └─ enter ── held ──────────────────────└─ exec, program ········┘
//! ```
//!
//! A monitor that is killed takes its container along (the child's PR_SET_PDEATHSIG), and its lock with it: so the next
//! command knows.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use namespaces::Ready;
use nix::sys::signal::kill;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, getsid, setsid};
use shared::call;
use shared::explain;
use shared::failure::{During, Failure};
use shared::formula::{Fact, Formula, Term};
use shared::signals;

use crate::Part;
use crate::container::{Container, Life, State, now};
use crate::identity::Process;
use crate::log::Output;
use crate::parts::{Parts, Recipe};
use crate::store::Store;

/// To whoever waits for an answer: "it is done". Anything else is a failure's exit code, sentence and remedy.
const DONE: u8 = 0;

/// How long a monitor may take to clean up after its container's last process.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Host: makes a container and runs it here, with the caller's terminal. Its program's exit code.
pub fn run(store: &Store, container: &Container, life: Life, parts: Parts) -> Result<u8> {
    let worth_keeping = Cell::new(false);
    let result = look_after(container, parts, None, |ready, state| {
        let running = ready.start()?;
        worth_keeping.set(true);
        container.save(&State { started: Some(now()), ..state })?;
        running.wait()
    });
    finish(store, container, &life, worth_keeping.get(), result)
}

/// Host: makes a container that outlives this command, up to the moment before its program begins; [`start`] is what
/// it then waits for. `fresh`: it is new, so where it cannot be made nothing of it is kept.
///
/// # Errors
/// What the monitor could not do.
pub fn create(store: &Store, container: &Container, life: Life, fresh: bool, parts: Parts) -> Result<()> {
    let (mut host_end, mut monitor_end) = UnixStream::pair().during("cannot make a pair of sockets")?;
    let forked = process::fork(|| {
        detached(store, container, &life, fresh, parts, &mut monitor_end);
        Ok(())
    });
    let monitor = match forked {
        Ok(monitor) => monitor,
        // Somebody has to write that down: without an end, it would be dead.
        Err(error) => return finish(store, container, &life, !fresh, Err(error)).map(drop),
    };
    if explain::dry_run() {
        detached(store, container, &life, fresh, parts, &mut monitor_end);
        return Ok(());
    }
    // Held here too, the lock would say that somebody looks after the container when its monitor is gone.
    life.hand_over();
    drop(monitor_end);

    let killed = "its monitor was killed (`step04 clean` takes away what is left)";
    let answer = hear(&mut host_end, killed, |received| {
        // The monitor decides what a signal means, as it is the one with something to clean up. A key's has reached it
        // already, unless it has let go of the terminal.
        let had_it = received.by_terminal && getsid(Some(monitor)) == getsid(None);
        if let Some(signal) = received.ending().filter(|_| !had_it) {
            let _ = kill(monitor, signal);
        }
        Ok(())
    });
    if answer.is_err() {
        waitpid(monitor, None).during("cannot wait for the monitor")?;
    }
    answer.with_context(|| format!("container {}", container.name()))
}

/// Host: has the program of a created container begin. An ending signal ends the wait for that, and not the container.
///
/// # Errors
/// 127 where the program was not found, 126 where it cannot be executed.
pub fn start(container: &Container) -> Result<()> {
    let late = format!("container {} was started or ended by another engine just now", container.name());
    let monitor = explain::host(call!("connect({})", container.path("start").display()))
        .run(|| by_short_path(container, |path| UnixStream::connect(path).map(OwnedFd::from)));
    let monitor = monitor.with_context(|| late.clone())?;
    explain::note("the monitor opens the last gate: the child becomes its program");
    if explain::dry_run() {
        return Ok(());
    }
    hear(&mut UnixStream::from(monitor), &late, signals::interrupt)
}

/// Host: waits until nobody looks after the container any more, for this long at most; whether it is so then. An ending
/// signal ends the wait.
pub fn wait(container: &Container, patience: Option<Duration>) -> Result<bool> {
    let since = Instant::now();
    while container.is_looked_after() && !explain::dry_run() {
        let left = patience.map(|patience| patience.saturating_sub(since.elapsed()));
        if left == Some(Duration::ZERO) {
            return Ok(false);
        }
        // The engine's command at first, then the monitor; between the two, a short while.
        let who = container.state().ok().and_then(|state| state.monitor).map(|it| it.open()).transpose()?.flatten();
        let longest = if who.is_some() { Duration::from_secs(1) } else { Duration::from_millis(5) };
        let time = left.unwrap_or(longest).min(longest);
        let fds: Vec<_> = who.iter().map(|fd| fd.as_fd()).collect();
        match signals::wait_for(&fds, Some(time))? {
            Some(received) => signals::interrupt(received)?,
            // It has ended, or the time is over; whoever else has its lock lets go of it soon.
            None => signals::pause(signals::MOMENT)?,
        }
    }
    Ok(true)
}

/// Monitor: its whole life.
fn detached(store: &Store, container: &Container, life: &Life, fresh: bool, parts: Parts, engine: &mut UnixStream) {
    explain::speak_as_monitor();
    let worth_keeping = Cell::new(!fresh);
    let result = Output::open(container).and_then(|output| {
        let listener = listen(container)?;
        look_after(container, parts, Some(&output), |ready, state| {
            let_go()?;
            // An engine that was killed meanwhile hears nothing; the container is made all the same, and listed.
            worth_keeping.set(true);
            let _ = engine.write_all(&[DONE]);
            let Some(mut asker) = wait_for_start(&listener, ready.pid())? else { return ready.wait() };
            let started = ready.start().and_then(|running| {
                container.save(&State { started: Some(now()), ..state })?;
                Ok(running)
            });
            let _ =
                asker.write_all(&started.as_ref().map_or_else(|error| Failure::of(error).to_bytes(), |_| vec![DONE]));
            drop((asker, listener));
            started?.wait_beside(&output.ends(), || {
                output.keep();
            })
        })
        .map(|end| match output.lost() {
            0 => end,
            lost => end.complained(format!("{lost} lines of the log are lost, as they could not be written")),
        })
    });
    if let Err(error) = finish(store, container, life, worth_keeping.get(), result) {
        // Where it has said "created" already, nobody listens, and the sentence stands in the container's `exit`.
        let _ = engine.write_all(&Failure::of(&error).to_bytes());
    }
}

/// Monitor: the engine's heart with a life around it: `create` (lib.rs), then `live`, then `cleanup`.
fn look_after(
    container: &Container,
    parts: Parts,
    output: Option<&Output>,
    live: impl FnOnce(Ready, State) -> Result<u8>,
) -> Result<Outcome> {
    let Recipe { view, root, command, .. } = &container.config.recipe;
    let made = parts(&container.config)?;
    // The log last: until there the child can tell the caller what it does.
    let output = output.map(|output| output as &dyn Part);
    let parts: Vec<_> = made.iter().map(Box::as_ref).chain(output).collect();
    let groups = || parts.iter().flat_map(|part| part.cgroups()).collect();

    // Before anything is made: where to look for it, should this process be killed.
    let mut state = State { monitor: Some(Process::of(Pid::this())?), cgroups: groups(), ..State::default() };
    container.save(&state)?;

    let mut formula = Formula::default();
    let program = || {
        process::exec(&strings(command), &root.environment(container.config.hostname()))
            .with_context(|| format!("in the root {}", root.dir().display()))
    };
    let code = crate::create(view, &parts, program, &mut formula).and_then(|ready| {
        if !explain::dry_run() {
            state = State { init: Some(Process::of(ready.pid())?), cgroups: groups(), ..state };
        }
        container.save(&state)?;
        formula.light(Term::Engine, &facts(container, ready.pid())?)?;
        formula.print();
        live(ready, state)
    });
    let made: Vec<_> = made.iter().map(Box::as_ref).collect();
    // And here too: what ends with the cgroup may have written until then.
    let cleaned = crate::cleanup(&made).and(output.map_or(Ok(()), Part::cleanup));
    if let Err(error) = &cleaned {
        explain::report(error);
    }
    // Its end is the program's, whatever remains to be cleaned up.
    let outcome = Outcome { code: code?, complaint: None };
    Ok(match cleaned {
        Ok(()) => outcome,
        Err(error) => outcome.complained(format!("{error:#}")),
    })
}

/// The end of a program, and what went wrong after it.
struct Outcome {
    code: u8,
    complaint: Option<String>,
}

impl Outcome {
    fn complained(self, more: String) -> Self {
        Outcome { complaint: Some(self.complaint.map_or(more.clone(), |first| format!("{first}; {more}"))), ..self }
    }
}

/// Monitor, and everything cleaned up: writes the end down. Of a container that never came to be, nothing is kept.
fn finish(store: &Store, container: &Container, life: &Life, worth_keeping: bool, end: Result<Outcome>) -> Result<u8> {
    let (code, sentence) = match &end {
        Ok(outcome) => (outcome.code, outcome.complaint.clone()),
        Err(error) => {
            let Failure { code, sentence, .. } = Failure::of(error);
            // Where a signal ended the engine, the program was ended, too: nothing has gone wrong.
            (code, (!error.is::<signals::Interrupted>()).then_some(sentence))
        }
    };
    // Also of one that is removed now: for those who wait for it.
    let written = container.finish(code, sentence);
    if !worth_keeping || container.config.rm {
        store.remove(container, life)?;
    } else {
        written?;
    }
    end.map(|outcome| outcome.code)
}

/// What the kernel and the folder say: that this process is the child's parent, and that the child is the one written down.
fn facts(container: &Container, child: Pid) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let init = Process::of(child)?;
    let parent = init.parent()?;
    let fact = |what: &str, child: String, holds| {
        let brief = format!("{what}: {child}");
        Fact { what: what.to_owned(), host: String::new(), child, holds, brief }
    };
    let written = container.state()?.init;
    Ok(vec![
        fact("monitor", format!("{parent} is its parent"), parent == Pid::this().as_raw()),
        fact("state.json", format!("pid {child}, in {}", container.path("").display()), written == Some(init)),
    ])
}

/// Monitor: waits until somebody wants the program to begin; `None` where the child has ended before.
fn wait_for_start(listener: &UnixListener, child: Pid) -> Result<Option<UnixStream>> {
    if explain::dry_run() {
        explain::note("dry run: here the monitor waits for `start`");
        return Ok(UnixStream::pair().ok().map(|(end, _)| end));
    }
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // First the look, then the wait: the SIGCHLD of a child that has ended already may have been taken before.
    while waitid(Id::Pid(child), flags).during("cannot look at the child")? == WaitStatus::StillAlive {
        match signals::wait(&[listener.as_fd()])? {
            None => return Ok(Some(listener.accept().during("cannot hear who wants it started")?.0)),
            Some(received) => signals::interrupt(received)?,
        }
    }
    Ok(None)
}

/// Monitor: lets go of everything that was the caller's: its session and terminal, its standard streams, its folder.
fn let_go() -> Result<()> {
    explain::host(call!("setsid()")).run(setsid)?;
    signals::forget_ignored().during("cannot reset the signals")?;
    explain::host(call!("dup2(/dev/null) for 0, 1 and 2; chdir(\"/\")")).printed_first().run(|| {
        explain::hush();
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        chdir("/").map_err(std::io::Error::from)
    })
}

/// The answer of a monitor: done, its failure, or `silence`: what it means that there is none. Signals that come
/// meanwhile are given to `signal`.
fn hear(from: &mut UnixStream, silence: &str, signal: impl FnMut(signals::Received) -> Result<()>) -> Result<()> {
    signals::wait_for_answer(from.as_fd(), signal)?;
    let mut answer = vec![0];
    match from.read(&mut answer).unwrap_or(0) {
        0 => bail!("{silence}"),
        _ if answer == [DONE] => Ok(()),
        _ => {
            from.read_to_end(&mut answer).during("cannot hear the monitor")?;
            Err(Failure::from_bytes(&answer).context("the monitor said nothing")?.into())
        }
    }
}

/// Monitor: the socket at which it waits for `start`.
fn listen(container: &Container) -> Result<UnixListener> {
    let socket = explain::host(call!("bind({})", container.path("start").display())).run(|| {
        // Of the last time that it was started.
        let _ = std::fs::remove_file(container.path("start"));
        by_short_path(container, |path| UnixListener::bind(path).map(OwnedFd::from))
    })?;
    Ok(socket.into())
}

/// The socket's address, by way of a descriptor: it has at most 107 bytes, and a path can be longer. See unix(7).
fn by_short_path<T>(container: &Container, make: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let folder = File::open(container.path(""))?;
    make(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join("start"))
}

fn strings(words: &[String]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}
