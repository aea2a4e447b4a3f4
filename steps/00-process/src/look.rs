//! The look: any process, seen through the formula. See proc(5), namespaces(7), cgroups(7), capabilities(7).
//!
//! Everything here is read from `/proc/PID`, where anybody may look. What the kernel shows only to the owner
//! of a process, or to root, is said in its place, and the rest is shown all the same.

mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::stat;
use nix::unistd::{Pid, geteuid};
use shared::failure::{self, CallFailed, errno_of};
use shared::kernel_file;
use shared::mountinfo::{self, Mount};

use crate::check::KINDS;
use crate::status::field;

/// Capabilities by number: the bits of a mask. See capabilities(7).
#[rustfmt::skip]
const CAPABILITIES: [&str; 41] = [
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
];

/// A process as the kernel describes it.
#[derive(Debug)]
pub struct Look {
    title: String,
    findings: Vec<Finding>,
}

/// One thing that the kernel says of the process, or why it does not.
#[derive(Debug)]
struct Finding {
    term: &'static str,
    what: String,
    is: Reading,
}

/// What the kernel says, or the sentence that says why not.
type Reading = Result<String, String>;

impl Look {
    /// Looks at a process.
    ///
    /// # Errors
    /// Where there is no such process, or where nothing of it may be read.
    pub fn at(pid: Pid) -> Result<Look> {
        let process = ProcDir { pid, directory: PathBuf::from("/proc").join(pid.to_string()) };
        ensure!(
            std::fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&Pid::this().to_string())),
            "/proc is not mounted, or shows another pid namespace than this one: mount -t proc proc /proc"
        );
        ensure!(process.directory.exists(), "there is no process {pid} here, or /proc hides it from this user");
        let status = process.read("status").map_err(anyhow::Error::msg).context("cannot look")?;
        let findings = [
            process.itself(&status),
            process.cgroup(),
            process.namespaces(),
            process.rootfs(),
            process.engine(&status),
            process.rights(&status),
        ];
        let name = field(&status, "Name").unwrap_or_default();
        Ok(Look { title: format!("{pid} {name}"), findings: findings.into_iter().flatten().collect() })
    }

    /// The one process, with marks where it is like the one that looks (`=`), and where not (`≠`).
    pub fn alone(&self, own: &Look) -> String {
        table::draw(own, self, &[76])
    }

    /// Both processes side by side, with marks where they are the same (`=`), and where not (`≠`).
    pub fn beside(&self, other: &Look) -> String {
        table::draw(self, other, &[38, 38])
    }

    /// The same without what is the same: that is named, and not shown.
    pub fn differences(&self, other: &Look) -> String {
        table::draw_differences(self, other, [38, 38])
    }

    /// Calls the process something else than its pid and its name.
    pub fn titled(self, title: &str) -> Look {
        Look { title: format!("{title} ({})", self.title), ..self }
    }

    fn answer(&self, term: &str, what: &str) -> Reading {
        let finding = self.findings.iter().find(|finding| finding.term == term && finding.what == what);
        finding.map_or(Err("none".to_owned()), |finding| finding.is.clone())
    }
}

struct ProcDir {
    pid: Pid,
    directory: PathBuf,
}

impl ProcDir {
    fn itself(&self, status: &str) -> Vec<Finding> {
        let command = self.read("cmdline").map(|words| match words.trim_end_matches('\0') {
            "" if self.has_ended() => "none any more: the process has ended".to_owned(),
            "" => "none: a thread of the kernel's own".to_owned(),
            words => words.replace('\0', " "),
        });
        // Outermost first: the pid that the reader of /proc knows, then the one in each namespace further in.
        let pids = field(status, "NSpid").map(|pids| pids.replace(char::is_whitespace, ", inside "));
        vec![
            finding("process", "command", command),
            finding("process", "pid", Ok(pids.unwrap_or(self.pid.to_string()))),
            finding("process", "state", field(status, "State").map(str::to_owned).ok_or(unknown())),
        ]
    }

    /// The process's group in each hierarchy: `ID:CONTROLLERS:PATH`, without controllers for v2. See cgroups(7).
    fn cgroup(&self) -> Vec<Finding> {
        let group = |line: &str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let what = if controllers.is_empty() { "v2".to_owned() } else { format!("v1 {controllers}") };
            Some(finding("cgroup", &what, Ok(path.to_owned())))
        };
        match self.read("cgroup") {
            Ok(text) if text.is_empty() => vec![finding("cgroup", "groups", Err("none is mounted".to_owned()))],
            Ok(text) => text.lines().filter_map(group).collect(),
            Err(why) => vec![finding("cgroup", "groups", Err(why))],
        }
    }

    /// The link `pid -> pid:[4026531836]`: two processes with the same number are in the same namespace.
    fn namespaces(&self) -> Vec<Finding> {
        let number = |link: String| link.trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
        KINDS.map(|(kind, _)| finding("namespace", kind, self.link(&format!("ns/{kind}")).map(number))).into()
    }

    fn rootfs(&self) -> Vec<Finding> {
        let mounts = mountinfo::read(&self.directory).map_err(|error| match error.downcast_ref() {
            Some(CallFailed { errno, .. }) => self.refused(*errno),
            None => error.to_string(),
        });
        let on_root = |words: fn(&Mount) -> String| {
            let no_mount = "none: `/` is a directory inside a mount, as after chroot(2)";
            mounts.clone().and_then(|all| on_root(&all).map(words).ok_or(no_mount.to_owned()))
        };
        vec![
            finding("rootfs", "root", self.link("root")),
            finding("rootfs", "mounted on /", on_root(words_for_mount)),
            finding("rootfs", "propagation of /", on_root(|mount| propagation(mount).to_owned())),
            finding("rootfs", "mounts", mounts.clone().map(|all| all.len().to_string())),
        ]
    }

    /// Who looks after it: the process that waits for its end.
    fn engine(&self, status: &str) -> Vec<Finding> {
        let parent = field(status, "PPid").map(|pid| {
            let name = kernel_file::read(format!("/proc/{pid}/comm")).unwrap_or_default();
            if pid == "0" { "outside, or the kernel".to_owned() } else { format!("{pid} {}", name.trim_end()) }
        });
        vec![finding("engine", "parent", parent.ok_or(unknown()))]
    }

    fn rights(&self, status: &str) -> Vec<Finding> {
        let row = |what, name, words: fn(&str) -> String| {
            finding("rights", what, field(status, name).map(words).ok_or(unknown()))
        };
        let map = |what, file| finding("rights", what, self.read(file).map(|map| words_for_map(&map)));
        vec![
            row("uid", "Uid", words_for_ids),
            row("gid", "Gid", words_for_ids),
            row("groups", "Groups", |groups| if groups.is_empty() { "none" } else { groups }.to_owned()),
            map("uid_map", "uid_map"),
            map("gid_map", "gid_map"),
            finding("rights", "setgroups", self.read("setgroups").map(|word| word.trim_end().to_owned())),
            row("cap. effective", "CapEff", words_for_capabilities),
            row("cap. permitted", "CapPrm", words_for_capabilities),
            row("cap. bounding", "CapBnd", words_for_capabilities),
            row("cap. inheritable", "CapInh", words_for_capabilities),
            row("cap. ambient", "CapAmb", words_for_capabilities),
            row("seccomp", "Seccomp", |mode| match mode {
                "0" => "0: no filter, every call may be tried".to_owned(),
                "1" => "1: strict, read write exit alone".to_owned(),
                _ => format!("{mode}: filter, a program decides on calls"),
            }),
            row("no_new_privs", "NoNewPrivs", |set| match set {
                "0" => "0: a setuid program gives rights".to_owned(),
                _ => format!("{set}: exec never gives rights"),
            }),
        ]
    }

    fn read(&self, file: &str) -> Reading {
        let bytes = std::fs::read(self.directory.join(file)).map_err(|error| self.refused(errno_of(error)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn link(&self, name: &str) -> Reading {
        let target = std::fs::read_link(self.directory.join(name)).map_err(|error| self.refused(errno_of(error)))?;
        Ok(target.to_string_lossy().into_owned())
    }

    /// Why the kernel does not say it, and what to do. Who may look is decided as for a debugger: ptrace(2).
    fn refused(&self, name: Errno) -> String {
        match name {
            Errno::EACCES | Errno::EPERM if geteuid().is_root() => format!("not allowed ({name:?}), root or not"),
            Errno::EACCES | Errno::EPERM => format!("not allowed ({name:?}): root may look"),
            // Its memory and its namespaces are gone; only the exit code is kept, for its parent.
            _ if self.has_ended() => format!("nothing ({name:?}): the process has ended"),
            Errno::ENOENT => "this kernel does not have it (ENOENT)".to_owned(),
            _ => failure::errno(name),
        }
    }

    fn has_ended(&self) -> bool {
        let status = kernel_file::read(self.directory.join("status")).unwrap_or_default();
        field(&status, "State").is_none_or(|state| state.starts_with(['Z', 'X']))
    }
}

fn finding(term: &'static str, what: &str, is: Reading) -> Finding {
    Finding { term, what: what.to_owned(), is }
}

/// The mount that the process stands on: the last one on `/` covers those before it.
pub(crate) fn on_root(mounts: &[Mount]) -> Option<&Mount> {
    mounts.iter().rfind(|mount| mount.point == Path::new("/"))
}

/// Whether mounts travel between namespaces, in the words of mount_namespaces(7).
pub(crate) fn propagation(mount: &Mount) -> &'static str {
    match (mount.propagation.contains("shared:"), mount.propagation.contains("master:")) {
        (true, true) => "shared and slave",
        (true, false) => "shared",
        (false, true) => "slave",
        (false, false) => "private",
    }
}

fn words_for_mount(mount: &Mount) -> String {
    let (major, minor) = (stat::major(mount.device), stat::minor(mount.device));
    let part = if mount.root == "/" { String::new() } else { format!(", its directory {}", mount.root) };
    format!("{}, device {major}:{minor}{part}", mount.kind)
}

fn unknown() -> String {
    "this kernel does not show it".to_owned()
}

/// Four ids, nearly always the same one, as the reader's user namespace has them. See credentials(7).
fn words_for_ids(ids: &str) -> String {
    match ids.split_whitespace().collect::<Vec<_>>()[..] {
        [real, effective, saved, files] if [effective, saved, files] != [real; 3] => {
            format!("real {real}, effective {effective}, saved {saved}, files {files}")
        }
        [real, ..] => real.to_owned(),
        [] => unknown(),
    }
}

/// Lines of `INSIDE OUTSIDE COUNT`. See user_namespaces(7).
fn words_for_map(map: &str) -> String {
    let range = |first: u64, count: u64| match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", first + count.max(1) - 1),
    };
    let words = |line: &str| match line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?[..] {
        [0, 0, count] if count >= u32::MAX.into() => Some("each id is itself".to_owned()),
        [inside, outside, count] => Some(format!("{} → {}", range(inside, count), range(outside, count))),
        _ => None,
    };
    let ranges: Vec<String> = map.lines().filter_map(words).collect();
    if ranges.is_empty() { "none yet: each id is 65534 inside".to_owned() } else { ranges.join(", ") }
}

/// Whichever is shorter: the capabilities that are there, or those that are not.
fn words_for_capabilities(mask: &str) -> String {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    let last = last.trim().parse().unwrap_or(CAPABILITIES.len() - 1).min(63);
    let Ok(mask) = u64::from_str_radix(mask, 16) else { return unknown() };
    let name = |bit: usize| CAPABILITIES.get(bit).map_or(bit.to_string(), |&name| name.to_owned());
    let (has, lacks): (Vec<_>, Vec<_>) = (0..=last).partition(|bit| mask & (1 << bit) != 0);
    let names = |bits: &[usize]| bits.iter().copied().map(name).collect::<Vec<_>>().join(" ");
    match (has.len(), lacks.len()) {
        (0, _) => "none".to_owned(),
        (all, 0) => format!("all {all}"),
        (some, few) if few < some => format!("all but {}", names(&lacks)),
        (some, _) => format!("{some}: {}", names(&has)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_ids_are_one_where_they_are_the_same() {
        assert_eq!(words_for_ids("1000\t1000\t1000\t1000"), "1000");
        assert_eq!(words_for_ids("1000\t0\t0\t0"), "real 1000, effective 0, saved 0, files 0");
        assert_eq!(words_for_ids(""), unknown());
    }

    #[test]
    fn an_id_map_is_read_in_ranges() {
        assert_eq!(words_for_map("         0          0 4294967295\n"), "each id is itself");
        assert_eq!(words_for_map("0 1000 1\n1 100000 65536\n"), "0 → 1000, 1-65536 → 100000-165535");
        assert_eq!(words_for_map(""), "none yet: each id is 65534 inside");
    }

    #[test]
    fn of_capabilities_the_shorter_list_is_printed() {
        assert_eq!(words_for_capabilities("0000000000000000"), "none");
        assert_eq!(words_for_capabilities("0000000000200001"), "2: chown sys_admin");
        assert_eq!(words_for_capabilities("x"), unknown());
        let all_but_one = words_for_capabilities("fffffffffffffffe");
        assert_eq!(all_but_one, "all but chown");
    }

    #[test]
    fn propagation_is_in_the_words_of_the_manual() {
        let words = ["", "shared:1", "master:1", "shared:2 master:1"].map(|fields| {
            let text = format!("31 23 0:26 / / rw {fields} - ext4 none rw").replace("  ", " ");
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join("mountinfo"), text).expect("a file");
            propagation(&mountinfo::read(dir.path()).expect("mounts")[0])
        });
        assert_eq!(words, ["private", "shared", "slave", "shared and slave"]);
    }
}
