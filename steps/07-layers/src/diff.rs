//! What a container has changed: its upper layer, beside what the lower ones show there. As Docker prints it.

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

/// Host: what is in the upper layer, by the side of what these show, the topmost first. Sorted by path.
///
/// # Errors
/// Where a layer cannot be read.
pub fn changes(upper: &Layer, lowers: &[&Layer]) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    if let Some(top) = upper.look(Path::new(""))? {
        let lowers = if top.is_opaque() { &[] } else { lowers };
        in_directory(upper, Path::new(""), &top, lowers, lowers, &mut changes)?;
    }
    changes.sort();
    Ok(changes)
}

/// What has changed in a directory of the upper layer. Below it are `lowers`; `merged` of them are seen through it. Whether
/// a name has come or gone.
fn in_directory(
    upper: &Layer,
    path: &Path,
    dir: &Entry,
    lowers: &[&Layer],
    merged: &[&Layer],
    changes: &mut Vec<Change>,
) -> Result<bool> {
    let before = changes.len();
    let mut moved = false;
    let names = dir.names()?;
    // What an opaque directory hides, and no other name stands for.
    if merged.is_empty() {
        for name in all_names(lowers, path)? {
            let hidden = path.join(&name);
            let is_there = names.contains(&name) && upper.look(&hidden)?.is_some_and(|entry| !entry.is_whiteout());
            if !is_there && !matches!(below(lowers, &hidden)?, Below::Nothing) {
                changes.push(Change { path: hidden, kind: Kind::Deleted });
                moved = true;
            }
        }
    }
    for name in names {
        let path = path.join(name);
        let Some(entry) = upper.look(&path)? else { continue }; // gone meanwhile
        let there = below(lowers, &path)?;
        let kind = match &there {
            Below::Nothing if entry.is_whiteout() => continue,
            Below::Nothing => Some(Kind::Added),
            _ if entry.is_whiteout() && merged.is_empty() => continue, // said above
            _ if entry.is_whiteout() => Some(Kind::Deleted),
            Below::Directory(old, layers) if entry.is_directory() && is_same(&entry, upper, old, layers[0]) => None,
            Below::File | Below::Directory(..) => Some(Kind::Changed),
        };
        moved |= matches!(kind, Some(Kind::Added | Kind::Deleted));
        let has_moved = if entry.is_directory() {
            let lowers = if let Below::Directory(_, layers) = &there { &layers[..] } else { &[] };
            let merged = if entry.is_opaque() || merged.is_empty() { &[] } else { lowers };
            in_directory(upper, &path, &entry, lowers, merged, changes)?
        } else {
            false
        };
        if let Some(kind) = kind.or(has_moved.then_some(Kind::Changed)) {
            changes.push(Change { path, kind });
        }
    }
    debug_assert!(changes.len() >= before);
    Ok(moved)
}

/// The names that layers have in a directory.
fn all_names(layers: &[&Layer], path: &Path) -> Result<Vec<std::ffi::OsString>> {
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
