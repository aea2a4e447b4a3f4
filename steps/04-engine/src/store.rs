//! What is known of each container, on disk: it outlives the engine, and every command begins by reading it.
//!
//! ```text
//! $XDG_RUNTIME_DIR/step04/         or /run/step04; nobody else may look into it
//! ├── 4f0c6a19e3b7/                a container, by its id; whoever looks after it holds a lock on the folder
//! │   ├── config.json              what it is to be; never changes
//! │   ├── state.json               what has become of it so far; replaced whole, so never half written
//! │   ├── exit                     how it ended; blank until then. Who waits has it open, also when it is removed
//! │   ├── log.0, log.1, …          what it has written, if it is detached
//! │   └── start                    a socket: a connection is the wish that it be started
//! ├── .new-…, .gone-…              on the way in or out; `clean` takes away those that nobody holds
//! └── names/web -> 4f0c6a19e3b7    a name belongs to one container
//! ```

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};
use shared::explain::{self, During};
use shared::lock::{is_locked, try_lock, wait_for_lock};
use shared::sys;

use crate::members;
use crate::parts::Recipe;
use crate::states::{Answer, Status, Verb, answer};

/// Where the containers of this user are.
pub struct Store {
    dir: PathBuf,
}

/// A container that is written down.
pub struct Container {
    /// What it is to be.
    pub config: Config,
    dir: PathBuf,
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

/// A process that cannot be mistaken: the kernel gives a pid to another process later, but never with the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As the host knows it.
    pub pid: i32,
    /// When it began, in clock ticks since boot: field 22 of proc_pid_stat(5).
    pub start: u64,
}

/// Bytes of the file `exit`.
const ROOM_FOR_END: usize = 4096;

/// The lock on a container's folder: whoever has it looks after the container, and nobody else changes it. The kernel
/// lets go of it with the process, so it cannot lie as a file with a pid in it can. None in a dry run.
pub struct Life(Option<Flock<File>>);

impl Store {
    /// Where the containers are: below `$XDG_RUNTIME_DIR`, else `/run` for root, else `/run/user/UID` or a folder for temporary files.
    ///
    /// # Errors
    /// Where that folder is another user's, or open to others.
    pub fn open() -> Result<Self> {
        let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let uid = geteuid();
        let usual = if uid.is_root() { PathBuf::from("/run") } else { format!("/run/user/{uid}").into() };
        let dir = match given.unwrap_or(usual) {
            dir if dir.is_dir() => dir.join("step04"),
            _ => std::env::temp_dir().join(format!("step04-{uid}")),
        };
        // In a folder for everybody's temporary files, somebody else may have been there first.
        if let Ok(there) = dir.symlink_metadata() {
            ensure!(
                there.is_dir() && there.uid() == uid.as_raw() && there.mode() & 0o077 == 0,
                "{} is not a folder that this user alone can look into: remove it, or name another place in XDG_RUNTIME_DIR",
                dir.display()
            );
        }
        Ok(Store { dir })
    }

    /// Writes a new container down, and takes it into this process's care.
    ///
    /// # Errors
    /// Where its name is taken. Nothing is left then.
    pub fn add(&self, name: Option<String>, rm: bool, recipe: Recipe) -> Result<(Container, Life)> {
        let config = Config { id: new_id()?, name, created: now(), rm, recipe };
        let dir = self.dir.join(&config.id);
        let making = self.dir.join(format!(".new-{}", config.id));
        let _lock = self.lock()?;
        if explain::dry_run() {
            return Ok((Container { config, dir }, Life(None)));
        }
        explain::host(format_args!("mkdir {}", making.display()), || make_folder(&making))?;
        let life = try_lock(&making).during(format_args!("cannot lock {}", making.display()))?;
        let container = Container { config, dir: making };
        let added = container
            .put("config.json", &container.config)
            .and_then(|()| container.save(&State { monitor: Some(Process::of(Pid::this())?), ..State::default() }))
            .and_then(|()| container.forget_end())
            .and_then(|()| self.take_name(&container.config))
            .and_then(|()| {
                let told = format_args!("rename(\"{}\", \"{}\")", container.dir.display(), dir.display());
                explain::host(told, || std::fs::rename(&container.dir, &dir))
            });
        if let Err(error) = added {
            // What comes on top of it is not worth a word; `clean` finds what is left.
            let _ = self.free_name(&container.config);
            let _ = remove_folder(&container.dir);
            return Err(error);
        }
        Ok((Container { dir, ..container }, Life(Some(life))))
    }

    /// Takes a container's folder away, and its name. Whoever calls it holds the container's lock.
    pub fn remove(&self, container: &Container, _life: &Life) -> Result<()> {
        if explain::dry_run() {
            explain::note(format_args!("{} would be removed", container.dir.display()));
            return Ok(());
        }
        let gone = self.dir.join(format!(".gone-{}", container.config.id));
        let lock = wait_for_lock(&self.dir)?;
        let told = format_args!("rename(\"{}\", \"{}\")", container.dir.display(), gone.display());
        explain::host_cleanup(told, || std::fs::rename(&container.dir, &gone))?;
        self.free_name(&container.config)?;
        drop(lock);
        remove_folder(&gone)
    }

    /// All containers, the newest first; and the failures of those that cannot be read.
    pub fn all(&self) -> Result<(Vec<Container>, Vec<anyhow::Error>)> {
        let ids = self.entries()?.into_iter().filter(|name| is_id(name));
        let (mut all, mut broken) = (Vec::new(), Vec::new());
        for id in ids {
            match self.read(&id) {
                Ok(container) => all.push(container),
                // Removed between the list and the look.
                Err(_) if !self.dir.join(&id).exists() => {}
                Err(error) => broken.push(error.context(format!("container {id} (`step04 clean` takes it away)"))),
            }
        }
        all.sort_by(|one, other| other.config.created.cmp(&one.config.created));
        Ok((all, broken))
    }

    /// The container with this id, this name, or an id that begins so and is the only one.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn find(&self, word: &str) -> Result<Container> {
        let read = |id: &str| match self.read(id) {
            Err(_) if !self.dir.join(id).exists() => bail!("container {word} has just been removed"),
            read => read,
        };
        if is_id(word) && self.dir.join(word).is_dir() {
            return read(word);
        }
        if let Some(id) = self.named(word) {
            return read(&id);
        }
        let ids: Vec<_> = self.entries()?.into_iter().filter(|id| is_id(id) && id.starts_with(word)).collect();
        match ids.as_slice() {
            [id] => read(id),
            [] => bail!("no container {word:?} (`step04 ps -a` lists them all)"),
            _ => bail!("{} containers have ids that begin with {word:?}: give more of it", ids.len()),
        }
    }

    /// Folders of containers that were on the way in or out when their engine was killed, or that cannot be read, and
    /// names of nobody: takes them away, or says in a dry run that it would. Then the store too, if nothing is in it: the
    /// machine is as it was before.
    pub fn sweep(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        // Nobody else is half way in while this is held.
        let _lock = self.lock()?;
        for name in self.entries()? {
            let dir = self.dir.join(&name);
            let is_half = name.starts_with(".new-") || name.starts_with(".gone-");
            if (is_half || is_id(&name) && self.read(&name).is_err()) && !is_locked(&dir) {
                remove_folder(&dir)?;
            }
        }
        for entry in std::fs::read_dir(self.dir.join("names")).into_iter().flatten().flatten() {
            let is_nobodys = std::fs::read_link(entry.path()).is_ok_and(|id| !self.dir.join(id).exists());
            if is_nobodys {
                let path = entry.path();
                explain::host(format_args!("rm {}", path.display()), || std::fs::remove_file(&path))?;
            }
        }
        if !explain::dry_run() && self.entries()?.iter().all(|name| name == "names") {
            let _ = std::fs::remove_dir(self.dir.join("names"));
            let _ = std::fs::remove_dir(&self.dir);
        }
        Ok(())
    }

    /// One engine at a time adds, removes and names. Makes the folders where they are not there.
    fn lock(&self) -> Result<Option<Flock<File>>> {
        let names = self.dir.join("names");
        loop {
            for dir in [&self.dir, &names] {
                if dir.exists() {
                    continue;
                }
                match explain::host(format_args!("mkdir {}", dir.display()), || make_folder(dir)) {
                    // Two engines may make the same folder at the same time, or one may take it away again.
                    Err(_) if dir.exists() || (dir == &names && !self.dir.exists()) => {}
                    made => made?,
                }
            }
            if explain::dry_run() {
                return Ok(None);
            }
            let inode = || self.dir.metadata().map(|it| it.ino()).ok();
            match wait_for_lock(&self.dir) {
                // Another engine may have taken the empty store away just before.
                Ok(lock) if lock.metadata().map(|it| it.ino()).ok() == inode() && names.exists() => {
                    return Ok(Some(lock));
                }
                Err(error) if self.dir.exists() => return Err(error),
                _ => {}
            }
        }
    }

    fn entries(&self) -> Result<Vec<String>> {
        match std::fs::read_dir(&self.dir) {
            Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).during(format_args!("cannot list {}", self.dir.display())),
        }
    }

    fn read(&self, id: &str) -> Result<Container> {
        let dir = self.dir.join(id);
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).during(format_args!("cannot read {}", path.display()))?;
        let config = serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        Ok(Container { config, dir })
    }

    /// Whose name this is.
    fn named(&self, name: &str) -> Option<String> {
        let id = std::fs::read_link(self.dir.join("names").join(name)).ok()?.into_os_string().into_string().ok()?;
        (is_id(&id) && self.dir.join(&id).exists()).then_some(id)
    }

    fn take_name(&self, config: &Config) -> Result<()> {
        let Some(name) = &config.name else { return Ok(()) };
        if let Some(id) = self.named(name) {
            bail!("the name {name:?} is taken by container {id}: remove that one, or choose another name");
        }
        let path = self.dir.join("names").join(name);
        if path.symlink_metadata().is_ok() {
            // Of an engine that was killed: nobody else is half way while the store is locked.
            explain::host(format_args!("rm {}", path.display()), || std::fs::remove_file(&path))?;
        }
        explain::host(format_args!("symlink(\"{}\", \"{}\")", config.id, path.display()), || symlink(&config.id, &path))
    }

    fn free_name(&self, config: &Config) -> Result<()> {
        let Some(name) = &config.name else { return Ok(()) };
        let path = self.dir.join("names").join(name);
        if std::fs::read_link(&path).is_ok_and(|id| id == Path::new(&config.id)) {
            explain::host_cleanup(format_args!("rm {}", path.display()), || std::fs::remove_file(&path))?;
        }
        Ok(())
    }
}

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
        read_end(&mut self.open_end()?)
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
        explain::host_cleanup(format_args!("echo … > {}", path.display()), || {
            File::options().write(true).open(&path)?.write_all(&end)
        })
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

    fn put(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).with_context(|| format!("cannot write {name}"))?;
        self.put_bytes(name, &text)
    }

    /// Replaces a file whole: a reader sees the old one or the new one, and so does whoever comes after a SIGKILL.
    fn put_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        explain::host_cleanup(format_args!("rename(\"{}\", \"{}\")", new.display(), path.display()), || {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            // The caller's umask can have taken rights away, from us too.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            std::fs::rename(&new, &path)
        })
    }
}

impl Process {
    /// The process with this pid, now.
    ///
    /// # Errors
    /// Where there is none.
    pub fn of(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).during(format_args!("cannot read {path}"))?;
        // The second field is a name in parentheses, in which anything may stand.
        let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
        Ok(Process { pid: pid.as_raw(), start: start.with_context(|| format!("cannot understand {path}"))? })
    }

    /// A descriptor of exactly this process; `None` where it is gone, whoever has its pid now, and in a dry run.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid);
        let fd = match sys::pidfd_open(pid) {
            // Older kernels say EINVAL of one that has just been waited for.
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            fd => fd.during(format_args!("pidfd_open({pid})"))?,
        };
        // Looked at only now, when the descriptor already means whoever it is.
        Ok(Process::of(pid).is_ok_and(|now| now == *self).then_some(fd))
    }

    /// Host: sends it a signal; succeeds where it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(fd) = self.open()? else { return Ok(()) };
        explain::host_cleanup(format_args!("pidfd_send_signal({}, {signal})", fd.as_raw_fd()), || {
            match sys::pidfd_send_signal(fd.as_fd(), signal) {
                Err(Errno::ESRCH) => Ok(()),
                answer => answer,
            }
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
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).during("cannot read how it ended")?;
    Ok(serde_json::from_str(&text).ok())
}

/// A name as Docker has it: letters, digits, `_`, `.` and `-`, beginning with a letter or a digit. So it is no path, no
/// option and drives no terminal.
pub fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) || text.starts_with(['_', '.', '-']) {
        return Err(
            "a name has 1 to 64 letters, digits, `_`, `.` and `-`, and begins with a letter or digit".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// Now, as it is written down.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn new_id() -> Result<String> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).during("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Nobody else may look into it: a log can hold secrets, and the socket starts things.
fn make_folder(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    // The caller's umask can only have taken rights away, from us too.
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
}

fn remove_folder(dir: &Path) -> Result<()> {
    explain::host_cleanup(format_args!("rm -r {}", dir.display()), || match std::fs::remove_dir_all(dir) {
        // Another engine that cleans has come first.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}
