//! This step as parts of a container: the list of devices, which is the host's to set, and what a process gives up.

use std::path::{Path, PathBuf};

use anyhow::Result;
use cgroups::Version;
use engine::parts::Limited;
use engine::{Letter, Part, Program, Right};
use nix::errno::Errno;
use nix::unistd::Pid;
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};
use shared::failure::is;
use shared::formula::{Formula, Term};
use shared::{call, explain};

use crate::capabilities::Set;
use crate::devices::DeviceRule;
use crate::options::{Calls, Confinement, Ulimit};
use crate::{paths, readback};

/// The devices that the processes of a container may open. On v1 the cgroup has the list in files.
#[derive(Serialize, Deserialize)]
pub struct DeviceList {
    /// None: all.
    rules: Option<Vec<DeviceRule>>,
    /// Its groups of v2.
    groups: Vec<PathBuf>,
}

impl DeviceList {
    /// For the groups that a container will have.
    ///
    /// # Errors
    /// A device that is none.
    pub fn plan(options: &Confinement, cgroup: &Limited) -> Result<Self> {
        let mut trees = cgroups::detect(Path::new("/proc"), "self")?;
        trees.retain(|it| it.version == Version::V2);
        let is_v2 = |group: &PathBuf| trees.iter().any(|it| group.starts_with(&it.mount));
        let groups = cgroup.groups().into_iter().filter(is_v2).collect();
        Ok(DeviceList { rules: options.devices()?, groups })
    }
}

impl Part for DeviceList {
    fn name(&self) -> &'static str {
        "devices"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        let Some(rules) = &self.rules else { return Ok(()) };
        // Who may make no groups goes on without.
        for group in self.groups.iter().filter(|group| group.exists() || explain::dry_run()) {
            match crate::allow_only(rules, group) {
                Err(error) if is(&error, Errno::EPERM) => {
                    explain::notice("whatever device node is there can be opened: on cgroup v2 a list takes CAP_BPF");
                }
                attached => attached?,
            }
        }
        Ok(())
    }
}

/// What a process of a container gives up.
#[derive(Serialize, Deserialize)]
pub struct Confined {
    capabilities: Set,
    no_new_privileges: bool,
    calls: Calls,
    masks: bool,
    limits: Vec<Ulimit>,
    /// None: as it has begun.
    oom_score_adj: Option<i32>,
}

impl Confined {
    /// As the options say.
    ///
    /// # Errors
    /// EPERM. getrlimit(2).
    pub fn plan(options: &Confinement) -> Result<Self> {
        if options.privileged {
            explain::notice(
                "privileged: root inside has every right over its namespaces, and makes every call of the kernel's",
            );
        }
        Ok(Confined {
            capabilities: options.capabilities(),
            no_new_privileges: options.no_new_privileges(),
            calls: options.calls(),
            masks: !options.privileged,
            limits: options.limits()?,
            oom_score_adj: options.oom_score_adj,
        })
    }

    fn filters(&self) -> Result<Vec<BpfProgram>> {
        match &self.calls {
            Calls::Unconfined => Ok(Vec::new()),
            Calls::Listed => crate::calls::filters(self.capabilities).map(Vec::from),
            Calls::Profile(profile) => profile.filters(self.capabilities),
        }
    }
}

impl Part for Confined {
    fn name(&self) -> &'static str {
        "hardening"
    }

    fn admit(&self, child: Pid) -> Result<()> {
        self.oom_score_adj.map_or(Ok(()), |number| crate::kill_sooner_or_later(child, number))
    }

    /// Only root can write to the files of a process that comes in, as that is not dumpable. So it inherits the number; but
    /// not one below 0, as no child begins with that.
    fn join(&self) -> Result<()> {
        let Some(number) = self.oom_score_adj.filter(|number| *number >= 0) else { return Ok(()) };
        let own = "/proc/self/oom_score_adj";
        explain::child(call!("echo {number} > {own}")).run(|| std::fs::write(own, number.to_string()))
    }

    fn admit_guest(&self, guest: Pid, _init: Pid) -> Result<()> {
        let given = self.oom_score_adj.filter(|number| *number < 0);
        given.map_or(Ok(()), |number| crate::kill_sooner_or_later(guest, number))
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        if !self.masks {
            return Ok(());
        }
        let _kernels = explain::one_line("what in /proc and /sys is the host's");
        let null = paths::null_device()?;
        paths::masked()?.iter().try_for_each(|there| crate::cover(there, &null))?;
        paths::Top::Proc.find(&paths::READ_ONLY)?.iter().try_for_each(crate::make_read_only)
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        let (kept, no_new_privileges) = (self.capabilities, self.no_new_privileges);
        for limit in self.limits.clone() {
            program.gives_up(Right::Resources, move || crate::limit(&limit));
        }
        program.gives_up(Right::Session, crate::leave_the_callers_keys);
        program.gives_up(Right::Bounds, move || crate::drop_from_bounds(kept));
        program.gives_up(Right::Capabilities, move || crate::keep_only(kept));
        if no_new_privileges {
            program.gives_up(Right::NewPrivileges, crate::refuse_new_privileges);
        }
        let filters = self.filters()?;
        let count = filters.len();
        let right = if no_new_privileges { Right::Calls } else { Right::CallsOfOneWhoMayRise };
        program.gives_up(right, move || filters.iter().try_for_each(crate::filter));
        program.gives_up(Right::Calls, move || {
            let facts = readback::facts(kept, no_new_privileges, count)?;
            Formula::default().light(Term::Namespace, &facts)
        });
        Ok(())
    }
}
