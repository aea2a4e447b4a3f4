//! What is known of each container, on disk: it outlives the engine, and every command begins by reading it.
//!
//! ```text
//! $XDG_RUNTIME_DIR/step04/         or /run/step04, for this and all later steps; no other user may look into it
//! ├── 4f0c6a19e3b7/                a container, by its id; the process that looks after it holds a lock on the directory
//! │   ├── config.json              what it is to be; never changes
//! │   ├── state.json               what has become of it so far; replaced whole, so never half written
//! │   ├── exit                     how it ended; blank until then. A waiting process has it open, also when it is removed
//! │   ├── log.0, log.1             what it has written, if it is detached: the newest, and before that
//! │   └── start                    a socket: a connection is the wish that it be started
//! └── .new-…, .gone-…              on the way in or out; `clean` removes those that no process holds
//! ```
//!
//! A name stands in `config.json` and nowhere else: so none is left of a container that is gone.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::unistd::{Pid, User, geteuid};
use shared::call;
use shared::explain;
use shared::failure::{During, is};
use shared::lock::{Lock, is_locked, try_lock};

use crate::Recipe;
use crate::container::{Config, Container, Life, State, now};
use crate::directory::{self, Directory};
use crate::identity::Process;
use crate::turn::wait_for_lock;

/// Where the containers of this user are.
pub struct Store {
    path: PathBuf,
    /// None while it is not there.
    dir: Option<Rc<Directory>>,
    /// The step that asks.
    step: &'static str,
}

/// What of this is a user's, the login manager removes when the user's last session ends, unless the user *lingers*. See
/// pam_systemd(8), and `enable-linger` in loginctl(1).
const OF_SESSIONS: &str = "/run/user";
const LINGERING: &str = "/var/lib/systemd/linger";

/// How often the store is made again where it vanishes: another engine can have removed the empty one.
const TRIES: usize = 1000;

impl Store {
    /// Where the containers are: below `$XDG_RUNTIME_DIR` if that is this user's, else `/run` for root, else
    /// `/run/user/UID`, or a directory for temporary files. Root's are in `/run` also where a login session names its own.
    ///
    /// # Errors
    /// Where that directory is another user's, or open to others.
    pub fn open<R: Recipe>() -> Result<Self> {
        Store::of(R::STEP)
    }

    /// The same, for a part, which knows its step from its container's [`Identity`](crate::Identity).
    ///
    /// # Errors
    /// As [`open`](Store::open).
    pub fn of(step: &'static str) -> Result<Self> {
        let user = geteuid();
        // Root's other sessions, and `sudo`, would not look there; and it goes with the last session.
        let is_roots = |dir: &PathBuf| !(user.is_root() && dir.starts_with(OF_SESSIONS));
        let given = directory::of_variable("XDG_RUNTIME_DIR").filter(is_roots);
        let usual = if user.is_root() { PathBuf::from("/run") } else { Path::new(OF_SESSIONS).join(user.to_string()) };
        let temporary = std::env::var_os("TMPDIR").map(PathBuf::from).filter(|dir| !dir.as_os_str().is_empty());
        let path = match given.unwrap_or(usual) {
            dir if dir.is_dir() => dir.join("step04"),
            // Absolute: a monitor stands elsewhere.
            _ => std::path::absolute(temporary.unwrap_or("/tmp".into()).join(format!("step04-{user}")))
                .during("cannot determine the current directory")?,
        };
        Ok(Store { dir: Directory::open(&path)?.map(Rc::new), path, step })
    }

    /// Says so, where a detached container will not outlive this user's login session.
    pub fn warn_of_logout(&self) {
        let lingers = |user: User| Path::new(LINGERING).join(user.name).exists();
        if self.path.starts_with(OF_SESSIONS) && !User::from_uid(geteuid()).ok().flatten().is_some_and(lingers) {
            explain::notice("it ends when you log out: `loginctl enable-linger` lets your processes live on");
        }
    }

    /// Writes a new container down, and takes it into this process's care.
    ///
    /// # Errors
    /// Where its name is taken. Nothing is left then.
    pub fn add<R: Recipe>(
        &mut self,
        name: Option<String>,
        rm: bool,
        command: Vec<String>,
        recipe: &R,
    ) -> Result<(Container, Life)> {
        let options = serde_json::to_value(recipe).context("cannot write the options down")?;
        let config = Config { id: new_id()?, name, created: now(), step: self.step.to_owned(), rm, command, options };
        let id = config.id.clone();
        // Held until it is whole: no other engine can have taken the name meanwhile.
        let _lock = self.lock()?;
        if let Some(name) = &config.name {
            if let Some(other) = self.all()?.iter().find(|it| it.has_name(name)) {
                let id = &other.config.id;
                bail!("the name {name:?} is taken by container {id}: remove that one, or choose another name");
            }
        }
        // In a dry run, and the first time, there is none.
        let store = self.dir.clone().map_or_else(|| Directory::stand_in(&self.path).map(Rc::new), Ok)?;
        let mut container = Container { config, damage: None, store, place: format!(".new-{id}"), asker: self.step };
        if explain::dry_run() {
            container.place = id;
            return Ok((container, Life(None)));
        }
        let record = explain::one_line(container.store.shown(&id).display());
        explain::host(call!("mkdir {}", container.path("").display())).run(|| directory::make(&container.at("")))?;
        let life = try_lock(&container.at("")).during(format_args!("cannot lock {}", container.path("").display()))?;
        if let Err(error) = self.fill(&mut container) {
            // What comes on top of it is not worth a word; `clean` finds what is left.
            let _ = container.store.remove(&container.place);
            return Err(error);
        }
        drop(record);
        Ok((container, Life(Some(life))))
    }

    fn fill(&self, container: &mut Container) -> Result<()> {
        container.put("config.json", &container.config)?;
        container.save(&State { monitor: Some(Process::of(Pid::this())?), ..State::default() })?;
        container.forget_end()?;
        let whole = container.store.shown(&container.config.id);
        explain::host(call!("rename(\"{}\", \"{}\")", container.path("").display(), whole.display()))
            .run(|| std::fs::rename(container.at(""), container.store.at(&container.config.id)))?;
        container.place = container.config.id.clone();
        Ok(())
    }

    /// All containers, the newest first; those that cannot be read have a sentence that says why.
    ///
    /// # Errors
    /// Where the store cannot be listed.
    pub fn all(&self) -> Result<Vec<Container>> {
        let ids = self.entries()?.into_iter().filter(|name| is_id(name));
        let mut all: Vec<_> = ids.filter_map(|id| self.read(&id)).collect();
        all.sort_by(|one, other| other.config.created.cmp(&one.config.created));
        Ok(all)
    }

    /// Where it is, or would be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container with this id, this name, or an id that begins so and is the only one; also where it is damaged.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn find(&self, word: &str) -> Result<Container> {
        if let Some(container) = Some(word).filter(|word| is_id(word)).and_then(|id| self.read(id)) {
            return Ok(container);
        }
        let mut all = self.all()?;
        if let Some(place) = all.iter().position(|it| it.has_name(word)) {
            return Ok(all.swap_remove(place));
        }
        all.retain(|it| it.config.id.starts_with(word));
        match all.len() {
            0 => bail!("no container {word:?} (`{} ps -a` lists them all)", self.step),
            1 => Ok(all.remove(0)),
            count => bail!("{count} containers have ids that begin with {word:?}: give more of it"),
        }
    }

    /// Directories of containers that were on the way in or out when their engine was killed: removes them, or says in
    /// a dry run that it would. Then the store too, if nothing is in it: the machine is as it was before.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn sweep(&mut self) -> Result<()> {
        let Some(dir) = self.dir.clone().filter(|dir| dir.is_there()) else { return Ok(()) };
        // No other engine is half way in while this is held.
        let _lock = self.lock()?;
        for name in self.entries()? {
            let is_half = name.starts_with(".new-") || name.starts_with(".gone-");
            if is_half && !is_locked(&dir.at(&name)) {
                dir.remove(&name)?;
            }
        }
        if !explain::dry_run() {
            let _ = std::fs::remove_dir(&self.path); // ENOTEMPTY: there are containers
        }
        Ok(())
    }

    /// One engine at a time adds a container or removes the store. Makes that where it is not there.
    fn lock(&mut self) -> Result<Option<Lock>> {
        for _ in 0..TRIES {
            if self.dir.as_ref().is_none_or(|dir| !dir.is_there()) {
                match explain::host(call!("mkdir {}", self.path.display())).run(|| directory::make(&self.path)) {
                    // Another engine may make it at the same time.
                    Err(error) if is(&error, Errno::EEXIST) => {}
                    made => made?,
                }
                self.dir = Directory::open(&self.path)?.map(Rc::new);
            }
            if explain::dry_run() {
                return Ok(None);
            }
            let lock = match wait_for_lock(&self.path) {
                Err(error) if is(&error, Errno::ENOENT) => continue,
                lock => lock?,
            };
            // Another engine may have removed the empty store just before, or made another one.
            let inode = |it: std::fs::Metadata| it.ino();
            let locked = lock.file().metadata().map(inode).ok();
            if self.dir.as_ref().is_some_and(|dir| dir.is_there() && locked == dir.at(".").metadata().map(inode).ok()) {
                return Ok(Some(lock));
            }
        }
        bail!("{} vanishes as often as it is made: name another place in XDG_RUNTIME_DIR", self.path.display())
    }

    fn entries(&self) -> Result<Vec<String>> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        match std::fs::read_dir(dir.at("")) {
            Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).during(format_args!("cannot list {}", self.path.display())),
        }
    }

    /// `None` where it is gone.
    fn read(&self, id: &str) -> Option<Container> {
        let store = self.dir.clone()?;
        let config = Config { id: id.to_owned(), ..Config::default() };
        let mut container = Container { config, damage: None, store, place: id.to_owned(), asker: self.step };
        match container.read::<Config>("config.json") {
            Ok(config) if config.id == id => container.config = config,
            Ok(_) => container.damage = Some(format!("container {id}: its config.json is another container's")),
            Err(error) => container.damage = Some(format!("container {id}: {error:#}")),
        }
        container.exists().then_some(container)
    }
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

fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn new_id() -> Result<String> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).during("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::{is_id, name};

    #[test]
    fn a_name_is_no_path_and_no_option() {
        for good in ["web", "a", "a_b.c-d", "0", &"x".repeat(64)] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", "../web", "a/b", "-rf", "_a", "a b", "a\u{1b}[2J", "ä", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_twelve_small_hexadecimal_digits() {
        assert!(is_id("0123456789ab"));
        for bad in ["0123456789a", "0123456789abc", "0123456789aB", "../456789abc", ""] {
            assert!(!is_id(bad), "{bad:?}");
        }
    }
}
