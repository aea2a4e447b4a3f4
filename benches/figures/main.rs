//! What a container costs: here, elsewhere, and at least. `cargo bench --bench figures`, as root.
//!
//! Whole processes are measured, by hyperfine, in rounds: each round runs every program a few times, so that whatever
//! else the machine does meets all of them. What is not installed is left out, and said so. The figures go to
//! `figures.json`, four plots, and the marked places of TUTORIAL.md and README.md. With `-- --quick` everything runs
//! once or twice, as it is built without `--release`, and nothing is written: that shows only that the bench works.

mod build;
mod growth;
mod measure;
mod phases;
mod place;
mod plot;
mod programs;
mod report;
mod roots;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use place::Workplace;
use report::Figures;

/// How often everything is done.
#[derive(Clone, Copy)]
pub struct Effort {
    rounds: usize,
    runs: usize,
    containers: usize,
    /// MiB.
    largest_root: u64,
}

const FULL: Effort = Effort { rounds: 20, runs: 10, containers: 500, largest_root: 128 };
const QUICK: Effort = Effort { rounds: 1, runs: 2, containers: 4, largest_root: 2 };

fn main() -> ExitCode {
    match figures() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the bench is only to show that it works.
fn is_quick() -> bool {
    std::env::args().any(|word| word == "--quick")
}

fn figures() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the figures are those of root: sudo -E cargo bench --bench figures");
    let effort = if is_quick() { QUICK } else { FULL };
    stage("building what is measured");
    let build = build::measure()?;
    stage("measuring");
    let place = Workplace::new()?;
    let (programs, lives) = (programs::runs(&place), programs::lives(&place)?);
    let calls = measure::calls(&place, effort)?;
    let figures = Figures {
        machine: measure::machine(&programs)?,
        runs: measure::programs(&place, &programs, effort)?,
        lives: measure::programs(&place, &lives, Effort { rounds: effort.rounds.div_ceil(4), ..effort })?,
        phases: phases::phases(&place, effort, &calls)?,
        calls,
        namespaces: measure::namespaces(&place)?,
        roots: roots::measure(&place, effort)?,
        lists: measure::lists(&place, &programs::lists(&place)?)?,
        growth: growth::measure(&place, effort)?,
        build,
        // Last: from here on this process sees other cgroups.
        one_tree: match Workplace::on_one_tree()? {
            Some(place) => Some(measure::programs(&place, &programs::runs(&place), effort)?),
            None => None,
        },
    };
    for name in
        ["machine", "runs", "one tree", "lives", "phases", "calls", "namespaces", "roots", "lists", "growth", "build"]
    {
        println!("{}", figures.text(name));
    }
    if !is_quick() {
        keep(&figures)?;
    }
    Ok(())
}

/// Writes down what was measured, everywhere where it is shown.
fn keep(figures: &Figures) -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    write(&here.join("figures.json"), &(serde_json::to_string_pretty(figures)? + "\n"))?;
    write(&here.join("phases.svg"), &plot::phases(&figures.phases)?)?;
    write(&here.join("calls.svg"), &plot::calls(&figures.calls)?)?;
    write(&here.join("growth.svg"), &plot::growth(&figures.growth)?)?;
    write(&here.join("roots.svg"), &plot::roots(&figures.roots)?)?;
    for text in ["TUTORIAL.md", "README.md"] {
        let path = project().join(text);
        write(&path, &figures.filled(&std::fs::read_to_string(&path)?))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// As it is written in the figures: 2025-12-31.
pub fn today() -> Result<String> {
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    now.get(..10).map(str::to_owned).context("no date")
}

/// The project's directory.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What is at work now, as it takes a while.
fn stage(name: &str) {
    eprintln!("# {name}");
}
