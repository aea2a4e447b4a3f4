//! Containers as people read them, and as programs do.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::{Value, json};

use crate::Recipe;
use crate::container::{Container, Snapshot, State};
use crate::states::Status;

/// A container as `ps` has it; with `--size`, bytes on disk that are its own.
pub struct Row {
    pub container: Container,
    pub seen: Snapshot,
    pub disk: Option<u64>,
}

/// `step04 ps`.
pub fn table(rows: &[Row], with_size: bool) -> String {
    let mut cells = vec![["CONTAINER ID", "NAME", "COMMAND", "CREATED", "STATUS", "SIZE"].map(str::to_owned)];
    for Row { container, seen, disk } in rows {
        let config = &container.config;
        let created = format!("{} ago", since(&config.created));
        let name = config.name.clone().unwrap_or_default();
        let size = disk.map_or(String::new(), |bytes| format!("{} KiB", bytes / 1024));
        cells.push([config.id.clone(), name, command(container), created, in_words(seen), size]);
    }
    // Not wider: a name in a damaged file can be as long as somebody likes.
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(80);
    let widths: Vec<_> = (0..if with_size { 6 } else { 5 }).map(width).collect();
    let line = |row: &[String; 6]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("   ").trim_end())
    };
    cells.iter().map(line).collect()
}

/// The same as JSON: one object.
pub fn object(Row { container, seen: Snapshot { status, state, end }, disk }: &Row) -> Value {
    let config = &container.config;
    let running = matches!(status, Status::Created | Status::Running | Status::Paused);
    json!({
        "id": config.id,
        "name": config.name,
        "command": config.command,
        "created": config.created,
        "status": status,
        "pid": state.init.filter(|_| running).map(|init| init.pid),
        "exit_code": end.as_ref().map(|end| end.code),
        "disk": disk,
    })
}

/// `step04 inspect`: what was wanted, what has become of it, and how it ended.
pub fn everything<R: Recipe>(container: &Container) -> Result<Value> {
    container.is_whole()?;
    let Snapshot { status, end, .. } = container.snapshot()?;
    let state = container.state()?;
    Ok(json!({
        "config": container.config,
        "status": status,
        "state": state,
        "disk": disk::<R>(container, &state)?,
        "end": end,
        "directory": container.path("").to_string_lossy(),
    }))
}

/// Bytes on disk of what its parts keep; none where another step has made it, or none of them keeps anything.
pub fn disk<R: Recipe>(container: &Container, state: &State) -> Result<Option<u64>> {
    let plan = if container.is_ours().is_ok() { state.plan::<R>()? } else { None };
    let Some(plan) = plan else { return Ok(None) };
    let sizes: Vec<_> = R::parts(&plan).iter().map(|part| part.disk()).collect::<Result<_>>()?;
    Ok(sizes.into_iter().flatten().reduce(|one, other| one + other))
}

/// JSON as it is, but for U+007F to U+009F: a terminal would obey them, and JSON need not escape them. RFC 8259, 7.
pub fn escaped(json: &str) -> String {
    let escape = |c: char| match c {
        '\u{7f}'..='\u{9f}' => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    };
    json.chars().map(escape).collect()
}

fn command(container: &Container) -> String {
    let words = &container.config.command;
    let text = if words.is_empty() { "a shell".to_owned() } else { words.join(" ") };
    let text = shared::explain::printable(&text);
    let short: String = text.chars().take(24).collect();
    if short == text { short } else { format!("{short}…") }
}

/// As Docker says it.
fn in_words(Snapshot { status, state, end }: &Snapshot) -> String {
    let up = || state.started.as_deref().map_or("Up".to_owned(), |started| format!("Up {}", since(started)));
    match status {
        Status::Creating => "Being created".to_owned(),
        Status::Created => "Created".to_owned(),
        Status::Running => up(),
        Status::Paused => format!("{} (Paused)", up()),
        Status::Stopped => match end {
            Some(end) => {
                let error = if end.error.is_some() { ": see inspect" } else { "" };
                format!("Exited ({}) {} ago{error}", end.code, since(&end.finished))
            }
            None => "Exited".to_owned(),
        },
        Status::Dead => "Dead: its monitor was killed".to_owned(),
    }
}

/// How long that is ago, in whole units of the largest that fits: `3 minutes`.
fn since(time: &str) -> String {
    let then = humantime::parse_rfc3339(time).unwrap_or_else(|_| SystemTime::now());
    let seconds = SystemTime::now().duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_drives_no_terminal_and_stays_the_same() {
        let value = json!({ "name": "a\u{9b}31m\u{7f}é\n" });
        let text = escaped(&value.to_string());
        assert!(text.contains("a\\u009b31m\\u007fé"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("json"), value);
    }
}
