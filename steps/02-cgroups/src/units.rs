//! Care: sizes, CPUs and rates, from the command line's units to the kernel's.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The length of the time slices in which CPU time is counted, in microseconds. Docker's.
pub const PERIOD_US: u64 = 100_000;

/// CPUs by number, and how that was written.
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

impl CpuList {
    /// The numbers: `0-2,4` is 0, 1, 2, 4. The format of the lists in cpuset(7); `None` where the text is no list.
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

/// Microseconds of CPU time in each period of [`PERIOD_US`].
pub fn quota_us(cpus: f64) -> u64 {
    (cpus * PERIOD_US as f64).round() as u64
}

/// The `cpu.weight` of v2 (1 to 10000) for the `cpu.shares` of v1 (2 to 262144), so that the defaults, 100 and 1024, meet,
/// and the ends, too.
///
/// The curve of runc and crun since 2025 (`ConvertCPUSharesToCgroupV2Value` in github.com/opencontainers/cgroups). The
/// straight line that they had before made 39 of the default.
pub fn cpu_weight(shares: u64) -> u64 {
    if shares >= 262_144 {
        return 10_000; // the curve ends in a rounding error above it
    }
    let l = (shares.max(2) as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    // Exact at 2 and at 1024 but for the last bits of a double, which `ceil` would make a whole one.
    (10_f64.powf(exponent) - 1e-9).ceil() as u64
}

/// `64M` of 67108864, for a line that sums up.
pub fn short_size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes % (1 << 30) == 0 => format!("{}G", bytes >> 30),
        _ if bytes % (1 << 20) == 0 => format!("{}M", bytes >> 20),
        _ if bytes % (1 << 10) == 0 => format!("{}K", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// A number of bytes with `b`, `k`, `m` or `g` behind it, or nothing.
pub fn bytes(text: &str) -> Result<u64, String> {
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

/// A limit of memory. The kernel counts in pages; it is rounded down to 64 KiB, the largest page that Linux has, so that it
/// reads back as it was written.
pub fn memory(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    if bytes < 6 << 20 {
        return Err("6M is the least: the child needs some before it becomes the program".to_owned());
    }
    Ok(bytes / 65536 * 65536)
}

/// A number of CPUs, at most as many as this machine has.
pub fn cpus(text: &str) -> Result<f64, String> {
    let there = online().len();
    match text.parse::<f64>() {
        Ok(cpus) if (0.01..=there as f64).contains(&cpus) => Ok(cpus),
        _ => Err(format!("a number of CPUs from 0.01 to {there}, as this machine has {there}")),
    }
}

/// A list of CPUs that this machine has.
pub fn cpu_list(text: &str) -> Result<CpuList, String> {
    match CpuList::numbers(text) {
        Some(numbers) if !numbers.is_empty() && numbers.is_subset(&online()) => Ok(CpuList(text.to_owned())),
        Some(numbers) if !numbers.is_empty() => Err(format!("this machine has the CPUs {:?}", online())),
        _ => Err("a list of CPUs is like 0, 0-2 or 0,3".to_owned()),
    }
}

/// The CPUs of this machine.
fn online() -> BTreeSet<u32> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    CpuList::numbers(&list).filter(|numbers| !numbers.is_empty()).unwrap_or(BTreeSet::from([0]))
}

/// A block device and a size.
pub fn rate(text: &str) -> Result<Rate, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        let good = [("0", 0), ("12b", 12), ("3k", 3 << 10), ("3KB", 3 << 10), ("64M", 64 << 20), ("2g", 2 << 30)];
        for (text, wanted) in good {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for text in ["", "M", "1.5M", "-1", "1T", "64 M", "9223372036854775807", "18446744073709551616", "9999999999G"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_reads_back_as_it_was_written() {
        assert_eq!(memory("64M"), Ok(64 << 20));
        assert_eq!(memory("6300001"), Ok(6_291_456), "whole pages, also of 64 KiB");
        assert!(memory("5M").is_err());
    }

    #[test]
    fn a_size_is_short_where_it_can_be() {
        assert_eq!(
            [0, 100, 2048, 64 << 20, 2 << 30, (1 << 20) + 1].map(short_size),
            ["0", "100", "2K", "64M", "2G", "1048577"]
        );
    }

    #[test]
    fn the_default_of_v1_is_the_default_of_v2() {
        assert_eq!([2, 1024, 262_144].map(cpu_weight), [1, 100, 10_000]);
        assert_eq!(
            [3, 10, 100, 512, 2048, 4096, 65_536, 262_143].map(cpu_weight),
            [2, 4, 17, 59, 174, 303, 3_023, 10_000]
        );
        let all: Vec<_> = (2..=262_144).step_by(17).map(cpu_weight).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn cpus_are_counted_in_periods() {
        assert_eq!([0.01, 0.5, 2.0, 0.29].map(quota_us), [1_000, 50_000, 200_000, 29_000]);
    }

    #[test]
    fn a_list_of_cpus_is_a_set() {
        let set = |numbers: &[u32]| Some(BTreeSet::from_iter(numbers.iter().copied()));
        assert_eq!(CpuList::numbers("0-2,4\n"), set(&[0, 1, 2, 4]));
        assert_eq!(CpuList::numbers("4,0-2,1"), set(&[0, 1, 2, 4]));
        assert_eq!(CpuList::numbers(""), set(&[]));
        for text in ["a", "3-1", "0-4294967295", "-1", "0-", "8192"] {
            assert_eq!(CpuList::numbers(text), None, "{text}");
        }
        assert!(cpu_list(",").is_err() && cpu_list("8000").is_err());
    }

    #[test]
    fn a_rate_needs_a_block_device() {
        for text in ["", "/dev/null", "/dev/null:1M", "/no/such:1M", "/:1M"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
