//! mount(2), printed.

use anyhow::Result;
use nix::mount::MsFlags;
use shared::call;
use shared::explain;

/// mount(2), printed as a call of the step that uses it. A type or data of `None` is a null pointer to the kernel.
///
/// # Errors
/// EPERM without rights over the mount namespace; those of mount(2).
#[track_caller]
pub fn mount(source: &str, target: &str, kind: Option<&str>, flags: MsFlags, data: Option<&str>) -> Result<()> {
    let or_null = |text: Option<&str>| text.map_or("NULL".to_owned(), |text| format!("{text:?}"));
    explain::child(call!("mount({source:?}, {target:?}, {}, {}, {})", or_null(kind), names(flags), or_null(data)))
        .run(|| nix::mount::mount(Some(source), target, kind, flags, data))
}

/// `MS_REC|MS_PRIVATE`; 0 where there is none.
fn names(flags: MsFlags) -> String {
    let names = flags.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join("|");
    if names.is_empty() { "0".to_owned() } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_in_c() {
        assert_eq!(names(MsFlags::MS_NOSUID | MsFlags::MS_BIND), "MS_NOSUID|MS_BIND");
        assert_eq!(names(MsFlags::empty()), "0");
    }
}
