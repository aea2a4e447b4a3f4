//! The figures as they are kept in `figures.json`, and as the texts show them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All that one run of the bench has measured.
#[derive(Serialize, Deserialize)]
pub struct Figures {
    pub machine: Machine,
    /// A whole life in one command: made, run, waited for, removed.
    pub runs: Vec<ProgramFigures>,
    /// The same life in three commands: create, start, remove.
    pub lives: Vec<ProgramFigures>,
    /// The same in one command on cgroup version 2, without limits. None where the machine has no other.
    pub one_tree: Option<Vec<ProgramFigures>>,
    /// Where `step04 run` spends its time, printing, in the order in which it happens.
    pub phases: Vec<Phase>,
    /// What the bare run is made of: microseconds of each kind of call.
    pub calls: Vec<CallFigures>,
    /// `clone` and `waitpid` alone, in microseconds, by the namespaces that are made.
    pub namespaces: Vec<CallFigures>,
    /// By the size of a root: what it costs a container to have one of its own.
    pub roots: Vec<OwnRoot>,
    /// Nanoseconds of a call, by what looks at it.
    #[serde(default)]
    pub lists: Vec<ListFigures>,
    pub growth: Growth,
    pub build: Build,
}

#[derive(Serialize, Deserialize)]
pub struct Machine {
    pub date: String,
    pub command: String,
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    pub cgroup: String,
    pub versions: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
pub struct ProgramFigures {
    pub name: String,
    /// What it does less than `step04 run`, or more.
    pub differs: String,
    pub milliseconds: Spread,
    /// Of all its processes, the one that was the largest.
    pub peak_kib: Option<u64>,
    /// Of all its processes, until the container's program begins.
    pub system_calls: Option<usize>,
}

#[derive(Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

#[derive(Serialize, Deserialize)]
pub struct CallFigures {
    pub name: String,
    pub count: usize,
    pub microseconds: f64,
    /// The same where nothing of the kind was done for a tenth of a second.
    pub after_a_rest: Option<f64>,
}

#[derive(Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    /// How many lines are printed in it.
    pub lines: usize,
    pub microseconds: f64,
    /// Of that, what the same system calls take in `bare`. None where it has none of them.
    pub bare: Option<f64>,
}

/// Milliseconds of a whole life on a root of its own.
#[derive(Serialize, Deserialize)]
pub struct OwnRoot {
    pub mib: u64,
    /// The size of each of its files.
    pub file_kib: u64,
    pub files: u64,
    /// Of step 06 on a copy, with `cp -a` before and `rm -r` after.
    pub copy: f64,
    /// Of step 07.
    pub overlay: f64,
}

#[derive(Serialize, Deserialize)]
pub struct Growth {
    /// Beside how many running containers; milliseconds of `run --rm`, of `bare`, and of `ps`.
    pub beside: Vec<Beside>,
    /// How many at a time; containers a second.
    pub rates: Vec<(usize, f64)>,
    /// KiB of the machine's memory for each idle container: everything, the kernel's share too.
    pub memory_kib: f64,
    /// KiB of that for its monitor alone (PSS).
    pub monitor_kib: f64,
    /// KiB on disk, and directories of cgroups.
    pub state_kib: f64,
    pub cgroups: usize,
}

#[derive(Serialize, Deserialize)]
pub struct Beside {
    pub running: usize,
    pub run: f64,
    pub bare: f64,
    pub ps: f64,
}

#[derive(Serialize, Deserialize)]
pub struct ListFigures {
    pub name: String,
    pub differs: String,
    /// Of a call that the list names.
    pub plain: f64,
    /// Of one that it allows by its argument.
    pub by_argument: f64,
}

#[derive(Serialize, Deserialize)]
pub struct Build {
    pub seconds: f64,
    pub jobs: usize,
    pub crates: usize,
    pub binaries: Vec<Binary>,
}

#[derive(Serialize, Deserialize)]
pub struct Binary {
    pub name: String,
    pub debug_kib: u64,
    pub release_kib: u64,
}

impl Figures {
    /// What stands in a text between `<!-- figures: NAME -->` and `<!-- end -->`.
    pub fn text(&self, name: &str) -> String {
        match name {
            "machine" => self.machine(),
            "runs" => runs_table(&self.runs, bare(&self.runs), true),
            "short" => self.short(),
            "lives" => runs_table(&self.lives, bare(&self.runs), false),
            "one tree" => self.one_tree.as_ref().map_or(String::new(), |runs| runs_table(runs, bare(runs), true)),
            "phases" => self.phases_table(),
            "calls" => self.calls_table(),
            "namespaces" => self.namespaces_table(),
            "roots" => self.roots_table(),
            "lists" => self.lists_table(),
            "growth" => self.growth_table(),
            "build" => self.build_table(),
            _ => format!("no figures are called {name:?}\n"),
        }
    }

    /// The text with all its figures as they are now.
    pub fn filled(&self, text: &str) -> String {
        let mut pieces = text.split("<!-- figures: ");
        let mut filled = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (name, _) = piece.split_once(" -->").unwrap_or((piece, ""));
            let rest = piece.split_once("<!-- end -->").map_or("", |(_, rest)| rest);
            filled += &format!("<!-- figures: {name} -->\n{}<!-- end -->{rest}", self.text(name));
        }
        filled
    }

    fn machine(&self) -> String {
        let Machine { date, command, processor, processors, kernel, cgroup, versions } = &self.machine;
        let versions: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        format!(
            "Measured on {date} with `{command}`, all in one run: {processors} × {processor}, Linux {kernel}, {cgroup}; {}.\n",
            versions.join(", ")
        )
    }

    fn short(&self) -> String {
        let mut table = "| program | ms | × bare |\n| --- | ---: | ---: |\n".to_owned();
        for ProgramFigures { name, milliseconds, .. } in &self.runs {
            let ratio = milliseconds.median / bare(&self.runs);
            table += &format!("| `{name}` | {:.1} | {ratio:.2} |\n", milliseconds.median);
        }
        table
    }

    fn phases_table(&self) -> String {
        let mut table = "| `step04 run --rm`, printing | lines | µs | the same calls in `bare`, µs |\n".to_owned();
        table += "| --- | ---: | ---: | ---: |\n";
        for Phase { name, lines, microseconds, bare } in &self.phases {
            let bare = bare.map_or("–".to_owned(), |it| format!("{it:.0}"));
            table += &format!("| {name} | {lines} | {microseconds:.0} | {bare} |\n");
        }
        let sum = |of: fn(&Phase) -> f64| self.phases.iter().map(of).sum::<f64>();
        let (all, bare) = (sum(|it| it.microseconds), sum(|it| it.bare.unwrap_or(0.0)));
        let lines: usize = self.phases.iter().map(|it| it.lines).sum();
        table + &format!("| together | {lines} | {all:.0} | {bare:.0} |\n")
    }

    fn calls_table(&self) -> String {
        let mut table = "| calls of `bare` | how many | µs together | µs after a rest |\n".to_owned();
        table += "| --- | ---: | ---: | ---: |\n";
        for CallFigures { name, count, microseconds, after_a_rest } in &self.calls {
            let rested = after_a_rest.map_or("–".to_owned(), |it| format!("{it:.0}"));
            table += &format!("| {name} | {count} | {microseconds:.0} | {rested} |\n");
        }
        table
    }

    fn namespaces_table(&self) -> String {
        let mut table = "| `clone` with | µs |\n| --- | ---: |\n".to_owned();
        for CallFigures { name, microseconds, .. } in &self.namespaces {
            table += &format!("| {name} | {microseconds:.0} |\n");
        }
        table
    }

    fn roots_table(&self) -> String {
        let mut table = "| MiB beside busybox | files | on a copy, ms | on an upper layer, ms |\n".to_owned();
        table += "| ---: | ---: | ---: | ---: |\n";
        for OwnRoot { mib, file_kib, files, copy, overlay } in &self.roots {
            table += &format!("| {mib} | {files} of {file_kib} KiB | {copy:.1} | {overlay:.1} |\n");
        }
        table
    }

    fn lists_table(&self) -> String {
        let mut table = "| program | getpid, ns | personality, ns | what looks at a call |\n".to_owned();
        table += "| --- | ---: | ---: | --- |\n";
        for ListFigures { name, differs, plain, by_argument } in &self.lists {
            table += &format!("| `{name}` | {plain:.0} | {by_argument:.0} | {differs} |\n");
        }
        table
    }

    fn growth_table(&self) -> String {
        let Growth { beside, rates, memory_kib, monitor_kib, state_kib, cgroups } = &self.growth;
        let mut table = "| containers that run already | `run --rm`, ms | `bare`, ms | `ps`, ms |\n".to_owned();
        table += "| ---: | ---: | ---: | ---: |\n";
        for Beside { running, run, bare, ps } in beside.iter().filter(|it| [0, 100, 500].contains(&it.running)) {
            table += &format!("| {running} | {run:.1} | {bare:.1} | {ps:.1} |\n");
        }
        table += "\n| at a time | containers a second |\n| ---: | ---: |\n";
        for (at_a_time, rate) in rates {
            table += &format!("| {at_a_time} | {rate:.0} |\n");
        }
        table += &format!(
            "\nAn idle container takes {memory_kib:.0} KiB of memory, the kernel's share and its program's with it; {monitor_kib:.0} KiB of \
             that are its monitor. On disk it takes {state_kib:.0} KiB, and {cgroups} directories of cgroups.\n"
        );
        table
    }

    fn build_table(&self) -> String {
        let Build { seconds, jobs, crates, binaries } = &self.build;
        let mut table = "| binary | debug, KiB | release, KiB |\n| --- | ---: | ---: |\n".to_owned();
        for Binary { name, debug_kib, release_kib } in binaries {
            table += &format!("| `{name}` | {debug_kib} | {release_kib} |\n");
        }
        table += &format!(
            "\nA clean `cargo build` with the crates fetched takes {seconds:.0} s, with {jobs} jobs at a time; {crates} crates \
             beside our own.\n"
        );
        table
    }
}

/// Milliseconds of the bare calls among these.
fn bare(programs: &[ProgramFigures]) -> f64 {
    programs.iter().find(|it| it.name == "bare").map_or(f64::NAN, |bare| bare.milliseconds.median)
}

fn runs_table(programs: &[ProgramFigures], bare: f64, with_calls: bool) -> String {
    let mut table = "| program | ms, median (least) | × bare | peak KiB | system calls | what differs |\n".to_owned();
    table += "| --- | ---: | ---: | ---: | ---: | --- |\n";
    for ProgramFigures { name, differs, milliseconds, peak_kib, system_calls } in programs {
        let or_none = |it: Option<String>| it.unwrap_or_else(|| "–".to_owned());
        table += &format!(
            "| `{name}` | {:.1} ({:.1}) | {:.2} | {} | {} | {differs} |\n",
            milliseconds.median,
            milliseconds.min,
            milliseconds.median / bare,
            or_none(peak_kib.map(|it| it.to_string())),
            or_none(system_calls.filter(|_| with_calls).map(|it| it.to_string())),
        );
    }
    table
}
