//! One at a time: a lock on a file or directory, which the kernel releases when its holder dies. See flock(2).

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::explain;
use crate::failure::{During, errno_of};
use crate::signals;

/// How long one waits in silence for another.
const SILENCE: Duration = Duration::from_millis(500);

/// The lock on a file or directory, if nobody else has it: EWOULDBLOCK where somebody has.
pub fn try_lock(path: &Path) -> nix::Result<Flock<File>> {
    let file = File::open(path).map_err(errno_of)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

/// Whether somebody has the lock on a file or directory. Those who only ask do not get in each other's way.
///
/// Who cannot ask, as too many files are open, say, must not take a living owner for dead: the answer is yes.
pub fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Err(error) => error.kind() != ErrorKind::NotFound,
        Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_err(),
    }
}

/// The lock on a file or directory, which nobody has for long: waits in flock(2).
///
/// # Errors
/// Where it cannot be opened.
pub fn lock(path: &Path) -> nix::Result<Flock<File>> {
    let file = File::open(path).map_err(errno_of)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)
}

/// The lock on a file or directory, as soon as nobody else has it.
///
/// # Errors
/// Where it cannot be opened; [`signals::Interrupted`] where a signal ends the wait.
pub fn wait_for_lock(path: &Path) -> Result<Flock<File>> {
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
