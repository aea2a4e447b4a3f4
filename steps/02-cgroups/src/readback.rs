//! Care: what the kernel says of the child, not of what was written. A limit is read from the group that the *process* is
//! in, and from the process itself where the kernel has it there.

use std::path::Path;

use anyhow::Result;
use nix::unistd::Pid;
use process::status::field;
use shared::formula::Fact;
use shared::{explain, kernel_file};

use crate::hierarchy::Version;
use crate::limits::Limits;
use crate::twins::Setting;
use crate::units::{CpuList, short_size};
use crate::{Cgroup, Group};

impl Cgroup {
    /// Host: which group the child is in, in each hierarchy, and each limit. Groups with limits that were asked for
    /// come first.
    ///
    /// # Errors
    /// Where `/proc/PID/cgroup` or `/proc/PID/status` cannot be read.
    pub fn facts(&self, child: Pid) -> Result<Vec<Fact>> {
        if explain::dry_run() {
            return Ok(Vec::new());
        }
        let read = |name| kernel_file::read(format!("/proc/{child}/{name}"));
        let (memberships, status) = (read("cgroup")?, read("status")?);
        let mut all = Vec::new();
        for group in self.groups() {
            all.push(group.facts(&self.limits, &memberships, &status)?);
        }
        // Behind the group itself; the list of devices is always there.
        let was_asked_for = |facts: &Vec<Fact>| facts[1..].iter().any(|fact| fact.what != "devices.list");
        all.sort_by_key(|facts| !was_asked_for(facts));
        Ok(all.into_iter().flatten().collect())
    }

    /// Host, and the child gone: what was used up, and what was refused.
    pub fn print_counters(&self) {
        if explain::quiet() {
            return;
        }
        for counter in self.groups().iter().flat_map(|group| group.twin().counters(&group.dir)) {
            explain::note(counter);
        }
    }
}

impl Group {
    fn facts(&self, limits: &Limits, memberships: &str, status: &str) -> Result<Vec<Fact>> {
        let own = self.hierarchy.group_of(memberships).unwrap_or("nowhere".into());
        let what = self.hierarchy.version.pick(self.hierarchy.controllers.join(","), "cgroup.procs".to_owned());
        let mut facts = vec![Fact {
            brief: what.clone(),
            what,
            host: self.hierarchy.own.display().to_string(),
            child: own.display().to_string(),
            holds: own == self.dir,
        }];
        for setting in self.settings(limits)? {
            // "Deny all" is no line of the list: it is what makes the list end.
            if setting.value == "a" {
                continue;
            }
            let (holds, child) = confirmed(&setting, &own, status);
            let what = read_from(setting.file);
            match facts.last_mut().filter(|fact| fact.what == what) {
                Some(fact) => {
                    fact.child += &format!("; {child}");
                    fact.holds &= holds;
                }
                None => {
                    let brief = brief(&setting, &child, self.hierarchy.version);
                    facts.push(Fact { what: what.to_owned(), host: String::new(), child, holds, brief });
                }
            }
        }
        // A limit in a group says that the child is in there.
        if facts.iter().skip(1).any(|fact| !fact.brief.is_empty()) {
            facts[0].brief.clear();
        }
        Ok(facts)
    }
}

/// Whether the kernel confirms what was written, and what it says.
fn confirmed(Setting { file, value, .. }: &Setting, group: &Path, status: &str) -> (bool, String) {
    if *file == "cpuset.cpus" {
        // The list of the group means little where a group above allows only a part of it.
        let allowed = field(status, "Cpus_allowed_list").unwrap_or_default();
        return (CpuList::numbers(allowed) == CpuList::numbers(value), allowed.to_owned());
    }
    let text = kernel_file::read(group.join(read_from(file))).unwrap_or_default();
    line_with(value, &text).map_or_else(|| (false, text.trim().to_owned()), |line| (true, line.to_owned()))
}

/// The line of a file that has every word of what was written to it: `io.max` has all limits of a device in one line,
/// `devices.list` a line for each device.
fn line_with<'t>(value: &str, text: &'t str) -> Option<&'t str> {
    text.lines().map(str::trim).find(|line| value.split(' ').all(|word| line.split(' ').any(|it| it == word)))
}

/// The file where a setting can be read back.
fn read_from(file: &str) -> &str {
    if file.starts_with("devices.") { "devices.list" } else { file }
}

/// `memory.max 64M`, for the one line that sums up; nothing where another file's says it already.
fn brief(setting: &Setting, child: &str, version: Version) -> String {
    match setting.file {
        "memory.memsw.limit_in_bytes" | "memory.swap.max" | "cpu.cfs_period_us" => String::new(),
        "devices.allow" => "devices.list".to_owned(),
        "cpu.max" | "io.max" => format!("{} {}", setting.file, setting.value),
        file if setting.controller == "memory" => {
            format!("{file} {}", child.parse().map_or(child.to_owned(), short_size))
        }
        file if version == Version::V1 && setting.controller == "blkio" => file.replace("blkio.throttle.", ""),
        file => format!("{file} {child}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(controller: &'static str, file: &'static str, value: &str) -> Setting {
        Setting { controller, file, value: value.to_owned() }
    }

    #[test]
    fn a_list_of_cpus_is_confirmed_by_the_process_and_not_by_the_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("cpuset.cpus"), "0-1\n").expect("write");
        let wanted = setting("cpuset", "cpuset.cpus", "0,1");
        let on =
            |list: &str| confirmed(&wanted, dir.path(), &format!("Cpus_allowed:\t3\nCpus_allowed_list:\t{list}\n"));
        assert_eq!(on("0-1"), (true, "0-1".to_owned()));
        assert_eq!(on("1"), (false, "1".to_owned()));
    }

    #[test]
    fn a_limit_is_confirmed_by_the_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("pids.max"), "20\n").expect("write");
        assert_eq!(confirmed(&setting("pids", "pids.max", "20"), dir.path(), ""), (true, "20".to_owned()));
        assert_eq!(confirmed(&setting("pids", "pids.max", "2"), dir.path(), ""), (false, "20".to_owned()));
        assert_eq!(confirmed(&setting("pids", "pids.gone", "2"), dir.path(), ""), (false, String::new()));
    }

    #[test]
    fn one_line_can_confirm_several_writes() {
        let io = "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=1048576 wbps=2048 riops=max wiops=max\n";
        assert_eq!(line_with("8:16 wbps=2048", io), io.lines().nth(1));
        assert_eq!(line_with("8:16 wbps=204", io), None);
        assert_eq!(line_with("c 1:3 rwm", "b *:* m\nc 1:3 rwm\n"), Some("c 1:3 rwm"));
    }

    #[test]
    fn the_summary_has_units() {
        let brief = |it: &Setting| brief(it, &it.value, Version::V2);
        assert_eq!(brief(&setting("memory", "memory.max", "67108864")), "memory.max 64M");
        assert_eq!(brief(&setting("pids", "pids.max", "20")), "pids.max 20");
        assert_eq!(brief(&setting("memory", "memory.swap.max", "0")), "");
    }
}
