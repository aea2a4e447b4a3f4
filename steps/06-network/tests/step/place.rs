//! Places in the network: this test's host, a container, and what is said there.

use std::fs::{File, read_to_string};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use network::netlink::{self, Peer};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::Pid;
use testing::needs;

use crate::home::rootfs;

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

/// And IPv6.
pub fn ipv6() -> Option<String> {
    let why = network::why_no_ipv6().expect("a setting");
    bridged().or_else(|| why.map(|why| format!("needs IPv6: {why}")))
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

/// And a user who is none but can have a tap: the tests make the device node accessible to all, as distributions do.
pub fn pasta() -> Option<String> {
    let tap = File::options().read(true).write(true).open(TUN);
    let missing = || tap.err().map(|error| format!("needs {TUN}: {error}"));
    bridged().or_else(|| needs::tool("pasta")).or_else(missing)
}

const TUN: &str = "/dev/net/tun";

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
        netlink::add_bridge("uplink", [6; 6]).expect("bridge");
        netlink::add_address("uplink", Ipv4Addr::new(192, 0, 2, 1), 24).expect("address");
        let uplink = netlink::link("uplink").expect("netlink").expect("uplink").index;
        let peer = Peer { name: "eth0", ethernet: [2; 6], netns: outside.pid() };
        netlink::add_veth("cable", uplink, 1500, peer).expect("veth");
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

/// An ordinary user, and their store. For them this test's host has a way to everywhere, and a device to make a tap with.
pub struct Ordinary {
    store: tempfile::TempDir,
    outside: Outside,
}

impl Ordinary {
    const ID: u32 = 65534;

    pub fn new() -> Self {
        let store = tempfile::Builder::new().tempdir_in("/tmp").expect("tempdir");
        chown(store.path(), Some(Self::ID), Some(Self::ID)).expect("chown");
        // They are no owner of what the tests have made.
        let above = rootfs().parent().expect("a directory").to_owned();
        std::fs::set_permissions(above, PermissionsExt::from_mode(0o711)).expect("chmod");
        let node = store.path().join("tun");
        let kind = std::fs::metadata(TUN).expect("tun").rdev();
        mknod(&node, SFlag::S_IFCHR, Mode::empty(), kind).expect("mknod");
        std::fs::set_permissions(&node, PermissionsExt::from_mode(0o666)).expect("chmod");
        mount(Some(&node), TUN, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mount");
        let outside = Outside::new();
        netlink::add_default_route(Ipv4Addr::new(192, 0, 2, 254)).expect("route");
        Ordinary { store, outside }
    }

    pub fn outside(&self) -> Pid {
        self.outside.pid()
    }

    pub fn step(&self, arguments: &[&str]) -> testing::Run {
        testing::step("step06", arguments).with(|command| {
            command.env("XDG_RUNTIME_DIR", self.store.path()).env("TMPDIR", "/tmp").uid(Self::ID).gid(Self::ID);
        })
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.step(&[&["-q"], arguments].concat()).ran();
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.out.trim_end_matches('\n').to_owned()
    }

    /// `run` or `create`, with a root.
    pub fn make(&self, verb: &str, arguments: &[&str]) -> testing::Run {
        let root = rootfs().display().to_string();
        self.step(&[&[verb, "--rootfs", &root], arguments].concat())
    }

    /// Its first process, and its monitor.
    pub fn processes(&self, id: &str) -> [Pid; 2] {
        let all: serde_json::Value = serde_json::from_str(&self.ok(&["inspect", id])).expect("json");
        ["init", "monitor"].map(|which| Pid::from_raw(all[0]["state"][which]["pid"].as_i64().expect("a pid") as i32))
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        let _ = umount(TUN);
    }
}

/// The program that plays the network of an ordinary user's container, by its parent.
pub fn pasta_of(monitor: Pid) -> Option<Pid> {
    let children = testing::proc(monitor, &format!("task/{monitor}/children"));
    let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw);
    pids.find(|pid| testing::proc(*pid, "comm").starts_with("pas")) // passt.avx2, say
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

/// Something that listens until it is dropped, and says a word to each who comes, and as whom it has come. The other one
/// speaks first: Debian 12's pasta completes a connection from outside only then.
pub struct Server(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

pub fn serve(address: &str, word: &'static str) -> Server {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    listener.set_nonblocking(true).expect("nonblocking");
    let end = Arc::new(AtomicBool::new(false));
    let its = end.clone();
    let thread = std::thread::spawn(move || {
        while !its.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, from)) => {
                    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
                    let _ = stream.read(&mut [0]).and_then(|_| write!(stream, "{word} {}", from.ip()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    });
    Server(end, Some(thread))
}

/// The same by UDP.
pub fn serve_datagrams(address: &str) -> Server {
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.set_read_timeout(Some(Duration::from_millis(5))).expect("timeout");
    let end = Arc::new(AtomicBool::new(false));
    let its = end.clone();
    let thread = std::thread::spawn(move || {
        while !its.load(Ordering::Relaxed) {
            if let Ok((_, from)) = socket.recv_from(&mut [0]) {
                let _ = socket.send_to(format!("datagram {}", from.ip()).as_bytes(), from);
            }
        }
    });
    Server(end, Some(thread))
}

/// The address of IPv6 that goes with 10.6.0.`last`, and the one that every interface has by itself.
pub fn ipv6_of(last: u16) -> [Ipv6Addr; 2] {
    [Ipv6Addr::new(0xfd06, 0, 0, 0, 10, 6, 0, last), Ipv6Addr::new(0xfe80, 0, 0, 0, 6, 0x0aff, 0xfe06, last)]
}

/// Sends a message of ICMPv6, as one to a neighbour, which only believes what no router has passed on. See RFC 4861.
pub fn send_to_neighbour(to: Ipv6Addr, message: &[u8]) {
    let kind = (AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6);
    let socket = socket(kind.0, kind.1, kind.2, kind.3).expect("socket");
    setsockopt(&socket, sockopt::Ipv6Ttl, &255).expect("IPV6_UNICAST_HOPS");
    let eth0 = netlink::link("eth0").expect("netlink").expect("eth0").index;
    UdpSocket::from(socket).send_to(message, SocketAddrV6::new(to, 0, 0, eth0)).expect("send");
}

/// That an address is at eth0 of a container, whose other addresses say who it is: a neighbour advertisement.
pub fn advertisement(of: Ipv6Addr, ethernet: [u8; 6]) -> Vec<u8> {
    // Kind, code, checksum; flags: in place of what was known before; the address; an option: the Ethernet's.
    [&[136, 0, 0, 0, 0x20, 0, 0, 0], &of.octets()[..], &[2, 1], &ethernet].concat()
}

/// That its sender is the way to everybody else, for half an hour.
pub const ROUTER_ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];

/// The answer to a datagram; asked again, as one may be lost.
pub fn says_to_a_datagram(address: [u8; 4], port: u16) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
    socket.connect((Ipv4Addr::from(address), port)).expect("connect");
    let mut word = [0; 64];
    let ask = |_| socket.send(b"?").and_then(|_| socket.recv(&mut word)).ok();
    let length = (0..PATIENCE.as_secs()).find_map(ask).unwrap_or(0);
    String::from_utf8_lossy(&word[..length]).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// What is said at an address; nothing where nobody answers.
pub fn says(address: impl Into<IpAddr>, port: u16) -> String {
    says_within(PATIENCE, address, port)
}

pub fn says_within(patience: Duration, address: impl Into<IpAddr>, port: u16) -> String {
    let mut word = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&(address.into(), port).into(), patience) {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let _ = stream.write_all(b"?").and_then(|()| stream.read_to_string(&mut word));
    }
    word
}
