//! Files that the kernel makes up when they are read: those of `/proc` and of cgroups.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;

use crate::failure::During;

/// The whole text, in as few reads as there are pages of it. `std::fs::read_to_string` asks for the size, gets 0, and
/// begins with reads of 32 bytes.
///
/// # Errors
/// Those of open(2) and read(2), with the path.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let pages = || {
        let mut file = File::open(path)?;
        let (mut text, mut page) = (Vec::new(), [0; 4096]);
        loop {
            match file.read(&mut page)? {
                0 => return Ok::<_, std::io::Error>(text),
                count => text.extend_from_slice(&page[..count]),
            }
        }
    };
    Ok(String::from_utf8_lossy(&pages().during(format_args!("cannot read {}", path.display()))?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_file() {
        let error = read("/proc/self/no-such-file").expect_err("no file");
        assert_eq!(error.to_string(), "cannot read /proc/self/no-such-file: ENOENT: no such file or directory");
    }
}
