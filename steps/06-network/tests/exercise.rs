//! Exercise 3 of chapter 06. Red until you have done it: `cargo test -p step06-network --test exercise`.

#[allow(dead_code)]
#[path = "../../04-engine/tests/step/home.rs"]
mod home;

use home::Home;

#[test]
fn a_name_can_be_that_of_the_host() {
    let root = home::own_root(&[]);
    let dir = root.path().join("rootfs").display().to_string();
    let home = Home::new();
    // Without a network: /etc/hosts is written all the same.
    let words = |host| ["run", "--rm", "--network", "none", "--rootfs", &dir, "--add-host", host, "cat", "/etc/hosts"];
    let has = |host, line: &str| {
        let hosts = home.ok(&words(host));
        assert!(hosts.lines().any(|it| it == line), "no line {line:?} in:\n{hosts}");
    };
    has("here:host-gateway", "10.6.0.1 here");
    has("host-gateway:192.0.2.7", "192.0.2.7 host-gateway");
    home.refuses(&words("here:gateway"), "a host is NAME:IP");
}
