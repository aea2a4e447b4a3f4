//! Looks at your container as chapter 06 asks for it: `cargo test -p mine --test chapter06`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter06", support::chapters::network, env!("CARGO_BIN_EXE_mine"))
}
