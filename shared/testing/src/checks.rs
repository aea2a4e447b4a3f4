//! A file of tests, and the program that runs them: each in a process and in [surroundings](crate::surroundings) of
//! its own, several side by side.

use std::collections::VecDeque;
use std::fs::{File, read_to_string};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdout, fork};
use tempfile::TempDir;

use crate::root;
use crate::surroundings::{self, Surroundings};

/// One test: a sentence, what it needs of the machine (the reasons why it cannot be checked here), and what it does.
pub struct Check {
    name: String,
    missing: Option<String>,
    differs_in: Vec<World>,
    is_alone: bool,
    needs_network: bool,
    body: Box<dyn FnOnce()>,
}

/// A test that needs `needs`: each is `None` where the machine has it, else the reason.
pub fn check(name: &str, needs: impl IntoIterator<Item = Option<String>>, body: impl FnOnce() + 'static) -> Check {
    let missing = needs.into_iter().flatten().next();
    let (name, body) = (name.to_owned(), Box::new(body));
    Check { name, missing, differs_in: Vec::new(), is_alone: false, needs_network: false, body }
}

impl Check {
    /// Says that these worlds may answer differently: of the slow ones, only these run it.
    pub fn differs_in(mut self, worlds: impl IntoIterator<Item = World>) -> Self {
        self.differs_in.extend(worlds);
        self
    }

    /// Says that it measures, or uses up, what all tests share (the processors, say): it runs when no other does.
    pub fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Says that it fetches something: it stays in the network of this machine.
    pub fn on_this_network(mut self) -> Self {
        self.needs_network = true;
        self
    }
}

/// A machine, or a corner of one, in which the tests run. `.ci/run` visits them all and names each in `CHECK_WORLD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Root on the machine as it is.
    RootHere,
    /// A user id without rights.
    OrdinaryUser,
    /// `/` is mounted shared, as systemd has it.
    SharedRoot,
    /// No user namespace can be made.
    NoUserNamespaces,
    /// Cgroup v2 alone, and no systemd.
    CgroupV2,
    /// A stock distribution with systemd; root in a unit.
    SystemdRoot,
    /// The same; an ordinary user in a scope that was delegated.
    SystemdUser,
    /// Inside a Docker container without further options.
    DockerPlain,
    /// Inside one with the options that our remedies name.
    DockerRoot,
    /// The same, as an ordinary user.
    DockerUser,
    /// Beside a Docker daemon, where `docker` reaches it.
    DockerHost,
}

impl World {
    /// Every world, by the name that `CHECK_WORLD` has for it.
    const ALL: [(&str, World); 11] = [
        ("root-here", World::RootHere),
        ("ordinary-user", World::OrdinaryUser),
        ("shared-root", World::SharedRoot),
        ("no-user-namespaces", World::NoUserNamespaces),
        ("cgroup-v2", World::CgroupV2),
        ("systemd-root", World::SystemdRoot),
        ("systemd-user", World::SystemdUser),
        ("docker-plain", World::DockerPlain),
        ("docker-root", World::DockerRoot),
        ("docker-user", World::DockerUser),
        ("docker-host", World::DockerHost),
    ];
    /// A distribution with systemd.
    pub const SYSTEMD: [World; 2] = [World::SystemdRoot, World::SystemdUser];
    /// Where each step must do its main job, and where it has not shown so in one of the quick worlds.
    pub const SLOW: [World; 5] =
        [World::CgroupV2, World::SystemdRoot, World::SystemdUser, World::DockerRoot, World::DockerUser];

    /// The one that `CHECK_WORLD` names; `None` where it is not set, as for a learner: then every test runs.
    fn here() -> Option<World> {
        let name = std::env::var("CHECK_WORLD").ok().filter(|name| !name.is_empty())?;
        let known = World::ALL.into_iter().find(|(known, _)| *known == name);
        let (_, world) = known.unwrap_or_else(|| panic!("CHECK_WORLD={name} is none of {:?}", World::ALL));
        Some(world)
    }

    /// Emulated, or costly to set up: here only the tests run that differ here.
    fn is_slow(self) -> bool {
        World::SLOW.contains(&self) || matches!(self, World::DockerPlain | World::DockerHost)
    }
}

/// Whether tests go through all of many cases: where `.ci/run` visits a machine with several processors. A plain
/// `cargo test`, which somebody waits for, takes a sample of them, a different one each time.
pub fn is_exhaustive() -> bool {
    World::here().is_some() && std::thread::available_parallelism().is_ok_and(|count| count.get() > 1)
}

/// How many of `all` turns a test takes: all of them if it [is exhaustive](is_exhaustive), else a fifth.
pub fn some_of(all: usize) -> usize {
    if is_exhaustive() { all } else { all.div_ceil(5) }
}

/// The options that `cargo test … -- OPTIONS` passes on.
#[derive(Parser)]
struct Options {
    /// Only tests with one of these in their names
    filters: Vec<String>,
    /// Only tests with just these names
    #[arg(long)]
    exact: bool,
    /// But not tests with this in their names
    #[arg(long)]
    skip: Vec<String>,
    /// Print the names
    #[arg(long)]
    list: bool,
    /// Print what fails, and how many passed
    #[arg(short, long)]
    quiet: bool,
    /// How many at a time [default: two for each processor, as they mostly wait]
    #[arg(long)]
    test_threads: Option<usize>,
    /// Let tests print while they run
    #[arg(long)]
    nocapture: bool,
}

impl Options {
    fn select(&self, name: &str) -> bool {
        let is_like = |filter: &String| if self.exact { name == filter } else { name.contains(filter) };
        (self.filters.is_empty() || self.filters.iter().any(is_like)) && !self.skip.iter().any(is_like)
    }
}

/// The `main` of a file of tests.
pub fn run(step: &str, checks: Vec<Check>) -> ExitCode {
    let options = Options::parse();
    let world = World::here();
    let belongs = |check: &Check| world.is_none_or(|here| !here.is_slow() || check.differs_in.contains(&here));
    let named = checks.into_iter().filter(belongs).map(|it| Check { name: format!("{step}::{}", it.name), ..it });
    let checks: Vec<_> = named.filter(|check| options.select(&check.name)).collect();
    if options.list {
        checks.iter().for_each(|check| println!("{}: test", check.name));
        return ExitCode::SUCCESS;
    }
    Runner::new(options).run(checks)
}

/// Adds a line to the file that `CHECK_RECORD` names, for a comparison of several worlds: was a test ignored in all?
fn record(name: &str, what: &str) {
    if let Some(path) = std::env::var_os("CHECK_RECORD").filter(|path| !path.is_empty()) {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(format!("{name}\t{what}\n").as_bytes())).expect("CHECK_RECORD");
    }
}

/// Runs the tests. It has one thread: fork(2) copies no other, and a lock that another held would stay locked.
struct Runner {
    options: Options,
    at_once: usize,
    running: Vec<RunningCheck>,
    passed: usize,
    ignored: usize,
    failed: Vec<String>,
}

/// A test whose process has not ended.
struct RunningCheck {
    name: String,
    pid: Pid,
    /// Its temporary files, and what it prints.
    place: TempDir,
    since: Instant,
}

impl Runner {
    fn new(options: Options) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        // Where the groups of two tests cannot be distinguished, one step would see, and remove, those of another's test.
        let at_once = if surroundings::has_own_groups() { options.test_threads.unwrap_or(2 * processors) } else { 1 };
        Runner { options, at_once: at_once.max(1), running: Vec::new(), passed: 0, ignored: 0, failed: Vec::new() }
    }

    fn run(mut self, checks: Vec<Check>) -> ExitCode {
        // Started by `&` in a script, this process ignores SIGINT, and would pass that on to the steps that it sends one to.
        for ending in shared::signals::ENDING {
            // SAFETY: SIG_DFL runs no code of ours.
            unsafe { signal(ending, SigHandler::SigDfl) }.expect("signal");
        }
        // What a test's process leaves when it is killed becomes a child of this one, where it is found.
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        surroundings::remove_those_of_interrupted_runs();
        let shared = surroundings::tempdir();
        root::share_at(shared.path());
        let since = Instant::now();
        println!("\nrunning {} tests", checks.len());
        let (alone, together): (VecDeque<_>, VecDeque<_>) = checks.into_iter().partition(|check| check.is_alone);
        self.run_all(together, self.at_once);
        self.run_all(alone, 1);
        let (passed, ignored, failed) = (self.passed, self.ignored, self.failed.len());
        let result = if failed == 0 { "ok" } else { "FAILED" };
        self.failed.iter().for_each(|name| println!("failed: {name}"));
        let took = since.elapsed().as_secs_f64();
        println!("\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; {took:.1} s\n");
        ExitCode::from(if failed == 0 { 0 } else { 101 })
    }

    fn run_all(&mut self, mut checks: VecDeque<Check>, at_once: usize) {
        while !(checks.is_empty() && self.running.is_empty()) {
            match checks.pop_front() {
                Some(Check { name, missing: Some(reason), .. }) => {
                    record(&name, &format!("ignored: {reason}"));
                    self.ignored += 1;
                    self.report(&name, &format!("ignored: cannot check here: {reason}"));
                }
                Some(check) if self.running.len() < at_once => self.start(check),
                Some(check) => {
                    checks.push_front(check);
                    self.wait();
                }
                None => self.wait(),
            }
        }
    }

    fn start(&mut self, check: Check) {
        record(&check.name, "ran");
        let place = surroundings::tempdir();
        let nocapture = self.options.nocapture;
        std::io::stdout().flush().expect("standard output");
        // SAFETY: this process has one thread, so the child may do everything that this one may.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => {
                self.running.push(RunningCheck { name: check.name, pid: child, place, since: Instant::now() });
            }
            ForkResult::Child => {
                // The parent's to remove.
                let place = place.keep();
                let printed = (!nocapture).then(|| place.join("printed"));
                // A panic must not get out: it would drop the other tests' places.
                let passed = catch_unwind(AssertUnwindSafe(|| in_its_surroundings(check, &place, printed)));
                std::process::exit(if passed.unwrap_or(false) { 0 } else { 101 });
            }
        }
    }

    /// Waits for the end of one test.
    fn wait(&mut self) {
        let (pid, status) = match waitpid(None, None).expect("wait") {
            WaitStatus::Exited(pid, code) => (pid, code),
            WaitStatus::Signaled(pid, signal, _) => (pid, 128 + signal as i32),
            _ => return,
        };
        // Else it is what a test has left that was killed.
        let Some(place) = self.running.iter().position(|it| it.pid == pid) else { return };
        let RunningCheck { name, pid, place, since } = self.running.remove(place);
        let printed = read_to_string(place.path().join("printed")).unwrap_or_default();
        let mut wrong = Vec::new();
        if status != 0 {
            wrong.push(format!("{printed}(exit code {status})"));
        }
        // As long as a test's process lives, what it leaves goes to that one, not to this: so it is this test's.
        for (left, what) in surroundings::children() {
            if !self.running.iter().any(|it| it.pid == left) {
                let _ = kill(left, Signal::SIGKILL);
                wrong.push(format!("a process is left: {what}"));
            }
        }
        wrong.extend(surroundings::remove_groups_of(pid));
        if status == 0 {
            wrong.extend(surroundings::files_left_in(place.path()).map(|file| format!("a file is left: {file}")));
        }
        if wrong.is_empty() {
            self.passed += 1;
            self.report(&name, &format!("ok, {:.1} s", since.elapsed().as_secs_f64()));
        } else {
            println!("test {name} ... FAILED\n{}\n", wrong.join("\n"));
            self.failed.push(name);
        }
    }

    fn report(&self, name: &str, what: &str) {
        if !self.options.quiet {
            println!("test {name} ... {what}");
        }
    }
}

/// In the test's process: runs it, and looks at what it leaves. Whether all is well.
fn in_its_surroundings(check: Check, place: &Path, printed: Option<PathBuf>) -> bool {
    if let Some(printed) = printed {
        let printed = File::create(printed).expect("a file for what it prints");
        dup2_stdout(&printed).and_then(|()| dup2_stderr(&printed)).expect("dup2");
    }
    let surroundings = Surroundings::enter(place, check.needs_network);
    let passed = catch_unwind(AssertUnwindSafe(check.body)).is_ok();
    let left = surroundings.what_is_left();
    surroundings::end_children();
    if passed && !left.is_empty() {
        eprintln!("something is left: {left:?}");
    }
    passed && left.is_empty()
}
