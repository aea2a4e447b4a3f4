//! Exercise 3 of chapter 01. Red until you have done it: `cargo test -p step01-namespaces --test exercise`.

use testing::{refuses, step};

#[test]
fn a_host_name_has_no_dot() {
    refuses("step01", &["--hostname", "a.b", "true"], 125, "--hostname");
    // Without the rule being stricter than that.
    for name in ["a1", "a-1", "box"] {
        let ran = step("step01", ["-q", "--hostname", name, "hostname"]).ran();
        assert_eq!((ran.code, ran.out.trim()), (0, name), "{}", ran.err);
    }
}
