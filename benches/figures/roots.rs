//! What it costs to give a container a root of its own, over the size of that root: a copy, beside an upper layer.

use std::fs::{create_dir, remove_dir_all, write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::Effort;
use crate::measure::spread;
use crate::place::{Workplace, built};
use crate::report::OwnRoot;

/// MiB of what is in a root beside its `true`.
const SIZES: [u64; 5] = [2, 8, 32, 64, 128];
/// KiB of each file: about as many as a distribution has for a program, and a few large ones.
const FILES: [u64; 2] = [16, 1024];

pub fn measure(place: &Workplace, effort: Effort) -> Result<Vec<OwnRoot>> {
    let root = place.data().join("of-this-size");
    let mut figures = Vec::new();
    for file_kib in FILES {
        for mib in SIZES.into_iter().filter(|mib| *mib <= effort.largest_root) {
            let files = mib * 1024 / file_kib;
            make(&root, Path::new(&place.path("root")), files, file_kib)?;
            let copy = median(place, effort, &on_a_copy(place, &root))?;
            let overlay = median(place, effort, &run("step07", place, &root))?;
            figures.push(OwnRoot { mib, file_kib, files, copy, overlay });
            remove_dir_all(&root)?;
        }
    }
    Ok(figures)
}

/// On the disk, where the copy will be, too.
fn make(root: &Path, from: &Path, files: u64, file_kib: u64) -> Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, root]).status().context("cp")?;
    ensure!(copied.success(), "cp -a {}", from.display());
    // A hundred in a directory. Not of zeros, which a file system may keep as a hole.
    let content = vec![b'x'; (file_kib * 1024) as usize];
    for number in 0..files {
        let dir = root.join(format!("d{}", number / 100));
        if number % 100 == 0 {
            create_dir(&dir)?;
        }
        write(dir.join(number.to_string()), &content)?;
    }
    Ok(())
}

fn run(step: &str, place: &Workplace, root: &Path) -> String {
    let limits = place.limits.join(" ");
    format!("{} -q run --rm --network none {limits} --rootfs '{}' /bin/true", built(step), root.display())
}

fn on_a_copy(place: &Workplace, root: &Path) -> String {
    let copy = place.data().join("copy");
    let run = run("step06", place, &copy);
    format!("cp -a '{0}' '{1}' && {run} && rm -r '{1}'", root.display(), copy.display())
}

/// Milliseconds from the beginning until nothing is left of it.
fn median(place: &Workplace, effort: Effort, script: &str) -> Result<f64> {
    let one = |_| {
        let since = Instant::now();
        let ran = place.command("sh").args(["-c", script]).output()?;
        ensure!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(since.elapsed().as_secs_f64() * 1000.0)
    };
    Ok(spread((0..effort.runs).map(one).collect::<Result<_>>()?).median)
}
