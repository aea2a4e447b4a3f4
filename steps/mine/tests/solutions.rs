//! Each solution passes the test of its chapter and those of the chapters before, as long as it runs in the foreground;
//! and the one before it fails, for the reason that is named here.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe};
use support::{Checked, Reason, Scratch, chapters, checked, make_root};

/// What the chapter's test says of the solution of the chapter before.
const MISSING: [&str; 10] = [
    chapters::CODE,
    "the program is in the host's user namespace: clone needs CLONE_NEWUSER",
    "the program is not in a group of its own in every tree",
    "`mine ROOT COMMAND` has not run the command",
    "`mine FILE ROOT COMMAND` has not made FILE",
    chapters::ONE_ID,
    chapters::NO_CABLE,
    chapters::NO_LAYER,
    chapters::NO_TERMINAL,
    chapters::MORE_RIGHTS,
];

fn main() -> ExitCode {
    let scratch = Scratch::new();
    std::env::set_current_dir(&scratch.0).expect("chdir");
    if let Ok(root) = make_root() {
        // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var("CHECK_ROOTFS", root) };
    }
    let before_all = support::namespace("self", "user");
    println!("\nrunning {} tests", chapters::ALL.len());
    let before = ["start"].into_iter().chain(chapters::ALL.map(|(name, _)| name));
    let chapters = chapters::ALL.into_iter().zip(before).zip(MISSING);
    let mut outcomes: Vec<_> =
        chapters.map(|(((name, chapter), before), missing)| solution(before, name, chapter, missing)).collect();
    // On one processor, as in User Mode Linux, that would take ten minutes, and tells nothing new.
    let pairs = if std::thread::available_parallelism().is_ok_and(|it| it.get() == 1) { 0 } else { outcomes.len() };
    for number in 0..pairs {
        // A solution that this machine does not let run says nothing about another chapter's test.
        let can_run = |later: &usize| !matches!(outcomes[*later], Err(Reason::CannotCheck(_)));
        if outcomes[number].is_ok() {
            outcomes[number] =
                (number + 1..outcomes.len()).filter(can_run).try_for_each(|it| later_solution(number, it));
        }
    }
    let mut failed = false;
    for ((name, _), outcome) in chapters::ALL.iter().zip(outcomes) {
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
    }
    // In one with a single id, the next chapter's test could give no range.
    assert_eq!(support::namespace("self", "user"), before_all, "a test has left this process in another namespace");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// In a process of its own, as `cargo test -p mine --test CHAPTER` is: it enters namespaces that the next must not be in.
fn checked_apart(chapter: support::Chapter, mine: &Path) -> Checked {
    let (reader, writer) = pipe().expect("pipe");
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    // SAFETY: this process has one thread, so the child's copy holds no lock of another.
    let child = match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            let outcome = catch_unwind(|| checked(chapter, mine));
            let words = match &outcome {
                Ok(Ok(())) => ["ok", "", ""],
                Ok(Err(Reason::CannotCheck(reason))) => ["cannot check", reason, ""],
                Ok(Err(Reason::Missing(sentence, seen))) => ["missing", sentence, seen],
                Err(_) => ["panicked", "", ""],
            };
            let _ = writer.write_all(words.join("\0").as_bytes());
            // Nothing of the parent's is dropped: its directory is not the child's to remove.
            std::process::exit(0)
        }
        ForkResult::Parent { child } => child,
    };
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    waitpid(child, None).expect("wait");
    let words: Vec<_> = text.splitn(3, '\0').map(str::to_owned).collect();
    match <[String; 3]>::try_from(words).expect("an outcome") {
        [kind, ..] if kind == "ok" => Ok(()),
        [kind, reason, _] if kind == "cannot check" => Err(Reason::CannotCheck(reason)),
        [kind, sentence, seen] if kind == "missing" => Err(Reason::Missing(sentence, seen)),
        words => panic!("{words:?}"),
    }
}

fn solution(before: &str, name: &str, chapter: support::Chapter, missing: &str) -> Checked {
    checked_apart(chapter, &example(name))?;
    lacks(before, name, chapter, missing)
}

/// On the test of this chapter: from that of chapter 04 on they go to the background, and pass only its test.
fn later_solution(number: usize, later: usize) -> Checked {
    let ((name, chapter), (later, _)) = (chapters::ALL[number], chapters::ALL[later]);
    if later >= "chapter04" && name < "chapter04" {
        return lacks(later, name, chapter, support::IN_BACKGROUND);
    }
    checked_apart(chapter, &example(later))
}

fn lacks(solution: &str, name: &str, chapter: support::Chapter, missing: &str) -> Checked {
    match checked_apart(chapter, &example(solution)) {
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
