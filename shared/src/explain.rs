//! The call that is told: one line of source both tells a system call and makes it.
//!
//! ```ignore
//! explain::child(format_args!("sethostname({name:?})"), || sethostname(name))?;
//! ```
//!
//! From that line come the narration (who, which call, its result), the pause, the dry run, and the error
//! sentence. What is told and what is done stand side by side, and a test holds both against `strace`.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use colored::Colorize;
use nix::unistd::Pid;

use crate::failure::{CallFailed, During, Failure, STEP_FAILED, errno_of};
use crate::{remedy, signals};

/// How a step tells its story. All of it goes to standard error; standard output belongs to the container.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "How the story is told")]
pub struct Telling {
    /// Tell nothing but errors
    #[arg(short, long, conflicts_with_all = ["pause", "dry_run"])]
    quiet: bool,
    /// Wait for Enter before each call, or before those that begin so, and say what to look at from a second terminal
    #[arg(long, value_name = "CALL,…", num_args = 0..=1, require_equals = true, value_delimiter = ',', default_missing_value = "")]
    pause: Option<Vec<String>>,
    /// Tell the calls and make none: needs no rights, works everywhere
    #[arg(long)]
    dry_run: bool,
    /// Tell with each line when it was told, in seconds of the current minute
    #[arg(long)]
    times: bool,
    /// Colour the story
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    color: When,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum When {
    Auto,
    Always,
    Never,
}

static TELLING: OnceLock<Telling> = OnceLock::new();
/// The child's pid as the host knows it. In a pid namespace of its own the child cannot ask for it.
static CHILD: AtomicI32 = AtomicI32::new(0);
/// Whether this process has nobody to tell anything any more.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// The parser's answer, or the exit code: 0 after `--help`, else 125, as clap's own 2 could be the command's.
pub fn parse<O: clap::Parser>() -> Result<O, ExitCode> {
    O::try_parse().map_err(|error| {
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(STEP_FAILED) } else { ExitCode::SUCCESS }
    })
}

/// The frame around every step's `main`: how to tell, no signal lost, one sentence for a failure.
pub fn run(telling: &Telling, step: impl FnOnce() -> Result<u8>) -> ExitCode {
    // `colored` would look at standard output, which is the container's.
    match telling.color {
        When::Auto if std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal() => {
            colored::control::set_override(true)
        }
        When::Always => colored::control::set_override(true),
        When::Auto | When::Never => colored::control::set_override(false),
    }
    let _ = TELLING.set(telling.clone());
    if dry_run() {
        note("dry run: nothing of this is done");
    }
    ExitCode::from(signals::hold().and_then(|()| step()).unwrap_or_else(|error| report(&error)))
}

/// The answer of a step that has cleaned up after itself. Of two failures, the second is told here.
pub fn with_cleanup(answer: Result<u8>, cleaned: Result<()>) -> Result<u8> {
    if let (Err(_), Err(error)) = (&answer, &cleaned) {
        report(error);
    }
    answer.and_then(|answer| cleaned.map(|()| answer))
}

/// Says what failed, in one sentence, and what to do about it. Hands back the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    let Failure { code, sentence, remedy } = Failure::of(error);
    // Somebody wanted it so.
    if error.is::<signals::Interrupted>() {
        note(sentence);
        return code;
    }
    line(format_args!("{} {}", "error:".red().bold(), printable(&sentence)));
    if let Some(remedy) = remedy {
        line(format_args!("{} {remedy}", "what to do:".green().bold()));
    }
    code
}

/// What a call can answer: how that is told, and what stands in for it where nothing is done.
pub trait Answer {
    /// As `strace` would print it.
    fn told(&self) -> String;
    /// The dry run's.
    fn stand_in() -> Self;
}

impl Answer for () {
    fn told(&self) -> String {
        "0".to_owned()
    }
    fn stand_in() -> Self {}
}

impl Answer for Pid {
    fn told(&self) -> String {
        self.to_string()
    }
    fn stand_in() -> Self {
        Pid::from_raw(4711)
    }
}

/// A descriptor; in a dry run there is none.
impl Answer for Option<OwnedFd> {
    fn told(&self) -> String {
        self.as_ref().map_or("-".to_owned(), |fd| fd.as_raw_fd().to_string())
    }
    fn stand_in() -> Self {
        None
    }
}

/// Host: tells this call, and makes it.
pub fn host<T: Answer, E: Into<std::io::Error>>(
    call: fmt::Arguments,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    signals::check()?;
    pause(Who::Host, call)?;
    tell(Who::Host, call, make)
}

/// Host: the same, while `lock` is held; but not while somebody is asked to press Enter, as others wait for that lock.
pub fn host_locked<L, T: Answer, E: Into<std::io::Error>>(
    call: fmt::Arguments,
    lock: impl FnOnce() -> Result<L>,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    signals::check()?;
    pause(Who::Host, call)?;
    let _lock = lock()?;
    tell(Who::Host, call, make)
}

/// Host: the same, but a signal that has come by then is for whoever asks next. Only one that is heard in this call's own
/// pause keeps it from being made.
pub fn host_undisturbed<T: Answer, E: Into<std::io::Error>>(
    call: fmt::Arguments,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    pause(Who::Host, call)?;
    tell(Who::Host, call, make)
}

/// Host, cleaning up: the same, but no signal keeps it from being made. After a program's end, its exit code is the answer
/// all the same; a command that has more to do hears of the signal then.
pub fn host_cleanup<T: Answer, E: Into<std::io::Error>>(
    call: fmt::Arguments,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    if let Some(interrupted) = pause(Who::Host, call).err().as_ref().and_then(|error| error.downcast_ref()) {
        signals::postpone(interrupted);
    }
    tell(Who::Host, call, make)
}

/// Child: tells this call, and makes it. Signals are the host's to hear, which ends the child.
pub fn child<T: Answer, E: Into<std::io::Error>>(
    call: fmt::Arguments,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    pause(Who::Child, call)?;
    tell(Who::Child, call, make)
}

/// Child: the same without a pause: for what must be so before anybody can be waited for.
pub fn child_at_once<T: Answer, E: Into<std::io::Error>>(
    call: fmt::Arguments,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    tell(Who::Child, call, make)
}

/// Child: tells a call from which nobody comes back (execve), so before it is made. Fails in a pause that is interrupted.
pub fn child_last(call: fmt::Arguments) -> Result<()> {
    pause(Who::Child, call)?;
    told(Who::Child, call, None);
    Ok(())
}

/// Child: tells a call before it is made, as it changes who can be told, or when; and makes it.
pub fn child_first<E: Into<std::io::Error>>(call: fmt::Arguments, make: impl FnOnce() -> Result<(), E>) -> Result<()> {
    child_last(call)?;
    if dry_run() { Ok(()) } else { make().during(call) }
}

/// Host: the same.
pub fn host_first<E: Into<std::io::Error>>(call: fmt::Arguments, make: impl FnOnce() -> Result<(), E>) -> Result<()> {
    signals::check()?;
    pause(Who::Host, call)?;
    told(Who::Host, call, None);
    if dry_run() { Ok(()) } else { make().during(call) }
}

/// Host: writes a kernel file, told as the shell command that would do the same.
pub fn host_echo(value: impl Display, path: &Path) -> Result<()> {
    let value = value.to_string();
    host(format_args!("{}", as_echo(&value, path)), || write(path, &value))
}

/// Host, cleaning up: the same, but no signal keeps it from being made.
pub fn host_echo_cleanup(value: impl Display, path: &Path) -> Result<()> {
    let value = value.to_string();
    host_cleanup(format_args!("{}", as_echo(&value, path)), || write(path, &value))
}

fn as_echo(value: &str, path: &Path) -> String {
    // In a shell, `c *:* m` without quotes would be the names of files.
    let quote = if value.contains([' ', '*']) { "'" } else { "" };
    format!("echo {quote}{value}{quote} > {}", path.display())
}

/// One write(2) of the whole value, as the files of cgroups and id maps want it; never makes a file that is not there.
fn write(path: &Path, value: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Says something that is no call: what was found, or read back.
pub fn note(text: impl Display) {
    if !quiet() {
        line(format_args!("{}", format!("# {}", printable(&text.to_string())).dimmed()));
    }
}

/// One line of the step's own, to standard error. Where nobody can read it any more, the work goes on.
pub fn line(text: fmt::Arguments) {
    let time = if TELLING.get().is_some_and(|telling| telling.times) { time_of_minute() } else { String::new() };
    // One write a line, so that host and child never mix within one.
    let _ = std::io::stderr().write_all(format!("{time}{text}\n").as_bytes());
}

/// `07.012345 `: host and child have the same clock, and so has the engine when it begins once more.
fn time_of_minute() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:02}.{:06} ", now.as_secs() % 60, now.subsec_micros())
}

/// Whether nothing is done, only told.
pub fn dry_run() -> bool {
    TELLING.get().is_some_and(|telling| telling.dry_run)
}

/// Whether nothing is told but errors.
pub fn quiet() -> bool {
    HUSHED.load(Ordering::Relaxed) || TELLING.get().is_some_and(|telling| telling.quiet)
}

/// From here on this process tells nothing, and pauses nowhere: it lets go of the terminal that it was started from.
pub fn hush() {
    HUSHED.store(true, Ordering::Relaxed);
}

/// From here on, the hints of `--pause` name this process.
pub fn child_is(pid: Pid) {
    CHILD.store(pid.as_raw(), Ordering::Relaxed);
}

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Host,
    Child,
}

fn tell<T: Answer, E: Into<std::io::Error>>(
    who: Who,
    call: fmt::Arguments,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    if dry_run() {
        told(who, call, None);
        return Ok(T::stand_in());
    }
    match make() {
        Ok(answer) => {
            told(who, call, Some(&answer.told()));
            Ok(answer)
        }
        Err(error) => {
            let errno = errno_of(error.into());
            told(who, call, Some(&format!("{errno:?}")));
            Err(CallFailed { call: call.to_string(), errno }.into())
        }
    }
}

fn told(who: Who, call: fmt::Arguments, answer: Option<&str>) {
    if quiet() {
        return;
    }
    let who = match who {
        Who::Host => "host ".cyan().bold(),
        Who::Child => "child".yellow().bold(),
    };
    let call = call.to_string();
    let call = printable(&call);
    match answer {
        None => line(format_args!("{who} {call}")),
        Some(answer) if answer.starts_with('E') => line(format_args!("{who} {call} = {}", answer.red())),
        Some(answer) => line(format_args!("{who} {call} = {}", answer.green())),
    }
}

fn pause(who: Who, call: fmt::Arguments) -> Result<()> {
    let Some(calls) = TELLING.get().and_then(|telling| telling.pause.as_ref()) else { return Ok(()) };
    // Whoever has pressed Ctrl-C does not want to be asked before each call of the clean-up.
    if quiet() || signals::interrupted() {
        return Ok(());
    }
    // `--pause` alone is one empty name, and every call begins with that.
    let call_told = call.to_string();
    if !calls.iter().any(|name| call_told.starts_with(name)) {
        return Ok(());
    }
    let name = if who == Who::Host { "the host" } else { "the child" };
    line(format_args!("{} {name} is about to call: {}", "[Enter]".bold(), printable(&call_told)));
    // In a dry run there is nothing to look at.
    let look = || remedy::look(&call_told, CHILD.load(Ordering::Relaxed));
    if let Some(look) = (!dry_run()).then(look).flatten() {
        line(format_args!("{}", format!("        second terminal: {look}").dimmed()));
    }
    let stdin = std::io::stdin();
    loop {
        if let Some(came) = signals::wait(&[stdin.as_fd()])? {
            signals::interrupt(came)?;
            continue;
        }
        // Byte by byte and unbuffered: what comes after the newline belongs to the container.
        let mut byte = [0];
        match nix::unistd::read(stdin.as_fd(), &mut byte) {
            Ok(1) if byte[0] != b'\n' => {}
            _ => return Ok(()),
        }
    }
}

/// Text that cannot drive a terminal: a name with an escape sequence or a newline in it is shown, not obeyed.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}
