//! One container as it is written down: what it is to be, what has become of it, how it ended, who looks after it.

use std::fs::{File, Permissions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use shared::call;
use shared::explain;
use shared::failure::{During, is};
use shared::lock::{is_locked, try_lock};

use crate::identity::Process;
use crate::members;
use crate::parts::Recipe;
use crate::states::{Answer, Status, Verb, answer};

/// A container that is written down.
pub struct Container {
    /// What it is to be.
    pub config: Config,
    pub(crate) dir: PathBuf,
}

/// What a container is to be. Never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// As the user calls it.
    pub name: Option<String>,
    /// When it was written down, RFC 3339.
    pub created: String,
    /// Whether it is removed when it has ended.
    pub rm: bool,
    /// Its namespaces, limits, root and program.
    #[serde(flatten)]
    pub recipe: Recipe,
}

/// What has become of it so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Who looks after it.
    pub monitor: Option<Process>,
    /// Its first process.
    pub init: Option<Process>,
    /// Where its groups are or will be.
    pub cgroups: Vec<PathBuf>,
    /// When its program began, RFC 3339.
    pub started: Option<String>,
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

/// Bytes of the file `exit`.
const ROOM_FOR_END: usize = 4096;

/// The lock on a container's folder: whoever has it looks after the container, and nobody else changes it. The kernel
/// lets go of it with the process, so it cannot lie as a file with a pid in it can. None in a dry run.
pub struct Life(pub(crate) Option<Flock<File>>);

impl Config {
    /// What the container calls itself: as it was asked for, else its id, as Docker does.
    pub fn hostname(&self) -> &str {
        self.recipe.view.hostname.as_deref().unwrap_or(&self.id)
    }
}

impl Container {
    /// As the user calls it: by its name, else its id.
    pub fn name(&self) -> &str {
        self.config.name.as_deref().unwrap_or(&self.config.id)
    }

    /// A file of its folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// What has become of it so far.
    pub fn state(&self) -> Result<State> {
        let path = self.path("state.json");
        let text = std::fs::read_to_string(&path).during(format_args!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// Writes that down.
    pub fn save(&self, state: &State) -> Result<()> {
        self.put("state.json", state)
    }

    /// Where it is in its life. Asked of the kernel as far as the kernel knows: who holds the lock, who is frozen.
    pub fn status(&self) -> Result<Status> {
        loop {
            // In this order: an end is written before the lock is let go of.
            let alone = !self.is_looked_after();
            if self.end()?.is_some() {
                return Ok(Status::Stopped);
            }
            if alone {
                // Between the two looks it may have been started again.
                if self.is_looked_after() {
                    continue;
                }
                return Ok(Status::Dead);
            }
            return Ok(match self.state()? {
                State { started: Some(_), cgroups, .. } if members::are_frozen(&cgroups) => Status::Paused,
                State { started: Some(_), .. } => Status::Running,
                State { init: Some(_), .. } => Status::Created,
                _ => Status::Creating,
            });
        }
    }

    /// Whether somebody holds its lock: its monitor, or an engine that is at work on it.
    pub fn is_looked_after(&self) -> bool {
        is_locked(&self.dir)
    }

    /// Whether its folder is there.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// What this command may do now.
    ///
    /// # Errors
    /// Where it may not: the table's sentence.
    pub fn allows(&self, verb: Verb) -> Result<Status> {
        let status = self.status()?;
        match answer(verb, status) {
            Answer::Refused(why) => bail!("container {} {why}", self.name()),
            _ => Ok(status),
        }
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Result<Option<End>> {
        match self.open_end() {
            // Somebody has taken the file away, and not the container.
            Err(error) if is(&error, Errno::ENOENT) && self.exists() => Ok(None),
            file => read_end(&mut file?),
        }
    }

    /// The file that will say how it ended: still good when the folder is gone.
    pub fn open_end(&self) -> Result<File> {
        let path = self.path("exit");
        File::open(&path).during(format_args!("cannot read {}", path.display()))
    }

    /// Writes down how it ended: once, in one write, into the file that others have open.
    pub fn finish(&self, code: u8, error: Option<String>) -> Result<()> {
        // No longer than the place that was kept for it.
        let error = error.map(|error| error.chars().take(ROOM_FOR_END / 8).collect());
        let end = serde_json::to_vec(&End { code, finished: now(), error }).context("cannot write the end down")?;
        let path = self.path("exit");
        explain::host(call!("echo … > {}", path.display()))
            .cleanup()
            .run(|| File::options().write(true).open(&path)?.write_all(&end))
    }

    /// It has not ended, or not yet again. Blanks keep the place, so that a full disk cannot keep the end from being told.
    pub fn forget_end(&self) -> Result<()> {
        self.put_bytes("exit", &[b' '; ROOM_FOR_END])
    }

    /// Takes it into this process's care; `None` where somebody else looks after it.
    pub fn take(&self) -> Result<Option<Life>> {
        if explain::dry_run() {
            return Ok(Some(Life(None)));
        }
        match try_lock(&self.dir) {
            Ok(lock) => Ok(Some(Life(Some(lock)))),
            Err(Errno::EWOULDBLOCK) => Ok(None),
            Err(Errno::ENOENT) => bail!("container {} is gone already", self.name()),
            Err(errno) => Err(errno).during(format_args!("cannot lock {}", self.dir.display())),
        }
    }

    pub(crate) fn put(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).with_context(|| format!("cannot write {name}"))?;
        self.put_bytes(name, &text)
    }

    /// Replaces a file whole: a reader sees the old one or the new one, and so does whoever comes after a SIGKILL.
    fn put_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        explain::host(call!("rename(\"{}\", \"{}\")", new.display(), path.display())).undisturbed().run(|| {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            // The caller's umask can have taken rights away, from us too.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            std::fs::rename(&new, &path)
        })
    }
}

impl Life {
    /// Closes this process's copy of the lock; the copy of the child that now looks after the container keeps it.
    pub fn hand_over(mut self) {
        if let Some(lock) = self.0.take() {
            // Dropped, it would unlock for both.
            let _ = nix::unistd::close(lock.as_raw_fd());
            std::mem::forget(lock);
        }
    }
}

/// How it ended, by the file that says so; `None` as long as that does not stand there, whole.
pub fn read_end(file: &mut File) -> Result<Option<End>> {
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).during("cannot read how it ended")?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Now, as it is written down.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
