//! Looks as text: a row for each finding, grouped by the terms of the formula, with marks that compare.

use std::fmt::Write;

use colored::{ColoredString, Colorize};
use shared::explain;

use super::{Look, Reading};

/// The order of the formula, with the process itself before it and its rights after it.
const TERMS: [&str; 6] = ["process", "cgroup", "namespace", "rootfs", "engine", "rights"];

/// With two widths a column for each process, with one for the second alone; the marks always compare the two.
pub(super) fn draw(first: &Look, second: &Look, widths: &[usize]) -> String {
    let shown = if widths.len() == 1 { vec![second] } else { vec![first, second] };
    let mut text = String::new();
    row(&mut text, "", " ".normal(), shown.iter().map(|look| Ok(look.title.clone())).collect(), widths);
    for term in TERMS {
        let _ = writeln!(text, "{}", term.bold());
        for what in questions(first, second, term) {
            let mark = mark_of(term, &first.answer(term, what), &second.answer(term, what));
            row(&mut text, what, mark, shown.iter().map(|look| look.answer(term, what)).collect(), widths);
        }
    }
    let whose = if widths.len() == 1 { "as for the process that looks" } else { "for both" };
    let _ = writeln!(text, "{}", format!("= the same {whose}   ≠ not the same   ? cannot be compared").dimmed());
    text
}

/// Two columns as well, with the rows alone that differ or that cannot be compared; then for each term, by name, what
/// is the same.
pub(super) fn draw_differences(first: &Look, second: &Look, widths: [usize; 2]) -> String {
    let mut text = String::new();
    row(&mut text, "", " ".normal(), vec![Ok(first.title.clone()), Ok(second.title.clone())], &widths);
    let mut same = String::new();
    for term in TERMS {
        let is_same =
            |what: &&str| matches!((first.answer(term, what), second.answer(term, what)), (Ok(a), Ok(b)) if a == b);
        let (alike, different): (Vec<_>, Vec<_>) = questions(first, second, term).into_iter().partition(is_same);
        if !different.is_empty() {
            let _ = writeln!(text, "{}", term.bold());
        }
        for what in different {
            let (one, other) = (first.answer(term, what), second.answer(term, what));
            row(&mut text, what, mark_of(term, &one, &other), vec![one, other], &widths);
        }
        if !alike.is_empty() {
            row(
                &mut same,
                term,
                " ".normal(),
                vec![Ok(alike.join(", "))],
                &[widths[0] + " ≠ ".chars().count() + widths[1]],
            );
        }
    }
    let _ = writeln!(text, "{}", "the same for both (each value: --verbose)".bold());
    text + &same
}

/// What is known of the one or of the other, each once.
fn questions<'a>(first: &'a Look, second: &'a Look, term: &str) -> Vec<&'a str> {
    let mut questions = Vec::new();
    for finding in first.findings.iter().chain(&second.findings).filter(|finding| finding.term == term) {
        if !questions.contains(&finding.what.as_str()) {
            questions.push(&finding.what);
        }
    }
    questions
}

/// That a pid or a command line is another one says nothing.
fn mark_of(term: &str, one: &Reading, other: &Reading) -> ColoredString {
    if term == "process" { " ".normal() } else { mark(one, other) }
}

fn mark(one: &Reading, other: &Reading) -> ColoredString {
    match (one, other) {
        (Ok(one), Ok(other)) if one == other => "=".green(),
        (Ok(_), Ok(_)) => "≠".yellow().bold(),
        _ => "?".red(),
    }
}

/// One row, of as many lines as its longest cell needs. The mark stands before the last cell.
fn row(text: &mut String, what: &str, mark: ColoredString, cells: Vec<Reading>, widths: &[usize]) {
    let cells: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| wrap(cell, *width)).collect();
    for at in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
        let mut line = format!("  {:<20}", if at == 0 { what } else { "" });
        for (column, lines) in cells.iter().enumerate() {
            let is_last = column + 1 == cells.len();
            let mark = if is_last && at == 0 { mark.clone() } else { " ".normal() };
            let cell = lines.get(at).cloned().unwrap_or_default();
            let padding = if is_last { 0 } else { widths[column].saturating_sub(cell.chars().count()) };
            let _ = write!(line, " {mark} {cell}{:padding$}", "");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Lines of at most this many characters, broken at spaces; a long path has none and is broken anywhere.
fn wrap(cell: &Reading, width: usize) -> Vec<ColoredString> {
    let (Ok(words) | Err(words)) = cell;
    let words: Vec<char> = explain::printable(words).chars().collect();
    let (mut lines, mut rest) = (Vec::new(), &words[..]);
    while rest.len() > width {
        let at = rest[..=width].iter().rposition(|c| *c == ' ').filter(|at| *at > 0).unwrap_or(width);
        lines.push(String::from_iter(&rest[..at]));
        rest = &rest[at..];
        rest = rest.strip_prefix(&[' ']).unwrap_or(rest);
    }
    lines.push(String::from_iter(rest));
    let colour = |line: String| if cell.is_err() { line.red() } else { line.normal() };
    lines.into_iter().map(colour).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding;
    use super::*;

    #[test]
    fn a_cell_is_broken_at_spaces_and_a_long_word_anywhere() {
        let lines =
            |text: &str, width| wrap(&Ok(text.to_owned()), width).iter().map(|it| it.input.clone()).collect::<Vec<_>>();
        assert_eq!(lines("one two three", 8), ["one two", "three"]);
        assert_eq!(lines("/a/long/path", 5), ["/a/lo", "ng/pa", "th"]);
        assert_eq!(lines("", 5), [""]);
        assert_eq!(lines("a\u{1b}", 9), ["a\\u{1b}"], "printable");
    }

    #[test]
    fn what_is_the_same_is_named_and_what_differs_is_shown() {
        colored::control::set_override(false);
        let look = |pid: &str, mnt: Reading, net: Reading| Look {
            title: "a process".to_owned(),
            findings: vec![
                finding("process", "pid", Ok(pid.to_owned())),
                finding("namespace", "ipc", Ok("4026531839".to_owned())),
                finding("namespace", "mnt", mnt),
                finding("namespace", "net", net),
                finding("namespace", "uts", Ok("4026531838".to_owned())),
            ],
        };
        let [first, second] =
            [("7", "1"), ("8", "2")].map(|(pid, mnt)| look(pid, Ok(mnt.into()), Err("hidden".into())));
        let drawn = draw_differences(&first, &second, [12, 12]);
        let lines: Vec<_> = drawn.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "a process a process",
            "process",
            "pid 7 8",
            "namespace",
            "mnt 1 ≠ 2",
            "net hidden ? hidden",
            "the same for both (each value: --verbose)",
            "namespace ipc, uts",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_mark_compares_only_what_could_be_read() {
        let [a, b, none] = [Ok("a".to_owned()), Ok("b".to_owned()), Err("no".to_owned())];
        assert_eq!([mark(&a, &a).input.as_str(), &mark(&a, &b).input, &mark(&a, &none).input], ["=", "≠", "?"]);
    }
}
