//! What later steps need of the engine, by a small step of its own: `tests/proof/recipe.rs`.

use std::fs::{create_dir, read_link, read_to_string, remove_dir, write};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testing::{Ran, Run, random_word, step, wait_until};

use crate::home::{Home, rootfs};

/// `proof` with these arguments; `run` and `create` get a root.
fn proof(home: &Home, arguments: &[&str]) -> Run {
    let mut words = vec!["--color=never"];
    let root = rootfs().display().to_string();
    for word in arguments {
        words.push(word);
        if ["run", "create"].contains(word) {
            words.extend(["--rootfs", &root]);
        }
    }
    let _ = std::fs::create_dir(home.path().join("data"));
    step("proof", words).with(|command| {
        command.env("XDG_RUNTIME_DIR", home.path()).env("XDG_DATA_HOME", home.path().join("data"));
    })
}

fn ok(home: &Home, arguments: &[&str]) -> String {
    let Ran { code, out, err } = proof(home, &[&["-q"], arguments].concat()).ran();
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out.trim_end_matches('\n').to_owned()
}

/// Nothing may be left of what the parts have made.
fn clear(home: &Home) {
    let ids = ok(home, &["ps", "-aq"]);
    let ids: Vec<_> = ids.lines().collect();
    if !ids.is_empty() {
        ok(home, &[&["rm", "-f"], ids.as_slice()].concat());
    }
    ok(home, &["clean"]);
    assert!(!home.path().join("data/step04-data").exists());
}

/// An option is stored, and every command reads it back; `exec` and the command line have room for more.
pub fn options() {
    let home = Home::new();
    let (word, other) = (random_word(), random_word());
    let id = ok(&home, &["run", "-d", "--word", &word, "sh", "-c", "echo $WORD; exec sleep 100"]);
    assert_eq!(ok(&home, &["exec", &id, "sh", "-c", "echo $WORD"]), word);
    assert_eq!(ok(&home, &["exec", "--other-word", &other, &id, "sh", "-c", "echo $WORD"]), other);
    ok(&home, &["stop", "-t", "0", &id]);
    ok(&home, &["start", &id]);
    wait_until("it has said so again", || ok(&home, &["logs", &id]) == format!("{word}\n{word}"));
    assert!(ok(&home, &["inspect", &id]).contains(&word));
    assert_eq!(proof(&home, &["hello"]).ran().code, 3);

    // Its groups have its name, by which `clean` knows them.
    let is_its = |group: &String| group.contains(&format!("/step99-{id}"));
    assert_eq!(testing::groups_of_steps().iter().any(is_its), cgroups::may_make_groups());

    // Another step sees it, and leaves it alone.
    assert!(home.all().contains(&id));
    home.refuses(&["stop", &id], "`step99`");
    home.refuses(&["rm", "-f", &id], "`step99`");
    home.refuses(&["exec", &id, "true"], "`step99`");
    kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
    wait_until("it is dead", || home.status(&id) == "dead");
    home.ok(&["clean"]);
    assert_eq!(home.status(&id), "dead");
    clear(&home);
}

/// The host works on the child's namespaces before it runs anything, and opens for it what it cannot reach.
pub fn both_sides() {
    let home = Home::new();
    let word = random_word();
    let notes = home.path().join("notes");
    create_dir(&notes).expect("mkdir");
    write(home.path().join("letter"), &word).expect("letter");
    let (notes_word, letter) = (notes.display().to_string(), home.path().join("letter").display().to_string());
    let id = ok(
        &home,
        &[
            "run",
            "-d",
            "--notes",
            &notes_word,
            "--letter",
            &letter,
            "--terminal",
            "--files",
            "123",
            "sh",
            "-c",
            "echo $LETTER $(ulimit -n); echo on the terminal >/dev/pts/0; exec sleep 100",
        ],
    );
    wait_until("it has said so", || ok(&home, &["logs", &id]) == format!("{word} 123"));
    // A descriptor that the child has made: what the program writes to its terminal, the host reads.
    let screen = notes.join(&id).join("screen");
    wait_until("the host has read it", || {
        read_to_string(&screen).is_ok_and(|text| text.starts_with("on the terminal"))
    });
    let net = read_link(format!("/proc/{}/ns/net", home.init(&id))).expect("ns").display().to_string();
    assert_eq!(read_to_string(notes.join(&id).join("net")).expect("note"), net);
    // What the first process is not allowed, its guests are not either; from the host's side.
    let guest = proof(&home, &["-q", "exec", &id, "sh", "-c", "echo ready; ulimit -n; cat"]).until_ready();
    let inside = guest.step();
    let limits = read_to_string(format!("/proc/{}/limits", deepest(inside))).expect("limits");
    assert!(limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 123 ")), "{limits}");
    guest.end();
    ok(&home, &["rm", "-f", &id]);
    assert!(!notes.join(&id).exists());
    clear(&home);
}

fn deepest(pid: Pid) -> Pid {
    std::iter::successors(Some(pid), |pid| testing::child_of(*pid)).last().expect("itself")
}

/// What outlives a run is there in the next one, and goes with the container.
pub fn outlives() {
    let home = Home::new();
    let runs = |id: &str| home.path().join("data/step04-data").join(id).join("runs");
    let id = ok(&home, &["create", "--count", "true"]);
    ok(&home, &["start", "-a", &id]);
    ok(&home, &["start", "-a", &id]);
    assert_eq!(read_to_string(runs(&id)).expect("runs"), "run\nrun\n");
    ok(&home, &["rm", &id]);
    assert!(!runs(&id).exists());
    // And of one whose monitor is killed.
    let id = ok(&home, &["run", "-d", "--count", "sleep", "100"]);
    kill(home.monitor(&id), Signal::SIGKILL).expect("kill");
    wait_until("it is dead", || home.status(&id) == "dead");
    assert!(runs(&id).exists());
    ok(&home, &["clean"]);
    assert!(!runs(&id).exists());
    ok(&home, &["run", "--rm", "--count", "true"]);
    // And of one that nobody can find any more.
    ok(&home, &["run", "-d", "--count", "sleep", "100"]);
    std::fs::remove_dir_all(home.store()).expect("rm");
    // The last thing that its monitor removes.
    wait_until("it has ended", || !home.path().join("data/step04-data").exists());
    clear(&home);
}

/// A network namespace of another process, in the place of a new one.
pub fn joined() {
    let home = Home::new();
    let kinds = "--namespaces=pid,mount,ipc,uts";
    let id = ok(&home, &["run", "-d", "--namespaces=pid,mount,ipc,uts,net", "sleep", "100"]);
    let net = format!("/proc/{}/ns/net", home.init(&id));
    let other = ok(&home, &["run", "-d", kinds, "--join", &net, "sleep", "100"]);
    let own = format!("/proc/{}/ns/net", home.init(&other));
    assert_eq!(read_link(&own).expect("ns"), read_link(&net).expect("ns"));
    assert_ne!(read_link(&own).expect("ns"), read_link("/proc/self/ns/net").expect("ns"));
    clear(&home);
}

/// Created by one process and started by another, and nothing of ours stays: the caller has its exit code.
pub fn orphan() {
    let home = Home::new();
    let status = |id: &str| home.status(id);
    let groups = |id: &str| home.json(id)["state"]["groups"].as_array().expect("groups").clone();
    let exist = |groups: &[serde_json::Value]| {
        groups.iter().filter(|group| Path::new(group["path"].as_str().expect("a path")).exists()).count()
    };
    let adopt = |program: &[&str]| {
        let words = [&["-q", "adopt", "-q", "create", "--orphan"], program].concat();
        let mut caller = proof(&home, &words).with(|command| _ = command.stdin(Stdio::piped())).spawn();
        let mut id = String::new();
        BufReader::new(caller.stdout.as_mut().expect("piped")).read_line(&mut id).expect("an id");
        let (id, pid) = (id.trim().to_owned(), Pid::from_raw(caller.id() as i32));
        // What has made it is gone, and the caller has adopted it.
        wait_until("it is adopted", || testing::child_of(pid) == Some(home.init(&id)));
        (caller, id)
    };

    let (mut caller, id) = adopt(&["sh", "-c", "read word; exit 7"]);
    assert_eq!(status(&id), "created");
    let groups = groups(&id);
    let made = exist(&groups);
    ok(&home, &["clean"]);
    home.ok(&["clean"]);
    assert_eq!((status(&id).as_str(), exist(&groups)), ("created", made));
    home.refuses(&["start", &id], "`step99`");
    ok(&home, &["start", &id]);
    assert_eq!(status(&id), "running");
    assert_eq!(ok(&home, &["exec", &id, "sh", "-c", "echo $$"]), "2");
    if made > 0 {
        ok(&home, &["pause", &id]);
        assert_eq!(status(&id), "paused");
        ok(&home, &["unpause", &id]);
    }
    drop(caller.stdin.take());
    assert_eq!(testing::end_of(&mut caller, testing::PATIENCE), 7);
    assert_eq!(status(&id), "stopped");
    assert_eq!(proof(&home, &["start", &id]).ran().code, 125);
    ok(&home, &["rm", &id]);
    assert_eq!(exist(&groups), 0);

    // Why it cannot begin is said to the command that starts it.
    let (mut caller, id) = adopt(&["no-such-program"]);
    let Ran { code, err, .. } = proof(&home, &["-q", "start", &id]).ran();
    assert!(code == 127 && err.contains("no-such-program"), "{code}: {err}");
    assert_eq!(testing::end_of(&mut caller, testing::PATIENCE), 127);
    ok(&home, &["clean", "-a"]);

    let (mut caller, id) = adopt(&["true"]);
    ok(&home, &["kill", &id]);
    assert_eq!(testing::end_of(&mut caller, testing::PATIENCE), 137);
    assert_eq!(status(&id), "stopped");
    clear(&home);
}

/// SIGKILL at each call, and `clean` by another process, from another directory and cgroup: nothing is left.
pub fn killed() {
    killed_at_each_call(&["run", "--rm"]);
    killed_at_each_call(&["create", "--orphan"]);
}

fn killed_at_each_call(verb: &[&str]) {
    for pause in 0.. {
        let home = Home::new();
        let notes = home.path().join("notes");
        create_dir(&notes).expect("mkdir");
        let notes_word = notes.display().to_string();
        let of_each_part =
            ["--notes", &notes_word, "--count", "--letter", "/etc/passwd", "--terminal", "--files", "99", "true"];
        // Those of the engine and of the parts, also where they are folded; not what earlier steps do.
        let calls = "--pause=mkdir,rename,bind,echo run,clone,kill,rm";
        let arguments = [&[calls], verb, &of_each_part].concat();
        let mut run = proof(&home, &arguments).with(|command| _ = command.stdin(Stdio::piped())).spawn();
        let lines = testing::collect(run.stderr.take().expect("piped"));
        let mut stdin = run.stdin.take().expect("piped");
        stdin.write_all(&b"\n".repeat(pause)).expect("enter");
        let mut pauses = 0;
        let mut last = String::new();
        // A container without a monitor has the other end open, too, when its engine has ended.
        let since = Instant::now();
        while pauses <= pause && run.try_wait().expect("wait").is_none() {
            assert!(since.elapsed() < testing::PATIENCE, "it hangs after {last}");
            let Ok(line) = lines.recv_timeout(Duration::from_millis(20)) else { continue };
            pauses += usize::from(line.starts_with("[Enter]"));
            last = line;
        }
        if pauses > pause {
            kill(Pid::from_raw(run.id() as i32), Signal::SIGKILL).expect("kill");
        }
        drop(stdin);
        let code = testing::end_of(&mut run, testing::PATIENCE);
        assert!(pauses > pause || code == 0, "{code} after {last}");
        // A child held at the gate has a copy of the lock, and dies a moment after its engine.
        wait_until("nobody looks after it", || !home.is_looked_after());
        clean_from_elsewhere(&home, if pauses > pause { &["clean"] } else { &["clean", "-a"] });
        let left: Vec<_> = std::fs::read_dir(&notes).expect("notes").flatten().map(|it| it.path()).collect();
        assert!(left.is_empty(), "killed at {last}: {left:?}");
        assert!(!home.path().join("data/step04-data").exists(), "killed at {last}");
        assert!(!home.store().exists(), "killed at {last}: {}", home.all());
        assert_eq!(testing::groups_of_steps(), Vec::<String>::new(), "killed at {last}");
        if pauses <= pause {
            assert!(pause > 10, "it never paused");
            break;
        }
    }
}

/// `clean`, in `/`, and where this user may make groups, in another one in each hierarchy.
fn clean_from_elsewhere(home: &Home, arguments: &[&str]) {
    let groups: Vec<PathBuf> = match cgroups::may_make_groups() {
        true => cgroups::detect(Path::new("/proc"), "self").expect("cgroups").into_iter().map(|it| it.own).collect(),
        false => Vec::new(),
    };
    let groups: Vec<_> = groups.iter().map(|own| (own.clone(), own.join("elsewhere"))).collect();
    for (own, dir) in &groups {
        create_dir(dir).expect("mkdir");
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) = read_to_string(own.join(file)) {
                let _ = write(dir.join(file), text);
            }
        }
    }
    let files: Vec<_> = groups.iter().map(|(_, dir)| dir.join("cgroup.procs")).collect();
    let clean = proof(home, arguments).with(|command| {
        command.current_dir("/");
        // SAFETY: writes a file, between fork and exec of a process with one thread.
        unsafe { command.pre_exec(move || files.iter().try_for_each(|file| write(file, "0"))) };
    });
    let ran = clean.ran();
    assert_eq!(ran.code, 0, "{}", ran.err);
    for (_, dir) in &groups {
        wait_until("nobody is in there", || remove_dir(dir).is_ok());
    }
}
