//! The small helper: what every step uses and no step teaches.
//!
//! - [`explain`]: the call that is shown. Every system call of the lesson goes through it.
//! - [`failure`]: what failed, in one sentence, with the exit code and the remedy.
//! - [`formula`]: `Container = cgroup + namespace + rootfs + engine`, with the terms that are true lit.
//! - [`kernel_file`]: files without a size, read in one go.
//! - [`lock`]: one at a time.
//! - [`mountinfo`]: which file system is mounted where.
//! - [`narration`]: how calls are printed and folded.
//! - `pause`: `--pause`.
//! - [`remedy`]: for the failures that everyone meets, what to do.
//! - [`signals`]: taken at moments when nothing is half done.
//! - [`sys`]: system calls that the crate `nix` lacks and more than one step makes.

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "containers are made by the Linux kernel: build and run this inside a Linux virtual machine (lima, multipass, or WSL2 on Windows)"
);

#[cfg(target_os = "linux")]
pub mod explain;
#[cfg(target_os = "linux")]
pub mod failure;
#[cfg(target_os = "linux")]
pub mod formula;
#[cfg(target_os = "linux")]
pub mod kernel_file;
#[cfg(target_os = "linux")]
pub mod lock;
#[cfg(target_os = "linux")]
pub mod mountinfo;
#[cfg(target_os = "linux")]
pub mod narration;
#[cfg(target_os = "linux")]
mod pause;
#[cfg(target_os = "linux")]
pub mod remedy;
#[cfg(target_os = "linux")]
pub mod signals;
#[cfg(target_os = "linux")]
pub mod sys;
