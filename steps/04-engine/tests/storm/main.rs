//! SIGKILL to the command, to the monitor or to both, at a random moment, again and again. Then `ps` says what the host sees;
//! `clean` leaves nothing of what is dead, and `rm -f` nothing at all.
//!
//! Not run with the others, as it takes minutes: `STORM=1000 cargo test -p step04-engine --test storm -- --nocapture`.

#[allow(dead_code)] // the other tests use the rest
#[path = "../step/home.rs"]
mod home;
#[allow(dead_code)]
#[path = "../step/killed.rs"]
mod killed;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use engine::identity::Process;
use engine::states::Status;
use home::{Home, alive, in_state, rootfs};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use testing::{check, child_of, needs, wait_until};

/// Side by side, so that the processors are contended for.
const STORMS: usize = 4;

fn main() -> ExitCode {
    rootfs();
    let rounds = std::env::var("STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(1000_usize);
    let storm = |number: usize| {
        let own = rounds / STORMS + usize::from(number < rounds % STORMS);
        check(&format!("nothing_is_left_and_nothing_untrue_{number}"), [needs::user_namespaces()], move || storm(own))
    };
    let code = testing::run("storm", (0..STORMS).map(storm).collect());
    home::remove_rootfs();
    code
}

fn storm(rounds: usize) {
    let since = Instant::now();
    let (mut seen, mut late) = (BTreeMap::new(), 0);
    let mut killed = 0;
    while killed < rounds {
        let facts = round();
        if facts.is_empty() {
            late += 1
        } else {
            killed += 1
        }
        facts.into_iter().for_each(|fact| *seen.entry(fact).or_insert(0) += 1);
    }
    println!("{rounds} killed, {late} too late, in {:.0} s: {seen:?}", since.elapsed().as_secs_f64());
}

/// What may be there before a command, and the commands that make sense then.
const NEW: [&[&str]; 5] = [
    &["run", "--name", "it", "true"],
    &["run", "--rm", "sleep", "0.02"],
    &["run", "-d", "--name", "it", "sleep", "1000"],
    &["create", "--name", "it", "sleep", "1000"],
    // Without a cgroup, nobody would find its processes once its monitor is killed: see `parts::Namespaces`.
    &["run", "-d", "--rm", "--namespaces", "user,mount", "sh", "-c", "sleep 1000 & sleep 0.01"],
];
const OLD: [&[&str]; 9] = [
    &["start", "it"],
    &["start", "-a", "it"],
    &["exec", "it", "true"],
    &["pause", "it"],
    &["unpause", "it"],
    &["kill", "it"],
    &["stop", "-t", "0", "it"],
    &["rm", "-f", "it"],
    &["clean"],
];

/// Who was killed, and in which states `ps` then saw the containers; nothing where the command had ended before.
fn round() -> Vec<String> {
    let home = Home::new();
    let states = [Status::Created, Status::Running, Status::Paused, Status::Stopped, Status::Dead];
    let state =
        states.get(random() % (2 * states.len())).filter(|it| **it != Status::Paused || cgroups::may_make_groups());
    let (command, monitor) = match state {
        Some(state) => {
            drop(in_state(&home, "it", *state));
            let monitor = home.json("it")["state"]["monitor"].clone();
            (OLD[random() % OLD.len()], Some(serde_json::from_value::<Process>(monitor).expect("a monitor")))
        }
        None => (NEW[random() % (NEW.len() - usize::from(!cgroups::may_make_groups()))], None),
    };
    let here = format!("{command:?} of a container that was {state:?}");
    let mut engine = home.step(&[&["-q"], command].concat()).spawn();
    // As long as most of them take.
    std::thread::sleep(Duration::from_micros(random() as u64 % 40_000));
    let pid = Pid::from_raw(engine.id() as i32);
    // The one that was there before, or that this command has made.
    let is_there = |monitor: &Process| monitor.open().is_ok_and(|fd| fd.is_some());
    let monitor = monitor.filter(is_there).or_else(|| child_of(pid).and_then(|child| Process::of(child).ok()));
    let who = ["engine", "monitor", "both"][random() % 3];
    let engine_lives = engine.try_wait().expect("wait").is_none();
    if who != "monitor" && engine_lives {
        kill(pid, Signal::SIGKILL).expect("nobody has waited for it");
    }
    if who != "engine" {
        monitor.map_or(Ok(()), |monitor| monitor.signal(Signal::SIGKILL)).expect("kill");
        wait_until("it is dead", || monitor.is_none_or(|monitor| !alive(Pid::from_raw(monitor.pid))));
    }
    let mut facts = vec![format!("{who}, {}", command[0])];
    if command.starts_with(&["start", "-a"]) {
        // It would wait for a program that does not end.
        std::thread::sleep(Duration::from_millis(50));
        let _ = engine.kill();
    }
    testing::end_of(&mut engine, testing::PATIENCE);

    killed::tells_the_truth(&home, &here);
    facts.extend(home.all().lines().map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).expect("json");
        format!("then {}", row["status"].as_str().expect("a status"))
    }));
    home.ok(&["clean"]);
    let all = home.all();
    assert!(!all.contains("\"dead\""), "{here}: {all}");
    let living = home.ok(&["ps", "-aq"]);
    // A user who makes none sees those of others come and go.
    for group in testing::groups_of_steps().iter().filter(|_| cgroups::may_make_groups()) {
        assert!(living.lines().any(|id| group.contains(id)), "{here}: {group} is of none of {living:?}");
    }
    killed::tells_the_truth(&home, &format!("{here}, and cleaned"));
    home.clear();
    wait_until(&format!("{here}: nothing runs on"), || {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD)
    });
    if engine_lives { facts } else { Vec::new() }
}

fn random() -> usize {
    testing::random_word().bytes().fold(0, |number, letter| number * 26 + usize::from(letter - b'a'))
}
