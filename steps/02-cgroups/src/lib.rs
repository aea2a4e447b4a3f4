//! Step 02: what may the child use up? See cgroups(7).
//!
//! A cgroup is a folder: made with mkdir, limited by writing to its files, entered by writing a pid, and taken away
//! with rmdir. `v1.rs` and `v2.rs` are twins, and the difference between them is what there is to know about the two.
//!
//! Left open: the child still sees and reaches all the host's files, those of `/sys/fs/cgroup` among them (step 03);
//! on v2 no list of devices is kept, which takes an eBPF program (step 09). Whoever may mount can mount the trees inside,
//! and lift the limits of its own group (step 09).

mod hierarchy;
mod leftovers;
mod limits;
mod remedies;
mod v1;
mod v2;

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::unistd::{AccessFlags, Pid, access};
use shared::failure::{CallFailed, During, Failure};
use shared::formula::{Fact, Formula, Term};
use shared::lock::{try_lock, wait_for_lock};
use shared::signals::Interrupted;
use shared::{call, explain};
use shared::{kernel_file, sys};

use leftovers::{is_marked, owner_lives};

pub use hierarchy::{Hierarchy, Version, detect, may_make_groups};
pub use leftovers::empty_all;
pub use limits::{CpuList, Limits, Rate};
pub use remedies::known;

/// The child's cgroup: on v1 a group in each hierarchy, on v2 one, on a hybrid machine both.
pub struct Cgroup {
    limits: Limits,
    groups: Vec<Group>,
    /// Set where the caller may not make them, and goes on without.
    without: Cell<bool>,
}

/// A group in one hierarchy.
pub struct Group {
    hierarchy: Hierarchy,
    /// The group that it is made in.
    parent: PathBuf,
    /// The group itself.
    dir: PathBuf,
    /// Says to other steps that this one lives.
    held: OnceCell<Flock<File>>,
    /// Made by another process. Who takes it away knows that this one is gone: a lock on it is then somebody's inside.
    is_left: bool,
}

/// A limit, as a file of a group and what is written to it.
pub struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// What the two versions do in ways of their own. `diff src/v1.rs src/v2.rs` is what there is to know about them.
trait Twin {
    /// The file of a group that a pid is written to, to put the process in.
    fn procs(&self) -> &'static str;
    /// Host: the folder that the group will be made in.
    fn parent(&self, hierarchy: &Hierarchy, limits: &Limits) -> PathBuf;
    /// Host: what must be there before a limit can be written, or a process put in.
    fn prepare(&self, group: &Group, limits: &Limits) -> Result<()>;
    /// The limits as files and values, in the order in which they are written.
    fn settings(&self, limits: &Limits) -> Vec<Setting>;
    /// The file where a setting can be read back.
    fn read_from<'a>(&self, file: &'a str) -> &'a str;
    /// What has been used up, and what was refused.
    fn counters(&self, dir: &Path) -> Vec<String>;
    /// Host, and the group gone or not made yet: undoes what steps have done outside their groups.
    fn take_back(&self, group: &Group) -> Result<()>;
}

impl Cgroup {
    /// Host: decides where the groups will be, named by the step and its pid; makes nothing yet.
    ///
    /// # Errors
    /// Where no hierarchy that can be reached has a controller that a limit needs.
    pub fn new(step: &str, limits: &Limits) -> Result<Self> {
        Cgroup::named(&format!("{step}-{}", std::process::id()), limits)
    }

    /// Host: the same, named `step04-` and up to 16 hexadecimal digits that are nobody else's.
    ///
    /// # Errors
    /// The same.
    pub fn named(name: &str, limits: &Limits) -> Result<Self> {
        let hierarchies = detect(Path::new("/proc"), "self")?;
        for (option, [on_v1, on_v2]) in limits.needs() {
            let there =
                hierarchies.iter().any(|it| it.controllers.iter().any(|name| name == it.version.pick(on_v1, on_v2)));
            ensure!(
                there,
                "{option} needs the cgroup controller {on_v2:?} (v1: {on_v1:?}), and no hierarchy that can be reached here has it"
            );
        }
        let group = |hierarchy: Hierarchy| {
            let parent = hierarchy.version.twin().parent(&hierarchy, limits);
            Group { dir: parent.join(name), parent, hierarchy, held: OnceCell::new(), is_left: false }
        };
        Ok(Cgroup::of(hierarchies.into_iter().map(group).collect(), limits.clone()))
    }

    /// Host: what another process has made, by its folders ([`dirs`](Self::dirs)); good for being entered, and for
    /// being removed once that process is gone.
    pub fn left(dirs: &[PathBuf]) -> Self {
        let group = |dir: &PathBuf| {
            let parent = dir.parent().unwrap_or(dir).to_owned();
            let hierarchy = hierarchy::of_group(&parent)?;
            let group = || Group { dir: dir.clone(), parent, hierarchy, held: OnceCell::new(), is_left: true };
            is_marked(dir).then(group)
        };
        Cgroup::of(dirs.iter().filter_map(group).collect(), Limits::default())
    }

    /// Host: every place where steps of this user can have made groups: its own group, and those above it. Good for
    /// being swept.
    ///
    /// # Errors
    /// Those of [`detect`].
    pub fn everywhere() -> Result<Self> {
        let mut groups = Vec::new();
        for hierarchy in detect(Path::new("/proc"), "self")? {
            let upwards = hierarchy.own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.mount));
            for parent in upwards.filter(|dir| access(*dir, AccessFlags::W_OK).is_ok()) {
                let (dir, parent, hierarchy) = (parent.join("step04-0"), parent.to_owned(), hierarchy.clone());
                groups.push(Group { dir, parent, hierarchy, held: OnceCell::new(), is_left: false });
            }
        }
        Ok(Cgroup::of(groups, Limits::default()))
    }

    fn of(groups: Vec<Group>, limits: Limits) -> Self {
        Cgroup { limits, groups, without: Cell::new(false) }
    }

    /// The folders of its groups, made or not.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.groups().iter().map(|group| group.dir.clone()).collect()
    }

    /// Host: takes away what steps that were killed with SIGKILL have left in the same places.
    pub fn sweep(&self) -> Result<()> {
        self.groups().iter().map(Group::sweep).fold(Ok(()), Result::and)
    }

    /// Host, before a run: the same. A group that resists is told of, and keeps nobody from running.
    ///
    /// # Errors
    /// [`Interrupted`], by a signal.
    pub fn try_sweep(&self) -> Result<()> {
        match self.sweep() {
            Err(error) if !error.is::<Interrupted>() => {
                explain::note(format_args!("left as it is: {error:#}"));
                Ok(())
            }
            swept => swept,
        }
    }

    /// Host: makes the groups and writes their limits.
    ///
    /// # Errors
    /// EACCES or EROFS where the caller may not. What was made until then, [`remove`](Self::remove) takes away.
    pub fn create(&self) -> Result<()> {
        ensure!(
            !self.groups.is_empty(),
            "no cgroup hierarchy can be reached here: none is mounted, or only a part of it that this process is not in"
        );
        self.groups().iter().try_for_each(Group::make)?;
        self.groups().iter().try_for_each(|group| group.limit(&self.limits))
    }

    /// Host: the same; but where the caller may not make cgroups and no limit was asked for, goes on without one and
    /// has the formula say why.
    pub fn create_or_go_without(&self, formula: &mut Formula) -> Result<()> {
        match self.create() {
            Err(error) if self.limits.is_empty() && (self.groups.is_empty() || not_permitted(&error)) => {
                self.remove()?;
                self.without.set(true);
                let Failure { sentence, remedy, .. } = Failure::of(&error);
                formula.refuse(
                    Term::Cgroup,
                    [Some(sentence), remedy].into_iter().flatten().collect::<Vec<_>>().join("; "),
                );
                Ok(())
            }
            result => result,
        }
    }

    /// Host: puts a held child in, so that it has run nothing outside the limits.
    pub fn admit(&self, child: Pid) -> Result<()> {
        self.groups()
            .iter()
            .try_for_each(|group| explain::host_echo(child, &group.dir.join(group.twin().procs())).run())
    }

    /// Host: what the kernel says: which group the child is in, and each limit.
    pub fn facts(&self, child: Pid) -> Result<Vec<Fact>> {
        if explain::dry_run() {
            return Ok(Vec::new());
        }
        let path = format!("/proc/{child}/cgroup");
        let memberships = kernel_file::read(&path).during(format_args!("cannot read {path}"))?;
        let mut facts = Vec::new();
        for group in self.groups() {
            let own = group.hierarchy.group_of(&memberships).unwrap_or("nowhere".into());
            let holds = own == group.dir;
            let what = if group.version() == Version::V2 {
                "cgroup.procs".to_owned()
            } else {
                group.hierarchy.controllers.join(",")
            };
            facts.push(Fact {
                brief: what.clone(),
                what,
                host: group.hierarchy.own.display().to_string(),
                child: own.display().to_string(),
                holds,
            });
            facts.extend(group.facts(&self.limits));
        }
        Ok(facts)
    }

    /// Host, and the child gone: the counters that moved.
    pub fn tell_counters(&self) {
        if explain::quiet() {
            return;
        }
        for group in self.groups() {
            for counter in group.twin().counters(&group.dir) {
                explain::note(counter);
            }
        }
    }

    /// Host, and the child gone: takes everything away. Succeeds where there is nothing.
    pub fn remove(&self) -> Result<()> {
        self.groups().iter().map(Group::remove).fold(Ok(()), Result::and)
    }

    fn groups(&self) -> &[Group] {
        if self.without.get() { &[] } else { &self.groups }
    }
}

impl Setting {
    /// Where there is no swap, the kernel may not have the file, and nothing is missed.
    fn is_about_swap(&self) -> bool {
        self.file.contains("swap") || self.file.contains("memsw")
    }
}

impl Group {
    fn make(&self) -> Result<()> {
        // Made and held in one go: in between, a sweep would take it for a dead step's.
        let make = || {
            std::fs::create_dir(&self.dir)?;
            let _ = self.held.set(try_lock(&self.dir)?);
            Ok::<_, std::io::Error>(())
        };
        explain::host(call!("mkdir {}", self.dir.display())).run(make)
    }

    fn limit(&self, limits: &Limits) -> Result<()> {
        self.twin().prepare(self, limits)?;
        self.settings(limits).iter().try_for_each(|setting| self.write(setting))
    }

    fn sweep(&self) -> Result<()> {
        let removed = {
            let _lock = self.lock()?;
            leftovers::remove(&self.parent)
        };
        removed.and(self.twin().take_back(self))
    }

    fn write(&self, setting: &Setting) -> Result<()> {
        let file = self.dir.join(setting.file);
        if setting.is_about_swap() && !explain::dry_run() && !file.exists() {
            ensure!(
                !has_swap(),
                "this kernel does not count swap ({} is not there), and this machine has some: the limit would be none",
                file.display()
            );
            return Ok(());
        }
        explain::host_echo(&setting.value, &file).run()
    }

    /// The limits that are this hierarchy's to keep.
    fn settings(&self, limits: &Limits) -> Vec<Setting> {
        let mut settings = self.twin().settings(limits);
        settings.retain(|setting| self.has(setting.controller));
        // Only root of the machine itself may change the list of devices: EPERM.
        if self.has("devices") && !sys::in_first_user_namespace() {
            settings.retain(|setting| setting.controller != "devices");
        }
        settings
    }

    /// What the kernel has made of the limits: one fact for each file.
    fn facts(&self, limits: &Limits) -> Vec<Fact> {
        let mut facts: Vec<Fact> = Vec::new();
        let mut text = String::new();
        for setting in self.settings(limits) {
            let file = self.twin().read_from(setting.file);
            let path = self.dir.join(file);
            // "Deny all" is no line of the list: it is what makes the list end.
            if setting.value == "a" || (setting.is_about_swap() && !path.exists()) {
                continue;
            }
            let same_file = facts.last_mut().filter(|fact| fact.what == file);
            if same_file.is_none() {
                text = kernel_file::read(&path).unwrap_or_default();
            }
            let (holds, child) = self.read_back(file, &text, &setting.value);
            match same_file {
                Some(fact) => {
                    fact.child += &format!("; {child}");
                    fact.holds &= holds;
                }
                None => {
                    let brief = format!("{file} {child}");
                    facts.push(Fact { what: file.to_owned(), host: String::new(), child, holds, brief });
                }
            }
        }
        facts
    }

    /// Whether the file's text says what was written to it, and what it says.
    fn read_back(&self, file: &str, text: &str, value: &str) -> (bool, String) {
        if file == "cpuset.cpus" {
            // The list that was asked for means little where the groups above allow only a part of it.
            let effective = self.version().pick("cpuset.effective_cpus", "cpuset.cpus.effective");
            let effective = kernel_file::read(self.dir.join(effective)).unwrap_or_default();
            return (CpuList::numbers(&effective) == CpuList::numbers(value), effective.trim().to_owned());
        }
        // io.max has all limits of a device in one line, devices.list a line for each device.
        let has = |line: &&str| value.split(' ').all(|word| line.split(' ').any(|it| it == word));
        let line = text.lines().find(has);
        (line.is_some(), line.unwrap_or(text).trim().to_owned())
    }

    fn remove(&self) -> Result<()> {
        if self.is_left && !self.dir.exists() {
            return self.twin().take_back(self); // of a container that has ended well
        }
        // A group of that name that another step holds is another's: of a step with the same pid in another namespace.
        let is_ours = || self.is_left || self.held.get().is_some() || (self.dir.exists() && !owner_lives(&self.dir));
        if explain::dry_run() || is_ours() {
            leftovers::take_away(&self.dir)?;
            self.twin().take_back(self)?;
        }
        Ok(())
    }

    /// One step at a time changes what stands in a group: between two of them, one could take a controller away
    /// that the other has just asked for.
    fn lock(&self) -> Result<Flock<File>> {
        // Not on the group itself: there the lock says that its step lives, and this one may run inside that.
        wait_for_lock(&self.parent.join("cgroup.procs"))
    }

    /// Whether groups of other steps stand beside it.
    fn has_neighbours(&self) -> bool {
        leftovers::ours(&self.parent).any(|dir| dir.with_extension("") != self.dir)
    }

    fn has(&self, controller: &str) -> bool {
        self.hierarchy.controllers.iter().any(|name| name == controller)
    }

    fn version(&self) -> Version {
        self.hierarchy.version
    }

    fn twin(&self) -> &'static dyn Twin {
        self.version().twin()
    }
}

impl Version {
    fn twin(self) -> &'static dyn Twin {
        self.pick(&v1::V1 as &dyn Twin, &v2::V2)
    }

    /// What is this twin's.
    fn pick<T>(self, v1: T, v2: T) -> T {
        match self {
            Version::V1 => v1,
            Version::V2 => v2,
        }
    }
}

/// Whether this failure means that the caller may not make cgroups here.
fn not_permitted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<CallFailed>().is_some_and(|failed| {
        failed.call.starts_with("mkdir ") && matches!(failed.errno, Errno::EACCES | Errno::EPERM | Errno::EROFS)
    })
}

/// A number from a file of one number (an empty key), or of lines `key number`.
fn counter(path: &Path, key: &str) -> Option<u64> {
    let text = kernel_file::read(path).ok()?;
    let line = text.lines().find(|line| key.is_empty() || line.split(' ').next() == Some(key))?;
    line.split(' ').next_back()?.parse().ok()
}

/// Whether this machine can put memory aside to a disk. proc_swaps(5): a heading, and a line for each place.
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}
