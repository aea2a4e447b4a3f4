//! The ids of files and processes in words that are true in a user namespace, too. See user_namespaces(7), *Unmapped
//! user and group IDs*: there the caller's own id is often 0, and every id that the namespace does not have is shown as
//! 65534.

use shared::kernel_file;

/// `user 1000`, `user 0 (1000 outside)`, or that it has no id in this process's user namespace.
pub fn user(id: u32) -> String {
    in_words("user", id, "uid")
}

/// The same of a group.
pub fn group(id: u32) -> String {
    in_words("group", id, "gid")
}

fn in_words(what: &str, id: u32, kind: &str) -> String {
    let Ok(map) = kernel_file::read(format!("/proc/self/{kind}_map")) else { return format!("{what} {id}") };
    let overflow = kernel_file::read(format!("/proc/sys/kernel/overflow{kind}")).ok();
    words(what, id, &map, overflow.and_then(|text| text.trim().parse().ok()).unwrap_or(65534))
}

/// By a map of lines "first id inside, first id outside, how many", and the id that stands for all that are in none.
fn words(what: &str, id: u32, map: &str, overflow: u32) -> String {
    let ranges: Vec<[u64; 3]> = map.lines().filter_map(range).collect();
    let outside = |[first, outside, count]: &[u64; 3]| {
        let at = u64::from(id).checked_sub(*first)?;
        (at < *count).then_some(outside + at)
    };
    let is_whole = ranges.iter().map(|[_, _, count]| count).sum::<u64>() >= u64::from(u32::MAX);
    let unmapped = format!("a {what} that has no id in this user namespace");
    let mapped = match ranges.iter().find_map(outside) {
        None => return unmapped,
        Some(outside) if outside == u64::from(id) => format!("{what} {id}"),
        Some(outside) => format!("{what} {id} ({outside} outside)"),
    };
    // The kernel shows both as the same number.
    if id == overflow && !is_whole { format!("{mapped} or {unmapped}") } else { mapped }
}

fn range(line: &str) -> Option<[u64; 3]> {
    let numbers = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNMAPPED: &str = "a user that has no id in this user namespace";

    #[test]
    fn where_each_id_is_itself_the_number_is_enough() {
        let whole = "         0          0 4294967295\n";
        assert_eq!([1000, 65534].map(|id| words("user", id, whole, 65534)), ["user 1000", "user 65534"]);
    }

    #[test]
    fn in_a_user_namespace_the_number_outside_stands_beside_it() {
        let single = "         0       1000          1\n";
        assert_eq!([0, 65534].map(|id| words("user", id, single, 65534)), ["user 0 (1000 outside)", UNMAPPED]);
        assert_eq!(words("user", 65534, "", 65534), UNMAPPED, "no map yet");
    }

    #[test]
    fn the_number_of_those_without_an_id_can_be_a_users_too() {
        let range = "0 1000 1\n1 100000 65535\n";
        assert_eq!(words("user", 5, range, 65534), "user 5 (100004 outside)");
        assert_eq!(words("user", 65534, range, 65534), format!("user 65534 (165533 outside) or {UNMAPPED}"));
        assert_eq!(words("user", 65534, range, 65533), "user 65534 (165533 outside)");
    }
}
