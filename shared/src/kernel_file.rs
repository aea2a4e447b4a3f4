//! Files that the kernel makes up when they are read: those of `/proc` and of cgroups.

use std::fs::File;
use std::io::{Read, Result};
use std::path::Path;

/// The whole text, in as few reads as there are pages of it. `std::fs::read_to_string` asks for the size, gets 0, and
/// begins with reads of 32 bytes.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let mut file = File::open(path)?;
    let (mut text, mut page) = (Vec::new(), [0; 4096]);
    loop {
        match file.read(&mut page)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            count => text.extend_from_slice(&page[..count]),
        }
    }
}
