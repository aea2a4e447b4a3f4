//! Looks at your container as chapter 01 asks for it: `cargo test -p mine --test chapter01`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter01", support::chapters::namespaces, env!("CARGO_BIN_EXE_mine"))
}
