//! The newer call, which alone can make a time namespace: CLONE_NEWTIME is no flag of clone(2), which needs that bit for the
//! number of a signal.

use anyhow::Result;
use nix::errno::Errno;
use nix::unistd::Pid;
use shared::call;
use shared::explain;

use crate::gate::Gate;
use crate::sys;
use crate::view::{Namespace, View, flag_names};

/// Host: as [`clone`](crate::clone), and with a time namespace. It returns twice, as fork(2) does.
pub fn clone3(view: &View, gate: &mut Gate) -> Result<Pid> {
    let flags = view.clone_flags() | Namespace::Time.flag();
    explain::host(call!("clone3({{flags={}, exit_signal=SIGCHLD}})", flag_names(flags))).run(|| {
        // SAFETY: a step has one thread.
        let pid = unsafe { sys::clone3(flags.bits() as u64) }?;
        // SAFETY: _exit(2) runs nothing more of this process: the child must not go on as a second host.
        Ok::<_, Errno>(pid.unwrap_or_else(|| unsafe { libc::_exit(gate.child() as i32) }))
    })
}
