//! Which ids a container may have: as the command line says, as `/etc/subuid` and `/etc/subgid` say, or as root likes.
//! See user_namespaces(7), subuid(5).

use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};
use namespaces::Ids;
use nix::unistd::{Uid, User, getegid, geteuid};
use process::status::mask;
use serde::{Deserialize, Serialize};
use shared::kernel_file;

use crate::helpers;
use crate::options::Users;

/// The kernel takes no more lines. user_namespaces(7).
const MOST: usize = 340;
/// What root gives where nobody says otherwise: ids that nobody logs in with, and as many as the low ones that systems use.
const USUAL: Range = Range { inside: 0, outside: 100_000, count: 65_536 };
/// Capabilities without which even root has no range to give, and no root filesystem that belongs to it: their numbers, and
/// their names. capabilities(7).
const NEEDED: [(u32, &str); 3] = [(6, "CAP_SETGID"), (7, "CAP_SETUID"), (21, "CAP_SYS_ADMIN")];

/// Ids inside, and which of the host's they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first one inside.
    pub inside: u32,
    /// The same one outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The lines of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges(pub Vec<Range>);

/// Both maps of a user namespace, and who writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// For `/proc/PID/uid_map`.
    pub uids: Ranges,
    /// For `/proc/PID/gid_map`.
    pub gids: Ranges,
    /// Who may.
    pub writer: Writer,
    /// Whether groups can be set inside.
    pub has_groups: bool,
}

/// Who writes a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writer {
    /// This process, as it is root.
    Root,
    /// newuidmap(1) and newgidmap(1).
    Helpers,
}

/// What a container's ids are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// The host's: there is no user namespace.
    Host,
    /// Ranges.
    Ranges(Map),
    /// As in step 01.
    NoRange {
        /// A sentence's half: "this root has no CAP_SYS_ADMIN".
        why: String,
        /// Whether groups can be set inside.
        has_groups: bool,
    },
}

impl Choice {
    /// The ranges, if that is what they are.
    pub fn map(&self) -> Option<&Map> {
        match self {
            Choice::Ranges(map) => Some(map),
            Choice::Host | Choice::NoRange { .. } => None,
        }
    }

    /// Whether setgroups(2) is allowed inside.
    pub fn has_groups(&self) -> bool {
        match self {
            Choice::Host => true,
            Choice::Ranges(Map { has_groups, .. }) | Choice::NoRange { has_groups, .. } => *has_groups,
        }
    }

    /// The ranges that root gives: to anybody else open_tree(2) is forbidden on the host.
    pub fn given_by_root(&self) -> Option<&Map> {
        self.map().filter(|map| map.writer == Writer::Root)
    }
}

impl Map {
    /// Of these lines, written by that one: newgidmap(1) denies setgroups(2) where it gives no other group than its
    /// user's own: a process could leave that, and then read a file that is closed to this group alone.
    /// user_namespaces(7), CVE-2014-8989.
    pub fn new(uids: Ranges, gids: Ranges, writer: Writer) -> Self {
        let own = getegid().as_raw();
        let has_groups = writer == Writer::Root || gids.0.iter().any(|range| (range.outside, range.count) != (own, 1));
        Map { uids, gids, writer, has_groups }
    }
}

impl Range {
    fn contains_outside(&self, id: u32) -> bool {
        (self.outside..=self.outside + (self.count - 1)).contains(&id)
    }

    fn to_outside(self, id: u32) -> Option<u32> {
        id.checked_sub(self.inside).filter(|it| *it < self.count).map(|it| self.outside + it)
    }
}

impl Ranges {
    /// Which id of the host's this one is.
    pub fn to_outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|range| range.to_outside(inside))
    }

    /// Which id inside one of the host's is.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        let range = self.0.iter().find(|range| range.contains_outside(outside))?;
        Some(outside - range.outside + range.inside)
    }

    /// Whether an id of the host's is anyone inside.
    pub fn contains_outside(&self, id: u32) -> bool {
        self.0.iter().any(|range| range.contains_outside(id))
    }

    /// How many ids there are inside.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.count)).sum()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// As the kernel takes it: a line for each range.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.iter().map(Range::to_string).collect::<Vec<_>>().join("\n"))
    }
}

/// A range, as an option has it: `C:H:N`.
pub fn range(text: &str) -> Result<Range, String> {
    let numbers: Option<Vec<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
    let Some([inside, outside, count]) = numbers.as_deref() else {
        return Err("a range is C:H:N: the first id inside, the first one on the host, and how many".to_owned());
    };
    let range = Range { inside: *inside, outside: *outside, count: *count };
    // The last number, 4294967295, means "no id" to the kernel.
    match [range.inside, range.outside].iter().all(|first| first.checked_add(range.count).is_some()) {
        true if range.count > 0 => Ok(range),
        true => Err("a range has one id at least".to_owned()),
        false => Err("ids end at 4294967294".to_owned()),
    }
}

/// What the kernel would refuse with a bare EINVAL. None at all is a good one.
pub fn validate(option: &str, ranges: &[Range]) -> Result<()> {
    ensure!(ranges.len() <= MOST, "{option} is given {} times, and a map has {MOST} lines at most", ranges.len());
    let has_root = ranges.is_empty() || ranges.iter().any(|range| range.inside == 0);
    ensure!(has_root, "{option}: no range begins with id 0 inside, so that there would be no root");
    for (number, one) in ranges.iter().enumerate() {
        for other in &ranges[..number] {
            let overlap = |a: u32, b: u32| a < b + other.count && b < a + one.count;
            let overlaps = overlap(one.inside, other.inside) || overlap(one.outside, other.outside);
            ensure!(!overlaps, "{option}: {one} and {other} have ids in common");
        }
    }
    Ok(())
}

/// Host: the ids that a container with a user namespace gets here.
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn choose(users: &Users) -> Result<Choice> {
    let writer = if geteuid().is_root() { Writer::Root } else { Writer::Helpers };
    let given = |one: &[Range], other: &[Range]| Ranges(if one.is_empty() { other.to_vec() } else { one.to_vec() });
    if !users.uidmap.is_empty() || !users.gidmap.is_empty() {
        let (uids, gids) = (given(&users.uidmap, &users.gidmap), given(&users.gidmap, &users.uidmap));
        return Ok(Choice::Ranges(Map::new(uids, gids, writer)));
    }
    let [uids, gids] = ["/etc/subuid", "/etc/subgid"].map(|file| std::fs::read_to_string(file).unwrap_or_default());
    let user = Name::of(geteuid());
    if writer == Writer::Helpers {
        let choice = of_ordinary_user(&user, &uids, &gids);
        return Ok(choice.map_or_else(|why| Choice::NoRange { why, has_groups: false }, Choice::Ranges));
    }
    let read = |name| kernel_file::read(format!("/proc/self/{name}"));
    let map = Map::new(of_root(&user, &uids), of_root(&user, &gids), writer);
    Ok(match why_not(&map, &read("status")?, &read("uid_map")?, &read("gid_map")?) {
        None => Choice::Ranges(map),
        Some(why) => Choice::NoRange { why, has_groups: matches!(Ids::of_caller()?, Ids::Each { .. }) },
    })
}

/// As `/etc/subuid` may call a user.
struct Name {
    id: u32,
    name: Option<String>,
}

impl Name {
    fn of(user: Uid) -> Self {
        Name { id: user.as_raw(), name: User::from_uid(user).ok().flatten().map(|user| user.name) }
    }

    /// The ranges of this user in such a file, one behind the other from this id inside on. Other lines, and what is no
    /// range, are left out.
    fn ranges(&self, file: &str, mut inside: u32) -> Vec<Range> {
        let mut ranges = Vec::new();
        for (_, range) in lines(file).filter(|(name, _)| self.is_called(name)).take(MOST - 1) {
            let Some(next) = inside.checked_add(range.count) else { break };
            ranges.push(Range { inside, ..range });
            inside = next;
        }
        ranges
    }

    fn is_called(&self, name: &str) -> bool {
        Some(name) == self.name.as_deref() || name.parse() == Ok(self.id)
    }
}

/// The lines of such a file that are ranges: whose, and which, from id 0 inside on.
fn lines(file: &str) -> impl Iterator<Item = (&str, Range)> {
    file.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        Some((name, range(&format!("0:{rest}")).ok()?))
    })
}

/// Host: which of a map's user ids another user has, too, by a line in `/etc/subuid`, and how root gets some of its own.
/// Stock distributions give their first user those from 100000 on.
pub fn others(map: &Map) -> Option<String> {
    let [uids, gids] = ["/etc/subuid", "/etc/subgid"].map(|file| std::fs::read_to_string(file).unwrap_or_default());
    let (name, first, last) = shared_with(&Name::of(geteuid()), &map.uids, &uids)?;
    let free = [&uids, &gids].into_iter().map(|file| beyond(file)).max()?;
    let free = format!("{free}-{}", free.checked_add(USUAL.count - 1)?);
    Some(format!(
        "ids {first} to {last} are user {name}'s, too (/etc/subuid), who can end what runs here; root's own: \
         `usermod --add-subuids {free} --add-subgids {free} root`"
    ))
}

/// The first line of another user's with some of these ids: whose it is, the first such id and the last.
fn shared_with<'a>(root: &Name, ranges: &Ranges, file: &'a str) -> Option<(&'a str, u32, u32)> {
    lines(file).filter(|(name, _)| !root.is_called(name)).find_map(|(name, theirs)| {
        ranges.0.iter().find_map(|ours| {
            let first = ours.outside.max(theirs.outside);
            let last = (ours.outside + (ours.count - 1)).min(theirs.outside + (theirs.count - 1));
            (first <= last).then_some((name, first, last))
        })
    })
}

/// The first id beyond all lines of a file, and beyond those that root usually gives.
fn beyond(file: &str) -> u32 {
    let ends = lines(file).map(|(_, range)| range.outside + range.count);
    ends.chain([USUAL.outside + USUAL.count]).max().unwrap_or_default()
}

fn of_root(root: &Name, file: &str) -> Ranges {
    let own = root.ranges(file, 0);
    Ranges(if own.is_empty() { vec![USUAL] } else { own })
}

/// Why this root cannot give these ids; with its `/proc/self/status` and maps.
fn why_not(map: &Map, status: &str, uid_map: &str, gid_map: &str) -> Option<String> {
    let effective = mask(status, "CapEff");
    if let Some((_, name)) = NEEDED.iter().find(|(number, _)| effective & (1 << number) == 0) {
        return Some(format!("this root has no {name}"));
    }
    let missing = |ranges: &Ranges, own: &str| ranges.0.iter().find(|range| !has_all(own, range)).copied();
    let Range { outside, count, .. } = missing(&map.uids, uid_map).or_else(|| missing(&map.gids, gid_map))?;
    Some(format!("this user namespace has no ids {outside} to {}", outside + (count - 1)))
}

/// Whether the ids of a range are all in one line of this process's own map: the kernel asks for that.
fn has_all(own: &str, range: &Range) -> bool {
    own.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [inside, _, count] = numbers[..] else { return false };
        let first = u64::from(range.outside);
        inside <= first && first + u64::from(range.count) <= inside + count
    })
}

/// Id 0 inside is the user, and from 1 on the user's ranges. Where there are none, why.
fn of_ordinary_user(user: &Name, subuid: &str, subgid: &str) -> Result<Map, String> {
    let name = user.name.as_ref().ok_or_else(|| format!("user {} has no name in /etc/passwd", user.id))?;
    let ranges = |file: &str, text: &str| match user.ranges(text, 1) {
        none if none.is_empty() => Err(format!("user {name} has no range of ids in {file}")),
        ranges => Ok(ranges),
    };
    let (uids, gids) = (ranges("/etc/subuid", subuid)?, ranges("/etc/subgid", subgid)?);
    helpers::missing().map_or(Ok(()), Err)?;
    let own = |id, ranges| Ranges([vec![Range { inside: 0, outside: id, count: 1 }], ranges].concat());
    Ok(Map::new(own(user.id, uids), own(getegid().as_raw(), gids), Writer::Helpers))
}

/// The owner of a root on the disk, where that is nobody inside, with a map or without one.
pub fn strange_owner(path: &Path, map: &Map) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let owner = path.metadata().ok()?.uid();
    (!map.uids.contains_outside(owner) && map.uids.to_outside(owner).is_none()).then_some(owner)
}

/// Whether a file's owner is anyone inside. Where it cannot be asked, the call that fails says why.
pub fn is_owner_inside(path: &Path, map: &Map) -> bool {
    use std::os::unix::fs::MetadataExt;
    path.metadata().is_ok_and(|it| map.uids.contains_outside(it.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<Range> {
        texts.iter().map(|text| range(text).expect(text)).collect()
    }

    #[test]
    fn a_range_is_three_numbers() {
        assert_eq!(range("0:100000:65536"), Ok(USUAL));
        assert!(range("0:4294967294:1").is_ok());
        for bad in
            ["", "0:1", "0:1:2:3", "a:1:1", "0:1:0", "0:-1:1", "0:4294967295:1", "4294967295:0:1", "0:0:4294967296"]
        {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_in_words() {
        for (texts, word) in [
            (&["1:100000:10"][..], "no root"),
            (&["0:100000:10", "9:200000:10"], "in common"),
            (&["0:100000:10", "10:100009:10"], "in common"),
        ] {
            let error = validate("--uidmap", &ranges(texts)).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(validate("--uidmap", &ranges(&["0:100000:10", "10:5:10"])).is_ok());
        assert!(validate("--uidmap", &vec![USUAL; 341]).is_err());
    }

    #[test]
    fn a_user_has_the_ranges_that_are_on_its_name_or_number() {
        let ada = Name { id: 1000, name: Some("ada".to_owned()) };
        let file = "# a comment\nbob:1:2\nada:100000:65536\nada:x:1\nadam:5:5\n1000:300000:10\nada:7\n";
        assert_eq!(ada.ranges(file, 1), ranges(&["1:100000:65536", "65537:300000:10"]));
        let why = of_ordinary_user(&ada, file, "bob:1:2\n").expect_err("no range");
        assert_eq!(why, "user ada has no range of ids in /etc/subgid");
        assert!(of_ordinary_user(&Name { id: 4711, name: None }, file, file).is_err());
    }

    #[test]
    fn roots_range_is_that_of_its_line_or_the_usual_one() {
        let root = Name { id: 0, name: Some("root".to_owned()) };
        assert_eq!(of_root(&root, "ada:100000:65536\n"), Ranges(vec![USUAL]));
        assert_eq!(of_root(&root, "root:500000:1000\n"), Ranges(ranges(&["0:500000:1000"])));
    }

    #[test]
    fn ids_of_a_range_that_another_user_has_too_are_found() {
        let root = Name { id: 0, name: Some("root".to_owned()) };
        let usual = Ranges(vec![USUAL]);
        let shared = |file| shared_with(&root, &usual, file);
        assert_eq!(shared("root:100000:9\n0:100000:9\nada:165536:9\nada:99999:1\n"), None);
        assert_eq!(shared("bob:1:2\nada:165535:65536\n"), Some(("ada", 165_535, 165_535)));
        assert_eq!(shared("1000:99000:1001\n"), Some(("1000", 100_000, 100_000)));
        assert_eq!(beyond("ada:165535:65536\nbob:9:9\n"), 231_071);
        assert_eq!(beyond(""), 165_536, "not those of the other containers");
    }

    #[test]
    fn a_root_without_these_ids_or_rights_has_no_range() {
        let whole = "         0          0 4294967295\n";
        let map = Map::new(Ranges(vec![USUAL]), Ranges(vec![USUAL]), Writer::Root);
        assert_eq!(why_not(&map, "CapEff:\t000001ffffffffff\n", whole, whole), None);
        let short = "         0     100000      65536\n";
        let why = why_not(&map, "CapEff:\t000001ffffffffff\n", whole, short);
        assert_eq!(why.as_deref(), Some("this user namespace has no ids 100000 to 165535"));
        let plain = "CapEff:\t00000000a80425fb\n"; // Docker's fourteen
        assert_eq!(why_not(&map, plain, whole, whole).as_deref(), Some("this root has no CAP_SYS_ADMIN"));
    }

    #[test]
    fn ids_are_counted_and_found() {
        let map = Ranges(ranges(&["0:1000:1", "1:100000:65536"]));
        assert_eq!([999, 1000, 100_009].map(|id| map.to_inside(id)), [None, Some(0), Some(10)]);
        assert_eq!((map.to_outside(0), map.to_outside(1), map.to_outside(65537)), (Some(1000), Some(100_000), None));
        assert!(map.contains_outside(165_535) && !map.contains_outside(165_536));
        assert_eq!((map.count(), map.to_string().as_str()), (65537, "0 1000 1\n1 100000 65536"));
    }
}
