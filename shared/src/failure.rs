//! What failed, in one sentence: doing what, to what, and why, the errno by name; with an exit code that means something,
//! and with what to do about it where that is known.

use std::fmt::{self, Display};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::Result;
use nix::errno::Errno;

use crate::{remedy, signals};

/// Docker's exit code for a failure of the engine itself, here of the step.
pub const STEP_FAILED: u8 = 125;

/// A failure whose sentence is finished and whose exit code is known: the child's, or that of a command that cannot start.
#[derive(Debug)]
pub struct Failure {
    /// 125, 126, 127, or 128 and a signal's number.
    pub code: u8,
    /// One sentence, lower case.
    pub sentence: String,
    /// What to do, where that is known.
    pub remedy: Option<String>,
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// What is known of an error: its code, its sentence, its remedy.
    pub fn of(error: &anyhow::Error) -> Self {
        let sentence = format!("{error:#}");
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return Failure { code: failure.code, sentence, remedy: failure.remedy.clone() };
        }
        if let Some(signals::Interrupted(signal)) = error.downcast_ref() {
            return Failure { code: 128 + *signal as u8, sentence, remedy: None };
        }
        let remedy = error.downcast_ref::<CallFailed>().and_then(|failed| remedy::find(&failed.call, failed.errno));
        Failure { code: STEP_FAILED, sentence, remedy }
    }

    /// To be sent to another process, which reports it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let remedy = self.remedy.as_deref().unwrap_or_default();
        [&[self.code], self.sentence.as_bytes(), b"\0", remedy.as_bytes()].concat()
    }

    /// What [`to_bytes`](Self::to_bytes) has made, behind the code.
    fn from_bytes(code: u8, rest: &[u8]) -> Self {
        let text = String::from_utf8_lossy(rest);
        let (sentence, remedy) = text.split_once('\0').unwrap_or((&text, ""));
        let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
        Failure { code, sentence: sentence.to_owned(), remedy }
    }
}

/// Waits for another process's answer: a byte below 125 that both know, or the failure that it has sent instead. `None`
/// where it has closed its end, by exec or its death. A signal that arrives before that is given to `signal`.
///
/// # Errors
/// The other process's failure; that of `signal`.
pub fn answer(from: &mut UnixStream, signal: impl FnMut(signals::Received) -> Result<()>) -> Result<Option<u8>> {
    signals::wait_for_answer(from.as_fd(), signal)?;
    let mut first = [0];
    // ECONNRESET: it was killed before it had read all that was sent to it.
    match (from.read(&mut first).unwrap_or(0), first[0]) {
        (0, _) => Ok(None),
        (_, word) if word < STEP_FAILED => Ok(Some(word)),
        (_, code) => {
            let mut rest = Vec::new();
            let _ = from.read_to_end(&mut rest); // what has arrived says enough
            Err(Failure::from_bytes(code, &rest).into())
        }
    }
}

/// A call that the kernel refused.
#[derive(Debug)]
pub struct CallFailed {
    /// As it was printed.
    pub call: String,
    /// Why.
    pub errno: Errno,
}

impl Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.call, errno(self.errno))
    }
}

impl std::error::Error for CallFailed {}

/// For a failure of something that is not printed, as it changes nothing.
pub trait During<T> {
    /// `what: ENOENT: no such file or directory`, with the remedy where one is known.
    fn during(self, what: impl Display) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl Display) -> Result<T> {
        self.map_err(|error| CallFailed { call: what.to_string(), errno: errno_of(error.into()) }.into())
    }
}

/// Whether this is a call that failed, and with this errno.
pub fn is(error: &anyhow::Error, errno: Errno) -> bool {
    error.downcast_ref::<CallFailed>().is_some_and(|failed| failed.errno == errno)
}

/// Errors that the library has found itself, like a write of nothing, have no number: they count as EIO.
pub fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// `ENOENT: no such file or directory`.
pub fn errno(errno: Errno) -> String {
    let (first, rest) = errno.desc().split_at(1);
    // "I/O error" keeps its capital, "No such file" does not.
    let first = if rest.starts_with(char::is_lowercase) { first.to_lowercase() } else { first.to_owned() };
    format!("{errno:?}: {first}{rest}")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_failure_crosses_to_another_process() {
        let sent = |bytes: &[u8]| {
            let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
            there.write_all(bytes).expect("write");
            drop(there);
            answer(&mut here, signals::interrupt)
        };
        for remedy in [None, Some("use sudo".to_owned())] {
            let failure = Failure { code: 127, sentence: "no such file".to_owned(), remedy };
            let there = sent(&failure.to_bytes()).expect_err("a failure").downcast::<Failure>().expect("the same");
            assert_eq!((there.code, there.sentence, there.remedy), (failure.code, failure.sentence, failure.remedy));
        }
        assert_eq!(sent(&[0]).expect("a word"), Some(0));
        assert_eq!(sent(&[]).expect("silence"), None);
    }

    #[test]
    fn an_errno_has_its_name_and_a_sentence_in_lower_case() {
        assert_eq!(errno(Errno::ENOENT), "ENOENT: no such file or directory");
        assert_eq!(errno(Errno::EIO), "EIO: I/O error");
    }

    #[test]
    fn the_exit_code_says_who_has_failed() {
        let code = |error: anyhow::Error| Failure::of(&error).code;
        let refused = || CallFailed { call: "mkdir /a".to_owned(), errno: Errno::EACCES };
        assert_eq!(code(refused().into()), STEP_FAILED);
        assert_eq!(code(Failure { code: 126, sentence: String::new(), remedy: None }.into()), 126);
        assert_eq!(code(signals::Interrupted(nix::sys::signal::Signal::SIGINT).into()), 130);
        let error = anyhow::Error::from(refused()).context("in the root /r");
        assert!(is(&error, Errno::EACCES) && !is(&error, Errno::ENOENT));
        assert_eq!(Failure::of(&error).sentence, "in the root /r: mkdir /a: EACCES: permission denied");
    }
}
