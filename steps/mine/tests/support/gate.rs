//! Whether the child waits for the host, found out by holding the host.

use std::fs::read_link;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Checked, missing, soon, stat};

const NO_GATE: &str = "the child runs on before the host has mapped its ids: hold it at a gate";

/// Holds the host as soon as it has made the child (ptrace(2)), and looks at what the child does without it.
pub fn holds_the_child(mine: &Path, root: Option<&Path>) -> Checked {
    let mut command = Command::new(mine);
    command.args(root).args(["sh", "-c", ":"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec, one system call.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut process = command.spawn().expect("mine");
    let host = Pid::from_raw(process.id() as i32);
    let verdict = watch(host);
    let _ = kill(host, Signal::SIGKILL);
    let _ = process.wait();
    verdict
}

fn watch(host: Pid) -> Checked {
    waitpid(host, Some(WaitPidFlag::__WALL)).expect("the stop at exec");
    let births = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(host, births | Options::PTRACE_O_EXITKILL).expect("ptrace");
    let mut signal = None;
    let child = loop {
        ptrace::cont(host, signal).expect("ptrace");
        match waitpid(host, Some(WaitPidFlag::__WALL)).expect("waitpid") {
            WaitStatus::PtraceEvent(..) => break Pid::from_raw(ptrace::getevent(host).expect("ptrace") as i32),
            WaitStatus::Stopped(_, it) => signal = Some(it),
            ended => return missing("mine makes no child", format!("{ended:?}")),
        }
    };
    waitpid(child, Some(WaitPidFlag::__WALL)).expect("the stop at birth");
    ptrace::detach(child, None).expect("ptrace");

    // It sleeps in one call and stays there; or it has become the program, or has ended.
    let program = |pid| read_link(format!("/proc/{pid}/exe"));
    let (itself, mut asleep, mut seen) = (program(host).expect("exe"), 0, String::new());
    soon(|| {
        seen = stat(child, 3).unwrap_or_default();
        asleep = if seen == "S" { asleep + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(10));
        asleep == 20 || seen.is_empty() || seen == "Z" || program(child).is_ok_and(|it| it != itself)
    });
    let waits = asleep == 20 && program(child).is_ok_and(|it| it == itself);
    let _ = kill(child, Signal::SIGKILL);
    if waits { Ok(()) } else { missing(NO_GATE, "") }
}
