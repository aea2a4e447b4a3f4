//! SIGKILL at each call that is told, one after the other: the next command tells the truth, and nothing is lost or left.

use std::io::Write;
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::testing::{self, wait_until};

use crate::home::{Home, alive};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    /// The command that somebody has called.
    Engine,
    /// The process that it has made, once it has.
    Monitor,
}

/// Does `arguments` again and again, and kills before the first call, the second, until it ends without being killed.
/// On a slow machine, of one processor, only before every tenth, beginning with another one each time.
pub fn at_every_pause(before: impl Fn(&Home), arguments: &[&str], who: Who) {
    let mut killed = 0;
    let is_slow = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
    let (first, each) = if is_slow { (usize::from(testing::random_word().as_bytes()[0]) % 10, 10) } else { (0, 1) };
    for pause in (first..).step_by(each) {
        let home = Home::new();
        before(&home);
        let here = format!("{who:?} killed at pause {pause} of {arguments:?}");
        match kill_at(&home, arguments, who, pause) {
            Ended::Killed => killed += 1,
            Ended::NobodyToKill => {}
            Ended::Finished => break,
        }
        tells_the_truth(&home, &here);
        home.clear();
    }
    assert!(killed > 0 || is_slow, "{who:?} was never killed in {arguments:?}");
}

#[derive(PartialEq)]
enum Ended {
    Killed,
    NobodyToKill,
    Finished,
}

fn kill_at(home: &Home, arguments: &[&str], who: Who, pause: usize) -> Ended {
    let step = home.step(&[&["--pause"], arguments].concat()).with(|command| {
        command.stdin(Stdio::piped());
    });
    let mut step = step.spawn();
    let told = testing::collect(step.stderr.take().expect("piped"));
    let mut stdin = step.stdin.take().expect("piped");
    stdin.write_all(&b"\n".repeat(pause)).expect("enter");
    let mut pauses = 0;
    let mut ended = Ended::Finished;
    loop {
        let line = match told.recv_timeout(testing::PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{arguments:?} hangs after {pauses} pauses"),
        };
        pauses += usize::from(line.starts_with("[Enter]"));
        if pauses > pause {
            let engine = Pid::from_raw(step.id() as i32);
            let victim = if who == Who::Engine { Some(engine) } else { child_of(engine) };
            ended = if victim.is_some() { Ended::Killed } else { Ended::NobodyToKill };
            if let Some(victim) = victim {
                kill(victim, Signal::SIGKILL).expect("kill");
            }
            break;
        }
    }
    // Whoever goes on does not wait any more: the end of a file is as good as Enter.
    drop(stdin);
    let code = testing::end_of(&mut step, testing::PATIENCE);
    assert!(ended != Ended::Finished || code == 0, "{arguments:?} ends with {code} before pause {pause}");
    ended
}

/// What `ps -a` says of each container is what the host sees of it.
fn tells_the_truth(home: &Home, here: &str) {
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
                let status = row["status"].as_str();
                wait_until(&format!("{here} has a process, or says that it has none"), || {
                    let all = home.all();
                    !all.contains(id) || alive(home.init(id)) || Some(home.status(id).as_str()) != status
                });
            }
            "stopped" => {
                assert!(row["exit_code"].is_u64(), "{here}");
                let left: Vec<_> = testing::groups_of_steps().into_iter().filter(|group| group.contains(id)).collect();
                assert!(left.is_empty(), "{here}: {left:?}");
            }
            "dead" => {
                let monitor = home.json(id)["state"]["monitor"]["pid"].as_i64();
                assert!(monitor.is_none_or(|pid| !alive(Pid::from_raw(pid as i32))), "{here}: its monitor lives");
            }
            status => panic!("{here}: {status}"),
        }
    }
}

fn child_of(parent: Pid) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw)
}
