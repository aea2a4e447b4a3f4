//! Each solution passes the test of its chapter and those of the chapters before, as long as it runs in the foreground;
//! and the one before it fails, for the reason that is named here.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use support::{Checked, Reason, chapters, checked};

/// What the chapter's test says of the solution of the chapter before.
const MISSING: [&str; 5] = [
    chapters::CODE,
    "the program is in the host's user namespace: clone needs CLONE_NEWUSER",
    "the program is not in a group of its own in every tree",
    "`mine ROOT COMMAND` has not run the command",
    "`mine FILE ROOT COMMAND` has not made FILE",
];

fn main() -> ExitCode {
    println!("\nrunning {} tests", chapters::ALL.len());
    let mut failed = false;
    let mut before = "start";
    for (number, ((name, chapter), missing)) in chapters::ALL.into_iter().zip(MISSING).enumerate() {
        let outcome = solution(before, name, chapter, missing).and_then(|()| later_solutions(number));
        let said = match outcome {
            Ok(()) => "ok".to_owned(),
            Err(Reason::CannotCheck(reason)) => format!("ignored, cannot be checked here: {reason}"),
            Err(Reason::Missing(sentence, seen)) => {
                failed = true;
                format!("FAILED\n{sentence}\n{seen}")
            }
        };
        println!("test {name} ... {said}");
        record(name, if said.starts_with("ignored") { &said } else { "ran" });
        before = name;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn solution(before: &str, name: &str, chapter: support::Chapter, missing: &str) -> Checked {
    checked(chapter, &example(name))?;
    lacks(before, name, chapter, missing)
}

/// On the test of this chapter: that of chapter 04 goes to the background, the others pass.
fn later_solutions(number: usize) -> Checked {
    let (name, chapter) = chapters::ALL[number];
    for (later, _) in &chapters::ALL[number + 1..] {
        match *later {
            "chapter04" => lacks(later, name, chapter, support::IN_BACKGROUND)?,
            _ => checked(chapter, &example(later))?,
        }
    }
    Ok(())
}

fn lacks(solution: &str, name: &str, chapter: support::Chapter, missing: &str) -> Checked {
    match checked(chapter, &example(solution)) {
        Err(Reason::Missing(sentence, _)) if sentence == missing => Ok(()),
        other => {
            support::missing(format!("{solution} on the test of {name}: expected {missing:?}"), format!("{other:?}"))
        }
    }
}

/// Cargo has built it beside this program.
fn example(name: &str) -> PathBuf {
    let itself = std::env::current_exe().expect("exe");
    let path = itself.parent().unwrap_or(Path::new("")).join(format!("mine_{name}"));
    assert!(path.exists(), "{} is not built: cargo build -p mine --examples", path.display());
    path
}

/// For the one who compares several machines' runs: was a test ignored in all of them?
fn record(name: &str, what: &str) {
    if let Some(path) = std::env::var_os("CHECK_RECORD").filter(|path| !path.is_empty()) {
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "mine::{name}\t{what}")).expect("CHECK_RECORD");
    }
}
