//! The report, for people and for an instructor who collects a classroom's.

use std::fmt::Write;

use colored::{ColoredString, Colorize};
use nix::unistd::geteuid;
use serde_json::{Map, Value, json};

use super::{Report, TOOLS, Verdict, Works};

impl Report {
    /// As a table: what the machine has, and below it step × works here / works with root / not here.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, says: String| {
            let _ = writeln!(text, "{what:<18}{says}");
        };
        line("kernel", format!("{}: {}", self.kernel, each(&self.calls, yes)));
        if self.is_filtered && self.calls.iter().any(|(_, there)| !there) {
            let says = "decides on this process's calls: a ✘ can be its answer (Docker's hides clone3)";
            line("  seccomp filter", says.to_owned());
        }
        line("user", self.user().to_owned());
        line("namespaces", each(&self.namespaces, |verdict| verdict.works.mark()));
        let refused: Vec<_> = self.namespaces.iter().filter(|(_, verdict)| verdict.works == Works::NotHere).collect();
        for (at, (name, verdict)) in refused.iter().enumerate() {
            let before = refused[..at].iter().find(|(_, it)| it.remedy.is_some() && it.remedy == verdict.remedy);
            let said = before.map_or_else(|| verdict.said(), |(name, _)| format!("{} as {name}", verdict.works.mark()));
            line(&format!("  {name}"), said);
        }
        line("  ordinary users", self.ordinary.as_ref().map_or("cannot be tried from here".to_owned(), Verdict::said));
        line("cgroups", format!("{}: {}", self.groups.version, self.groups.controllers.join(" ")));
        let scope = if self.groups.in_scope { " (in a scope, which the steps ask systemd for)" } else { "" };
        line("  usable here", none_or(self.groups.usable.join(" ") + scope));
        line("propagation of /", format!("{} (the steps make their mounts private in any case)", self.propagation));
        line("overlayfs", self.overlay.said());
        line("seccomp", yes(&self.seccomp).to_string());
        line("tools", each(&self.tools, yes));
        for (name, what_for) in TOOLS.iter().filter(|(name, _)| self.tools.contains(&(name, false))) {
            line("  not there", format!("{name}: {what_for}"));
        }
        line("\nstep ", "works here   works with root   not here".to_owned());
        for (at, (name, verdict)) in self.steps.iter().enumerate() {
            let before = self.steps[..at].iter().find(|(_, it)| it.reason.is_some() && it.reason == verdict.reason);
            line(name, verdict.row(before.map(|(name, _)| *name)));
        }
        let end = match self.steps_can_run() {
            true => "Steps 01 to 09 can run here, by this user.".green(),
            false => "Not all of the steps 01 to 09 can run here, by this user.".red(),
        };
        let _ = writeln!(text, "\n{end}");
        text
    }

    fn user(&self) -> &str {
        match self.is_root {
            true => "root",
            false if geteuid().is_root() => "ordinary: root of its user namespace alone",
            false => "ordinary",
        }
    }

    /// As one JSON object, on one line.
    pub fn json(&self) -> String {
        let full = |verdict: &Verdict| json!({ "works": verdict.works.word(), "reason": verdict.reason, "remedy": verdict.remedy });
        let bools = |list: &[(&str, bool)]| map(list, |is| json!(is));
        let step = |(name, verdict): &(&str, Verdict)| {
            let mut step = full(verdict);
            step["step"] = json!(name);
            step
        };
        let report = json!({
            "kernel": self.kernel,
            "calls": bools(&self.calls),
            "user": if self.is_root { "root" } else { "ordinary" },
            "namespaces": map(&self.namespaces, |verdict| json!(verdict.works.word())),
            "ordinary_users": self.ordinary.as_ref().map(full),
            "cgroup": {
                "version": self.groups.version,
                "controllers": self.groups.controllers,
                "usable": self.groups.usable,
                "in_scope": self.groups.in_scope,
            },
            "propagation": self.propagation,
            "overlayfs": full(&self.overlay),
            "seccomp": self.seccomp,
            "tools": bools(&self.tools),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "ok": self.steps_can_run(),
        });
        format!("{report}\n")
    }
}

impl Works {
    fn word(self) -> &'static str {
        match self {
            Works::Here => "here",
            Works::WithRoot => "root",
            Works::NotHere => "no",
        }
    }

    fn mark(self) -> ColoredString {
        match self {
            Works::Here => "✔".green(),
            Works::WithRoot => "with root".yellow(),
            Works::NotHere => "✘".red(),
        }
    }
}

impl Verdict {
    /// The mark in its column, and below it why and what to do, unless a step before has said the same.
    fn row(&self, before: Option<&str>) -> String {
        let mut row = match self.works {
            Works::Here => format!("    {}", "✔".green()),
            Works::WithRoot => format!("{:20}{}", "", "✔".yellow()),
            Works::NotHere => format!("{:35}{}", "", "✘".red()),
        };
        if let Some(name) = before {
            let _ = write!(row, "\n{:18}as {name}", "");
            return row;
        }
        row + &self.why()
    }

    fn said(&self) -> String {
        format!("{}{}", self.works.mark(), self.why())
    }

    fn why(&self) -> String {
        let reason = self.reason.iter().map(|reason| format!("\n{:18}{reason}", ""));
        let remedy = self.remedy.iter().map(|remedy| format!("\n{:18}{}{remedy}", "", "what to do: ".bold()));
        reason.chain(remedy).collect()
    }
}

fn yes(is: &bool) -> ColoredString {
    if *is { "✔".green() } else { "✘".red() }
}

fn none_or(list: String) -> String {
    if list.is_empty() { "none".to_owned() } else { list }
}

fn each<T>(list: &[(&str, T)], said: fn(&T) -> ColoredString) -> String {
    list.iter().map(|(name, is)| format!("{name} {}", said(is))).collect::<Vec<_>>().join("  ")
}

fn map<T>(list: &[(&str, T)], value: fn(&T) -> Value) -> Map<String, Value> {
    list.iter().map(|(name, is)| ((*name).to_owned(), value(is))).collect()
}
