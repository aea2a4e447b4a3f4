//! For the failures that everyone meets: what to do. Each step keeps its own beside its calls, in `remedies.rs`.

use nix::errno::Errno;

use crate::explain::known;

/// What a step knows of its own calls.
pub struct Known {
    /// The names of the calls that it introduces.
    pub calls: &'static [&'static str],
    /// The first one that fits is printed; so the special ones stand before the general.
    pub remedies: &'static [Remedy],
    /// What to look at while `--pause` holds a call.
    pub hint: fn(&PausedCall) -> Option<String>,
}

/// One failure that is known.
pub struct Remedy {
    /// How the printed call begins.
    pub call: &'static str,
    /// What the kernel returns.
    pub errno: &'static [Errno],
    /// Whether this machine, or the call's arguments, make it that failure.
    pub applies: fn(&str) -> bool,
    /// What to do.
    pub say: &'static str,
}

/// A call that `--pause` holds.
pub struct PausedCall<'c> {
    /// As it is printed.
    pub call: &'c str,
    /// Its first word.
    pub name: &'c str,
    /// The pid of the process that makes it, as the host knows it.
    pub caller: i32,
    /// The child's pid as the host knows it; 0 while there is none.
    pub child: i32,
}

/// What to do about this failure, if it is a known one.
pub fn find(call: &str, errno: Errno) -> Option<String> {
    find_in(known().iter().flat_map(|known| known.remedies).chain(GENERAL), call, errno)
}

/// The first of these that fits.
pub fn find_in<'r>(remedies: impl IntoIterator<Item = &'r Remedy>, call: &str, errno: Errno) -> Option<String> {
    let fits = |it: &&Remedy| call.starts_with(it.call) && it.errno.contains(&errno) && (it.applies)(call);
    remedies.into_iter().find(fits).map(|remedy| remedy.say.to_owned())
}

/// What any call can fail with.
pub const GENERAL: &[Remedy] = &[
    Remedy {
        call: "",
        errno: &[Errno::ENOSYS],
        applies: |_| true,
        say: "this kernel does not know that call: Linux 5.12 or newer is needed",
    },
    Remedy {
        call: "",
        errno: &[Errno::ENOSPC],
        applies: |call| !call.contains("cgroup") && !call.starts_with("clone"),
        say: "the disk is full",
    },
];

/// What to look at from a second terminal while this call is held, and right after it.
pub fn look(call: &str, caller: i32, child: i32) -> Option<String> {
    let paused = PausedCall { call, name: crate::narration::name_of(call), caller, child };
    known().iter().find_map(|known| (known.hint)(&paused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_is_printed() {
        let remedy = |call, applies, say| Remedy { call, errno: &[Errno::EPERM, Errno::EACCES], applies, say };
        let known = [
            remedy("mount(\"proc\"", |_| true, "special"),
            remedy("mount(", |call| call.contains("MS_BIND"), "conditional"),
            remedy("mount(", |_| true, "general"),
        ];
        let find = |call, errno| find_in(&known, call, errno);
        assert_eq!(find("mount(\"proc\", …)", Errno::EPERM).as_deref(), Some("special"));
        assert_eq!(find("mount(\"/a\", MS_BIND)", Errno::EACCES).as_deref(), Some("conditional"));
        assert_eq!(find("mount(\"/a\")", Errno::EPERM).as_deref(), Some("general"));
        assert_eq!(find("mount(\"/a\")", Errno::ENOENT), None);
        assert_eq!(find("umount2(\".\")", Errno::EPERM), None);
    }
}
