//! The program that the engine runs from is a copy that nobody can write to.
//!
//! Until exec, a container's first process is this very program, and `/proc/self/exe` in there is its file on the host.
//! A root may hold a `/bin/sh` that is a script beginning with `#!/proc/self/exe`: the kernel then runs the engine once
//! more, inside, with libraries of the container's choice, and these may open its file to write to it. Root inside is
//! the caller outside, whose file it is; and what the caller runs next would be theirs. That was CVE-2019-5736, in runc.
//!
//! So the engine copies itself into memory, seals the copy against every change, and goes on as the copy, as runc does.
//! See memfd_create(2), and *File Sealing* in fcntl(2).

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_name;
use nix::unistd::execve;
use shared::explain::{self, During};
use shared::{signals, sys};

/// Where vm.memfd_noexec is 1, a program in memory can only be executed if that was asked for. Not yet in nix.
const MFD_EXEC: MFdFlags = MFdFlags::from_bits_retain(libc::MFD_EXEC);

/// Host, before anything else: goes on as a sealed copy, unless this is one already. Descriptors that the caller left
/// open end here too: a container that outlives the caller would keep its pipes open.
pub fn from_sealed_copy() -> Result<()> {
    let all = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    let mut own = File::open("/proc/self/exe").during("cannot open /proc/self/exe")?;
    // A file that is not in memory has no seals at all: EINVAL.
    if fcntl(&own, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(all)) {
        // The kernel has named this process after the descriptor.
        return set_name(c"step04").during("prctl(PR_SET_NAME)");
    }
    let copy = explain::host(format_args!("memfd_create(\"step04\", MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_EXEC)"), || {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        match memfd_create(c"step04", flags | MFD_EXEC) {
            Err(Errno::EINVAL) => memfd_create(c"step04", flags), // before Linux 6.3, where every one can be executed
            copy => copy,
        }
        .map(Some)
    })?;
    let copy = copy.map(File::from);
    let number = copy.as_ref().map_or("…".to_owned(), |copy| copy.as_raw_fd().to_string());
    // That is what the library calls here: copy_file_range(2) does not copy from one file system to another.
    explain::host(format_args!("sendfile({number}, \"/proc/self/exe\")"), || {
        std::io::copy(&mut own, &mut copy.as_ref().ok_or(Errno::EBADF)?).map(drop)
    })?;
    explain::host(
        format_args!("fcntl({number}, F_ADD_SEALS, F_SEAL_SEAL|F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_WRITE)"),
        || seal(copy.as_ref().ok_or(Errno::EBADF)?, all),
    )?;
    explain::host(format_args!("close_range(3, ~0U, CLOSE_RANGE_CLOEXEC)"), || sys::close_range_on_exec(3))?;
    explain::host_last(format_args!("execve(\"/proc/self/fd/{number}\", …)"))?;
    if explain::dry_run() {
        return Ok(());
    }
    // What has come from execve(2) goes back into it: no word has a NUL byte.
    let c_string = |word: OsString| CString::new(word.into_vec()).context("a NUL byte");
    let arguments = std::env::args_os().map(c_string).collect::<Result<Vec<_>>>()?;
    let variables = std::env::vars_os().map(|(name, value)| [name, value].join(OsStr::new("=")));
    let environment = variables.map(c_string).collect::<Result<Vec<_>>>()?;
    let path = c_string(format!("/proc/self/fd/{number}").into())?;
    // The copy takes hold of the signals by itself.
    signals::give_back().during("cannot give the signals back")?;
    let Err(errno) = execve(&path, &arguments, &environment);
    Err(errno).during(format_args!("execve(\"/proc/self/fd/{number}\", …)"))
}

/// Nobody has the copy mapped, but the kernel itself may hold a page of it for a while, to move it in memory, say. It
/// waits a seventh of a second for its own hold to go, then says EBUSY: asking again is all there is to do.
fn seal(copy: &File, seals: SealFlag) -> nix::Result<()> {
    let asked = |_| fcntl(copy, FcntlArg::F_ADD_SEALS(seals)).map(drop);
    let mut answers = (0..20).map(asked).skip_while(|answer| *answer == Err(Errno::EBUSY));
    answers.next().unwrap_or(Err(Errno::EBUSY))
}
