//! Care: where systemd owns the tree of v2. What a step makes or enables in a group of systemd's, systemd takes back: after
//! `systemctl daemon-reload` the limits are gone. So a step makes its group in a scope that systemd has *delegated*,
//! which is a group that systemd leaves alone from then on. See CGROUP_DELEGATION.md of systemd, and systemd.scope(5).
//!
//! A process gets one by running itself again through systemd-run(1), which asks systemd for it, is put into it, and then
//! executes the command: the same process, with the same terminal, signals and exit code.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::unistd::{execv, geteuid, getpid};
use shared::failure::During;
use shared::{call, explain, kernel_file};

use crate::delegate::others;
use crate::hierarchy::{Version, detect};
use crate::limits::Limits;

/// Host, first of all: where systemd owns the tree, starts this program again in a scope of its own. Returns where the
/// step is in one, where systemd does not own the tree, and where systemd cannot be asked, with the reason printed.
///
/// # Errors
/// Where systemd-run(1) cannot be executed.
pub fn ask_for_scope(step: &str, limits: &Limits) -> Result<()> {
    let Some(own) = own_group_of_systemd() else { return Ok(()) };
    if unit_of(&own).is_some_and(|unit| is_own_scope(unit, step)) {
        return Ok(());
    }
    match is_delegated(&own) {
        // Without another process there, or where no controller must be enabled, it will do.
        Ok(true) if limits.is_empty() || others(&own).is_empty() => Ok(()),
        Ok(_) => run_again(step),
        Err(reason) => {
            explain::note(format_args!("systemd cannot be asked for a scope of this step's own: {reason}"));
            Ok(())
        }
    }
}

/// Whether [`ask_for_scope`] finds a systemd that it can ask.
pub fn is_owned_by_systemd() -> bool {
    own_group_of_systemd().is_some_and(|own| is_delegated(&own).is_ok())
}

fn run_again(step: &str) -> Result<()> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u32;
    let unit = format!("--unit={}", scope_name(step, time));
    let mut words: Vec<OsString> = vec!["systemd-run".into()];
    words.extend((!geteuid().is_root()).then(|| "--user".into()));
    words.extend(["--scope", "-p", "Delegate=yes", "--quiet", "--collect", &unit].map(OsString::from));
    let shown = words[..words.len() - 3].iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // From systemd 254 on it announces that it will replace `$NAME` in arguments one day.
    if arguments.iter().any(|it| it.as_bytes().contains(&b'$')) && systemd_version().is_some_and(|it| it >= 254) {
        words.push("--expand-environment=no".into());
    }
    words.push("--".into());
    words.push(std::env::current_exe().during("cannot find this program")?.into());
    words.extend(arguments);

    let c_string = |word: OsString| CString::new(word.into_vec()).context("an argument has a NUL byte in it");
    let path = c_string(process::find_in_path("systemd-run").context("systemd-run is not installed")?.into())?;
    let words: Vec<_> = words.into_iter().map(c_string).collect::<Result<_>>()?;
    explain::host(call!("execve({path:?}, [{shown}, …], …)")).announce()?;
    if explain::dry_run() {
        return Ok(());
    }
    // A signal mask outlives execve(2): with every signal blocked, Ctrl-C would not end systemd-run.
    process::reset_signals().during("cannot reset the signals")?;
    execv(&path, &words).map(drop).during(format_args!("execve({path:?}, …)"))
}

/// `step02-4711-1a2b3c.scope`: the pid says whose it is, and stays the same; the rest says that it is this time's.
fn scope_name(step: &str, time: u32) -> String {
    format!("{step}-{}-{time:x}.scope", getpid())
}

fn is_own_scope(unit: &str, step: &str) -> bool {
    unit.starts_with(&format!("{step}-{}-", getpid())) && unit.ends_with(".scope")
}

/// The group of this process, if it is one of systemd's: on pure v2, and systemd is pid 1 of our pid namespace. (Asked from
/// another one, it would take our pid for that of a stranger.)
fn own_group_of_systemd() -> Option<PathBuf> {
    let is_pure_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let is_pid_1 = kernel_file::read("/proc/1/comm").is_ok_and(|name| name.trim() == "systemd");
    let is_our_proc =
        std::fs::read_link("/proc/self").is_ok_and(|pid| pid.as_os_str() == getpid().to_string().as_str());
    if !(is_pure_v2 && is_pid_1 && is_our_proc && process::sys::in_first_user_namespace()) {
        return None;
    }
    let hierarchies = detect(Path::new("/proc"), "self").ok()?;
    let own = hierarchies.into_iter().find(|it| it.version == Version::V2)?.own;
    unit_of(&own).is_some().then_some(own)
}

/// The unit that a group belongs to: `/user.slice/session-3.scope/below` is of session-3.scope.
fn unit_of(group: &Path) -> Option<&str> {
    let names = group.components().rev().filter_map(|it| it.as_os_str().to_str());
    names.into_iter().find(|name| [".scope", ".service", ".slice"].iter().any(|kind| name.ends_with(kind)))
}

/// Whether systemd has delegated the unit that a group belongs to. The manager that would be asked for a scope knows: of
/// another one's units it says no, too. The reason, if it cannot be asked.
fn is_delegated(group: &Path) -> Result<bool, String> {
    let mut systemctl = Command::new("systemctl");
    systemctl.args((!geteuid().is_root()).then_some("--user"));
    systemctl.args(["show", "--property=Delegate", unit_of(group).unwrap_or_default()]);
    let output = systemctl.output().map_err(|error| format!("systemctl: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(output.stdout == b"Delegate=yes\n")
}

/// 252 of `systemd 252 (252.39-1~deb12u2)`.
fn systemd_version() -> Option<u32> {
    let output = Command::new("systemd-run").arg("--version").output().ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

fn version_in(text: &str) -> Option<u32> {
    let number = text.split_whitespace().nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_belongs_to_the_nearest_unit_above_it() {
        let unit = |path: &'static str| unit_of(Path::new(path));
        assert_eq!(unit("/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope"), Some("session-3.scope"));
        assert_eq!(unit("/sys/fs/cgroup/system.slice/web.service/worker/a"), Some("web.service"));
        assert_eq!(unit("/sys/fs/cgroup"), None);
        assert_eq!(unit("/sys/fs/cgroup/step02-4711"), None);
    }

    #[test]
    fn a_scope_is_known_again_by_its_name() {
        let name = scope_name("step02", 0xab);
        assert!(is_own_scope(&name, "step02"), "{name}");
        assert!(!is_own_scope(&name, "step03"), "another step's");
        assert!(!is_own_scope("step02-0-ab.scope", "step02"), "another process's");
    }

    #[test]
    fn the_version_is_a_number() {
        assert_eq!(version_in("systemd 252 (252.39-1~deb12u2)\n+PAM"), Some(252));
        assert_eq!(version_in("systemd 257~rc1"), Some(257));
        assert_eq!(version_in(""), None);
    }
}
