//! What a test has for itself, so that nothing of others is in its way, and what it leaves is found: a process that
//! every orphan comes back to, a directory for temporary files, and, for root, a mount namespace, a network namespace and a
//! cgroup in each hierarchy. What is elsewhere on the machine it neither sees nor counts.

use std::collections::BTreeSet;
use std::fs::{create_dir, read_dir, read_to_string, remove_dir, write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{AccessFlags, Pid, access};
use shared::lock::is_locked;
use shared::mountinfo;
use tempfile::TempDir;

use crate::needs;

/// How long the kernel may take to end what was killed.
const MOMENT: Duration = Duration::from_secs(10);

/// What was there when the test began.
pub struct Surroundings(BTreeSet<String>);

/// The groups of steps that were there when the test began: they are somebody else's.
static STRANGERS: OnceLock<BTreeSet<PathBuf>> = OnceLock::new();

impl Surroundings {
    /// The test's process: makes them, and steps in. One that needs this machine's network keeps that.
    pub fn enter(place: &Path, needs_network: bool) -> Self {
        // What a step leaves running becomes a child of this process, where it is found.
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        let has_own_groups = enter_own_groups();
        leave_the_mounts_of_others();
        if !needs_network {
            leave_the_network_of_others();
        }
        if has_own_groups {
            see_no_other_groups();
        }
        for (name, variable) in DIRECTORIES {
            let dir = place.join(name);
            std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&dir).expect("mkdir");
            // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
            unsafe { std::env::set_var(variable, dir) };
        }
        let _ = STRANGERS.set(all_groups_of_steps());
        Surroundings(look())
    }

    /// What is there now and was not then. The kernel may need a moment to end what was killed.
    pub fn what_is_left(&self) -> Vec<String> {
        let since = Instant::now();
        loop {
            reap();
            let left: Vec<_> = look().difference(&self.0).cloned().collect();
            if left.is_empty() || since.elapsed() > MOMENT {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A test's own, and the variables that name them to the steps.
const DIRECTORIES: [(&str, &str); 2] = [("tmp", "TMPDIR"), ("run", "XDG_RUNTIME_DIR")];

/// A directory for temporary files in which programs can be run: /run under systemd, say, is mounted noexec.
pub fn tempdir() -> TempDir {
    let target = std::env::current_exe().expect("own path").with_file_name("");
    let usual = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), target];
    let is_good = |dir: &PathBuf| {
        let runs = statvfs(dir).is_ok_and(|it| !it.flags().contains(FsFlags::ST_NOEXEC));
        runs && access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
    };
    let dir = usual.into_iter().find(is_good).expect("a directory for temporary files, not mounted noexec");
    tempfile::Builder::new().prefix("check-").tempdir_in(dir).expect("tempdir")
}

/// The files that a test has left in its place.
pub fn files_left_in(place: &Path) -> impl Iterator<Item = String> {
    let dirs = DIRECTORIES.map(|(name, _)| place.join(name));
    dirs.into_iter()
        .flat_map(|dir| read_dir(dir).into_iter().flatten().flatten())
        .map(|it| it.path().display().to_string())
}

/// All that must be the same after a test as before it.
fn look() -> BTreeSet<String> {
    let mut all: BTreeSet<_> = children().into_iter().map(|(_, process)| format!("process {process}")).collect();
    // Where they are everybody's, others make some meanwhile; an ordinary user's step may make none there.
    if HAS_OWN_MOUNTS.load(Ordering::Relaxed) {
        let mounts = mountinfo::read(Path::new("/proc/self")).expect("mountinfo");
        all.extend(mounts.iter().map(|mount| format!("mount {}", mount.point.display())));
    }
    if HAS_OWN_NETWORK.load(Ordering::Relaxed) {
        all.extend(interfaces().into_iter().map(|name| format!("interface {name}")));
    }
    // One that is locked has an owner who lives: where that is a process of this test's, it was found above.
    let left = groups_of_steps()
        .into_iter()
        .filter(|group| HAS_OWN_GROUPS.load(Ordering::Relaxed) || !is_locked(Path::new(group)));
    all.extend(left.map(|group| format!("cgroup {group}")));
    all
}

/// The processes whose parent this one is, or has become, with what proc_pid_stat(5) begins with: `4711 (sleep`.
pub fn children() -> Vec<(Pid, String)> {
    let me = std::process::id().to_string();
    let stats = read_dir("/proc").expect("/proc").flatten();
    let stat = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let text = read_to_string(entry.path().join("stat")).ok()?;
        let (name, rest) = text.rsplit_once(')')?;
        (rest.split_whitespace().nth(1) == Some(&me)).then(|| (Pid::from_raw(pid), format!("{name})")))
    };
    stats.filter_map(stat).collect()
}

pub(crate) fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Ends what a failed test has left.
pub fn end_children() {
    let since = Instant::now();
    while !children().is_empty() && since.elapsed() < MOMENT {
        children().iter().for_each(|(pid, _)| _ = kill(*pid, Signal::SIGKILL));
        reap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// For root: the same mounts, in a namespace of the test's own. If `/` is shared it is so in there, too, but with no
/// mount outside: what leaks is found, and reaches nobody else.
fn leave_the_mounts_of_others() {
    let is_shared = needs::shared_root().is_none();
    // Who may not is no danger to the host's mounts either.
    if nix::unistd::geteuid().is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        let change = |how| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | how, None::<&str>).expect("mount");
        change(MsFlags::MS_PRIVATE);
        if is_shared {
            change(MsFlags::MS_SHARED);
        }
        HAS_OWN_MOUNTS.store(true, Ordering::Relaxed);
    }
}

/// For root: a network of the test's own, with nothing but loopback. A bridge, a rule or a setting of a test's is nobody
/// else's then. Who may not change a network, as root of a Docker container, stays.
fn leave_the_network_of_others() {
    let may = nix::unistd::geteuid().is_root() && needs::has(needs::CAP_NET_ADMIN);
    if may && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        set_loopback_up();
        HAS_OWN_NETWORK.store(true, Ordering::Relaxed);
    }
}

/// See netdevice(7).
fn set_loopback_up() {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    // SAFETY: an ifreq of zeros is a valid one, with an empty name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as _;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, and `request` is one that outlives the call.
    Errno::result(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).expect("lo is set up");
}

/// The interfaces of this process's network namespace, in the order of their names. `/sys/class/net` has those of the process
/// that has mounted `/sys`.
pub fn interfaces() -> Vec<String> {
    let text = read_to_string("/proc/self/net/dev").unwrap_or_default();
    let mut names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
    names.sort();
    names
}

/// A cgroup that this process is in: the directory, the mount that it is below, and the version.
struct OwnGroup {
    dir: PathBuf,
    mount: PathBuf,
    is_v2: bool,
}

/// Those of this process, in every hierarchy that can limit something.
fn own_groups() -> Vec<OwnGroup> {
    let memberships = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = mountinfo::read(Path::new("/proc/self")).expect("mountinfo");
    let group = |line: &str| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        let is_v2 = names.is_empty();
        let is_this = |mount: &&mountinfo::Mount| {
            let kind = if is_v2 { "cgroup2" } else { "cgroup" };
            mount.kind == kind && names.split(',').all(|name| is_v2 || mount.options.iter().any(|it| it == name))
        };
        let mount = mounts.iter().rfind(is_this).filter(|_| !names.starts_with("name="))?;
        let below = Path::new(path).strip_prefix(&mount.root).ok()?;
        let dir: PathBuf = mount.point.join(below).components().collect();
        dir.is_dir().then(|| OwnGroup { dir, mount: mount.point.clone(), is_v2 })
    };
    memberships.lines().filter_map(group).collect()
}

/// Whether each test gets groups of its own. Not on v2 alone: there a group with processes, as the test's would be,
/// cannot pass controllers on, and the steps in it would have no limits. See *no internal process constraint* in
/// Documentation/admin-guide/cgroup-v2.rst. A user who may not make groups needs none.
pub fn has_own_groups() -> bool {
    let own = own_groups();
    own.iter().any(|it| !it.is_v2) || !own.iter().all(|it| access(&it.dir, AccessFlags::W_OK).is_ok())
}

/// Whether this process has mounts that were copied for its test.
static HAS_OWN_MOUNTS: AtomicBool = AtomicBool::new(false);

/// Whether it has a network that was made for its test.
static HAS_OWN_NETWORK: AtomicBool = AtomicBool::new(false);

/// Whether this process is in groups that were made for its test.
static HAS_OWN_GROUPS: AtomicBool = AtomicBool::new(false);

/// Each hierarchy, from the test's own group downwards, as in a Docker container: `step04 clean` looks at all that it can
/// reach, and would remove what another test has killed on purpose.
fn see_no_other_groups() {
    for OwnGroup { dir, mount: point, .. } in own_groups() {
        mount(Some(&dir), &point, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap_or_else(|error| panic!("{}: {error}", point.display()));
    }
    HAS_OWN_GROUPS.store(true, Ordering::Relaxed);
}

/// `check-4711`, by the pid of the test's process.
fn name_of_groups(pid: Pid) -> String {
    format!("check-{pid}")
}

/// Whether it could.
fn enter_own_groups() -> bool {
    let own = own_groups();
    let may = |it: &OwnGroup| access(&it.dir, AccessFlags::W_OK).is_ok();
    if !own.iter().any(|it| !it.is_v2) || !own.iter().all(may) {
        return false;
    }
    let me = Pid::this();
    for OwnGroup { dir: parent, .. } in own {
        let dir = parent.join(name_of_groups(me));
        create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        // On v1 no process can be put in before there are processors and memory for it. See cpuset(7).
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) =
                read_to_string(parent.join(file)).and_then(|text| read_to_string(dir.join(file)).map(|_| text))
            {
                write(dir.join(file), text).expect("cpuset");
            }
        }
        write(dir.join("cgroup.procs"), me.to_string()).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    }
    true
}

/// What the text of a narration or a table says of the groups that a test has for itself, left out.
pub fn without_own_groups(text: &str) -> String {
    text.replace(&format!("/{}", name_of_groups(Pid::this())), "")
}

/// Removes the groups of a test whose process has ended; what runs in them is ended, and listed.
pub fn remove_groups_of(pid: Pid) -> Vec<String> {
    let mut printed = Vec::new();
    for OwnGroup { dir, .. } in own_groups() {
        let dir = dir.join(name_of_groups(pid));
        if dir.is_dir() && !remove_group(&dir, Some(&mut printed)) {
            printed.push(format!("{} cannot be removed", dir.display()));
        }
    }
    printed
}

const LONGER_THAN_ANY_TEST: Duration = Duration::from_secs(3600);

/// A run that was ended by Ctrl-C has removed nothing. What still runs in its groups keeps them.
pub fn remove_those_of_interrupted_runs() {
    for OwnGroup { dir, .. } in own_groups() {
        for entry in read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_a_tests = name.strip_prefix("check-").is_some_and(|pid| pid.parse::<u32>().is_ok());
            // Not by the pid: in another pid namespace, as in a container, it says nothing.
            let age = entry.metadata().and_then(|it| it.created().or(it.modified())).map(|time| time.elapsed());
            if is_a_tests && age.is_ok_and(|age| age.is_ok_and(|age| age > LONGER_THAN_ANY_TEST)) {
                remove_group(&entry.path(), None);
            }
        }
    }
}

/// Removes a group and those below; with `printed`, ends what runs in them.
fn remove_group(dir: &Path, mut printed: Option<&mut Vec<String>>) -> bool {
    for entry in read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path(), printed.as_deref_mut());
        }
    }
    let since = Instant::now();
    loop {
        // The kernel counts a process for a moment after its end: EBUSY.
        match remove_dir(dir) {
            Err(error)
                if error.raw_os_error() == Some(Errno::EBUSY as i32)
                    && printed.is_some()
                    && since.elapsed() < MOMENT => {}
            removed => return removed.is_ok(),
        }
        let pids = read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        if let Some(printed) = printed.as_deref_mut().filter(|_| !pids.is_empty()) {
            let _ = write(dir.join("freezer.state"), "THAWED");
            printed.push(format!(
                "{} still has {}",
                dir.display(),
                pids.split_whitespace().collect::<Vec<_>>().join(" ")
            ));
            for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The groups that the steps of this test have made and not removed.
pub fn groups_of_steps() -> Vec<String> {
    let strangers = STRANGERS.get();
    let all = all_groups_of_steps().into_iter().filter(|it| !strangers.is_some_and(|them| them.contains(it)));
    all.map(|group| group.display().to_string()).collect()
}

/// The groups with a step's mark (`step02-4711`) in the places where a step makes them: below the group that this process
/// is in, and, on v2, beside it or the ones above.
fn all_groups_of_steps() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for OwnGroup { dir, mount, .. } in own_groups() {
        let is_own = dir.ends_with(name_of_groups(Pid::this()));
        let upwards = dir.ancestors().take_while(|it| it.starts_with(&mount)).take(if is_own { 1 } else { usize::MAX });
        upwards.for_each(|dir| marked(dir, &mut found));
        // systemd starts a scope of its own below a slice, not beside the one that asks for it.
        let user = nix::unistd::getuid();
        marked(&mount.join("system.slice"), &mut found);
        marked(&mount.join(format!("user.slice/user-{user}.slice/user@{user}.service/app.slice")), &mut found);
    }
    found
}

/// Those of this user: an ordinary one on v1 has no place of its own, and sees what root's steps make meanwhile.
fn marked(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let user = nix::unistd::geteuid().as_raw();
    for entry in read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_marked = name.as_bytes().starts_with(b"step") && name.as_bytes().get(6) == Some(&b'-');
        let is_ours = entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == user);
        if is_marked && is_ours && found.insert(entry.path()) {
            marked(&entry.path(), found);
        }
    }
}
