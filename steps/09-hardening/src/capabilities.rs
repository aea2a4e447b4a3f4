//! The forty-one rights that make up root, by their names. See capabilities(7).

use std::fmt;

use serde::{Deserialize, Serialize};

/// By their numbers, include/uapi/linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What programs that are installed by a package manager, and servers, cannot do without: Docker's list.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability(u8);

/// As many as there are bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(pub u64);

/// What an option names: one, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Named {
    /// ALL
    All,
    /// By its name.
    One(Capability),
}

impl Capability {
    /// By its name, without `CAP_`.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|it| *it == name).map(|number| Capability(number as u8))
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl Set {
    /// Every one that this list knows.
    pub const ALL: Set = Set((1 << NAMES.len()) - 1);

    /// As Docker decides: `add` counts more than `drop`, but for an `ALL`.
    pub fn of(add: &[Named], drop: &[Named]) -> Self {
        let default = DEFAULT.iter().filter_map(|name| Capability::named(name)).map(Named::One).collect::<Vec<_>>();
        let (add_all, drop_all) = (add.contains(&Named::All), drop.contains(&Named::All));
        match (add_all, drop_all) {
            (true, _) => Set(Set::ALL.0 & !Set::listed(drop).0),
            (false, true) => Set::listed(add),
            (false, false) => Set(Set::listed(&default).0 & !Set::listed(drop).0 | Set::listed(add).0),
        }
    }

    fn listed(named: &[Named]) -> Self {
        let bit = |named: &Named| if let Named::One(Capability(number)) = named { 1 << number } else { 0 };
        Set(named.iter().map(bit).fold(0, |all, one: u64| all | one))
    }

    /// Whether it has this one.
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> capability.0 & 1 == 1
    }

    /// Whether each of these is in the other, too.
    pub fn is_within(self, other: Set) -> bool {
        self.0 & !other.0 == 0
    }

    /// Those that it has, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..64).map(Capability).filter(move |it| self.has(*it))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // A newer kernel has newer ones.
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let names: Vec<_> = self.iter().map(|it| it.to_string()).collect();
        f.write_str(&names.join(" "))
    }
}

/// In names, for who reads a container's plan.
impl Serialize for Set {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter().map(|it| it.to_string()))
    }
}

impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        let named = names.iter().filter_map(|name| Capability::named(name)).map(Named::One).collect::<Vec<_>>();
        Ok(Set::listed(&named))
    }
}

/// As an option has it: in capitals or not, with `CAP_` or without.
///
/// # Errors
/// A name that is none.
pub fn named(text: &str) -> Result<Named, String> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let one = || Capability::named(name).map(Named::One);
    let named = if name == "ALL" { Some(Named::All) } else { one() };
    named.ok_or_else(|| "no capability has this name; capabilities(7) lists them, and ALL is every one".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Set {
        let [add, drop] = [add, drop].map(|it| it.iter().map(|text| named(text).expect(text)).collect::<Vec<_>>());
        Set::of(&add, &drop)
    }

    #[test]
    fn dockers_fourteen_are_the_number_that_everyone_knows() {
        assert_eq!(set(&[], &[]).0, 0xa804_25fb);
    }

    #[test]
    fn a_capability_is_named_as_docker_takes_it() {
        for text in ["SYS_ADMIN", "sys_admin", "CAP_SYS_ADMIN", "cap_sys_admin"] {
            assert_eq!(named(text), Ok(Named::One(Capability(21))), "{text}");
        }
        assert_eq!([named("ALL"), named("all"), named("cap_all")], [const { Ok(Named::All) }; 3]);
        assert!(["", "CAP_", "SYS", "SYS_ADMIN ", "21"].iter().all(|text| named(text).is_err()));
    }

    #[test]
    fn what_is_added_and_dropped_is_decided_as_docker_decides() {
        assert_eq!(set(&["NET_ADMIN"], &[]).0, 0xa804_35fb);
        assert_eq!(set(&[], &["NET_RAW", "SYS_BOOT"]).0, 0xa804_05fb);
        assert_eq!(set(&["NET_RAW"], &["NET_RAW"]).0, 0xa804_25fb, "added counts more");
        assert_eq!(set(&[], &["ALL"]).0, 0);
        assert_eq!(set(&["CHOWN"], &["ALL"]).0, 1);
        assert_eq!(set(&["ALL"], &["CHOWN"]).0, Set::ALL.0 - 1);
        assert_eq!(set(&["ALL"], &["ALL"]), Set::ALL);
    }

    #[test]
    fn a_set_is_written_down_in_names() {
        let text = serde_json::to_string(&set(&["KILL", "BPF"], &["ALL"])).expect("json");
        assert_eq!(text, r#"["KILL","BPF"]"#);
        assert_eq!(serde_json::from_str::<Set>(&text).expect("set"), set(&["KILL", "BPF"], &["ALL"]));
    }
}
