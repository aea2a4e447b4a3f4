//! The options of this step: what the child may use up, written as Docker writes it.
//!
//! A new one is a field here, a line in `needs`, a `set` in each twin (v1.rs, v2.rs), and the tests that then do not compile.

use serde::{Deserialize, Serialize};

use crate::units::{self, CpuList, Rate};

/// What the child may use up. Nothing is limited that is not asked for.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "What the child may use up (step 02)")]
pub struct Limits {
    /// Memory, swap included: 64M, 1G
    #[arg(long, value_name = "SIZE", value_parser = units::memory)]
    pub memory: Option<u64>,
    /// CPU time, in CPUs: 0.5, 2
    #[arg(long, value_name = "N", value_parser = units::cpus, allow_negative_numbers = true)]
    pub cpus: Option<f64>,
    /// Weight against others when the CPUs are busy; 1024 is the default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub cpu_shares: Option<u64>,
    /// Processes and threads at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_194_304), allow_negative_numbers = true)]
    pub pids_limit: Option<u64>,
    /// Which CPUs: 0, 0-2, 0,3
    #[arg(long, value_name = "LIST", value_parser = units::cpu_list)]
    pub cpuset_cpus: Option<CpuList>,
    /// Bytes a second to a disk: /dev/sda:1M
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = units::rate)]
    pub device_write_bps: Option<Rate>,
    /// Bytes a second from a disk: /dev/sda:1M
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = units::rate)]
    pub device_read_bps: Option<Rate>,
    /// On v1, lines of the list of devices, in the place of the usual ones; a step that has an option for it fills them in.
    #[arg(skip)]
    #[serde(default)]
    pub devices: Vec<String>,
}

impl Limits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.needs().is_empty()
    }

    /// Which option needs which controller, by its name on v1 and on v2.
    pub fn needs(&self) -> Vec<(&'static str, [&'static str; 2])> {
        [
            (self.memory.is_some(), "--memory", ["memory", "memory"]),
            (self.cpus.is_some(), "--cpus", ["cpu", "cpu"]),
            (self.cpu_shares.is_some(), "--cpu-shares", ["cpu", "cpu"]),
            (self.pids_limit.is_some(), "--pids-limit", ["pids", "pids"]),
            (self.cpuset_cpus.is_some(), "--cpuset-cpus", ["cpuset", "cpuset"]),
            (self.device_write_bps.is_some(), "--device-write-bps", ["blkio", "io"]),
            (self.device_read_bps.is_some(), "--device-read-bps", ["blkio", "io"]),
        ]
        .into_iter()
        .filter_map(|(asked, option, controllers)| asked.then_some((option, controllers)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_needs_a_controller() {
        let rate = || Some(Rate { device: "8:0".to_owned(), bytes: 1 });
        let all = Limits {
            memory: Some(1),
            cpus: Some(1.0),
            cpu_shares: Some(2),
            pids_limit: Some(1),
            cpuset_cpus: Some(CpuList("0".to_owned())),
            device_write_bps: rate(),
            device_read_bps: rate(),
            ..Limits::default()
        };
        let names: Vec<_> = all.needs().into_iter().map(|(_, names)| names).collect();
        let same = |name| [name, name];
        let disk = ["blkio", "io"];
        assert_eq!(names, [same("memory"), same("cpu"), same("cpu"), same("pids"), same("cpuset"), disk, disk]);
        assert!(!all.is_empty() && Limits::default().is_empty());
    }
}
