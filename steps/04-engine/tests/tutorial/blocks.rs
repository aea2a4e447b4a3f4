//! The blocks of TUTORIAL.md: Rust from the files that they name, and consoles that are run.

use std::fs::read_to_string;
use std::ops::RangeBounds;
use std::process::Command;

use testing::program;

use crate::{project, tutorial};

/// A block between fences, and the line before it that is not empty.
struct Block {
    /// The number of the last heading `## Chapter 00: …`.
    chapter: u32,
    language: String,
    before: String,
    lines: Vec<String>,
}

fn blocks() -> Vec<Block> {
    let text = tutorial();
    let mut found = Vec::new();
    let mut before = String::new();
    let mut chapter = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let inside = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```"));
            let inside = inside.map(str::to_owned).collect();
            found.push(Block { chapter, language: language.to_owned(), before: before.clone(), lines: inside });
        } else if !line.trim().is_empty() {
            let number = line.strip_prefix("## Chapter ").and_then(|title| title.split_once(':'));
            chapter = number.map_or(chapter, |(number, _)| number.parse().expect("a number"));
            before = line.to_owned();
        }
    }
    found
}

/// "From `steps/…`:" stands before each, and its lines stand in that file, one after the other.
pub fn rust_blocks() {
    let mut count = 0;
    for block in blocks().into_iter().filter(|block| block.language.starts_with("rust")) {
        let file = block.before.strip_prefix("From `").and_then(|rest| rest.strip_suffix("`:"));
        let file = file.unwrap_or_else(|| panic!("which file is this from? {:?}", block.lines));
        let text = read_to_string(project().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&block.lines.join("\n")), "{file} does not have\n{}", block.lines.join("\n"));
        count += 1;
    }
    assert!(count > 10, "just {count} blocks of Rust");
}

/// "This is all of it": the block has the whole file, and no line less.
pub fn the_container_is_whole() {
    let file = read_to_string(project().join("steps/mine/solutions/chapter04.rs")).expect("the solution");
    let text = tutorial();
    let (_, rest) = text.split_once("\n## A container on one screen\n").expect("the heading");
    let (_, rest) = rest.split_once("```rust\n").expect("a block");
    let (shown, _) = rest.split_once("```\n").expect("its end");
    assert!(file.ends_with(shown) && shown.contains("fn main()"), "it is not the whole of the file");
    let before = file.strip_suffix(shown).unwrap_or(&file);
    assert!(before.lines().all(|line| line.is_empty() || line.starts_with("//")), "left out: {before}");
}

/// `[text](path)` and `[text](#heading)`.
pub fn links() {
    let text = tutorial();
    let headings: Vec<_> = text.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let mut count = 0;
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        match link.strip_prefix('#') {
            Some(heading) => assert!(headings.iter().any(|it| it == heading), "no heading #{heading} in {headings:?}"),
            None => assert!(project().join(link).exists(), "{link} is not there"),
        }
        count += 1;
    }
    assert!(count > 10);
}

/// As GitHub makes it of a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    words.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
}

const WORLDS: [&str; 9] = [
    "anyone",
    "anyone with layers",
    "anyone with legacy tiocsti",
    "root",
    "root on v1",
    "root on v2",
    "root with idmap",
    "root with a network",
    "root with layers",
];

fn world(block: &Block) -> Option<&str> {
    block.before.strip_prefix("<!-- run: ").and_then(|rest| rest.strip_suffix(" -->"))
}

/// The very first one builds the project, which the tests have done.
pub fn all_are_run() {
    let consoles: Vec<_> = blocks().into_iter().filter(|block| block.language == "console").collect();
    let unrun: Vec<_> =
        consoles.iter().filter(|block| !world(block).is_some_and(|world| WORLDS.contains(&world))).collect();
    assert!(
        consoles.len() > 10 && unrun.len() == 1,
        "{} consoles, not run: {:?}",
        consoles.len(),
        unrun.iter().map(|it| &it.lines).collect::<Vec<_>>()
    );
    assert!(unrun[0].lines[0].contains("cargo build"));
}

/// Runs those of this world, and compares.
pub fn console_blocks(wanted: &str, chapters: impl RangeBounds<u32>) {
    let all = blocks().into_iter().filter(|block| block.language == "console" && world(block) == Some(wanted));
    let these: Vec<_> = all.filter(|block| chapters.contains(&block.chapter)).collect();
    assert!(!these.is_empty());
    let whose = format!("-of-{}", testing::random_word());
    these.iter().for_each(|block| run_and_compare(block, &whose));
}

/// A line that separates the output of one command from that of the next.
const MARK: &str = "@@@@";

/// Files that the text calls `…-of-mine` are `whose`: blocks for others run at the same time.
fn run_and_compare(block: &Block, whose: &str) {
    let home = tempfile::tempdir().expect("tempdir");
    let commands: Vec<_> = block.lines.iter().filter_map(|line| command(line)).collect();
    let script: String = commands.iter().map(|command| format!("echo {MARK}\n{command}\n")).collect();
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("exec 2>&1\n{script}").replace("-of-mine", whose)]);
    with_the_programs(&mut shell);
    shell.env("XDG_RUNTIME_DIR", home.path()).env("XDG_DATA_HOME", home.path());
    let out = testing::without_own_groups(&testing::Run::new(shell).ran().out).replace(whose, "-of-mine");
    let answers: Vec<Vec<_>> = out.split(&format!("{MARK}\n")).skip(1).map(|answer| answer.lines().collect()).collect();
    assert_eq!(answers.len(), commands.len(), "{out}");

    let mut shown = Vec::new();
    for line in &block.lines {
        match command(line) {
            Some(_) => shown.push(Vec::new()),
            None => shown.last_mut().expect("a command first").push(line.as_str()),
        }
    }
    for ((command, shown), answer) in commands.iter().zip(shown).zip(answers) {
        if let Err(line) = compare(&shown, &answer) {
            panic!("$ {command}\nthe text has {line:?}, and this run not, or not there:\n{}", answer.join("\n"));
        }
    }
}

/// What stands behind a prompt: anyone's or root's.
fn command(line: &str) -> Option<&str> {
    line.strip_prefix("$ ").or_else(|| line.strip_prefix("root# "))
}

/// A reader sees from the prompt whom a block is for, and not only from a comment that is not rendered.
pub fn prompts_say_who() {
    for block in blocks().iter().filter(|block| block.language == "console") {
        let is_roots = world(block).is_some_and(|world| world.starts_with("root"));
        let prompt = if is_roots { "root# " } else { "$ " };
        for line in block.lines.iter().filter(|line| command(line).is_some()) {
            assert!(line.starts_with(prompt), "{line:?} stands in a block for {:?}", world(block));
        }
    }
}

/// The text is read beside two terminals, of 110 columns.
pub fn lines_fit() {
    for block in blocks().iter().filter(|block| ["console", "text"].contains(&block.language.as_str())) {
        for line in &block.lines {
            assert!(line.chars().count() <= 110, "{} columns: {line}", line.chars().count());
        }
    }
}

/// A hint that is not closed would fold away the rest of the text; and Markdown in it is none before an empty line.
pub fn folds_are_closed() {
    let text = tutorial();
    let mut open = None;
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        if line.contains("<details>") {
            assert_eq!(open, None, "line {number} opens a fold in the one of that line");
            assert!(line.ends_with("</summary>"), "line {number} says more than what is folded");
            assert!(lines.peek().is_some_and(|(_, next)| next.is_empty()), "no line is empty after line {number}");
            open = Some(number);
        }
        if line.contains("</details>") {
            assert!(open.take().is_some(), "line {number} closes no fold");
        }
    }
    assert_eq!(open, None, "the fold of that line is never closed");
}

/// In the project's directory, with its programs in PATH, as the text's first block has it.
pub fn with_the_programs(shell: &mut Command) {
    let built = program("step00").parent().expect("target/debug").to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    shell.current_dir(project()).env("RUST_BACKTRACE", "0");
    shell.env("PATH", format!("{}:{}:{path}", built.display(), built.join("examples").display()));
}

/// Line by line; where a line is `⋮`, any lines may stand. Numbers and ids are not compared.
fn compare(shown: &[&str], answer: &[&str]) -> Result<(), String> {
    let mut answer = answer.iter();
    let mut anything = false;
    for line in shown {
        if *line == "⋮" {
            anything = true;
            continue;
        }
        let found = if anything {
            answer.any(|it| is_like(line, it))
        } else {
            answer.next().is_some_and(|it| is_like(line, it))
        };
        if !found {
            return Err((*line).to_owned());
        }
        anything = false;
    }
    match answer.next() {
        Some(more) if !anything => Err(format!("(nothing where there is {more:?})")),
        _ => Ok(()),
    }
}

/// Within a line, too, `⋮` stands for anything.
fn is_like(shown: &str, line: &str) -> bool {
    let (shown, line) = (plain(shown), plain(line));
    let mut parts = shown.split('⋮');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    for (place, part) in parts.iter().enumerate() {
        let found = if place + 1 == parts.len() {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(found) = found else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.is_empty() || !parts.is_empty()
}

/// Without what differs from run to run: ids, numbers, how wide a column is, how long ago something was, whether it is
/// `/bin` or `/usr/bin`.
pub fn plain(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let is_id = |word: &str| word.len() == 12 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let inner = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        // As ps(1) has the state of a process: with an N, it is one of a run under nice(1).
        let is_state =
            |word: &str| word.starts_with(['R', 'S']) && word.bytes().skip(1).all(|byte| b"Ns+l".contains(&byte));
        match word {
            word if is_id(inner) => word.replace(inner, "ID"),
            word if is_state(word) => word.replace('N', ""),
            word => word.to_owned(),
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    let line = line.replace("/usr/sbin/", "/bin/").replace("/usr/bin/", "/bin/");
    let line = ["seconds", "minutes", "minute"].iter().fold(line, |line, unit| line.replace(unit, "second"));
    testing::without_numbers(&line.replace('…', "_"))
}
