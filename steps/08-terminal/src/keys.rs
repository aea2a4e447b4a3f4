//! The keys that detach: by default Ctrl-P and then Ctrl-Q, as Docker has it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A sequence of bytes; none where nothing detaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Keys(vec![16, 17])
    }
}

impl FromStr for Keys {
    type Err = String;

    /// Docker's syntax: `ctrl-p,ctrl-q`, `ctrl-\`, `a,b,c`; empty: none.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
            (None, [byte]) if byte.is_ascii_graphic() => Ok(*byte),
            (Some(name), _) => match name.as_bytes() {
                [byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
                    Ok(byte.to_ascii_uppercase() - b'@')
                }
                _ => Err(format!("no terminal has a key `{word}`: ctrl- and one of a-z @ [ \\ ] ^ _")),
            },
            _ => Err(format!("`{word}` is no key: one character, or ctrl- and one")),
        };
        let words = text.split(',').filter(|_| !text.is_empty());
        words.map(key).collect::<Result<_, _>>().map(Keys)
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = |byte: &u8| match byte {
            0..=31 => format!("ctrl-{}", char::from(byte + b'@').to_ascii_lowercase()),
            byte => char::from(*byte).to_string(),
        };
        f.write_str(&self.0.iter().map(name).collect::<Vec<_>>().join(","))
    }
}

/// What is typed, looked through for these keys.
#[derive(Debug)]
pub struct Watch {
    keys: Vec<u8>,
    /// How many of them have been typed, and are held back: they are no others' yet.
    held: usize,
}

impl Watch {
    pub fn new(keys: &Keys) -> Self {
        Watch { keys: keys.0.clone(), held: 0 }
    }

    /// What of these bytes is for the container, and whether the last of the keys was among them. What follows that is
    /// dropped.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::new();
        for byte in typed {
            // What was held may begin the keys once more, one later: of `a,a,b` in `aaab`.
            while self.held > 0 && self.keys.get(self.held) != Some(byte) {
                passed.extend(self.give_up_one());
            }
            match self.keys.first() {
                _ if self.held > 0 => self.held += 1,
                Some(first) if first == byte => self.held = 1,
                _ => passed.push(*byte),
            }
            if self.held > 0 && self.held == self.keys.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }

    /// What was held back, after a while in which nothing has followed.
    pub fn give_up(&mut self) -> Vec<u8> {
        self.keys[..std::mem::take(&mut self.held)].to_vec()
    }

    pub fn holds(&self) -> bool {
        self.held > 0
    }

    /// The shortest beginning of what is held, so that the rest is a beginning of the keys again.
    fn give_up_one(&mut self) -> Vec<u8> {
        let held = &self.keys[..self.held];
        let from = (1..=self.held).find(|from| self.keys.starts_with(&held[*from..])).unwrap_or(self.held);
        let given = held[..from].to_vec();
        self.held -= from;
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Keys {
        text.parse().expect(text)
    }

    #[test]
    fn keys_are_written_as_docker_has_them() {
        assert_eq!(keys("ctrl-p,ctrl-q"), Keys::default());
        assert_eq!(keys("ctrl-\\,a,ctrl-@").0, [28, b'a', 0]);
        assert_eq!(keys(""), Keys(vec![]));
        for text in ["ctrl-p,ctrl-q", "ctrl-\\,a,ctrl-@", ""] {
            assert_eq!(keys(text).to_string(), text);
        }
        for bad in ["ctrl-", "ctrl-1", "ctrl-P", "ab", "ctrl-p,", ",", "é"] {
            assert!(bad.parse::<Keys>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_sequence_is_passed_on() {
        let mut watch = Watch::new(&Keys::default());
        assert_eq!(watch.pass(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(watch.pass(&[16]), (vec![], false));
        assert!(watch.holds());
        assert_eq!(watch.pass(b"x"), (vec![16, b'x'], false));
        assert_eq!(watch.pass(&[16, 16]), (vec![16], false));
        assert_eq!(watch.give_up(), [16]);
        assert!(!watch.holds());
        assert_eq!(watch.pass(&[b'a', 16, 17, b'b']), (vec![b'a'], true));
    }

    #[test]
    fn a_sequence_that_begins_within_another_is_found() {
        let mut watch = Watch::new(&keys("a,a,b"));
        assert_eq!(watch.pass(b"aaa"), (b"a".to_vec(), false));
        assert_eq!(watch.pass(b"b"), (vec![], true));
        assert_eq!(Watch::new(&keys("")).pass(&[16, 17]), (vec![16, 17], false));
        assert_eq!(Watch::new(&keys("a")).pass(b"a"), (vec![], true));
    }
}
