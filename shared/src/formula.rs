//! The formula, with the terms that this run has made true lit.

use std::fmt::Display;
use std::panic::Location;

use colored::Colorize;

use crate::explain::{self, printable};
use crate::narration::{WIDTH, fitting, step_of};

/// The terms, in the order of the formula.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Term {
    /// What the container may use up.
    Cgroup,
    /// What it sees.
    Namespace,
    /// Where it stands.
    Rootfs,
    /// Who looks after it.
    Engine,
}

impl Term {
    const ALL: [Term; 4] = [Term::Cgroup, Term::Namespace, Term::Rootfs, Term::Engine];

    /// As the formula spells it.
    pub fn name(self) -> &'static str {
        ["cgroup", "namespace", "rootfs", "engine"][self as usize]
    }
}

/// One thing that the kernel says of the child, beside what it says of the host.
pub struct Fact {
    /// What was asked: `pid namespace`.
    pub what: String,
    /// The host's answer, where there is one.
    pub host: String,
    /// The child's.
    pub child: String,
    /// Whether that is what the step set out to do.
    pub holds: bool,
    /// A word or two for the line that sums up a term.
    pub brief: String,
}

#[derive(Default)]
enum Light {
    #[default]
    Off,
    On,
    Refused(String),
}

/// `Container = cgroup + namespace + rootfs + engine`.
#[derive(Default)]
pub struct Formula([Light; 4]);

impl Formula {
    /// Lights a term if the kernel confirms each fact of it; prints them in one line, each in its own under `--verbose`.
    /// Facts of earlier steps are folded: the formula says that they hold.
    ///
    /// # Errors
    /// Where the kernel says something else than what the step set out to do: then the step has failed,
    /// whatever its calls returned.
    #[track_caller]
    pub fn light(&mut self, term: Term, facts: &[Fact]) -> anyhow::Result<()> {
        let (this, caller) = (explain::this_step(), step_of(Location::caller()));
        let is_own = this.is_none() || this == caller;
        let brief: Vec<_> = facts.iter().map(|fact| fact.brief.as_str()).filter(|it| !it.is_empty()).collect();
        let denied = facts.iter().find(|fact| !fact.holds);
        if explain::quiet() {
            // Nothing is printed.
        } else if explain::verbose() || denied.is_some() {
            facts.iter().filter(|fact| explain::verbose() || !fact.holds).for_each(Fact::print);
        } else if is_own && !brief.is_empty() {
            let text = fitting(&brief, ", ", WIDTH - "  ✔ namespace ".chars().count());
            explain::line(format_args!("  {} {:<9} {}", "✔".green(), term.name(), printable(&text)));
        }
        if let Some(fact) = denied {
            anyhow::bail!("{}: the kernel does not confirm it: {} is {:?}", term.name(), fact.what, fact.child);
        }
        if !facts.is_empty() {
            self.0[term as usize] = Light::On;
        }
        Ok(())
    }

    /// A term that was asked for and is not possible here.
    pub fn refuse(&mut self, term: Term, reason: impl Display) {
        self.0[term as usize] = Light::Refused(reason.to_string());
    }

    /// Prints the formula: lit terms in brackets, terms that were refused with the reason below.
    pub fn print(&self) {
        if explain::quiet() {
            return;
        }
        if explain::dry_run() {
            explain::notice("dry run: no term is true, as nothing was done and nothing read back");
        }
        let terms = Term::ALL.map(|term| match self.0[term as usize] {
            Light::On => format!("[{}]", term.name()).green().bold().to_string(),
            Light::Off => term.name().dimmed().to_string(),
            Light::Refused(_) => format!("{} ✘", term.name()).red().to_string(),
        });
        explain::line(format_args!("Container = {}", terms.join(" + ")));
        for term in Term::ALL {
            if let Light::Refused(reason) = &self.0[term as usize] {
                let reason = printable(reason);
                explain::line(format_args!("  {} {} is not possible here: {reason}", "✘".red(), term.name()));
            }
        }
    }
}

impl Fact {
    fn print(&self) {
        let verdict = if self.holds { "✔".green() } else { "✘".red() };
        let beside = if self.host.is_empty() { String::new() } else { format!("   (host: {})", self.host) };
        explain::line(format_args!("  {verdict} {:<26} {}{}", self.what, printable(&self.child), beside.dimmed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_that_the_kernel_does_not_confirm_is_a_failure() {
        let fact =
            Fact { what: "root".into(), host: String::new(), child: "/".into(), holds: false, brief: String::new() };
        assert!(Formula::default().light(Term::Rootfs, &[fact]).is_err());
    }
}
