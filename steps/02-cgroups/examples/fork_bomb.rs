//! The misbehaviour that step 02 stops: forks as often as it can. `fork_bomb [COUNT]`.
//!
//! Bounded: 300 forks at most, each child only waits, and all of them end with the first process.

use nix::unistd::{ForkResult, fork, read};

fn main() {
    let wanted = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(300).min(300);
    let (end_of_parent, parent) = nix::unistd::pipe().expect("pipe");
    let mut born = 0;
    let mut refused = String::new();
    while born < wanted {
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => born += 1,
            Ok(ForkResult::Child) => {
                drop(parent);
                let _ = read(&end_of_parent, &mut [0]);
                std::process::exit(0);
            }
            Err(errno) => {
                refused = format!(", then {errno:?}");
                break;
            }
        }
    }
    println!("{born} forks{refused}");
}
