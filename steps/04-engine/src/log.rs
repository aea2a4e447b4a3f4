//! What a detached container writes: kept by its monitor, a line at a time, with the time and the stream.
//!
//! Two files: `log.0` grows to 8 MiB and then takes the place of `log.1`. So a container cannot fill the memory that `/run` is
//! made of; and a reader that is further behind than that loses lines, and says so.
//!
//! The form is that of Docker's `json-file`: `{"log":"hello\n","stream":"stdout","time":"2026-11-24T01:02:03.456Z"}`.
//! JSON is UTF-8: other bytes are kept as `\u{fffd}`.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
use serde::{Deserialize, Serialize};
use shared::call;
use shared::explain;
use shared::failure::During;
use shared::signals::{self, Received};

use crate::container::{Container, End, now, read_end};
use crate::{Letter, Part, directory};

/// Bytes of one file.
const KEEP: u64 = 8 << 20;
/// Bytes; longer lines are split.
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
    /// `log.0` and `log.1`.
    files: [PathBuf; 2],
    null: File,
    pipes: [Pipe; 2],
    /// Where lines are written now.
    file: RefCell<File>,
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
        let files = [0, 1].map(|number| container.at(&format!("log.{number}")));
        // There from the beginning, so that one that follows it can open it before the first line comes.
        let file = match &files[0] {
            _ if explain::dry_run() => File::open("/dev/null"),
            file if file.exists() => File::options().append(true).open(file),
            file => directory::create_file(file),
        };
        Ok(Output {
            file: RefCell::new(file.during(format_args!("cannot open {}", container.path("log.0").display()))?),
            files,
            null: File::open("/dev/null").during("cannot open /dev/null")?,
            pipes: [pipe(Stream::Stdout)?, pipe(Stream::Stderr)?],
            lost: Cell::new(0),
            is_cut: Cell::new(false),
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
        for pipe in &self.pipes {
            let rest = pipe.rest.take();
            if !rest.is_empty() {
                self.write(pipe.stream, &[&rest]);
            }
        }
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
    files: [PathBuf; 2],
    /// The one that is being read.
    file: Option<BufReader<File>>,
    /// Half a line, of a write that is just being made.
    rest: Vec<u8>,
    /// Whether standard output and error are within a line that was split: its parts have one time.
    within: [bool; 2],
}

type OnSignal<'s> = &'s mut dyn FnMut(Received) -> Result<()>;
type OnLine<'l> = &'l mut dyn FnMut(Line) -> std::io::Result<()>;

impl Reader {
    /// From the first line on.
    pub fn from_start(container: &Container) -> Self {
        let files = [0, 1].map(|number| container.at(&format!("log.{number}")));
        Reader { file: open(&files[1]).or_else(|| open(&files[0])), files, rest: Vec::new(), within: [false; 2] }
    }

    /// From here on: only what is written now.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn from_end(container: &Container) -> Result<Self> {
        let mut reader = Reader::from_start(container);
        reader.read(&mut |_| Ok(()), &mut signals::interrupt)?;
        Ok(reader)
    }

    /// Whether there is a log at all.
    pub fn has_log(&self) -> bool {
        self.file.is_some()
    }

    /// Shows what is there: what the container wrote to its standard output on ours, and likewise its errors. A signal
    /// received meanwhile is given to `signal`.
    ///
    /// # Errors
    /// Where it cannot be read, or nobody reads what is shown.
    pub fn show(&mut self, timestamps: bool, signal: OnSignal) -> Result<()> {
        let (mut out, mut err) = (BufWriter::new(std::io::stdout()), std::io::stderr());
        let mut within = self.within;
        let mut show = |line: Line| {
            let begins = !std::mem::replace(&mut within[line.stream as usize], !line.log.ends_with('\n'));
            let time = if timestamps && begins { format!("{} ", line.time) } else { String::new() };
            let text = format!("{time}{}", line.log);
            match line.stream {
                Stream::Stdout => out.write_all(text.as_bytes()),
                Stream::Stderr => out.flush().and_then(|()| err.write_all(text.as_bytes())),
            }
        };
        let read = self.read(&mut show, signal);
        self.within = within;
        read?;
        out.flush().during("cannot show the log")
    }

    /// Shows what is there and what follows, until the container has ended. How it has, by the file `exit` that says so;
    /// `None` where that could not be written down.
    ///
    /// # Errors
    /// Those of [`show`](Self::show).
    pub fn follow(
        &mut self,
        container: &Container,
        mut exit: File,
        timestamps: bool,
        signal: OnSignal,
    ) -> Result<Option<End>> {
        loop {
            // In this order: the end is written before the lock is released, and the last line before that.
            let alone = !container.is_looked_after();
            let end = read_end(&mut exit)?;
            self.show(timestamps, signal)?;
            if alone || end.is_some() {
                return Ok(end);
            }
            if let Some(received) = signals::wait_for(&[], Some(INTERVAL))? {
                signal(received)?;
            }
        }
    }

    fn read(&mut self, show: OnLine, signal: OnSignal) -> Result<()> {
        loop {
            if self.file.is_none() {
                // One that has run in the foreground gets a log when it is started again.
                self.file = open(&self.files[0]);
            }
            let Some(file) = &mut self.file else { return Ok(()) };
            // First the look, then the rest of the file: once it is `log.0` no more, nothing is added to it.
            let place = self.files.iter().position(|path| is_same(path, file.get_ref()));
            read_lines(file, &mut self.rest, show, signal)?;
            self.file = match place {
                Some(0) => return Ok(()),
                Some(_) => open(&self.files[0]),
                // Removed, or the container is, and all has been read.
                None if !self.files[0].exists() => return Ok(()),
                None => {
                    explain::line(format_args!(
                        "# some lines are lost: they were written faster than they could be shown"
                    ));
                    self.rest.clear();
                    open(&self.files[1]).or_else(|| open(&self.files[0]))
                }
            };
        }
    }
}

fn read_lines(file: &mut BufReader<File>, rest: &mut Vec<u8>, show: OnLine, signal: OnSignal) -> Result<()> {
    while file.read_until(b'\n', rest).during("cannot read the log")? > 0 && rest.ends_with(b"\n") {
        let line = serde_json::from_slice(rest);
        rest.clear();
        // What a full disk has cut off is no line.
        if let Ok(line) = line {
            show(line).during("cannot show the log")?;
        }
        // Of a container that writes as fast as this shows, there is no end to reach.
        let received = if file.buffer().is_empty() { signals::wait_for(&[], Some(Duration::ZERO))? } else { None };
        received.map_or(Ok(()), &mut *signal)?;
    }
    Ok(())
}

fn open(path: &Path) -> Option<BufReader<File>> {
    directory::open_file(path).ok().map(BufReader::new)
}

fn is_same(path: &Path, file: &File) -> bool {
    path.metadata().is_ok_and(|it| file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (it.dev(), it.ino())))
}
