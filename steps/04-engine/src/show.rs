//! What a detached container has written, on the caller's own standard output and error: `logs` and `start -a`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use shared::explain;
use shared::failure::During;

use crate::container::{Container, End, read_end};
use crate::directory;
use crate::log::{Line, Stream};

/// How often one that follows looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// Bytes that are gathered before they are written.
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
        while reader.next()?.is_some() {}
        Ok(reader)
    }

    /// Whether there is a log at all.
    pub fn has_log(&self) -> bool {
        self.file.is_some()
    }

    /// Shows what is there: what the container wrote to its standard output on ours, and likewise its errors.
    ///
    /// # Errors
    /// Where it cannot be read, or nobody reads what is shown.
    pub fn show(&mut self, timestamps: bool) -> Result<()> {
        let mut out = Vec::new();
        while let Some(line) = self.next()? {
            let begins = !std::mem::replace(&mut self.within[line.stream as usize], !line.log.ends_with('\n'));
            let time = if timestamps && begins { format!("{} ", line.time) } else { String::new() };
            let text = [time.as_bytes(), line.log.as_bytes()].concat();
            match line.stream {
                Stream::Stdout => out.extend(text),
                // In the order in which they were written, if both are one terminal.
                Stream::Stderr => {
                    write(std::io::stdout(), &std::mem::take(&mut out))?;
                    write(std::io::stderr(), &text)?;
                }
            }
            if out.len() >= AT_ONCE {
                write(std::io::stdout(), &std::mem::take(&mut out))?;
            }
        }
        write(std::io::stdout(), &out)
    }

    /// Shows what is there and what follows, until the container has ended. How it has, by the file `exit` that says so;
    /// `None` where that could not be written down.
    ///
    /// # Errors
    /// Those of [`show`](Self::show).
    pub fn follow(&mut self, container: &Container, mut exit: File, timestamps: bool) -> Result<Option<End>> {
        loop {
            // In this order: the end is written before the lock is released, and the last line before that.
            let alone = !container.is_looked_after();
            let end = read_end(&mut exit)?;
            self.show(timestamps)?;
            if alone || end.is_some() {
                return Ok(end);
            }
            std::thread::sleep(INTERVAL);
        }
    }

    /// The next line, if there is one now.
    fn next(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(line) = self.line()? {
                return Ok(Some(line));
            }
            // First the look, then the rest of the file: once it is `log.0` no more, nothing is added to it.
            let is_this = |path: &PathBuf| self.file.as_ref().is_some_and(|file| is_same(path, file.get_ref()));
            let place = self.files.iter().position(is_this);
            if let Some(line) = self.line()? {
                return Ok(Some(line));
            }
            self.file = match place {
                Some(0) => return Ok(None),
                // Removed, or the container is, and all has been read; or there is none yet: one that has run in the
                // foreground gets a log when it is started again.
                None if !self.files[0].exists() => return Ok(None),
                None if self.file.is_some() => {
                    explain::line(format_args!(
                        "# some lines may be missing: they were written faster than they could be shown"
                    ));
                    self.rest.clear();
                    open(&self.files[1]).or_else(|| open(&self.files[0]))
                }
                _ => open(&self.files[0]),
            };
        }
    }

    /// The next line of this file.
    fn line(&mut self) -> Result<Option<Line>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        while file.read_until(b'\n', &mut self.rest).during("cannot read the log")? > 0 && self.rest.ends_with(b"\n") {
            // What a full disk has cut off is no line.
            let line = serde_json::from_slice(&self.rest).ok();
            self.rest.clear();
            if line.is_some() {
                return Ok(line);
            }
        }
        Ok(None)
    }
}

fn write(mut to: impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).during("cannot show the log")
}

fn open(path: &Path) -> Option<BufReader<File>> {
    directory::open_file(path).ok().map(BufReader::new)
}

fn is_same(path: &Path, file: &File) -> bool {
    path.metadata().is_ok_and(|it| file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (it.dev(), it.ino())))
}
