//! Places in the network: this test's host, a container, and what is said there.

use std::fs::{File, read_to_string};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use network::netlink;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use testing::needs;

/// Longer than an answer takes on any machine, and short enough to wait for where there is none.
const PATIENCE: Duration = Duration::from_secs(20);

/// A root with a range of ids, who may make a bridge; tried in a network namespace of its own.
pub fn bridged() -> Option<String> {
    let nested = (!process::sys::in_first_user_namespace()).then(|| "needs the first user namespace".to_owned());
    let other = ["/etc/subuid", "/etc/subgid"]
        .into_iter()
        .any(|file| read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.starts_with("root:"))));
    let other = other.then(|| "needs a root whose range is the usual one".to_owned());
    let tried =
        || std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).and_then(|()| netlink::add_bridge("try", [2; 6])));
    let refused = || tried().join().expect("a thread").err().map(|error| format!("needs bridges: {error}"));
    needs::root().or_else(needs::user_namespaces).or(nested).or(other).or_else(refused)
}

/// Does it in the network namespace of a process.
pub fn inside<T: Send>(process: Pid, act: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{process}/ns/net")).expect("ns/net");
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
            act()
        });
        there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Something that listens until it is dropped, and says a word to each who comes.
pub struct Server(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

pub fn serve(address: &str, word: &'static str) -> Server {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    listener.set_nonblocking(true).expect("nonblocking");
    let end = Arc::new(AtomicBool::new(false));
    let its = end.clone();
    let thread = std::thread::spawn(move || {
        while !its.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, _)) => _ = stream.write_all(word.as_bytes()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    });
    Server(end, Some(thread))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// What is said at an address; nothing where nobody answers.
pub fn says(address: Ipv4Addr, port: u16) -> String {
    let mut word = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&(address, port).into(), PATIENCE) {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let _ = stream.read_to_string(&mut word);
    }
    word
}

/// Those of this test's network namespace, in the order of their names.
pub fn interfaces() -> Vec<String> {
    let text = read_to_string("/proc/self/net/dev").expect("dev");
    let mut names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
    names.sort();
    names
}
