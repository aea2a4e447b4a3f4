//! Looks at your container as chapter 04 asks for it: `cargo test -p mine --test chapter04`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter04", support::chapters::engine, env!("CARGO_BIN_EXE_mine"))
}
