//! Cgroup v2: one tree for all controllers, so a single group. Twin of `v1.rs`: the same verbs in the same order.
//!
//! See Documentation/admin-guide/cgroup-v2.rst in the kernel's source.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::hierarchy::Hierarchy;
use crate::limits::Limits;
use crate::twins::{Setting, Twin, counter};
use crate::units::{PERIOD_US, cpu_weight, quota_us};
use crate::{Group, delegate};

/// The verbs of this version.
pub struct V2;

impl Twin for V2 {
    /// Below the caller's own group, or one above it: a group that has processes cannot enable controllers.
    fn parent(&self, hierarchy: &Hierarchy, limits: &Limits) -> PathBuf {
        delegate::place(hierarchy, limits)
    }

    fn prepare(&self, group: &Group, limits: &Limits) -> Result<()> {
        // A limit's file is not there until the group above has enabled its controller: ENOENT.
        delegate::enable_controllers(group, limits)
    }

    fn settings(&self, limits: &Limits) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |controller, file, value| settings.push(Setting { controller, file, value });
        if let Some(bytes) = limits.memory {
            set("memory", "memory.max", bytes.to_string());
            // Swap is counted by itself here: none of it is left.
            set("memory", "memory.swap.max", "0".to_owned());
        }
        if let Some(cpus) = limits.cpus {
            set("cpu", "cpu.max", format!("{} {PERIOD_US}", quota_us(cpus)));
        }
        if let Some(shares) = limits.cpu_shares {
            set("cpu", "cpu.weight", cpu_weight(shares).to_string());
        }
        if let Some(count) = limits.pids_limit {
            set("pids", "pids.max", count.to_string());
        }
        if let Some(list) = &limits.cpuset_cpus {
            set("cpuset", "cpuset.cpus", list.0.clone());
        }
        if let Some(rate) = &limits.device_write_bps {
            set("io", "io.max", format!("{} wbps={}", rate.device, rate.bytes));
        }
        if let Some(rate) = &limits.device_read_bps {
            set("io", "io.max", format!("{} rbps={}", rate.device, rate.bytes));
        }
        settings
    }

    fn procs(&self) -> &'static str {
        "cgroup.procs"
    }

    fn counters(&self, dir: &Path) -> Vec<String> {
        let count = |file: &str, key: &str| counter(&dir.join(file), key);
        let mut counters = Vec::new();
        if let Some(kills) = count("memory.events", "oom_kill") {
            // Linux 5.19 and newer have the peak.
            let peak = count("memory.peak", "").map_or("an unknown number of".to_owned(), |it| (it / 1024).to_string());
            counters.push(format!("memory: {peak} KiB at the peak, {kills} killed for want of it"));
        }
        if let Some(periods) = count("cpu.stat", "nr_throttled").filter(|periods| *periods > 0) {
            let ms = count("cpu.stat", "throttled_usec").unwrap_or(0) / 1000;
            counters.push(format!("cpu: held back in {periods} periods, for {ms} ms"));
        }
        if let Some(refused) = count("pids.events", "max").filter(|refused| *refused > 0) {
            counters.push(format!("pids: forks refused: {refused}"));
        }
        counters
    }

    fn restore(&self, group: &Group) -> Result<()> {
        delegate::step_back(group)
    }
}
