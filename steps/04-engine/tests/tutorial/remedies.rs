//! The table *When something is refused*: made of the remedies in the code, step by step, so that there is one source.

use shared::remedy::GENERAL;

/// The table as the text has it.
pub fn table() -> String {
    let mut table = "| the call begins with | the kernel answers | what to do |\n| --- | --- | --- |\n".to_owned();
    for remedy in users::known().into_iter().rev().flat_map(|known| known.remedies).chain(GENERAL) {
        let call = if remedy.call.is_empty() { "any".to_owned() } else { format!("`{}…`", remedy.call) };
        let errnos: Vec<_> = remedy.errno.iter().map(|errno| format!("`{errno:?}`")).collect();
        table += &format!("| {call} | {} | {} |\n", errnos.join(", "), remedy.say.replace('|', "\\|"));
    }
    table
}
