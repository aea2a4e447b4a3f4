//! What a detached container writes: kept by its monitor, a line at a time, with the time and the stream.
//!
//! The form is that of Docker's `json-file`: `{"log":"hello\n","stream":"stdout","time":"2026-11-24T01:02:03.456Z"}`.
//! JSON is UTF-8: other bytes are kept as `\u{fffd}`.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
use serde::{Deserialize, Serialize};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::lock::is_locked;
use shared::signals::{self, Received};

use crate::Part;
use crate::container::{Container, End, now, read_end};

/// A log is cut into files, `log.0`, `log.1` and so on, that grow to this. The last two are kept, and what somebody who
/// reads has yet to see; so a container cannot fill the memory that `/run` is made of.
const KEEP: u64 = 8 << 20;
/// However slow somebody reads, no more files than these are kept.
const MOST_FILES: usize = 16;
/// What is longer is cut into several lines.
const LONGEST_LINE: usize = 16 << 10;
/// Bytes, at the end: as much as both pipes can hold that an ordinary user has made as large as possible. pipe(7).
const LAST_BYTES: usize = 2 << 20;
/// How often one that follows looks.
const INTERVAL: Duration = Duration::from_millis(50);

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
    folder: PathBuf,
    null: File,
    pipes: [Pipe; 2],
    /// Where lines are written now: the file, and its number.
    file: RefCell<(File, usize)>,
    /// Lines that could not be written, as the disk was full.
    lost: Cell<usize>,
    /// Whether the last one may stand there in part.
    is_cut: Cell<bool>,
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
        let folder = container.path("");
        let number = numbers(&folder).last().copied().unwrap_or(0);
        // There from the beginning, so that whoever wants to follow it can open it before the first line comes.
        let file = if explain::dry_run() { File::open("/dev/null") } else { append(&folder, number) };
        Ok(Output {
            file: RefCell::new((file.during(format_args!("cannot open the log in {}", folder.display()))?, number)),
            folder,
            null: File::open("/dev/null").during("cannot open /dev/null")?,
            pipes: [pipe(Stream::Stdout)?, pipe(Stream::Stderr)?],
            lost: Cell::new(0),
            is_cut: Cell::new(false),
        })
    }

    /// What the monitor waits for.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        self.pipes.each_ref().map(|pipe| pipe.read.as_fd())
    }

    /// Host: writes down what has come, and hands back how many bytes that were. Never fails: a container does not end
    /// because a disk is full.
    pub fn keep(&self) -> usize {
        let mut bytes = 0;
        // One read of each: the monitor has other things to look at, too, however fast somebody writes.
        for pipe in &self.pipes {
            let mut buffer = vec![0; 4 * LONGEST_LINE]; // not on the stack, which a caller can have made small
            let Ok(count @ 1..) = nix::unistd::read(&pipe.read, &mut buffer) else { continue };
            bytes += count;
            let mut rest = pipe.rest.borrow_mut();
            rest.extend_from_slice(&buffer[..count]);
            let mut lines = Vec::new();
            let mut begin = 0;
            while let Some(length) = end_of_line(&rest[begin..]) {
                lines.push(&rest[begin..begin + length]);
                begin += length;
            }
            self.write(pipe.stream, &lines);
            rest.drain(..begin);
        }
        bytes
    }

    /// How many lines are lost, because a disk was full.
    pub fn lost(&self) -> usize {
        self.lost.get()
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
            let (file, number) = &mut *self.file.borrow_mut();
            file.write_all(&records)?;
            if file.metadata()?.len() > KEEP {
                *file = append(&self.folder, *number + 1)?;
                *number += 1;
                self.remove_old(*number);
            }
            Ok(())
        };
        if write().is_err() {
            self.lost.set(self.lost.get() + lines.len());
            self.is_cut.set(true);
        }
    }

    /// The file before this one stays, and so do those from the first on that somebody reads: the reader comes to them yet.
    fn remove_old(&self, current: usize) {
        let old: Vec<_> = numbers(&self.folder).into_iter().filter(|number| number + 1 < current).collect();
        let too_many = old.len().saturating_sub(MOST_FILES);
        for (place, number) in old.into_iter().enumerate() {
            let path = path(&self.folder, number);
            if place >= too_many && is_read(&path) {
                break;
            }
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Part for Output {
    /// Child: from here on its words go to the log, and no key at the caller's terminal reaches it.
    fn enter(&self) -> Result<()> {
        let [out, err] = &self.pipes;
        explain::child(call!("setsid()")).run(setsid)?;
        let numbers = [self.null.as_raw_fd(), out.write.as_raw_fd(), err.write.as_raw_fd()];
        // Told before, as afterwards it would be told to the log.
        explain::child(call!("dup2({}, 0); dup2({}, 1); dup2({}, 2)", numbers[0], numbers[1], numbers[2]))
            .printed_first()
            .run(|| {
                explain::hush();
                dup2_stdin(&self.null)?;
                dup2_stdout(&out.write)?;
                dup2_stderr(&err.write)
            })
    }

    /// Host: what came last, also where no newline follows. Not without end: all processes of the container's are gone, and
    /// whoever still writes is none of them.
    fn cleanup(&self) -> Result<()> {
        let mut bytes = 0;
        while bytes < LAST_BYTES {
            match self.keep() {
                0 => break,
                more => bytes += more,
            }
        }
        for pipe in &self.pipes {
            let rest = pipe.rest.take();
            if !rest.is_empty() {
                self.write(pipe.stream, &[&rest]);
            }
        }
        Ok(())
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

/// A file of the log, its number, and the lock that keeps it from being removed meanwhile.
type OpenFile = (BufReader<File>, usize, Flock<File>);

/// A place in a container's log, from which it is shown.
pub struct Reader {
    folder: PathBuf,
    /// The one that is being read.
    file: Option<OpenFile>,
    /// Half a line, of a write that is just being made.
    rest: Vec<u8>,
}

impl Reader {
    /// From the first line on.
    pub fn from_start(container: &Container) -> Self {
        let folder = container.path("");
        Reader { file: first(&folder), folder, rest: Vec::new() }
    }

    /// From here on: only what comes now.
    pub fn from_end(container: &Container) -> Result<Self> {
        let mut reader = Reader::from_start(container);
        reader.read(&mut |_| Ok(()), &mut signals::interrupt)?;
        Ok(reader)
    }

    /// Whether there is a log at all.
    pub fn has_log(&self) -> bool {
        self.file.is_some()
    }

    /// Shows what is there: what the container wrote to its standard output on ours, and likewise its errors.
    pub fn show(&mut self, timestamps: bool) -> Result<()> {
        self.show_and_hear(timestamps, &mut signals::interrupt)
    }

    fn show_and_hear(&mut self, timestamps: bool, signal: &mut dyn FnMut(Received) -> Result<()>) -> Result<()> {
        let (mut out, mut err) = (BufWriter::new(std::io::stdout()), std::io::stderr());
        let mut show = |line: Line| {
            let time = if timestamps { format!("{} ", line.time) } else { String::new() };
            let text = format!("{time}{}", line.log);
            match line.stream {
                Stream::Stdout => out.write_all(text.as_bytes()),
                Stream::Stderr => out.flush().and_then(|()| err.write_all(text.as_bytes())),
            }
        };
        self.read(&mut show, signal)?;
        out.flush().during("cannot show the log")
    }

    /// Shows what is there and what comes, until the container has ended, and tells how, by the file `exit` that says so;
    /// `None` where nobody could write that down. A signal that comes meanwhile is given to `signal`.
    pub fn follow(
        &mut self,
        container: &Container,
        mut exit: File,
        timestamps: bool,
        mut signal: impl FnMut(Received) -> Result<()>,
    ) -> Result<Option<End>> {
        loop {
            // In this order: whoever lets go of the lock has written the end before, and the last line before that.
            let alone = !is_locked(&container.path(""));
            let end = read_end(&mut exit)?;
            self.show_and_hear(timestamps, &mut signal)?;
            if alone || end.is_some() {
                return Ok(end);
            }
            if let Some(received) = signals::wait_for(&[], Some(INTERVAL))? {
                signal(received)?;
            }
        }
    }

    fn read(
        &mut self,
        show: &mut dyn FnMut(Line) -> std::io::Result<()>,
        signal: &mut dyn FnMut(Received) -> Result<()>,
    ) -> Result<()> {
        if self.file.is_none() {
            // One that has run in the foreground gets a log when it is started again.
            self.file = first(&self.folder);
        }
        while let Some((file, number, _)) = &mut self.file {
            read_lines(file, &mut self.rest, show, signal)?;
            let later: Vec<_> = numbers(&self.folder).into_iter().filter(|it| it > number).collect();
            // One that is removed just now has another one after it.
            let Some(next) = later.into_iter().find_map(|number| open(&self.folder, number)) else { break };
            // With a next one there, nothing more comes into this one; but it may have come since the last look.
            read_lines(file, &mut self.rest, show, signal)?;
            if next.1 > *number + 1 {
                explain::line(format_args!("# some lines are lost: they came faster than they could be shown"));
            }
            self.file = Some(next);
        }
        Ok(())
    }
}

fn read_lines(
    file: &mut BufReader<File>,
    rest: &mut Vec<u8>,
    show: &mut dyn FnMut(Line) -> std::io::Result<()>,
    signal: &mut dyn FnMut(Received) -> Result<()>,
) -> Result<()> {
    while file.read_until(b'\n', rest).during("cannot read the log")? > 0 && rest.ends_with(b"\n") {
        let line = serde_json::from_slice(rest);
        rest.clear();
        // What a full disk has cut off is no line.
        if let Ok(line) = line {
            show(line).during("cannot show the log")?;
        }
        // Of a container that writes as fast as this shows, there is no end to come to.
        let received = if file.buffer().is_empty() { signals::wait_for(&[], Some(Duration::ZERO))? } else { None };
        received.map_or(Ok(()), &mut *signal)?;
    }
    Ok(())
}

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("log.{number}"))
}

/// The numbers of the files that are there, the oldest first.
fn numbers(folder: &Path) -> Vec<usize> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |name: OsString| name.to_str()?.strip_prefix("log.")?.parse::<u32>().ok();
    let mut numbers: Vec<_> = entries.filter_map(|entry| Some(number(entry.file_name())? as usize)).collect();
    numbers.sort_unstable();
    numbers
}

fn append(folder: &Path, number: usize) -> std::io::Result<File> {
    let file = File::options().append(true).create(true).mode(0o600).open(path(folder, number))?;
    // The caller's umask can have taken rights away, from us too.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// The oldest one that is there.
fn first(folder: &Path) -> Option<OpenFile> {
    numbers(folder).into_iter().find_map(|number| open(folder, number))
}

fn open(folder: &Path, number: usize) -> Option<OpenFile> {
    let file = File::open(path(folder, number)).ok()?;
    let lock = Flock::lock(file.try_clone().ok()?, FlockArg::LockSharedNonblock).ok()?;
    Some((BufReader::new(file), number, lock))
}

fn is_read(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}
