//! The options of this step: what the child may use up, written as Docker writes it.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the child may use up. Nothing is limited that is not asked for.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "What the child may use up (step 02)")]
pub struct Limits {
    /// Memory, swap included: 64M, 1G
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
    /// Processor time, in processors: 0.5, 2
    #[arg(long, value_name = "N", value_parser = cpus, allow_negative_numbers = true)]
    pub cpus: Option<f64>,
    /// Weight against others when the processors are busy; 1024 is usual
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub cpu_shares: Option<u64>,
    /// Processes and threads at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_194_304), allow_negative_numbers = true)]
    pub pids_limit: Option<u64>,
    /// Which processors: 0, 0-2, 0,3
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub cpuset_cpus: Option<CpuList>,
    /// Bytes a second to a disk: /dev/sda:1M
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = rate)]
    pub device_write_bps: Option<Rate>,
    /// Bytes a second from a disk: /dev/sda:1M
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = rate)]
    pub device_read_bps: Option<Rate>,
}

/// Processors by number, and how that was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CpuList(pub String);

/// Bytes a second of a block device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// `8:0`.
    pub device: String,
    /// At least 1.
    pub bytes: u64,
}

/// The length of the time slices in which processor time is counted, in microseconds. Docker's.
pub const PERIOD_US: u64 = 100_000;

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

    /// Microseconds of processor time in each period of 100 ms.
    pub fn quota_us(&self) -> Option<u64> {
        self.cpus.map(|cpus| (cpus * PERIOD_US as f64).round() as u64)
    }
}

impl CpuList {
    /// The numbers: `0-2,4` is 0, 1, 2, 4.
    pub fn numbers(list: &str) -> Option<BTreeSet<u32>> {
        let mut numbers = BTreeSet::new();
        for part in list.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            // The kernel's own bound is 8192; without one, "0-4294967295" would fill the memory.
            if first > last || last >= 8192 {
                return None;
            }
            numbers.extend(first..=last);
        }
        Some(numbers)
    }
}

/// A number of bytes with `b`, `k`, `m` or `g` behind it, or nothing.
fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        unit => return Err(format!("{unit:?} is no unit of size: b, k, m or g")),
    };
    let number: u64 = digits.parse().map_err(|_| "a size is a whole number and a unit, like 64M".to_owned())?;
    // v1 keeps sizes in a signed number; its largest means "no limit".
    number
        .checked_mul(unit)
        .filter(|bytes| *bytes < i64::MAX as u64)
        .ok_or_else(|| "that is more than the kernel can count".to_owned())
}

/// The kernel counts in pages; a limit is rounded down to 64 KiB, the largest page that Linux has, so that it reads back as
/// it was written.
fn memory(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    if bytes < 6 << 20 {
        return Err("6M is the least: the child needs some before it becomes the program".to_owned());
    }
    Ok(bytes / 65536 * 65536)
}

fn cpus(text: &str) -> Result<f64, String> {
    let there = online().len();
    match text.parse::<f64>() {
        Ok(cpus) if (0.01..=there as f64).contains(&cpus) => Ok(cpus),
        _ => Err(format!("a number of processors from 0.01 to {there}, as this machine has {there}")),
    }
}

fn cpu_list(text: &str) -> Result<CpuList, String> {
    match CpuList::numbers(text) {
        Some(numbers) if !numbers.is_empty() && numbers.is_subset(&online()) => Ok(CpuList(text.to_owned())),
        Some(numbers) if !numbers.is_empty() => Err(format!("this machine has the processors {:?}", online())),
        _ => Err("a list of processors is like 0, 0-2 or 0,3".to_owned()),
    }
}

/// The processors of this machine.
fn online() -> BTreeSet<u32> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    CpuList::numbers(&list).filter(|numbers| !numbers.is_empty()).unwrap_or(BTreeSet::from([0]))
}

fn rate(text: &str) -> Result<Rate, String> {
    let (path, size) = text.rsplit_once(':').ok_or("a device and a size, like /dev/sda:1M")?;
    let path = PathBuf::from(path);
    let file = path.metadata().map_err(|error| format!("{}: {error}", path.display()))?;
    if !file.file_type().is_block_device() {
        return Err(format!("{} is no block device", path.display()));
    }
    let bytes = bytes(size)?;
    if bytes == 0 {
        return Err("at least one byte a second".to_owned());
    }
    let device = format!("{}:{}", nix::sys::stat::major(file.rdev()), nix::sys::stat::minor(file.rdev()));
    Ok(Rate { device, bytes })
}
