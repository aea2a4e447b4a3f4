//! The call that is shown: one line of source both prints a system call and makes it.
//!
//! ```ignore
//! explain::child(call!("pivot_root(\".\", \".\")")).run(|| pivot_root(".", "."))?;
//! ```
//!
//! From that line come the narration (who, which call, its result), `--pause`, `--dry-run`, and the sentence of a
//! failure with its remedy. How a call appears on the screen is decided in [`narration`]: a step
//! prints what is new in it and folds what earlier steps have taught; `--verbose` prints every call, and a test
//! compares that with the output of strace(1).

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::Location;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Result;
use clap::ColorChoice;
use colored::Colorize;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;

use crate::failure::{CallFailed, During, Failure, STEP_FAILED, errno_of};
use crate::narration::{self, Speaker, Step};
use crate::remedy::Known;
use crate::{pause, signals};

pub use crate::narration::{child_is, flush, hush, line, newborn, note, notice, one_line, printable, speak_as_monitor};

/// A call as strace(1) would print it: `call!("sethostname({name:?})")`.
#[macro_export]
macro_rules! call {
    ($($text:tt)*) => { format_args!($($text)*) };
}

/// How a step prints what it does. All of it goes to standard error; standard output belongs to the container.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "What is printed")]
pub struct Narration {
    /// Print nothing but errors
    #[arg(short, long, conflicts_with_all = ["pause", "dry_run", "verbose"])]
    quiet: bool,
    /// Print every call, those that earlier steps have introduced too (no -v: that is a volume, as Docker has it)
    #[arg(long)]
    verbose: bool,
    /// Wait for Enter before each call that is printed on a line of its own, or before calls that begin with one of these
    #[arg(long, value_name = "CALL,…", num_args = 0..=1, require_equals = true, value_delimiter = ',', default_missing_value = "")]
    pause: Option<Vec<String>>,
    /// Print the calls and make none: needs no rights, works everywhere
    #[arg(long)]
    dry_run: bool,
    /// Print before each line when it was printed, in seconds of the current minute
    #[arg(long)]
    times: bool,
    /// Colour what is printed
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    color: ColorChoice,
}

struct Frame {
    narration: Narration,
    step: Option<Step>,
    known: Vec<&'static Known>,
}

/// Bytes of stack with which clap parses the command line of step 04, which has the most commands.
const ENOUGH_STACK: u64 = 1 << 20;

/// Bytes of stack that are more than any step uses, built for debugging, beside its arguments and variables.
const LEAST_STACK: u64 = 256 << 10;

static FRAME: OnceLock<Frame> = OnceLock::new();

/// The command line as clap has parsed it, or the exit code: 0 after `--help`, else 125, as clap's own 2 could be the
/// command's.
pub fn parse<O: clap::Parser + Send>() -> Result<O, ExitCode> {
    parse_from(std::env::args_os().collect())
}

/// The same of these words, the first of which is the program's name.
pub fn parse_from<O: clap::Parser + Send>(words: Vec<OsString>) -> Result<O, ExitCode> {
    let stack = getrlimit(Resource::RLIMIT_STACK).map_or(ENOUGH_STACK, |(soft, _)| soft);
    // The kernel would end the step somewhere between its calls, and what it had made would be left.
    if stack < LEAST_STACK {
        let (stack, least) = (stack >> 10, LEAST_STACK >> 10);
        line(format_args!("error: the stack of this process is limited to {stack} KiB, and a step may need {least}"));
        line(format_args!("what to do: ulimit -s 8192; above the hard limit (ulimit -H -s) only root may raise it"));
        return Err(ExitCode::from(STEP_FAILED));
    }
    // With many commands clap needs more than the caller's `ulimit -s` may leave. A thread has a stack of its own; it has
    // ended when a step clones, which takes a process with one thread.
    let has_small_stack = stack < ENOUGH_STACK;
    let parse = || O::try_parse_from(words);
    let parsed = if has_small_stack {
        let parsed = std::thread::scope(|scope| scope.spawn(parse).join());
        parsed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    } else {
        parse()
    };
    parsed.map_err(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        // An argument is quoted in the message as it is; a terminal would obey an escape sequence in it.
        error.render().to_string().lines().for_each(|text| line(format_args!("{}", printable(text))));
        ExitCode::from(STEP_FAILED)
    })
}

/// The frame around every step's `main`: what to print, which failures have a remedy, signals held, one sentence for
/// a failure. The file that calls it says which step this is.
#[track_caller]
pub fn run(narration: &Narration, known: Vec<&'static Known>, body: impl FnOnce() -> Result<u8>) -> ExitCode {
    // `colored` would look at standard output, which is the container's.
    colored::control::set_override(match narration.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal()
        }
    });
    let unwinding = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        unwinding(panic);
        // Unwinding, the child of a clone would go on in its parent's code, as a second host.
        std::process::abort();
    }));
    let _ = FRAME.set(Frame { narration: narration.clone(), step: narration::step_of(Location::caller()), known });
    if dry_run() {
        notice("dry run: none of this is done");
    }
    let held = pause::prepare().and_then(|()| signals::hold().during("cannot hold signals"));
    let code = held.and_then(|()| body()).unwrap_or_else(|error| report(&error));
    flush();
    ExitCode::from(code)
}

/// The result of a step that has cleaned up after itself. Of two failures, the second is printed here.
pub fn with_cleanup(result: Result<u8>, cleaned: Result<()>) -> Result<u8> {
    if let (Err(_), Err(error)) = (&result, &cleaned) {
        report(error);
    }
    result.and_then(|code| cleaned.map(|()| code))
}

/// Prints what failed, in one sentence, and what to do about it. Returns the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    let Failure { code, sentence, remedy } = Failure::of(error);
    // The user asked for it: no error.
    if error.is::<signals::Interrupted>() {
        notice(sentence);
        return code;
    }
    line(format_args!("{} {}", "error:".red().bold(), printable(&sentence)));
    if let Some(remedy) = remedy {
        line(format_args!("{} {remedy}", "what to do:".green().bold()));
    }
    code
}

/// What a call returns: how that is printed, and what stands in for it in a dry run.
pub trait Returned: Sized {
    /// As strace(1) would print it.
    fn printed(&self) -> String;
    /// A value of the same type, though nothing was done.
    fn stand_in() -> std::io::Result<Self>;
}

impl Returned for () {
    fn printed(&self) -> String {
        "0".to_owned()
    }
    fn stand_in() -> std::io::Result<Self> {
        Ok(())
    }
}

impl Returned for Pid {
    fn printed(&self) -> String {
        self.to_string()
    }
    fn stand_in() -> std::io::Result<Self> {
        Ok(Pid::from_raw(4711))
    }
}

impl Returned for OwnedFd {
    fn printed(&self) -> String {
        self.as_raw_fd().to_string()
    }
    fn stand_in() -> std::io::Result<Self> {
        Ok(File::open("/dev/null")?.into())
    }
}

/// Host: a call to be made with [`run`](Call::run).
#[track_caller]
pub fn host(text: fmt::Arguments) -> Call {
    Call::new(narration::screen().host, text)
}

/// Child: the same. Signals are the host's to receive, which ends the child.
#[track_caller]
pub fn child(text: fmt::Arguments) -> Call {
    Call::new(Speaker::Child, text)
}

/// Host: one write(2) to a kernel file, printed as the shell command that would do the same; it never creates a file.
#[track_caller]
pub fn host_echo(value: impl Display, path: &Path) -> Echo<'_> {
    let value = value.to_string();
    // In a shell, `c *:* m` without quotes would be the names of files.
    let quote = if value.contains([' ', '*']) { "'" } else { "" };
    Echo { call: host(call!("echo {quote}{value}{quote} > {}", path.display())), value, path }
}

/// A system call that is about to be printed and made.
#[must_use = "a call is made by `run`"]
pub struct Call {
    pub(crate) speaker: Speaker,
    /// The step that calls for it.
    pub(crate) step: Option<Step>,
    pub(crate) text: String,
    signals: Signals,
    pauses: bool,
    /// Printed before it is made: afterwards this process could not print it, or too late.
    first: bool,
}

/// What a signal that is pending does to a call.
#[derive(PartialEq)]
enum Signals {
    /// A pending signal cancels the call.
    Cancel,
    /// Only a signal during this call's own pause cancels it.
    Wait,
    /// Never cancels it; the signal is handled at the next call.
    Postponed,
}

impl Call {
    #[track_caller]
    fn new(speaker: Speaker, text: fmt::Arguments) -> Self {
        let signals = if speaker == Speaker::Child { Signals::Wait } else { Signals::Cancel };
        let step = narration::step_of(Location::caller());
        Call { speaker, step, text: text.to_string(), signals, pauses: true, first: false }
    }

    /// Ignores signals already pending; only one that arrives during this call's pause cancels it.
    pub fn undisturbed(self) -> Self {
        Call { signals: Signals::Wait, ..self }
    }

    /// Made even if a signal is pending. After a program's end its exit code is the result all the same; a command that has
    /// more to do stops at its next call.
    pub fn cleanup(self) -> Self {
        Call { signals: Signals::Postponed, ..self }
    }

    /// Never pauses: for what must be so before anything is waited for.
    pub fn at_once(self) -> Self {
        Call { pauses: false, ..self }
    }

    /// Printed before it is made, as it changes who can print, or when.
    pub fn printed_first(self) -> Self {
        Call { first: true, ..self }
    }

    /// Prints the call and makes it; a dry run only prints it.
    ///
    /// # Errors
    /// [`CallFailed`], with the call as it was printed; [`Interrupted`](signals::Interrupted), by a signal.
    pub fn run<T: Returned, E: Into<std::io::Error>>(self, make: impl FnOnce() -> Result<T, E>) -> Result<T> {
        self.wait_for_enter()?;
        let is_printed = self.first || dry_run();
        if is_printed {
            narration::print(&self, None);
        }
        if self.first {
            flush();
        }
        let made = if dry_run() { T::stand_in() } else { make().map_err(Into::into) }.map_err(errno_of);
        match &made {
            _ if is_printed => {}
            Ok(value) => narration::print(&self, Some(value.printed())),
            Err(errno) => narration::print_failed(&self, *errno),
        }
        made.map_err(|errno| CallFailed { call: self.text, errno }.into())
    }

    /// Prints a call that does not return (execve), which the caller makes next.
    pub fn announce(self) -> Result<()> {
        self.printed_first().run(|| Ok::<_, std::io::Error>(()))
    }

    fn wait_for_enter(&self) -> Result<()> {
        if self.signals == Signals::Cancel {
            signals::check()?;
        }
        if !self.pauses {
            return Ok(());
        }
        match (pause::before(self), &self.signals) {
            (Err(error), Signals::Postponed) => {
                error.downcast_ref().into_iter().for_each(signals::postpone);
                Ok(())
            }
            (waited, _) => waited,
        }
    }
}

/// A write to a kernel file that is about to be printed and made.
#[must_use = "a write is made by `run`"]
pub struct Echo<'p> {
    call: Call,
    value: String,
    path: &'p Path,
}

impl Echo<'_> {
    /// As [`Call::cleanup`].
    pub fn cleanup(self) -> Self {
        Echo { call: self.call.cleanup(), ..self }
    }

    /// As [`Call::run`]: writes the whole value at once, as the files of cgroups and id maps require; never creates a file.
    pub fn run(self) -> Result<()> {
        let Echo { call, value, path } = self;
        call.run(|| File::options().write(true).open(path)?.write_all(value.as_bytes()))
    }
}

/// Whether nothing is done, only printed.
pub fn dry_run() -> bool {
    options().is_some_and(|options| options.dry_run)
}

/// Whether nothing is printed but errors.
pub fn quiet() -> bool {
    narration::screen().is_hushed || options().is_some_and(|options| options.quiet)
}

/// Whether every call is printed.
pub fn verbose() -> bool {
    options().is_some_and(|options| options.verbose)
}

pub(crate) fn times() -> bool {
    options().is_some_and(|options| options.times)
}

/// The words of `--pause=WORD,…`; a bare `--pause` is one empty word, with which every call begins.
pub(crate) fn pauses() -> Option<&'static [String]> {
    options()?.pause.as_deref()
}

/// The step that this program is.
pub(crate) fn this_step() -> Option<Step> {
    FRAME.get()?.step
}

/// What is known of the calls of this step and of those before it, this step's first.
pub(crate) fn known() -> &'static [&'static Known] {
    FRAME.get().map(|frame| &frame.known[..]).unwrap_or_default()
}

fn options() -> Option<&'static Narration> {
    FRAME.get().map(|frame| &frame.narration)
}
