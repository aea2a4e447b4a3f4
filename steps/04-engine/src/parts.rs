//! Steps 01 to 03 as parts. Nothing new is done here: each line was in `main.rs` of step 03.

use std::path::PathBuf;

use anyhow::Result;
use cgroups::Cgroup;
use namespaces::View;
use nix::unistd::Pid;
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::formula::{Formula, Term};

use crate::Part;
use crate::container::Config;

/// What a container is to be: the options of the steps before, and its program.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct Recipe {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub view: View,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: cgroups::Limits,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub root: Root,
    /// The program and its arguments [default: /bin/bash, or /bin/sh where there is none]
    #[arg(trailing_var_arg = true)]
    pub command: Vec<String>,
}

impl Recipe {
    /// Host: the same, once it is certain that it can be followed: without contradictions, with paths that mean the same
    /// from wherever it is read again, and with a root that is there.
    ///
    /// # Errors
    /// What is wrong, in one sentence; nothing has been made then.
    pub fn checked(self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        Ok(Recipe { view: self.view.with_cgroup().settled(), root: self.root.settled()?, ..self })
    }
}

/// Makes the parts of a container: [`parts`], or a later step's longer list.
pub type Parts = fn(&Config) -> Result<Vec<Box<dyn Part>>>;

/// The parts of steps 01 to 03, in the order in which they are prepared, admitted and entered.
pub fn parts(config: &Config) -> Result<Vec<Box<dyn Part>>> {
    let Recipe { view, limits, root, .. } = &config.recipe;
    let cgroup = Cgroup::named(&format!("step04-{}", config.id), limits)?;
    Ok(vec![
        // First: it makes mounts private, and everything after it mounts.
        Box::new(Namespaces { view: view.clone(), hostname: config.hostname().to_owned() }),
        // Then, in the order of the steps: a cgroup, and the namespace that hides the others.
        Box::new(Limited { cgroup, view: view.clone() }),
        // Last: nothing of the host's can be reached any more.
        Box::new(Rootfs { root: root.clone(), dir: root.prepare()?, view: view.clone() }),
    ])
}

/// Step 01: namespaces, and what belongs into them.
struct Namespaces {
    view: View,
    hostname: String,
}

impl Part for Namespaces {
    fn admit(&self, child: Pid) -> Result<()> {
        namespaces::map_ids(child, &self.view)
    }

    fn enter(&self) -> Result<()> {
        namespaces::keep_mounts_private(&self.view)?;
        namespaces::set_hostname(&self.view, &self.hostname)?;
        namespaces::set_loopback_up(&self.view)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        formula.light(Term::Namespace, &namespaces::facts(child, &self.view)?)
    }
}

/// Step 02: a cgroup, and the namespace that hides the others.
struct Limited {
    cgroup: Cgroup,
    view: View,
}

impl Part for Limited {
    fn cgroups(&self) -> Vec<PathBuf> {
        self.cgroup.dirs()
    }

    fn prepare(&self, formula: &mut Formula) -> Result<()> {
        self.cgroup.create_or_go_without(formula)
    }

    fn admit(&self, child: Pid) -> Result<()> {
        self.cgroup.admit(child)
    }

    fn enter(&self) -> Result<()> {
        namespaces::unshare_cgroup(&self.view)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        formula.light(Term::Cgroup, &self.cgroup.facts(child)?)
    }

    fn cleanup(&self) -> Result<()> {
        self.cgroup.print_counters();
        self.cgroup.remove()
    }
}

/// Step 03: a root of its own.
struct Rootfs {
    root: Root,
    dir: PathBuf,
    view: View,
}

impl Part for Rootfs {
    fn enter(&self) -> Result<()> {
        rootfs::enter(&self.root, &self.dir, &self.view)
    }

    fn confirm(&self, child: Pid, formula: &mut Formula) -> Result<()> {
        formula.light(Term::Rootfs, &rootfs::facts(child, &self.dir)?)
    }
}
