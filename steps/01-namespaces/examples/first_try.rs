//! What anyone would write first: clone with the flags, and run the command. As root: `step01_first_try COMMAND [ARG…]`.
//!
//! Two lines are missing. Without MS_PRIVATE, on a machine where `/` is shared, a mount made in here appears on the
//! host. Without a `/proc` of its own, `ps` in here lists the host's processes.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, clone};
use nix::sys::wait::waitpid;

fn main() {
    let mut words: Vec<_> = std::env::args().skip(1).collect();
    if words.is_empty() {
        words.push("sh".to_owned());
    }
    let flags = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    let mut stack = vec![0; 1 << 20];

    let child = Box::new(|| {
        let error = Command::new(&words[0]).args(&words[1..]).exec();
        eprintln!("{}: {error}", words[0]);
        127
    });
    // SAFETY: this process has one thread, and the child has a copy of its stack.
    match unsafe { clone(child, &mut stack, flags, Some(libc::SIGCHLD)) } {
        Ok(child) => println!("{:?}", waitpid(child, None)),
        Err(errno) => eprintln!("clone: {errno}: this one needs root"),
    }
}
