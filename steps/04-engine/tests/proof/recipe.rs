//! A step that is none: one small part for each thing that a later step needs from the engine, in a crate of its own and
//! without an edit to steps 00 to 04. `tests/step/proof.rs` runs it.

use std::cell::{OnceCell, RefCell};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use cgroups::Limits;
use engine::parts::{Limited, Namespaces, Rootfs};
use engine::{Identity, Keeper, Letter, Part, Program, Recipe, Right};
use namespaces::View;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use rootfs::Root;
use serde::{Deserialize, Serialize};
use shared::failure::During;
use shared::formula::Formula;
use shared::{call, explain};

/// The options of step 04, and one of its own for each part.
#[derive(clap::Args, Serialize, Deserialize)]
struct Options {
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    root: Root,
    /// A word that every process of the container finds in its environment
    #[arg(long)]
    word: Option<String>,
    /// The directory on the host where a file is made for each run, and where what the parts see is written down
    #[arg(long)]
    notes: Option<PathBuf>,
    /// A file of the host whose first bytes the child reads, though it cannot reach the file
    #[arg(long)]
    letter: Option<PathBuf>,
    /// How many files each process may have open
    #[arg(long)]
    files: Option<u64>,
    /// Count the runs, in a file that goes with the container
    #[arg(long)]
    count: bool,
    /// Make a terminal whose master the host has
    #[arg(long)]
    terminal: bool,
    /// Leave the container to the caller, as OCI has it
    #[arg(long)]
    orphan: bool,
    /// A network namespace to join, in the place of a new one
    #[arg(long)]
    join: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Plan {
    joined: JoinPart,
    namespaces: Namespaces,
    cgroup: Limited,
    word: WordPart,
    note: Note,
    handed: Handed,
    rootfs: Rootfs,
    terminal: Terminal,
    limit: Files,
    count: Count,
}

#[derive(clap::Subcommand)]
enum Command {
    /// A command of this step's own
    Hello,
    /// What containerd is to an OCI runtime: has another command make a container, adopts it, and ends as it does
    Adopt {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

#[derive(clap::Args)]
struct GuestOptions {
    /// Another word for this process
    #[arg(long = "other-word")]
    word: Option<String>,
}

impl Recipe for Options {
    // A group is known by the name of its step: two digits.
    const STEP: &'static str = "step99";
    type Plan = Plan;
    type Command = Command;
    type Guest = GuestOptions;

    fn settled(mut self) -> Result<Self> {
        self.view.validate()?;
        rootfs::validate(&self.view)?;
        self.view = self.view.with_cgroup().settled();
        self.root = self.root.settled()?;
        for path in [&mut self.notes, &mut self.letter, &mut self.join].into_iter().flatten() {
            *path = std::path::absolute(&*path).during("cannot tell the current directory")?;
        }
        Ok(self)
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn view(&self) -> &View {
        &self.view
    }

    fn keeper(&self) -> Keeper {
        if self.orphan { Keeper::Subreaper } else { Keeper::Monitor }
    }

    fn plan(&self, container: &Identity) -> Result<Plan> {
        let note = self.notes.as_ref().map(|dir| dir.join(&container.id));
        Ok(Plan {
            joined: JoinPart { path: self.join.clone(), file: OnceCell::new() },
            namespaces: Namespaces::plan(&self.view, container),
            cgroup: match self.keeper() {
                Keeper::Monitor => Limited::plan(&self.limits, &self.view, container)?,
                Keeper::Subreaper => Limited::named(format!("oci-{}", container.id), &self.limits, &self.view)?,
            },
            word: WordPart { word: self.word.clone() },
            note: Note { dir: note.clone() },
            handed: Handed { path: self.letter.clone(), ..Handed::default() },
            rootfs: Rootfs::plan(&self.root, &self.view, container)?,
            terminal: Terminal { note: self.terminal.then_some(note).flatten(), master: OnceCell::new() },
            limit: Files { most: self.files },
            count: Count { dir: self.count.then(|| container.data.clone()) },
        })
    }

    fn parts(plan: &Plan) -> Vec<&dyn Part> {
        vec![
            &plan.joined, // before anything belongs to a namespace
            &plan.namespaces,
            &plan.cgroup,
            &plan.word,
            &plan.note,
            &plan.handed,
            &plan.rootfs,
            &plan.terminal, // in the container's own /dev/pts
            &plan.limit,
            &plan.count,
        ]
    }

    fn for_guest(mut plan: Plan, options: &GuestOptions) -> Plan {
        plan.word.word = options.word.clone().or(plan.word.word);
        plan
    }

    fn run(command: Command) -> Result<u8> {
        match command {
            Command::Hello => {
                println!("hello");
                Ok(3)
            }
            Command::Adopt { words } => adopt(words),
        }
    }
}

fn main() -> ExitCode {
    engine::cli::main::<Options>()
}

fn adopt(words: Vec<OsString>) -> Result<u8> {
    set_child_subreaper(true).during("prctl(PR_SET_CHILD_SUBREAPER)")?;
    let made = std::process::Command::new("/proc/self/exe").args(words).status().during("cannot create it")?;
    anyhow::ensure!(made.success(), "it was not created: {made}");
    // What that one has left is a child of this process now, and the only one.
    match wait().during("it has left nothing")? {
        WaitStatus::Exited(_, code) => Ok(code as u8),
        WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as u8),
        other => anyhow::bail!("{other:?}"),
    }
}

/// An option that is stored, and read back by every command.
#[derive(Serialize, Deserialize)]
struct WordPart {
    word: Option<String>,
}

impl Part for WordPart {
    fn name(&self) -> &'static str {
        "word"
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        program.variables.extend(self.word.clone().map(|word| ("WORD".into(), word.into())));
        Ok(())
    }
}

/// Files on the host, made before the child and undone by whichever process cleans up; and what the host sees of the
/// child's namespaces once they exist.
#[derive(Serialize, Deserialize)]
struct Note {
    dir: Option<PathBuf>,
}

impl Part for Note {
    fn name(&self) -> &'static str {
        "note"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        explain::host(call!("mkdir {}", dir.display())).run(|| std::fs::create_dir(dir))?;
        let file = dir.join("file");
        explain::host(call!("touch {}", file.display())).run(|| File::create(&file).map(drop))
    }

    fn admit(&self, child: Pid) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let net = std::fs::read_link(format!("/proc/{child}/ns/net")).during("cannot look at the child")?;
        std::fs::write(dir.join("net"), net.as_os_str().as_encoded_bytes()).during("cannot write the note")
    }

    fn cleanup(&self) -> Result<()> {
        let Some(dir) = self.dir.as_ref().filter(|dir| dir.exists()) else { return Ok(()) };
        explain::host(call!("rm -r {}", dir.display())).cleanup().run(|| std::fs::remove_dir_all(dir))
    }
}

/// A descriptor that is opened before the child, and that the child uses.
#[derive(Default, Serialize, Deserialize)]
struct Handed {
    path: Option<PathBuf>,
    #[serde(skip)]
    file: OnceCell<File>,
    #[serde(skip)]
    text: RefCell<String>,
}

impl Part for Handed {
    fn name(&self) -> &'static str {
        "letter"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let _ = self.file.set(File::open(path).during(format_args!("cannot open {}", path.display()))?);
        Ok(())
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        let Some(mut file) = self.file.get() else { return Ok(()) };
        file.read_to_string(&mut self.text.borrow_mut()).map(drop).during("cannot read the letter")
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        program.variables.push(("LETTER".into(), self.text.take().into()));
        Ok(())
    }
}

/// A limit that each process gives itself before exec, those of `exec` too.
#[derive(Serialize, Deserialize)]
struct Files {
    most: Option<u64>,
}

impl Part for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn confine(&self, program: &mut Program) -> Result<()> {
        let Some(most) = self.most else { return Ok(()) };
        program.gives_up(Right::Resources, move || {
            explain::child(call!("setrlimit(RLIMIT_NOFILE, {{{most}, {most}}})"))
                .run(|| setrlimit(Resource::RLIMIT_NOFILE, most, most))
        });
        Ok(())
    }
}

/// What outlives a run, and goes with the container.
#[derive(Serialize, Deserialize)]
struct Count {
    dir: Option<PathBuf>,
}

impl Part for Count {
    fn name(&self) -> &'static str {
        "count"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        explain::host(call!("mkdir -p {}", dir.display())).run(|| std::fs::create_dir_all(dir))?;
        explain::host(call!("echo run >> {}", dir.join("runs").display()))
            .run(|| append(&dir.join("runs")).and_then(|mut file| file.write_all(b"run\n")))
    }

    fn remove(&self) -> Result<()> {
        let Some(dir) = self.dir.as_ref().filter(|dir| dir.exists()) else { return Ok(()) };
        explain::host(call!("rm -r {}", dir.display())).cleanup().run(|| std::fs::remove_dir_all(dir))?;
        let _ = dir.parent().map(std::fs::remove_dir); // empty, or of others
        Ok(())
    }
}

/// A descriptor that the child makes and sends to the host, which serves it while the program runs.
#[derive(Serialize, Deserialize)]
struct Terminal {
    note: Option<PathBuf>,
    #[serde(skip)]
    master: OnceCell<OwnedFd>,
}

impl Part for Terminal {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn enter(&self, letter: &mut Letter) -> Result<()> {
        if self.note.is_none() {
            return Ok(());
        }
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).during("posix_openpt()")?;
        grantpt(&master).and_then(|()| unlockpt(&master)).during("unlockpt()")?;
        letter.text = b"a terminal".to_vec();
        letter.descriptors.push(master.as_fd().try_clone_to_owned().during("dup()")?);
        Ok(())
    }

    fn entered(&self, _child: Pid, mut letter: Letter) -> Result<()> {
        let Some(master) = letter.descriptors.pop() else { return Ok(()) };
        anyhow::ensure!(letter.text == b"a terminal", "{letter:?}");
        // `serve` never waits.
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).during("fcntl()")?;
        let _ = self.master.set(master);
        Ok(())
    }

    fn watch(&self) -> Vec<BorrowedFd<'_>> {
        self.master.get().into_iter().map(AsFd::as_fd).collect()
    }

    fn serve(&self) {
        let (Some(dir), Some(master)) = (&self.note, self.master.get()) else { return };
        let mut text = [0; 4096];
        let written = nix::unistd::read(master, &mut text).context("nothing").and_then(|count| {
            append(&dir.join("screen")).and_then(|mut file| file.write_all(&text[..count])).context("full")
        });
        let _ = written;
    }
}

/// A namespace that is joined in the place of a new one.
#[derive(Serialize, Deserialize)]
struct JoinPart {
    path: Option<PathBuf>,
    #[serde(skip)]
    file: OnceCell<File>,
}

impl Part for JoinPart {
    fn name(&self) -> &'static str {
        "joined"
    }

    fn prepare(&self, _formula: &mut Formula) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let _ = self.file.set(File::open(path).during(format_args!("cannot open {}", path.display()))?);
        Ok(())
    }

    fn enter(&self, _letter: &mut Letter) -> Result<()> {
        let Some(file) = self.file.get() else { return Ok(()) };
        explain::child(call!("setns(_, CLONE_NEWNET)")).run(|| setns(file, CloneFlags::CLONE_NEWNET))
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}
