//! One container as it is written down: what it is to be, what has become of it, how it ended, who looks after it.

use std::fs::{DirEntry, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use cgroups::freezer;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, close, geteuid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::call;
use shared::explain;
use shared::failure::{During, is};
use shared::lock::{Lock, is_locked, try_lock};

use crate::directory::{self, Directory};
use crate::identity::Process;
use crate::members::{RecordedGroup, known};
use crate::states::{Answer, Status, Verb, answer};
use crate::{Identity, Letter, Part, Recipe};

/// A container that is written down.
pub struct Container {
    /// What it is to be.
    pub config: Config,
    /// Why that cannot be read; `config` has its id alone then.
    pub damage: Option<String>,
    pub(crate) store: Rc<Directory>,
    /// The name of its directory in the store: its id, once it is whole.
    pub(crate) place: String,
    /// The step that asks.
    pub(crate) asker: &'static str,
}

/// What a container is to be. Never changes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// As the user calls it.
    pub name: Option<String>,
    /// When it was written down, RFC 3339.
    pub created: String,
    /// The step that makes it, and so can undo it: `step04`.
    pub step: String,
    /// Whether it is removed when it has ended.
    pub rm: bool,
    /// The program and its arguments; a shell where there is none.
    pub command: Vec<String>,
    /// The step's own options, as they were settled: a [`Recipe`].
    pub options: Value,
}

/// What has become of it so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Who looks after it.
    pub monitor: Option<Process>,
    /// Its first process.
    pub init: Option<Process>,
    /// Its groups, made or not.
    pub groups: Vec<RecordedGroup>,
    /// When its program began, RFC 3339.
    pub started: Option<String>,
    /// What its parts make, written down before they make it: a [`Recipe::Plan`].
    pub plan: Option<Value>,
}

/// How it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// The program's exit code, or 128 and the signal that ended it; 125 where the engine failed.
    pub code: u8,
    /// When, RFC 3339.
    pub finished: String,
    /// What went wrong, if the engine did.
    pub error: Option<String>,
}

/// What is known of a container at one moment: in the next it may be removed, or started again.
pub struct Snapshot {
    /// Where it is in its life.
    pub status: Status,
    /// What has become of it so far; blank where it has ended and that cannot be read.
    pub state: State,
    /// How it ended, if it has.
    pub end: Option<End>,
}

/// Bytes of the file `exit`.
const ROOM_FOR_END: usize = 4096;
/// Bytes of the largest file that is read whole: a command line can have 2 MiB. execve(2).
const LARGEST: u64 = 8 << 20;

/// The lock on a container's directory: the process that has it looks after the container, and no other changes it. The
/// kernel releases it with the process, so it cannot lie as a file with a pid in it can. None in a dry run.
pub struct Life(pub(crate) Option<Lock>);

impl Config {
    /// The step's own options.
    ///
    /// # Errors
    /// Where they are not those of this step.
    pub fn recipe<R: Recipe>(&self) -> Result<R> {
        let why = || format!("container {}: its options are not those of {}", self.id, R::STEP);
        serde_json::from_value(self.options.clone()).with_context(why)
    }
}

impl State {
    /// What its parts make; `None` where nothing has been planned.
    ///
    /// # Errors
    /// Where it is no plan of this step.
    pub fn plan<R: Recipe>(&self) -> Result<Option<R::Plan>> {
        let plan = self.plan.clone().map(serde_json::from_value).transpose();
        plan.with_context(|| format!("cannot understand the plan of {}", R::STEP))
    }

    /// Host: ends its processes.
    ///
    /// # Errors
    /// Where processes are left after all: those of a pid namespace that we cannot see into.
    pub fn kill_all(&self) -> Result<()> {
        freezer::kill_all(&known(&self.groups))?;
        // Without a group there is only this one; and PID 1 of a pid namespace takes all others along.
        self.init.map_or(Ok(()), |init| init.signal(Signal::SIGKILL))
    }

    /// Whether nothing of ours stays with it, by intention: [`Keeper::Subreaper`](crate::Keeper).
    pub fn is_orphan(&self) -> bool {
        self.monitor.is_none() && self.init.is_some()
    }

    /// Whether that is so, and its first process lives.
    pub fn is_living_orphan(&self) -> bool {
        self.is_orphan() && self.init.is_some_and(|init| init.lives())
    }

    /// Of one that has not ended.
    fn status(&self) -> Status {
        let Some(init) = self.init else { return Status::Creating };
        // Without a monitor nobody writes down that the program has begun, but the kernel knows.
        match if self.is_orphan() { !init.is_before_exec() } else { self.started.is_some() } {
            false => Status::Created,
            true if freezer::are_frozen(&known(&self.groups)) => Status::Paused,
            true => Status::Running,
        }
    }
}

impl Container {
    /// As the user calls it: by its name, else its id.
    pub fn name(&self) -> &str {
        self.config.name.as_deref().unwrap_or(&self.config.id)
    }

    /// Whether the user has given it this name.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.config.name.as_deref() == Some(name)
    }

    /// What its parts may know of it.
    pub fn identity(&self) -> Identity {
        let Config { id, name, .. } = &self.config;
        Identity {
            step: self.asker,
            id: id.clone(),
            name: name.clone(),
            directory: self.path(""),
            data: data().join(id),
        }
    }

    /// A file of its directory, to be used.
    pub fn at(&self, file: &str) -> PathBuf {
        self.store.at(&format!("{}/{file}", self.place))
    }

    /// The same, to be printed.
    pub fn path(&self, file: &str) -> PathBuf {
        let dir = self.store.shown(&self.place);
        if file.is_empty() { dir } else { dir.join(file) } // joined, it would end with a slash
    }

    /// What has become of it so far.
    ///
    /// # Errors
    /// Where the file is damaged or missing.
    pub fn state(&self) -> Result<State> {
        self.read("state.json")
    }

    /// Writes that down.
    ///
    /// # Errors
    /// ENOSPC where there is no room.
    pub fn save(&self, state: &State) -> Result<()> {
        let _line = explain::one_line(self.path("state.json").display());
        self.put("state.json", state)
    }

    /// Where it is in its life. Asked of the kernel as far as the kernel knows: who holds the lock, who is frozen.
    ///
    /// # Errors
    /// Those of [`state`](Self::state).
    pub fn status(&self) -> Result<Status> {
        self.snapshot().map(|it| it.status)
    }

    /// The same, and what it was seen by.
    ///
    /// # Errors
    /// The same.
    pub fn snapshot(&self) -> Result<Snapshot> {
        loop {
            // In this order: an end is written before the lock is released.
            let alone = !self.is_looked_after();
            let end = self.end()?;
            // Between the two looks it may have been started again.
            if alone && end.is_none() && self.is_looked_after() {
                continue;
            }
            let state = match self.state() {
                Err(error) if !alone && end.is_none() => return Err(error),
                state => state.unwrap_or_default(),
            };
            let status = match &end {
                Some(_) => Status::Stopped,
                None if !alone || state.is_living_orphan() => state.status(),
                None if state.is_orphan() => Status::Stopped,
                None => Status::Dead,
            };
            return Ok(Snapshot { status, state, end });
        }
    }

    /// Whether a process holds its lock: its monitor, or an engine that is at work on it.
    pub fn is_looked_after(&self) -> bool {
        is_locked(&self.at(""))
    }

    /// Whether its directory is there.
    pub fn exists(&self) -> bool {
        self.at("").exists()
    }

    /// # Errors
    /// Where it is damaged: why, and what to do.
    pub fn is_whole(&self) -> Result<()> {
        let Config { id, .. } = &self.config;
        self.damage.as_ref().map_or(Ok(()), |why| bail!("{why} (`{} rm -f {id}` removes it)", self.asker))
    }

    /// What this command may do now.
    ///
    /// # Errors
    /// Where it may not: the table's sentence; where it is damaged, and where another step has made it.
    pub fn allows(&self, verb: Verb) -> Result<Status> {
        if verb != Verb::RmForce {
            self.is_whole()?;
        }
        let status = self.status()?;
        match answer(verb, status) {
            Answer::Refused(why) => bail!("container {} {why}", self.name()),
            _ if verb == Verb::Wait => Ok(status),
            _ => self.is_ours().map(|()| status),
        }
    }

    /// Whether it is this step that has made it: another one knows nothing of its parts.
    ///
    /// # Errors
    /// Where it is not, with the step that has.
    pub fn is_ours(&self) -> Result<()> {
        let maker = &self.config.step;
        let is_ours = self.damage.is_some() || maker == self.asker;
        ensure!(is_ours, "container {} is one of {maker}: use `{maker}` for it", self.name());
        Ok(())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn end(&self) -> Result<Option<End>> {
        match self.open_end() {
            // The file was removed, and not the container; or it is no file.
            Err(error) if (is(&error, Errno::ENOENT) || is(&error, Errno::EINVAL)) && self.exists() => Ok(None),
            file => read_end(&mut file?),
        }
    }

    /// The file that will say how it ended: still good when the directory is gone.
    ///
    /// # Errors
    /// ENOENT where it is gone.
    pub fn open_end(&self) -> Result<File> {
        directory::open_file(&self.at("exit")).during(format_args!("cannot read {}", self.path("exit").display()))
    }

    /// Writes down how it ended: once, in one write, into the file that others have open.
    ///
    /// # Errors
    /// Where the file is gone.
    pub fn finish(&self, code: u8, error: Option<String>) -> Result<()> {
        // No longer than the place that was kept for it.
        let error = error.map(|error| error.chars().take(ROOM_FOR_END / 8).collect());
        let end = serde_json::to_vec(&End { code, finished: now(), error }).context("cannot write the end down")?;
        explain::host(call!("echo … > {}", self.path("exit").display()))
            .cleanup()
            .run(|| File::options().write(true).open(self.at("exit"))?.write_all(&end))
    }

    /// Resets `exit`; preallocated, so that recording the end needs no disk space.
    ///
    /// # Errors
    /// ENOSPC where there is no room.
    pub fn forget_end(&self) -> Result<()> {
        self.put_bytes("exit", &[b' '; ROOM_FOR_END])
    }

    /// Takes it into this process's care; `None` where another process looks after it.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn take(&self) -> Result<Option<Life>> {
        if explain::dry_run() {
            return Ok(Some(Life(None)));
        }
        match try_lock(&self.at("")) {
            Ok(lock) => Ok(Some(Life(Some(lock)))),
            Err(Errno::EWOULDBLOCK) => Ok(None),
            Err(Errno::ENOENT) => bail!("container {} is gone already", self.name()),
            Err(errno) => Err(errno).during(format_args!("cannot lock {}", self.path("").display())),
        }
    }

    /// Removes its directory, of which the caller holds the lock.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove(&self, _life: &Life) -> Result<()> {
        if explain::dry_run() {
            explain::note(format_args!("{} would be removed", self.path("").display()));
            return Ok(());
        }
        let gone = format!(".gone-{}", self.config.id);
        let _line = explain::one_line(self.path("").display());
        explain::host(call!("rename(\"{}\", \"{}\")", self.path("").display(), self.store.shown(&gone).display()))
            .cleanup()
            .run(|| std::fs::rename(self.at(""), self.store.at(&gone)))?;
        self.store.remove(&gone)
    }

    /// The other processes that have its directory open, as the one has that holds its lock: for where the record does not
    /// say any more which that is.
    pub(crate) fn holders(&self) -> Vec<Process> {
        let Ok(own) = self.at("").metadata() else { return Vec::new() };
        let is_it = |path: PathBuf| path.metadata().is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino()));
        let holder = |process: DirEntry| {
            let pid: i32 = process.file_name().to_str()?.parse().ok()?;
            let mut open = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
            let comm = std::fs::read_to_string(process.path().join("comm")).ok()?;
            let is_other = pid != Pid::this().as_raw() && comm.trim() == self.asker && open.any(|fd| is_it(fd.path()));
            is_other.then(|| Process::of(Pid::from_raw(pid)).ok())?
        };
        std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(holder).collect()
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let shown = self.path(name);
        let text = directory::read(&self.at(name), LARGEST).during(format_args!("cannot read {}", shown.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", shown.display()))
    }

    pub(crate) fn put(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).with_context(|| format!("cannot write {name}"))?;
        self.put_bytes(name, &text)
    }

    fn put_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let new = format!("{name}.new");
        let (from, to) = (self.path(&new), self.path(name));
        explain::host(call!("rename(\"{}\", \"{}\")", from.display(), to.display()))
            .undisturbed()
            .run(|| directory::replace(&self.at(name), bytes))
    }
}

impl Part for Life {
    fn name(&self) -> &'static str {
        "lock"
    }

    /// Child: closes its copy, which would say that the container is looked after when its monitor is gone. A child
    /// dies with that, but one that is frozen on v1 does not before it is thawed.
    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |lock| close(lock.file().as_raw_fd()).during("cannot close the lock"))
    }
}

/// How it ended, by the file that says so; `None` as long as that is not there, whole.
///
/// # Errors
/// Where it cannot be read.
pub fn read_end(file: &mut File) -> Result<Option<End>> {
    let mut text = Vec::new();
    file.rewind()
        .and_then(|()| file.take(2 * ROOM_FOR_END as u64).read_to_end(&mut text))
        .during("cannot read how it ended")?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Now, RFC 3339 with milliseconds.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// On disk, where the store is in memory: as the XDG base directory specification has it, or where the system keeps such
/// things for root.
fn data() -> PathBuf {
    let home = || directory::of_variable("HOME").map(|home| home.join(".local/share"));
    let usual = || if geteuid().is_root() { Some("/var/lib".into()) } else { home() };
    match directory::of_variable("XDG_DATA_HOME").or_else(usual) {
        // Not the store's name, for where both are in one directory.
        Some(dir) => dir.join("step04-data"),
        None => format!("/var/tmp/step04-data-{}", geteuid()).into(),
    }
}
