//! Whose the files of a layer are, as the container has it; and acts of the host's with the rights over all of them.

use std::fs::File;
use std::io::{Read, Seek, Write};

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::failure::During;
use users::mapped::in_a_namespace_of;
use users::ranges::{Choice, Map, Writer};

/// Which ids inside the ids of a layer's files are, as this process sees them.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnerIds {
    /// The same.
    Same,
    /// Those that root maps onto them.
    Of(Map),
}

impl OwnerIds {
    /// The user and the group inside; nobody's are nobody's there, too.
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        const NOBODY: u32 = 65_534;
        match self {
            OwnerIds::Same => (uid, gid),
            OwnerIds::Of(map) => (map.uids.to_inside(uid).unwrap_or(NOBODY), map.gids.to_inside(gid).unwrap_or(NOBODY)),
        }
    }
}

/// What a container's ids are.
#[derive(Serialize, Deserialize)]
pub struct Inside(pub Choice);

impl Inside {
    /// Root inside, where that is not the caller: the owner of what is made for it.
    pub fn root(&self) -> Option<(u32, u32)> {
        let map = self.0.given_by_root()?;
        map.uids.to_outside(0).zip(map.gids.to_outside(0))
    }

    /// Of files that belong to the ids of the container.
    pub fn ids(&self) -> OwnerIds {
        self.0.given_by_root().map_or(OwnerIds::Same, |map| OwnerIds::Of(map.clone()))
    }

    /// Host: does something with files of the container's. Root has every right over them; anybody else has it where root
    /// inside has it: in a user namespace with the same ids, in which they are what they are inside.
    ///
    /// # Errors
    /// Those of `act`, and of making that namespace.
    pub fn with_all_rights<T: Serialize + DeserializeOwned>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        let map = match &self.0 {
            Choice::Host => return act(),
            Choice::Ranges(map) if map.writer == Writer::Root => return act(),
            Choice::Ranges(map) => Some(map),
            Choice::NoRange { .. } => None,
        };
        // Not a pipe, which would be full before this process reads.
        let mut file =
            File::from(memfd_create("answer", MFdFlags::MFD_CLOEXEC).during("cannot make a file in memory")?);
        in_a_namespace_of(map, || {
            let answer = serde_json::to_vec(&act()?).context("cannot write the answer")?;
            (&file).write_all(&answer).during("cannot write the answer")
        })?;
        let mut answer = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut answer)).during("cannot read the answer")?;
        serde_json::from_slice(&answer).context("the process with the ids of the container has not answered")
    }
}

#[cfg(test)]
mod tests {
    use users::ranges::{Range, Ranges};

    use super::*;

    #[test]
    fn ids_of_a_range_are_those_inside_and_others_nobodys() {
        let range = Ranges(vec![Range { inside: 0, outside: 100_000, count: 65_536 }]);
        let ids = OwnerIds::Of(Map::new(range.clone(), range, Writer::Root));
        assert_eq!(ids.inside(100_000, 100_005), (0, 5));
        assert_eq!(ids.inside(0, 0), (65_534, 65_534));
        assert_eq!(OwnerIds::Same.inside(7, 8), (7, 8));
    }
}
