//! What is known of this step's calls: what to do where they fail, what to look at while `--pause` holds them.

use shared::remedy::{Known, PausedCall};

/// Of clone and of what gives the new namespaces their content.
pub const KNOWN: Known = Known {
    calls: &["clone", "clone3", "setgroups", "mount", "sethostname", "ioctl", "unshare", "echo"],
    remedies: process::remedies::NAMESPACES,
    hint,
};

/// What is known of the calls of this step and of those before it.
pub fn known() -> Vec<&'static Known> {
    [vec![&KNOWN], process::known()].concat()
}

fn hint(paused: &PausedCall) -> Option<String> {
    let PausedCall { call, name, caller, child } = paused;
    // The child looks like root to itself. Into a user namespace that its owner has made, nsenter needs no root.
    let enter =
        if process::sys::in_first_user_namespace() { "nsenter" } else { "nsenter --user --preserve-credentials" };
    match *name {
        "clone" | "clone3" => Some(format!("ps -o pid,ppid,args -p {caller} --ppid {caller}; ls -l /proc/{caller}/ns")),
        "echo" if call.contains("/proc/") => Some(format!("cat {}", call.split(" > ").nth(1)?)),
        _ if *child == 0 => None,
        // How many mounts pass something on, or receive it: where `/` is private, none does. See proc_pid_mountinfo(5).
        "mount" if call.contains("MS_PRIVATE") => {
            Some(format!("grep -c -e shared: -e master: /proc/{child}/mountinfo"))
        }
        "mount" => {
            let target = call.split('"').nth(3)?;
            if let Some(number) = target.strip_prefix("/proc/self/fd/") {
                return Some(format!("readlink /proc/{child}/fd/{number}; tail -n1 /proc/{child}/mountinfo"));
            }
            Some(format!("grep -w {} /proc/{child}/mountinfo", target.rsplit('/').next()?))
        }
        "sethostname" => Some(format!("{enter} --uts --target {child} hostname")),
        "ioctl" => Some(format!("{enter} --net --target {child} ip link")),
        "unshare" => Some(format!("ls -l /proc/{child}/ns/cgroup")),
        _ => None,
    }
}
