//! Directories and files of the host that the child sees too: `-v SRC:DST[:OPTIONS]`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use shared::explain;

use crate::inside::mount_at;
use crate::options::path_inside;

/// A directory or file of the host that the child sees too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// On the host, absolute: the child mounts it from another working directory.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
    /// Whether the child may write to nothing in it.
    pub read_only: bool,
    /// Whether what is the host's root's is to be the root's inside: step 05.
    pub idmap: bool,
}

const FORM: &str = "a volume is SRC:DST, SRC:DST:ro, or from step 05 on SRC:DST:idmap or SRC:DST:ro,idmap";

/// A volume, as an option has it.
pub fn parse(text: &str) -> Result<Volume, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (source, target, "rw"),
        [source, target, options] => (source, target, *options),
        _ => return Err(FORM.to_owned()),
    };
    let (read_only, idmap) = match options {
        "rw" => (false, false),
        "ro" => (true, false),
        "idmap" | "rw,idmap" | "idmap,rw" => (false, true),
        "ro,idmap" | "idmap,ro" => (true, true),
        _ => return Err(FORM.to_owned()),
    };
    if source.is_empty() {
        return Err("a volume's source is a directory or file of the host".to_owned());
    }
    let source = std::path::absolute(source).map_err(|error| format!("the working directory: {error}"))?;
    let target = path_inside(target)?;
    if target == Path::new("/") {
        return Err("a volume at / would cover the root; give it as --rootfs".to_owned());
    }
    Ok(Volume { source, target, read_only, idmap })
}

/// Child: mounts each with `mount`, and none over another.
///
/// # Errors
/// Those of `mount`; the volume that another covers: the order is that of the targets' names, and with `/z -> /m` in
/// the root one at `/z` is mounted over one at `/m/sub`.
pub fn mount_all(volumes: &[Volume], mount: impl Fn(&Volume) -> Result<()>) -> Result<()> {
    let ordered = in_mount_order(volumes)?;
    let mut seen = Vec::new();
    for (at, volume) in ordered.iter().enumerate() {
        let _volume = explain::one_line(volume.target.display());
        mount(volume)?;
        // The last one is covered by none.
        if at + 1 < ordered.len() {
            seen.push((volume, mount_at(&volume.target)?));
        }
    }
    let _all = explain::one_line("volumes");
    for (Volume { source, target, .. }, mount) in seen {
        ensure!(
            mount_at(target)? == mount,
            "the volume {} at {} is covered by another, as a link in the root leads to it or above it: name the targets \
             without links",
            source.display(),
            target.display()
        );
    }
    Ok(())
}

/// A directory before what lies in it, whatever their order on the command line: mounted after its child, it would cover
/// that.
///
/// # Errors
/// Two volumes at one place: the second would cover the first.
pub fn in_mount_order(volumes: &[Volume]) -> Result<Vec<&Volume>> {
    let mut ordered: Vec<_> = volumes.iter().collect();
    // Paths are compared part by part, and `/a` comes before `/a/b`.
    ordered.sort_by_key(|volume| volume.target.as_path());
    for pair in ordered.windows(2) {
        if pair[0].target == pair[1].target {
            let sources = [pair[0], pair[1]].map(|volume| volume.source.display());
            bail!("two volumes at {}: {} would cover {}", pair[0].target.display(), sources[1], sources[0]);
        }
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(text: &str) -> Volume {
        parse(text).expect(text)
    }

    #[test]
    fn a_volume_is_two_paths_and_a_mode() {
        let expected = Volume { source: "/a".into(), target: "/b".into(), read_only: false, idmap: false };
        assert_eq!(volume("/a:/b"), expected);
        assert_eq!(volume("/a:/b:rw"), expected);
        assert!(volume("/a:/b:ro").read_only);
        assert_eq!(volume("/a:/b:idmap"), Volume { idmap: true, ..expected.clone() });
        assert_eq!(volume("/a:/b:ro,idmap"), Volume { idmap: true, read_only: true, ..expected });
        assert_eq!(volume("/a:/b:idmap,ro"), volume("/a:/b:ro,idmap"));
        assert_eq!(volume("a:/b").source, std::env::current_dir().expect("cwd").join("a"));
        for (text, word) in [
            ("/a", "SRC:DST"),
            ("/a:/b:rx", "SRC:DST"),
            ("/a:/b:ro:ro", "SRC:DST"),
            (":/b", "source"),
            ("/a:b", "absolute"),
            ("/a:/b/../c", "`..`"),
            ("/a:/", "cover"),
            ("/a://.", "cover"),
        ] {
            assert!(parse(text).is_err_and(|error| error.contains(word)), "{text}");
        }
    }

    #[test]
    fn a_directory_is_mounted_before_what_lies_in_it() {
        let volumes = ["/1:/a/b/c", "/2:/ab", "/3:/a", "/4:/a//b"].map(volume);
        let order = in_mount_order(&volumes).expect("order");
        let sources: Vec<_> = order.iter().map(|it| it.source.to_str().expect("UTF-8")).collect();
        assert_eq!(sources, ["/3", "/4", "/1", "/2"]);
    }

    #[test]
    fn two_volumes_at_one_place_are_refused() {
        let volumes = ["/1:/a", "/2:/b", "/3:/a/."].map(volume);
        let error = in_mount_order(&volumes).expect_err("twice").to_string();
        assert_eq!(error, "two volumes at /a: /3 would cover /1");
    }
}
