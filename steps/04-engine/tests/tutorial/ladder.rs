//! README's ladder: each step lights its own term of the formula, and those of the steps before it.

use std::collections::BTreeSet;
use std::fs::read_to_string;

use crate::containment::{NO_BRIDGE, NO_UPPER};
use crate::project;

pub fn is_what_the_steps_light() {
    let home = tempfile::tempdir().expect("tempdir");
    let text = read_to_string(project().join("README.md")).expect("README.md");
    let rows: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| [")?.split_once('-'))
        .map(|(number, rest)| (number, rest.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default()))
        .collect();
    assert_eq!(rows.len(), 10, "the ladder has ten steps");
    let mut terms = BTreeSet::new();
    for (number, term) in rows {
        terms.extend((term != "–").then(|| term.to_owned()));
        let step = format!("step{number}");
        let run = |words: &[&str]| {
            let run = testing::step(&step, words.iter().copied());
            run.with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path()).env("XDG_DATA_HOME", home.path())).ran()
        };
        let mut words = if step.as_str() < "step04" { vec!["true"] } else { vec!["run", "--rm", "true"] };
        let mut ran = run(&words);
        if ran.err.contains(NO_BRIDGE) {
            words.splice(2..2, ["--network", "none"]);
            ran = run(&words);
        }
        if ran.err.contains(NO_UPPER) {
            words.splice(2..2, ["--no-overlay"]);
            ran = run(&words);
        }
        if ran.err.contains("takes no map of ids") {
            words.splice(2..2, ["--uidmap", "0:0:65536"]);
            ran = run(&words);
        }
        let formula =
            ran.err.lines().rfind(|line| line.starts_with("Container = ")).unwrap_or_else(|| panic!("{ran:?}"));
        let lit = formula.split(['[', ']']).skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(lit, terms, "{step}: {formula}");
    }
}
