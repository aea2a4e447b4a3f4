//! The terminal that a step was started from.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};

/// Host, and the child gone: takes the terminal's foreground back, if the process group that has it is gone.
///
/// A shell inside puts itself into the foreground. At its end it cannot give that back: this process's group has no
/// number in its pid namespace. The next process that reads from the terminal would be stopped, by SIGTTIN. See
/// tcsetpgrp(3).
pub fn take_back() {
    let stdin = std::io::stdin();
    let is_nobodys = |group| group != getpgrp() && killpg(group, None) == Err(Errno::ESRCH);
    if !tcgetpgrp(&stdin).is_ok_and(is_nobodys) {
        return;
    }
    // Asked from the background, the kernel would stop this process instead: SIGTTOU.
    let mut before = SigSet::empty();
    if sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::from(Signal::SIGTTOU)), Some(&mut before)).is_ok() {
        let _ = tcsetpgrp(&stdin, getpgrp());
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
}
