//! One at a time: a lock on a folder, which the kernel lets go of with whoever holds it. See flock(2).

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::explain;
use crate::failure::During;
use crate::signals;

/// How long one waits in silence for another.
const SILENCE: Duration = Duration::from_millis(500);

/// The lock on a folder, if nobody else has it: EWOULDBLOCK where somebody has.
pub fn try_lock(folder: &Path) -> nix::Result<Flock<File>> {
    let file = File::open(folder).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

/// Whether somebody has the lock on a folder. Those who only ask do not get in each other's way.
pub fn is_locked(folder: &Path) -> bool {
    let file = File::open(folder);
    file.is_ok_and(|file| {
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err_and(|(_, it)| it == Errno::EWOULDBLOCK)
    })
}

/// The lock on a folder, as soon as nobody else has it.
///
/// # Errors
/// Where the folder cannot be opened; [`signals::Interrupted`] where a signal ends the wait.
pub fn wait_for_lock(folder: &Path) -> Result<Flock<File>> {
    let since = Instant::now();
    let mut told = false;
    loop {
        match try_lock(folder) {
            Err(Errno::EWOULDBLOCK) => {}
            answer => return answer.during(format_args!("cannot lock {}", folder.display())),
        }
        if since.elapsed() > SILENCE && !std::mem::replace(&mut told, true) {
            // Told to the quiet, too: to them it would look like a step that hangs.
            explain::line(format_args!(
                "# another step is at work in {}, or waits for Enter there: waiting for it",
                folder.display()
            ));
        }
        // Not a wait in flock(2), which would not hear Ctrl-C while the other one pauses.
        signals::pause(if told { Duration::from_millis(10) } else { signals::MOMENT })?;
    }
}
