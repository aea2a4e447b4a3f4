//! Looks at your container as chapter 02 asks for it: `cargo test -p mine --test chapter02`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter02", support::chapters::cgroups, env!("CARGO_BIN_EXE_mine"))
}
