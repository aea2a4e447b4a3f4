//! Looks at your container as chapter 00 asks for it: `cargo test -p mine --test chapter00`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter00", support::chapters::process, env!("CARGO_BIN_EXE_mine"))
}
