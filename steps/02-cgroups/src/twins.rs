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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{CpuList, Rate};

    fn limits() -> Limits {
        let rate = |bytes| Some(Rate { device: "8:0".to_owned(), bytes });
        Limits {
            memory: Some(64 << 20),
            cpus: Some(0.5),
            cpu_shares: Some(1024),
            pids_limit: Some(20),
            cpuset_cpus: Some(CpuList("0-1".to_owned())),
            device_write_bps: rate(1000),
            device_read_bps: rate(2000),
            ..Limits::default()
        }
    }

    fn lines(version: Version, limits: &Limits) -> Vec<String> {
        let line = |it: &Setting| format!("{}: echo {} > {}", it.controller, it.value, it.file);
        version.twin().settings(limits).iter().map(line).collect()
    }

    /// Names the line that differs.
    fn assert_lines(lines: &[String], wanted: &[&str]) {
        lines.iter().zip(wanted).for_each(|(line, wanted)| assert_eq!(line, wanted));
        assert_eq!(lines.len(), wanted.len(), "{lines:?}");
    }

    #[test]
    fn each_limit_is_a_file_on_v1() {
        let lines = lines(Version::V1, &limits());
        let (limits, devices) = lines.split_at(9);
        assert_lines(
            limits,
            &[
                "memory: echo 67108864 > memory.limit_in_bytes",
                "memory: echo 67108864 > memory.memsw.limit_in_bytes",
                "cpu: echo 100000 > cpu.cfs_period_us",
                "cpu: echo 50000 > cpu.cfs_quota_us",
                "cpu: echo 1024 > cpu.shares",
                "pids: echo 20 > pids.max",
                "cpuset: echo 0-1 > cpuset.cpus",
                "blkio: echo 8:0 1000 > blkio.throttle.write_bps_device",
                "blkio: echo 8:0 2000 > blkio.throttle.read_bps_device",
            ],
        );
        assert_eq!((devices.len(), devices[0].as_str()), (12, "devices: echo a > devices.deny"));
        assert_eq!(devices[3], "devices: echo c 1:3 rwm > devices.allow");
    }

    #[test]
    fn another_list_of_devices_stands_in_the_place_of_the_usual_one() {
        let all = Limits { devices: vec!["a".to_owned()], ..Limits::default() };
        assert_eq!(lines(Version::V1, &all), ["devices: echo a > devices.deny", "devices: echo a > devices.allow"]);
    }

    #[test]
    fn each_limit_is_a_file_on_v2() {
        assert_lines(
            &lines(Version::V2, &limits()),
            &[
                "memory: echo 67108864 > memory.max",
                "memory: echo 0 > memory.swap.max",
                "cpu: echo 50000 100000 > cpu.max",
                "cpu: echo 100 > cpu.weight",
                "pids: echo 20 > pids.max",
                "cpuset: echo 0-1 > cpuset.cpus",
                "io: echo 8:0 wbps=1000 > io.max",
                "io: echo 8:0 rbps=2000 > io.max",
            ],
        );
    }

    #[test]
    fn nothing_is_limited_that_is_not_asked_for() {
        assert_eq!(lines(Version::V2, &Limits::default()), Vec::<String>::new());
        let on_v1 = lines(Version::V1, &Limits::default());
        assert!(on_v1.iter().all(|line| line.starts_with("devices: ")), "{on_v1:?}");
    }

    #[test]
    fn a_pid_is_written_to_the_file_that_the_version_has_for_it() {
        assert_eq!([Version::V1, Version::V2].map(|it| it.twin().procs()), ["tasks", "cgroup.procs"]);
    }

    #[test]
    fn what_was_refused_is_in_files_of_the_group() {
        let counters = |version: Version, files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().expect("tempdir");
            files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).expect("write"));
            version.twin().counters(dir.path())
        };
        let wanted = [
            "memory: 4 KiB at the peak, 1 killed for want of it",
            "cpu: held back in 3 periods, for 50 ms",
            "pids: forks refused: 2",
        ];
        let on_v1: &[_] = &[
            ("memory.max_usage_in_bytes", "4096\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            ("cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 50000000\n"),
            ("pids.events", "max 2\n"),
        ];
        let on_v2: &[_] = &[
            ("memory.peak", "4096\n"),
            ("memory.events", "low 0\nmax 7\noom 1\noom_kill 1\n"),
            ("cpu.stat", "usage_usec 9\nnr_periods 9\nnr_throttled 3\nthrottled_usec 50000\n"),
            ("pids.events", "max 2\n"),
        ];
        assert_eq!(counters(Version::V1, on_v1), wanted);
        assert_eq!(counters(Version::V2, on_v2), wanted);
        assert_eq!(counters(Version::V2, &[]), Vec::<String>::new());
    }

    #[test]
    fn a_new_cpuset_of_v1_gets_the_lists_of_the_group_above_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let group = Group::in_directory(Version::V1, &["cpuset"], dir.path());
        for (file, list) in [("cpuset.cpus", "0-3\n"), ("cpuset.mems", "0\n")] {
            std::fs::write(group.parent.join(file), list).expect("write");
            std::fs::write(group.dir.join(file), "").expect("write");
        }
        Version::V1.twin().prepare(&group, &Limits::default()).expect("prepared");
        let read = |file: &str| std::fs::read_to_string(group.dir.join(file)).expect("read");
        assert_eq!([read("cpuset.cpus"), read("cpuset.mems")], ["0-3", "0"]);
    }
}
