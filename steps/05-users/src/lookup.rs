//! Who a name of the container's is: its own `/etc/passwd` and `/etc/group`, read by hand. See passwd(5), group(5).
//!
//! Not by getpwnam(3): that would load libraries of the container's into this process, which still has the engine's
//! memory and files (CVE-2019-14271 was that). And a root may come from a stranger: its passwd may be a link to the outside
//! (CVE-2024-9676), a pipe that nobody writes to, or as large as the disk.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use shared::explain;
use shared::failure::During;

/// Bytes of the largest file that is read.
const LARGEST: u64 = 4 << 20;
/// NGROUPS_MAX: setgroups(2) takes no more.
const MOST_GROUPS: usize = 65_536;

/// A user, and maybe a group, as the command line names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    user: String,
    group: Option<String>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let group = self.group.as_ref().map_or(String::new(), |group| format!(":{group}"));
        write!(f, "{}{group}", self.user)
    }
}

/// A user as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id, inside.
    pub uid: u32,
    /// Group id, inside.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
}

impl Account {
    /// Root without further groups.
    pub const ROOT: Account = Account { uid: 0, gid: 0, groups: Vec::new(), home: String::new() };
}

/// `USER` or `USER:GROUP`, as an option has it.
pub fn who(text: &str) -> Result<Who, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let is_one = |name: &str| !name.is_empty() && !name.contains([':', '\n', '\0']);
    if !is_one(user) || !group.is_none_or(is_one) {
        return Err("a user is USER or USER:GROUP, by name or by number".to_owned());
    }
    Ok(Who { user: user.to_owned(), group: group.map(str::to_owned) })
}

/// Child, in its root: who that is. The rules are Docker's: the first line that fits counts; a number needs no line, and is
/// in group 0 then; without a group, the user is in the groups that list it, else in that one alone.
///
/// # Errors
/// A name that is in neither file; a file that is none, or too large.
pub fn look_up(who: &Who) -> Result<Account> {
    if explain::dry_run() {
        let number = |name: &str| name.parse().unwrap_or(1000);
        let gid = who.group.as_deref().map_or(0, number);
        return Ok(Account { uid: number(&who.user), gid, groups: vec![gid], home: "/".to_owned() });
    }
    find(who, &read("/etc/passwd")?, &read("/etc/group")?)
}

fn find(who: &Who, passwd: &str, group: &str) -> Result<Account> {
    let number: Option<u32> = who.user.parse().ok();
    let line = lines::<7>(passwd)
        .find(|[name, _, uid, ..]| *name == who.user || number.is_some_and(|it| uid.parse() == Ok(it)));
    let (uid, gid, name, home) = match (line, number) {
        (Some([name, _, uid, gid, _, home, _]), _) => {
            let number = |text: &str| text.parse::<u32>().ok();
            let ids = number(uid).zip(number(gid));
            let (uid, gid) = ids.with_context(|| format!("user {}: /etc/passwd has no numbers for it", who.user))?;
            (uid, gid, Some(name), if home.is_empty() { "/" } else { home })
        }
        (None, Some(uid)) => (uid, 0, None, "/"),
        (None, None) => bail!("no user {:?} in the container's /etc/passwd (a number needs no line there)", who.user),
    };
    let (gid, others) = match &who.group {
        Some(wanted) => (group_id(wanted, group)?, Vec::new()),
        None => (gid, name.map_or(Vec::new(), |name| groups_of(name, group))),
    };
    // The primary one, too: a program may drop it by setgid(2), and would lose what a file denies to it. CVE-2022-36109.
    let mut groups = vec![gid];
    groups.extend(others.into_iter().filter(|it| *it != gid));
    ensure!(groups.len() <= MOST_GROUPS, "user {} is in more than {MOST_GROUPS} groups", who.user);
    Ok(Account { uid, gid, groups, home: home.to_owned() })
}

fn group_id(wanted: &str, group: &str) -> Result<u32> {
    let number: Option<u32> = wanted.parse().ok();
    let line =
        lines::<4>(group).find(|[name, _, gid, _]| *name == wanted || number.is_some_and(|it| gid.parse() == Ok(it)));
    match line.and_then(|[_, _, gid, _]| gid.parse().ok()).or(number) {
        Some(gid) => Ok(gid),
        None => bail!("no group {wanted:?} in the container's /etc/group (a number needs no line there)"),
    }
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let listed = lines::<4>(group).filter(|[_, _, _, members]| members.split(',').any(|member| member == user));
    let mut groups: Vec<u32> = listed.filter_map(|[_, _, gid, _]| gid.parse().ok()).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// The fields of the lines that have so many. A last one may be missing, as in `name:x:1000:1000::/home/name`.
fn lines<const N: usize>(file: &str) -> impl Iterator<Item = [&str; N]> {
    file.lines().filter_map(|line| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields.len() == N - 1 {
            fields.push("");
        }
        fields.try_into().ok()
    })
}

/// A text file of the container's. Nothing, where it is not there.
fn read(path: &str) -> Result<String> {
    let what = || format!("the container's {path}");
    // A pipe would be waited for without O_NONBLOCK. RESOLVE_IN_ROOT follows no link of /proc/PID/fd, which leads out.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    // Not AT_FDCWD: the working directory is not the root any more.
    let top = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).during(what())?;
    let file = match openat2(&top, Path::new(path), how) {
        Err(Errno::ENOENT) => return Ok(String::new()),
        file => File::from(file.during(what())?),
    };
    let there = file.metadata().during(what())?;
    ensure!(there.is_file(), "{} is no regular file", what());
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text).during(what())?;
    ensure!(text.len() as u64 <= LARGEST, "{} is larger than {} MiB", what(), LARGEST >> 20);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nweb:x:33:34::/srv:/bin/false\nweb:x:1:1::/:/bin/sh\n\
                          broken:x:a:b::/:\nshort:x:7\n1000:x:5:5::/five:\nada:x:1000:1000::/home/ada\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:4:web,ada\nall:x:50:ada,web\nlog2:x:4:web\nbad:x:y:web\n";

    fn account(text: &str) -> Result<Account> {
        find(&who(text).expect(text), PASSWD, GROUP)
    }

    fn ids(text: &str) -> (u32, u32, Vec<u32>) {
        let Account { uid, gid, groups, .. } = account(text).expect(text);
        (uid, gid, groups)
    }

    #[test]
    fn a_user_is_looked_up_as_docker_does() {
        assert_eq!(ids("web"), (33, 34, vec![34, 4, 50]), "the first line, and all groups, once");
        assert_eq!(ids("33"), (33, 34, vec![34, 4, 50]), "a number with a line");
        assert_eq!(ids("4711"), (4711, 0, vec![0]), "a number without one");
        assert_eq!(ids("web:log"), (33, 4, vec![4]), "with a group, that one alone");
        assert_eq!(ids("web:77"), (33, 77, vec![77]), "and that needs no line either");
        assert_eq!(ids("4711:4712"), (4711, 4712, vec![4712]));
        assert_eq!(ids("1000"), (5, 5, vec![5]), "a name that looks like a number is a name");
        assert_eq!(account("web").expect("web").home, "/srv");
        assert_eq!(account("ada").expect("ada").home, "/home/ada", "a line without a shell");
        assert_eq!(account("4711").expect("4711").home, "/");
    }

    #[test]
    fn what_is_not_there_or_no_line_is_said() {
        for (text, word) in [
            ("nosuch", "no user \"nosuch\""),
            ("web:nosuch", "no group \"nosuch\""),
            ("short", "no user"),
            ("broken", "no numbers"),
            ("web:bad", "no group"),
            ("-1", "no user"),
            ("4294967296", "no user"),
        ] {
            let error = account(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn an_option_names_one_user_and_at_most_one_group() {
        assert!(["", ":", "web:", ":web", "a:b:c", "a\nb"].iter().all(|text| who(text).is_err()));
    }
}
