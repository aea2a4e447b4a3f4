//! Who is measured: our steps, the bare calls, and what people would use instead.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::place::{Workplace, built, static_step04};

pub struct Contender {
    pub name: &'static str,
    pub differs: &'static str,
    /// As a shell reads it. It ends when the container has.
    pub command: String,
}

/// Everything on: all namespaces, every cgroup, limits, a root with /proc, /dev and /sys; `true` in it.
pub fn runs(place: &Workplace) -> Vec<Contender> {
    let root = format!("'{}'", place.path("root"));
    let limits = place.limits.join(" ");
    let plan: Vec<_> = place.plan.iter().map(|word| format!("'{word}'")).collect();
    let program = |name, differs, command| Contender { name, differs, command };
    let mut all = vec![
        program(
            "bare",
            "the same calls in the same order, and nothing around them",
            format!("{} {root} {} -- /bin/true", built("bare"), plan.join(" ")),
        ),
        program("step01 -q", "namespaces alone; the host's `true`", format!("{} -q true", built("step01"))),
        program("step02 -q", "and cgroups; the host's `true`", format!("{} -q {limits} true", built("step02"))),
        program("step03 -q", "and a root", format!("{} -q {limits} --rootfs {root} /bin/true", built("step03"))),
        program(
            "step04 -q run --rm",
            "and a life",
            format!("{} -q run --rm {limits} --rootfs {root} /bin/true", built("step04")),
        ),
        program(
            "step04 run --rm",
            "and every call printed, to `/dev/null`",
            format!("{} run --rm {limits} --rootfs {root} /bin/true", built("step04")),
        ),
        program(
            "bare, with a range",
            "and the calls of step 05: a range of ids, an idmapped root",
            format!("{} range {root} {} -- /bin/true", built("bare"), plan.join(" ")),
        ),
        program(
            "step05 -q run --rm",
            "and a range of ids, for `bare, with a range`",
            format!("{} -q run --rm {limits} --rootfs {root} /bin/true", built("step05")),
        ),
        program(
            "step06 -q run --rm, no network",
            "and `--network none`, for `bare, with a range`",
            format!("{} -q run --rm --network none {limits} --rootfs {root} /bin/true", built("step06")),
        ),
        program(
            "bare, with a network",
            "and the calls of step 06: a bridge, a cable, `nft` twice",
            format!("{} network {root} {} -- /bin/true", built("bare"), plan.join(" ")),
        ),
        program(
            "step06 -q run --rm",
            "and a network, for `bare, with a network`",
            format!("{} -q run --rm {limits} --rootfs {root} /bin/true", built("step06")),
        ),
        program(
            "bare, with layers",
            "and the calls of step 07: an upper layer on disk, made and removed, an overlay",
            format!(
                "{} layers '{}' {root} {} -- /bin/true",
                built("bare"),
                place.data().join("bare").display(),
                plan.join(" ")
            ),
        ),
        program(
            "step07 -q run --rm, no network",
            "and an upper layer on disk, for `bare, with layers`",
            format!("{} -q run --rm --network none {limits} --rootfs {root} /bin/true", built("step07")),
        ),
        program(
            "step06 -q run --rm, no network, on a copy",
            "what that takes the place of: `cp -a ROOT COPY`, and `rm -r COPY`; a root of 2 MB",
            format!(
                "sh -c 'cp -a \"$0\" \"$1\" && {} -q run --rm --network none {limits} --rootfs \"$1\" /bin/true; rm -r \"$1\"' {root} '{}'",
                built("step06"),
                place.data().join("copy").display()
            ),
        ),
        program(
            "step08 -q run --rm -t, no network",
            "and a terminal of its own, with a monitor that has it",
            format!("{} -q run --rm -t --network none {limits} --rootfs {root} /bin/true", built("step08")),
        ),
        program(
            "step09 -q run --rm",
            "and what each process gives up, but no network",
            format!("{} -q run --rm --network none {limits} --rootfs {root} /bin/true", built("step09")),
        ),
        program(
            "step09 -q run --rm, all calls",
            "the same without a list of calls",
            format!(
                "{} -q run --rm --network none --security-opt seccomp=unconfined {limits} --rootfs {root} /bin/true",
                built("step09")
            ),
        ),
        program("step04 --version", "its start alone", format!("{} --version", built("step04"))),
    ];
    all.extend(static_step04().map(|step04| {
        let command = format!("{step04} -q run --rm {limits} --rootfs {root} /bin/true");
        program("step04 -q run --rm, static", "with the C library in it: nothing to load", command)
    }));
    all.extend([
        program(
            "unshare",
            "no cgroup, no limits, `chroot`, no `/dev` and no `/sys`",
            format!(
                "unshare --user --map-root-user --pid --fork --mount --net --ipc --uts --cgroup --mount-proc --root {root} /bin/true"
            ),
        ),
        program(
            "bwrap",
            "no cgroup, no limits; the host's `/sys` with all mounts in it",
            format!(
                "bwrap --unshare-all --unshare-user --uid 0 --gid 0 --die-with-parent --bind {root} / --proc /proc --dev /dev \
                 --ro-bind /sys /sys /bin/true"
            ),
        ),
    ]);
    for name in ["crun", "runc"] {
        all.push(program(
            name,
            "reads an OCI bundle",
            format!("{} run --bundle {} figures", runtime(place, name), bundle(place)),
        ));
    }
    for (name, with_a_list) in [("crun", "crun, with a list"), ("runc", "runc, with a list")] {
        all.push(program(
            with_a_list,
            "and step 09's list of calls in that",
            format!("{} run --bundle '{}' figures", runtime(place, name), place.path("bundle-with-a-list")),
        ));
    }
    all.retain(|it| is_there(it.name));
    all
}

/// The same in three commands, one after the other.
pub fn lives(place: &Workplace) -> Result<Vec<Contender>> {
    let (step04, root, limits) = (built("step04"), place.path("root"), place.limits.join(" "));
    let ours = format!(
        "{step04} -q create --name figures --rootfs '{root}' {limits} /bin/true >/dev/null && \
         {step04} -q start figures >/dev/null && {step04} -q rm -f figures >/dev/null"
    );
    let mut all = vec![("step04", "keeps a monitor and a log", ours)];
    for name in ["crun", "runc"] {
        let (runtime, bundle) = (runtime(place, name), bundle(place));
        let theirs = format!(
            "{runtime} create --bundle {bundle} figures </dev/null >/dev/null 2>&1 && {runtime} start figures && \
             {runtime} delete --force figures"
        );
        all.push((name, "leaves waiting and logging to its caller", theirs));
    }
    all.retain(|(name, ..)| is_there(name));
    all.into_iter()
        .map(|(name, differs, script)| {
            let file = place.path(&format!("life-{name}"));
            std::fs::write(&file, script).with_context(|| format!("cannot write {file}"))?;
            Ok(Contender { name, differs, command: format!("sh '{file}'") })
        })
        .collect()
}

/// Each prints what a call costs in there, as `bare call` says it.
pub fn lists(place: &Workplace) -> Result<Vec<Contender>> {
    let (root, call) = (place.root_with_bare()?, ["/usr/local/bin/bare", "call"]);
    let step09 = |options| {
        let (step09, root) = (built("step09"), root.display());
        let command = format!("{step09} -q run --rm --network none {options} --rootfs '{root}' {}", call.join(" "));
        command.replace("  ", " ")
    };
    let mut all = vec![
        ("step09, all calls", "no filter", step09("--security-opt seccomp=unconfined")),
        ("step09", "two filters, by seccompiler", step09("")),
    ];
    for (name, with_a_list) in [("crun", "crun, with a list"), ("runc", "runc, with a list")] {
        for (name_here, differs, has_list) in
            [(name, "no filter", false), (with_a_list, "one filter, by libseccomp", true)]
        {
            let bundle = format!("call-{name}-{has_list}");
            place.add_bundle(&bundle, &root, &call, has_list)?;
            let command = format!("{} run --bundle '{}' figures", runtime(place, name), place.path(&bundle));
            all.push((name_here, differs, command));
        }
    }
    all.retain(|(name, ..)| is_there(name));
    Ok(all.into_iter().map(|(name, differs, command)| Contender { name, differs, command }).collect())
}

fn runtime(place: &Workplace, name: &str) -> String {
    format!("{name} --root '{}'", place.path(name))
}

fn bundle(place: &Workplace) -> String {
    format!("'{}'", place.path("bundle"))
}

/// Ours are; others are said to be left out where they are not.
fn is_there(name: &str) -> bool {
    if name.ends_with("a network") || name == "step06 -q run --rm" {
        return is_there("nft");
    }
    let program = name.split(',').next().unwrap_or(name);
    let is_there = name.starts_with("bare") || name.starts_with("step") || installed(program).is_some();
    if !is_there {
        eprintln!("left out, as it is not installed: {name}");
    }
    is_there
}

pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists())
}
