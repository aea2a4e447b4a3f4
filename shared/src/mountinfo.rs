//! The mounts of a process, as proc_pid_mountinfo(5) has them.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::kernel_file;

/// One line of `/proc/PID/mountinfo`.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The device, as stat(2) has it in `st_dev`.
    pub device: u64,
    /// Which directory of its file system is mounted.
    pub root: String,
    /// Where, as the reader of the file sees it.
    pub point: PathBuf,
    /// `shared:1`, `master:1`; empty where the mount is private.
    pub propagation: String,
    /// `ext4`, `cgroup2`, ….
    pub kind: String,
    /// The file system's own options: on cgroup v1 its controllers.
    pub options: Vec<String>,
}

/// The mounts of a process in the order in which they were made: a later one covers an earlier one at its place.
///
/// # Errors
/// Where the file cannot be read: the process is gone, or another user's.
pub fn read(process: &Path) -> Result<Vec<Mount>> {
    Ok(kernel_file::read(process.join("mountinfo"))?.lines().filter_map(parse).collect())
}

/// `31 23 0:26 / /dev/pts rw,relatime shared:3 - devpts devpts rw,mode=600`
fn parse(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount: Vec<_> = mount.split(' ').collect();
    let [_, _, device, root, point, _, propagation @ ..] = mount.as_slice() else {
        return None;
    };
    let (major, minor) = device.split_once(':')?;
    let mut file_system = file_system.split(' ');
    Some(Mount {
        device: nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?),
        root: unescape(root),
        point: unescape(point).into(),
        propagation: propagation.join(" "),
        kind: file_system.next()?.to_owned(),
        options: file_system.nth(1)?.split(',').map(str::to_owned).collect(),
    })
}

/// Space, tab, newline and backslash stand there in octal: `\040`.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_optional_fields_before_the_dash() {
        let line = "31 23 0:26 / /dev/pts rw,relatime shared:3 master:1 - devpts none rw,mode=600";
        let mount = parse(line).expect("a mount");
        assert_eq!((mount.point.to_str(), mount.root.as_str(), mount.kind.as_str()), (Some("/dev/pts"), "/", "devpts"));
        assert_eq!(
            (mount.propagation.as_str(), mount.options),
            ("shared:3 master:1", vec!["rw".into(), "mode=600".into()])
        );
        assert_eq!(mount.device, nix::sys::stat::makedev(0, 26));
        assert_eq!(parse("31 23 0:26 / /a rw - ext4 /dev/vda rw").expect("a mount").propagation, "");
        assert!(parse("31 23 0:26 / /a rw").is_none() && parse("").is_none());
    }

    #[test]
    fn four_characters_of_a_path_are_octal() {
        assert_eq!(unescape("/a\\040b\\011c\\012d\\134e"), "/a b\tc\nd\\e");
        assert_eq!(unescape("/a\\134040"), "/a\\040", "a backslash, and no space");
    }
}
