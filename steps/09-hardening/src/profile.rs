//! A list of calls in Docker's form. See docs.docker.com/engine/security/seccomp.
//!
//! A filter here has two answers, one for the calls that it lists and one for the others. So a list becomes several:
//! one for its default, which lets all pass that the list has another answer for, and one for each of those other answers.

use std::path::Path;

use anyhow::{Context, Result, bail};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use serde::{Deserialize, Serialize};
use shared::explain;
use shared::failure::During;

use crate::calls::compile;
use crate::capabilities::{Named, Set, named};
use crate::numbers::number;

/// The parts of the file that count here; what says for which machines it is, is left out: it is for this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    syscalls: Vec<CallRule>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallRule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: When,
    #[serde(default)]
    excludes: When,
}

/// On which machines, and for whom, a rule holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct When {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl Profile {
    /// Host: the list in a file.
    ///
    /// # Errors
    /// ENOENT; what is no list; an answer, or a comparison, that is not to be had here.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read(path).during(format_args!("the list of calls {shown}"))?;
        let profile: Profile = serde_json::from_slice(&text).with_context(|| format!("the list of calls {shown}"))?;
        profile.filters(Set(0)).with_context(|| format!("the list of calls {shown}"))?;
        let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
        let unknown: Vec<_> = names.filter(|name| number(name).is_none()).map(String::as_str).collect();
        if !unknown.is_empty() {
            let count = unknown.len();
            explain::notice(format_args!(
                "{shown}: {count} calls have no number here: {}, …",
                unknown[..count.min(4)].join(", ")
            ));
        }
        Ok(profile)
    }

    /// The filters: the kernel asks each, and of two answers that are not the same takes the one that forbids more.
    ///
    /// # Errors
    /// An answer, or a comparison, that is not to be had here.
    pub fn filters(&self, capabilities: Set) -> Result<Vec<BpfProgram>> {
        let default = answer(&self.default_action, self.default_errno_ret)?;
        let (mut passed, mut others) = (Vec::new(), Vec::<(SeccompAction, Vec<_>)>::new());
        for rule in self.syscalls.iter().filter(|rule| rule.holds(capabilities)) {
            let (action, conditions) = (answer(&rule.action, rule.errno_ret)?, rule.conditions()?);
            let calls = rule.names.iter().map(|name| (name.as_str(), conditions.clone()));
            if action == default {
                continue;
            }
            passed.extend(calls.clone());
            match others.iter_mut().find(|(it, _)| *it == action) {
                _ if action == SeccompAction::Allow => {}
                Some((_, all)) => all.extend(calls),
                None => others.push((action, calls.collect())),
            }
        }
        let first = (default != SeccompAction::Allow).then(|| compile(merged(passed), SeccompAction::Allow, default));
        let others = others.into_iter().map(|(action, calls)| compile(merged(calls), action, SeccompAction::Allow));
        first.into_iter().chain(others).collect()
    }
}

impl CallRule {
    /// Whether it is for this architecture, and for who has these capabilities.
    fn holds(&self, capabilities: Set) -> bool {
        let has = |name: &String| matches!(named(name), Ok(Named::One(one)) if capabilities.has(one));
        let is_this = |name: &String| {
            let here = match std::env::consts::ARCH {
                "x86_64" => ["amd64", "x86_64"],
                other => ["arm64", other],
            };
            here.contains(&name.as_str())
        };
        self.includes.caps.iter().all(has)
            && !self.excludes.caps.iter().any(has)
            && (self.includes.arches.is_empty() || self.includes.arches.iter().any(is_this))
            && !self.excludes.arches.iter().any(is_this)
    }

    fn conditions(&self) -> Result<Vec<SeccompRule>> {
        let all = self.args.iter().flatten().map(Argument::condition).collect::<Result<Vec<_>>>()?;
        Ok(if all.is_empty() { Vec::new() } else { vec![SeccompRule::new(all)?] })
    }
}

impl Argument {
    fn condition(&self) -> Result<SeccompCondition> {
        let (how, value) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, self.value),
            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, self.value),
            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, self.value),
            "SCMP_CMP_LE" => (SeccompCmpOp::Le, self.value),
            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, self.value),
            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, self.value),
            "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(self.value), self.value_two),
            other => bail!("no comparison is called {other}"),
        };
        SeccompCondition::new(self.index, SeccompCmpArgLen::Qword, how, value).context("an argument")
    }
}

/// A call that has been listed twice: any of its rules is enough, and one without a condition is all.
fn merged(calls: Vec<(&str, Vec<SeccompRule>)>) -> Vec<(&str, Vec<SeccompRule>)> {
    let mut merged: Vec<(&str, Vec<SeccompRule>)> = Vec::new();
    for (name, mut rules) in calls {
        match merged.iter_mut().find(|(it, _)| *it == name) {
            Some((_, all)) if all.is_empty() || rules.is_empty() => all.clear(),
            Some((_, all)) => all.append(&mut rules),
            None => merged.push((name, rules)),
        }
    }
    merged
}

fn answer(name: &str, errno: Option<u32>) -> Result<SeccompAction> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        // These ask another process, which would have to be there.
        other => bail!("the answer {other} is not to be had here"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: &str) -> Profile {
        serde_json::from_str(text).expect(text)
    }

    #[test]
    fn a_list_is_as_many_filters_as_it_has_answers() {
        let count = |default: &str, rules: &str| {
            let text = format!(r#"{{"defaultAction":"SCMP_ACT_{default}","syscalls":[{rules}],"archMap":[]}}"#);
            profile(&text).filters(Set(0)).map(|filters| filters.len())
        };
        let allow = r#"{"names":["read","nosuch"],"action":"SCMP_ACT_ALLOW"}"#;
        let errno = |number| format!(r#"{{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":{number}}}"#);
        assert_eq!(count("ALLOW", "").expect("nothing is forbidden"), 0);
        assert_eq!(count("ERRNO", allow).expect("one"), 1);
        assert_eq!(count("ALLOW", &errno(1)).expect("one"), 1);
        assert_eq!(count("ERRNO", &format!("{allow},{}", errno(38))).expect("two"), 2);
        assert_eq!(count("ERRNO", &format!("{allow},{}", errno(1))).expect("the default's"), 1);
        assert_eq!(count("KILL", &format!("{},{}", errno(1), errno(2))).expect("three"), 3);
        let error = count("NOTIFY", allow).expect_err("notify").to_string();
        assert!(error.contains("SCMP_ACT_NOTIFY"), "{error}");
    }

    #[test]
    fn a_rule_may_be_for_a_capability_or_an_architecture_alone() {
        let rule = |when: &str| {
            let text = format!(r#"{{"names":["mount"],"action":"SCMP_ACT_ALLOW",{when}}}"#);
            serde_json::from_str::<CallRule>(&text).expect(&text)
        };
        let admin = Set::of(&[named("SYS_ADMIN").expect("name")], &[]);
        let includes = rule(r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#);
        assert!(includes.holds(admin) && !includes.holds(Set(0)));
        let excludes = rule(r#""excludes":{"caps":["CAP_SYS_ADMIN"]},"args":null"#);
        assert!(!excludes.holds(admin) && excludes.holds(Set(0)));
        assert!(!rule(r#""includes":{"arches":["s390x"]}"#).holds(Set(0)));
    }
}
