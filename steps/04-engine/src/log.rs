//! What a detached container writes: kept by its monitor, a line at a time, with the time and the stream.
//!
//! Two files: `log.0` grows to 8 MiB and then takes the place of `log.1`. So a container cannot fill the memory that
//! `/run` is made of; and a reader that is further behind than that loses lines, and says so.
//!
//! The form is that of Docker's `json-file`: `{"log":"hello\n","stream":"stdout","time":"2026-11-24T01:02:03.456Z"}`.
//! JSON is UTF-8: other bytes are kept as `\u{fffd}`.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
use serde::{Deserialize, Serialize};
use shared::call;
use shared::explain;
use shared::failure::During;

use crate::container::{Container, now};
use crate::{Letter, Part, directory};

/// Bytes of one file.
const KEEP: u64 = 8 << 20;
/// Bytes; longer lines are split.
const LONGEST_LINE: usize = 16 << 10;
/// Bytes, at the end: as much as both pipes can hold that an ordinary user has made as large as possible. pipe(7).
const LAST_BYTES: usize = 2 << 20;

/// One line of the log.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    pub log: String,
    pub stream: Stream,
    pub time: String,
}

/// Which of a program's outputs.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; of a terminal, all.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The log of a container, to be written.
pub struct Log {
    /// `log.0` and `log.1`.
    files: [PathBuf; 2],
    /// Where lines are written now.
    file: RefCell<File>,
    /// The beginning of a line that has no end yet: of standard output, of standard error.
    rests: [RefCell<Vec<u8>>; 2],
    /// Lines that could not be written, as the disk was full.
    lost: Cell<usize>,
    /// Whether the last one may stand there in part.
    is_cut: Cell<bool>,
}

/// A part of a detached container: its standard output and error lead to the log, and its input is empty.
pub struct Output {
    pub(crate) log: Log,
    null: File,
    pipes: [Pipe; 2],
}

struct Pipe {
    stream: Stream,
    read: OwnedFd,
    /// Kept open here too, so that the reading end never ends: a program may close its output and open it again.
    write: OwnedFd,
}

impl Log {
    /// Host: in the directory of a container.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        let files = [0, 1].map(|number| directory.join(format!("log.{number}")));
        // There from the beginning, so that one that follows it can open it before the first line comes.
        let file = match &files[0] {
            _ if explain::dry_run() => File::open("/dev/null"),
            file if file.exists() => File::options().append(true).open(file),
            file => directory::create_file(file),
        };
        let file = RefCell::new(file.during(format_args!("cannot open {}", files[0].display()))?);
        Ok(Log { files, file, rests: Default::default(), lost: Cell::new(0), is_cut: Cell::new(false) })
    }

    /// Host: writes down the lines that are whole by now. Never fails: a container does not end because a disk is full.
    pub fn add(&self, stream: Stream, bytes: &[u8]) {
        let mut rest = self.rests[stream as usize].borrow_mut();
        rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        let mut begin = 0;
        while let Some(length) = end_of_line(&rest[begin..]) {
            lines.push(&rest[begin..begin + length]);
            begin += length;
        }
        self.write(stream, &lines);
        rest.drain(..begin);
    }

    /// Host, at the end: the rest, also where no newline follows.
    pub fn end(&self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = self.rests[stream as usize].take();
            if !rest.is_empty() {
                self.write(stream, &[&rest]);
            }
        }
    }

    /// What has become of lines that could not be written, because a disk was full.
    pub fn complaint(&self) -> Option<String> {
        let lost = self.lost.get();
        (lost > 0).then(|| format!("{lost} lines of the log are lost, as they could not be written"))
    }

    fn write(&self, stream: Stream, lines: &[&[u8]]) {
        let time = now();
        // A line of its own for what was cut off: else it would take the next one along.
        let mut records = if self.is_cut.take() { b"\n".to_vec() } else { Vec::new() };
        for line in lines {
            let record = Line { log: String::from_utf8_lossy(line).into_owned(), stream, time: time.clone() };
            let _ = serde_json::to_writer(&mut records, &record); // memory takes everything
            records.push(b'\n');
        }
        let write = || -> std::io::Result<()> {
            let mut file = self.file.borrow_mut();
            file.write_all(&records)?;
            if file.metadata()?.len() > KEEP {
                std::fs::rename(&self.files[0], &self.files[1])?;
                *file = directory::create_file(&self.files[0])?;
            }
            Ok(())
        };
        if write().is_err() {
            self.lost.set(self.lost.get() + lines.len());
            self.is_cut.set(true);
        }
    }
}

impl Output {
    /// Host: the pipes, and the file that they will lead to.
    pub fn open(container: &Container) -> Result<Self> {
        let pipe = |stream| {
            let (read, write) = pipe2(OFlag::O_CLOEXEC).during("cannot make a pipe for the log")?;
            // A program that opens /dev/stdout opens the pipe anew, and may be another user than its maker.
            fchmod(&write, Mode::from_bits_truncate(0o622)).during("cannot make a pipe for the log")?;
            // This end alone: the program writes as it does to any pipe.
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).during("cannot make a pipe for the log")?;
            Ok::<_, anyhow::Error>(Pipe { stream, read, write })
        };
        Ok(Output {
            log: Log::open(&container.at(""))?,
            null: File::open("/dev/null").during("cannot open /dev/null")?,
            pipes: [pipe(Stream::Stdout)?, pipe(Stream::Stderr)?],
        })
    }

    /// Host: writes down what can be read now, and returns how many bytes that were. Never fails: a container does not end
    /// because a disk is full.
    fn keep(&self) -> usize {
        let mut bytes = 0;
        // One read of each: the monitor has other things to look at, too, however fast a program writes.
        for pipe in &self.pipes {
            let mut buffer = vec![0; 4 * LONGEST_LINE]; // not on the stack, which a caller can have made small
            let Ok(count @ 1..) = nix::unistd::read(&pipe.read, &mut buffer) else { continue };
            bytes += count;
            self.log.add(pipe.stream, &buffer[..count]);
        }
        bytes
    }

    /// Host, at the end: the rest, also where no newline follows. Not without end: all processes of the container are
    /// gone, and one that still writes is none of them.
    pub fn keep_the_rest(&self) {
        let mut bytes = 0;
        while bytes < LAST_BYTES {
            match self.keep() {
                0 => break,
                more => bytes += more,
            }
        }
        self.log.end();
    }
}

impl Part for Output {
    fn name(&self) -> &'static str {
        "log"
    }

    /// Child: from here on its words go to the log, and no key at the caller's terminal reaches it.
    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        let [out, err] = &self.pipes;
        explain::child(call!("setsid()")).run(setsid)?;
        let numbers = [self.null.as_raw_fd(), out.write.as_raw_fd(), err.write.as_raw_fd()];
        // Printed before, as afterwards it would be printed to the log.
        explain::child(call!("dup2({}, 0); dup2({}, 1); dup2({}, 2)", numbers[0], numbers[1], numbers[2]))
            .printed_first()
            .run(|| {
                explain::hush();
                dup2_stdin(&self.null)?;
                dup2_stdout(&out.write)?;
                dup2_stderr(&err.write)
            })
    }

    fn watch(&self) -> Vec<BorrowedFd<'_>> {
        self.pipes.iter().map(|pipe| pipe.read.as_fd()).collect()
    }

    fn serve(&self) {
        self.keep();
    }
}

/// Where the first line ends: behind its newline, or where it is cut, between two characters if it has any.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    let head = &bytes[..bytes.len().min(LONGEST_LINE)];
    if let Some(newline) = head.iter().position(|byte| *byte == b'\n') {
        return Some(newline + 1);
    }
    if bytes.len() < LONGEST_LINE {
        return None;
    }
    let begun = head.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
    Some(head.len() - begun)
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_LINE, end_of_line};

    #[test]
    fn a_line_ends_behind_its_newline_or_where_it_is_cut() {
        assert_eq!(end_of_line(b"one\ntwo\n"), Some(4));
        assert_eq!(end_of_line(b"not yet"), None);
        let long = vec![b'x'; LONGEST_LINE + 1];
        assert_eq!(end_of_line(&long), Some(LONGEST_LINE));
    }

    #[test]
    fn a_character_is_not_cut_in_two() {
        let mut long = vec![b'x'; LONGEST_LINE - 1];
        long.extend("é and more".bytes());
        assert_eq!(end_of_line(&long), Some(LONGEST_LINE - 1));
        // What is no text is cut anywhere.
        assert!(end_of_line(&vec![0xff; LONGEST_LINE]).is_some_and(|end| end > LONGEST_LINE - 4));
    }
}
