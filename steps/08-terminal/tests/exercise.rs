//! Exercise 2 of chapter 08. Red until you have done it: `cargo test -p step08-terminal --test exercise`.

#[allow(dead_code)]
#[path = "../../04-engine/tests/step/home.rs"]
mod home;
#[allow(dead_code)]
#[path = "step/screen.rs"]
mod screen;

use home::Home;
use screen::Screen;

#[test]
fn a_newline_is_translated_once() {
    let root = home::own_root(&[]);
    let dir = root.path().join("rootfs").display().to_string();
    let home = Home::new();
    let run = ["-q", "run", "--rm", "--network", "none", "--rootfs", &dir, "-t", "echo", "hello"];
    // That the terminal is as it was is looked at, too.
    assert_eq!(Screen::of(home.step(&run)).ended(), (0, "hello\r\n".to_owned()));
}
