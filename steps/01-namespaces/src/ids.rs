//! Which ids a child may have. See user_namespaces(7), *Defining user and group ID mappings*.

use anyhow::Result;
use nix::unistd::geteuid;
use process::status::mask;
use shared::kernel_file;

/// Capabilities without which the kernel takes no more than one's own id: their numbers, and their names. capabilities(7).
const NEEDED: [(u32, &str); 3] = [(6, "CAP_SETGID"), (7, "CAP_SETUID"), (31, "CAP_SETFCAP")];

/// The ids of a new user namespace.
#[derive(Debug, PartialEq)]
pub enum Ids {
    /// Each id of the caller's, mapped onto itself: the lines of both maps. Without them root inside would have no rights
    /// over files of others, as in a user's home of mode 0700.
    Each {
        /// For `/proc/PID/uid_map`.
        uids: String,
        /// For `/proc/PID/gid_map`.
        gids: String,
    },
    /// The caller's own id alone, which is 0 inside; and for root why.
    Own {
        /// A sentence's half: "this user namespace has one id itself".
        why: Option<String>,
    },
}

impl Ids {
    /// Host: what this process may give to a child.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn of_caller() -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Ids::Own { why: None });
        }
        let read = |name| kernel_file::read(format!("/proc/self/{name}"));
        Ok(Ids::of_root(&read("status")?, &read("uid_map")?, &read("gid_map")?))
    }

    /// Of root with this `/proc/self/status` and these maps.
    fn of_root(status: &str, uid_map: &str, gid_map: &str) -> Self {
        let effective = mask(status, "CapEff");
        let why = if is_single(uid_map) || is_single(gid_map) {
            Some("this user namespace has a single id itself".to_owned())
        } else {
            let missing = NEEDED.iter().find(|(number, _)| effective & (1 << number) == 0);
            missing.map(|(_, name)| format!("this root has no {name}"))
        };
        match why {
            Some(_) => Ids::Own { why },
            None => Ids::Each { uids: onto_itself(uid_map), gids: onto_itself(gid_map) },
        }
    }
}

/// Lines of "first id inside, first id outside, how many". The ids inside are those that a child's map is written in.
fn lines(map: &str) -> impl Iterator<Item = (&str, &str)> {
    map.lines().filter_map(|line| {
        let [inside, _, count] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        Some((inside, count))
    })
}

fn is_single(map: &str) -> bool {
    lines(map).all(|(_, count)| count == "1") && lines(map).count() <= 1
}

fn onto_itself(map: &str) -> String {
    lines(map).map(|(id, count)| format!("{id} {id} {count}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "         0          0 4294967295\n";
    const NESTED: &str = "         0       1000          1\n         1     100000      65536\n";
    const SINGLE: &str = "         0       1000          1\n";
    const ALL: &str = "CapPrm:\t0\nCapEff:\t000001ffffffffff\n";

    #[test]
    fn each_id_of_the_callers_is_mapped_onto_itself() {
        let each = |uids: &str, gids: &str| Ids::Each { uids: uids.to_owned(), gids: gids.to_owned() };
        assert_eq!(Ids::of_root(ALL, WHOLE, WHOLE), each("0 0 4294967295", "0 0 4294967295"));
        assert_eq!(Ids::of_root(ALL, NESTED, WHOLE), each("0 0 1\n1 1 65536", "0 0 4294967295"));
    }

    #[test]
    fn where_that_is_refused_it_says_why() {
        let why = |status: &str, uids, gids| match Ids::of_root(status, uids, gids) {
            Ids::Own { why } => why.expect("a reason"),
            each => panic!("{each:?}"),
        };
        assert!(why(ALL, SINGLE, WHOLE).contains("single") && why(ALL, NESTED, SINGLE).contains("single"));
        assert!(why(ALL, "", WHOLE).contains("single"), "no map yet");
        assert!(why("CapEff:\t000001ff7fffffff\n", WHOLE, WHOLE).contains("CAP_SETFCAP"));
        assert!(why("CapEff:\t000001ffffffff7f\n", WHOLE, WHOLE).contains("CAP_SETUID"));
    }
}
