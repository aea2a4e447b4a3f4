//! `--pause`: waits for Enter before a call, and says what to look at from a second terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use colored::Colorize;

use crate::explain::{self, Call};
use crate::failure::During;
use crate::narration::{self, Speaker, line, printable};
use crate::{remedy, signals};

/// Whether `--pause=NAME` names this call, which then stands on a line of its own.
pub fn names(call: &Call) -> bool {
    explain::pauses().unwrap_or_default().iter().any(|word| !word.is_empty() && call.text.starts_with(word))
}

/// Waits for Enter if `--pause` says so.
///
/// # Errors
/// [`Interrupted`](signals::Interrupted), by a signal that arrives meanwhile.
pub fn before(call: &Call) -> Result<()> {
    let Some(words) = explain::pauses() else { return Ok(()) };
    // After Ctrl-C, the calls of the cleanup do not wait.
    if explain::quiet() || signals::interrupted() {
        return Ok(());
    }
    // `--pause` alone is one empty word.
    let at_each_line = words.iter().any(String::is_empty) && narration::begins_line(call);
    if !names(call) && !at_each_line {
        return Ok(());
    }
    let name = if call.speaker == Speaker::Child { "the child" } else { "the host" };
    line(format_args!("{} {name} is about to call: {}", "[Enter]".bold(), printable(&call.text)));
    let child = narration::screen().child;
    // The child is told its pid: asked for it, a first process says 1.
    let caller = if call.speaker == Speaker::Child && child != 0 { child } else { std::process::id() as i32 };
    // In a dry run there is nothing to look at.
    if let Some(look) = (!explain::dry_run()).then(|| remedy::look(&call.text, caller, child)).flatten() {
        line(format_args!("{}", format!("        second terminal: {look}").dimmed()));
    }
    let Some(input) = INPUT.get() else { return Ok(()) };
    loop {
        if let Some(received) = signals::wait(&[input.as_fd()])? {
            signals::interrupt(received)?;
            continue;
        }
        // Byte by byte and unbuffered: what follows the newline belongs to the container.
        let mut byte = [0];
        match nix::unistd::read(input, &mut byte) {
            Ok(1) if byte[0] != b'\n' => {}
            _ => return Ok(()),
        }
    }
}

/// Where Enter is read from: what was standard input when the step began. A child that gives its program another one
/// (step 08) still waits for the caller's Enter.
static INPUT: OnceLock<OwnedFd> = OnceLock::new();

/// At the beginning. A misspelt `--pause=WORD` would otherwise be silent.
///
/// # Errors
/// Where no call that this step knows begins so; EMFILE.
pub fn prepare() -> Result<()> {
    if explain::pauses().is_some() {
        let _ = INPUT.set(std::io::stdin().as_fd().try_clone_to_owned().during("cannot keep standard input")?);
    }
    let calls: Vec<_> = explain::known().iter().flat_map(|known| known.calls).copied().collect();
    for word in explain::pauses().unwrap_or_default().iter().filter(|word| !word.is_empty()) {
        let begins = calls.iter().any(|name| name.starts_with(word.as_str()) || word.starts_with(name));
        ensure!(begins, "--pause={word}: no call of this step begins so; its calls are {}", calls.join(", "));
    }
    Ok(())
}
