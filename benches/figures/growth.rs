//! What one more container costs where there are many already.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::Effort;
use crate::measure::spread;
use crate::place::Workplace;
use crate::report::{Beside, Growth};

/// How many are started between two looks.
const PACE: usize = 50;

pub fn measure(place: &Workplace, effort: Effort) -> Result<Growth> {
    let (mut beside, mut ids) = (vec![look(place, effort, 0)?], Vec::new());
    let before = available_kib()?;
    while ids.len() < effort.containers {
        for _ in 0..PACE.min(effort.containers - ids.len()) {
            ids.push(run(place, &["-d"], &["sleep", "100000"])?);
        }
        beside.push(look(place, effort, ids.len())?);
    }
    let count = ids.len() as f64;
    let memory_kib = (before - available_kib()?) / count;
    let last = ids.last().context("no container")?;
    let printed: serde_json::Value = serde_json::from_str(&place.step04(&["inspect", last])?)?;
    let monitor = printed[0]["state"]["monitor"]["pid"].as_i64().context("no monitor")?;
    let groups = printed[0]["state"]["groups"].as_array().map_or(0, Vec::len);
    let directory = Path::new(&place.path("step04")).join(last);
    let mut state = 0;
    for entry in std::fs::read_dir(directory)? {
        // As du counts it: what is taken on the disk.
        state += std::os::unix::fs::MetadataExt::blocks(&entry?.metadata()?) / 2;
    }
    Ok(Growth {
        monitor_kib: pss_kib(monitor)?,
        state_kib: state as f64,
        cgroups: groups,
        memory_kib,
        beside,
        rates: [1, 2, 8]
            .into_iter()
            .map(|at_a_time| Ok((at_a_time, rate(place, effort, at_a_time)?)))
            .collect::<Result<_>>()?,
    })
}

fn run(place: &Workplace, options: &[&str], program: &[&str]) -> Result<String> {
    place.step04(&[&["run"], options, &["--rootfs", &place.path("root")], place.limits, program].concat())
}

fn look(place: &Workplace, effort: Effort, running: usize) -> Result<Beside> {
    let median = |act: &dyn Fn() -> Result<String>| {
        let times = (0..effort.runs * 2).map(|_| {
            let since = Instant::now();
            act().map(|_| since.elapsed().as_secs_f64() * 1000.0)
        });
        Ok::<_, anyhow::Error>(spread(times.collect::<Result<_>>()?).median)
    };
    let run = median(&|| run(place, &["--rm"], &["/bin/true"]))?;
    let bare = median(&|| {
        let ran = place.bare().output()?;
        ensure!(ran.status.success(), "bare: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(String::new())
    })?;
    let ps = median(&|| place.step04(&["ps"]))?;
    Ok(Beside { running, run, bare, ps })
}

/// Containers a second, so many at a time, beside those that run already.
fn rate(place: &Workplace, effort: Effort, at_a_time: usize) -> Result<f64> {
    let each = (effort.containers / 2).div_ceil(at_a_time);
    let since = Instant::now();
    std::thread::scope(|scope| {
        let worker = || (0..each).try_for_each(|_| run(place, &["--rm"], &["/bin/true"]).map(drop));
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })?;
    Ok((each * at_a_time) as f64 / since.elapsed().as_secs_f64())
}

fn available_kib() -> Result<f64> {
    // What the kernel frees later (RCU, the network namespaces of those that have ended) is no container's.
    std::thread::sleep(std::time::Duration::from_secs(2));
    field("/proc/meminfo", "MemAvailable:")
}

/// What is its own, and its share of what it shares. proc_pid_smaps(5).
fn pss_kib(pid: i64) -> Result<f64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn field(file: &str, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {name} in {file}"))
}
