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
    home.ok_with_root(&rootfs, &["create", "--name", "new", "true"]);
}

#[test]
fn two_that_want_one_name_do_not_both_get_it() {
    let root = home::own_root(&[]);
    let rootfs = root.path().join("rootfs").display().to_string();
    let home = Home::new();
    for round in 0..20 {
        let names = [0, 1].map(|number| format!("old{round}.{number}"));
        for name in &names {
            home.ok_with_root(&rootfs, &["create", "--name", name, "true"]);
        }
        let new = format!("new{round}");
        let renames = names.each_ref().map(|name| home.step(&["-q", "rename", name, &new]).spawn());
        let done = renames.map(|mut rename| rename.wait().expect("wait").success());
        assert!(done[0] != done[1], "{done:?}");
        home.ok(&["inspect", &new]);
    }
}
