//! The options of this step, by Docker's names.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use cgroups::Limits;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rootfs::Volume;
use serde::{Deserialize, Serialize};
use shared::failure::During;

use crate::capabilities::{self, Named, Set};
use crate::devices::{self, Device, DeviceRule};
use crate::profile::Profile;

/// What the child may not even try.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "What the child may not even try (step 09)")]
pub struct Confinement {
    /// A capability that it keeps, beside the fourteen of Docker's; ALL: every one
    #[arg(long, value_name = "CAPABILITY", value_parser = capabilities::named)]
    cap_add: Vec<Named>,
    /// One of the fourteen that it does not keep; ALL: none
    #[arg(long, value_name = "CAPABILITY", value_parser = capabilities::named)]
    cap_drop: Vec<Named>,
    /// no-new-privileges[=BOOL] [default: true]; seccomp=unconfined, or a FILE in Docker's form [default: this step's list]
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = security)]
    security_opt: Vec<Security>,
    /// What one process may use up, by the names of `ulimit` and prlimit(1) [default: nofile=1024 and the caller's hard limit]
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<Ulimit>,
    /// How soon the kernel kills it where the machine's memory runs out: 1000 is first, -1000 never [default: the caller's, but
    /// not below 0]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub(crate) oom_score_adj: Option<i32>,
    /// A device of the host's that it may use
    #[arg(long, value_name = "PATH[:PATH[:rwm]]", value_parser = devices::device)]
    device: Vec<Device>,
    /// Nothing of this: all capabilities, calls and devices, and /proc as the kernel has it
    #[arg(long)]
    pub(crate) privileged: bool,
    /// The list of calls that a file had when the container was created.
    #[arg(skip)]
    profile: Option<Profile>,
}

/// What `--security-opt` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Security {
    NoNewPrivileges(bool),
    Unconfined,
    Calls(PathBuf),
}

/// A limit of one process's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As prlimit(1) has it: `nofile`.
    pub name: String,
    /// What counts; the process may raise it as far as the other.
    pub soft: u64,
    /// What it may not raise.
    pub hard: u64,
}

/// Which calls it may make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Calls {
    /// All.
    Unconfined,
    /// Those of this step's list.
    Listed,
    /// Those of a file's.
    Profile(Profile),
}

impl Confinement {
    /// Options that contradict each other, in one sentence; and the list of calls, if one was named.
    ///
    /// # Errors
    /// A file that is no such list, a device that is none.
    pub fn settled(mut self) -> Result<Self> {
        for device in &self.device {
            device.rule()?;
        }
        let asked = !self.cap_drop.is_empty() || !self.security_opt.is_empty();
        ensure!(
            !(self.privileged && asked),
            "--privileged switches off what --cap-drop and --security-opt ask for: leave one out"
        );
        self.profile = match self.calls_option() {
            Some(Security::Calls(path)) => Some(Profile::read(path)?),
            _ => None,
        };
        Ok(self)
    }

    /// Of two that contradict each other, the last.
    fn calls_option(&self) -> Option<&Security> {
        self.security_opt.iter().rfind(|it| !matches!(it, Security::NoNewPrivileges(_)))
    }

    pub(crate) fn calls(&self) -> Calls {
        match (&self.profile, self.calls_option()) {
            (Some(profile), _) => Calls::Profile(profile.clone()),
            (None, Some(_)) => Calls::Unconfined,
            (None, None) if self.privileged => Calls::Unconfined,
            (None, None) => Calls::Listed,
        }
    }

    pub(crate) fn no_new_privileges(&self) -> bool {
        let said = |it: &Security| if let Security::NoNewPrivileges(value) = it { Some(*value) } else { None };
        self.security_opt.iter().rev().find_map(said).unwrap_or(!self.privileged)
    }

    pub(crate) fn capabilities(&self) -> Set {
        if self.privileged { Set::ALL } else { Set::of(&self.cap_add, &self.cap_drop) }
    }

    /// The devices that it may open: all, where there is no list.
    ///
    /// # Errors
    /// A device that is gone.
    pub(crate) fn devices(&self) -> Result<Option<Vec<DeviceRule>>> {
        let more = self.device.iter().map(Device::rule).collect::<Result<Vec<_>>>()?;
        Ok((!self.privileged).then(|| [devices::default(), more].concat()))
    }

    /// The same limits, with the list of devices for cgroup v1.
    ///
    /// # Errors
    /// A device that is gone.
    pub fn with_devices(&self, limits: &Limits) -> Result<Limits> {
        let all = || vec!["a".to_owned()];
        let devices = self.devices()?.map_or_else(all, |rules| rules.iter().map(DeviceRule::to_string).collect());
        Ok(Limits { devices, ..limits.clone() })
    }

    /// Host: the nodes that it sees in its `/dev`, too.
    pub fn volumes(&self) -> Vec<Volume> {
        self.device.iter().map(Device::volume).collect()
    }

    /// The limits that were asked for; and as many open files as programs expect that close all there could be.
    ///
    /// # Errors
    /// EPERM. getrlimit(2).
    pub(crate) fn limits(&self) -> Result<Vec<Ulimit>> {
        let mut limits = self.ulimit.clone();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).during("getrlimit")?;
        if soft > FILES && !limits.iter().any(|it| it.name == "nofile") {
            limits.push(Ulimit { name: "nofile".to_owned(), soft: FILES, hard });
        }
        Ok(limits)
    }
}

/// With select(2), a descriptor from here on breaks a program. FD_SETSIZE.
const FILES: u64 = 1024;

impl Ulimit {
    /// As the kernel has it.
    ///
    /// # Errors
    /// A name that is none.
    pub fn resource(&self) -> Result<Resource> {
        resource(&self.name).with_context(|| format!("no limit is called {}", self.name))
    }
}

fn resource(name: &str) -> Option<Resource> {
    use Resource::*;
    let all = [
        ("as", RLIMIT_AS),
        ("core", RLIMIT_CORE),
        ("cpu", RLIMIT_CPU),
        ("data", RLIMIT_DATA),
        ("fsize", RLIMIT_FSIZE),
        ("locks", RLIMIT_LOCKS),
        ("memlock", RLIMIT_MEMLOCK),
        ("msgqueue", RLIMIT_MSGQUEUE),
        ("nice", RLIMIT_NICE),
        ("nofile", RLIMIT_NOFILE),
        ("nproc", RLIMIT_NPROC),
        ("rss", RLIMIT_RSS),
        ("rtprio", RLIMIT_RTPRIO),
        ("rttime", RLIMIT_RTTIME),
        ("sigpending", RLIMIT_SIGPENDING),
        ("stack", RLIMIT_STACK),
    ];
    all.into_iter().find(|(it, _)| *it == name).map(|(_, resource)| resource)
}

/// `NAME=SOFT[:HARD]`, as Docker has it.
///
/// # Errors
/// A name that is none, a soft limit above the hard one.
fn ulimit(text: &str) -> Result<Ulimit, String> {
    let usage = || "a limit is NAME=SOFT[:HARD], with a name of prlimit(1)'s and numbers, or `unlimited`".to_owned();
    let (name, values) = text.split_once('=').ok_or_else(usage)?;
    let number = |text: &str| match text {
        "unlimited" | "-1" => Some(RLIM_INFINITY),
        number => u64::from_str(number).ok(),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = number(soft).zip(number(hard)).filter(|_| resource(name).is_some()).ok_or_else(usage)?;
    if soft > hard {
        return Err("the soft limit is above the hard one".to_owned());
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

fn security(text: &str) -> Result<Security, String> {
    match text.split_once(['=', ':']).unwrap_or((text, "true")) {
        ("no-new-privileges", value) => {
            bool::from_str(value).map(Security::NoNewPrivileges).map_err(|_| "it is true or false".to_owned())
        }
        ("seccomp", "unconfined") => Ok(Security::Unconfined),
        ("seccomp", file) if text != "seccomp" && !file.is_empty() => Ok(Security::Calls(file.into())),
        _ => Err("a security option is no-new-privileges[=BOOL], seccomp=unconfined or seccomp=FILE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_a_name_and_one_number_or_two() {
        let parsed = |text: &str| ulimit(text).map(|it| (it.name, it.soft, it.hard));
        assert_eq!(parsed("nofile=64"), Ok(("nofile".to_owned(), 64, 64)));
        assert_eq!(parsed("core=0:unlimited"), Ok(("core".to_owned(), 0, RLIM_INFINITY)));
        assert_eq!(parsed("nproc=-1"), Ok(("nproc".to_owned(), RLIM_INFINITY, RLIM_INFINITY)));
        assert!(
            ["nofile", "nofile=", "nofile=a", "nofile=2:1", "files=1", "=1"].iter().all(|text| ulimit(text).is_err())
        );
    }

    #[test]
    fn a_security_option_is_one_of_three() {
        assert_eq!(security("no-new-privileges"), Ok(Security::NoNewPrivileges(true)));
        assert_eq!(security("no-new-privileges=false"), Ok(Security::NoNewPrivileges(false)));
        assert_eq!(security("no-new-privileges:false"), Ok(Security::NoNewPrivileges(false)));
        assert_eq!(security("seccomp=unconfined"), Ok(Security::Unconfined));
        assert_eq!(security("seccomp=/a=b"), Ok(Security::Calls("/a=b".into())));
        for bad in ["", "seccomp", "seccomp=", "no-new-privileges=1", "apparmor=unconfined"] {
            assert!(security(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_of_two_options_holds() {
        let given = |options: &[&str]| Confinement {
            security_opt: options.iter().map(|text| security(text).expect(text)).collect(),
            ..Confinement::default()
        };
        assert!(given(&[]).no_new_privileges());
        assert!(!given(&["no-new-privileges", "no-new-privileges=false"]).no_new_privileges());
        assert!(matches!(given(&["seccomp=unconfined", "no-new-privileges"]).calls(), Calls::Unconfined));
        assert!(matches!(given(&[]).calls(), Calls::Listed));
    }

    #[test]
    fn privileged_is_without_all_of_it() {
        let privileged = Confinement { privileged: true, ..Confinement::default() };
        assert_eq!((privileged.capabilities(), privileged.no_new_privileges()), (Set::ALL, false));
        assert!(matches!(privileged.calls(), Calls::Unconfined) && privileged.devices().expect("devices").is_none());
    }
}
