//! What the kernel says of a process's namespaces: `/proc/PID/ns/`, see namespaces(7).

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use nix::unistd::Pid;
use shared::explain;
use shared::failure::During;
use shared::formula::Fact;

use crate::view::{Namespace, View};

/// Host: what the kernel says of the child's namespaces. Those that were asked for must be its own.
///
/// # Errors
/// ENOENT where the child is gone.
pub fn facts(child: Pid, view: &View) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let fact = |namespace: &Namespace| {
        let (host, child) = (link("self", *namespace)?, link(&child.to_string(), *namespace)?);
        let brief = namespace.file().to_owned();
        Ok(Fact { what: format!("{} namespace", namespace.file()), holds: host != child, host, child, brief })
    };
    view.namespaces().iter().map(fact).collect()
}

/// Host: the namespaces of a process that are not ours.
///
/// # Errors
/// ENOENT where it is gone, EACCES where it is another user's.
pub fn own_of(process: Pid) -> Result<Vec<Namespace>> {
    let mut own = Vec::new();
    for namespace in Namespace::value_variants() {
        if link("self", *namespace)? != link(&process.to_string(), *namespace)? {
            own.push(*namespace);
        }
    }
    Ok(own)
}

/// Host: which namespace of this kind a process is in, by `/proc/PROCESS/ns`: `pid:[4026531836]`; empty where the kernel has
/// no such namespaces. namespaces(7).
///
/// # Errors
/// ENOENT where it is gone, EACCES where it is another user's.
pub fn link(process: &str, namespace: Namespace) -> Result<String> {
    let path = format!("/proc/{process}/ns/{}", namespace.file());
    match std::fs::read_link(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound && Path::new("/proc").join(process).exists() => {
            Ok(String::new())
        }
        link => Ok(link.during(format_args!("cannot read {path}"))?.to_string_lossy().into_owned()),
    }
}
