//! The program that the engine runs from is one that nobody inside can write to.
//!
//! Until exec, a container's first process is this very program, and `/proc/self/exe` in there is its file on the host.
//! A root may hold a `/bin/sh` that is a script beginning with `#!/proc/self/exe`: the kernel then runs the engine once
//! more, inside, with libraries of the container's choice, and these may open its file to write to it. Root inside is
//! the caller outside, whose file it is; and what the caller runs next would be theirs. That was CVE-2019-5736, in runc.
//!
//! So the engine begins once more, from a read-only mount of its own file, and `/proc/self/exe` leads to the file by way
//! of that mount, which stands in no mount namespace: nobody can change it, bind it elsewhere or name it. Mounts take
//! root; for others the engine copies itself into memory and seals the copy against every change. runc has both ways, too
//! (since 1.2; its mount is an overlay). See open_tree(2), memfd_create(2), and *File Sealing* in fcntl(2).

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::{Context, Result};
use cgroups::Limits;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_name;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{close, execve, geteuid};
use shared::call;
use shared::explain;
use shared::failure::{CallFailed, During};

use crate::Recipe;

const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

/// Host, before anything else: where the limits take a scope of systemd's, runs in one; and is protected. An ordinary
/// user may move a process only between groups that are both below the user's manager: so without limits, too.
///
/// # Errors
/// Those of [`against_writers`].
pub fn begin_again<R: Recipe>(verb: &str, limits: &Limits) -> Result<()> {
    cgroups::ask_for_scope(R::STEP, limits)?;
    against_writers(R::STEP, verb)
}

/// Host, before anything else: goes on as a program that nobody can write to, unless this is one already. Descriptors
/// that the caller left open end here too: a container that outlives the caller would keep its pipes open.
///
/// # Errors
/// Where the machine forbids programs in memory, and mounts.
pub fn against_writers(step: &str, verb: &str) -> Result<()> {
    let own = File::open("/proc/self/exe").during("cannot open /proc/self/exe")?;
    if is_sealed(&own) || is_mounted_read_only(&own) {
        // The kernel has named this process after the descriptor.
        return set_name(&c_string(step.into())?).during("prctl(PR_SET_NAME)");
    }
    let _program = explain::one_line("its own program, read-only");
    let program = match geteuid().is_root().then(read_only_mount) {
        None => sealed_copy(own, step)?,
        // A root without rights over its mounts, as in a Docker container.
        Some(Err(error)) if error.is::<CallFailed>() => sealed_copy(own, step)?,
        Some(mount) => mount?,
    };
    let number = program.as_raw_fd();
    explain::host(call!("close_range(3, ~0U, CLOSE_RANGE_CLOEXEC)")).run(|| process::sys::close_range_on_exec(3))?;
    let options = options_in_memory()?;
    let arguments = [step.into(), verb.into(), format!("{OPTIONS}{}", options.as_raw_fd()).into()].map(c_string);
    let arguments = arguments.into_iter().collect::<Result<Vec<_>>>()?;
    let variables = std::env::vars_os().map(|(name, value)| [name, value].join(OsStr::new("=")));
    let environment = variables.map(c_string).collect::<Result<Vec<_>>>()?;
    let path = c_string(format!("/proc/self/fd/{number}").into())?;
    explain::host(call!("execve(\"/proc/self/fd/{number}\", …)"))
        .printed_first()
        .run(|| execve(&path, &arguments, &environment).map(drop))
}

/// How the one that begins once more finds its options: not in its command line, which every user can read as long as it
/// lives, and `-e PASSWORD=…` may be among them. See proc_pid_cmdline(5).
const OPTIONS: &str = "--options-in=";

/// The arguments of this command, where it has begun once more, too.
pub fn arguments() -> Vec<OsString> {
    let given: Vec<_> = std::env::args_os().collect();
    let number = given.get(2).and_then(|word| word.to_str()?.strip_prefix(OPTIONS)?.parse::<i32>().ok());
    let Some(number) = number.filter(|number| *number > 2) else { return given };
    let Ok(text) = std::fs::read(format!("/proc/self/fd/{number}")) else { return given };
    let _ = close(number); // the container's program must not find it
    text.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

/// Open across execve(2), unlike all others.
fn options_in_memory() -> Result<OwnedFd> {
    let words: Vec<_> = std::env::args_os().map(OsString::into_vec).collect();
    let file = explain::host(call!("memfd_create(\"options\", MFD_NOEXEC_SEAL)"))
        .run(|| in_memory(c"options", MFdFlags::empty(), libc::MFD_NOEXEC_SEAL))?;
    if explain::dry_run() {
        return Ok(file);
    }
    File::from(file.try_clone().during("cannot copy a descriptor")?)
        .write_all(&words.join(&0))
        .during("cannot write the options")?;
    Ok(file)
}

/// Whether it can be executed is said by a flag that is not yet in nix: where vm.memfd_noexec is 1, it cannot unless
/// that was asked for. Before Linux 6.3 there is none, and every one can.
fn in_memory(name: &CStr, flags: MFdFlags, executable: u32) -> nix::Result<OwnedFd> {
    match memfd_create(name, flags | MFdFlags::from_bits_retain(executable)) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        file => file,
    }
}

/// What has come from execve(2) goes back into it: no word has a NUL byte.
fn c_string(word: OsString) -> Result<CString> {
    CString::new(word.into_vec()).context("a NUL byte")
}

/// A file that is not in memory has no seals at all: EINVAL.
fn is_sealed(program: &File) -> bool {
    fcntl(program, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(SEALS))
}

/// Read-only alone is not enough: a mount that is in a namespace can be made writable there. Of one that is in none, the
/// program is all there is, and its path ends there.
fn is_mounted_read_only(program: &File) -> bool {
    fstatvfs(program).is_ok_and(|it| it.flags().contains(FsFlags::ST_RDONLY))
        && std::fs::read_link("/proc/self/exe").is_ok_and(|path| path == Path::new("/"))
}

/// A mount of this program's file alone, in no namespace.
fn read_only_mount() -> Result<OwnedFd> {
    let mount = explain::host(call!("open_tree(AT_FDCWD, \"/proc/self/exe\", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)"))
        .run(|| rootfs::sys::copy_mount(c"/proc/self/exe", false))?;
    explain::host(call!("mount_setattr({}, \"\", AT_EMPTY_PATH, {{attr_set=MOUNT_ATTR_RDONLY}})", mount.as_raw_fd()))
        .run(|| rootfs::sys::mount_read_only(mount.as_fd(), false))?;
    Ok(mount)
}

/// A copy of this program in memory.
fn sealed_copy(mut own: File, step: &str) -> Result<OwnedFd> {
    let name = c_string(step.into())?;
    let copy = explain::host(call!("memfd_create(\"{step}\", MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_EXEC)"))
        .run(|| in_memory(&name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING, libc::MFD_EXEC))?;
    let number = copy.as_raw_fd();
    let copy = File::from(copy);
    // That is what the library calls here: copy_file_range(2) does not copy from one file system to another.
    explain::host(call!("sendfile({number}, \"/proc/self/exe\")"))
        .run(|| std::io::copy(&mut own, &mut &copy).map(drop))?;
    explain::host(call!("fcntl({number}, F_ADD_SEALS, F_SEAL_SEAL|F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_WRITE)"))
        .run(|| seal(&copy))?;
    Ok(copy.into())
}

/// Nobody has the copy mapped, but the kernel itself may hold a page of it for a while, to move it in memory, say. It
/// waits a seventh of a second for its own hold to go, then says EBUSY: asking again is all there is to do.
fn seal(copy: &File) -> nix::Result<()> {
    for _ in 0..20 {
        match fcntl(copy, FcntlArg::F_ADD_SEALS(SEALS)) {
            Err(Errno::EBUSY) => {}
            answer => return answer.map(drop),
        }
    }
    Err(Errno::EBUSY)
}
