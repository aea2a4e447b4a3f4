//! What each command does, with the verbs of the library.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cgroups::{Cgroup, Limits};
use engine::join::{self, Guest};
use engine::log::{Reader, Show};
use engine::states::{Status, Verb};
use engine::store::{Container, State, Store, read_end};
use engine::{members, monitor};
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shared::explain::{self, Failure};
use shared::signals;

use crate::{Format, New, tables};

pub fn run(new: New) -> Result<u8> {
    let store = Store::open()?;
    let (container, life) = store.add(new.name, new.rm, new.recipe.checked()?)?;
    monitor::run(&store, &container, life)
}

pub fn run_detached(new: New) -> Result<u8> {
    let store = Store::open()?;
    let (container, life) = store.add(new.name, new.rm, new.recipe.checked()?)?;
    monitor::create(&store, &container, life, true)?;
    if let Err(error) = monitor::start(&container) {
        // A container whose program cannot begin is none.
        if !container.config.rm {
            remove(&store, &container)?;
        }
        return Err(error);
    }
    say(&container.config.id);
    Ok(0)
}

pub fn create(new: New) -> Result<u8> {
    let store = Store::open()?;
    let (container, life) = store.add(new.name, new.rm, new.recipe.checked()?)?;
    monitor::create(&store, &container, life, true)?;
    say(&container.config.id);
    Ok(0)
}

pub fn start(words: &[String], attach: bool) -> Result<u8> {
    let store = Store::open()?;
    if attach {
        let [word] = words else { bail!("--attach takes one container") };
        return start_attached(&store, &store.find(word)?);
    }
    each(&store, words, |container| start_one(&store, container))
}

fn start_one(store: &Store, container: &Container) -> Result<()> {
    match container.allows(Verb::Start)? {
        Status::Running => return Ok(()),
        Status::Stopped => {
            let life = container.take(monitor::PATIENCE)?;
            container.save(&State::default())?;
            container.forget_end()?;
            monitor::create(store, container, life, false)?;
        }
        _ => {}
    }
    monitor::start(container)
}

/// Shows what the container writes from now on, and ends as it ends.
fn start_attached(store: &Store, container: &Container) -> Result<u8> {
    if container.allows(Verb::Start)? == Status::Stopped {
        let life = container.take(monitor::PATIENCE)?;
        container.save(&State::default())?;
        container.forget_end()?;
        monitor::create(store, container, life, false)?;
    }
    let mut reader = Reader::from_end(container)?;
    let mut end = container.open_end()?;
    monitor::start(container)?;
    if explain::dry_run() {
        return Ok(0);
    }
    let init = container.state()?.init.context("it has no process")?;
    reader.follow(container, false, |came| process::pass_on(Pid::from_raw(init.pid), came))?;
    monitor::wait(container).ok();
    Ok(read_end(&mut end)?.with_context(|| lost(container))?.code)
}

pub fn ps(all: bool, format: Format) -> Result<u8> {
    let mut rows = Vec::new();
    for container in Store::open()?.all()? {
        match container.status() {
            Ok(status) if all || matches!(status, Status::Running | Status::Paused) => rows.push((container, status)),
            Ok(_) => {}
            // Removed meanwhile.
            Err(_) if !container.path("").exists() => {}
            Err(error) => return Err(error),
        }
    }
    match format {
        _ if explain::quiet() => rows.iter().for_each(|(container, _)| println!("{}", container.config.id)),
        Format::Table => tables::table(&rows),
        Format::Json => {
            for (container, status) in &rows {
                println!("{}", tables::row(container, *status)?);
            }
        }
    }
    Ok(0)
}

pub fn logs(word: &str, show: Show) -> Result<u8> {
    let container = Store::open()?.find(word)?;
    if !container.path("log").exists() && !container.path("log.old").exists() {
        explain::note("it has no log: it ran in the foreground, and what it wrote went to the caller's terminal");
    }
    let mut reader = Reader::from_start(&container);
    match show.follow {
        true => reader.follow(&container, show.timestamps, signals::interrupt)?,
        false => reader.show(show.timestamps)?,
    }
    Ok(0)
}

pub fn exec(word: &str, guest: &Guest) -> Result<u8> {
    let container = Store::open()?.find(word)?;
    container.allows(Verb::Exec)?;
    join::exec(&container, guest)
}

pub fn pause(words: &[String]) -> Result<u8> {
    each(&Store::open()?, words, |container| match container.allows(Verb::Pause)? {
        Status::Paused => Ok(()),
        _ => members::freeze(&container.state()?.cgroups),
    })
}

pub fn unpause(words: &[String]) -> Result<u8> {
    each(&Store::open()?, words, |container| {
        container.allows(Verb::Unpause)?;
        members::thaw(&container.state()?.cgroups)
    })
}

pub fn kill(words: &[String], signal: Signal) -> Result<u8> {
    each(&Store::open()?, words, |container| {
        let status = container.allows(Verb::Kill)?;
        let state = container.state()?;
        state.init.context("it has no process")?.signal(signal)?;
        // A frozen process dies of it only when it goes on.
        if status == Status::Paused && signal == Signal::SIGKILL { members::thaw(&state.cgroups) } else { Ok(()) }
    })
}

pub fn stop(words: &[String], seconds: u32) -> Result<u8> {
    each(&Store::open()?, words, |container| {
        let status = container.allows(Verb::Stop)?;
        if status == Status::Stopped {
            return Ok(());
        }
        let state = container.state()?;
        let init = state.init.context("it has no process")?;
        // Before exec nobody is there to listen.
        if status != Status::Created {
            init.signal(Signal::SIGTERM)?;
            members::thaw(&state.cgroups)?;
            wait_for_end(container, Duration::from_secs(seconds.into()))?;
        }
        end(container)
    })
}

/// Ends every process of a container, and waits until its monitor has cleaned up. Succeeds where all has ended already.
fn end(container: &Container) -> Result<()> {
    if container.end()?.is_some() || explain::dry_run() {
        return Ok(());
    }
    let state = container.state()?;
    members::kill_all(&state.cgroups)?;
    // Without a group there is only this one; and PID 1 of a pid namespace takes all others along.
    state.init.map_or(Ok(()), |init| init.signal(Signal::SIGKILL))?;
    if wait_for_end(container, monitor::PATIENCE)? {
        return Ok(());
    }
    bail!("container {} has been killed, and its monitor does not come to an end", container.name())
}

/// Whether its monitor has ended within this time; a signal ends the wait.
fn wait_for_end(container: &Container, patience: Duration) -> Result<bool> {
    let since = Instant::now();
    while shared::lock::is_locked(&container.path("")) && !explain::dry_run() {
        if since.elapsed() >= patience {
            return Ok(false);
        }
        if let Some(came) = signals::wait_for(&[], PollTimeout::from(5u8))? {
            signals::interrupt(came)?;
        }
    }
    Ok(true)
}

pub fn wait(words: &[String]) -> Result<u8> {
    let store = Store::open()?;
    let mut code = 0;
    for word in words {
        let waited = store.find(word).and_then(|container| {
            container.allows(Verb::Wait)?;
            // Open before the wait, it tells the end also of a container that is removed then.
            let mut end = container.open_end()?;
            monitor::wait(&container)?;
            read_end(&mut end)?.with_context(|| lost(&container))
        });
        match waited {
            Ok(end) => println!("{}", end.code),
            Err(error) => code = fail(error)?,
        }
    }
    Ok(code)
}

pub fn inspect(words: &[String]) -> Result<u8> {
    let store = Store::open()?;
    let mut all = Vec::new();
    let mut code = 0;
    for word in words {
        match store.find(word).and_then(|container| tables::everything(&container)) {
            Ok(json) => all.push(json),
            Err(error) => code = fail(error)?,
        }
    }
    println!("{:#}", serde_json::Value::Array(all));
    Ok(code)
}

pub fn rm(words: &[String], verb: Verb) -> Result<u8> {
    let store = Store::open()?;
    each(&store, words, |container| {
        container.allows(verb)?;
        remove(&store, container)
    })
}

/// Takes a container away, whatever state it is in.
fn remove(store: &Store, container: &Container) -> Result<()> {
    let state = container.state()?;
    match container.status()? {
        Status::Stopped => {}
        // Before it has a process there is only the monitor to end; its child dies with it.
        Status::Creating => state.monitor.map_or(Ok(()), |monitor| monitor.signal(Signal::SIGKILL))?,
        // With the monitor gone its first process is, too, unless it has got rid of PR_SET_PDEATHSIG.
        Status::Dead => state.init.map_or(Ok(()), |init| init.signal(Signal::SIGKILL))?,
        Status::Created | Status::Running | Status::Paused => end(container)?,
    }
    if container.config.rm && !container.path("").exists() {
        return Ok(()); // its monitor has removed it
    }
    let life = container.take(monitor::PATIENCE)?;
    Cgroup::left(&state.cgroups).remove()?;
    store.remove(container, &life)
}

pub fn clean(all: bool) -> Result<u8> {
    let store = Store::open()?;
    for container in store.all()? {
        let status = container.status()?;
        if status == Status::Dead || (all && matches!(status, Status::Created | Status::Stopped)) {
            explain::note(format_args!("container {} is {status}", container.name()));
            remove(&store, &container)?;
        }
    }
    store.sweep()?;
    store.remove_if_empty()?;
    // Groups of steps 02 to 04 that nobody holds, where this user would make new ones.
    Cgroup::new("step04", &Limits::default())?.sweep()?;
    Ok(0)
}

/// Does it to each container and prints its name, as Docker does; one that fails does not keep the others from it.
fn each(store: &Store, words: &[String], act: impl Fn(&Container) -> Result<()>) -> Result<u8> {
    let mut code = 0;
    for word in words {
        match store.find(word).and_then(|container| act(&container)) {
            Ok(()) => say(word),
            Err(error) => code = fail(error)?,
        }
    }
    Ok(code)
}

/// Reports a failure and hands back its code; one by a signal ends the command.
fn fail(error: anyhow::Error) -> Result<u8> {
    if error.is::<signals::Interrupted>() {
        return Err(error);
    }
    Ok(explain::report(&error))
}

fn lost(container: &Container) -> Failure {
    let sentence = format!("container {} is dead: its monitor was killed, and its exit code is lost", container.name());
    Failure {
        code: explain::STEP_FAILED,
        sentence,
        remedy: Some("`step04 rm` or `step04 clean` takes it away".to_owned()),
    }
}

/// To standard output; nobody may be reading, and the work is done all the same.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
