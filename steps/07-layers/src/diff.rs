//! What a container has changed: its upper layer, beside what the lower ones show there. As Docker prints it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use shared::explain;

use crate::layer::{Below, Entry, Layer, below};

/// What has become of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// It was not there.
    Added,
    /// It was, and its content or its rights have changed; of a directory also that a name in it has come or gone.
    Changed,
    /// It is no more.
    Deleted,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// Where, from the root on: `etc/hosts`.
    pub path: PathBuf,
    /// What.
    pub kind: Kind,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let letter = match self.kind {
            Kind::Added => 'A',
            Kind::Changed => 'C',
            Kind::Deleted => 'D',
        };
        write!(f, "{letter} /{}", explain::printable(&self.path.display().to_string()))
    }
}

/// A directory of the upper layer that is still to be looked into.
struct MergedDirectory<'l> {
    path: PathBuf,
    /// The layers that have one below it.
    lowers: Vec<&'l Layer>,
    /// Whether nothing of these is seen through it.
    hides: bool,
}

/// Host: what is in the upper layer, by the side of what these show, the topmost first. Sorted by path.
///
/// # Errors
/// Where a layer cannot be read.
pub fn changes(upper: &Layer, lowers: &[&Layer]) -> Result<Vec<Change>> {
    let mut changes = BTreeMap::new();
    // A list, as a function that calls itself would run out of stack where a container has made a deep tree.
    let mut left = vec![MergedDirectory { path: PathBuf::new(), lowers: lowers.to_vec(), hides: false }];
    while let Some(directory) = left.pop() {
        if let Some(entry) = upper.look(&directory.path)?.filter(Entry::is_directory) {
            let hides = directory.hides || entry.is_opaque();
            look_into(&MergedDirectory { hides, ..directory }, entry.names()?, upper, &mut changes, &mut left)?;
        }
    }
    Ok(changes.into_iter().map(|(path, kind)| Change { path, kind }).collect())
}

fn look_into<'l>(
    directory: &MergedDirectory<'l>,
    names: Vec<OsString>,
    upper: &Layer,
    changes: &mut BTreeMap<PathBuf, Kind>,
    left: &mut Vec<MergedDirectory<'l>>,
) -> Result<()> {
    let MergedDirectory { path, lowers, hides } = directory;
    let mut add = |path: &Path, kind| {
        changes.insert(path.to_owned(), kind);
        // With a name that comes or goes, the directory has changed, too.
        if let Some(above) = path.parent().filter(|above| kind != Kind::Changed && !above.as_os_str().is_empty()) {
            changes.entry(above.to_owned()).or_insert(Kind::Changed);
        }
    };
    for name in if *hides { all_names(lowers, path)? } else { Vec::new() } {
        let hidden = path.join(name);
        let is_there = upper.look(&hidden)?.is_some_and(|entry| !entry.is_whiteout());
        if !is_there && !matches!(below(lowers, &hidden)?, Below::Nothing) {
            add(&hidden, Kind::Deleted);
        }
    }
    for name in names {
        let path = path.join(name);
        let Some(entry) = upper.look(&path)? else { continue }; // gone meanwhile
        let there = below(lowers, &path)?;
        match &there {
            Below::Nothing if entry.is_whiteout() => continue,
            Below::Nothing => add(&path, Kind::Added),
            _ if entry.is_whiteout() => add(&path, Kind::Deleted),
            Below::Directory(old, layers) if entry.is_directory() && is_same(&entry, upper, old, layers[0]) => {}
            Below::File | Below::Directory(..) => add(&path, Kind::Changed),
        }
        if entry.is_directory() {
            let lowers = if let Below::Directory(_, layers) = there { layers } else { Vec::new() };
            left.push(MergedDirectory { path, lowers, hides: *hides });
        }
    }
    Ok(())
}

/// The names that layers have in a directory.
fn all_names(layers: &[&Layer], path: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for layer in layers {
        if let Some(dir) = layer.look(path)?.filter(Entry::is_directory) {
            names.extend(dir.names()?);
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a directory is as it was: copied up, since something below it has changed.
fn is_same(new: &Entry, upper: &Layer, old: &Entry, lower: &Layer) -> bool {
    let facts = |entry: &Entry, layer: &Layer| {
        let it = &entry.stat;
        (it.st_mode, layer.ids.inside(it.st_uid, it.st_gid), it.st_mtime, it.st_mtime_nsec)
    };
    facts(new, upper) == facts(old, lower)
}
