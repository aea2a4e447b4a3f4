//! What the two versions do in ways of their own. `diff src/v1.rs src/v2.rs` is what there is to know about them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use shared::kernel_file;

use crate::hierarchy::{Hierarchy, Version};
use crate::limits::Limits;
use crate::{Group, v1, v2};

/// A limit, as a file of a group and what is written to it.
#[derive(Debug, PartialEq)]
pub struct Setting {
    /// The controller that has the file.
    pub controller: &'static str,
    /// Its name in the group's directory.
    pub file: &'static str,
    /// What is written.
    pub value: String,
}

/// The verbs of a version.
pub trait Twin {
    /// Host: the group that the child's will be made in.
    fn parent(&self, hierarchy: &Hierarchy, limits: &Limits) -> PathBuf;
    /// Host: what must be there before a limit can be written, or a process put in.
    fn prepare(&self, group: &Group, limits: &Limits) -> Result<()>;
    /// The limits as files and values, in the order in which they are written.
    fn settings(&self, limits: &Limits) -> Vec<Setting>;
    /// The file of a group that a pid is written to, to put the process in.
    fn procs(&self) -> &'static str;
    /// What was used up and what was refused, if anything was.
    fn counters(&self, dir: &Path) -> Vec<String>;
    /// Host, and the group removed: undoes what [`prepare`](Twin::prepare) has done outside it.
    fn restore(&self, group: &Group) -> Result<()>;
}

impl Version {
    /// The verbs of this version.
    pub fn twin(self) -> &'static dyn Twin {
        self.pick(&v1::V1 as &dyn Twin, &v2::V2)
    }

    /// What is this version's.
    pub fn pick<T>(self, v1: T, v2: T) -> T {
        match self {
            Version::V1 => v1,
            Version::V2 => v2,
        }
    }
}

/// A number from a file of one number (an empty key), or of lines `key number`.
pub fn counter(path: &Path, key: &str) -> Option<u64> {
    let text = kernel_file::read(path).ok()?;
    let line = text.lines().find(|line| key.is_empty() || line.split(' ').next() == Some(key))?;
    line.split(' ').next_back()?.parse().ok()
}
