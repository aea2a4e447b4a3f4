//! Where the measured programs run: a root with a static `true` in it, a store of our own, a bundle for the runtimes.

use std::fs::{create_dir, write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use hardening::calls::{self, Family};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

/// The limits of every run that has some.
const LIMITS: [&str; 6] = ["--memory", "64M", "--pids-limit", "20", "--cpus", "0.5"];

pub struct Workplace {
    dir: tempfile::TempDir,
    data: tempfile::TempDir,
    /// What every container that can be limited is limited to.
    pub limits: &'static [&'static str],
    /// What `bare` is to do for its cgroups.
    pub plan: Vec<String>,
}

impl Workplace {
    /// On this machine's own cgroups.
    pub fn new() -> Result<Self> {
        leave_hybrid_tree()?;
        // A bridge is nobody else's here.
        unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET)")?;
        Workplace::with(&LIMITS)
    }

    /// On cgroup version 2 alone, where the first was on version 1: its tree is mounted over the others, in the mount
    /// namespace of this bench. The controllers stay with version 1, so nothing is limited there.
    pub fn on_one_tree() -> Result<Option<Self>> {
        let all = cgroups::detect(Path::new("/proc"), "self")?;
        let Some(first) = all.iter().find(|it| it.version == cgroups::Version::V1) else { return Ok(None) };
        own_mounts()?;
        let above = first.mount.parent().context("a place for the tree")?;
        mount(Some("none"), above, Some("cgroup2"), MsFlags::empty(), None::<&str>).context("mount of cgroup2")?;
        Workplace::with(&[]).map(Some)
    }

    fn with(limits: &'static [&'static str]) -> Result<Self> {
        // In memory, as /run is, where engines keep what they know.
        let dir = tempfile::tempdir_in("/dev/shm").context("no directory in /dev/shm")?;
        let script = crate::project().join("rootfs-scripts/busybox.sh");
        let root = dir.path().join("root");
        let made = Command::new(script).arg(&root).output().context("rootfs-scripts/busybox.sh")?;
        ensure!(made.status.success(), "busybox.sh: {}", String::from_utf8_lossy(&made.stderr));
        let data = tempfile::tempdir_in("/var/tmp").context("no directory in /var/tmp")?;
        let mut place = Workplace { dir, data, limits, plan: Vec::new() };
        place.plan = place.plan_of_bare()?;
        create_dir(place.path("bundle"))?;
        write(place.path("bundle/config.json"), bundle(&root, limits, &place.plan).to_string())?;
        place.add_bundle("bundle-with-a-list", &root, &["/bin/true"], true)?;
        Ok(place)
    }

    /// Another bundle: of this root, with this program, and with step 09's list of calls or with none.
    pub fn add_bundle(&self, name: &str, root: &Path, program: &[&str], has_list: bool) -> Result<()> {
        let mut config = bundle(root, self.limits, &self.plan);
        config["process"]["args"] = json!(program);
        config["process"]["noNewPrivileges"] = true.into();
        if has_list {
            config["linux"]["seccomp"] = list();
        }
        create_dir(self.path(name))?;
        write(self.path(&format!("{name}/config.json")), config.to_string()).context("config.json")
    }

    /// A root with `bare` in it, and the libraries that it needs.
    pub fn root_with_bare(&self) -> Result<std::path::PathBuf> {
        let (script, root) = (crate::project().join("rootfs-scripts/host.sh"), self.dir.path().join("root-with-bare"));
        let made = Command::new(script).arg(&root).arg(built("bare")).output().context("rootfs-scripts/host.sh")?;
        ensure!(made.status.success(), "host.sh: {}", String::from_utf8_lossy(&made.stderr));
        Ok(root)
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// On disk, where containers keep what they write.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// A command that finds its store here, and its libraries where it always does: not where cargo looks first.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("XDG_RUNTIME_DIR", self.dir.path()).env("XDG_DATA_HOME", self.data()).env_remove("LD_LIBRARY_PATH");
        command
    }

    /// The bare calls, and `true`.
    pub fn bare(&self) -> Command {
        let mut bare = self.command(built("bare"));
        bare.arg(self.path("root")).args(&self.plan).args(["--", "/bin/true"]);
        bare
    }

    /// `step04` with these arguments; its standard output.
    pub fn step04(&self, arguments: &[&str]) -> Result<String> {
        let ran = self.command(built("step04")).arg("-q").args(arguments).output()?;
        ensure!(ran.status.success(), "step04 {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    }

    /// The cgroups that `step04 run` says it would make, write to and remove: so `bare` does the very same.
    fn plan_of_bare(&self) -> Result<Vec<String>> {
        let mut dry = self.command(built("step04"));
        dry.args(["--dry-run", "--verbose", "--color", "never", "run", "--rm", "--rootfs", &self.path("root")]);
        let ran = dry.args(self.limits).arg("/bin/true").output()?;
        let story = String::from_utf8_lossy(&ran.stderr).into_owned();
        let id = story.split_once("step04-").map(|(_, rest)| rest[..12].to_owned()).context("no cgroup is printed")?;
        let (ours, bare) = (format!("step04-{id}"), format!("step04-{}", "0".repeat(12)));
        let mut plan = Vec::new();
        for line in story.lines().filter(|line| line.contains("/sys/fs/cgroup/")) {
            let line = line.replace(&ours, &bare);
            let Some(call) = line.strip_prefix("host  ") else { continue };
            plan.push(match (call.split_once(' '), call.split_once(" > ")) {
                (Some((verb @ ("mkdir" | "rmdir"), dir)), _) => format!("{verb}:{dir}"),
                (_, Some(("echo 4711", file))) => format!("admit:{file}"),
                (_, Some((echo, file))) => format!("write:{file}:{}", echo["echo ".len()..].trim_matches('\'')),
                _ => bail!("bare does not know this call: {call}"),
            });
        }
        Ok(plan)
    }
}

/// No container stays behind, also where something has failed.
impl Drop for Workplace {
    fn drop(&mut self) {
        let ids = self.step04(&["ps", "-aq"]).unwrap_or_default();
        for id in ids.lines() {
            let _ = self.step04(&["rm", "-f", id]);
        }
    }
}

/// A program of this project, as it is released; for a quick run as it is built without that, which takes less long.
pub fn built(name: &str) -> String {
    let path = if name == "bare" { Path::new("examples/bare") } else { Path::new(name) };
    let profile = if crate::is_quick() { "debug" } else { "release" };
    target().join(profile).join(path).display().to_string()
}

/// `step04` with the C library in it, where that could be built.
pub fn static_step04() -> Option<String> {
    let path = target().join(crate::build::host().ok()?).join("release/step04");
    (path.exists() && !crate::is_quick()).then(|| path.display().to_string())
}

/// Where Cargo builds: this program is `target/release/deps/figures-…`.
pub fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(3).unwrap_or(Path::new("target")).to_owned()
}

/// crun takes a machine with the trees of version 1 *and* a tree of version 2 for one of version 2. So on such a machine
/// everybody runs without the latter, in a mount namespace of this bench's own.
fn leave_hybrid_tree() -> Result<()> {
    let all = cgroups::detect(Path::new("/proc"), "self")?;
    let (v1, v2): (Vec<_>, Vec<_>) = all.iter().partition(|it| it.version == cgroups::Version::V1);
    if let (false, Some(tree)) = (v1.is_empty(), v2.first()) {
        own_mounts()?;
        umount2(&tree.mount, MntFlags::MNT_DETACH).context("umount2")?;
    }
    Ok(())
}

/// A mount namespace of this bench's own.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS)")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("mount of / as private")
}

/// What a line of the plan says of devices, in the words of the OCI runtime specification.
fn device(word: &str) -> Option<serde_json::Value> {
    let (file, rule) = word.strip_prefix("write:")?.split_once(':')?;
    if file.ends_with("/devices.deny") {
        return Some(json!({"allow": false, "access": "rwm"}));
    }
    let [kind, numbers, access] = rule.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let mut device = json!({"allow": true, "type": kind, "access": access});
    // What is left out means any.
    for (name, number) in ["major", "minor"].into_iter().zip(numbers.split(':')) {
        if let Ok(number) = number.parse::<u32>() {
            device[name] = json!(number);
        }
    }
    file.ends_with("/devices.allow").then_some(device)
}

/// Step 09's list of calls in the same words. Of those that it decides by an argument, the one that is measured.
fn list() -> serde_json::Value {
    let names = |families: &[Family]| families.iter().flat_map(calls::names).collect::<Vec<_>>();
    let mut allowed = names(calls::ALLOWED);
    allowed.retain(|name| *name != "personality");
    let argument = |value: u64| {
        let args = json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]);
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args})
    };
    let mut rules = vec![
        json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": names(calls::FORBIDDEN), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}),
    ];
    rules.extend([0, 8, 0x20000, 0x20008, 0xffff_ffff].map(argument));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": rules})
}

/// What step 04 makes, in the words of the OCI runtime specification.
fn bundle(root: &Path, limits: &[&str], plan: &[String]) -> serde_json::Value {
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let devices: Vec<_> = plan.iter().filter_map(|word| device(word)).collect();
    let resources = if limits.is_empty() {
        json!({})
    } else {
        json!({
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "pids": {"limit": 20},
            "cpu": {"quota": 50000, "period": 100000},
            "devices": devices,
        })
    };
    let steady = ["nosuid", "nodev", "noexec"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/",
        },
        "root": {"path": root},
        "hostname": "figures",
        "mounts": [
            mount("/proc", "proc", &steady),
            mount("/sys", "sysfs", &["nosuid", "nodev", "noexec", "ro"]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &steady),
        ],
        "linux": {
            "namespaces": (["pid", "mount", "user", "network", "ipc", "uts", "cgroup"].map(|kind| json!({"type": kind}))),
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
            "cgroupsPath": "/figures",
            "resources": resources,
        },
    })
}
