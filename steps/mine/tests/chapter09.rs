//! Looks at your container as chapter 09 asks for it: `cargo test -p mine --test chapter09`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter09", support::chapters::rights, env!("CARGO_BIN_EXE_mine"))
}
