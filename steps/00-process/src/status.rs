//! Lines of `/proc/PID/status`. See proc_pid_status(5).

/// The value in a line `Name:\tvalue`.
pub fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The same, of a mask in hexadecimal; no bit is set where there is no such line.
pub fn mask(text: &str, name: &str) -> u64 {
    field(text, name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\tPid:\nPid:\t7\nPPid:\t1\nGroups:\t\nCapEff:\t000000000000000a\n";
        assert_eq!(field(status, "Pid"), Some("7"));
        assert_eq!(field(status, "Groups"), Some(""));
        assert_eq!(field(status, "NSpid"), None);
        assert_eq!([mask(status, "CapEff"), mask(status, "CapBnd")], [10, 0]);
    }
}
