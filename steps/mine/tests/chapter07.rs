//! Looks at your container as chapter 07 asks for it: `cargo test -p mine --test chapter07`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter07", support::chapters::layers, env!("CARGO_BIN_EXE_mine"))
}
