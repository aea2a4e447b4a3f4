//! Places in the network: this test's host, a container, and what is said there.

use std::fs::{File, read_to_string};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
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
    let refused = || {
        static TRIED: OnceLock<Option<String>> = OnceLock::new();
        let tried = || elsewhere(|| netlink::add_bridge("try", [2; 6])).and_then(|made| made);
        TRIED.get_or_init(|| tried().err().map(|error| format!("needs bridges: {error}")))
    };
    needs::root().or_else(needs::user_namespaces).or(nested).or(other).or_else(|| refused().clone())
}

/// And rules of nft's, which User Mode Linux has not.
pub fn filtered() -> Option<String> {
    let has_nat = || {
        let chain = "table ip try { chain out { type nat hook postrouting priority 0; masquerade; }; \
                     chain in { type nat hook prerouting priority 0; fib daddr type local accept; }; }";
        Command::new("nft").arg(chain).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let refused = || {
        static TRIED: OnceLock<Option<String>> = OnceLock::new();
        TRIED.get_or_init(|| (elsewhere(has_nat) != Ok(true)).then(|| "needs a kernel with nft's NAT".to_owned()))
    };
    bridged().or_else(|| needs::tool("nft")).or_else(|| refused().clone())
}

/// Does it in a network namespace of its own.
fn elsewhere<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> nix::Result<T> {
    let there = || unshare(CloneFlags::CLONE_NEWNET).map(|()| act());
    std::thread::spawn(there).join().expect("a thread")
}

/// The rules of this test's network namespace.
pub fn ruleset() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().expect("nft");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Another machine, 192.0.2.2, whose way to everywhere is this test's host, 192.0.2.1.
pub struct Outside(Child);

impl Outside {
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo ready; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut machine = command.spawn().expect("unshare");
        let mut ready = String::new();
        BufReader::new(machine.stdout.take().expect("piped")).read_line(&mut ready).expect("ready");
        let outside = Outside(machine);
        netlink::add_bridge("uplink", [2; 6]).expect("bridge");
        netlink::add_address("uplink", Ipv4Addr::new(192, 0, 2, 1), 24).expect("address");
        let uplink = netlink::link("uplink").expect("netlink").expect("uplink").index;
        netlink::add_veth("cable", uplink, 1500, "eth0", outside.pid()).expect("veth");
        inside(outside.pid(), || {
            netlink::add_address("eth0", Ipv4Addr::new(192, 0, 2, 2), 24).expect("address");
            netlink::set_up("eth0").expect("up");
            netlink::add_default_route(Ipv4Addr::new(192, 0, 2, 1)).expect("route");
        });
        outside
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = netlink::delete_link("cable").and_then(|()| netlink::delete_link("uplink"));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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

/// Something that listens until it is dropped, and says a word to each who comes, and as whom it has come.
pub struct Server(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

pub fn serve(address: &str, word: &'static str) -> Server {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    listener.set_nonblocking(true).expect("nonblocking");
    let end = Arc::new(AtomicBool::new(false));
    let its = end.clone();
    let thread = std::thread::spawn(move || {
        while !its.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, from)) => _ = stream.write_all(format!("{word} {}", from.ip()).as_bytes()),
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
pub fn says(address: [u8; 4], port: u16) -> String {
    says_within(PATIENCE, address, port)
}

pub fn says_within(patience: Duration, address: [u8; 4], port: u16) -> String {
    let mut word = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&(Ipv4Addr::from(address), port).into(), patience) {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let _ = stream.read_to_string(&mut word);
    }
    word
}
