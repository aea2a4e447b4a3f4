//! What a detached container has written, on the caller's own standard output and error: `logs` and `start -a`.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use shared::explain;
use shared::failure::During;
use shared::signals::{self, Received};

use crate::container::{Container, End, read_end};
use crate::directory;
use crate::log::{Line, Stream};

/// How often one that follows looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// Bytes that are written at once: as many as a pipe takes that takes any. pipe(7), PIPE_BUF.
const AT_ONCE: usize = 4096;

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
type OnLine<'l> = &'l mut dyn FnMut(Line, OnSignal) -> Result<()>;

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
        reader.read(&mut |_, _| Ok(()), &mut signals::interrupt)?;
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
        let (mut out, mut err) = (Screen::of(std::io::stdout())?, Screen::of(std::io::stderr())?);
        let mut within = self.within;
        let mut show = |line: Line, signal: OnSignal| {
            let begins = !std::mem::replace(&mut within[line.stream as usize], !line.log.ends_with('\n'));
            let time = if timestamps && begins { format!("{} ", line.time) } else { String::new() };
            let screen = if matches!(line.stream, Stream::Stdout) { &mut out } else { &mut err };
            screen.waiting.extend([time.as_bytes(), line.log.as_bytes()].concat());
            // In the order in which they were written, if both are one terminal.
            match line.stream {
                Stream::Stdout if out.waiting.len() < AT_ONCE => Ok(()),
                Stream::Stdout => out.flush(signal),
                Stream::Stderr => out.flush(signal).and_then(|()| err.flush(signal)),
            }
        };
        let read = self.read(&mut show, signal);
        self.within = within;
        read?;
        out.flush(signal)
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

/// Standard output or error. A signal is heard also while it takes nothing.
struct Screen {
    file: File,
    /// What is to be written.
    waiting: Vec<u8>,
}

impl Screen {
    fn of(standard: impl AsFd) -> Result<Self> {
        let given = File::from(standard.as_fd().try_clone_to_owned().during("cannot copy a descriptor")?);
        // O_NONBLOCK is of what was opened, which others have, too: so a pipe or terminal is opened once more, where that
        // is allowed. A terminal may take less than there is, and others may fill a pipe first. See open(2).
        let kind = given.metadata().during("cannot look at standard output")?.file_type();
        let path = format!("/proc/self/fd/{}", given.as_raw_fd());
        let again = || File::options().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok();
        let file = (kind.is_fifo() || kind.is_char_device()).then(again).flatten();
        Ok(Screen { file: file.unwrap_or(given), waiting: Vec::new() })
    }

    fn flush(&mut self, signal: OnSignal) -> Result<()> {
        let mut rest = &self.waiting[..];
        while !rest.is_empty() {
            signals::wait_for_room(self.file.as_fd(), &mut *signal)?;
            match self.file.write(&rest[..rest.len().min(AT_ONCE)]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                written => rest = &rest[written.during("cannot show the log")?..],
            }
        }
        self.waiting.clear();
        Ok(())
    }
}

fn read_lines(file: &mut BufReader<File>, rest: &mut Vec<u8>, show: OnLine, signal: OnSignal) -> Result<()> {
    while file.read_until(b'\n', rest).during("cannot read the log")? > 0 && rest.ends_with(b"\n") {
        let line = serde_json::from_slice(rest);
        rest.clear();
        // What a full disk has cut off is no line.
        if let Ok(line) = line {
            show(line, signal)?;
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
