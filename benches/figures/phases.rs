//! Where `step04 run` itself spends its time, by its own output (`--times`): a line is printed as soon as its call has been
//! made, so what passes between two lines belongs to the second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::Effort;
use crate::measure::spread;
use crate::place::{Workplace, built};
use crate::report::{CallFigures, Phase};

const MINUTE: Duration = Duration::from_secs(60);

const FIRST_START: &str = "its first start, and a mount of its own file";
const SECOND_START: &str = "its second start";
const WRITTEN_DOWN: &str = "written down: what it is, what becomes of it";
const MADE: &str = "cgroups: found, made, limited";
const CLONE: &str = "clone, and the gate";
const TIES: &str = "id map, and the pid into every group";
const VIEW: &str = "the child's own view";
const ASKED: &str = "asked of the kernel: is all that so?";
const PROGRAM: &str = "the program: execve, its end, its counters";
const REMOVED: &str = "cgroups: removed";
const END: &str = "its end";
const ALL: [&str; 11] =
    [FIRST_START, SECOND_START, WRITTEN_DOWN, MADE, CLONE, TIES, VIEW, ASKED, PROGRAM, REMOVED, END];

/// In the order in which they begin: microseconds, the median of many runs; and beside them the calls of `bare`.
pub fn phases(place: &Workplace, effort: Effort, bare: &[CallFigures]) -> Result<Vec<Phase>> {
    let mut times = ALL.map(|_| Vec::new());
    let mut lines = ALL.map(|_| 0);
    for _ in 0..effort.rounds * effort.runs {
        let mut sums = ALL.map(|_| Duration::ZERO);
        lines = ALL.map(|_| 0);
        for (phase, time) in one_run(place)? {
            let number = ALL.iter().position(|it| *it == phase).context("a phase")?;
            sums[number] += time;
            lines[number] += 1;
        }
        for (times, sum) in times.iter_mut().zip(sums) {
            times.push(sum.as_secs_f64() * 1e6);
        }
    }
    let phases = ALL.into_iter().zip(times).zip(lines);
    let phase = |((name, times), lines): ((&str, Vec<f64>), usize)| {
        let same: Vec<_> = bare.iter().filter(|call| phase_of_bare(&call.name) == name).collect();
        let bare = same.iter().map(|call| call.microseconds).sum();
        let (name, microseconds) = (name.to_owned(), spread(times).median);
        Phase { name, lines, microseconds, bare: (!same.is_empty()).then_some(bare) }
    };
    Ok(phases.map(phase).collect())
}

/// The phase in which `step04` makes this kind of call.
fn phase_of_bare(call: &str) -> &'static str {
    match call {
        "cgroup: mkdir" | "cgroup: limits" => MADE,
        "gate" | "clone" | "prctl" => CLONE,
        "id map" | "cgroup: the pid" => TIES,
        "close_range" | "execve, until it has succeeded" | "the program, until it is waited for" => PROGRAM,
        "cgroup: rmdir" => REMOVED,
        _ => VIEW,
    }
}

/// Each line's phase, and the time that has passed since the line before.
fn one_run(place: &Workplace) -> Result<Vec<(&'static str, Duration)>> {
    let mut last = now()?;
    let mut passed = |now: Duration| {
        // A minute may have ended meanwhile.
        let time = now.checked_sub(last).unwrap_or_else(|| now + MINUTE - last);
        last = now;
        time
    };
    let mut step = place.command(built("step04"));
    step.args(["run", "--rm", "--times", "--verbose"]).args(place.limits).args([
        "--rootfs",
        &place.path("root"),
        "/bin/true",
    ]);
    let ran = step.output()?;
    let end = now()?;
    let story = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "step04 run: {story}");
    let mut phases = Vec::new();
    let mut before = FIRST_START;
    for line in story.lines() {
        let (time, line) = line.split_once(' ').context("no time")?;
        before = phase(line, before);
        phases.push((before, passed(Duration::from_secs_f64(time.parse()?))));
    }
    phases.push((END, passed(end)));
    Ok(phases)
}

/// As `--times` prints it.
fn now() -> Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Duration::from_micros((now.as_micros() % MINUTE.as_micros()) as u64))
}

/// What a line belongs to, by the phase of the line before.
fn phase(line: &str, before: &'static str) -> &'static str {
    let begins = |words: &[&str]| words.iter().any(|word| line.starts_with(word));
    let is_of_a_group = line.contains("/sys/fs/cgroup");
    match before {
        FIRST_START if begins(&["host  open_tree(", "host  mount_setattr(", "host  close_range(", "host  execve("]) => {
            FIRST_START
        }
        FIRST_START => SECOND_START,
        _ if begins(&["child close_range(", "child execve("]) => PROGRAM,
        _ if begins(&["host  clone", "child prctl("]) => CLONE,
        _ if begins(&["child "]) => VIEW,
        _ if begins(&["  ✔", "Container = "]) => ASKED,
        // The first that is printed after the program's end has waited for it.
        PROGRAM if begins(&["host  rename(", "# "]) => PROGRAM,
        PROGRAM | REMOVED if is_of_a_group => REMOVED,
        CLONE | TIES => TIES,
        _ if is_of_a_group || begins(&["# "]) => MADE,
        _ => WRITTEN_DOWN,
    }
}
