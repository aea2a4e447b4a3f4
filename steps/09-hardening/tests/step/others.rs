//! What runc and crun answer to the same program, from the file that `spec` writes for them.

use std::path::Path;
use std::process::Command;

use testing::{Check, check, needs};

use crate::home::Home;
use crate::{range, root, run};

/// What is tried, and in the table's words.
const TRIED: [(&str, &str); 6] = [
    ("layout", "switch off that addresses are random"),
    ("namespace", "be root in a new user namespace"),
    ("foreign", "make a call by the door for 32 bits"),
    ("handle /dev/null", "open a file by its number, past every directory"),
    ("clone3", "ask for clone3"),
    ("newer", "make a call that no kernel has"),
];

pub fn checks() -> Vec<Check> {
    let installed = [needs::tool("runc"), needs::tool("crun"), needs::tool("unshare")];
    let here = [range(), crate::calls::foreign()].into_iter().chain(installed);
    vec![check("runc_and_crun_answer_as_the_text_says", here, || {
        let home = Home::new();
        let script: String = TRIED.iter().map(|(what, _)| format!("echo \"$(escape {what} 2>&1)\"\n")).collect();
        let script = script + "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | grep -o '[0-9a-f]*$'";
        let ours = run(&home, &[], &["bash", "-c", &script]);
        let columns = [ours, other("runc", &script), other("crun", &script)];
        let columns = columns.map(|text| text.lines().map(plain).collect::<Vec<_>>());
        let rows = TRIED.iter().map(|(_, words)| *words).chain(["capabilities", "no_new_privs", "filters"]);
        let mut table =
            "| what is tried, or is there | step 09 | runc | crun |\n| --- | --- | --- | --- |\n".to_owned();
        for (number, row) in rows.enumerate() {
            let cells: Vec<_> = columns.iter().map(|it| it.get(number).map_or("", String::as_str)).collect();
            table += &format!("| {row} | {} |\n", cells.join(" | "));
        }
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../TUTORIAL.md");
        assert!(
            std::fs::read_to_string(text).expect("TUTORIAL.md").contains(&table),
            "the text has another one:\n{table}"
        );
    })]
}

/// A mask as a number of capabilities; what was got is left out.
fn plain(line: &str) -> String {
    match (line.len(), u64::from_str_radix(line, 16)) {
        (16, Ok(mask)) => mask.count_ones().to_string(),
        (1, Ok(number)) => (if number == 0 { "no" } else { "yes" }).to_owned(),
        _ if line.starts_with("works") => "works".to_owned(),
        _ if line.is_empty() => "ended".to_owned(),
        _ => line.to_owned(),
    }
}

/// Its output, in a bundle of its own.
fn other(runtime: &str, script: &str) -> String {
    let bundle = tempfile::tempdir().expect("tempdir");
    let run = |command: &mut Command| {
        let output = command.current_dir(bundle.path()).env("XDG_RUNTIME_DIR", bundle.path()).output().expect(runtime);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(Command::new(runtime).arg("spec"));
    let config = bundle.path().join("config.json");
    let text = std::fs::read(&config).expect("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&text).expect("json");
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = vec!["bash", "-c", script].into();
    spec["root"]["path"] = root().into();
    // A test has cgroups of its own, which runc does not find again inside.
    spec["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["type"] != "cgroup");
    std::fs::write(&config, spec.to_string()).expect("config.json");
    // crun refuses a machine with both versions of cgroups: there is one, as far as it sees.
    let hide = "while umount /sys/fs/cgroup/unified 2>/dev/null; do :; done";
    let name = testing::random_word();
    let script = format!("{hide}; exec {runtime} --root {} run {name}", bundle.path().join("state").display());
    run(Command::new("unshare").args(["--mount", "sh", "-c", &script]))
}
