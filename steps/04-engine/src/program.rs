//! What a process of a container becomes, and what it gives up before that: each part contributes, and one owner does it
//! in the order that works.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result};
use process::Environment;

use crate::door::Asker;

/// A program that is about to begin in a container.
#[derive(Default)]
pub struct Program {
    /// Its words; a shell where there is none.
    pub command: Vec<OsString>,
    /// The variables that every program in this root expects.
    pub environment: Environment,
    /// Those that come on top of them; of two of one name, the last.
    pub variables: Vec<(OsString, OsString)>,
    /// Who it becomes, inside, where it gives up to be root: what was made for it alone is to be this user's.
    pub uid: Option<u32>,
    /// Where, inside, a process that `exec` brings in begins. The first one stands there already.
    pub workdir: PathBuf,
    /// For an error: `in the root /srv/web`.
    pub place: String,
    /// Who waits to hear that it has begun, where that is not its maker: EOF, or why it has not.
    pub(crate) asker: Option<Asker>,
    gives_up: Vec<(Right, Act)>,
}

type Act = Box<dyn FnOnce() -> Result<()>>;

/// What a process gives up, in the order in which it can: each of these may take rights that the next ones remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// setrlimit(2): to raise a hard limit takes CAP_SYS_RESOURCE.
    Resources,
    /// A session and a controlling terminal: setsid(2), ioctl_tty(2).
    Session,
    /// seccomp(2) of a process that keeps the right to gain others: that takes CAP_SYS_ADMIN, which the next ones
    /// remove. So their calls have to be allowed.
    CallsOfOneWhoMayRise,
    /// The capabilities that it can ever have: PR_CAPBSET_DROP takes CAP_SETPCAP. capabilities(7).
    Bounds,
    /// Who it is: setgroups(2), setresgid(2), setresuid(2) take CAP_SETGID and CAP_SETUID.
    Ids,
    /// The capabilities that it has.
    Capabilities,
    /// PR_SET_NO_NEW_PRIVS.
    NewPrivileges,
    /// seccomp(2): last, or the calls above would have to be allowed.
    Calls,
    /// Its place as the first process: fork(2). Behind all others, as what stays in that place has given up as much.
    Place,
}

impl Program {
    pub(crate) fn new(command: Vec<OsString>) -> Self {
        Program { command, workdir: "/".into(), ..Program::default() }
    }

    /// Has something given up in its turn; two of one kind in the order in which they were added.
    pub fn gives_up(&mut self, right: Right, act: impl FnOnce() -> Result<()> + 'static) {
        self.gives_up.push((right, Box::new(act)));
    }

    /// The process itself, its last act: gives up what it is to give up, and becomes the program.
    pub(crate) fn execute(&mut self) -> Result<()> {
        let failed = self.become_it();
        self.asker.iter_mut().for_each(|asker| asker.answer(&failed));
        failed
    }

    fn become_it(&mut self) -> Result<()> {
        let mut acts = std::mem::take(&mut self.gives_up);
        acts.sort_by_key(|(right, _)| *right);
        let last = acts.partition_point(|(right, _)| *right < Right::Calls);
        let calls = acts.split_off(last);
        acts.into_iter().try_for_each(|(_, act)| act())?;
        let environment = self.environment.clone().with(std::mem::take(&mut self.variables));
        // Looked up as the user that it is now; and all that execve(2) needs is ready before a call can be forbidden.
        let executable = process::Executable::find(&self.command, &environment).with_context(|| self.place.clone())?;
        calls.into_iter().try_for_each(|(_, act)| act())?;
        executable.execute().with_context(|| self.place.clone())
    }
}
