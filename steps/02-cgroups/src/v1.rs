//! Cgroup v1: a tree for each controller, so a group in each of them. Twin of `v2.rs`: the same verbs in the same order.
//!
//! See Documentation/admin-guide/cgroup-v1 in the kernel's source.

use std::path::{Path, PathBuf};

use anyhow::Result;
use shared::explain;

use crate::Group;
use crate::hierarchy::{Hierarchy, words};
use crate::limits::Limits;
use crate::twins::{Setting, Twin, counter};
use crate::units::{PERIOD_US, quota_us};

/// The verbs of this version.
pub struct V1;

impl Twin for V1 {
    /// Below the caller's own group, so that the caller's own limits hold for the child too.
    fn parent(&self, hierarchy: &Hierarchy, _limits: &Limits) -> PathBuf {
        hierarchy.own.clone()
    }

    fn prepare(&self, group: &Group, _limits: &Limits) -> Result<()> {
        if !group.has("cpuset") {
            return Ok(());
        }
        // A new group's lists are empty, and a process with no CPU or no memory may not enter: ENOSPC. See cpuset(7).
        for file in ["cpuset.cpus", "cpuset.mems"] {
            explain::host_echo(words(&group.parent.join(file)).join(","), &group.dir.join(file)).run()?;
        }
        Ok(())
    }

    fn settings(&self, limits: &Limits) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |controller, file, value| settings.push(Setting { controller, file, value });
        if let Some(bytes) = limits.memory {
            set("memory", "memory.limit_in_bytes", bytes.to_string());
            // Memory and swap together: the same number leaves no room for swap.
            set("memory", "memory.memsw.limit_in_bytes", bytes.to_string());
        }
        if let Some(cpus) = limits.cpus {
            set("cpu", "cpu.cfs_period_us", PERIOD_US.to_string());
            set("cpu", "cpu.cfs_quota_us", quota_us(cpus).to_string());
        }
        if let Some(shares) = limits.cpu_shares {
            set("cpu", "cpu.shares", shares.to_string());
        }
        if let Some(count) = limits.pids_limit {
            set("pids", "pids.max", count.to_string());
        }
        if let Some(list) = &limits.cpuset_cpus {
            set("cpuset", "cpuset.cpus", list.0.clone());
        }
        if let Some(rate) = &limits.device_write_bps {
            set("blkio", "blkio.throttle.write_bps_device", format!("{} {}", rate.device, rate.bytes));
        }
        if let Some(rate) = &limits.device_read_bps {
            set("blkio", "blkio.throttle.read_bps_device", format!("{} {}", rate.device, rate.bytes));
        }
        // Docker's list: any node may be made, a few may be opened. On v2 this takes an eBPF program. See bpf(2), step 09.
        set("devices", "devices.deny", "a".to_owned());
        let usual = DEVICES.map(str::to_owned);
        let devices = if limits.devices.is_empty() { &usual } else { &limits.devices[..] };
        for device in devices {
            set("devices", "devices.allow", device.clone());
        }
        settings
    }

    fn procs(&self) -> &'static str {
        "tasks"
    }

    fn counters(&self, dir: &Path) -> Vec<String> {
        let count = |file: &str, key: &str| counter(&dir.join(file), key);
        let mut counters = Vec::new();
        if let Some(peak) = count("memory.max_usage_in_bytes", "") {
            let kills = count("memory.oom_control", "oom_kill").unwrap_or(0);
            counters.push(format!("memory: {} KiB at the peak, {kills} killed for want of it", peak / 1024));
        }
        if let Some(periods) = count("cpu.stat", "nr_throttled").filter(|periods| *periods > 0) {
            let ms = count("cpu.stat", "throttled_time").unwrap_or(0) / 1_000_000;
            counters.push(format!("cpu: held back in {periods} periods, for {ms} ms"));
        }
        if let Some(refused) = count("pids.events", "max").filter(|refused| *refused > 0) {
            counters.push(format!("pids: forks refused: {refused}"));
        }
        counters
    }

    fn restore(&self, _group: &Group) -> Result<()> {
        Ok(())
    }
}

/// Type, numbers and rights: mknod; null, zero, full, random, urandom; tty, console, ptmx; terminals.
const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];
