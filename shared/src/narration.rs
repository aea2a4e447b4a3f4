//! What appears on the screen: the calls that are new in this step one by one, the others folded.
//!
//! - A call of this step is a line. Calls that differ in one word are one line with braces:
//!   `mkdir /sys/fs/cgroup/{cpu,memory,pids}/step02-4711`.
//! - Small calls can be put on [`one_line`] with their number: `/dev: 6 mknodat, 5 symlinkat, 3 mount (14 calls)`.
//! - Calls of earlier steps are one line for each stretch in which this process neither makes a call of this step nor
//!   sends a message to another process: `child step 01: mount, sethostname, ioctl (3 calls)`.
//!
//! So a call that was made waits in memory until one is made that cannot be on the same line. Before another process is
//! released or waited for, [`flush`] prints the calls that wait.

use std::borrow::{Borrow, Cow};
use std::fmt::{self, Display};
use std::io::Write;
use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use colored::Colorize;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::explain::{self, Call};
use crate::pause;

/// Columns of a folded line: as many as half a large screen has, beside a second terminal. `--verbose` prints calls in
/// full.
pub(crate) const WIDTH: usize = 110;

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speaker {
    /// The process that the user has started.
    Host,
    /// The process that stays with a detached container.
    Monitor,
    /// The process that becomes the container's program.
    Child,
}

impl Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Speaker::Host => "host ".cyan().bold(),
            Speaker::Monitor => "monitor".magenta().bold(),
            Speaker::Child => "child".yellow().bold(),
        }
        .fmt(f)
    }
}

/// A step of the ladder, by its number.
pub type Step = u8;

/// The step in whose directory a line of source stands: `steps/03-rootfs/src/lib.rs` is 3.
pub fn step_of(place: &Location) -> Option<Step> {
    let (_, below) = place.file().rsplit_once("steps/")?;
    below.get(..2)?.parse().ok()
}

/// How a call is printed.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// On its own line, or with others of its name that differ in one word.
    Shown,
    /// As one of those that this title stands for.
    Titled(String),
    /// As one of earlier steps.
    Earlier,
}

/// A call that was made and is not printed yet.
#[derive(Debug)]
struct Made {
    speaker: Speaker,
    step: Option<Step>,
    text: String,
    result: Option<String>,
}

/// What this process prints, and has not printed yet.
pub(crate) struct Screen {
    pub(crate) host: Speaker,
    /// Whether it has no reader any more.
    pub(crate) is_hushed: bool,
    /// The child's pid as the host knows it; 0 while there is none. In a pid namespace of its own the child cannot ask
    /// for it.
    pub(crate) child: i32,
    /// What [`one_line`] was given.
    title: Option<String>,
    /// Calls of one speaker and of one form; if that is [`Form::Shown`], of one name.
    waiting: Vec<Made>,
    form: Form,
}

static SCREEN: Mutex<Screen> = Mutex::new(Screen {
    host: Speaker::Host,
    is_hushed: false,
    child: 0,
    title: None,
    waiting: Vec::new(),
    form: Form::Shown,
});

/// This process has one thread. A panic while it prints leaves at worst a line that was not printed.
pub(crate) fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small calls are on one line until this is dropped.
#[must_use = "the line ends where this is dropped"]
pub struct OneLine {
    is_part: bool,
}

/// From here on, until the result is dropped, this step's calls are one line with their number: `/dev: 6 mknodat, 3 mount`.
/// Where they are part of such a line already, they stay there.
pub fn one_line(title: impl Display) -> OneLine {
    let mut screen = screen();
    let is_part = screen.title.is_some();
    screen.title.get_or_insert_with(|| title.to_string());
    OneLine { is_part }
}

impl Drop for OneLine {
    fn drop(&mut self) {
        if !self.is_part {
            screen().title = None;
        }
    }
}

/// Prints a call, now or later, with its result if it has been made.
pub fn print(call: &Call, result: Option<String>) {
    if explain::quiet() {
        return;
    }
    let mut screen = screen();
    let form = screen.form_of(call);
    if !screen.has_like(call, &form) || is_whole(call) {
        screen.flush();
    }
    screen.form = form;
    screen.waiting.push(Made { speaker: call.speaker, step: call.step, text: call.text.clone(), result });
    if is_whole(call) {
        screen.flush();
    }
}

/// Prints a call that has failed: never folded.
pub fn print_failed(call: &Call, errno: Errno) {
    if !explain::quiet() {
        line(format_args!("{} {} = {}", call.speaker, printable(&call.text), format!("{errno:?}").red()));
    }
}

/// Whether a call begins a line, so that `--pause` waits before it.
pub fn begins_line(call: &Call) -> bool {
    let screen = screen();
    let form = screen.form_of(call);
    let joins_one = || families(&screen.waiting).iter().any(|family| joins(family, &call.text));
    form == Form::Shown && (is_whole(call) || !screen.has_like(call, &form) || !joins_one())
}

/// Whether the user wants to see each call of this name by itself.
fn is_whole(call: &Call) -> bool {
    explain::verbose() || pause::names(call)
}

impl Screen {
    fn form_of(&self, call: &Call) -> Form {
        let is_own = explain::this_step().is_none_or(|this| call.step == Some(this));
        match &self.title {
            _ if is_whole(call) => Form::Shown,
            _ if !is_own => Form::Earlier,
            Some(title) => Form::Titled(title.clone()),
            None => Form::Shown,
        }
    }

    /// Whether calls wait that this one may be on a line with, or on the line after.
    fn has_like(&self, call: &Call, form: &Form) -> bool {
        let same_name = |made: &Made| *form != Form::Shown || name_of(&made.text) == name_of(&call.text);
        self.form == *form && self.waiting.last().is_some_and(|it| it.speaker == call.speaker && same_name(it))
    }

    fn flush(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let Some(Made { speaker, .. }) = waiting.first() else { return };
        for text in lines(&self.form, &waiting) {
            write_line(&format!("{speaker} {text}"));
        }
    }
}

/// The lines of calls, without their speaker.
fn lines(form: &Form, calls: &[Made]) -> Vec<String> {
    // "child " stands before each; "monitor " is two wider.
    let width = WIDTH - 6;
    match form {
        Form::Shown => families(calls).iter().map(|family| shown(family, width)).collect(),
        Form::Titled(title) => vec![printable(&counted(title, calls, width)).into_owned()],
        Form::Earlier => vec![printable(&counted(&steps_of(calls), calls, width)).dimmed().to_string()],
    }
}

/// Calls with the same result that differ in one word.
fn families(calls: &[Made]) -> Vec<Vec<&Made>> {
    let mut families: Vec<Vec<&Made>> = Vec::new();
    for call in calls {
        match families.iter_mut().find(|family| family[0].result == call.result && joins(family, &call.text)) {
            Some(family) => family.push(call),
            None => families.push(vec![call]),
        }
    }
    families
}

fn joins(family: &[&Made], text: &str) -> bool {
    let texts = family.iter().map(|call| call.text.as_str()).chain([text]);
    odd_word(&texts.map(words_of).collect::<Vec<_>>()).is_some()
}

/// `mkdir /sys/fs/cgroup/{cpu,memory}/step02-4711 = 0`, with as many alternatives as fit.
fn shown(family: &[&Made], width: usize) -> String {
    let Made { text, result, .. } = family[0];
    let texts: Vec<_> = family.iter().map(|call| words_of(&call.text)).collect();
    let text = odd_word(&texts).map_or(text.clone(), |at| {
        let head = texts[0][..at].concat();
        let tail = &text[head.len() + word(texts[0][at]).len()..];
        let odd: Vec<_> = texts.iter().map(|words| word(words[at])).collect();
        let others = [&head, "{}", tail, " = ", result.as_deref().unwrap_or_default()];
        let room = width.saturating_sub(others.iter().map(|it| it.chars().count()).sum());
        format!("{head}{{{}}}{tail}", fitting(&odd, ",", room))
    });
    let result = result.as_deref().map_or(String::new(), |result| format!(" = {}", result.green()));
    printable(&text).into_owned() + &result
}

/// Where a word may begin and end: at a part of a path, and at a quoted value.
const SEPARATORS: [char; 2] = ['/', '\''];

/// Each with the separator behind it.
fn words_of(text: &str) -> Vec<&str> {
    text.split_inclusive(SEPARATORS).collect()
}

fn word(with_separator: &str) -> &str {
    with_separator.trim_end_matches(SEPARATORS)
}

/// Which word it is that these texts differ in, if it is one alone: in `/a/b/d` and `/a/c/d` the third.
fn odd_word(texts: &[Vec<&str>]) -> Option<usize> {
    let first = &texts[0];
    let differ = |at: &usize| texts.iter().any(|words| words.get(*at) != first.get(*at));
    let [at] = (0..first.len()).filter(differ).collect::<Vec<_>>()[..] else { return None };
    // `{c *:* m,b *:* m}` within quotes is one value; outside, a space is the end of an argument.
    let is_quoted = first[at.checked_sub(1)?].ends_with('\'');
    let is_word = |text: &str| !text.is_empty() && (is_quoted || !text.contains(' '));
    texts.iter().all(|words| words.len() == first.len() && is_word(word(words[at]))).then_some(at)
}

/// `step 01: 9 mkdir, clone, 12 echo (22 calls)`, with as many names as fit.
fn counted(title: &str, calls: &[Made], width: usize) -> String {
    let mut names: Vec<(&str, usize)> = Vec::new();
    for name in calls.iter().map(|call| name_of(&call.text)) {
        match names.iter_mut().find(|(it, _)| *it == name) {
            Some((_, count)) => *count += 1,
            None => names.push((name, 1)),
        }
    }
    let with_count =
        |(name, count): &(&str, usize)| if *count == 1 { name.to_string() } else { format!("{count} {name}") };
    let words: Vec<_> = names.iter().map(with_count).collect();
    let total = if names.len() == 1 { String::new() } else { format!(" ({} calls)", calls.len()) };
    let room = width.saturating_sub(title.chars().count() + ": ".len() + total.len());
    format!("{title}: {}{total}", fitting(&words, ", ", room))
}

/// `step 01`, `steps 00, 01`.
fn steps_of(calls: &[Made]) -> String {
    let mut numbers: Vec<_> = calls.iter().filter_map(|call| call.step).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let numbers: Vec<_> = numbers.iter().map(|number| format!("{number:02}")).collect();
    format!("step{} {}", if numbers.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// As many words as fit in `room` columns, but at least one; `…` in place of the others.
pub(crate) fn fitting(words: &[impl Borrow<str>], separator: &str, room: usize) -> String {
    let shortened = |count| words[..count].join(separator) + separator + "…";
    let fits = |text: &String| text.chars().count() <= room;
    let longest = Some(words.join(separator)).filter(|all| fits(all) || words.len() < 2);
    longest.or_else(|| (2..words.len()).rev().map(shortened).find(fits)).unwrap_or_else(|| shortened(1))
}

/// `mount` of `mount("proc", …)`, `echo` of `echo 1 > …`.
pub fn name_of(text: &str) -> &str {
    text.split(['(', ' ']).next().unwrap_or_default()
}

/// Prints what is still folded. To be called before another process is released, or waited for: its lines come after these.
pub fn flush() {
    screen().flush();
}

/// Child, first of all: what its parent has not printed yet is left to its parent.
pub fn newborn() {
    screen().waiting.clear();
}

/// Prints something that is no call, if it is this step's: what was found, or read back.
#[track_caller]
pub fn note(text: impl Display) {
    if explain::verbose() || step_of(Location::caller()) == explain::this_step() {
        notice(text);
    }
}

/// Prints something that is no call, whichever step finds it: what the user should know.
pub fn notice(text: impl Display) {
    if !explain::quiet() {
        line(format_args!("{}", format!("# {}", printable(&text.to_string())).dimmed()));
    }
}

/// One line of the step's own, to standard error. Without a reader, the work goes on.
pub fn line(text: fmt::Arguments) {
    flush();
    write_line(&text.to_string());
}

fn write_line(text: &str) {
    let time = if explain::times() { time_of_minute() } else { String::new() };
    // One write for each line, so that host and child never mix within one.
    let _ = std::io::stderr().write_all(format!("{time}{text}\n").as_bytes());
}

/// `07.012345 `: host and child have the same clock, and so has the engine after it re-executes itself.
fn time_of_minute() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:02}.{:06} ", now.as_secs() % 60, now.subsec_micros())
}

/// From here on this process prints nothing, and pauses nowhere: it lets go of the terminal that it was started from.
pub fn hush() {
    let mut screen = screen();
    screen.flush();
    screen.is_hushed = true;
}

/// From here on, what this process does is printed as the monitor's.
pub fn speak_as_monitor() {
    screen().host = Speaker::Monitor;
}

/// From here on, the hints of `--pause` name this process.
pub fn child_is(pid: Pid) {
    screen().child = pid.as_raw();
}

/// Text that cannot drive a terminal: a name with an escape sequence or a newline in it is shown, not obeyed.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(step: u8, text: &str, result: &str) -> Made {
        Made { speaker: Speaker::Host, step: Some(step), text: text.to_owned(), result: Some(result.to_owned()) }
    }

    /// The lines of these calls of this step, each of which has returned 0.
    fn printed(texts: &[&str]) -> Vec<String> {
        colored::control::set_override(false);
        lines(&Form::Shown, &texts.iter().map(|text| made(2, text, "0")).collect::<Vec<_>>())
    }

    #[test]
    fn paths_that_differ_in_one_directory_become_one_line() {
        let texts = ["mkdir /sys/fs/cgroup/cpu/step02-1", "mkdir /sys/fs/cgroup/cpuset/step02-1"];
        assert_eq!(printed(&texts), ["mkdir /sys/fs/cgroup/{cpu,cpuset}/step02-1 = 0"]);
    }

    #[test]
    fn files_of_one_group_become_one_line() {
        let texts = ["echo '0 0 1' > /proc/7/uid_map", "echo '0 0 1' > /proc/7/gid_map"];
        assert_eq!(printed(&texts), ["echo '0 0 1' > /proc/7/{uid_map,gid_map} = 0"]);
    }

    #[test]
    fn quoted_values_for_one_file_become_one_line() {
        let texts = ["echo 'c *:* m' > /d/devices.allow", "echo 'b *:* m' > /d/devices.allow"];
        assert_eq!(printed(&texts), ["echo '{c *:* m,b *:* m}' > /d/devices.allow = 0"]);
    }

    #[test]
    fn texts_that_differ_in_more_than_a_word_stay_on_lines_of_their_own() {
        let stay = |a: &str, b: &str| assert_eq!(printed(&[a, b]).len(), 2, "{a}, {b}");
        stay("echo 7 > /c/cpu/s/tasks", "echo 7 > /c/memory/user/s/tasks");
        stay("echo 1 > /c/period", "echo 2 > /c/quota");
        stay("echo 1 > /c/quota", "echo 2 > /c/quota");
        stay("mount(\"proc\", \"/a/proc\")", "mount(\"sysfs\", \"/a/sys\")");
        stay("rmdir /c/a/s", "rmdir /c/a/s");
    }

    #[test]
    fn calls_with_two_results_stay_on_lines_of_their_own() {
        let calls = [made(3, "openat2(\"/a\")", "4"), made(3, "openat2(\"/b\")", "5")];
        assert_eq!(lines(&Form::Shown, &calls).len(), 2);
    }

    #[test]
    fn calls_of_two_families_may_alternate() {
        let texts = ["echo 7 > /c/a/tasks", "echo 7 > /c/a/b/procs", "echo 7 > /c/c/tasks", "echo 7 > /c/c/b/procs"];
        assert_eq!(printed(&texts), ["echo 7 > /c/{a,c}/tasks = 0", "echo 7 > /c/{a,c}/b/procs = 0"]);
    }

    #[test]
    fn a_line_that_is_too_long_says_that_there_is_more() {
        let texts = ["mkdir /c/aaaaaaaaaa/s", "mkdir /c/bbbbbbbbbb/s", "mkdir /c/cccccccccc/s"];
        let calls = texts.map(|text| made(2, text, "0"));
        assert_eq!(shown(&calls.iter().collect::<Vec<_>>(), 40), "mkdir /c/{aaaaaaaaaa,bbbbbbbbbb,…}/s = 0");
        let many: Vec<_> = (0..99).map(|it| format!("mkdir /c/{it}/s")).collect();
        let many = printed(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(many.len() == 1 && (WIDTH - 9..=WIDTH - 6).contains(&many[0].chars().count()), "{many:?}");
    }

    #[test]
    fn as_many_words_are_printed_as_fit() {
        let words = ["cpu", "memory", "pids"];
        let texts = [17, 16, 13, 8, 0].map(|room| fitting(&words, ", ", room));
        assert_eq!(texts, ["cpu, memory, pids", "cpu, memory, …", "cpu, …", "cpu, …", "cpu, …"]);
        assert_eq!(fitting(&words[..1], ", ", 0), "cpu");
    }

    #[test]
    fn a_stretch_names_steps_and_counts_calls() {
        let mut calls: Vec<_> = ["mount(\"none\", \"/\")", "sethostname(\"a\")", "mount(\"proc\", \"/proc\")"]
            .map(|it| made(1, it, "0"))
            .into();
        let line = |calls: &[Made]| counted(&steps_of(calls), calls, 110);
        assert_eq!(line(&calls), "step 01: 2 mount, sethostname (3 calls)");
        calls.push(made(0, "execve(\"/bin/sh\")", "0"));
        assert_eq!(line(&calls), "steps 00, 01: 2 mount, sethostname, execve (4 calls)");
        assert_eq!(counted("/dev", &calls[..1], 110), "/dev: mount");
    }

    #[test]
    fn a_step_is_known_by_its_directory() {
        assert_eq!(step_of(Location::caller()), None);
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(printable("a\u{1b}[31m\u{9b}b"), "a\\u{1b}[31m\\u{9b}b");
    }
}
