//! The list of calls: what a program may ask of the kernel, by families, each with its reason. See seccomp(2), syscalls(2).
//!
//! Two lists make two filters, and the kernel asks both:
//!
//! | a call is | the filter of [`ALLOWED`] says | the filter of [`FORBIDDEN`] says | the program gets |
//! | --- | --- | --- | --- |
//! | in the first list | allow | allow | what it asks for |
//! | in the second list | ENOSYS | EPERM, and it was added last | EPERM |
//! | in none: newer than this list | ENOSYS | allow | ENOSYS: the C library tries an older call |
//! | of another architecture | the process is killed | | |

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use crate::capabilities::{Capability, Set};
use crate::numbers::number;

/// Calls, and why they are in a list.
pub struct Family {
    /// What they are for.
    pub why: &'static str,
    /// By their names, with blanks between them; of those that an architecture does not have, none is missed.
    pub calls: &'static str,
    /// The capability without which they are forbidden; with it, they are allowed.
    pub unless: Option<&'static str>,
}

const fn allowed(why: &'static str, calls: &'static str) -> Family {
    Family { why, calls, unless: None }
}

const fn forbidden(why: &'static str, unless: Option<&'static str>, calls: &'static str) -> Family {
    Family { why, calls, unless }
}

/// What programs do all day. Each of these looks at who asks: ids, capabilities, modes, namespaces.
#[rustfmt::skip]
pub const ALLOWED: &[Family] = &[
    allowed("files, by a path",
        "access chmod chown creat faccessat faccessat2 fchmodat fchmodat2 fchownat futimesat lchown link linkat lstat \
         mkdir mkdirat mknod mknodat newfstatat open openat openat2 readlink readlinkat rename renameat renameat2 rmdir \
         stat statfs statx symlink symlinkat truncate unlink unlinkat utime utimensat utimes name_to_handle_at"),
    allowed("files that are open",
        "close close_range copy_file_range dup dup2 dup3 fadvise64 fallocate fchmod fchown fcntl fdatasync flock fstat \
         fstatfs fsync ftruncate getdents getdents64 ioctl lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev \
         pwritev2 read readahead readv sendfile splice sync sync_file_range syncfs tee vmsplice write writev"),
    allowed("extended attributes",
        "fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr \
         removexattr setxattr"),
    allowed("where it stands",
        "chdir chroot fchdir getcwd umask"),
    allowed("memory",
        "brk madvise membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync \
         munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages"),
    allowed("processes and threads; clone as far as its flags are no namespaces",
        "arch_prctl clone execve execveat exit exit_group fork futex futex_waitv get_robust_list getpgid getpgrp getpid \
         getppid getsid gettid modify_ldt prctl restart_syscall rseq set_robust_list set_tid_address setpgid setsid vfork \
         wait4 waitid"),
    allowed("who it is: what it may become is decided by its ids and capabilities",
        "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups \
         setregid setresgid setresuid setreuid setuid personality"),
    allowed("signals",
        "alarm getitimer kill pause pidfd_open pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask \
         rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo setitimer sigaltstack signalfd \
         signalfd4 tgkill tkill"),
    allowed("what it waits for",
        "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 inotify_add_watch \
         inotify_init inotify_init1 inotify_rm_watch fanotify_mark poll ppoll pselect6 select"),
    allowed("time: to ask for it",
        "adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time times timer_create \
         timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime"),
    allowed("the network; sockets but those to the hypervisor",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg \
         sendto setsockopt shutdown socket socketpair"),
    allowed("System V and POSIX messages, semaphores, shared memory: the ipc namespace has its own",
        "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget \
         semop semtimedop shmat shmctl shmdt shmget"),
    allowed("the processors, and what it may use up",
        "getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max \
         sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
         sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield setpriority setrlimit"),
    allowed("asynchronous files, the older way",
        "io_cancel io_destroy io_getevents io_setup io_submit"),
    allowed("what machine this is, and chance",
        "getrandom sysinfo uname"),
    allowed("rights that it gives up itself",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp"),
    allowed("debuggers, of its own processes: their memory is the same user's already",
        "process_mrelease process_vm_readv process_vm_writev ptrace"),
];

/// What the kernel has for administrators, what holes of the last years were in, and what no namespace divides.
#[rustfmt::skip]
pub const FORBIDDEN: &[Family] = &[
    forbidden("mounts: one could be undone, or a fresh /proc be made beside the masks", Some("SYS_ADMIN"),
        "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root umount2"),
    forbidden("namespaces: root in a new one has every right over it, and reaches much more of the kernel", Some("SYS_ADMIN"),
        "setns unshare sethostname setdomainname"),
    forbidden("files by their number on the disk, past every directory (the program shocker did that)", Some("DAC_READ_SEARCH"),
        "open_by_handle_at"),
    forbidden("programs in the kernel", Some("BPF"),
        "bpf"),
    forbidden("counters of the processors, a side channel and a large interface", Some("PERFMON"),
        "perf_event_open"),
    forbidden("code in the kernel, or another kernel", Some("SYS_MODULE"),
        "delete_module finit_module init_module"),
    forbidden("the machine itself", Some("SYS_BOOT"),
        "kexec_file_load kexec_load reboot"),
    forbidden("the clock, which is the host's", Some("SYS_TIME"),
        "clock_settime settimeofday"),
    forbidden("the kernel's log, which is the host's", Some("SYSLOG"),
        "syslog"),
    forbidden("ports of the machine's devices", Some("SYS_RAWIO"),
        "ioperm iopl"),
    forbidden("other processes' memory and descriptors, past ptrace", Some("SYS_PTRACE"),
        "kcmp pidfd_getfd process_madvise"),
    forbidden("on which memory of the machine pages are", Some("SYS_NICE"),
        "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"),
    forbidden("disks, accounting, terminals, whole file systems: the host's", Some("SYS_ADMIN"),
        "acct fanotify_init quotactl quotactl_fd swapoff swapon vhangup"),
    forbidden("keys: no namespace divides them but the user namespace", None,
        "add_key keyctl request_key"),
    forbidden("a second door to most calls, past this list", None,
        "io_uring_enter io_uring_register io_uring_setup"),
    forbidden("what an attack on the kernel stops it with at the right moment", None,
        "userfaultfd"),
];

/// The names of a family's calls.
pub fn names(family: &Family) -> impl Iterator<Item = &'static str> {
    family.calls.split_whitespace()
}

/// The two filters, in the order in which they are added. A family that a capability opens is allowed to who has that.
///
/// # Errors
/// None that is known: the lists are ours.
pub fn filters(capabilities: Set) -> Result<[BpfProgram; 2]> {
    let is_open = |family: &&Family| family.unless.and_then(Capability::named).is_some_and(|it| capabilities.has(it));
    let (open, closed): (Vec<_>, Vec<_>) = FORBIDDEN.iter().partition(is_open);
    let has_namespaces = capabilities.has(Capability::named("SYS_ADMIN").context("capability")?);
    // Its flags are in memory, where no filter looks. So it does not exist, and the C library takes clone.
    let clone3 = has_namespaces.then_some("clone3");
    let allowed = ALLOWED.iter().chain(open).flat_map(names).chain(clone3).map(|name| (name, Vec::new()));
    let forbidden = closed.into_iter().flat_map(names).map(|name| (name, Vec::new()));
    let forbidden = forbidden.chain(by_argument(has_namespaces)?);
    Ok([
        compile(allowed, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?,
        compile(forbidden, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?,
    ])
}

/// Calls that are forbidden with these arguments alone.
fn by_argument(has_namespaces: bool) -> Result<Vec<(&'static str, Vec<SeccompRule>)>> {
    // Each of these alone is enough.
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ]
    .map(|flag| flag as u64);
    let clone: Result<_> = namespaces.into_iter().map(|flag| rule([(0, MaskedEq(flag), flag)])).collect();
    // PER_LINUX, PER_LINUX32, both with UNAME26, and 0xffffffff, which asks. Others switch off what makes attacks harder.
    let personality = rule([0, 8, 0x20000, 0x20008, 0xffff_ffff].map(|good| (0, Ne, good)))?;
    // To type into a terminal as if somebody sat there, and to paste. See ioctl_tty(2), ioctl_console(2).
    let ioctl: Result<_> = [TIOCSTI, TIOCLINUX].into_iter().map(|it| rule([(1, Eq, it)])).collect();
    let mut rules = vec![
        ("personality", vec![personality]),
        ("ioctl", ioctl?),
        ("socket", vec![rule([(0, Eq, libc::AF_VSOCK as u64)])?]),
    ];
    if !has_namespaces {
        rules.push(("clone", clone?));
    }
    Ok(rules)
}

/// ioctl_tty(2): as wide as an argument is here.
const TIOCSTI: u64 = 0x5412;
/// ioctl_console(2)
const TIOCLINUX: u64 = 0x541c;

/// All of these together: argument, comparison, value. Of the 64 bits of an argument the lower 32: the kernel looks at no
/// others of these calls either, and a filter that did could be passed by them (CVE-2019-10063).
fn rule<const N: usize>(all: [(u8, seccompiler::SeccompCmpOp, u64); N]) -> Result<SeccompRule> {
    let condition = |(argument, how, value)| SeccompCondition::new(argument, Dword, how, value);
    let conditions: Result<_, _> = all.into_iter().map(condition).collect();
    SeccompRule::new(conditions?).context("a rule")
}

/// The program for the kernel: for these calls, with one of these rules where there is any, the one action, else the other.
///
/// # Errors
/// Two actions that are the same; more than 4096 instructions.
pub fn compile<'n>(
    calls: impl IntoIterator<Item = (&'n str, Vec<SeccompRule>)>,
    matching: SeccompAction,
    other: SeccompAction,
) -> Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).context("seccomp")?;
    let rules: BTreeMap<_, _> =
        calls.into_iter().filter_map(|(name, rules)| number(name).map(|number| (number, rules))).collect();
    let filter = SeccompFilter::new(rules, other, matching, architecture).context("seccomp")?;
    BpfProgram::try_from(filter).context("seccomp")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::numbers;

    #[test]
    fn every_call_is_in_one_list() {
        let listed: Vec<_> = ALLOWED.iter().chain(FORBIDDEN).flat_map(names).chain(["clone3"]).collect();
        let all: BTreeSet<_> = listed.iter().copied().collect();
        assert_eq!(all.len(), listed.len(), "one is listed twice");
        let known: BTreeSet<_> = numbers::names().collect();
        let unlisted: Vec<_> = known.difference(&all).collect();
        assert!(unlisted.is_empty(), "{unlisted:?}");
        if cfg!(target_arch = "x86_64") {
            let unknown: Vec<_> = all.difference(&known).collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn a_family_is_opened_by_a_capability_that_exists() {
        let unknown = FORBIDDEN.iter().filter_map(|family| family.unless).find(|it| Capability::named(it).is_none());
        assert_eq!(unknown, None);
    }

    #[test]
    fn both_filters_are_short_enough_for_the_kernel() {
        for capabilities in [Set(0), Set::of(&[], &[]), Set::ALL] {
            let filters = filters(capabilities).expect("filters");
            assert!(filters.iter().all(|it| it.len() <= 4096), "{:?}", filters.map(|it| it.len()));
        }
    }
}
