//! Which of the step's signals are its program's.

use anyhow::Result;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use shared::kernel_file;
use shared::signals::{self, Received};

use crate::status::mask;
use crate::sys;

/// Host: sends a signal on to the program, if that listens to it.
///
/// One that does not listen is ended by SIGHUP, SIGINT, SIGQUIT and SIGTERM alone, and by the step: were it PID 1 of a pid
/// namespace, the kernel would not deliver them, and Ctrl-C would do nothing. See pid_namespaces(7).
///
/// # Errors
/// [`Interrupted`](signals::Interrupted), where the signal ends step and program.
pub fn pass_on(child: Pid, received: Received) -> Result<()> {
    // Where that is hidden (*hidepid* in proc(5)), it is asked to decide itself.
    let status = kernel_file::read(format!("/proc/{child}/status"));
    let listens = status.map_or(true, |status| listens(&status, received.number));
    if received.ending().is_some() && !listens {
        return signals::interrupt(received);
    }
    // A key's signal goes to those of the terminal's session.
    let had_it = received.by_terminal && getsid(Some(child)) == getsid(None);
    // To go on needs no listener.
    if (listens || received.is(Signal::SIGCONT)) && !had_it {
        // One that has ended meanwhile needs none any more.
        let _ = sys::kill(child, received.number);
    }
    Ok(())
}

/// Whether a process has a handler for the signal (`SigCgt` in proc_pid_status(5), a mask in hexadecimal), or has
/// blocked it (`SigBlk`) to wait for it, as with signalfd(2).
fn listens(status: &str, signal: i32) -> bool {
    (mask(status, "SigCgt") | mask(status, "SigBlk")) & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::listens;

    #[test]
    fn who_listens_has_a_handler_or_has_blocked_it() {
        let status =
            "Name:\tSigCgt:\nSigBlk:\t8000000000000000\nSigIgn:\t0000000000000002\nSigCgt:\t0000000000004001\n";
        assert!([1, 15, 64].iter().all(|signal| listens(status, *signal)));
        assert!([2, 10, 63].iter().all(|signal| !listens(status, *signal)));
        assert!(!listens("", 15), "of one that is gone");
    }
}
