//! newuidmap(1) and newgidmap(1): the two programs with root's rights that map a range of ids for an ordinary user.

use std::process::{Command, Stdio};

use anyhow::Result;
use nix::sys::prctl::get_no_new_privs;
use nix::unistd::Pid;
use process::find_in_path;
use shared::failure::{Failure, STEP_FAILED};
use shared::{call, explain};

use crate::ranges::Ranges;

/// Why they are of no use here, if they are not.
pub fn missing() -> Option<String> {
    let missing = ["newuidmap", "newgidmap"].into_iter().find(|name| find_in_path(name).is_none());
    if let Some(name) = missing {
        return Some(format!("{name} is not installed (it is in the package uidmap, or shadow-utils)"));
    }
    // Their rights come with exec, and no exec gives rights then.
    get_no_new_privs()
        .unwrap_or(false)
        .then(|| "this process has no_new_privs, so that newuidmap would have no rights".to_owned())
}

/// Host, and the child held: has one of them write a map of the child's.
///
/// # Errors
/// What it says: that a range is not the user's, say.
pub fn run(name: &str, child: Pid, ranges: &Ranges) -> Result<()> {
    let numbers = ranges.to_string().replace('\n', " ");
    let mut answer = None;
    explain::host(call!("{name} {child} {numbers}")).run(|| {
        let program = find_in_path(name).unwrap_or_else(|| name.into());
        let arguments = numbers.split(' ').map(str::to_owned);
        let mut command = Command::new(program);
        command.arg(child.to_string()).args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).output().map(|output| answer = Some(output))
    })?;
    let Some(output) = answer.filter(|output| !output.status.success()) else { return Ok(()) };
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it does not say why");
    let remedy = Some(remedy(name, said));
    Err(Failure { code: STEP_FAILED, sentence: format!("{name} has not mapped the ids: {said}"), remedy }.into())
}

fn remedy(name: &str, said: &str) -> String {
    // It has found the lines, and the kernel takes it for an ordinary user.
    if said.contains("write to") && said.contains("Operation not permitted") {
        return format!(
            "{name} has not run with root's rights: it has lost its setuid bit or its capability (reinstall the package \
             uidmap, or shadow-utils), or lies on a mount with nosuid, or this process has no_new_privs"
        );
    }
    "/etc/subuid and /etc/subgid must give this user these ids: `sudo usermod --add-subuids FIRST-LAST --add-subgids \
     FIRST-LAST USER`, or leave --uidmap and --gidmap out"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_is_about_what_it_says() {
        let without_rights = "newuidmap: write to uid_map failed: Operation not permitted";
        assert!(remedy("newuidmap", without_rights).contains("setuid bit"));
        let not_given = "newuidmap: uid range [0-10) -> [500000-500010) not allowed";
        assert!(remedy("newuidmap", not_given).contains("/etc/subuid"));
    }
}
