//! The options of this step: which namespaces, and what the child is called.

use clap::ValueEnum;
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

/// The kinds of namespaces. namespaces(7) has one page for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Process ids: the child is PID 1 of its own.
    Pid,
    /// Mounts.
    #[value(alias = "mnt")]
    Mount,
    /// User and group ids, and the rights over all other namespaces here.
    User,
    /// Network interfaces, addresses, ports.
    #[value(alias = "network")]
    Net,
    /// System V objects and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// The root of the cgroup tree as the child sees it.
    Cgroup,
    /// The clocks since boot.
    Time,
}

use Namespace::{Cgroup, Ipc, Mount, Net, Pid, Time, User, Uts};

/// What the child sees.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "What the child sees (step 01)")]
pub struct View {
    /// The namespaces that the child gets of its own, separated by commas [default: pid,mount,user,net,ipc,uts; cgroup too from step 02 on]
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',')]
    namespaces: Vec<Namespace>,
    /// The child's host name
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    pub hostname: Option<String>,
    /// Whether the child has a cgroup of its own, where a cgroup namespace can be rooted.
    #[arg(skip)]
    #[serde(skip)]
    with_cgroup: bool,
}

impl View {
    /// The same view, with a cgroup namespace among the default ones: steps that make a cgroup say so.
    pub fn with_cgroup(self) -> Self {
        View { with_cgroup: true, ..self }
    }

    /// The same view, with its namespaces spelled out.
    pub fn settled(self) -> Self {
        View { namespaces: self.namespaces(), ..self }
    }

    /// The same view, without a namespace of this kind: that is the host's then.
    ///
    /// # Errors
    /// Where the command line has asked for it.
    pub fn without(self, kind: Namespace) -> anyhow::Result<Self> {
        let named = self.namespaces.contains(&kind);
        anyhow::ensure!(!named, "--namespaces has `{}`, and the host's is asked for, too: leave one out", kind.file());
        let namespaces = self.namespaces().into_iter().filter(|it| *it != kind).collect();
        Ok(View { namespaces, ..self })
    }

    /// A view with these namespaces alone.
    pub fn of(namespaces: Vec<Namespace>) -> Self {
        View { namespaces, hostname: None, with_cgroup: false }
    }

    /// Those that were chosen, in the order of their kinds.
    pub fn namespaces(&self) -> Vec<Namespace> {
        Namespace::value_variants().iter().copied().filter(|namespace| self.has(*namespace)).collect()
    }

    /// Whether this one was chosen.
    pub fn has(&self, namespace: Namespace) -> bool {
        match namespace {
            _ if !self.namespaces.is_empty() => self.namespaces.contains(&namespace),
            Cgroup => self.with_cgroup,
            Time => false,
            Pid | Mount | User | Net | Ipc | Uts => true,
        }
    }

    /// For clone(2): all but two. The child makes its cgroup namespace itself, once it is in its cgroup; and
    /// CLONE_NEWTIME is no flag of clone(2), which needs that bit for the number of a signal.
    pub fn clone_flags(&self) -> CloneFlags {
        self.namespaces().into_iter().filter(|kind| !matches!(kind, Cgroup | Time)).map(Namespace::flag).collect()
    }

    /// Options that contradict each other, in one sentence.
    pub fn validate(&self) -> anyhow::Result<()> {
        // The pid that clone(2) returns would be another process's there, and the id map be written for that one.
        let own = std::fs::read_link("/proc/self").unwrap_or_default();
        anyhow::ensure!(
            own.as_os_str() == nix::unistd::getpid().to_string().as_str(),
            "/proc is not there, or of another pid namespace than this process (`unshare --pid` takes --mount-proc for that)"
        );
        anyhow::ensure!(
            self.has(Uts) || self.hostname.is_none(),
            "--hostname needs a uts namespace: without `uts` in --namespaces it would rename the host"
        );
        Ok(())
    }
}

impl Namespace {
    fn file_and_flag(self) -> (&'static str, CloneFlags) {
        match self {
            Pid => ("pid", CloneFlags::CLONE_NEWPID),
            Mount => ("mnt", CloneFlags::CLONE_NEWNS),
            User => ("user", CloneFlags::CLONE_NEWUSER),
            Net => ("net", CloneFlags::CLONE_NEWNET),
            Ipc => ("ipc", CloneFlags::CLONE_NEWIPC),
            Uts => ("uts", CloneFlags::CLONE_NEWUTS),
            Cgroup => ("cgroup", CloneFlags::CLONE_NEWCGROUP),
            Time => ("time", CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)),
        }
    }

    /// Its name below `/proc/PID/ns/`.
    pub fn file(self) -> &'static str {
        self.file_and_flag().0
    }

    /// Its flag for clone(2), unshare(2) and setns(2).
    pub fn flag(self) -> CloneFlags {
        self.file_and_flag().1
    }
}

/// `CLONE_NEWNS|CLONE_NEWUSER`. nix has no name for the time namespace's flag.
pub fn flag_names(flags: CloneFlags) -> String {
    let time = (flags.bits() & libc::CLONE_NEWTIME != 0).then_some("CLONE_NEWTIME");
    flags.iter_names().map(|(name, _)| name).chain(time).collect::<Vec<_>>().join("|")
}

/// A name as hosts have it: letters, digits, `-` and `.`, at most 64 bytes. hostname(7).
fn hostname(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 64 {
        return Err("a host name has 1 to 64 characters".to_owned());
    }
    if !name.chars().all(fits) || name.starts_with(['-', '.']) {
        return Err("a host name is made of letters, digits, `-` and `.`, and begins with a letter or digit".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(words: &[&str]) -> View {
        #[derive(clap::Parser)]
        struct Options {
            #[command(flatten)]
            view: View,
        }
        let Options { view } = clap::Parser::parse_from([&["step01"], words].concat());
        view
    }

    #[test]
    fn by_default_there_are_six_and_from_step_02_on_seven() {
        assert_eq!(view(&[]).namespaces(), [Pid, Mount, User, Net, Ipc, Uts]);
        assert_eq!(view(&[]).with_cgroup().namespaces(), [Pid, Mount, User, Net, Ipc, Uts, Cgroup]);
        assert_eq!(view(&["--namespaces", "net,time"]).with_cgroup().namespaces(), [Net, Time]);
    }

    #[test]
    fn clone_gets_no_flag_that_it_does_not_know() {
        let flags = view(&["--namespaces", "user,cgroup,time"]).clone_flags();
        assert_eq!(flag_names(flags), "CLONE_NEWUSER");
    }

    #[test]
    fn each_kind_has_its_flag_and_its_file() {
        let names = ["PID", "NS", "USER", "NET", "IPC", "UTS", "CGROUP", "TIME"];
        for (kind, name) in Namespace::value_variants().iter().zip(names) {
            assert_eq!(flag_names(kind.flag()), format!("CLONE_NEW{name}"));
            assert_eq!(kind.file(), if *kind == Mount { "mnt".to_owned() } else { name.to_lowercase() });
        }
    }

    #[test]
    fn a_host_name_is_letters_digits_dots_and_dashes() {
        assert!(["a", "web-1.example", &"x".repeat(64)].iter().all(|name| hostname(name).is_ok()));
        assert!(["", "-x", ".x", "a b", "a\n", "ä", &"x".repeat(65)].iter().all(|name| hostname(name).is_err()));
    }
}
