//! TUTORIAL.md, held against the code and against what happens.

mod blocks;
mod containment;
mod ladder;
mod pictures;
mod remedies;

use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cgroups::Version;
use testing::{Check, World, check, needs};

fn main() -> ExitCode {
    testing::run("tutorial", checks())
}

fn checks() -> Vec<Check> {
    // First what takes longest, so that nothing is waited for at the end.
    let parts = (0..containment::PARTS)
        .map(|part| matrix(&format!("part_{}_of_the_matrix_is_what_was_found", part + 1), Some(part)));
    let others = [
        check("every_rust_block_stands_in_the_file_that_it_names", [], blocks::rust_blocks),
        check("the_container_on_one_screen_is_the_whole_file", [], blocks::the_container_is_whole),
        check("every_path_and_every_heading_that_is_linked_exists", [], blocks::links),
        check("what_anyone_can_run_shows_what_the_text_shows", [needs::user_namespaces(), project_is_ours()], || {
            blocks::console_blocks("anyone", ..4);
        }),
        // In a scope of systemd's, the engine does otherwise.
        check("what_anyone_does_with_the_engine_is_in_the_text", [needs::user_namespaces(), project_is_ours()], || {
            blocks::console_blocks("anyone", 4..);
        })
        .differs_in([World::SystemdRoot]),
        check("what_root_runs_shows_what_the_text_shows", [needs::root(), groups(), project_is_ours()], || {
            blocks::console_blocks("root", ..);
        })
        .differs_in([World::CgroupV2]),
        check("what_v1_shows_is_what_the_text_shows", [needs::root(), groups(), only(Version::V1)], || {
            blocks::console_blocks("root on v1", ..);
        }),
        check("what_v2_shows_is_what_the_text_shows", [needs::root(), groups(), only(Version::V2)], || {
            blocks::console_blocks("root on v2", ..);
        })
        .differs_in([World::CgroupV2, World::SystemdRoot]),
        check(
            "what_a_mapped_root_shows_is_what_the_text_shows",
            [needs::root(), groups(), project_is_ours(), idmap()],
            || blocks::console_blocks("root with idmap", ..),
        )
        .differs_in([World::CgroupV2]),
        check(
            "what_a_network_shows_is_what_the_text_shows",
            [needs::root(), groups(), project_is_ours(), needs::tool("ip"), idmap(), rules()],
            || blocks::console_blocks("root with a network", ..),
        )
        .differs_in([World::SystemdRoot]),
        check(
            "what_layers_show_is_what_the_text_shows",
            [needs::root(), groups(), project_is_ours(), idmap(), upper(), needs::tool("setfattr")],
            || blocks::console_blocks("root with layers", ..),
        )
        .differs_in([World::SystemdRoot]),
        check(
            "what_a_terminal_shows_is_what_the_text_shows",
            [needs::user_namespaces(), project_is_ours(), above()],
            || {
                blocks::console_blocks("anyone with layers", ..);
            },
        ),
        check(
            "what_is_typed_by_a_program_is_what_the_text_shows",
            [needs::user_namespaces(), project_is_ours(), above(), needs::tool("script"), legacy_tiocsti()],
            || blocks::console_blocks("anyone with legacy tiocsti", ..),
        ),
        check("no_console_block_is_run_by_nobody", [], blocks::all_are_run),
        check("a_prompt_says_whom_a_block_is_for", [], blocks::prompts_say_who),
        check("no_hint_folds_away_more_than_itself", [], blocks::folds_are_closed),
        check("what_is_shown_fits_beside_a_second_terminal", [], blocks::lines_fit),
        check("the_remedies_are_those_of_the_code", [], || {
            let table = remedies::table();
            assert!(tutorial().contains(&table), "TUTORIAL.md has another table than this:\n{table}");
        }),
        check("the_ladder_is_what_the_steps_light", [groups(), project_is_ours()], ladder::is_what_the_steps_light)
            .differs_in([World::CgroupV2, World::SystemdRoot]),
        check(
            "the_pictures_are_of_today",
            [needs::root(), groups(), only(Version::V2), project_is_ours()],
            pictures::are_of_today,
        )
        .differs_in([World::CgroupV2]),
        matrix("the_processors_row_of_the_matrix_is_what_was_found", None).alone(),
    ];
    parts.chain(others).collect()
}

fn matrix(name: &str, part: Option<usize>) -> Check {
    let needs = [needs::root(), groups(), needs::tool("unshare"), needs::tool("bash"), containment::counting_files()];
    check(name, needs, move || {
        let found = containment::table(&containment::Playground::new(), part);
        let text = tutorial();
        let is_there = |row: &str| text.lines().any(|line| line == row);
        assert!(found.lines().all(is_there), "found this, and TUTORIAL.md has something else:\n{found}");
    })
    .differs_in([World::CgroupV2])
}

/// The project's directory.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

/// The text.
pub fn tutorial() -> String {
    read_to_string(project().join("TUTORIAL.md")).expect("TUTORIAL.md")
}

fn groups() -> Option<String> {
    let missing = (!cgroups::may_make_groups()).then(|| "needs a user who may make cgroups".to_owned());
    missing.or_else(needs::user_namespaces)
}

fn only(version: Version) -> Option<String> {
    let all = cgroups::detect(Path::new("/proc"), "self").expect("hierarchies");
    // On a hybrid machine the controllers are those of version 1.
    let has_v1 = all.iter().any(|it| it.version == Version::V1);
    let there = !all.is_empty() && has_v1 == (version == Version::V1);
    (!there).then(|| format!("needs a machine of cgroup {version:?}"))
}

/// A default root on a file system that takes a map of ids, and a root who has a range.
fn idmap() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return None; // then something else is missing
    }
    let home = tempfile::tempdir().expect("tempdir");
    let run = testing::step("step05", ["-q", "run", "--rm", "head", "-n1", "/proc/self/uid_map"]);
    let ran = run.with(|command| _ = command.env("XDG_RUNTIME_DIR", home.path())).ran();
    let has_range = ran.out.split_whitespace().eq(["0", "100000", "65536"]);
    (!has_range).then(|| "needs a root with a range of ids, and a file system that takes a map of them".to_owned())
}

/// A kernel with nft's NAT; tried in a network namespace of its own.
fn rules() -> Option<String> {
    if let Some(missing) = needs::root().or_else(|| needs::tool("nft")) {
        return Some(missing);
    }
    let chain = "table ip try { chain out { type nat hook postrouting priority 0; masquerade; }; }";
    let tried = Command::new("unshare").args(["--net", "nft", chain]).output().expect("unshare");
    (!tried.status.success()).then(|| "needs a kernel with nft's NAT".to_owned())
}

/// A place for temporary files where an upper layer can be.
fn upper() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return None; // then something else is missing
    }
    let home = tempfile::tempdir().expect("tempdir");
    let run = testing::step("step07", ["-q", "run", "--rm", "--network", "none", "true"]);
    let run = run.with(|it| _ = it.env("XDG_RUNTIME_DIR", home.path()).env("XDG_DATA_HOME", home.path()));
    run.ran().err.contains(containment::NO_UPPER).then(|| "needs a /tmp that can have an upper layer".to_owned())
}

/// That the steps from 07 on run here at all, for this user.
fn above() -> Option<String> {
    needs::user_namespaces().or_else(project_is_ours).or_else(|| {
        let home = tempfile::tempdir().expect("tempdir");
        let run = testing::step("step08", ["-q", "run", "--rm", "--network", "none", "true"]);
        let ran = run.with(|it| _ = it.env("XDG_RUNTIME_DIR", home.path()).env("XDG_DATA_HOME", home.path())).ran();
        (ran.code != 0).then(|| format!("needs a machine where step 07 runs: {}", ran.err.trim()))
    })
}

/// A kernel in which a program may type into its own terminal without root's right. Before Linux 6.2 there was no choice.
pub fn legacy_tiocsti() -> Option<String> {
    let setting = read_to_string("/proc/sys/dev/tty/legacy_tiocsti").unwrap_or_default();
    (setting.trim() == "0").then(|| "needs a kernel where dev.tty.legacy_tiocsti is 1".to_owned())
}

/// The text's commands make the default root in the project's own directory, where it is not there.
fn project_is_ours() -> Option<String> {
    let may = nix::unistd::access(&project().join("target"), nix::unistd::AccessFlags::W_OK).is_ok();
    (!may).then(|| "needs a target directory that it may write to".to_owned())
}
