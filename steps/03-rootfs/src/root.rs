//! The options of this step: where the child stands.

use std::env::VarError;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Result, ensure};
use process::Environment;
use serde::{Deserialize, Serialize};
use shared::call;
use shared::explain;
use shared::failure::During;

/// Where the child stands.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Where the child stands (step 03)")]
pub struct Root {
    /// The folder that becomes its `/` [default: target/rootfs, made from this machine's own tools where it is not there]
    #[arg(long = "rootfs", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A folder or file of the host that it sees too
    #[arg(short, long = "volume", value_name = "SRC:DST[:ro]", value_parser = volume)]
    pub(crate) volumes: Vec<Volume>,
    /// Let it write to nothing but /dev, /proc, volumes, and what is mounted in the root already
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The folder, inside, in which it begins; made where it is not there
    #[arg(short, long, value_name = "DIR", value_parser = path_inside, default_value = "/")]
    pub(crate) workdir: PathBuf,
    /// A variable of its environment; without a value, the host's
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<Variable>,
}

/// A folder or file of the host that the child sees too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// A variable for the environment, and its value; none where the host's was asked for and the host has none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Variable {
    name: String,
    value: Option<String>,
}

/// The default root, and the script that makes it, in the folder where this project was built.
const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/rootfs");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../rootfs-scripts/host.sh");

impl Root {
    /// Host: the folder that becomes `/`, made by a script where it is the default one and not there yet.
    ///
    /// # Errors
    /// Where it is no folder, or the host's own `/`; where a volume's source is missing.
    pub fn prepare(&self) -> Result<PathBuf> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => default()?,
        };
        for volume in &self.volumes {
            let source = &volume.source;
            source.metadata().during(format_args!("rootfs: the volume's source {}", source.display()))?;
        }
        if explain::dry_run() && !dir.exists() {
            return Ok(dir);
        }
        let dir = dir
            .canonicalize()
            .during(format_args!("rootfs: {} (the scripts in rootfs-scripts/ make one)", dir.display()))?;
        let there = dir.metadata().during(format_args!("rootfs: {}", dir.display()))?;
        ensure!(there.is_dir(), "rootfs: {} is a file: a root is a folder (unpack an archive first)", dir.display());
        let host = Path::new("/").metadata().during("rootfs: /")?;
        let same = (there.dev(), there.ino()) == (host.dev(), host.ino());
        ensure!(!same, "rootfs: {} is the host's own root: the child would stand where it stands now", dir.display());
        Ok(dir)
    }

    /// The program's variables: a few that every program expects, and those that were given. None of the host's.
    pub fn environment(&self, hostname: &str) -> Environment {
        let fixed = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("HOSTNAME", hostname),
        ];
        let term = std::env::var_os("TERM").map(|term| ("TERM".into(), term));
        let fixed = fixed.into_iter().map(|(name, value)| (name.into(), value.into())).chain(term);
        Environment::new(fixed.chain(self.env.iter().filter_map(Variable::to_pair)))
    }

    /// The folder that becomes `/`, as it was asked for.
    pub fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(DEFAULT))
    }

    /// The folder, inside, in which the program begins.
    pub fn workdir(&self) -> &Path {
        &self.workdir
    }

    /// The same, with paths that mean the same wherever the caller stands later.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare).
    pub fn settled(mut self) -> Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).during("cannot tell the current folder");
        self.dir = Some(self.prepare()?);
        for volume in &mut self.volumes {
            volume.source = absolute(&volume.source)?;
        }
        Ok(self)
    }
}

impl Variable {
    /// As [`Environment`] takes it.
    pub fn to_pair(&self) -> Option<(OsString, OsString)> {
        self.value.as_ref().map(|value| (OsString::from(&self.name), OsString::from(value)))
    }
}

fn default() -> Result<PathBuf> {
    // Its `..` taken out by hand: canonicalize(3) fails while the folder is not there.
    let dir = Path::new(DEFAULT).components().fold(PathBuf::new(), |path, part| match part {
        Component::ParentDir => path.parent().map(Path::to_owned).unwrap_or_default(),
        part => path.join(part),
    });
    if !dir.exists() {
        let script = Path::new(SCRIPT).canonicalize().during(format_args!("rootfs: {SCRIPT}: name a --rootfs"))?;
        explain::note("there is no root yet: it is made from this machine's own tools");
        let mut made = true;
        explain::host(call!("{} {}", script.display(), dir.display()))
            .run(|| run(&script, &dir).map(|status| made = status.success()))?;
        ensure!(made, "rootfs: {} has failed, and said why; name another root with --rootfs", script.display());
    }
    Ok(dir)
}

/// Its output goes to standard error, as standard output is the container's.
fn run(script: &Path, dir: &Path) -> std::io::Result<ExitStatus> {
    let out = if explain::quiet() { Stdio::null() } else { std::io::stderr().as_fd().try_clone_to_owned()?.into() };
    Command::new(script).arg(dir).stdout(out).status()
}

fn volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err("a volume is SRC:DST or SRC:DST:ro".to_owned()),
    };
    if source.is_empty() {
        return Err("a volume's source is a folder or file of the host".to_owned());
    }
    let target = path_inside(target)?;
    if target == Path::new("/") {
        return Err("a volume at / would cover the root; give it as --rootfs".to_owned());
    }
    Ok(Volume { source: source.into(), target, read_only })
}

/// A path inside the new root, as an option has it.
pub fn path_inside(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err("a path inside is absolute and has no `..`".to_owned());
    }
    Ok(path)
}

/// A variable, as an option has it: `NAME=VALUE`, or `NAME` for the host's.
pub fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => (text, Some(value)),
            Err(VarError::NotPresent) => (text, None),
            Err(VarError::NotUnicode(_)) => return Err(format!("the host's {text} is no UTF-8")),
        },
    };
    if name.is_empty() {
        return Err("a variable is NAME=VALUE, or NAME for the host's".to_owned());
    }
    Ok(Variable { name: name.to_owned(), value })
}
