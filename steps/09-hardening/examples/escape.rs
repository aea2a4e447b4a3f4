//! Misbehaviour that step 09 stops: `escape WHAT [WORD]` tries one thing, and prints what it has got, or the errno.
//!
//! Each is a call that no program needs in a container, and that has been a way out of one, or a way to the host's secrets. It
//! needs a root that has it: `rootfs-scripts/host.sh /tmp/root target/debug/examples/escape`; then
//! `step09 run --rm --rootfs /tmp/root escape keys NAME`. That one looks for a key, which `escape with-key NAME WORD COMMAND
//! [ARG…]` puts into a session keyring for the command.

#![allow(unsafe_code)]

use std::ffi::CString;

use nix::errno::Errno;

/// Any call, with numbers and addresses; what it returns.
fn call<const N: usize>(number: i64, arguments: [usize; N]) -> nix::Result<usize> {
    let [a, b, c, d, e] = std::array::from_fn(|at| arguments.get(at).copied().unwrap_or(0));
    // SAFETY: each address that is passed below is 0, or that of a value with room for what the kernel writes there, which
    // outlives the call.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) }).map(|value| value as usize)
}

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let word = words.get(1).map_or("", String::as_str);
    if let ["with-key", name, payload, command @ ..] = &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return with_key(name, payload, command);
    }
    let tried = match words.first().map_or("", String::as_str) {
        "keys" => keys(word),
        "handle" => handle(word),
        "tiocsti" => word.bytes().try_for_each(|byte| type_in(&byte)).map(|()| String::new()),
        "layout" => call(libc::SYS_personality, [ADDR_NO_RANDOMIZE]).map(|_| String::new()),
        // A kind of map (BPF_MAP_TYPE_LPM_TRIE) that is refused to ordinary users where others are not, too.
        "bpf" => call(libc::SYS_bpf, [0, [11_u32, 8, 4, 1, 1].as_ptr() as usize, 20]).map(|_| String::new()),
        "io_uring" => call(libc::SYS_io_uring_setup, [1, [0_u64; 15].as_mut_ptr() as usize]).map(|_| String::new()),
        "userfaultfd" => call(libc::SYS_userfaultfd, [1]).map(|_| String::new()),
        "syslog" => call(libc::SYS_syslog, [10]).map(|_| String::new()),
        "vsock" => call(libc::SYS_socket, [libc::AF_VSOCK as usize, libc::SOCK_STREAM as usize]).map(|_| String::new()),
        "namespace" => call(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD) as usize]).map(|child| {
            // Two return from it.
            if child == 0 {
                std::process::exit(0);
            }
            String::new()
        }),
        "clone3" => call(libc::SYS_clone3, []).map(|_| String::new()),
        "newer" => call(9999, []).map(|_| String::new()),
        "foreign" => foreign(),
        // getpid(2) by its number for programs of 64 bits with pointers of 32.
        "x32" => call(0x4000_0000 | libc::SYS_getpid, []).map(|_| String::new()),
        "trace" => {
            call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, word.parse().expect("a pid")]).map(|_| String::new())
        }
        "thread" => {
            let thread = std::thread::Builder::new().spawn(|| "a thread".to_owned());
            thread
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
                .map(|it| it.join().expect("thread"))
        }
        other => panic!("what is {other:?}?"),
    };
    match tried {
        Ok(got) => println!("works: {got}"),
        Err(errno) => println!("{errno:?}"),
    }
}

/// personality(2)
const ADDR_NO_RANDOMIZE: usize = 0x004_0000;

/// The payload of a key in the session keyring that this process has inherited. keyctl(2).
fn keys(description: &str) -> nix::Result<String> {
    let (kind, description) = (c"user", CString::new(description).expect("no NUL"));
    let session = libc::KEY_SPEC_SESSION_KEYRING as usize;
    let search = [libc::KEYCTL_SEARCH as usize, session, kind.as_ptr() as usize, description.as_ptr() as usize];
    let key = call(libc::SYS_keyctl, search)?;
    let mut payload = [0_u8; 64];
    let read = [libc::KEYCTL_READ as usize, key, payload.as_mut_ptr() as usize, payload.len()];
    let length = call(libc::SYS_keyctl, read)?;
    Ok(String::from_utf8_lossy(&payload[..length.min(payload.len())]).into_owned())
}

/// Runs a command with a session keyring that has a key in it, as a caller may have one.
fn with_key(name: &str, payload: &str, command: &[&str]) {
    let (kind, name) = (c"user", CString::new(name).expect("no NUL"));
    let session = libc::KEY_SPEC_SESSION_KEYRING as usize;
    call(libc::SYS_keyctl, [libc::KEYCTL_JOIN_SESSION_KEYRING as usize, 0]).expect("a keyring");
    let key = [kind.as_ptr() as usize, name.as_ptr() as usize, payload.as_ptr() as usize, payload.len(), session];
    call(libc::SYS_add_key, key).expect("a key");
    let status = std::process::Command::new(command[0]).args(&command[1..]).status().expect("a command");
    std::process::exit(status.code().unwrap_or(1));
}

/// A file by its handle, which is made of its number on the disk: no directory on the way is asked. open_by_handle_at(2).
fn handle(path: &str) -> nix::Result<String> {
    let path = CString::new(path).expect("no NUL");
    let mut handle = [0_u32; 34];
    handle[0] = 128; // bytes of room
    let mut mount = 0_i32;
    let here = libc::AT_FDCWD as usize;
    let (at, mount) = (handle.as_mut_ptr() as usize, (&raw mut mount) as usize);
    call(libc::SYS_name_to_handle_at, [here, path.as_ptr() as usize, at, mount, 0])?;
    let file = call(libc::SYS_open_by_handle_at, [here, at, libc::O_RDONLY as usize])?;
    Ok(std::fs::read_to_string(format!("/proc/self/fd/{file}")).unwrap_or_default())
}

/// As if it had been typed at the terminal. ioctl_tty(2).
fn type_in(byte: &u8) -> nix::Result<()> {
    call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, std::ptr::from_ref(byte) as usize]).map(drop)
}

/// getpid(2) as a program for 32 bits calls it, by another door.
#[cfg(target_arch = "x86_64")]
fn foreign() -> nix::Result<String> {
    let pid: i32;
    // SAFETY: it takes a number and returns one, and touches no memory.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20 => pid, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _)
    };
    Ok(pid.to_string())
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign() -> nix::Result<String> {
    Err(Errno::ENOSYS)
}
