//! My own container: `mine COMMAND [ARG…]`. So far it is a child process, and nothing is isolated.

use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::{env, panic};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

fn main() {
    // Any failure, of the host or of the child, ends that process here and names the call.
    panic::set_hook(Box::new(|failure| {
        eprintln!("mine: {failure}");
        exit(125)
    }));
    let words: Vec<String> = env::args().collect();
    let [_, program, arguments @ ..] = &words[..] else { panic!("usage: mine COMMAND [ARG…]") };

    // SAFETY: this process has one thread.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => child(program, arguments),
        ForkResult::Parent { child } => drop(waitpid(child, None).expect("waitpid")),
    }
}

/// Child: becomes the program.
fn child(program: &str, arguments: &[String]) {
    let error = Command::new(program).args(arguments).exec();
    panic!("{program}: {error}")
}
