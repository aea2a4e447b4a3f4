//! Exercise 3 of chapter 09. Red until you have done it: `cargo test -p step09-hardening --test exercise`.

#[allow(dead_code)]
#[path = "../../04-engine/tests/step/home.rs"]
mod home;

use hardening::numbers;
use home::Home;

#[test]
fn a_list_in_a_file_does_not_know_what_is_newer() {
    let root = home::own_root(&["escape"]);
    let dir = root.path().join("rootfs").display().to_string();
    let home = Home::new();
    // All calls that there are, but for one: that is forbidden, and others have not been thought of.
    let names: Vec<_> = numbers::names().filter(|name| *name != "personality").collect();
    let list = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    });
    let file = tempfile::NamedTempFile::new().expect("tempfile");
    std::fs::write(file.path(), list.to_string()).expect("a list");
    let option = format!("seccomp={}", file.path().display());
    let words = |what| {
        let run = ["run", "--rm", "--network", "none", "--rootfs", &dir, "--security-opt", &option];
        [&run[..], &["escape", what]].concat()
    };
    assert_eq!(home.ok(&words("layout")), "EPERM", "what is not in the list is forbidden");
    assert_eq!(home.ok(&words("thread")), "works: a thread");
    assert_eq!(home.ok(&words("newer")), "ENOSYS", "what no list can have known is not there");
}
