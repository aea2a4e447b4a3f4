//! The formula, with the terms that this run has made true lit.

use std::fmt::Display;

use colored::Colorize;

use crate::explain;

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
}

enum Term {
    NotYet,
    True,
    Refused(String),
}

/// `Container = cgroup + namespace + rootfs + engine`.
pub struct Formula([(&'static str, Term); 4]);

impl Default for Formula {
    fn default() -> Self {
        Formula(["cgroup", "namespace", "rootfs", "engine"].map(|name| (name, Term::NotYet)))
    }
}

impl Formula {
    /// Lights a term if the kernel confirms each fact of it; tells the facts.
    ///
    /// # Errors
    /// Where the kernel says something else than what the step set out to do: then the step has failed,
    /// whatever its calls returned.
    pub fn light(&mut self, term: &str, facts: &[Fact]) -> anyhow::Result<()> {
        for Fact { what, host, child, holds } in facts {
            let verdict = if *holds { "✔".green() } else { "✘".red() };
            let beside = if host.is_empty() { String::new() } else { format!("   (host: {host})") };
            if !explain::quiet() {
                explain::line(format_args!("  {verdict} {what:<26} {}{}", explain::printable(child), beside.dimmed()));
            }
        }
        if let Some(fact) = facts.iter().find(|fact| !fact.holds) {
            anyhow::bail!("{term}: the kernel does not confirm it: {} is {:?}", fact.what, fact.child);
        }
        if !facts.is_empty() {
            self.set(term, Term::True);
        }
        Ok(())
    }

    /// A term that was wanted and is not possible here.
    pub fn refuse(&mut self, term: &str, reason: impl Display) {
        self.set(term, Term::Refused(reason.to_string()));
    }

    fn set(&mut self, term: &str, to: Term) {
        if let Some(place) = self.0.iter_mut().find(|(name, _)| *name == term) {
            place.1 = to;
        }
    }

    /// Tells the formula: lit terms in brackets, terms that were refused with the reason below.
    pub fn tell(&self) {
        if explain::quiet() {
            return;
        }
        if explain::dry_run() {
            explain::note("dry run: no term is true, as nothing was done and nothing read back");
        }
        let terms = self.0.iter().map(|(name, term)| match term {
            Term::True => format!("[{name}]").green().bold().to_string(),
            Term::NotYet => name.dimmed().to_string(),
            Term::Refused(_) => format!("{name} ✘").red().to_string(),
        });
        explain::line(format_args!("Container = {}", terms.collect::<Vec<_>>().join(" + ")));
        for (name, term) in &self.0 {
            if let Term::Refused(reason) = term {
                explain::line(format_args!(
                    "  {} {name} is not possible here: {}",
                    "✘".red(),
                    explain::printable(reason)
                ));
            }
        }
    }
}
