//! Exercise 3 of chapter 07. Red until you have done it: `cargo test -p step07-layers --test exercise`.

#[allow(dead_code)]
#[path = "../../04-engine/tests/step/home.rs"]
mod home;

use home::Home;

#[test]
fn diff_says_how_large_an_added_file_is() {
    let root = home::own_root(&[]);
    let dir = root.path().join("rootfs").display().to_string();
    let home = Home::new();
    let script = "printf 12345 >/five; mkdir /dir; rm /etc/group";
    home.ok(&["run", "--name", "it", "--network", "none", "--rootfs", &dir, "sh", "-c", script]);
    let diff = home.ok(&["diff", "it"]);
    for line in ["A /five 5", "A /dir", "D /etc/group"] {
        assert!(diff.lines().any(|it| it == line), "no line {line:?} in:\n{diff}");
    }
}
