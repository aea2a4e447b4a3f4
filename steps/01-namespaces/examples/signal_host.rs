//! The misbehaviour that step 01 stops: `signal_host PID` ends a process of the host. Give it one of your own, like
//! `sleep 100`.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() {
    let pid = std::env::args().nth(1).and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 1).expect("a pid above 1");
    match kill(Pid::from_raw(pid), Signal::SIGTERM) {
        Ok(()) => println!("signalled {pid}"),
        Err(errno) => println!("cannot signal {pid}: {errno:?}"),
    }
}
