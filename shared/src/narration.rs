//! What appears on the screen: the calls that are new in this step one by one, the others folded.
//!
//! - A call of this step is a line. Calls that differ in one word become one line with braces:
//!   `mkdir /sys/fs/cgroup/{cpu,memory,pids}/step02-4711`.
//! - Calls of earlier steps become one line for each stretch in which no call of this step, and no message to another
//!   process, comes between: `child step 01: mount, sethostname, ioctl (3 calls)`.
//! - A [`one_line`] of small calls is one line with a count.
//!
//! Folded lines wait in memory until something else is printed, so everything that another process may wait for
//! is preceded by a [`flush`].

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::Write;
use std::panic::Location;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use colored::Colorize;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::explain::{self, Call};
use crate::pause;

/// Width of a folded line; `--verbose` prints lines in full.
const WIDTH: usize = 110;

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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step(Option<u8>);

impl Step {
    /// Code that belongs to no step.
    pub const UNKNOWN: Step = Step(None);

    /// The step in whose directory a line of source stands: `steps/03-rootfs/src/lib.rs` is 3.
    pub fn of(place: &Location) -> Self {
        let (_, below) = place.file().rsplit_once("steps/").unwrap_or_default();
        Step(below.get(..2).and_then(|number| number.parse().ok()))
    }
}

static SCREEN: Mutex<Screen> = Mutex::new(Screen { waiting: Unprinted::Nothing, group: None });
/// The child's pid as the host knows it. In a pid namespace of its own the child cannot ask for it.
static CHILD: AtomicI32 = AtomicI32::new(0);
static IS_MONITOR: AtomicBool = AtomicBool::new(false);
/// Whether nobody reads what this process prints any more.
static HUSHED: AtomicBool = AtomicBool::new(false);

struct Screen {
    waiting: Unprinted,
    /// The name of the open group.
    group: Option<String>,
}

/// What this process has done and not yet printed.
enum Unprinted {
    Nothing,
    /// Calls of this step, of one kind, that may still become one line.
    Own(Vec<Family>),
    /// Calls that earlier steps have introduced.
    Earlier(Stretch),
    /// Small calls of this step.
    Small(String, Stretch),
}

/// A [`one_line`] of small calls ends where this is dropped.
#[must_use = "a group ends where it is dropped"]
pub struct OneLine(());

/// From here on, until the result is dropped, this step's calls are one line with a count: `/dev: 6 mknodat, 3 mount`.
pub fn one_line(name: impl Display) -> OneLine {
    with_screen(|screen| screen.group = Some(name.to_string()));
    OneLine(())
}

impl Drop for OneLine {
    fn drop(&mut self) {
        with_screen(|screen| screen.group = None);
    }
}

/// Calls of one speaker in the order in which they were made.
#[derive(Debug, PartialEq)]
struct Stretch {
    speaker: Speaker,
    steps: Vec<Step>,
    /// Each name once, and how often.
    names: Vec<(String, usize)>,
}

impl Stretch {
    fn new(speaker: Speaker) -> Self {
        Stretch { speaker, steps: Vec::new(), names: Vec::new() }
    }

    fn add(&mut self, step: Step, text: &str) {
        let name = name_of(text);
        match self.names.iter_mut().find(|(it, _)| it == name) {
            Some((_, count)) => *count += 1,
            None => self.names.push((name.to_owned(), 1)),
        }
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }

    /// `9 mkdir, clone, 12 echo (22 calls)`, with as many names as fit in `width` columns.
    fn summary(&self, width: usize) -> String {
        let total: usize = self.names.iter().map(|(_, count)| count).sum();
        let words = self.names.iter().map(|(name, count)| match count {
            1 => name.clone(),
            count => format!("{count} {name}"),
        });
        let count = if self.names.len() == 1 { String::new() } else { format!(" ({total} calls)") };
        let words: Vec<_> = words.collect();
        let room = width.saturating_sub(count.len() + 3);
        let mut fitting = words.len();
        while fitting > 1 && words[..fitting].join(", ").chars().count() > room {
            fitting -= 1;
        }
        let more = if fitting < words.len() { ", …" } else { "" };
        words[..fitting].join(", ") + more + &count
    }

    /// `step 01`, `steps 00, 01`.
    fn whose(&self) -> String {
        let mut numbers: Vec<_> = self.steps.iter().filter_map(|step| step.0).collect();
        numbers.sort_unstable();
        let numbers: Vec<_> = numbers.iter().map(|number| format!("{number:02}")).collect();
        match numbers.len() {
            0 => "the helper".to_owned(),
            1 => format!("step {}", numbers[0]),
            _ => format!("steps {}", numbers.join(", ")),
        }
    }
}

/// Calls that differ in one word, with the same result.
#[derive(Debug, PartialEq)]
struct Family {
    speaker: Speaker,
    result: String,
    texts: Vec<String>,
}

impl Family {
    /// `mkdir /sys/fs/cgroup/{cpu,memory}/step02-4711`, with as many alternatives as fit in `width` columns.
    fn text(&self, width: usize) -> String {
        let [first, _, ..] = self.texts.as_slice() else { return self.texts.concat() };
        let Some((start, end)) = common(&self.texts) else { return first.clone() };
        let words: Vec<_> = self.texts.iter().map(|text| &text[start..text.len() - end]).collect();
        let (head, tail) = (&first[..start], &first[first.len() - end..]);
        let room = width.saturating_sub(head.chars().count() + tail.chars().count() + 4);
        let mut fitting = words.len();
        while fitting > 1 && words[..fitting].iter().map(|word| word.chars().count() + 1).sum::<usize>() > room {
            fitting -= 1;
        }
        let more = if fitting < words.len() { ",…" } else { "" };
        format!("{head}{{{}{more}}}{tail}", words[..fitting].join(","))
    }
}

/// The bytes that all texts have in common at their beginning and at their end, so that between the two each has just
/// one word of its own: a part of a path, or what is quoted.
fn common(texts: &[String]) -> Option<(usize, usize)> {
    let first = texts.first()?;
    let same = |a: &mut dyn Iterator<Item = char>, b: &mut dyn Iterator<Item = char>| {
        a.zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum::<usize>()
    };
    let start = texts.iter().map(|text| same(&mut first.chars(), &mut text.chars())).min()?;
    let start = first[..start].rfind(['/', '\'']).map(|at| at + 1)?;
    let rest: Vec<_> = texts.iter().map(|text| &text[start..]).collect();
    let end = rest.iter().map(|text| same(&mut rest[0].chars().rev(), &mut text.chars().rev())).min()?;
    // Only whole words: `{cpu,cpuset}` and not `cpu{,set}`.
    let tail = &first[first.len() - end..];
    let end = tail.find(['/', '\'']).map_or(0, |at| tail.len() - at);
    let quoted = first[..start].ends_with('\'');
    let is_word = |text: &&str| {
        let word = &text[..text.len() - end];
        !word.is_empty() && !word.contains(['/', '\'']) && (quoted || !word.contains(' '))
    };
    rest.iter().all(is_word).then_some((start, end))
}

/// `mount` of `mount("proc", …)`, `echo` of `echo 1 > …`.
pub fn name_of(text: &str) -> &str {
    text.split(['(', ' ']).next().unwrap_or_default()
}

/// How a call will appear.
#[derive(PartialEq)]
enum Shape {
    /// On a line of its own, at once.
    Whole,
    /// On a line, maybe together with calls of the same kind.
    Own,
    /// As one of a group.
    Small,
    /// As one of a stretch.
    Earlier,
}

fn shape(call: &Call, screen: &Screen) -> Shape {
    let is_own = call.step == explain::this_step() || explain::this_step() == Step::UNKNOWN;
    match (explain::verbose() || pause::names(call), is_own) {
        (true, _) => Shape::Whole,
        (false, false) => Shape::Earlier,
        (false, true) if screen.group.is_some() => Shape::Small,
        (false, true) => Shape::Own,
    }
}

/// Whether a call begins a line, so that `--pause` waits before it.
pub fn stands_alone(call: &Call) -> bool {
    with_screen(|screen| match (shape(call, screen), &screen.waiting) {
        (Shape::Whole, _) => true,
        (Shape::Own, Unprinted::Own(families)) => !families.iter().any(|family| family.takes(call, None)),
        (Shape::Own, _) => true,
        (Shape::Small | Shape::Earlier, _) => false,
    })
}

impl Family {
    /// Whether this call can join, given its result if that is known.
    fn takes(&self, call: &Call, result: Option<&str>) -> bool {
        let same = self.speaker == call.speaker && result.is_none_or(|result| result == self.result);
        let mut texts = self.texts.clone();
        texts.push(call.text.clone());
        same && common(&texts).is_some_and(|_| name_of(&texts[0]) == name_of(&call.text))
    }
}

/// Prints a call, now or folded, with its result if it has been made.
pub fn print(call: &Call, result: Option<&str>) {
    if explain::quiet() {
        return;
    }
    with_screen(|screen| match shape(call, screen) {
        Shape::Whole => {
            screen.flush();
            write_line(&line_of(call.speaker, &call.text, result));
        }
        Shape::Own => screen.add_own(call, result.unwrap_or_default()),
        Shape::Small => {
            let name = screen.group.clone().unwrap_or_default();
            if !matches!(&screen.waiting, Unprinted::Small(waiting, it) if *waiting == name && it.speaker == call.speaker)
            {
                screen.flush();
                screen.waiting = Unprinted::Small(name, Stretch::new(call.speaker));
            }
            screen.add(call);
        }
        Shape::Earlier => {
            if !matches!(&screen.waiting, Unprinted::Earlier(it) if it.speaker == call.speaker) {
                screen.flush();
                screen.waiting = Unprinted::Earlier(Stretch::new(call.speaker));
            }
            screen.add(call);
        }
    });
}

/// Prints a call that has failed: never folded.
pub fn print_failed(call: &Call, errno: Errno) {
    if explain::quiet() {
        return;
    }
    with_screen(|screen| {
        screen.flush();
        let result = format!("{errno:?}").red();
        write_line(&format!("{} {} = {result}", call.speaker, printable(&call.text)));
    });
}

impl Screen {
    fn add_own(&mut self, call: &Call, result: &str) {
        let new = || Family { speaker: call.speaker, result: result.to_owned(), texts: vec![call.text.clone()] };
        if let Unprinted::Own(families) = &mut self.waiting {
            if let Some(family) = families.iter_mut().find(|family| family.takes(call, Some(result))) {
                family.texts.push(call.text.clone());
                return;
            }
            let same_kind = |it: &Family| it.speaker == call.speaker && name_of(&it.texts[0]) == name_of(&call.text);
            if families.iter().all(same_kind) {
                families.push(new());
                return;
            }
        }
        self.flush();
        self.waiting = Unprinted::Own(vec![new()]);
    }

    fn add(&mut self, call: &Call) {
        if let Unprinted::Small(_, stretch) | Unprinted::Earlier(stretch) = &mut self.waiting {
            stretch.add(call.step, &call.text);
        }
    }

    fn flush(&mut self) {
        match std::mem::replace(&mut self.waiting, Unprinted::Nothing) {
            Unprinted::Nothing => {}
            Unprinted::Own(families) => {
                for family in families {
                    let result = (!family.result.is_empty()).then_some(family.result.as_str());
                    let width = WIDTH - 6 - result.map_or(0, |result| result.len() + 3);
                    write_line(&line_of(family.speaker, &family.text(width), result));
                }
            }
            Unprinted::Earlier(stretch) => {
                let whose = stretch.whose();
                let text = format!("{whose}: {}", stretch.summary(WIDTH - 8 - whose.len()));
                write_line(&format!("{} {}", stretch.speaker, printable(&text).dimmed()));
            }
            Unprinted::Small(name, stretch) => {
                let room = WIDTH.saturating_sub(8 + name.chars().count());
                write_line(&format!("{} {}: {}", stretch.speaker, printable(&name), stretch.summary(room)));
            }
        }
    }
}

fn line_of(speaker: Speaker, text: &str, result: Option<&str>) -> String {
    match result {
        None => format!("{speaker} {}", printable(text)),
        Some(result) => format!("{speaker} {} = {}", printable(text), result.green()),
    }
}

fn with_screen<T>(act: impl FnOnce(&mut Screen) -> T) -> T {
    // One thread; a panic in the middle leaves at worst a line that was not printed.
    act(&mut SCREEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Prints what is still folded. To be called before another process is released, or waited for: its lines come after these.
pub fn flush() {
    with_screen(Screen::flush);
}

/// Child, first of all: what its parent has not printed yet is left to its parent.
pub fn newborn() {
    with_screen(|screen| screen.waiting = Unprinted::Nothing);
}

/// Prints something that is no call, if it is this step's: what was found, or read back.
#[track_caller]
pub fn note(text: impl Display) {
    let step = Step::of(Location::caller());
    if explain::verbose() || step == explain::this_step() {
        notice(text);
    }
}

/// Prints something that is no call, whichever step finds it: what the user should know.
pub fn notice(text: impl Display) {
    if !explain::quiet() {
        line(format_args!("{}", format!("# {}", printable(&text.to_string())).dimmed()));
    }
}

/// One line of the step's own, to standard error. Where nobody can read it any more, the work goes on.
pub fn line(text: fmt::Arguments) {
    with_screen(|screen| {
        screen.flush();
        write_line(&text.to_string());
    });
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
    flush();
    HUSHED.store(true, Ordering::Relaxed);
}

pub(crate) fn is_hushed() -> bool {
    HUSHED.load(Ordering::Relaxed)
}

/// From here on, what this process does is printed as the monitor's.
pub fn speak_as_monitor() {
    IS_MONITOR.store(true, Ordering::Relaxed);
}

pub(crate) fn host_speaker() -> Speaker {
    if IS_MONITOR.load(Ordering::Relaxed) { Speaker::Monitor } else { Speaker::Host }
}

/// From here on, the hints of `--pause` name this process.
pub fn child_is(pid: Pid) {
    CHILD.store(pid.as_raw(), Ordering::Relaxed);
}

pub(crate) fn child() -> i32 {
    CHILD.load(Ordering::Relaxed)
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

    fn family(texts: &[&str]) -> Family {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Family { speaker: Speaker::Host, result: "0".to_owned(), texts }
    }

    #[test]
    fn paths_that_differ_in_one_directory_become_one_line() {
        let texts = ["mkdir /sys/fs/cgroup/cpu/step02-1", "mkdir /sys/fs/cgroup/cpuset/step02-1"];
        assert_eq!(family(&texts).text(110), "mkdir /sys/fs/cgroup/{cpu,cpuset}/step02-1");
    }

    #[test]
    fn files_of_one_group_become_one_line() {
        let texts = ["echo '0 0 1' > /proc/7/uid_map", "echo '0 0 1' > /proc/7/gid_map"];
        assert_eq!(family(&texts).text(110), "echo '0 0 1' > /proc/7/{uid_map,gid_map}");
    }

    #[test]
    fn quoted_values_for_one_file_become_one_line() {
        let texts = ["echo 'c *:* m' > /d/devices.allow", "echo 'b *:* m' > /d/devices.allow"];
        assert_eq!(family(&texts).text(110), "echo '{c *:* m,b *:* m}' > /d/devices.allow");
    }

    #[test]
    fn what_differs_in_more_than_a_word_does_not() {
        let differ = |a: &str, b: &str| common(&[a.to_owned(), b.to_owned()]).is_none();
        assert!(differ("echo 7 > /c/cpu/s/tasks", "echo 7 > /c/memory/user/s/tasks"));
        assert!(differ("echo 1 > /c/period", "echo 2 > /c/quota"));
        assert!(differ("mount(\"proc\", \"/a/proc\")", "mount(\"sysfs\", \"/a/sys\")"));
    }

    #[test]
    fn a_line_that_is_too_long_says_that_there_is_more() {
        let texts = ["mkdir /c/aaaaaaaaaa/s", "mkdir /c/bbbbbbbbbb/s", "mkdir /c/cccccccccc/s"];
        let text = family(&texts).text(40);
        assert_eq!(text, "mkdir /c/{aaaaaaaaaa,bbbbbbbbbb,…}/s");
        assert!(text.chars().count() <= 40);
    }

    #[test]
    fn a_stretch_names_steps_and_counts_calls() {
        let mut stretch = Stretch::new(Speaker::Child);
        for text in ["mount(\"none\", \"/\")", "sethostname(\"a\")", "mount(\"proc\", \"/proc\")"] {
            stretch.add(Step(Some(1)), text);
        }
        assert_eq!(
            (stretch.whose().as_str(), stretch.summary(110).as_str()),
            ("step 01", "2 mount, sethostname (3 calls)")
        );
        stretch.add(Step(Some(0)), "execve(\"/bin/sh\")");
        assert_eq!(stretch.whose(), "steps 00, 01");
    }

    #[test]
    fn a_step_is_known_by_its_directory() {
        assert_eq!(Step::of(Location::caller()), Step::UNKNOWN);
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(printable("a\u{1b}[31m\u{9b}b"), "a\\u{1b}[31m\\u{9b}b");
    }
}
