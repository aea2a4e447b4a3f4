//! One engine at a time: the others wait for their turn, and say so.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use shared::failure::During;
use shared::lock::{Lock, try_lock};
use shared::{explain, signals};

/// A wait that is longer is printed.
const SILENCE: Duration = Duration::from_millis(500);

/// The lock on a file or directory, as soon as nobody else has it.
///
/// # Errors
/// Where it cannot be opened; [`signals::Interrupted`] where a signal ends the wait.
pub fn wait_for_lock(path: &Path) -> Result<Lock> {
    let since = Instant::now();
    let mut printed = false;
    loop {
        match try_lock(path) {
            Err(Errno::EWOULDBLOCK) => {}
            answer => return answer.during(format_args!("cannot lock {}", path.display())),
        }
        if since.elapsed() > SILENCE && !std::mem::replace(&mut printed, true) {
            // Printed under `-q`, too: to them it would look like a step that hangs.
            explain::line(format_args!(
                "# another step is at work at {}, or waits for Enter there: waiting for it",
                path.display()
            ));
        }
        // Not a wait in flock(2), which would not hear Ctrl-C while the other one pauses.
        signals::pause(if printed { Duration::from_millis(10) } else { signals::MOMENT })?;
    }
}
