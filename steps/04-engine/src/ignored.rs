//! Signals that this process, or its caller, has ignored, and that end it from here on.

use anyhow::Result;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use shared::failure::During;
use shared::signals::ENDING;
use shared::sys::set_default;

/// Monitor, and its caller left behind: what that one has ignored (nohup) is no wish for the program any more.
///
/// # Errors
/// Those of sigaction(2), none of which is known to happen.
pub fn forget_ignored() -> nix::Result<()> {
    // Blocked before they get their default action back, which would end this process.
    let ending = SigSet::from_iter(ENDING);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ending), None)?;
    ENDING.into_iter().try_for_each(|signal| set_default(signal as i32))
}

/// Host, where there is nothing to clean up: ends as other programs do when the reader of their output is gone (`ps | head`).
///
/// # Errors
/// As above.
pub fn end_with_pipe() -> Result<()> {
    set_default(libc::SIGPIPE).during("cannot reset SIGPIPE")
}
