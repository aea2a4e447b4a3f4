//! Exercise 3 of chapter 04. Red until you have done it: `cargo test -p step04-engine --test exercise`.

#[allow(dead_code)]
#[path = "step/home.rs"]
mod home;

use home::Home;

#[test]
fn a_container_gets_another_name() {
    let root = home::own_root(&[]);
    let rootfs = root.path().join("rootfs").display().to_string();
    let home = Home::new();
    home.ok_with_root(&rootfs, &["create", "--name", "old", "true"]);
    home.ok_with_root(&rootfs, &["create", "--name", "other", "true"]);
    home.refuses(&["rename", "old", "other"], "taken");
    home.refuses(&["rename", "old", "../new"], "name");
    home.ok(&["rename", "old", "new"]);
    assert_eq!(home.json("new")["config"]["name"], "new");
    home.refuses(&["kill", "old"], "no container");
    home.ok(&["rm", "--force", "new", "other"]);
    let left = std::fs::read_dir(home.store().join("names")).expect("names").count();
    assert_eq!(left, 0, "names that belong to nobody");
}

#[test]
fn a_renamed_container_frees_its_name_when_it_ends() {
    let root = home::own_root(&[]);
    let rootfs = root.path().join("rootfs").display().to_string();
    let home = Home::new();
    home.ok_with_root(&rootfs, &["create", "--rm", "--name", "old", "true"]);
    home.ok(&["rename", "old", "new"]);
    // Its monitor, which read its name before, removes it.
    home.ok(&["start", "new"]);
    let left = || std::fs::read_dir(home.store().join("names")).expect("names").count();
    for _ in 0..100 {
        if left() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("names that belong to nobody: {}", left());
}
