//! The terminal pictures of TUTORIAL.md: SVG, made from real runs. `UPDATE_PICTURES=1` makes them anew.

use std::process::Command;

use crate::{blocks, project};

/// A picture stands in its step's directory, and shows these commands.
const PICTURES: [(&str, &[&str]); 4] = [
    ("steps/01-namespaces/picture.svg", &["step01 hostname"]),
    ("steps/02-cgroups/picture.svg", &["step02 --memory 32M memory_hog 128"]),
    ("steps/03-rootfs/picture.svg", &["step03 ls /dev"]),
    (
        "steps/04-engine/picture.svg",
        &[
            "step04 -q run -d --name web sleep 1000",
            "step04 -q exec web ps ax",
            "step04 -q pause web",
            "step04 ps",
            "step04 -q stop --time 0 web",
            "step04 ps -a",
            "step04 -q rm web",
        ],
    ),
];

/// What is in the pictures is what happens now; numbers and ids are not compared.
pub fn are_of_today() {
    for (file, commands) in PICTURES {
        let path = project().join(file);
        let now = anstyle_svg::Term::new().palette(anstyle_svg::WIN10_CONSOLE).render_svg(&run(commands));
        // What is dimmed can still be read.
        let now = now.replace(".dimmed { opacity: 0.4; }", ".dimmed { opacity: 0.7; }");
        if std::env::var_os("UPDATE_PICTURES").is_some() {
            std::fs::write(&path, &now).expect("picture");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(
            words(&committed),
            words(&now),
            "{file}: run the tests with UPDATE_PICTURES=1, as root on cgroup v2"
        );
    }
}

/// The commands and what they write, with colours, as in a terminal.
fn run(commands: &[&str]) -> String {
    let home = tempfile::tempdir().expect("tempdir");
    let mut text = String::new();
    for command in commands {
        let in_colour = command.replacen(' ', " --color=always ", 1);
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("exec 2>&1\n{in_colour}")]);
        blocks::with_the_programs(&mut shell);
        shell.env("XDG_RUNTIME_DIR", home.path());
        let out = testing::Run::new(shell).ran().out;
        // The reader has the project somewhere else.
        text += &format!("$ {command}\n{}", out.replace(&project().display().to_string(), "/home/you/container"));
    }
    text
}

/// The text of a picture, line by line.
fn words(svg: &str) -> Vec<String> {
    let lines = svg.lines().filter(|line| line.contains("<tspan"));
    let text = |line: &str| {
        let mut text = String::new();
        let mut inside = false;
        for c in line.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => text.push(c),
                _ => {}
            }
        }
        blocks::plain(&text)
    };
    lines.map(text).filter(|line| !line.is_empty()).collect()
}
