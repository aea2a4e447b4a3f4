//! A program that misbehaves: it types a command into the terminal that it was started from, as if its user had. The shell
//! there runs it as soon as it reads again. `typist TEXT`. See TIOCSTI in ioctl_tty(2), and CVE-2017-5226.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::IntoRawFd;

fn main() {
    let text = std::env::args().nth(1).unwrap_or_default() + "\n";
    // What it was given, and what /dev/tty is.
    let tty = File::open("/dev/tty").map(|file| file.into_raw_fd());
    for terminal in [0, 1, 2].into_iter().chain(tty) {
        let push = |byte: &u8| {
            // SAFETY: the kernel reads one byte, which outlives the call.
            unsafe { libc::ioctl(terminal, libc::TIOCSTI, byte) }
        };
        if text.as_bytes().iter().map(push).all(|result| result == 0) {
            println!("typed into {terminal}");
            return;
        }
        println!("{terminal}: {}", std::io::Error::last_os_error());
    }
    std::process::exit(1);
}
