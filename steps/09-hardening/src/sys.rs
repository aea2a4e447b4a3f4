//! The system calls of this step that the crate `nix` lacks, each a thin wrapper.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use seccompiler::BpfProgram;

use crate::devices::Instruction;

/// Removes a capability from those that this process and its children can ever have. PR_CAPBSET_DROP(2const).
///
/// # Errors
/// EPERM without CAP_SETPCAP; EINVAL for one that this kernel does not know.
pub fn drop_from_bounding_set(capability: u8) -> nix::Result<()> {
    // SAFETY: takes two numbers and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) }).map(drop)
}

/// Whether this kernel knows a capability: a new kernel has new ones. PR_CAPBSET_READ(2const).
pub fn knows(capability: u8) -> bool {
    // SAFETY: takes two numbers and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability)) }).is_ok()
}

/// Removes all ambient capabilities. PR_CAP_AMBIENT(2const), Linux 4.3.
pub fn clear_ambient_set() -> nix::Result<()> {
    let (clear, none): (libc::c_ulong, libc::c_ulong) = (libc::PR_CAP_AMBIENT_CLEAR_ALL as _, 0);
    // SAFETY: takes numbers and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, none, none, none) }).map(drop)
}

/// The sets of this process: effective, permitted, inheritable; a bit for each capability. capget(2).
pub fn capget() -> nix::Result<[u64; 3]> {
    let mut halves = [[0_u32; 3]; 2];
    // SAFETY: of this version, the kernel writes two times three numbers of 32 bits, and `halves` has room for them.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &THIS_PROCESS, halves.as_mut_ptr()) })?;
    Ok([0, 1, 2].map(|set| u64::from(halves[0][set]) | u64::from(halves[1][set]) << 32))
}

/// Sets them. capset(2).
///
/// # Errors
/// EPERM for what is not permitted now.
pub fn capset(sets: [u64; 3]) -> nix::Result<()> {
    let halves = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    // SAFETY: of this version, the kernel reads two times three numbers of 32 bits, which `halves` has.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &THIS_PROCESS, halves.as_ptr()) }).map(drop)
}

/// `struct __user_cap_header_struct`: the version with 64 bits, and pid 0.
const THIS_PROCESS: [u32; 2] = [0x2008_0522, 0];

/// A session keyring of its own, without a name. KEYCTL_JOIN_SESSION_KEYRING(2const).
///
/// # Errors
/// EDQUOT where this user has as many as it may have; ENOSYS where the kernel keeps no keys.
pub fn join_session_keyring() -> nix::Result<()> {
    let nameless = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name nothing of ours is read.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, nameless) };
    Errno::result(joined).map(drop)
}

/// One more filter for the calls of this process. seccomp(2).
///
/// # Errors
/// EACCES without no_new_privs and without CAP_SYS_ADMIN; EINVAL beyond 4096 instructions.
pub fn add_filter(program: &BpfProgram) -> nix::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` has the address and length of `program`, both outlive the call, and the kernel copies both.
    let added = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) };
    Errno::result(added).map(drop)
}

/// `union bpf_attr` as BPF_PROG_LOAD has it; the kernel takes its first bytes alone, the others as 0.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u32; 4],
    kern_version: u32,
    prog_flags: u32,
}

/// Has the kernel check a program that says which devices may be opened. bpf(2).
///
/// # Errors
/// EPERM without CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN; EINVAL, EACCES for a program that the kernel does not trust.
pub fn load_device_program(program: &[Instruction]) -> nix::Result<OwnedFd> {
    let attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log: [0; 4],
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the program and the licence, whose addresses are in `attr`, outlive the call, which only reads them.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &attr, size_of_val(&attr)) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches such a program to a group. With BPF_F_ALLOW_MULTI, only its descriptor detaches it again. bpf(2).
///
/// # Errors
/// EPERM where a program stands above that allows no other; E2BIG beyond 64.
pub fn attach_device_program(program: BorrowedFd, group: BorrowedFd) -> nix::Result<()> {
    let attr = [group.as_raw_fd() as u32, program.as_raw_fd() as u32, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI];
    // SAFETY: `attr` outlives the call, and its size is passed beside it.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attr, size_of_val(&attr)) };
    Errno::result(attached).map(drop)
}

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
