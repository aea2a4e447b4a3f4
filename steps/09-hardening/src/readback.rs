//! What the kernel says of a process: `/proc/PID/status`. See proc_pid_status(5).

use anyhow::{Context, Result};
use process::status::field;
use shared::explain;
use shared::formula::Fact;
use shared::kernel_file;

use crate::capabilities::Set;

/// Child, with everything given up and nothing else left to do than to execute the program: that it is so.
///
/// # Errors
/// Where the kernel has another word for it than this step.
pub fn facts(kept: Set, no_new_privileges: bool, filters: usize) -> Result<Vec<Fact>> {
    if explain::dry_run() {
        return Ok(Vec::new());
    }
    let status = kernel_file::read("/proc/self/status")?;
    let set = |name: &str| {
        let mask = field(&status, name).and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        mask.map(Set).with_context(|| format!("/proc/self/status has no {name}"))
    };
    let number = |name: &str| field(&status, name).and_then(|text| text.trim().parse::<usize>().ok());
    let mut facts = Vec::new();
    for (name, most) in [("CapBnd", kept), ("CapPrm", kept), ("CapEff", kept), ("CapInh", Set(0)), ("CapAmb", Set(0))] {
        let set = set(name)?;
        let count = set.iter().count();
        let brief = match name {
            "CapBnd" if set == Set::ALL => "all capabilities".to_owned(),
            "CapBnd" => format!("{count} capabilities"),
            _ => String::new(),
        };
        facts.push(fact(name, format!("{count}: {set}"), set.is_within(most), brief));
    }
    let is_set = number("NoNewPrivs") == Some(1);
    let brief = if is_set { "no_new_privs".to_owned() } else { String::new() };
    facts.push(fact("NoNewPrivs", u8::from(is_set).to_string(), is_set || !no_new_privileges, brief));
    // Linux 5.9. The caller may have some of its own.
    let count = number("Seccomp_filters").unwrap_or(filters);
    let brief = if count > 0 { format!("{count} filters") } else { String::new() };
    facts.push(fact("Seccomp_filters", count.to_string(), count >= filters, brief));
    Ok(facts)
}

fn fact(what: &str, child: String, holds: bool, brief: String) -> Fact {
    Fact { what: what.to_owned(), host: String::new(), child, holds, brief }
}
