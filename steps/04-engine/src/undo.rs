//! What a container whose monitor was killed has left: undone by any process of the same step, from its plan alone.

use std::path::PathBuf;

use anyhow::Result;
use cgroups::Cgroup;

use crate::container::State;
use crate::members::RecordedGroup;
use crate::{Recipe, cleanup};

/// Host, and its processes gone: what its parts have made for a run.
///
/// # Errors
/// The first part's that failed.
pub fn end<R: Recipe>(state: &State) -> Result<()> {
    match state.plan::<R>() {
        Ok(Some(plan)) => cleanup(&R::parts(&plan)),
        Ok(None) => Ok(()),
        // A damaged plan, or that of an older version: the groups that are known again, at least.
        Err(_) => {
            let groups: Vec<PathBuf> =
                state.groups.iter().filter(|group| group.is_known()).map(RecordedGroup::path).collect();
            Cgroup::at(&groups).remove()
        }
    }
}

/// Host: what its parts have made for the container, and that outlives a run.
///
/// # Errors
/// The first part's that failed.
pub fn remove<R: Recipe>(state: &State) -> Result<()> {
    match state.plan::<R>() {
        Ok(Some(plan)) => crate::remove(&R::parts(&plan)),
        _ => Ok(()),
    }
}
