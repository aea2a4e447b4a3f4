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
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::unistd::{Pid, geteuid};
use shared::call;
use shared::explain;
use shared::failure::{During, is};
use shared::lock::{is_locked, try_lock, wait_for_lock};

use crate::container::{Config, Container, Life, State, now};
use crate::identity::Process;
use crate::parts::Recipe;

/// Where the containers of this user are.
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Where the containers are: below `$XDG_RUNTIME_DIR`, else `/run` for root, else `/run/user/UID` or a folder for temporary files.
    ///
    /// # Errors
    /// Where that folder is another user's, or open to others.
    pub fn open() -> Result<Self> {
        let given =
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute() && dir.is_dir());
        let uid = geteuid();
        let usual = if uid.is_root() { PathBuf::from("/run") } else { format!("/run/user/{uid}").into() };
        let dir = match given.unwrap_or(usual) {
            dir if dir.is_dir() => dir.join("step04"),
            // Absolute: a monitor stands elsewhere.
            _ => std::path::absolute(std::env::temp_dir().join(format!("step04-{uid}")))
                .during("cannot tell the current folder")?,
        };
        let store = Store { dir };
        store.is_nobody_elses()?;
        Ok(store)
    }

    /// In a folder for everybody's temporary files, somebody else may have been there first.
    fn is_nobody_elses(&self) -> Result<()> {
        let there = match self.dir.symlink_metadata() {
            // Not there yet, or another engine has just taken the empty store away.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            there => there.during(format_args!("cannot look at {}", self.dir.display()))?,
        };
        ensure!(
            there.is_dir() && there.uid() == geteuid().as_raw() && there.mode() & 0o077 == 0,
            "{} is not a folder that this user alone can look into: remove it, or name another place in XDG_RUNTIME_DIR",
            self.dir.display()
        );
        Ok(())
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
        explain::host(call!("mkdir {}", making.display())).run(|| make_folder(&making))?;
        let life = try_lock(&making).during(format_args!("cannot lock {}", making.display()))?;
        let container = Container { config, dir: making };
        let added = container
            .put("config.json", &container.config)
            .and_then(|()| container.save(&State { monitor: Some(Process::of(Pid::this())?), ..State::default() }))
            .and_then(|()| container.forget_end())
            .and_then(|()| self.take_name(&container.config))
            .and_then(|()| {
                let told = call!("rename(\"{}\", \"{}\")", container.dir.display(), dir.display());
                explain::host(told).run(|| std::fs::rename(&container.dir, &dir))
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
        let told = call!("rename(\"{}\", \"{}\")", container.dir.display(), gone.display());
        explain::host(told).cleanup().run(|| std::fs::rename(&container.dir, &gone))?;
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
                explain::host(call!("rm {}", path.display())).run(|| std::fs::remove_file(&path))?;
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
        let may_be_made = || self.dir.parent().is_some_and(Path::exists);
        loop {
            for dir in [&self.dir, &names] {
                if dir.exists() {
                    continue;
                }
                match explain::host(call!("mkdir {}", dir.display())).run(|| make_folder(dir)) {
                    // Another engine may make the same folder at the same time, or take the store away again.
                    Err(error) if is(&error, Errno::EEXIST) || is(&error, Errno::ENOENT) && may_be_made() => {}
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
                    // Looked at once more: between `open` and this, somebody else may have made it.
                    self.is_nobody_elses()?;
                    return Ok(Some(lock));
                }
                Err(error) if !is(&error, Errno::ENOENT) => return Err(error),
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
            explain::host(call!("rm {}", path.display())).run(|| std::fs::remove_file(&path))?;
        }
        explain::host(call!("symlink(\"{}\", \"{}\")", config.id, path.display())).run(|| symlink(&config.id, &path))
    }

    fn free_name(&self, config: &Config) -> Result<()> {
        let Some(name) = &config.name else { return Ok(()) };
        let path = self.dir.join("names").join(name);
        if std::fs::read_link(&path).is_ok_and(|id| id == Path::new(&config.id)) {
            explain::host(call!("rm {}", path.display())).cleanup().run(|| std::fs::remove_file(&path))?;
        }
        Ok(())
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

/// Nobody else may look into it: a log can hold secrets, and the socket starts things.
fn make_folder(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    // The caller's umask can only have taken rights away, from us too.
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
}

fn remove_folder(dir: &Path) -> Result<()> {
    explain::host(call!("rm -r {}", dir.display())).cleanup().run(|| match std::fs::remove_dir_all(dir) {
        // Another engine that cleans has come first.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}
