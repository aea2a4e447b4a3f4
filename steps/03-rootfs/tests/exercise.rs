//! Exercise 3 of chapter 03. Red until you have done it: `cargo test -p step03-rootfs --test exercise`.

use testing::step;

#[test]
fn every_container_has_dev_core() {
    let ran = step("step03", ["-q", "readlink", "/dev/core"]).ran();
    assert_eq!((ran.code, ran.out.trim()), (0, "/proc/kcore"), "{}", ran.err);
}
