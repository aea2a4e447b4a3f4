//! What it takes to build Part I, and what comes out.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::place::{self, built, static_step04};
use crate::report::{Binary, Build};

const JOBS: usize = 2;

/// Builds the steps as they are released, and, to measure it, once more from nothing.
pub fn measure() -> Result<Build> {
    let quick = crate::is_quick();
    let profile = if quick { "--profile=dev" } else { "--release" };
    cargo(&["build", profile, "--workspace", "--bins"])?;
    cargo(&["build", profile, "--package", "figures", "--example", "bare"])?;
    if !quick {
        build_static()?;
    }
    let scratch = tempfile::tempdir()?;
    let target = if quick { place::target() } else { scratch.path().to_owned() };
    let since = Instant::now();
    cargo(&[
        "build",
        "--workspace",
        "--bins",
        "--jobs",
        &JOBS.to_string(),
        "--target-dir",
        &target.display().to_string(),
    ])?;
    let seconds = since.elapsed().as_secs_f64();

    let kib =
        |path: &Path| Ok::<_, anyhow::Error>(path.metadata().with_context(|| path.display().to_string())?.len() / 1024);
    let binaries = ["step00", "step01", "step02", "step03", "step04", "step05", "step06", "step07", "step08", "step09"]
        .into_iter()
        .map(|name| {
            let (debug_kib, release_kib) = (kib(&target.join("debug").join(name))?, kib(Path::new(&built(name)))?);
            Ok(Binary { name: name.to_owned(), debug_kib, release_kib })
        });
    Ok(Build { seconds, jobs: JOBS, crates: crates()?, binaries: binaries.collect::<Result<_>>()? })
}

/// `step04` with the C library in it, where there is one to be put in. Cargo takes this flag only with a target, as without
/// one it would hold for the macros, too, which the compiler itself loads.
fn build_static() -> Result<()> {
    let host = host()?;
    let flags = format!("target.{host}.rustflags=['-C', 'target-feature=+crt-static']");
    let words = ["build", "--release", "--package", "step04-engine", "--bins", "--target", &host, "--config", &flags];
    if cargo(&words).is_err() {
        eprintln!("left out, as there is no libc.a (on Debian it is in libc6-dev): step04, static");
        // Of an earlier build.
        static_step04().map_or(Ok(()), std::fs::remove_file)?;
    }
    Ok(())
}

/// This machine, as the compiler calls it.
pub fn host() -> Result<String> {
    let ran = Command::new("rustc").arg("-vV").output().context("rustc")?;
    let said = String::from_utf8_lossy(&ran.stdout);
    said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc -vV names no host")
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let ran = Command::new(env!("CARGO")).args(arguments).arg("--quiet").current_dir(crate::project()).output()?;
    ensure!(ran.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// Other people's crates that the steps are built of; those of tests alone do not count.
fn crates() -> Result<usize> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--workspace", "--edges", "normal,build", "--prefix", "none", "--format", "{p}", "--no-dedupe"]);
    let ran = tree.current_dir(crate::project()).output()?;
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    // Ours are printed with the directory that they are in.
    let mut names: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.contains("(/")).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.len())
}
