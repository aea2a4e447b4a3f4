//! Listens on a port, and greets everybody by the address that they come from: `greeter PORT`.
//!
//! Up to step 00 that is a port of the host's. From step 01 on it is one of its own, and who is to reach it, `--publish` says.

use std::io::Write;
use std::net::TcpListener;

fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).unwrap_or_default().parse()?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on port {port}");
    loop {
        let (mut stream, from) = listener.accept()?;
        let _ = writeln!(stream, "hello, {}", from.ip()); // they may be gone again
    }
}
