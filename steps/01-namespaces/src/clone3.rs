//! The newer call, which alone can make a time namespace: CLONE_NEWTIME is no flag of clone(2), which needs that bit
//! for the number of a signal.

use anyhow::Result;
use nix::unistd::Pid;
use shared::call;
use shared::explain;

use crate::gate::Gate;
use crate::sys;
use crate::view::{Namespace, View, flag_names};

/// Host: as [`clone`](crate::clone), and with a time namespace.
pub fn clone3(view: &View, gate: &mut Gate) -> Result<Pid> {
    let flags = view.clone_flags() | Namespace::Time.flag();
    explain::host(call!("clone3({{flags={}, exit_signal=SIGCHLD}})", flag_names(flags)))
        .run(|| sys::clone3(flags.bits() as u64, || gate.child()))
}
