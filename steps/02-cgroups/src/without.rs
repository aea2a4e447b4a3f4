//! Care, from step 03 on: a user who may make no groups, and has asked for no limit, gets the rest of the container.

use anyhow::Result;
use nix::errno::Errno;
use shared::failure::{CallFailed, Failure};
use shared::formula::{Formula, Term};

use crate::Cgroup;

impl Cgroup {
    /// Host: as [`create`](Self::create); but where the caller may not make cgroups and no limit was asked for, goes on
    /// without one, and the formula says why.
    ///
    /// # Errors
    /// Those of `create` otherwise.
    pub fn create_or_go_without(&self, formula: &mut Formula) -> Result<()> {
        match self.create() {
            Err(error) if self.limits.is_empty() && (self.groups.is_empty() || not_permitted(&error)) => {
                self.remove()?;
                self.without.set(true);
                let Failure { sentence, remedy, .. } = Failure::of(&error);
                let reason = [Some(sentence), remedy].into_iter().flatten().collect::<Vec<_>>().join("; ");
                formula.refuse(Term::Cgroup, reason);
                Ok(())
            }
            result => result,
        }
    }
}

/// Whether this failure means that the caller may not make cgroups here.
fn not_permitted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<CallFailed>().is_some_and(|failed| {
        failed.call.starts_with("mkdir ") && matches!(failed.errno, Errno::EACCES | Errno::EPERM | Errno::EROFS)
    })
}
