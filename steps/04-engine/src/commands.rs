//! What each command does, with the verbs of the library.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cgroups::Limits;
use cgroups::freezer;
use nix::sys::signal::{Signal, kill as send};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use shared::explain;
use shared::failure::{During, Failure};
use shared::signals::{self, Received};

use crate::attach::attach;
use crate::cli::{Format, New};
use crate::container::{Container, Life, State};
use crate::identity::Process;
use crate::join::{self, Guest};
use crate::members::known;
use crate::show::{Reader, Show};
use crate::states::{Status, Verb};
use crate::store::Store;
use crate::tables::Row;
use crate::{Keeper, Recipe, Streams, door, monitor, orphan, protect, recovery, sys, tables};

pub fn run<R: Recipe>(new: New<R>) -> Result<u8> {
    if new.recipe.streams() == Streams::Own {
        return run_attached(new);
    }
    let (container, life) = add(&mut Store::open::<R>()?, new)?;
    monitor::run::<R>(&container, life)
}

/// A container that its monitor serves, and a command that speaks with it: either may go without the other.
fn run_attached<R: Recipe>(new: New<R>) -> Result<u8> {
    let talk = new.recipe.talk(true)?;
    let container = make(&mut Store::open::<R>()?, new)?;
    let mut has_begun = false;
    let ended = attach(&container, talk, &mut || {
        start_it(&container)?;
        has_begun = true;
        Ok(())
    });
    if !has_begun && !explain::dry_run() {
        let _ = remove::<R>(&container, Verb::RmForce); // as below
    }
    ended
}

pub fn run_detached<R: Recipe>(new: New<R>) -> Result<u8> {
    let mut store = Store::open::<R>()?;
    let container = make(&mut store, new)?;
    if let Err(error) = start_it(&container) {
        // A container whose program cannot begin is none. With --rm, its monitor may have removed it.
        let _ = remove::<R>(&container, Verb::RmForce);
        return Err(error);
    }
    store.warn_of_logout();
    say(&container.config.id);
    Ok(0)
}

pub fn create<R: Recipe>(new: New<R>) -> Result<u8> {
    say(&make(&mut Store::open::<R>()?, new)?.config.id);
    Ok(0)
}

fn make<R: Recipe>(store: &mut Store, new: New<R>) -> Result<Container> {
    let keeper = new.recipe.keeper();
    let (container, life) = add(store, new)?;
    match keeper {
        Keeper::Monitor => monitor::create::<R>(&container, life, true)?,
        Keeper::Subreaper => orphan::create::<R>(&container, &life)?,
    }
    Ok(container)
}

fn add<R: Recipe>(store: &mut Store, New { name, rm, recipe, command }: New<R>) -> Result<(Container, Life)> {
    store.add(name, rm, command, &recipe.settled()?)
}

pub fn start<R: Recipe>(words: &[String], attach: bool, sends: bool) -> Result<u8> {
    let store = Store::open::<R>()?;
    // Before any of them is started, as it begins this command once more.
    let is_stopped = |word: &String| store.find(word).and_then(|it| it.status()).is_ok_and(|it| it == Status::Stopped);
    if words.iter().any(is_stopped) {
        protect::begin_again::<R>("start", &Limits::default())?;
    }
    if !attach {
        store.warn_of_logout();
        return each(&store, words, |container| match make_again::<R>(container)? {
            Status::Running => Ok(()),
            _ => start_it(container),
        });
    }
    let [word] = words else { bail!("--attach takes one container") };
    with(&store, word, |container| start_attached::<R>(container, sends))
}

fn start_attached<R: Recipe>(container: &Container, sends: bool) -> Result<u8> {
    let recipe: R = container.config.recipe()?;
    if sends || recipe.streams() == Streams::Own {
        let talk = recipe.talk(sends)?;
        let status = make_again::<R>(container)?;
        return attach(container, talk, &mut || if status == Status::Running { Ok(()) } else { start_it(container) });
    }
    // What it writes from now on, and not what it has written when it ran before.
    let mut reader = Reader::from_end(container)?;
    let status = make_again::<R>(container)?;
    // Before it starts: with --rm, its directory can be gone a moment later.
    let exit = container.open_end()?;
    let init = container.state()?.init;
    if status != Status::Running {
        start_it(container)?;
    }
    let Some(init) = init.filter(|_| !explain::dry_run()) else { return Ok(0) };
    // A process of its own shows: where nobody reads, it is blocked in write(2), and this one hears signals all the same.
    let shower = process::fork(|| {
        namespaces::die_with_host()?;
        shared::sys::set_default(libc::SIGPIPE).during("cannot reset SIGPIPE")?;
        sys::exit(reader.follow(container, exit, false)?.ok_or_else(|| monitor::lost(container))?.code)
    })?;
    loop {
        if let Some(code) = process::sys::exit_code(shower).during("cannot wait for a child")? {
            return Ok(code);
        }
        let passed = signals::wait(&[]).and_then(|received| match received {
            // Of this process's own children: a monitor. And the container is none of them: its pid may be another's by
            // now.
            Some(received) if received.is(Signal::SIGCHLD) || init.open()?.is_none() => signals::interrupt(received),
            // The container has no terminal: what a key has sent, no other process sends there.
            Some(received) => process::pass_on(Pid::from_raw(init.pid), Received { by_terminal: false, ..received }),
            None => Ok(()),
        });
        passed.inspect_err(|_| {
            let _ = send(shower, Signal::SIGKILL);
            let _ = waitpid(shower, None);
        })?;
    }
}

/// A stopped container becomes a created one. The state before that.
fn make_again<R: Recipe>(container: &Container) -> Result<Status> {
    loop {
        let status = container.allows(Verb::Start)?;
        if status != Status::Stopped {
            return Ok(status);
        }
        if container.state()?.is_orphan() {
            bail!("container {} has no monitor, and is not started again: create another one", container.name());
        }
        // It gets a new monitor, made from this process.
        protect::against_writers(R::STEP, "start")?;
        // Its monitor may still be on its way out, or another engine may be as far as this one: then look again.
        let Some(life) = container.take()? else {
            signals::pause(signals::MOMENT)?;
            continue;
        };
        if container.end()?.is_none() && !explain::dry_run() {
            continue;
        }
        // The plan stays, until the monitor has made another: what has outlived the last run is in it.
        let plan = container.state()?.plan;
        container.save(&State { monitor: Some(Process::of(Pid::this())?), plan, ..State::default() })?;
        container.forget_end()?;
        monitor::create::<R>(container, life, false)?;
        return Ok(status);
    }
}

fn start_it(container: &Container) -> Result<()> {
    match door::start(container) {
        Err(error) if error.is::<signals::Interrupted>() => Err(error),
        // Another engine may have come first.
        Err(_) if matches!(container.status(), Ok(Status::Running)) => Ok(()),
        started => started,
    }
}

pub fn ps<R: Recipe>(all: bool, size: bool, format: Format) -> Result<u8> {
    let mut code = 0;
    let mut rows = Vec::new();
    for container in Store::open::<R>()?.all()? {
        match container.is_whole().and_then(|()| container.snapshot()) {
            Ok(seen) if all || matches!(seen.status, Status::Running | Status::Paused) => {
                let disk = if size { tables::disk::<R>(&container, &seen.state) } else { Ok(None) };
                match disk {
                    Ok(disk) => rows.push(Row { container, seen, disk }),
                    Err(_) if !container.exists() => {}
                    Err(error) => code = explain::report(&error),
                }
            }
            Ok(_) => {}
            // Removed meanwhile.
            Err(_) if !container.exists() => {}
            Err(error) => code = explain::report(&error),
        }
    }
    print(&match format {
        _ if explain::quiet() => rows.iter().map(|row| format!("{}\n", row.container.config.id)).collect(),
        Format::Table => tables::table(&rows, size),
        Format::Json => rows.iter().map(|row| tables::escaped(&format!("{}\n", tables::object(row)))).collect(),
    })?;
    Ok(code)
}

pub fn logs<R: Recipe>(word: &str, show: Show) -> Result<u8> {
    let container = Store::open::<R>()?.find(word)?;
    container.is_whole()?;
    let mut reader = Reader::from_start(&container);
    if !reader.has_log() {
        explain::note("it has no log: it ran in the foreground, and what it wrote went to the caller's terminal");
    }
    match show.follow {
        true => drop(reader.follow(&container, container.open_end()?, show.timestamps)?),
        false => reader.show(show.timestamps)?,
    }
    Ok(0)
}

pub fn exec<R: Recipe>(word: &str, guest: &Guest, options: &R::Guest) -> Result<u8> {
    with(&Store::open::<R>()?, word, |container| {
        container.allows(Verb::Exec)?;
        join::exec::<R>(container, guest, options)
    })
}

pub fn pause<R: Recipe>(words: &[String]) -> Result<u8> {
    each(&Store::open::<R>()?, words, |container| match container.allows(Verb::Pause)? {
        Status::Paused => Ok(()),
        _ => match freezer::freeze(&known(&container.state()?.groups)) {
            // Its groups are gone with it.
            Err(_) if container.end()?.is_some() => container.allows(Verb::Pause).map(drop),
            frozen => frozen,
        },
    })
}

pub fn unpause<R: Recipe>(words: &[String]) -> Result<u8> {
    each(&Store::open::<R>()?, words, |container| {
        container.allows(Verb::Unpause)?;
        freezer::thaw(&known(&container.state()?.groups))
    })
}

pub fn kill<R: Recipe>(words: &[String], signal: i32) -> Result<u8> {
    each(&Store::open::<R>()?, words, |container| {
        let status = container.allows(Verb::Kill)?;
        if status == Status::Created {
            return end(container); // there is no program yet that could make anything of a signal
        }
        let state = container.state()?;
        state.init.context("it has no process")?.signal_by_number(signal)?;
        // A frozen process dies of it only when it goes on.
        if status == Status::Paused && signal == Signal::SIGKILL as i32 {
            freezer::thaw(&known(&state.groups))
        } else {
            Ok(())
        }
    })
}

pub fn stop<R: Recipe>(words: &[String], seconds: u32) -> Result<u8> {
    each(&Store::open::<R>()?, words, |container| {
        let status = container.allows(Verb::Stop)?;
        if status == Status::Stopped {
            return Ok(());
        }
        let state = container.state()?;
        let init = state.init.context("it has no process")?;
        // Before exec nobody is there to listen.
        if status != Status::Created {
            init.signal(Signal::SIGTERM)?;
            freezer::thaw(&known(&state.groups))?;
            monitor::wait(container, Some(Duration::from_secs(seconds.into())))?;
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
    state.kill_all()?;
    // In the foreground that is a command, which a terminal can have stopped: then it cleans nothing up.
    state.monitor.map_or(Ok(()), |monitor| monitor.wake())?;
    if monitor::wait(container, Some(monitor::PATIENCE))? {
        return Ok(());
    }
    bail!("container {} has been killed, and its monitor does not come to an end", container.name())
}

pub fn wait<R: Recipe>(words: &[String]) -> Result<u8> {
    let store = Store::open::<R>()?;
    each_word(words, |word| {
        let end = with(&store, word, |container| {
            container.allows(Verb::Wait)?;
            if explain::dry_run() {
                explain::note(format_args!("here it would be waited for {word}"));
                return Ok(None);
            }
            // Open before the wait, it tells the end also of a container that is removed then.
            monitor::end(container, &mut container.open_end()?, || Ok(())).map(Some)
        })?;
        end.map_or(Ok(()), |end| print(&format!("{}\n", end.code)))
    })
}

pub fn inspect<R: Recipe>(words: &[String]) -> Result<u8> {
    let store = Store::open::<R>()?;
    let mut all = Vec::new();
    let code = each_word(words, |word| {
        all.push(with(&store, word, tables::everything::<R>)?);
        Ok(())
    })?;
    print(&tables::escaped(&format!("{:#}\n", serde_json::Value::Array(all))))?;
    Ok(code)
}

pub fn rm<R: Recipe>(words: &[String], verb: Verb) -> Result<u8> {
    each(&Store::open::<R>()?, words, |container| remove::<R>(container, verb))
}

/// Removes a container, if the table lets this verb do so.
fn remove<R: Recipe>(container: &Container, verb: Verb) -> Result<()> {
    match remove_once_free::<R>(container, verb) {
        Err(_) if container.config.rm && !container.exists() => Ok(()), // its monitor has removed it
        removed => removed,
    }
}

/// Looks again at each turn, as others may be at work on it.
fn remove_once_free<R: Recipe>(container: &Container, verb: Verb) -> Result<()> {
    let since = Instant::now();
    loop {
        // A damaged one has no state to look at; forced, it goes all the same.
        let status = match container.allows(verb) {
            Err(_) if verb == Verb::RmForce && container.exists() && container.state().is_err() => None,
            status => Some(status?),
        };
        let state = container.state().unwrap_or_default();
        match status {
            // Before it has a process there is only its maker to end; a child dies with it.
            Some(Status::Creating) => state.monitor.map_or(Ok(()), |monitor| monitor.signal(Signal::SIGKILL))?,
            Some(Status::Created | Status::Running | Status::Paused) => end(container)?,
            Some(Status::Stopped | Status::Dead) => {}
            // A child dies with its monitor.
            None => container.holders().iter().try_for_each(|holder| holder.signal(Signal::SIGKILL))?,
        }
        if let Some(life) = container.take()? {
            // With its monitor gone, its first process is, too, unless that has got rid of PR_SET_PDEATHSIG.
            if container.end()?.is_none() {
                state.init.map_or(Ok(()), |init| init.signal(Signal::SIGKILL))?;
            }
            recovery::end_run::<R>(&state)?;
            if status.is_none() {
                recovery::remove_groups()?; // which they are, its record does not say any more
            }
            recovery::remove::<R>(&state)?;
            return container.remove(&life);
        }
        if since.elapsed() > monitor::PATIENCE {
            bail!("another engine is at work on container {}", container.name());
        }
        signals::pause(signals::MOMENT)?;
    }
}

pub fn clean<R: Recipe>(all: bool) -> Result<u8> {
    let mut store = Store::open::<R>()?;
    let mut code = 0;
    for container in store.all()? {
        signals::check()?;
        let removed = if container.is_ours().is_ok() { clean_one::<R>(&container, all) } else { Ok(()) };
        match removed {
            // Removed by another engine, or started.
            Err(_) if !container.exists() || matches!(container.status(), Ok(Status::Running)) => {}
            Err(error) => code = fail(error)?,
            Ok(()) => {}
        }
    }
    R::clean(store.path())?;
    store.sweep()?;
    // Groups of steps 02 to 04 that nobody holds.
    recovery::remove_groups()?;
    Ok(code)
}

fn clean_one<R: Recipe>(container: &Container, all: bool) -> Result<()> {
    if let Some(why) = &container.damage {
        // One that is looked after may be just being made.
        if container.is_looked_after() {
            return Ok(());
        }
        explain::note(why);
        return remove::<R>(container, Verb::RmForce);
    }
    let status = container.status()?;
    // One whose monitor was killed between its end and its removal.
    let was_to_go = container.config.rm && status == Status::Stopped && !container.is_looked_after();
    if status == Status::Dead || was_to_go || (all && matches!(status, Status::Created | Status::Stopped)) {
        explain::note(format_args!("container {} is {status}", container.name()));
        remove::<R>(container, Verb::Rm)?;
    }
    Ok(())
}

/// Does it to each container and prints its name, as Docker does.
fn each(store: &Store, words: &[String], act: impl Fn(&Container) -> Result<()>) -> Result<u8> {
    each_word(words, |word| {
        with(store, word, &act)?;
        say(word);
        Ok(())
    })
}

/// One that fails does not keep the others from it. The last failure's code.
fn each_word(words: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result<u8> {
    let mut code = 0;
    for word in words {
        signals::check()?;
        if let Err(error) = act(word) {
            code = fail(error)?;
        }
    }
    Ok(code)
}

/// Does something with a container. Where it fails because another engine has removed it meanwhile, says that.
fn with<T>(store: &Store, word: &str, act: impl Fn(&Container) -> Result<T>) -> Result<T> {
    let container = store.find(word)?;
    match act(&container) {
        // What its monitor has reported of it is printed all the same.
        Err(error) if !container.exists() && !error.is::<Failure>() => {
            bail!("container {word} has just been removed")
        }
        done => done,
    }
}

/// Reports a failure and hands back its code; one by a signal ends the command.
fn fail(error: anyhow::Error) -> Result<u8> {
    if error.is::<signals::Interrupted>() {
        return Err(error);
    }
    Ok(explain::report(&error))
}

/// To standard output; nobody may be reading, and the work is done all the same.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// To standard output, which is what this command is for.
fn print(text: &str) -> Result<()> {
    // Where nobody reads, a signal would be waited for in vain. Not before: a part may have asked a child of this process.
    process::reset_signals().during("cannot reset the signals")?;
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).during("cannot write to standard output")
}
