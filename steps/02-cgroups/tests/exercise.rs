//! Exercise 3 of chapter 02. Red until you have done it: `cargo test -p step02-cgroups --test exercise`.

use std::process::Command;

use testing::{Run, program, step};

#[test]
fn memory_is_reserved_on_this_machine() {
    let ran = step("step02", ["--dry-run", "--memory-reservation", "32M", "true"]).ran();
    let written = |file: &str| ran.err.lines().any(|line| line.contains("echo 33554432 >") && line.ends_with(file));
    assert!(written("/memory.soft_limit_in_bytes") || written("/memory.low"), "{}", ran.err);
}

#[test]
fn both_twins_know_the_file() {
    assert!(include_str!("../src/v1.rs").contains("\"memory.soft_limit_in_bytes\""), "v1.rs");
    assert!(include_str!("../src/v2.rs").contains("\"memory.low\""), "v2.rs");
}

/// A limit that cannot be kept is never left out in silence.
#[test]
fn without_the_controller_it_is_refused_by_name() {
    let hidden =
        format!("mount -t tmpfs none /sys/fs/cgroup; {} -q --memory-reservation 32M true", program("step02").display());
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &hidden]);
    let ran = Run::new(command).ran();
    assert!(ran.code == 125 && ran.err.contains("--memory-reservation needs"), "{ran:?}");
}
