//! A signal at each printed call, one after the other: the next command tells the truth, and nothing is lost or left.

use std::io::Write;
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{child_of, wait_until};

use crate::home::{Home, alive};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    /// The command that somebody has called.
    Engine,
    /// The process that it has made, once it has.
    Monitor,
    /// The process that this one has made: who becomes the program.
    #[allow(dead_code)] // step 05 asks for it
    Child,
}

/// Does `arguments` again and again, and kills before the first call, the second, until it ends without being killed.
pub fn at_every_pause(before: impl Fn(&Home), arguments: &[&str], who: Who) {
    at_every_pause_then(before, arguments, who, |_| {});
}

/// The same, and looks at what is there after each.
pub fn at_every_pause_then(before: impl Fn(&Home), arguments: &[&str], who: Who, after: impl Fn(&Home)) {
    walk(&format!("{who:?} in {arguments:?}"), |pause| {
        let home = Home::new();
        before(&home);
        let here = format!("{who:?} killed at pause {pause} of {arguments:?}");
        let how = end_at(&home, arguments, who, Signal::SIGKILL, pause).how;
        if how != How::Finished {
            tells_the_truth(&home, &here);
            after(&home);
            home.clear();
        }
        how
    });
}

/// The same with Ctrl-C, which ends the command (130) unless its program has ended (0).
pub fn interrupt_at_every_pause(before: impl Fn(&Home), arguments: &[&str]) {
    walk(&format!("{arguments:?}"), |pause| {
        let home = Home::new();
        before(&home);
        let here = format!("Ctrl-C at pause {pause} of {arguments:?}");
        let Ending { how, code, printed } = end_at(&home, arguments, Who::Engine, Signal::SIGINT, pause);
        if how != How::Finished {
            // The program's end is noticed after this: it is on its way, and that is written down.
            let mut lines = printed.lines().skip_while(|line| !line.starts_with("child execve("));
            let has_run = lines.any(|line| line.starts_with("host  rename(") && line.contains("state.json"));
            assert_eq!(code, if has_run { 0 } else { 130 }, "{here}: {printed}");
            tells_the_truth(&home, &here);
            home.clear();
        }
        how
    });
}

/// Before the first call, the second and so on, until the command has finished. A sample is every tenth, beginning somewhere
/// else each time; if nobody was there to be killed at any of those, every fifth, and so on.
fn walk(what: &str, mut end: impl FnMut(usize) -> How) {
    let mut step = if testing::is_exhaustive() { 1 } else { 10 };
    loop {
        let first = usize::from(testing::random_word().as_bytes()[0]) % step;
        let ends = (first..).step_by(step).map(&mut end).take_while(|how| *how != How::Finished);
        if ends.filter(|how| *how == How::Killed).count() > 0 {
            break;
        }
        assert!(step > 1, "nobody was ever killed: {what}");
        step = step.div_ceil(2);
    }
}

/// How a command ended, and what it had printed before the signal.
struct Ending {
    how: How,
    code: i32,
    printed: String,
}

#[derive(PartialEq)]
enum How {
    Killed,
    NobodyToKill,
    Finished,
}

fn end_at(home: &Home, arguments: &[&str], who: Who, signal: Signal, pause: usize) -> Ending {
    // Before each call, or before those that the arguments name.
    let all = if arguments.iter().any(|it| it.starts_with("--pause=")) { &[][..] } else { &["--pause"] };
    let step = home.narrated(&[all, arguments].concat()).with(|command| {
        command.stdin(Stdio::piped());
    });
    let mut step = step.spawn();
    let lines = testing::collect(step.stderr.take().expect("piped"));
    let mut stdin = step.stdin.take().expect("piped");
    stdin.write_all(&b"\n".repeat(pause)).expect("enter");
    let mut pauses = 0;
    let mut how = How::Finished;
    let mut printed = String::new();
    loop {
        let line = match lines.recv_timeout(testing::PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{arguments:?} hangs after {pauses} pauses"),
        };
        pauses += usize::from(line.starts_with("[Enter]"));
        printed += &line;
        if pauses > pause {
            let engine = Pid::from_raw(step.id() as i32);
            let victim = match who {
                Who::Engine => Some(engine),
                Who::Monitor => child_of(engine),
                Who::Child => child_of(engine).and_then(child_of),
            };
            how = if victim.is_some() { How::Killed } else { How::NobodyToKill };
            if let Some(victim) = victim {
                kill(victim, signal).expect("kill");
            }
            break;
        }
    }
    // After SIGKILL, a process that goes on does not wait: the end of a file is as good as Enter. After Ctrl-C nobody asks.
    let _still_open = (how == How::Killed && signal != Signal::SIGKILL).then_some(stdin);
    let code = testing::end_of(&mut step, testing::PATIENCE);
    assert!(how != How::Finished || code == 0, "{arguments:?} ends with {code} before pause {pause}");
    Ending { how, code, printed }
}

/// What `ps -a` says of each container is what the host sees of it.
pub fn tells_the_truth(home: &Home, here: &str) {
    let mut all = String::new();
    // A monitor that was not killed may still be on its way.
    wait_until(&format!("{here}: nothing is half made"), || {
        all = home.all();
        !all.contains("\"creating\"")
    });
    for line in all.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("json");
        let id = row["id"].as_str().expect("id");
        let here = format!("{here}: {row}");
        match row["status"].as_str().expect("status") {
            "created" | "running" | "paused" => {
                // One that is just dying has let go of nothing yet: a moment later it says so.
                let here = format!("{here} has a process and a monitor, or says that it has none");
                wait_until(&here, || {
                    let lives =
                        |now: &serde_json::Value| ["init", "monitor"].iter().all(|it| is_alive(&now["state"][it]));
                    home.json_if_there(id).is_none_or(|now| now["status"] != row["status"] || lives(&now))
                });
            }
            "stopped" => {
                assert!(row["exit_code"].is_u64(), "{here}");
                let left: Vec<_> = testing::groups_of_steps().into_iter().filter(|group| group.contains(id)).collect();
                assert!(left.is_empty(), "{here}: {left:?}");
            }
            "dead" => {
                // Its lock is gone a moment before it is.
                wait_until(&format!("{here}: its monitor is gone"), || {
                    home.json_if_there(id).is_none_or(|now| !is_alive(&now["state"]["monitor"]))
                });
            }
            status => panic!("{here}: {status}"),
        }
    }
}

/// A process as it is recorded.
fn is_alive(process: &serde_json::Value) -> bool {
    process["pid"].as_i64().is_some_and(|pid| alive(Pid::from_raw(pid as i32)))
}
