//! Looks at your container as chapter 05 asks for it: `cargo test -p mine --test chapter05`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter05", support::chapters::users, env!("CARGO_BIN_EXE_mine"))
}
