//! The check: what this machine allows, found out by trying. See namespaces(7), user_namespaces(7), cgroups(7).
//!
//! Version numbers promise; distributions, Docker and AppArmor restrict. So nothing is concluded from a version:
//! each thing is tried in a child, and what the child changed ends with it. Only "works with root" is concluded,
//! from what an ordinary user was refused.

mod groups;
mod report;
mod trial;

use std::cmp::Ordering;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::unistd::{User, geteuid};
use shared::explain;
use shared::failure::CallFailed;
use shared::{mountinfo, remedy};

pub use trial::KINDS;

use crate::look;
use crate::program::{self, Environment};
use crate::sys;
use groups::Groups;
use trial::Tried;

/// Programs that the text uses, and what for.
const TOOLS: [(&str, &str); 14] = [
    ("bash", "the command that runs inside by default"),
    ("busybox", "a small root to stand in (step 03)"),
    ("docker", "to compare with"),
    ("ip", "to see the network (step 06)"),
    ("lsns", "to see namespaces from a second terminal"),
    ("mmdebstrap", "a Debian root to stand in (step 03)"),
    ("newuidmap", "whole id ranges without root (step 05)"),
    ("nft", "to see what is translated (step 06)"),
    ("nsenter", "to step into a container from a second terminal"),
    ("pasta", "a network without root (step 06)"),
    ("podman", "to compare with, without root"),
    ("setfattr", "to unpack the archive of a layer (step 07)"),
    ("strace", "to see the calls themselves"),
    ("systemd-run", "a cgroup of one's own without root (step 02)"),
];

/// Who can do it on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Works {
    Here,
    WithRoot,
    NotHere,
}

/// Whether something works, and if not: why, and the line that fixes it.
#[derive(Clone)]
struct Verdict {
    works: Works,
    reason: Option<String>,
    remedy: Option<String>,
}

/// What this machine allows.
pub struct Report {
    kernel: String,
    calls: Vec<(&'static str, bool)>,
    is_filtered: bool,
    is_root: bool,
    namespaces: Vec<(&'static str, Verdict)>,
    /// All of them at once, for an ordinary user. None where this process cannot become one.
    ordinary: Option<Verdict>,
    groups: Groups,
    propagation: &'static str,
    overlay: Verdict,
    seccomp: bool,
    tools: Vec<(&'static str, bool)>,
    steps: Vec<(&'static str, Verdict)>,
}

impl Report {
    /// Tries everything. Takes well under a second, and leaves nothing behind.
    ///
    /// # Errors
    /// Where `/proc` is not there to be read.
    pub fn make() -> Result<Report> {
        let mounts = mountinfo::read(Path::new("/proc/self"))?;
        let calls = sys::newer_calls();
        let groups = Groups::find()?;
        let overlay = Verdict::of(contain(CloneFlags::CLONE_NEWNS, trial::lay));
        let seccomp = sys::has_seccomp();
        Ok(Report {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            is_filtered: trial::is_filtered(),
            is_root: is_root(),
            namespaces: trial::KINDS.map(|(name, kind)| (name, namespace(name, kind))).into(),
            ordinary: for_ordinary_users(),
            propagation: look::on_root(&mounts).map_or("unknown", look::propagation),
            seccomp,
            tools: TOOLS.map(|(name, _)| (name, is_installed(name))).into(),
            steps: steps(&calls, &groups, &overlay, seccomp),
            overlay,
            calls,
            groups,
        })
    }

    /// Whether steps 01 to 09 can run here, by this user.
    pub fn steps_can_run(&self) -> bool {
        self.steps.iter().all(|(_, verdict)| verdict.works == Works::Here)
    }
}

fn is_installed(tool: &str) -> bool {
    program::find(tool.as_ref(), &Environment::inherited()).is_ok()
}

/// Root over this machine: a process that is root of a user namespace alone is an ordinary user outside.
fn is_root() -> bool {
    geteuid().is_root() && sys::in_first_user_namespace()
}

/// Tries it with a user namespace around it, as the steps do; as root without one too.
fn contain(kinds: CloneFlags, inside: fn() -> Tried) -> Tried {
    match trial::contain(kinds | CloneFlags::CLONE_NEWUSER, inside) {
        Err(refused) if geteuid().is_root() => match trial::contain(kinds - CloneFlags::CLONE_NEWUSER, inside) {
            // Root lacks the right, as in a Docker container. A user namespace would give it, so what counts is why that
            // one is refused.
            Err(alone) if alone.errno == Errno::EPERM => Err(refused),
            tried => tried,
        },
        tried => tried,
    }
}

fn namespace(name: &str, kind: CloneFlags) -> Verdict {
    let is_user = kind == CloneFlags::CLONE_NEWUSER;
    let tried = if is_user { trial::contain(kind, trial::be) } else { contain(kind, trial::be) };
    // A limit of 0 on user namespaces holds for root too; the other kinds it forbids to ordinary users only.
    let is_limit = is_user && tried.as_ref().is_err_and(|refused| refused.errno == Errno::ENOSPC);
    let is_known = Path::new("/proc/self/ns").join(name).exists();
    let verdict = Verdict::of(tried);
    if is_limit || !is_known { verdict.for_good() } else { verdict }
}

/// Root tries it in a child that becomes nobody. None where it cannot.
fn for_ordinary_users() -> Option<Verdict> {
    let kinds = trial::default_kinds();
    let tried = match is_root() {
        true => trial::contain_as_nobody(kinds, trial::see),
        false => trial::contain(kinds, trial::see),
    };
    let became_nobody = tried.as_ref().err().is_none_or(|refused| !refused.call.starts_with("setres"));
    became_nobody.then(|| Verdict::of(tried).for_good())
}

/// What each step needs, tried all at once and in its order.
fn steps(
    calls: &[(&str, bool)],
    groups: &Groups,
    overlay: &Verdict,
    has_seccomp: bool,
) -> Vec<(&'static str, Verdict)> {
    let needs = |names: &[&str]| match calls.iter().find(|(name, there)| names.contains(name) && !there) {
        None => Verdict::HERE,
        Some((name, _)) => Verdict::refused(&CallFailed { call: format!("{name}()"), errno: Errno::ENOSYS }),
    };
    let see = recipe(trial::see).or_worse(needs(&["close_range"]));
    let stand = recipe(trial::stand).or_worse(needs(&["close_range", "mount_setattr", "openat2"]));
    let limits = limits(groups);
    let stand = match limits.works {
        Works::Here => stand,
        _ => stand.or_worse(Verdict {
            works: Works::Here,
            reason: Some("but without a cgroup: no limits, and no `step04 pause`".to_owned()),
            remedy: limits.remedy.clone(),
        }),
    };
    // Each is all that the one before it is.
    let users = range_of_ids().or_worse(mapped_root(&default_root())).or_worse(stand.clone());
    let network = network().or_worse(users.clone());
    let layers = layers(overlay).or_worse(network.clone());
    vec![
        ("00-process", Verdict::HERE),
        ("01-namespaces", see.clone()),
        ("02-cgroups", see.or_worse(limits)),
        ("03-rootfs", stand.clone()),
        ("04-engine", stand),
        ("05-users", users),
        ("06-network", network),
        ("07-layers", layers.clone()),
        ("08-terminal", layers.clone()),
        ("09-hardening", filters(has_seccomp).or_worse(layers)),
    ]
}

/// Step 06 runs without anybody to reach, too.
fn network() -> Verdict {
    let has_no_bridge = |refused: CallFailed| refused.errno == Errno::ENOPKG;
    if is_root() && contain(CloneFlags::CLONE_NEWNET, trial::bridge).is_err_and(has_no_bridge) {
        return Verdict {
            works: Works::Here,
            reason: Some("but with `--network none` alone: this kernel has no bridges".to_owned()),
            remedy: Some("sudo modprobe bridge veth".to_owned()),
        };
    }
    let (tool, reason) = match is_root() {
        true => ("nft", "but nobody outside is reached from inside: nft (package nftables) would write the rules"),
        false => ("pasta", "but nobody is reached: pasta (package passt) would play the network"),
    };
    Verdict::less_unless(is_installed(tool), reason)
}

/// Step 07 runs as the steps before, too.
fn layers(overlay: &Verdict) -> Verdict {
    let (data, other) = (data(), "name a directory on another one, such as ext4, xfs or btrfs, in XDG_DATA_HOME");
    // As a Docker container's root is. The kernel takes none for what is written above the layers.
    let is_overlay = statfs(&data).is_ok_and(|it| it.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    let (why, remedy) = match &overlay.reason {
        Some(why) => (Some(why.clone()), overlay.remedy.clone()),
        None if is_overlay => {
            (Some(format!("the file system of {} is an overlay itself", data.display())), Some(other.to_owned()))
        }
        None => (None, None),
    };
    Verdict { works: Works::Here, reason: why.map(|why| format!("but with `--no-overlay` alone: {why}")), remedy }
}

/// Where the engine (step 04) keeps what containers write, as far as that is there. See the XDG base directory
/// specification.
fn data() -> PathBuf {
    let of = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_dir());
    let usual = || if geteuid().is_root() { "/var/lib".into() } else { of("HOME").unwrap_or("/var/tmp".into()) };
    of("XDG_DATA_HOME").unwrap_or_else(usual)
}

/// Step 09 runs without its list of calls, too.
fn filters(has_seccomp: bool) -> Verdict {
    let reason = "but with `--security-opt seccomp=unconfined` alone: this kernel has no seccomp filters";
    Verdict::less_unless(has_seccomp, reason)
}

/// The root of a container that is given none: made by the first one. The nearest directory that is there will hold it.
fn default_root() -> PathBuf {
    let project =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).canonicalize().unwrap_or_else(|_| "/".into());
    let root = project.join("target/rootfs");
    root.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// From step 05 on root's containers own their root by a map of its mount. One that belongs to their ids needs none.
fn mapped_root(root: &Path) -> Verdict {
    let is_roots = root.metadata().is_ok_and(|it| it.uid() == 0);
    let Err(refused) = (if is_root() && is_roots { trial::map(root) } else { Ok(()) }) else { return Verdict::HERE };
    if refused.errno != Errno::EINVAL || !refused.call.starts_with("mount_setattr") {
        return Verdict::HERE; // what else is refused, such as a user namespace, is not about this root
    }
    let mounts = mountinfo::read(Path::new("/proc/self")).unwrap_or_default();
    let on = mounts.iter().filter(|mount| root.starts_with(&mount.point)).max_by_key(|it| it.point.as_os_str().len());
    let kind = on.map_or("unknown", |mount| &mount.kind);
    Verdict {
        works: Works::Here,
        reason: Some(format!("but not with the default root: its file system ({kind}) takes no map of ids")),
        remedy: Some(
            "give the step a root that belongs to the container's ids (`rootfs-scripts/host.sh --owner 100000 DIR`, and \
             --rootfs DIR), or --uidmap 0:0:65536"
                .to_owned(),
        ),
    }
}

/// Step 05 runs with one id, too, but then nobody is in there but root.
fn range_of_ids() -> Verdict {
    let (id, user) = (geteuid(), User::from_uid(geteuid()).ok().flatten().map(|user| user.name));
    if user.is_none() && !is_root() {
        let reason = "but with one id inside: newuidmap gives a range only to a user with a name in /etc/passwd";
        return Verdict::less_unless(false, reason);
    }
    // By name or by number. See subuid(5).
    let is_own = |name: &str| Some(name) == user.as_deref() || name.parse() == Ok(id.as_raw());
    let has_line = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().filter_map(|line| line.split(':').next()).any(is_own)
    };
    let has_range = is_root() || (has_line("/etc/subuid") && has_line("/etc/subgid") && is_installed("newuidmap"));
    let reason = "but with one id inside: newuidmap (package uidmap) and a line for this user in /etc/subuid and /etc/subgid \
                  would give it a range";
    Verdict::less_unless(has_range, reason)
}

fn recipe(inside: fn() -> Tried) -> Verdict {
    let kinds = trial::default_kinds();
    match (trial::contain(kinds, inside), contain(kinds, inside)) {
        (Err(refused), Ok(())) => Verdict {
            works: Works::Here,
            reason: Some(format!("but not with a user namespace: {refused}")),
            remedy: Some("give the step the option --namespaces pid,mount,net,ipc,uts".to_owned()),
        },
        (tried, _) => Verdict::of(tried),
    }
}

/// Step 02 makes a group in each tree. Without one of these three controllers it runs, and without all of them limits
/// nothing that the text is about.
fn limits(groups: &Groups) -> Verdict {
    let lacks = |name: &&str| !groups.usable.iter().any(|usable| usable == name);
    let missing: Vec<_> = ["memory", "cpu", "pids"].into_iter().filter(lacks).collect();
    let (works, reason, remedy) = match (&groups.refused, missing.len()) {
        (Some(refused), _) => return Verdict::refused(refused),
        (None, 0) => return Verdict::HERE,
        (None, _) if groups.version == "none" => (
            Works::NotHere,
            "no cgroups: no tree of them that this process is in can be reached".to_owned(),
            "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup, or leave the sandbox that hides it",
        ),
        (None, count) => (
            match count {
                3 if is_root() => Works::NotHere,
                3 => Works::WithRoot,
                _ => Works::Here,
            },
            format!("without limits of {}: no group here has these controllers", missing.join(", ")),
            match is_root() {
                true => "boot the kernel with them (for memory: cgroup_enable=memory on its command line)",
                false => {
                    "run the step with sudo, or as `systemd-run --user --scope -p Delegate=yes` and then the command"
                }
            },
        ),
    };
    Verdict { works, reason: Some(reason), remedy: Some(remedy.to_owned()) }
}

impl Verdict {
    const HERE: Verdict = Verdict { works: Works::Here, reason: None, remedy: None };

    /// It works here, and does less where something is missing.
    fn less_unless(is_there: bool, reason: &str) -> Self {
        Verdict { reason: (!is_there).then(|| reason.to_owned()), ..Verdict::HERE }
    }

    fn of(tried: Tried) -> Self {
        tried.map_or_else(|refused| Verdict::refused(&refused), |()| Verdict::HERE)
    }

    /// A right that an ordinary user lacks, root has. A limit that is reached may hold for root as well; and what root is
    /// refused, or the kernel lacks, works for no user.
    fn refused(refused: &CallFailed) -> Self {
        let works = match refused.errno {
            Errno::EPERM | Errno::EACCES if !is_root() => Works::WithRoot,
            _ => Works::NotHere,
        };
        let remedy = match refused.errno {
            Errno::ENODEV => Some("sudo modprobe overlay".to_owned()),
            errno => remedy::find(&refused.call, errno),
        };
        Verdict { works, reason: Some(explain::printable(&refused.to_string()).into_owned()), remedy }
    }

    /// Where root would be refused as well.
    fn for_good(self) -> Self {
        if self.works == Works::WithRoot { Verdict { works: Works::NotHere, ..self } } else { self }
    }

    /// The one that works for fewer; of two that work for the same, what either has to say.
    fn or_worse(self, other: Self) -> Self {
        let both = |one: Option<String>, other: Option<String>| match (one, other) {
            (Some(one), Some(other)) if one != other => Some(format!("{one}; {other}")),
            (one, other) => one.or(other),
        };
        match self.works.cmp(&other.works) {
            Ordering::Less => other,
            Ordering::Greater => self,
            Ordering::Equal => Verdict {
                works: self.works,
                reason: both(self.reason, other.reason),
                remedy: both(self.remedy, other.remedy),
            },
        }
    }
}
