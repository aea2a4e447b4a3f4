//! Looks at your container as chapter 08 asks for it: `cargo test -p mine --test chapter08`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter08", support::chapters::terminal, env!("CARGO_BIN_EXE_mine"))
}
