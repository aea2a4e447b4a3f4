//! What anyone would write first: a user namespace in which root is the caller, and nobody else is anybody. As in step 01,
//! for an ordinary user: `step05_first_try COMMAND [ARG…]`.
//!
//! `id` says root. But a map with one id has one user: `chown 1 FILE` (EINVAL), `su nobody` (EINVAL) and what every
//! package manager does, setgroups(2) (EPERM), fail in here. Compare `src/lib.rs`.

use std::fs::write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [program, arguments @ ..] = words.as_slice() else { anyhow::bail!("usage: step05_first_try COMMAND [ARG…]") };
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    Err(Command::new(program).args(arguments).exec().into())
}
