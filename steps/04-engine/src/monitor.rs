//! The parent of a container, from its making to its end: Docker's *shim*.
//!
//! A process must wait for the program, or its exit code is lost; one must read what it writes, or it stops
//! when the pipe is full; and one must remove its cgroup. An engine that did this itself could not be ended, or
//! replaced by a newer one, without ending its containers. So each container has a small process of its own for it. In
//! the foreground that is the engine's command itself; a detached container's is made by fork, and lets go of the
//! terminal.
//!
//! ```text
//! step04 run -d ── fork ───────────────┬─ hears "created" ─ connects ──────┬─ hears "started" ─ prints the id
//! monitor          └─ create (lib.rs) ─┴─ waits at its door ── start ──────┴─ log ··· wait ─ cleanup ─ exit code
//! child                  └─ enter ── held ──────────────────────└─ exec, program ········┘
//! ```
//!
//! From the command line to the program's end, with what is written down and who holds which lock. (The kernel releases a
//! lock with the last process that has it: flock(2).)
//!
//! | moment | where | written down | locks |
//! | --- | --- | --- | --- |
//! | the engine begins again, from a copy of itself (`protect`) | engine | | |
//! | the container is added (`store`) | engine | `config.json`; `state.json`: this process; `exit`: blank | the store's, until it is added; from here on the container's |
//! | fork ([`create`]) | both | | the monitor has a copy of that; the engine drops its own |
//! | before anything is made (`bear`) | monitor | `state.json`: this process, the plan, the groups | |
//! | the parts prepare (lib.rs) | monitor | | and each group's |
//! | the child enters | child | | drops its copy |
//! | it is created (`bear`) | monitor | `state.json`: the child | |
//! | it is started (`door`, `start`) | monitor | `state.json`: when | |
//! | the program has ended, and is cleaned up (`finish`) | monitor | `exit` | none: this process ends |
//!
//! So a container whose lock nobody holds and whose `exit` is blank is *dead*: what has looked after it was killed, and the
//! child with it (PR_SET_PDEATHSIG). `clean` undoes what its plan says.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use namespaces::{Ready, Running};
use nix::sys::signal::{SigSet, kill};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, getsid, setsid};
use shared::call;
use shared::explain;
use shared::failure::{self, During, Failure, STEP_FAILED};
use shared::formula::{Fact, Formula, Term};
use shared::signals;
use shared::sys::set_default;

use crate::container::{Container, End, Life, State, now, read_end};
use crate::door::{self, Asker};
use crate::identity::Process;
use crate::log::Output;
use crate::members::RecordedGroup;
use crate::{Part, Program, Recipe, Streams, each, recovery};

/// How long a monitor may take to clean up after its container's last process.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a monitor looks whether its container can still be found. Nothing tells it: a directory that somebody has
/// open, as the one with a lock has, is not reported as deleted before it is closed; and a user has few inotify(7)
/// instances.
pub const LOOK: Duration = Duration::from_secs(2);

/// Host: makes a container and runs it here, with the caller's terminal. Its program's exit code.
///
/// # Errors
/// What keeps it from being made.
pub fn run<R: Recipe>(container: &Container, life: Life) -> Result<u8> {
    let end = live::<R>(container, &life, None);
    // One whose program has never begun is none.
    let keep = container.state().is_ok_and(|state| state.started.is_some());
    finish::<R>(container, &life, keep, end)
}

/// Host: makes a container that outlives this command, up to the moment before its program begins;
/// [`start`](crate::door::start) is what it then waits for. `fresh`: it is new, so where it cannot be made nothing of
/// it is kept.
///
/// # Errors
/// What the monitor could not do.
pub fn create<R: Recipe>(container: &Container, life: Life, fresh: bool) -> Result<()> {
    let (mut host_end, monitor_end) = UnixStream::pair().during("cannot make a pair of sockets")?;
    if explain::dry_run() {
        process::fork(|| Ok(()))?;
        detached::<R>(container, &life, fresh, monitor_end);
        return Ok(());
    }
    let own = &life;
    let forked = process::fork(move || {
        // Before the container's first process is made, which would go on ignoring them. See execve(2).
        forget_ignored().during("cannot reset the signals")?;
        detached::<R>(container, own, fresh, monitor_end);
        Ok(())
    });
    let monitor = match forked {
        Ok(monitor) => monitor,
        // This has to be written down: without an end, it would be dead.
        Err(error) => return finish::<R>(container, &life, !fresh, Err(error)).map(drop),
    };
    // Held here too, the lock would say that the container is looked after when its monitor is gone. Its copy remains.
    drop(life);

    let answer = failure::answer(&mut host_end, |received| {
        // The monitor decides what a signal means, as it is the one with something to clean up. A key's has reached it
        // already, unless it has let go of the terminal.
        let had_it = received.by_terminal && getsid(Some(monitor)) == getsid(None);
        if let Some(signal) = received.ending().filter(|_| !had_it) {
            let _ = kill(monitor, signal);
        }
        Ok(())
    });
    let killed = "its monitor was killed (`clean` removes what is left)";
    let answer = answer.and_then(|answer| answer.context(killed));
    if answer.is_err() {
        waitpid(monitor, None).during("cannot wait for the monitor")?;
    }
    answer.map(drop).with_context(|| format!("container {}", container.name()))
}

/// Host: waits until no process looks after the container any more, for this long at most; whether it is so then. An ending
/// signal ends the wait.
///
/// # Errors
/// [`Interrupted`](signals::Interrupted), by a signal.
pub fn wait(container: &Container, patience: Option<Duration>) -> Result<bool> {
    let since = Instant::now();
    let has_orphan = || container.state().is_ok_and(|state| state.is_living_orphan());
    while (container.is_looked_after() || has_orphan()) && !explain::dry_run() {
        let left = patience.map(|patience| patience.saturating_sub(since.elapsed()));
        if left == Some(Duration::ZERO) {
            return Ok(false);
        }
        // The engine's command at first, then the monitor; between the two, a short while. Without one, the first process.
        let keeper = container.state().ok().and_then(|state| state.monitor.or(state.init));
        let monitor = keeper.map(|it| it.open()).transpose()?.flatten();
        let longest = if monitor.is_some() { Duration::from_secs(1) } else { Duration::from_millis(5) };
        let time = left.unwrap_or(longest).min(longest);
        let fds: Vec<_> = monitor.iter().map(|fd| fd.as_fd()).collect();
        match signals::wait_for(&fds, Some(time))? {
            Some(received) => signals::interrupt(received)?,
            // It has ended, or the time is over; another process that has its lock releases it soon.
            None => signals::pause(signals::MOMENT)?,
        }
    }
    Ok(true)
}

/// Host: how a container ends, by its open file `exit`: so also where another engine removes it, or starts it again. Each
/// second that it does not end, `look` may say why to wait no longer.
///
/// # Errors
/// Where its monitor is gone without an end; that of `look`.
pub fn end(container: &Container, exit: &mut File, look: impl Fn() -> Result<()>) -> Result<End> {
    loop {
        let alone = wait(container, Some(Duration::from_secs(1)))?;
        match read_end(exit)? {
            Some(end) => return Ok(end),
            None if alone => return Err(lost(container).into()),
            None => look()?,
        }
    }
}

/// Why nobody knows how it ended.
pub fn lost(container: &Container) -> Failure {
    let why = match container.state() {
        Ok(state) if state.is_orphan() => "has no monitor: its exit code is for the process that has waited for it",
        _ => "is dead: its monitor was killed, and its exit code is lost",
    };
    let sentence = format!("container {} {why}", container.name());
    Failure { code: STEP_FAILED, sentence, remedy: Some("`rm` or `clean` removes it".to_owned()) }
}

/// Monitor, and its caller left behind: what that one has ignored (nohup) is no wish for the program any more.
fn forget_ignored() -> nix::Result<()> {
    // Blocked before they get their default action back, which would end this process.
    SigSet::from_iter(signals::ENDING).thread_block()?;
    signals::ENDING.into_iter().try_for_each(|signal| set_default(signal as i32))
}

/// Monitor: its whole life.
fn detached<R: Recipe>(container: &Container, life: &Life, fresh: bool, engine: UnixStream) {
    explain::speak_as_monitor();
    let mut engine = Asker(Some(engine));
    let end = live::<R>(container, life, Some(&mut engine));
    // Where it could be made, that command has had its answer, and the sentence is in the container's `exit`.
    let keep = !fresh || engine.0.is_none();
    engine.answer(&finish::<R>(container, life, keep, end));
}

/// Monitor: one run of a container, from its plan to its cleanup.
fn live<R: Recipe>(container: &Container, life: &Life, door: Option<&mut Asker>) -> Result<Outcome> {
    let recipe: R = container.config.recipe()?;
    let has_log = door.is_some() && recipe.streams() == Streams::Callers;
    let output = has_log.then(|| Output::open(container)).transpose()?;
    let listener = door.is_some().then(|| door::listen(container)).transpose()?;
    let plan = recipe.plan(&container.identity())?;
    let made = R::parts(&plan);
    // The log last: until there the child can print to the caller what it does.
    let log = output.iter().map(|output| output as &dyn Part);
    let parts: Vec<_> = [life as &dyn Part].into_iter().chain(made.iter().copied()).chain(log).collect();

    let code = bear_and_wait(container, &recipe, &plan, &parts, door.zip(listener));

    let ended = each(&made, |part| part.ended());
    let mut cleaned = crate::cleanup(&made).and(ended);
    // Nobody will find what outlives a run, either.
    if !container.exists() && !explain::dry_run() {
        cleaned = cleaned.and(crate::remove(&made));
    }
    // And here too: what ends with the cgroup may have written until then.
    output.iter().for_each(Output::keep_the_rest);
    if let Err(error) = &cleaned {
        explain::report(error);
    }
    // Its end is the program's, whatever remains to be cleaned up.
    let lost = output.and_then(|output| output.log.complaint());
    let complaints: Vec<_> = lost.into_iter().chain(cleaned.err().map(|error| format!("{error:#}"))).collect();
    Ok(Outcome { code: code?, complaint: (!complaints.is_empty()).then(|| complaints.join("; ")) })
}

/// Host: the heart ([`create`](crate::create)), written down before and after.
pub(crate) fn bear<'a, R: Recipe>(
    container: &Container,
    recipe: &R,
    plan: &R::Plan,
    parts: &'a [&'a dyn Part],
) -> Result<(Ready<'a>, State)> {
    // Before anything is made: what there will be to undo, should this process be killed.
    let mut state = State {
        monitor: Some(Process::of(Pid::this())?),
        groups: groups(parts),
        plan: Some(serde_json::to_value(plan).context("cannot write the plan down")?),
        ..State::default()
    };
    container.save(&state)?;

    let program = Program::new(container.config.command.iter().map(Into::into).collect());
    let mut formula = Formula::default();
    let ready = crate::create(recipe.view(), parts, program, &mut formula)?;

    if !explain::dry_run() {
        state = State { init: Some(Process::of(ready.pid())?), groups: groups(parts), ..state };
    }
    container.save(&state)?;
    formula.light(Term::Engine, &facts(container, ready.pid())?)?;
    formula.print();
    Ok((ready, state))
}

/// Monitor: a container is born, and the program lives until its end.
fn bear_and_wait<R: Recipe>(
    container: &Container,
    recipe: &R,
    plan: &R::Plan,
    parts: &[&dyn Part],
    door: Option<(&mut Asker, UnixListener)>,
) -> Result<u8> {
    let (ready, state) = bear(container, recipe, plan, parts)?;
    let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK);
    let clock = clock.during("cannot make a timer")?;
    let running = match door {
        None => start(container, ready, &state, parts)?,
        Some((engine, listener)) => {
            let_go()?;
            engine.answer(&Ok(()));
            let Some(mut asker) = door::wait_for_start(&listener, container, ready.pid())? else { return ready.wait() };
            clock.set(Expiration::Interval(LOOK.into()), TimerSetTimeFlags::empty()).during("cannot set a timer")?;
            let started = start(container, ready, &state, parts);
            asker.answer(&started);
            started?
        }
    };
    let ends: Vec<_> = parts.iter().flat_map(|part| part.watch()).chain([clock.as_fd()]).collect();
    running.wait_beside(&ends, || {
        parts.iter().for_each(|part| part.serve());
        // At logout, with all of the user's: a container that nobody finds could be ended by nobody.
        if clock.wait().is_ok() && !container.exists() {
            let _ = state.kill_all();
        }
    })
}

/// Monitor: opens the last gate, and writes down that the program has begun.
fn start<'a>(container: &Container, ready: Ready<'a>, state: &State, parts: &[&dyn Part]) -> Result<Running<'a>> {
    // What the command that has it started has already sent: the size of its window, which the program asks for at once.
    parts.iter().for_each(|part| part.serve());
    let running = ready.start()?;
    each(parts, |part| part.begun())?;
    container.save(&State { started: Some(now()), ..state.clone() })?;
    Ok(running)
}

fn groups(parts: &[&dyn Part]) -> Vec<RecordedGroup> {
    parts.iter().flat_map(|part| part.groups()).map(RecordedGroup::at).collect()
}

/// The end of a program, and what went wrong after it.
pub(crate) struct Outcome {
    code: u8,
    complaint: Option<String>,
}

/// Monitor, and everything cleaned up: writes the end down. Of a container that was never created, nothing is kept.
pub(crate) fn finish<R: Recipe>(container: &Container, life: &Life, keep: bool, end: Result<Outcome>) -> Result<u8> {
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
    if !keep || container.config.rm {
        recovery::remove::<R>(&container.state().unwrap_or_default())?;
        container.remove(life)?;
    } else {
        written?;
    }
    end.map(|outcome| outcome.code)
}

/// What the kernel and the record say: that this process is the child's parent, and that the child is the one written down.
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

/// Monitor: lets go of everything that was the caller's: its session and terminal, its standard streams, its directory.
fn let_go() -> Result<()> {
    explain::host(call!("setsid()")).run(setsid)?;
    explain::host(call!("dup2(/dev/null) for 0, 1 and 2; chdir(\"/\")")).printed_first().run(|| {
        explain::hush();
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        chdir("/").map_err(std::io::Error::from)
    })
}
