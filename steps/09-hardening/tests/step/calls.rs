//! The list of calls: what is forbidden is, and what programs do all day works.

use std::io::Write;

use testing::{Check, World, check, needs};

use crate::home::Home;
use crate::{range, run, sleeping};

/// `escape WHAT`, in a container with these options.
fn escape(home: &Home, options: &[&str], what: &str) -> String {
    run(home, options, &["/usr/local/bin/escape", what])
}

pub fn checks() -> Vec<Check> {
    let here = [needs::user_namespaces()];
    vec![
        check("forbidden_calls_are_eperm_and_unknown_ones_enosys", here.clone(), || {
            let home = Home::new();
            for what in ["keys", "layout", "bpf", "io_uring", "userfaultfd", "syslog", "vsock", "namespace"] {
                assert_eq!(escape(&home, &[], what), "EPERM", "{what}");
            }
            for what in ["clone3", "newer", "x32"] {
                assert_eq!(escape(&home, &[], what), "ENOSYS", "{what}");
            }
            // Without the list the kernel has other answers, so it is the list that says so.
            let unconfined = ["--security-opt", "seccomp=unconfined"];
            for (what, answer) in [("keys", "ENOKEY"), ("layout", "works: "), ("clone3", "EINVAL"), ("namespace", "works: ")] {
                assert_eq!(escape(&home, &unconfined, what), answer, "{what}");
            }
            // And for a process that exec brings in.
            let id = sleeping(&home, &[]);
            for (what, answer) in [("layout", "EPERM"), ("newer", "ENOSYS"), ("thread", "works: a thread")] {
                assert_eq!(home.ok(&["exec", &id, "/usr/local/bin/escape", what]), answer, "{what}");
            }
        })
        .differs_in([World::CgroupV2]),
        check("another_architectures_calls_end_the_process", [needs::user_namespaces(), foreign()], || {
            let home = Home::new();
            let words = ["-q", "run", "--rm", "--network", "none", "--rootfs", &crate::root(), "/usr/local/bin/escape", "foreign"];
            let ran = home.step(&words).ran();
            assert_eq!(ran.code, 128 + libc::SIGSYS, "{ran:?}");
        }),
        check("nothing_is_typed_into_a_terminal_but_by_who_sits_there", [range(), needs::tool("script"), takes_typed()], || {
            let home = Home::new();
            // The step in a terminal, and the program in one of its own.
            let typed = |options: &[&str]| {
                let run = ["-q", "run", "--rm", "-t", "--network", "none", "--rootfs", &crate::root()].map(str::to_owned);
                let words: Vec<_> = run.iter().map(String::as_str).chain(options.iter().copied()).collect();
                let step = testing::program("step09").display().to_string();
                let line = format!("{step} {} /usr/local/bin/escape tiocsti x", words.join(" "));
                let mut command = std::process::Command::new("script");
                command.args(["-qec", &line, "/dev/null"]).env("XDG_RUNTIME_DIR", home.path()).env("XDG_DATA_HOME", home.data());
                testing::Run::new(command).ran().out
            };
            assert!(typed(&[]).contains("EPERM"), "{}", typed(&[]));
            let unconfined = typed(&["--security-opt", "seccomp=unconfined"]);
            assert!(unconfined.contains("works"), "{unconfined}");
        }),
        check("a_capability_opens_its_calls", here.clone(), || {
            let home = Home::new();
            run(&home, &["--cap-add", "SYS_ADMIN"], &["mount", "-t", "tmpfs", "none", "/mnt"]);
            assert_eq!(escape(&home, &["--cap-add", "SYS_ADMIN"], "namespace"), "works: ");
            assert_eq!(escape(&home, &["--cap-add", "SYS_ADMIN"], "clone3"), "EINVAL");
            assert_eq!(escape(&home, &["--cap-add", "NET_ADMIN"], "namespace"), "EPERM");
        }),
        check("programs_of_every_kind_run_under_the_list", here.clone(), || {
            let home = Home::new();
            assert_eq!(escape(&home, &[], "thread"), "works: a thread");
            // A session: pipes, jobs, signals, files, a trap, a background process that is waited for.
            let session = "set -e; cd /tmp; mkdir d; echo 3 >d/a; echo 1 >>d/a; sort d/a | tr '\\n' ' '; mv d/a d/b; ln -s b d/c; \
                           cat d/c >/dev/null; chmod 600 d/b; find d -type f -newer /etc | wc -l >/dev/null; touch -d yesterday d/b; \
                           mkfifo d/p; (echo through >d/p) & cat d/p; wait; trap 'echo trapped' USR1; kill -USR1 $$; \
                           timeout 0.1 sleep 5 || echo late; test -r d/b && echo readable; rm -r d; df / >/dev/null; ps >/dev/null; \
                           tail -n1 /etc/passwd >/dev/null || true; ls -la / >/dev/null; nice -n 1 true; (ulimit -n 99; true); echo done";
            let shown = run(&home, &[], &["bash", "-c", session]);
            assert_eq!(shown, "1 3 through\ntrapped\nlate\nreadable\ndone");
        })
        .differs_in([World::CgroupV2]),
        check("a_static_busybox_runs_under_the_list", [needs::user_namespaces(), needs::tool("busybox")], || {
            let home = Home::new();
            let volume = ["-v", "/usr:/usr:ro"];
            let script = "busybox sh -c 'busybox echo a | busybox sed s/a/b/; busybox ls / >/dev/null; busybox id -u'";
            assert_eq!(run(&home, &volume, &["sh", "-c", script]), "b\n0");
        }),
        check("a_program_of_musl_runs_under_the_list", [needs::user_namespaces(), needs::tool("musl-gcc")], || {
            let home = Home::new();
            let dir = tempfile::tempdir().expect("tempdir");
            std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
            let source = dir.path().join("program.c");
            std::fs::write(&source, MUSL).expect("a source");
            let mut compiler = std::process::Command::new("musl-gcc");
            compiler.args(["-static", "-o"]).arg(dir.path().join("program")).arg(&source);
            assert!(compiler.status().expect("musl-gcc").success());
            let volume = format!("{}:/mnt:ro", dir.path().display());
            assert_eq!(run(&home, &["-v", &volume], &["/mnt/program"]), "thread 1\nchild 7\nuser 0");
        }),
        check("python_runs_under_the_list", [needs::user_namespaces(), python()], || {
            let home = Home::new();
            let python = prefix().expect("python");
            let volumes = ["-v", "/usr:/usr:ro", "-v", &format!("{python}:{python}:ro")];
            let volumes = if python.starts_with("/usr") { &volumes[..2] } else { &volumes[..] };
            let script = "import threading, subprocess, asyncio, tempfile, os, socket, time, signal, select, mmap, shutil, json\n\
                          threads = [threading.Thread(target=lambda: time.sleep(0.01)) for _ in range(8)]\n\
                          [it.start() for it in threads]; [it.join() for it in threads]\n\
                          assert subprocess.run(['id', '-u'], capture_output=True).stdout == b'0\\n'\n\
                          asyncio.run(asyncio.sleep(0.01))\n\
                          d = tempfile.mkdtemp(); open(d + '/f', 'w').write('x'); shutil.copytree(d, d + '2'); shutil.rmtree(d)\n\
                          a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n\
                          server = socket.create_server(('127.0.0.1', 0)); client = socket.create_connection(server.getsockname())\n\
                          m = mmap.mmap(-1, 4096); m[0] = 1\n\
                          child = os.fork() or os._exit(7); assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n\
                          print('done')";
            let program = format!("{python}/bin/python3");
            assert_eq!(run(&home, volumes, &[&program, "-c", script]), "done");
        }),
        check("packages_are_made_and_unpacked_under_the_list", [needs::user_namespaces(), needs::tool("dpkg-deb")], || {
            let home = Home::new();
            let script = "set -e; cd /tmp; mkdir -p d/DEBIAN d/usr; printf 'Package: a\\nVersion: 1\\nArchitecture: all\\n\
                          Maintainer: a <a@b>\\nDescription: a\\n' >d/DEBIAN/control; echo file >d/usr/f; \
                          dpkg-deb --root-owner-group -b d a.deb >/dev/null; dpkg-deb -x a.deb o; cat o/usr/f; \
                          mkdir -p i/var/lib/dpkg/info i/var/lib/dpkg/updates i/var/lib/dpkg/triggers; : >i/var/lib/dpkg/status; \
                          dpkg --root=/tmp/i --unpack a.deb >/dev/null; dpkg-query --admindir=i/var/lib/dpkg -W -f '${Status}\n' a; \
                          tar cf - d | tar xf - -C o; cat o/d/usr/f; rm -r d o i a.deb";
            assert_eq!(run(&home, &["-v", "/usr:/usr:ro"], &["sh", "-c", script]), "file\ninstall ok unpacked\nfile");
        }),
        check("strace_traces_inside_as_in_docker", [needs::user_namespaces(), needs::tool("strace")], || {
            let home = Home::new();
            let script = "strace -f -o /tmp/trace sh -c true; grep -c exit_group /tmp/trace; rm /tmp/trace";
            assert_eq!(run(&home, &["-v", "/usr:/usr:ro"], &["sh", "-c", script]), "1");
        }),
        check("a_list_in_dockers_form_is_taken", here.clone(), || {
            let home = Home::new();
            let list = |text: &str| {
                let mut file = tempfile::NamedTempFile::new().expect("tempfile");
                file.write_all(text.as_bytes()).expect("write");
                let option = format!("seccomp={}", file.path().display());
                (file, option)
            };
            let (_file, option) = list(
                r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[],"syscalls":[
                   {"names":["mkdir","mkdirat","nosuch"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
                   {"names":["userfaultfd"],"action":"SCMP_ACT_ERRNO","errnoRet":7},
                   {"names":["personality"],"action":"SCMP_ACT_ERRNO","errnoRet":28,"args":[{"index":0,"value":262144,"op":"SCMP_CMP_EQ"}]}]}"#,
            );
            let options = ["--security-opt", &option];
            let shown = run(&home, &options, &["sh", "-c", "mkdir /tmp/d 2>&1 | grep -o 'No space'; echo go on"]);
            assert_eq!(shown, "No space\ngo on");
            assert_eq!(escape(&home, &options, "layout"), "ENOSPC");
            assert_eq!(escape(&home, &options, "userfaultfd"), "E2BIG");
            let id = sleeping(&home, &options);
            drop(_file); // it is written down
            assert_eq!(home.ok(&["exec", &id, "/usr/local/bin/escape", "layout"]), "ENOSPC");
            for (text, word) in [
                ("{", "the list of calls"),
                (r#"{"defaultAction":"SCMP_ACT_NOTIFY","syscalls":[]}"#, "SCMP_ACT_NOTIFY is not to be had"),
                (
                    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ERRNO",
                       "args":[{"index":0,"value":1,"op":"SCMP_CMP_LIKE"}]}]}"#,
                    "no comparison is called",
                ),
            ] {
                let (_file, option) = list(text);
                home.refuses(&["run", "--rm", "--security-opt", &option, "true"], word);
            }
            home.refuses(&["run", "--rm", "--security-opt", "seccomp=/nosuch", "true"], "ENOENT");
        }),
    ]
}

/// A thread, a child, and another program: what the C library musl makes of them.
const MUSL: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void *count(void *number) { ++*(int *)number; return 0; }

int main(void) {
    int number = 0, status;
    unsigned char byte;
    struct stat there;
    char line[16];
    pthread_t thread;
    if (pthread_create(&thread, 0, count, &number) || pthread_join(thread, 0)) return 1;
    if (getrandom(&byte, 1, 0) != 1 || stat("/proc/self/exe", &there)) return 2;
    pid_t child = fork();
    if (child == 0) _exit(7);
    if (waitpid(child, &status, 0) != child) return 3;
    FILE *program = popen("id -u", "r");
    if (!program || !fgets(line, sizeof line, program) || pclose(program)) return 4;
    printf("thread %d\nchild %d\nuser %s", number, WEXITSTATUS(status), line);
    return 0;
}
"#;

/// Where the kernel still lets a program type for others. Documentation/admin-guide/sysctl/kernel.rst has no word of it;
/// see CONFIG_LEGACY_TIOCSTI.
fn takes_typed() -> Option<String> {
    let setting = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").unwrap_or("1".to_owned());
    (setting.trim() != "1").then(|| "needs a kernel that lets programs type for others".to_owned())
}

pub fn foreign() -> Option<String> {
    let other = (!cfg!(target_arch = "x86_64")).then(|| "needs an x86-64 machine".to_owned());
    let without = || {
        let ran = testing::step("escape", ["foreign"]).ran();
        (!ran.out.starts_with("works")).then(|| "needs a kernel that runs programs for 32 bits".to_owned())
    };
    other.or_else(without)
}

/// Where its own files are, which it finds by where it is itself.
fn prefix() -> Option<String> {
    let output =
        std::process::Command::new("python3").args(["-c", "import sys; print(sys.base_prefix)"]).output().ok()?;
    let prefix = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    std::path::Path::new(&prefix).join("bin/python3").exists().then_some(prefix)
}

fn python() -> Option<String> {
    prefix().is_none().then(|| "needs python3 to be installed".to_owned())
}
