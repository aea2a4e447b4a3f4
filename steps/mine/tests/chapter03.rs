//! Looks at your container as chapter 03 asks for it: `cargo test -p mine --test chapter03`.

mod support;

fn main() -> std::process::ExitCode {
    support::main("chapter03", support::chapters::rootfs, env!("CARGO_BIN_EXE_mine"))
}
