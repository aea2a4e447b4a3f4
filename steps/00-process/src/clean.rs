//! What a program inherits from its caller, and what of it is reset here: the lists of fork(2), execve(2),
//! prctl(2) and signal(7).
//!
//! | attribute of the caller | in the program | why |
//! | --- | --- | --- |
//! | oom_score_adj below 0 | reset | at -1000 the kernel never kills it, and `--memory` would be a limit without effect |
//! | oom_score_adj above 0 | kept | a wish to be killed first; lowering it needs CAP_SYS_RESOURCE |
//! | CPU affinity | reset | the program would run on fewer CPUs than `--cpuset-cpus` says |
//! | real-time scheduling | reset | limits of CPU time do not hold for it. See sched(7) |
//! | other scheduling policies, nice value, I/O priority | kept | `nice step02 …` is meant; they are weights, no limits |
//! | timer slack | reset | its sleeps would end late |
//! | personality | the flags reset | `setarch -R` and debuggers switch address randomisation off; PER_LINUX32 is kept |
//! | ignored and blocked signals | reset | see [`reset_signals`]; but nohup(1) and `&` in a script are meant |
//! | open descriptors from 3 on | closed by exec | each is a way out of a container |
//! | supplementary groups | dropped in step 01 | rights over files that the container's root is not said to have |
//! | parent-death signal | SIGKILL | the child's own wish; fork(2) has cleared the caller's |
//! | umask, environment, working directory | kept; the root's own from step 03 on | until then the program stands in the caller's files |
//! | resource limits | kept | `ulimit` is meant (step 09 has options for them) |
//! | securebits, inheritable and ambient capabilities | kept; a new user namespace resets them | user_namespaces(7) |
//! | no_new_privs, seccomp filters, PR_SET_MDWE | kept | cannot be undone; all of them only forbid |
//! | PR_SET_THP_DISABLE, PR_SET_MEMORY_MERGE, PR_MCE_KILL | kept | made to be set for the programs that one starts |
//! | PR_SET_IO_FLUSHER | kept | to reset it takes the host's CAP_SYS_RESOURCE, as it has taken to set it |
//! | session, terminal, keyring | kept | steps 08 and 09 |
//! | NUMA memory policy, coredump filter, speculation control, login uid | kept | nothing here depends on them |
//!
//! Each is reset only where it is not as usual, so an ordinary run prints and makes none of these calls.

use anyhow::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::personality::{self, Persona};
use nix::sys::prctl::{get_timerslack, set_timerslack};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Pid, SysconfVar, sysconf};
use shared::call;
use shared::explain;
use shared::kernel_file;
use shared::signals::ENDING;
use shared::sys::{is_ignored, set_default};

use crate::sys;

/// The default, in nanoseconds. PR_SET_TIMERSLACK(2const).
const TIMER_SLACK: i32 = 50_000;

/// The whole process.
const SELF: Pid = Pid::from_raw(0);

/// Child, at its birth: resets what it has inherited from the caller and what is not meant for the program.
///
/// Before the host puts the child into a cgroup: an affinity that is set later would be what the kernel remembers as the
/// child's own wish, and a real-time process may enter no group without real-time CPU time.
///
/// # Errors
/// EACCES where the file of a program that its user may not read is closed to its own process. proc(5).
pub fn start_clean() -> Result<()> {
    if oom_score_adj() < 0 {
        explain::child(call!("echo 0 > {OOM_SCORE_ADJ}")).run(|| std::fs::write(OOM_SCORE_ADJ, "0"))?;
    }
    if sys::is_real_time()? {
        explain::child(call!("sched_setscheduler(0, SCHED_OTHER, [0])")).run(sys::leave_real_time)?;
    }
    if is_pinned() {
        explain::child(call!("sched_setaffinity(0, all CPUs)")).run(|| sched_setaffinity(SELF, &every_cpu()?))?;
    }
    if get_timerslack().is_ok_and(|slack| slack != TIMER_SLACK) {
        explain::child(call!("prctl(PR_SET_TIMERSLACK, {TIMER_SLACK})")).run(|| set_timerslack(TIMER_SLACK as u64))?;
    }
    if let Ok(persona) = personality::get()
        && without_flags(persona) != persona
    {
        let kept = without_flags(persona);
        explain::child(call!("personality({:#x})", kept.bits())).run(|| personality::set(kept).map(drop))?;
    }
    Ok(())
}

/// Child, right before exec: the program gets signals as every program expects them, none ignored and none blocked.
///
/// Both outlive execve(2). Blocked as they are in a step, the program could not be interrupted; and with SIGPIPE ignored,
/// as Rust's runtime has it, `yes | head` inside would not end. Only what [`ENDING`] names stays ignored where the caller
/// ignores it, as that is how nohup(1) and `&` in a script are meant.
///
/// # Errors
/// Those of sigprocmask(2), none of which is known to happen.
pub fn reset_signals() -> nix::Result<()> {
    let is_meant = |number| ENDING.iter().any(|ending| *ending as i32 == number);
    for number in (1..=libc::SIGRTMAX()).filter(|number| is_ignored(*number) && !is_meant(*number)) {
        set_default(number)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// From -1000 (never killed) to 1000; 0 where the kernel does not say. proc_pid_oom_score_adj(5).
fn oom_score_adj() -> i32 {
    kernel_file::read(OOM_SCORE_ADJ).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether this process may not run on every CPU. Where a cpuset is the reason, it stays so.
fn is_pinned() -> bool {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1) as usize;
    // EINVAL: there are more CPUs than the set has places for.
    sched_getaffinity(SELF)
        .is_ok_and(|own| (0..CpuSet::count()).filter(|cpu| own.is_set(*cpu) == Ok(true)).count() < online)
}

fn every_cpu() -> nix::Result<CpuSet> {
    let mut all = CpuSet::new();
    (0..CpuSet::count()).try_for_each(|cpu| all.set(cpu))?;
    Ok(all)
}

/// The lowest byte says which system this process believes to run on; what stands above it changes its memory. personality(2).
fn without_flags(persona: Persona) -> Persona {
    Persona::from_bits_retain(persona.bits() & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_personality_keeps_its_system_and_loses_its_flags() {
        let linux32 = Persona::from_bits_retain(0x0008);
        assert_eq!(without_flags(linux32 | Persona::ADDR_NO_RANDOMIZE), linux32);
        assert_eq!(without_flags(Persona::ADDR_NO_RANDOMIZE), Persona::empty());
    }

    #[test]
    fn every_cpu_is_every_one() {
        let all = every_cpu().expect("a set");
        assert!((0..CpuSet::count()).all(|cpu| all.is_set(cpu) == Ok(true)));
    }
}
