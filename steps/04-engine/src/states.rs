//! The states of a container, and what each command does in each of them: one table.

use std::fmt;

use serde::Serialize;

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its monitor is at work on it; there may be no process yet.
    Creating,
    /// Its first process is there, in its namespaces, cgroup and root, and waits before exec.
    Created,
    /// Its program runs.
    Running,
    /// The same, frozen: its processes are there, and get no processor.
    Paused,
    /// Its program has ended; what is left of it is its directory.
    Stopped,
    /// Its monitor was killed before it could write down an end. Something may be left.
    Dead,
}

use Status::{Created, Creating, Dead, Paused, Running, Stopped};

/// All of them, in the order of the table's columns.
pub const STATES: [Status; 6] = [Creating, Created, Running, Paused, Stopped, Dead];

/// The commands for which the state matters. `ps`, `inspect` and `logs` only read, and work in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Start,
    Exec,
    Pause,
    Unpause,
    Kill,
    Stop,
    Wait,
    Rm,
    RmForce,
}

/// What becomes of a container by a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It changes to this state, or is in it already (`kill`: by a signal that ends it).
    To(Status),
    /// It is gone.
    Gone,
    /// It stays what it is; the command ends with 125 and this sentence.
    Refused(&'static str),
}

use Answer::{Gone, Refused, To};

const BEING_MADE: Answer = Refused("is still being created");
const NOT_STARTED: Answer = Refused("is not running: start it first");
const IS_PAUSED: Answer = Refused("is paused: unpause it first");
const NOT_PAUSED: Answer = Refused("is not paused");
const HAS_ENDED: Answer = Refused("is not running any more: start it again first");
const RUNS: Answer = Refused("is running: stop it first, or use rm -f");
const IS_DEAD: Answer = Refused("is dead, as its monitor was killed: remove it, or use `clean`");

/// A row for each command and a column for each state, in the order in which these are declared.
#[rustfmt::skip]
pub const TABLE: [(Verb, [Answer; 6]); 9] = [
    //               creating     created       running      paused       stopped      dead
    (Verb::Start,   [BEING_MADE,  To(Running),  To(Running), IS_PAUSED,   To(Running), IS_DEAD]),
    (Verb::Exec,    [BEING_MADE,  NOT_STARTED,  To(Running), IS_PAUSED,   HAS_ENDED,   IS_DEAD]),
    (Verb::Pause,   [BEING_MADE,  NOT_STARTED,  To(Paused),  To(Paused),  HAS_ENDED,   IS_DEAD]),
    (Verb::Unpause, [BEING_MADE,  NOT_PAUSED,   NOT_PAUSED,  To(Running), HAS_ENDED,   IS_DEAD]),
    (Verb::Kill,    [BEING_MADE,  To(Stopped),  To(Stopped), To(Stopped), HAS_ENDED,   IS_DEAD]),
    (Verb::Stop,    [BEING_MADE,  To(Stopped),  To(Stopped), To(Stopped), To(Stopped), IS_DEAD]),
    (Verb::Wait,    [To(Stopped), To(Stopped),  To(Stopped), To(Stopped), To(Stopped), IS_DEAD]),
    (Verb::Rm,      [BEING_MADE,  Gone,         RUNS,        RUNS,        Gone,        Gone]),
    (Verb::RmForce, [Gone,        Gone,         Gone,        Gone,        Gone,        Gone]),
];

/// What the table says.
pub fn answer(verb: Verb, status: Status) -> Answer {
    TABLE[verb as usize].1[status as usize]
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}
