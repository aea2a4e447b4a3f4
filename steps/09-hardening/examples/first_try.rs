//! What anyone would write first, twice.
//!
//! `step09_first_try rights COMMAND [ARG…]`, as root: gives up every capability, and executes a program. The program has them
//! all again: what root executes gets the bounding set, whatever the process had before.
//!
//! `step09_first_try calls`: forbids the calls that it does not list, with EPERM. A thread cannot be made any more: the C library
//! asks for clone3, and takes clone only where the kernel says that there is no such call: ENOSYS. Compare `src/calls.rs`.

use std::collections::BTreeMap;
use std::ffi::CString;

use anyhow::{Context, Result, bail};
use hardening::capabilities::Set;
use hardening::{calls, numbers, sys};
use nix::sys::prctl::set_no_new_privs;
use nix::unistd::execvp;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((what, command)) if what == "rights" && !command.is_empty() => {
            println!("it has {} capabilities", count()?);
            sys::capset([0, 0, 0])?;
            println!("it has {}, and executes {}", count()?, command.join(" "));
            let command = command.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>()?;
            execvp(&command[0], &command)?;
        }
        Some((what, [])) if what == "calls" => {
            forbid_all_others()?;
            match std::thread::Builder::new().spawn(|| println!("a thread")) {
                Ok(thread) => drop(thread.join()),
                Err(error) => println!("no thread: {error}"),
            }
        }
        _ => bail!("usage: step09_first_try rights COMMAND [ARG…] | calls"),
    }
    Ok(())
}

fn count() -> Result<usize> {
    Ok(Set(sys::capget()?[0]).iter().count())
}

fn forbid_all_others() -> Result<()> {
    let names = calls::ALLOWED.iter().flat_map(calls::names);
    let rules: BTreeMap<_, _> = names.filter_map(numbers::number).map(|number| (number, Vec::new())).collect();
    let forbidden = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = TargetArch::try_from(std::env::consts::ARCH).context("another architecture")?;
    let program: BpfProgram = SeccompFilter::new(rules, forbidden, SeccompAction::Allow, architecture)?.try_into()?;
    set_no_new_privs()?;
    sys::add_filter(&program)?;
    Ok(())
}
