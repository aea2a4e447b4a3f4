//! The options of this step: where the child stands.

use std::env::VarError;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use process::Environment;
use serde::{Deserialize, Serialize};
use shared::explain;
use shared::failure::{During, is};

use crate::volume::{self, Volume};
use crate::{default_root, why};

/// Where the child stands.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Where the child stands (step 03)")]
pub struct Root {
    /// The directory that becomes its `/` [default: target/rootfs, made from this machine's own tools where it is not there]
    #[arg(long = "rootfs", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A directory or file of the host that it sees too; OPTIONS are ro (nothing in it can be written), and from step 05 on idmap (what is root's on the host is root's inside)
    #[arg(short, long = "volume", value_name = "SRC:DST[:OPTIONS]", value_parser = volume::parse)]
    pub(crate) volumes: Vec<Volume>,
    /// Let it write to nothing but /dev, /proc, volumes, and what is mounted in the root already
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The directory, inside, in which it begins; made where it is not there
    #[arg(short, long, value_name = "DIR", value_parser = path_inside, default_value = "/")]
    pub(crate) workdir: PathBuf,
    /// A variable of its environment; without a value, the host's
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<Variable>,
}

/// A variable for the environment, and its value; none where the host's was asked for and the host has none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Variable {
    name: String,
    value: Option<String>,
}

impl Root {
    /// Host: the directory that becomes `/`, made by a script where it is the default one and not there yet.
    ///
    /// # Errors
    /// Where it is no directory, or the host's own `/`; where a volume's source is missing, or two volumes have one target.
    pub fn prepare(&self) -> Result<PathBuf> {
        for volume in volume::in_mount_order(&self.volumes)? {
            why::metadata(&volume.source).context("rootfs: a volume's source")?;
        }
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => default_root::make()?,
        };
        if explain::dry_run() && !dir.exists() {
            return Ok(dir);
        }
        let there = why::metadata(&dir).map_err(|error| {
            let missing = is(&error, nix::errno::Errno::ENOENT);
            error.context(if missing {
                "rootfs: no such root (the scripts in rootfs-scripts/ make one)"
            } else {
                "rootfs"
            })
        })?;
        ensure!(there.is_dir(), "rootfs: {} is a file: a root is a directory (unpack an archive first)", dir.display());
        let host = Path::new("/").metadata().during("rootfs: /")?;
        let same = (there.dev(), there.ino()) == (host.dev(), host.ino());
        ensure!(!same, "rootfs: {} is the host's own root: the child would stand where it stands now", dir.display());
        dir.canonicalize().during(format_args!("rootfs: {}", dir.display()))
    }

    /// The program's variables: a few that every program expects, and those that were given. None of the host's but TERM.
    pub fn environment(&self, hostname: &str) -> Environment {
        Environment::new(self.variables(hostname, std::env::var_os("TERM")))
    }

    fn variables(&self, hostname: &str, term: Option<OsString>) -> Vec<(OsString, OsString)> {
        let fixed = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("HOSTNAME", hostname),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name.into(), value.into()));
        let term = term.map(|term| ("TERM".into(), term));
        fixed.chain(term).chain(self.env.iter().filter_map(Variable::to_pair)).collect()
    }

    /// The directory that becomes `/`, as it was asked for.
    pub fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(default_root::DEFAULT))
    }

    /// Whether the command line says which directory that is.
    pub fn has_dir(&self) -> bool {
        self.dir.is_some()
    }

    /// The same, with this directory.
    pub fn with_dir(self, dir: PathBuf) -> Self {
        Root { dir: Some(dir), ..self }
    }

    /// The directories and files of the host that it sees too.
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// The same, and it sees these, too; they need not be there yet.
    pub fn with_volumes(mut self, more: impl IntoIterator<Item = Volume>) -> Self {
        self.volumes.extend(more);
        self
    }

    /// Whether the command line sets this variable of the program's environment.
    pub fn sets(&self, name: &str) -> bool {
        self.env.iter().any(|variable| variable.name == name && variable.value.is_some())
    }

    /// The directory, inside, in which the program begins.
    pub fn workdir(&self) -> &Path {
        &self.workdir
    }

    /// The same, with a root that means the same wherever the caller stands later.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare).
    pub fn settled(mut self) -> Result<Self> {
        self.dir = Some(self.prepare()?);
        Ok(self)
    }
}

impl Variable {
    /// As [`Environment`] takes it.
    pub fn to_pair(&self) -> Option<(OsString, OsString)> {
        self.value.as_ref().map(|value| (OsString::from(&self.name), OsString::from(value)))
    }
}

/// A path inside the new root, as an option has it.
///
/// # Errors
/// A relative one; one with `..`, of which it is not clear what it means where a link comes before it.
pub fn path_inside(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err("a path inside is absolute and has no `..`".to_owned());
    }
    Ok(path)
}

/// A variable, as an option has it: `NAME=VALUE`, or `NAME` for the host's.
///
/// # Errors
/// Without a name; where the host's value is not UTF-8.
pub fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => (text, Some(value)),
            Err(VarError::NotPresent) => (text, None),
            Err(VarError::NotUnicode(_)) => return Err(format!("the host's {text} is not UTF-8")),
        },
    };
    if name.is_empty() {
        return Err("a variable is NAME=VALUE, or NAME for the host's".to_owned());
    }
    Ok(Variable { name: name.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root { dir: None, volumes: vec![], read_only: false, workdir: "/".into(), env: vec![] }
    }

    fn names(environment: &[(OsString, OsString)]) -> Vec<&str> {
        environment.iter().filter_map(|(name, _)| name.to_str()).collect()
    }

    #[test]
    fn a_path_inside_is_absolute_and_leads_nowhere_else() {
        for good in ["/", "/a", "/a/./b", "/a..b"] {
            assert_eq!(path_inside(good), Ok(PathBuf::from(good)));
        }
        for bad in ["", "a", "./a", "/..", "/a/../b", "/a/.."] {
            assert!(path_inside(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_has_a_name() {
        let pair = |text: &str| variable(text).expect(text).to_pair();
        assert_eq!(pair("A=b"), Some(("A".into(), "b".into())));
        assert_eq!(pair("A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Some(("A".into(), "".into())));
        assert_eq!(pair("NO_SUCH_VARIABLE_HERE"), None);
        assert_eq!(pair("PATH"), std::env::var_os("PATH").map(|path| ("PATH".into(), path)));
        assert!(variable("=b").is_err() && variable("").is_err());
    }

    #[test]
    fn the_environment_has_what_programs_expect_and_what_was_given() {
        let fixed = root().variables("box", Some("xterm".into()));
        assert_eq!(names(&fixed), ["PATH", "HOME", "HOSTNAME", "TERM"]);
        assert!(fixed.contains(&("HOSTNAME".into(), "box".into())));
        let given =
            Root { env: vec![variable("A=b").expect("A"), variable("NO_SUCH_VARIABLE_HERE").expect("none")], ..root() };
        assert_eq!(names(&given.variables("box", None)), ["PATH", "HOME", "HOSTNAME", "A"]);
    }
}
