//! A program that misbehaves: it types a command into the terminal that it was started from, as if its user had. The shell
//! there runs it as soon as it reads again. `typist TEXT`. See TIOCSTI in ioctl_tty(2), and CVE-2017-5226.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

fn main() {
    let text = std::env::args().nth(1).unwrap_or_default() + "\n";
    let terminals = ["/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/tty"];
    for (name, terminal) in terminals.iter().filter_map(|name| Some((name, File::open(name).ok()?))) {
        let push = |byte: &u8| {
            // SAFETY: the kernel reads one byte, which outlives the call.
            unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSTI, byte) }
        };
        if text.as_bytes().iter().map(push).all(|result| result == 0) {
            println!("typed into {name}");
            return;
        }
        println!("{name}: {}", std::io::Error::last_os_error());
    }
    std::process::exit(1);
}
