//! Cgroup v2: one tree for all controllers, so a single group. Twin of `v1.rs`: the same verbs in the same order.
//!
//! See Documentation/admin-guide/cgroup-v2.rst in the kernel's source.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, getpid, getppid};
use shared::call;
use shared::explain;
use shared::failure::is;

use crate::hierarchy::{Hierarchy, words};
use crate::limits::{Limits, PERIOD_US};
use crate::{Group, Setting, Twin, counter, leftovers};

/// The verbs of this version.
pub struct V2;

impl Twin for V2 {
    fn procs(&self) -> &'static str {
        "cgroup.procs"
    }

    /// The nearest group, from the caller's own upwards, that can hand on the controllers that the limits need.
    ///
    /// A group that has processes of its own cannot (the rule of *no internal processes*); the tree's top can, and
    /// so can one where the caller is alone, as it steps aside. Where none can, the caller's own: its failure says why.
    fn parent(&self, hierarchy: &Hierarchy, limits: &Limits) -> PathBuf {
        let needed = needed(hierarchy, limits);
        let upwards = hierarchy.own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.mount));
        let can = |dir: &&Path| {
            let has = |file, name: &&str| words(&dir.join(file)).iter().any(|word| word == name);
            let handed_on = needed.iter().all(|name| has("cgroup.subtree_control", name));
            let can_hand_on = is_root(dir) || others(dir).is_empty();
            access(*dir, AccessFlags::W_OK).is_ok()
                && needed.iter().all(|name| has("cgroup.controllers", name))
                && (handed_on || can_hand_on)
        };
        upwards.into_iter().find(can).unwrap_or(&hierarchy.own).to_path_buf()
    }

    fn prepare(&self, group: &Group, limits: &Limits) -> Result<()> {
        let control = group.parent.join("cgroup.subtree_control");
        let there = words(&control);
        let missing: Vec<_> = needed(&group.hierarchy, limits)
            .into_iter()
            .filter(|name| !there.iter().any(|word| word == name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let there = words(&group.parent.join("cgroup.procs"));
        if !is_root(&group.parent) && there.contains(&getpid().to_string()) {
            explain::host(call!("mkdir {}", aside(group).display())).run(|| std::fs::create_dir(aside(group)))?;
            for pid in there.iter().filter(|pid| is_ours(pid)) {
                unless_ended(explain::host_echo(pid, &aside(group).join("cgroup.procs")).run())?;
            }
        }
        for name in missing {
            // A group that stands for "handed on by a step": whoever leaves last takes it back, also after a SIGKILL.
            let mark = mark(group, name);
            explain::host(call!("mkdir {}", mark.display())).run(|| std::fs::create_dir(&mark))?;
            explain::host_echo(format_args!("+{name}"), &control).run()?;
        }
        Ok(())
    }

    fn settings(&self, limits: &Limits) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |controller, file, value| settings.push(Setting { controller, file, value });
        if let Some(bytes) = limits.memory {
            set("memory", "memory.max", bytes.to_string());
            // Swap is counted by itself here: none of it is left.
            set("memory", "memory.swap.max", "0".to_owned());
        }
        if let Some(quota) = limits.quota_us() {
            set("cpu", "cpu.max", format!("{quota} {PERIOD_US}"));
        }
        if let Some(shares) = limits.cpu_shares {
            // 2 to 262144 becomes 1 to 10000, on a straight line.
            set("cpu", "cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string());
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

    fn read_from<'a>(&self, file: &'a str) -> &'a str {
        file
    }

    fn counters(&self, dir: &Path) -> Vec<String> {
        let count = |file: &str, key: &str| counter(&dir.join(file), key);
        let mut counters = Vec::new();
        if let Some(kills) = count("memory.events", "oom_kill") {
            // Linux 5.19 and newer tell the peak.
            let peak =
                count("memory.peak", "").map_or("an unknown number of".to_owned(), |peak| (peak / 1024).to_string());
            counters.push(format!("memory: {peak} KiB at the peak, {kills} killed for want of it"));
        }
        if let Some(periods) = count("cpu.stat", "nr_throttled") {
            let ms = count("cpu.stat", "throttled_usec").unwrap_or(0) / 1000;
            counters.push(format!("cpu: held back in {periods} periods, for {ms} ms"));
        }
        if let Some(refused) = count("pids.events", "max") {
            counters.push(format!("pids: forks refused: {refused}"));
        }
        counters
    }

    fn take_back(&self, group: &Group) -> Result<()> {
        // What stands outside the group is everybody's.
        let _lock = group.lock()?;
        // Taken away under another step's group, a controller would take its limits along.
        if !group.has_neighbours() {
            for (mark, name) in marks(&group.parent) {
                let control = group.parent.join("cgroup.subtree_control");
                explain::host_echo(format_args!("-{name}"), &control).cleanup().run()?;
                explain::host(call!("rmdir {}", mark.display())).cleanup().run(|| std::fs::remove_dir(&mark))?;
            }
        }
        let aside = aside(group);
        if aside.exists() {
            for pid in words(&aside.join("cgroup.procs")) {
                unless_ended(explain::host_echo(pid, &group.parent.join("cgroup.procs")).cleanup().run())?;
            }
            explain::host(call!("rmdir {}", aside.display())).cleanup().run(|| std::fs::remove_dir(&aside))?;
        }
        Ok(())
    }
}

/// The controllers of this tree that the limits need, each once. On a hybrid machine v1 has the others.
fn needed(hierarchy: &Hierarchy, limits: &Limits) -> Vec<&'static str> {
    let mut needed: Vec<_> = limits.needs().into_iter().map(|(_, [_, name])| name).collect();
    needed.dedup();
    needed.retain(|name| hierarchy.controllers.iter().any(|there| there == name));
    needed
}

/// Whether this is the top of the whole tree, the only group without a type.
fn is_root(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists()
}

/// The processes of a group, except ours.
fn others(dir: &Path) -> Vec<String> {
    words(&dir.join("cgroup.procs")).into_iter().filter(|pid| !is_ours(pid)).collect()
}

/// Whether it is this process, or the one that has made it by fork to do its work: they can step aside together.
fn is_ours(pid: &str) -> bool {
    let same_program = || {
        let program = |process: &str| std::fs::read_link(format!("/proc/{process}/exe"));
        program(pid).is_ok_and(|its| program("self").is_ok_and(|own| own == its))
    };
    pid == getpid().to_string() || (pid == getppid().to_string() && same_program())
}

/// A process that has ended since it was listed need not be moved: ESRCH.
fn unless_ended(moved: Result<()>) -> Result<()> {
    match moved {
        Err(error) if is(&error, Errno::ESRCH) => Ok(()),
        moved => moved,
    }
}

/// Where the step itself waits while the group that it was in hands controllers on.
fn aside(group: &Group) -> PathBuf {
    group.dir.with_extension("host")
}

/// `step02-4711.+memory`: the memory controller is handed on because of a step.
fn mark(group: &Group, name: &str) -> PathBuf {
    group.dir.with_extension(format!("+{name}"))
}

/// The marks in a group, with the controllers that they stand for.
fn marks(parent: &Path) -> Vec<(PathBuf, String)> {
    let controller = |dir: PathBuf| {
        let name = dir.extension()?.to_str()?.strip_prefix('+')?.to_owned();
        Some((dir, name))
    };
    leftovers::marked(parent).filter_map(controller).collect()
}
