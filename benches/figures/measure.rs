//! Whole processes, by hyperfine, GNU time and strace; the bare calls, by `bare` itself.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libc::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS};
use serde_json::Value;

use crate::Effort;
use crate::place::{Workplace, built};
use crate::programs::{self, installed};
use crate::report::{CallFigures, ListFigures, Machine, ProgramFigures, Spread};

/// Where and with what this was measured.
pub fn machine(all: &[programs::Contender]) -> Result<Machine> {
    let cpuinfo = read_to_string("/proc/cpuinfo")?;
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("processor");
    let hierarchies = cgroups::detect(Path::new("/proc"), "self")?;
    let v1 = hierarchies.iter().filter(|it| it.version == cgroups::Version::V1).count();
    let mut versions = BTreeMap::new();
    for name in all.iter().map(|it| it.name).filter(|name| !name.starts_with("step")).chain(["hyperfine", "rustc"]) {
        let said = Command::new(name).arg("--version").output();
        let version = said.ok().and_then(|said| {
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
        });
        versions.extend(version.filter(|_| name != "bare").map(|version| (name.to_owned(), version)));
    }
    Ok(Machine {
        date: crate::today()?,
        command: "cargo bench --bench figures".to_owned(),
        processor: processor.trim_start_matches([' ', '\t', ':']).trim().to_owned(),
        processors: std::thread::available_parallelism()?.get(),
        kernel: read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cgroup: if v1 > 0 { format!("cgroup v1 with {v1} trees") } else { "cgroup v2".to_owned() },
        versions,
    })
}

/// Each program in each round, a few times.
pub fn programs(place: &Workplace, all: &[programs::Contender], effort: Effort) -> Result<Vec<ProgramFigures>> {
    // Once, so that whatever does not work says so itself.
    all.iter().try_for_each(|it| sh(place, &it.command))?;
    let mut times = vec![Vec::new(); all.len()];
    let json = place.path("hyperfine.json");
    // What the kernel takes apart later, when nobody waits for it, falls to the next one: not always to the same one.
    let mut order: Vec<_> = (0..all.len()).collect();
    for _ in 0..effort.rounds {
        let mut hyperfine = place.command("hyperfine");
        hyperfine.args([
            "-N",
            "--style",
            "none",
            "--output",
            "pipe",
            "--warmup",
            "1",
            "--runs",
            &effort.runs.to_string(),
        ]);
        let ran =
            hyperfine.args(["--export-json", &json]).args(order.iter().map(|place| &all[*place].command)).output();
        let ran = ran.context("hyperfine (a Debian package)")?;
        ensure!(ran.status.success(), "hyperfine: {}", String::from_utf8_lossy(&ran.stderr));
        let found: Value = serde_json::from_str(&read_to_string(&json)?)?;
        for (place, result) in order.iter().zip(found["results"].as_array().context("no results")?) {
            let seconds = result["times"].as_array().context("no times")?.iter().filter_map(Value::as_f64);
            times[*place].extend(seconds.map(|it| it * 1000.0));
        }
        order.rotate_left(1);
    }
    all.iter()
        .zip(times)
        .map(|(it, times)| {
            Ok(ProgramFigures {
                name: it.name.to_owned(),
                differs: it.differs.to_owned(),
                milliseconds: spread(times),
                peak_kib: peak(place, &it.command)?,
                system_calls: system_calls(place, &it.command)?,
            })
        })
        .collect()
}

/// KiB of the largest process. Started by `time`, which is small: a child counts what it was before its exec, too.
fn peak(place: &Workplace, command: &str) -> Result<Option<u64>> {
    let Some(time) = installed("time") else {
        eprintln!("left out, as `time` is not installed: peak memory");
        return Ok(None);
    };
    let out = place.path("time");
    sh(place, &format!("exec {} -f %M -o '{out}' {command}", time.display()))?;
    Ok(Some(read_to_string(&out)?.trim().parse().context("time")?))
}

/// System calls of every process, until the container's program begins.
fn system_calls(place: &Workplace, command: &str) -> Result<Option<usize>> {
    if installed("strace").is_none() {
        eprintln!("left out, as `strace` is not installed: system calls");
        return Ok(None);
    }
    let out = place.path("strace");
    sh(place, &format!("exec strace -f -qq -s 200 -o '{out}' {command}"))?;
    let mut programs = Vec::new();
    let mut count = 0;
    for line in read_to_string(&out)?.lines() {
        let (pid, call) = line.split_once(' ').context("strace")?;
        let call = call.trim_start();
        let is_call = !call.starts_with(['<', '+', '-']);
        if is_call && !programs.contains(&pid.to_owned()) {
            count += 1;
            if call.starts_with("execve(\"") && call.contains("/true\", [") && call.ends_with("= 0") {
                programs.push(pid.to_owned());
            }
        }
    }
    Ok(Some(count))
}

fn sh(place: &Workplace, command: &str) -> Result<()> {
    let ran = place.command("sh").args(["-c", command]).output()?;
    ensure!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// What the bare run is made of: for each kind of call its median over all runs, the dearest first.
pub fn calls(place: &Workplace, effort: Effort) -> Result<Vec<CallFigures>> {
    let at_once = medians(place, effort.rounds * effort.runs, Duration::ZERO)?;
    let rested = medians(place, effort.runs * 3, Duration::from_millis(100))?;
    let call = |(name, (count, microseconds)): (String, _)| {
        let after_a_rest = rested.get(&name).map(|(_, it)| *it);
        CallFigures { name, count, microseconds, after_a_rest }
    };
    let mut calls: Vec<_> = at_once.into_iter().map(call).collect();
    calls.sort_by(|one, other| other.microseconds.total_cmp(&one.microseconds));
    Ok(calls)
}

/// By the kind of call: how many, and microseconds of them all.
fn medians(place: &Workplace, runs: usize, rest: Duration) -> Result<BTreeMap<String, (usize, f64)>> {
    let mut all: BTreeMap<String, (usize, Vec<f64>)> = BTreeMap::new();
    for _ in 0..runs {
        std::thread::sleep(rest);
        let ran = place.bare().env("BARE_TIMES", "1").output()?;
        let printed = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "bare: {printed}");
        let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for line in printed.lines() {
            let (nanoseconds, name) = line.split_once('\t').context("bare")?;
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + 1, sum.1 + nanoseconds.parse::<f64>()? / 1000.0);
        }
        for (name, (count, sum)) in sums {
            let (counted, times) = all.entry(name.to_owned()).or_default();
            *counted = count;
            times.push(sum);
        }
    }
    Ok(all.into_iter().map(|(name, (count, times))| (name, (count, spread(times).median))).collect())
}

/// `clone` and `waitpid` of a child that does nothing, by the namespaces that it gets.
pub fn namespaces(place: &Workplace) -> Result<Vec<CallFigures>> {
    let all = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    let kinds = [
        ("no flag", 0),
        ("`CLONE_NEWUSER`", CLONE_NEWUSER),
        ("`CLONE_NEWPID`", CLONE_NEWPID),
        ("`CLONE_NEWUTS`", CLONE_NEWUTS),
        ("`CLONE_NEWCGROUP`", CLONE_NEWCGROUP),
        ("`CLONE_NEWNS`", CLONE_NEWNS),
        ("`CLONE_NEWIPC`", CLONE_NEWIPC),
        ("`CLONE_NEWNET`", CLONE_NEWNET),
        ("the six of a container", all),
    ];
    let one = |(name, flags): (&str, i32)| {
        let ran = place.command(built("bare")).args(["clone", &flags.to_string()]).output()?;
        ensure!(ran.status.success(), "bare clone: {}", String::from_utf8_lossy(&ran.stderr));
        let nanoseconds: f64 = String::from_utf8_lossy(&ran.stdout).trim().parse()?;
        Ok(CallFigures { name: name.to_owned(), count: 1, microseconds: nanoseconds / 1000.0, after_a_rest: None })
    };
    kinds.into_iter().map(one).collect()
}

/// Nanoseconds of a call under a list of calls and without one, the least of three runs, which take turns.
pub fn lists(place: &Workplace, all: &[programs::Contender]) -> Result<Vec<ListFigures>> {
    let mut lists: Vec<_> = all
        .iter()
        .map(|it| ListFigures {
            name: it.name.to_owned(),
            differs: it.differs.to_owned(),
            plain: f64::INFINITY,
            by_argument: f64::INFINITY,
        })
        .collect();
    for _ in 0..3 {
        for (list, program) in lists.iter_mut().zip(all) {
            let ran = place.command("sh").args(["-c", &program.command]).output()?;
            let printed = String::from_utf8_lossy(&ran.stdout);
            let numbers =
                printed.trim().split_once(' ').and_then(|(one, other)| one.parse().ok().zip(other.parse().ok()));
            let (plain, by_argument): (f64, f64) =
                numbers.with_context(|| format!("{}: {}", program.command, String::from_utf8_lossy(&ran.stderr)))?;
            (list.plain, list.by_argument) = (list.plain.min(plain), list.by_argument.min(by_argument));
        }
    }
    Ok(lists)
}

/// Of at least one.
pub fn spread(mut all: Vec<f64>) -> Spread {
    all.sort_by(f64::total_cmp);
    Spread { median: all[all.len() / 2], min: all[0], max: all[all.len() - 1], runs: all.len() }
}
