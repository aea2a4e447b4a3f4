//! The table *When something is refused*: made of the remedies in the code, step by step, so that there is one source.
//! Which row fits first depends on the step that prints it, so each says whose it is.

use shared::remedy::GENERAL;

use crate::containment::STEPS;

/// The table as the text has it.
pub fn table() -> String {
    let mut table =
        "| step | the call begins with | the kernel answers | what to do |\n| --- | --- | --- | --- |\n".to_owned();
    let steps = STEPS.iter().zip(hardening::known().into_iter().rev());
    let number = |step: &str| step["step".len()..].to_owned();
    let rows = steps.flat_map(|(step, known)| known.remedies.iter().map(move |it| (number(step), it)));
    for (step, remedy) in rows.chain(GENERAL.iter().map(|it| ("any".to_owned(), it))) {
        let call = if remedy.call.is_empty() { "any".to_owned() } else { format!("`{}…`", remedy.call) };
        let errnos: Vec<_> = remedy.errno.iter().map(|errno| format!("`{errno:?}`")).collect();
        table += &format!("| {step} | {call} | {} | {} |\n", errnos.join(", "), remedy.say.replace('|', "\\|"));
    }
    table
}
