//! What a detached container writes: kept by its monitor, a line at a time, with the time and the stream.
//!
//! The form is that of Docker's `json-file`: `{"log":"hello\n","stream":"stdout","time":"2026-11-24T01:02:03.456Z"}`.
//! JSON is UTF-8: other bytes are kept as `\u{fffd}`.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollTimeout;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
use serde::{Deserialize, Serialize};
use shared::explain::{self, During};
use shared::signals::{self, Came};

use crate::Part;
use crate::store::{Container, now, read_end};

/// A log that has grown to this becomes `log.old`, and the `log.old` before it is gone: so a container cannot fill the
/// memory that `/run` is made of.
const KEEP: u64 = 8 << 20;
/// What is longer is cut into several lines.
const LONGEST_LINE: usize = 16 << 10;
/// How often one that follows looks.
const INTERVAL_MS: u8 = 50;

/// One line of the log.
#[derive(Serialize, Deserialize)]
struct Line {
    log: String,
    stream: Stream,
    time: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stream {
    Stdout,
    Stderr,
}

/// A part of a detached container: its standard output and error lead to the log, and its input is empty.
pub struct Output {
    path: PathBuf,
    null: File,
    pipes: [Pipe; 2],
    file: RefCell<File>,
    /// Lines that could not be written, as the disk was full.
    lost: Cell<usize>,
}

struct Pipe {
    stream: Stream,
    read: OwnedFd,
    /// Kept open here too, so that the reading end never ends: a program may close its output and open it again.
    write: OwnedFd,
    /// The beginning of a line that has no end yet.
    rest: RefCell<Vec<u8>>,
}

impl Output {
    /// Host: the pipes, and the file that they will lead to.
    pub fn open(container: &Container) -> Result<Self> {
        let pipe = |stream| {
            let (read, write) = pipe2(OFlag::O_CLOEXEC).during("cannot make a pipe for the log")?;
            // This end alone: the program writes as it does to any pipe.
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).during("cannot make a pipe for the log")?;
            Ok::<_, anyhow::Error>(Pipe { stream, read, write, rest: RefCell::default() })
        };
        let path = container.path("log");
        // There from the beginning, so that whoever wants to follow it can open it before the first line comes.
        let file = if explain::dry_run() { File::open("/dev/null") } else { append(&path) };
        Ok(Output {
            file: RefCell::new(file.during(format_args!("cannot open {}", path.display()))?),
            path,
            null: File::open("/dev/null").during("cannot open /dev/null")?,
            pipes: [pipe(Stream::Stdout)?, pipe(Stream::Stderr)?],
            lost: Cell::new(0),
        })
    }

    /// What the monitor waits for.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        self.pipes.each_ref().map(|pipe| pipe.read.as_fd())
    }

    /// Host: writes down what has come. Never fails: a container does not end because a disk is full.
    pub fn keep(&self) {
        for pipe in &self.pipes {
            let mut rest = pipe.rest.borrow_mut();
            let mut buffer = [0; LONGEST_LINE];
            while let Ok(count @ 1..) = nix::unistd::read(&pipe.read, &mut buffer) {
                rest.extend_from_slice(&buffer[..count]);
                let mut lines = Vec::new();
                let mut begin = 0;
                while let Some(length) = end_of_line(&rest[begin..]) {
                    lines.push(&rest[begin..begin + length]);
                    begin += length;
                }
                self.write(pipe.stream, &lines);
                rest.drain(..begin);
                // One stream that never pauses does not keep the other from being read.
                if count < buffer.len() {
                    break;
                }
            }
        }
    }

    fn write(&self, stream: Stream, lines: &[&[u8]]) {
        let time = now();
        let mut records = Vec::new();
        for line in lines {
            let record = Line { log: String::from_utf8_lossy(line).into_owned(), stream, time: time.clone() };
            let _ = serde_json::to_writer(&mut records, &record); // memory takes everything
            records.push(b'\n');
        }
        let write = || -> std::io::Result<()> {
            let mut file = self.file.borrow_mut();
            file.write_all(&records)?;
            if file.metadata()?.len() > KEEP {
                std::fs::rename(&self.path, self.path.with_extension("old"))?;
                *file = append(&self.path)?;
            }
            Ok(())
        };
        if write().is_err() {
            self.lost.set(self.lost.get() + lines.len());
        }
    }
}

impl Part for Output {
    /// Child: from here on its words go to the log, and no key at the caller's terminal reaches it.
    fn enter(&self) -> Result<()> {
        let [out, err] = &self.pipes;
        explain::child(format_args!("setsid()"), setsid)?;
        let numbers = [self.null.as_raw_fd(), out.write.as_raw_fd(), err.write.as_raw_fd()];
        // Told before, as afterwards it would be told to the log.
        explain::child_last(format_args!("dup2({}, 0); dup2({}, 1); dup2({}, 2)", numbers[0], numbers[1], numbers[2]))?;
        if explain::dry_run() {
            return Ok(());
        }
        explain::hush();
        dup2_stdin(&self.null).during("dup2(/dev/null, 0)")?;
        dup2_stdout(&out.write).during("dup2(log, 1)")?;
        dup2_stderr(&err.write).during("dup2(log, 2)")
    }

    /// Host: what came last, also where no newline follows.
    fn cleanup(&self) -> Result<()> {
        self.keep();
        for pipe in &self.pipes {
            let rest = pipe.rest.take();
            if !rest.is_empty() {
                self.write(pipe.stream, &[&rest]);
            }
        }
        match self.lost.get() {
            0 => Ok(()),
            lost => anyhow::bail!("{lost} lines of the log could not be written to {}", self.path.display()),
        }
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
    // A character has at most four bytes, and those after the first begin with the bits 10.
    let last = head.iter().rposition(|byte| byte & 0b1100_0000 != 0b1000_0000).unwrap_or(0);
    Some(if head.len() - last < 4 && last > 0 { last } else { head.len() })
}

/// How a log is shown.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Show {
    /// Go on until the container has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Each line with its time
    #[arg(short, long)]
    pub timestamps: bool,
}

/// A place in a container's log, from which it is shown.
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// Half a line, of a write that is just being made.
    rest: String,
}

impl Reader {
    /// From the first line on.
    pub fn from_start(container: &Container) -> Self {
        let path = container.path("log");
        Reader { file: open(&path.with_extension("old")).or_else(|| open(&path)), path, rest: String::new() }
    }

    /// From here on: only what comes now.
    pub fn from_end(container: &Container) -> Result<Self> {
        let mut reader = Reader::from_start(container);
        reader.read(&mut |_| Ok(()))?;
        Ok(reader)
    }

    /// Shows what is there: what the container wrote to its standard output on ours, and likewise its errors.
    pub fn show(&mut self, timestamps: bool) -> Result<()> {
        self.read(&mut |line| {
            let time = if timestamps { format!("{} ", line.time) } else { String::new() };
            let text = format!("{time}{}", line.log);
            match line.stream {
                Stream::Stdout => std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()),
                Stream::Stderr => std::io::stderr().write_all(text.as_bytes()),
            }
        })
    }

    /// Shows what is there and what comes, until the container has ended. A signal that comes meanwhile is given to `signal`.
    pub fn follow(
        &mut self,
        container: &Container,
        timestamps: bool,
        mut signal: impl FnMut(Came) -> Result<()>,
    ) -> Result<()> {
        let mut exit = container.open_end()?;
        loop {
            // In this order: what was written before the end is read after it was seen.
            let ended = read_end(&mut exit)?.is_some() || !shared::lock::is_locked(&container.path(""));
            self.show(timestamps)?;
            if ended {
                return Ok(());
            }
            if let Some(came) = signals::wait_for(&[], PollTimeout::from(INTERVAL_MS))? {
                signal(came)?;
            }
        }
    }

    fn read(&mut self, show: &mut dyn FnMut(Line) -> std::io::Result<()>) -> Result<()> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.path);
            }
            let Some(file) = &mut self.file else { return Ok(()) };
            while file.read_line(&mut self.rest).during("cannot read the log")? > 0 && self.rest.ends_with('\n') {
                let line = serde_json::from_str(&self.rest);
                self.rest.clear();
                let Ok(line) = line else { continue };
                show(line).during("cannot show the log")?;
            }
            // This file became `log.old`, or is it: then the next one follows.
            let inode = |path: &Path| path.metadata().map(|it| it.ino()).ok();
            let own = file.get_ref().metadata().map(|it| it.ino()).ok();
            if inode(&self.path).is_none_or(|now| Some(now) == own) {
                return Ok(());
            }
            self.file = None;
        }
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

fn open(path: &Path) -> Option<BufReader<File>> {
    File::open(path).ok().map(BufReader::new)
}
