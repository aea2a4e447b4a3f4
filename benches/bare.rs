//! The bare kernel calls of `step04 run`, in the same order, with nothing around them: no options, no checks, no story,
//! no state. What these take, nobody can do without: the bench holds every other program against it.
//!
//! Called by the bench: `bare ROOT PLAN… -- PROGRAM…`. A word of the plan is a directory to make (`mkdir:DIR`) or to
//! remove (`rmdir:DIR`), a file to write (`write:FILE:VALUE`), or one that takes the child's pid (`admit:FILE`).
//! `bare range ROOT …` is that of `step05 run`: with a range of ids, and an idmapped root.
//! `bare network ROOT …` is that of `step06 run`, the first container on its bridge: with the range, a cable and rules.
//! `bare layers DATA ROOT …` is that of `step07 run --network none`: with the range, and an upper layer in DATA, made and removed.
//! With `BARE_TIMES=1` it prints on standard error how long each call took, in nanoseconds.
//!
//! `bare call` makes two calls again and again, getpid(2), and personality(2) that only asks, and prints the nanoseconds of each.
//!
//! `bare clone FLAGS` does nothing but `clone` and `waitpid`, 200 times, and prints the median in nanoseconds.

use std::ffi::{CStr, CString};
use std::io::Write;
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use libc::*;
use network::netlink::{self, Peer};
use network::{BRIDGE, GATEWAY, INSIDE, Lease, rules};

const FLAGS: c_int = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | SIGCHLD;
const STEADY: c_ulong = MS_NOSUID | MS_NODEV | MS_NOEXEC;
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// What is to be done, as C wants it.
struct Job {
    root: CString,
    plan: Vec<Word>,
    program: Vec<CString>,
    gate: [c_int; 2],
    has_range: bool,
    /// What it has on the bridge, if it is on one.
    lease: Option<Lease>,
    /// The root, attached nowhere yet; -1 without a range.
    tree: c_int,
    /// Where the upper layer is, if there is one; and the same, attached nowhere yet.
    data: Option<(CString, c_int)>,
}

enum Word {
    Mkdir(CString),
    Rmdir(CString),
    Write(CString, String),
    Admit(CString),
}

fn main() {
    let mut words = std::env::args().skip(1);
    let mut root = words.next().expect("a root");
    if root == "clone" {
        let flags = words.next().and_then(|word| word.parse().ok()).expect("flags");
        println!("{}", clone_alone(flags));
        return;
    }
    if root == "call" {
        // SAFETY: neither touches memory of ours.
        let (plain, by_argument) = (|| unsafe { getpid() }, || unsafe { personality(0xffff_ffff) });
        println!("{} {}", one_call(plain), one_call(by_argument));
        return;
    }
    let lease = (root == "network").then(|| Lease {
        address: [10, 6, 0, 2].into(),
        ipv6: network::why_no_ipv6().is_ok_and(|why| why.is_none()),
        publish: Vec::new(),
        names: Vec::new(),
        hostname: String::new(),
        added: Vec::new(),
    });
    let data = (root == "layers").then(|| (c(&words.next().expect("a directory")), -1));
    let has_range = root == "range" || lease.is_some() || data.is_some();
    if has_range {
        root = words.next().expect("a root");
    }
    let plan = words.by_ref().take_while(|word| word != "--").map(|word| parse(&word).expect("a plan")).collect();
    let program = words.map(|word| c(&word)).collect();
    let mut job = Job { root: c(&root), plan, program, gate: [0; 2], has_range, lease, tree: -1, data };
    if std::env::var_os("BARE_TIMES").is_some() {
        Times::begin();
    }
    // SAFETY: one thread; every pointer below is to a string or an array of `job`, which outlives the call.
    let code = unsafe { host(&mut job) };
    Times::tell();
    std::process::exit(code);
}

fn c(word: &str) -> CString {
    CString::new(word).expect("no NUL")
}

fn parse(word: &str) -> Option<Word> {
    Some(match word.split_once(':')? {
        ("mkdir", dir) => Word::Mkdir(c(dir)),
        ("rmdir", dir) => Word::Rmdir(c(dir)),
        ("admit", file) => Word::Admit(c(file)),
        ("write", rest) => rest.split_once(':').map(|(file, value)| Word::Write(c(file), value.to_owned()))?,
        _ => return None,
    })
}

unsafe fn host(job: &mut Job) -> c_int {
    let is_admit = |word: &Word| matches!(word, Word::Admit(_));
    let first = job.plan.iter().position(is_admit).unwrap_or(job.plan.len());
    let last = job.plan.iter().rposition(is_admit).map_or(first, |last| last + 1);
    // SAFETY: one thread; every pointer is to a string of `job` or a local, which outlive the calls.
    unsafe {
        job.plan[..first].iter().for_each(|word| follow(word, 0));
        if let Some(lease) = &job.lease {
            let made = || netlink::add_bridge(BRIDGE, network::ethernet(GATEWAY));
            call("bridge", || code(made()));
            call("bridge", || code(netlink::set_alias(BRIDGE, "bare")));
            for address in network::addresses(GATEWAY, lease.ipv6) {
                call("bridge", || code(netlink::add_address(BRIDGE, address, network::prefix(address))));
            }
            call("nft", || nft(&rules::text(std::slice::from_ref(lease))));
        }

        if let Some((data, tree)) = &mut job.data {
            make_upper(data);
            *tree = call("open_tree", || open_tree(data, AT_RECURSIVE as c_uint));
        }
        if job.has_range {
            job.tree = call("open_tree", || open_tree(&job.root, AT_RECURSIVE as c_uint));
        }
        call("gate", || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, job.gate.as_mut_ptr()));
        let mut stack = vec![0_u8; 1 << 20];
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        let pid = call("clone", || clone(child, top, FLAGS, (job as *mut Job).cast()));
        close(job.gate[1]);

        let of_child = |file| c(&format!("/proc/{pid}/{file}"));
        if job.has_range {
            call("id map", || echo(&of_child("uid_map"), "0 100000 65536"));
            call("id map", || echo(&of_child("gid_map"), "0 100000 65536"));
            let user = open(of_child("ns/user").as_ptr(), O_RDONLY | O_CLOEXEC);
            call("mount_setattr", || map_tree(job.tree, user));
        } else {
            call("id map", || echo(&of_child("setgroups"), "deny"));
            call("id map", || echo(&of_child("uid_map"), &format!("0 {} 1", getuid())));
            call("id map", || echo(&of_child("gid_map"), &format!("0 {} 1", getgid())));
        }
        job.plan[first..last].iter().for_each(|word| follow(word, pid));
        if let Some(lease) = &job.lease {
            let (ethernet, netns) = (network::ethernet(lease.address), nix::unistd::Pid::from_raw(pid));
            let peer = Peer { name: INSIDE, ethernet, netns };
            call("cable", || {
                let bridge = netlink::link(BRIDGE).ok().flatten().map_or(0, |bridge| bridge.index);
                code(netlink::add_veth(&lease.port(), bridge, 1500, peer))
            });
        }

        // Released; ready; started; and the end of the file, which exec has closed.
        pass(job.gate[0]);
        wait(job.gate[0]);
        pass(job.gate[0]);
        call("execve, until it has succeeded", || wait(job.gate[0]));
        let mut status = 0;
        call("the program, until it is waited for", || waitpid(pid, &mut status, 0));
        job.plan[last..].iter().for_each(|word| follow(word, 0));
        if let Some(lease) = &job.lease {
            // Gone with the network namespace of its other end, or a moment before.
            let remove = || {
                netlink::delete_link(&lease.port())
                    .or_else(|errno| if errno == nix::errno::Errno::ENODEV { Ok(()) } else { Err(errno) })
            };
            call("cable, removed", || code(remove()));
            call("bridge, removed", || code(netlink::delete_link(BRIDGE)));
            call("nft, removal", || nft(&rules::text(&[])));
        }
        if let Some((data, _)) = &job.data {
            let dir = data.to_string_lossy();
            call("rm -r", || if std::fs::remove_dir_all(&*dir).is_ok() { 0 } else { -1 });
        }
        if WIFEXITED(status) { WEXITSTATUS(status) } else { 125 }
    }
}

fn code(result: nix::Result<()>) -> c_int {
    // nix has left errno as it was.
    if result.is_ok() { 0 } else { -1 }
}

fn nft(rules: &str) -> c_int {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("write");
    if nft.wait().expect("wait").success() { 0 } else { -1 }
}

unsafe fn follow(word: &Word, pid: c_int) {
    // SAFETY: the strings of `word` outlive the calls.
    unsafe {
        match word {
            Word::Mkdir(dir) => call("cgroup: mkdir", || mkdir(dir.as_ptr(), 0o777)),
            Word::Rmdir(dir) => call("cgroup: rmdir", || rmdir(dir.as_ptr())),
            Word::Write(file, value) => call("cgroup: limits", || echo(file, value)),
            Word::Admit(file) => call("cgroup: the pid", || echo(file, &pid.to_string())),
        };
    }
}

extern "C" fn child(job: *mut c_void) -> c_int {
    // SAFETY: `clone` without CLONE_VM: this is the child's own copy of the job, and nobody else is in it.
    unsafe {
        let job = &*job.cast::<Job>();
        let gate = job.gate[1];
        close(job.gate[0]);
        call("prctl", || prctl(PR_SET_PDEATHSIG, SIGKILL));
        wait(gate);

        if job.has_range {
            call("ids", || setgroups(0, null()));
            call("ids", || setresgid(0, 0, 0));
            call("ids", || setresuid(0, 0, 0));
            call("prctl", || prctl(PR_SET_PDEATHSIG, SIGKILL));
            call("prctl", || prctl(PR_SET_DUMPABLE, 1));
        }
        let plain = |from: &CStr, to: &CStr, flags| mount(from.as_ptr(), to.as_ptr(), null(), flags, null());
        call("mount: private", || plain(c"none", c"/", MS_REC | MS_PRIVATE));
        call("host name", || sethostname(c"bare".as_ptr(), 4));
        call("loopback up", || loopback_up());
        if let Some(lease) = &job.lease {
            for address in lease.addresses() {
                call("addresses, up, route", || code(netlink::add_address(INSIDE, address, network::prefix(address))));
            }
            call("addresses, up, route", || code(netlink::set_up(INSIDE)));
            call("addresses, up, route", || code(netlink::add_default_route(GATEWAY)));
        }
        call("unshare: cgroup", || unshare(CLONE_NEWCGROUP));
        let root = if job.has_range {
            let tree = if let Some((_, data)) = job.data { lay(data, job.tree) } else { job.tree };
            stand_on(tree);
            tree
        } else {
            call("mount: bind the root", || plain(&job.root, &job.root, MS_BIND | MS_REC));
            call("openat2", || open(job.root.as_ptr(), O_PATH | O_DIRECTORY | O_CLOEXEC))
        };

        let fresh = |at: &CStr, kind: &CStr, flags, data: *const c_char| {
            mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data.cast())
        };
        let proc = place(root, c"proc");
        call("mount: proc", || fresh(&proc, c"proc", STEADY, null()));
        let sys = place(root, c"sys");
        call("mount: sysfs", || fresh(&sys, c"sysfs", STEADY | MS_RDONLY, null()));
        let dev = place(root, c"dev");
        call("mount: tmpfs", || fresh(&dev, c"tmpfs", MS_NOSUID, c"mode=755,size=64M".as_ptr()));
        let dev = call("openat2", || inside(root, c"dev"));
        let below = |name: &str| c(&format!("/proc/self/fd/{dev}/{name}"));
        umask(0);
        for name in DEVICES {
            let (from, to, name) = (c(&format!("/dev/{name}")), below(name), c(name));
            call("nodes and links", || mknodat(dev, name.as_ptr(), S_IFREG | 0o666, 0));
            call("mount: bind six devices", || plain(&from, &to, MS_BIND));
        }
        umask(0o022);
        for (to, name) in LINKS {
            call("nodes and links", || symlinkat(to.as_ptr(), dev, name.as_ptr()));
        }
        for (name, kind, flags, data) in [
            (c"pts", c"devpts", MS_NOSUID | MS_NOEXEC, c"newinstance,ptmxmode=0666,mode=0620".as_ptr()),
            (c"shm", c"tmpfs", STEADY, c"mode=1777,size=64M".as_ptr()),
            (c"mqueue", c"mqueue", STEADY, null()),
        ] {
            call("nodes and links", || mkdirat(dev, name.as_ptr(), 0o755));
            let label = match kind.to_bytes() {
                b"devpts" => "mount: devpts",
                b"tmpfs" => "mount: tmpfs",
                _ => "mount: mqueue",
            };
            call(label, || fresh(&below(&name.to_string_lossy()), kind, flags, data));
        }

        call("openat2", || inside(root, c"."));
        if !job.has_range {
            call("chdir", || chdir(job.root.as_ptr()));
        }
        call("pivot_root", || syscall(SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as c_int);
        call("umount2", || umount2(c".".as_ptr(), MNT_DETACH));
        let root = call("openat2", || open(c"/".as_ptr(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        let workdir = call("openat2", || inside(root, c"."));
        call("chdir", || fchdir(workdir));
        pass(gate);
        wait(gate);

        call("close_range", || syscall(SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC) as c_int);
        let mut arguments: Vec<_> = job.program.iter().map(|word| word.as_ptr()).collect();
        arguments.push(null());
        call("execve", || execve(arguments[0], arguments.as_ptr(), [null()].as_ptr()))
    }
}

unsafe fn open_tree(path: &CStr, flags: c_uint) -> c_int {
    // SAFETY: the path outlives the call.
    unsafe { syscall(SYS_open_tree, AT_FDCWD, path.as_ptr(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags) as c_int }
}

unsafe fn move_mount(tree: c_int, to: &CStr) -> c_int {
    // SAFETY: both paths outlive the call.
    unsafe { syscall(SYS_move_mount, tree, c"".as_ptr(), AT_FDCWD, to.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH) as c_int }
}

unsafe fn stand_on(tree: c_int) {
    // SAFETY: no pointers but to a literal.
    unsafe {
        call("move_mount", || move_mount(tree, c"/"));
        call("chdir", || fchdir(tree));
    }
}

/// Host: the directories of one container, which belong to root inside, and whether attributes are kept there.
unsafe fn make_upper(data: &CStr) {
    let at = |name: &str| c(&format!("{}/{name}", data.to_string_lossy()));
    let (upper, work) = (at("upper"), at("work"));
    // SAFETY: the strings outlive the calls.
    unsafe {
        for dir in [data, &upper, &work, &at("root"), &at("0")] {
            call("upper layer: mkdir", || mkdir(dir.as_ptr(), 0o700));
        }
        for dir in [data, &upper, &work] {
            call("upper layer: chown", || chown(dir.as_ptr(), 100_000, 100_000));
        }
        let name = c"user.bare".as_ptr();
        call("upper layer: setxattr", || lsetxattr(upper.as_ptr(), name, c"y".as_ptr().cast(), 1, 0));
        call("upper layer: setxattr", || lremovexattr(upper.as_ptr(), name));
        call("upper layer: chmod", || chmod(upper.as_ptr(), 0o755));
    }
}

/// Child: the root below, the upper layer on it.
unsafe fn lay(data: c_int, root: c_int) -> c_int {
    // SAFETY: no pointers but to literals.
    unsafe {
        stand_on(data);
        call("move_mount", || move_mount(root, c"0"));
        let (kind, options) = (c"overlay".as_ptr(), c"userxattr,lowerdir=0,upperdir=upper,workdir=work".as_ptr());
        call("mount: overlay", || mount(kind, c"root".as_ptr(), kind, 0, options.cast()));
        let overlay = call("open_tree", || open_tree(c"root", 0));
        call("umount2", || umount2(c".".as_ptr(), MNT_DETACH));
        overlay
    }
}

unsafe fn map_tree(tree: c_int, user: c_int) -> c_int {
    let attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_NODEV;
    let attr = mount_attr { attr_set, attr_clr: 0, propagation: MS_PRIVATE, userns_fd: user as u64 };
    let flags = AT_EMPTY_PATH | AT_RECURSIVE;
    // SAFETY: `attr` outlives the call, and its size is passed beside it.
    unsafe { syscall(SYS_mount_setattr, tree, c"".as_ptr(), flags, &attr, size_of::<mount_attr>()) as c_int }
}

/// Opened as the steps open it: every link in the path is read as the container would read it.
unsafe fn inside(root: c_int, path: &CStr) -> c_int {
    // SAFETY: an open_how of zeros asks for nothing; `how` and `path` outlive the call.
    unsafe {
        let mut how: open_how = std::mem::zeroed();
        how.flags = (O_PATH | O_CLOEXEC) as u64;
        how.resolve = RESOLVE_IN_ROOT;
        syscall(SYS_openat2, root, path.as_ptr(), &how, size_of::<open_how>()) as c_int
    }
}

unsafe fn place(root: c_int, path: &CStr) -> CString {
    // SAFETY: as above.
    let fd = call("openat2", || unsafe { inside(root, path) });
    c(&format!("/proc/self/fd/{fd}"))
}

unsafe fn echo(file: &CStr, value: &str) -> c_int {
    // SAFETY: both outlive the calls.
    unsafe {
        let fd = open(file.as_ptr(), O_WRONLY | O_CLOEXEC);
        let written = write(fd, value.as_ptr().cast(), value.len());
        close(fd);
        written as c_int
    }
}

unsafe fn loopback_up() -> c_int {
    // SAFETY: an ifreq of zeros is a valid one, with an empty name.
    unsafe {
        let any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        let mut request: ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        request.ifr_ifru.ifru_flags = IFF_UP as _;
        let answer = ioctl(any, SIOCSIFFLAGS, &request);
        close(any);
        answer
    }
}

fn pass(gate: c_int) {
    // SAFETY: one byte, which is there.
    unsafe { write(gate, [0_u8].as_ptr().cast(), 1) };
}

fn wait(gate: c_int) -> c_int {
    // SAFETY: one byte, which is there.
    unsafe { read(gate, [0_u8].as_mut_ptr().cast(), 1) as c_int }
}

/// Makes the call; ends this process where it fails.
fn call(name: &'static str, make: impl FnOnce() -> c_int) -> c_int {
    let times = TIMES.get();
    let since = times.map(|_| Instant::now());
    let answer = make();
    if let (Some(times), Some(since)) = (times, since) {
        times.add(name, since.elapsed().as_nanos() as u64);
    }
    if answer == -1 {
        eprintln!("bare: {name}: {}", std::io::Error::last_os_error());
        std::process::exit(125);
    }
    answer
}

static TIMES: OnceLock<&'static Times> = OnceLock::new();

/// In memory that host and child share.
struct Times {
    used: AtomicUsize,
    calls: [(AtomicUsize, AtomicUsize, AtomicU64); 1000],
}

impl Times {
    fn begin() {
        // SAFETY: new memory, of zeros, which are valid atomics; never unmapped.
        let memory = unsafe {
            let flags = MAP_SHARED | MAP_ANONYMOUS;
            &*mmap(null_mut(), size_of::<Times>(), PROT_READ | PROT_WRITE, flags, -1, 0).cast::<Times>()
        };
        let _ = TIMES.set(memory);
    }

    fn add(&self, name: &'static str, nanoseconds: u64) {
        let place = &self.calls[self.used.fetch_add(1, Relaxed)];
        place.0.store(name.as_ptr() as usize, Relaxed);
        place.1.store(name.len(), Relaxed);
        place.2.store(nanoseconds, Relaxed);
    }

    fn tell() {
        let Some(times) = TIMES.get() else { return };
        for (start, length, nanoseconds) in &times.calls[..times.used.load(Relaxed)] {
            // SAFETY: the address of a literal, which is the same in the child's copy of this program.
            let name = unsafe { std::slice::from_raw_parts(start.load(Relaxed) as *const u8, length.load(Relaxed)) };
            let _ = writeln!(std::io::stderr(), "{}\t{}", nanoseconds.load(Relaxed), String::from_utf8_lossy(name));
        }
    }
}

/// One of 20000 calls, in nanoseconds, in the fastest of a hundred rounds: what else the machine does is not in that.
fn one_call(make: impl Fn() -> c_int) -> f64 {
    let round = || {
        let since = Instant::now();
        (0..20_000).for_each(|_| _ = std::hint::black_box(make()));
        since.elapsed().as_nanos() as f64 / 20_000.0
    };
    (0..100).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// The median of 200 children that end at once, in nanoseconds.
fn clone_alone(flags: c_int) -> u128 {
    extern "C" fn end(_: *mut c_void) -> c_int {
        0
    }
    let mut stack = vec![0_u8; 1 << 16];
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let since = Instant::now();
            // SAFETY: one thread; without CLONE_VM the child runs on its own copy of `stack`.
            unsafe {
                let top = stack.as_mut_ptr().add(stack.len()).cast();
                let pid = call("clone", || clone(end, top, flags | SIGCHLD, null_mut()));
                waitpid(pid, null_mut(), 0);
            }
            since.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}
