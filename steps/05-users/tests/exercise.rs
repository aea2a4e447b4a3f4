//! Exercise 3 of chapter 05. Red until you have done it: `cargo test -p step05-users --test exercise`.

#[allow(dead_code)]
#[path = "../../04-engine/tests/step/home.rs"]
mod home;

use home::Home;

#[test]
fn a_program_finds_the_name_of_its_user() {
    let root = home::own_root(&[]);
    let dir = root.path().join("rootfs");
    std::fs::write(dir.join("etc/passwd"), "ada:x:0:0::/home/ada:/bin/sh\n").expect("passwd");
    let home = Home::new();
    let shown = |options: &[&str]| {
        let words = [&["run", "--rm"], options, &["sh", "-c", "echo $USER $HOME"]].concat();
        home.ok_with_root(&dir.display().to_string(), &words)
    };
    assert_eq!(shown(&["--user", "ada"]), "ada /home/ada");
    assert_eq!(shown(&["--user", "0"]), "ada /home/ada", "a number that has a line has that line's name");
    assert_eq!(shown(&["--user", "ada", "-e", "USER=bob"]), "bob /home/ada", "what is given counts more");
    assert_eq!(shown(&["--user", "ada", "-e", "HOME=/tmp"]), "ada /tmp", "each by itself");
}
