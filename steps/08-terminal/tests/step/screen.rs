//! A terminal with a command in it, as a learner has one: what it shows, and what is typed.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::{Pid, setsid};

/// Rows and columns that no terminal has by itself.
pub const SIZE: [u16; 2] = [33, 101];

/// A terminal with a command in its foreground.
pub struct Screen {
    pub child: Child,
    master: OwnedFd,
    /// Open here too, so that the terminal outlives the command.
    terminal: Option<OwnedFd>,
    before: Termios,
    bytes: Receiver<Vec<u8>>,
    /// What has not been expected yet.
    shown: String,
}

impl Screen {
    /// Starts a step in it.
    pub fn of(step: testing::Run) -> Self {
        let [ws_row, ws_col] = SIZE;
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        for end in [&pty.master, &pty.slave] {
            // Held by the next command, too, this terminal would never end.
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("close-on-exec");
        }
        let before = tcgetattr(&pty.slave).expect("termios");
        let end = || Stdio::from(pty.slave.try_clone().expect("dup"));
        let command = step.with(|command| {
            command.stdin(end()).stdout(end()).stderr(end());
            in_its_own_session(command);
        });
        let child = command.spawn();
        let mut reader = std::fs::File::from(pty.master.try_clone().expect("dup"));
        let (send, bytes) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO at the end.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Screen { child, master: pty.master, terminal: Some(pty.slave), before, bytes, shown: String::new() }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("kill");
    }

    pub fn types(&self, keys: &str) {
        nix::unistd::write(&self.master, keys.as_bytes()).expect("keys");
    }

    /// Waits until this is shown, and returns what was shown before it.
    pub fn expect(&mut self, text: &str) -> String {
        assert!(self.is_shown_within(testing::PATIENCE, text), "{text:?} is not shown: {:?}", self.shown);
        let at = self.shown.find(text).expect("it is shown");
        let rest = self.shown.split_off(at + text.len());
        let mut before = std::mem::replace(&mut self.shown, rest);
        before.truncate(at);
        before
    }

    /// Gives the window this size until a program draws this in it. One that is about to read its next key when the signal
    /// arrives, as less, forgets it; the same size twice is no signal, so the width is another one in between.
    pub fn is_drawn_at(&mut self, [rows, columns]: [u16; 2], text: &str) {
        testing::wait_until("it is drawn", || {
            self.resize([rows, columns]);
            let is_drawn = self.is_shown_within(Duration::from_secs(2), text);
            if !is_drawn {
                self.resize([rows, columns + 1]);
            }
            is_drawn
        });
        self.expect(text);
    }

    /// Types this again until a program has answered it. One that has just got a signal may drop a key, as less.
    pub fn types_until(&mut self, keys: &str, text: &str) {
        testing::wait_until(&format!("{keys:?} is answered by {text:?}"), || {
            self.types(keys);
            self.is_shown_within(Duration::from_secs(2), text)
        });
        self.expect(text);
    }

    fn is_shown_within(&mut self, time: Duration, text: &str) -> bool {
        let since = Instant::now();
        while !self.shown.contains(text) && since.elapsed() < time {
            if let Ok(bytes) = self.bytes.recv_timeout(Duration::from_millis(100)) {
                self.shown += &String::from_utf8_lossy(&bytes);
            }
        }
        self.shown.contains(text)
    }

    /// Types a line for a shell, and waits for its answer, which ends with a word that the line itself does not have.
    pub fn says(&mut self, line: &str) -> String {
        let word = testing::random_word();
        let (head, tail) = word.split_at(3);
        self.types(&format!("{line}; echo {head}''{tail}\r"));
        let said = self.expect(&word);
        // Its echo, twice where the shell was not ready yet; and what a shell tells a terminal before it runs something.
        let echo = format!("{head}''{tail}");
        let said = said.rfind(&echo).map_or(&said[..], |at| &said[at + echo.len()..]);
        said.replace('\r', "").replace("\u{1b}[?2004l", "").trim().to_owned()
    }

    pub fn resize(&self, [ws_row, ws_col]: [u16; 2]) {
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel reads a winsize, and `size` outlives the call.
        Errno::result(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) }).expect("TIOCSWINSZ");
    }

    /// Whether keys are passed on as they are typed.
    pub fn is_raw(&self) -> bool {
        let now = tcgetattr(self.terminal.as_ref().expect("open")).expect("termios");
        !now.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    pub fn is_as_before(&self) -> bool {
        tcgetattr(self.terminal.as_ref().expect("open")).expect("termios") == self.before
    }

    /// Another command, with this terminal: `stty sane`.
    pub fn run(&self, command: &mut Command) {
        let end = || Stdio::from(self.terminal.as_ref().expect("open").try_clone().expect("dup"));
        assert!(command.stdin(end()).stdout(end()).stderr(end()).status().expect("it runs").success());
    }

    /// What another program could read from the terminal now: what was typed, and nobody has read.
    pub fn unread(&self) -> usize {
        let mut count = 0i32;
        let terminal = self.terminal.as_ref().expect("open").as_fd().as_raw_fd();
        // SAFETY: the kernel writes an int, which outlives the call.
        Errno::result(unsafe { libc::ioctl(terminal, libc::FIONREAD, &mut count) }).expect("FIONREAD");
        count as usize
    }

    /// Waits for the command's end: its exit code.
    pub fn code(&mut self) -> i32 {
        let since = Instant::now();
        while self.child.try_wait().expect("wait").is_none() {
            assert!(since.elapsed() < testing::PATIENCE, "it does not end, and shows {:?}", self.shown);
            if let Ok(bytes) = self.bytes.recv_timeout(Duration::from_millis(10)) {
                self.shown += &String::from_utf8_lossy(&bytes);
            }
        }
        testing::end_of(&mut self.child, testing::PATIENCE)
    }

    /// Waits for the command's end: its exit code, and what was shown until then. The terminal must be as it was.
    pub fn ended(mut self) -> (i32, String) {
        let code = self.code();
        assert!(self.is_as_before(), "the terminal is not as it was: {:?}", self.shown);
        (code, self.rest())
    }

    /// The same, whatever the terminal is.
    pub fn rest(&mut self) -> String {
        drop(self.terminal.take()); // so it ends
        let rest: String = self.bytes.iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        std::mem::take(&mut self.shown) + &rest
    }
}

/// Whatever a failed test leaves does not run on.
impl Drop for Screen {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn in_its_own_session(command: &mut Command) {
    let take = || {
        setsid()?;
        // SAFETY: takes a number and touches no memory of ours.
        Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        Ok(())
    };
    // SAFETY: between fork and exec there are two system calls, which take no lock.
    unsafe { command.pre_exec(take) };
}
