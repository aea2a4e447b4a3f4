//! Exercise 3 of chapter 00. Red until you have done it: `cargo test -p step00-process --test exercise`.

use testing::step;

#[test]
fn step00_says_how_long_the_program_has_run() {
    for seconds in ["1", "2"] {
        let ran = step("step00", ["sleep", seconds]).ran();
        let line = ran.err.lines().find(|line| line.contains("exit code 0")).expect("the exit code");
        assert!(line.contains(&format!("after {seconds}.")), "sleep {seconds}: {line}");
    }
}
