//! What a command and a monitor say to each other, by a socket in the container's directory. It keeps messages apart
//! (SOCK_SEQPACKET, unix(7)). From the monitor they are what the terminal writes; from the command, keys or a size.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use engine::container::Container;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv, send, socket,
};
use shared::{call, explain};

use crate::Window;

/// Bytes of a message at most.
pub const MOST: usize = 16 << 10;

/// From a command to a monitor.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// What was typed.
    Keys(Vec<u8>),
    /// The window's size.
    Size(Window),
}

impl Message {
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Message::Keys(keys) => [b"k", &keys[..]].concat(),
            Message::Size(Window { rows, columns, width, height }) => [rows, columns, width, height]
                .iter()
                .fold(vec![b's'], |bytes, it| [bytes, it.to_ne_bytes().into()].concat()),
        }
    }

    /// `None` for what is no message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'k', keys) => Some(Message::Keys(keys.to_vec())),
            (b's', rest) if rest.len() == 8 => {
                let number = |at: usize| u16::from_ne_bytes([rest[2 * at], rest[2 * at + 1]]);
                Some(Message::Size(Window { rows: number(0), columns: number(1), width: number(2), height: number(3) }))
            }
            _ => None,
        }
    }
}

/// Monitor, and no child yet: a socket of this name in the container's directory, which this user alone can look into.
///
/// # Errors
/// Those of bind(2).
pub fn listen_in(directory: &Path) -> Result<OwnedFd> {
    let path = directory.join("attach");
    explain::host(call!("bind({})", path.display())).run(|| {
        let _ = std::fs::remove_file(&path); // of the last time that it was started
        let socket = open()?;
        at(directory, |address| bind(socket.as_raw_fd(), address))?;
        listen(&socket, Backlog::new(16)?)?;
        Ok::<_, std::io::Error>(socket)
    })
}

/// Command: the same socket, connected.
///
/// # Errors
/// ECONNREFUSED where the monitor is gone.
pub fn connect_to(container: &Container) -> Result<OwnedFd> {
    explain::host(call!("connect({})", container.path("attach").display())).run(|| {
        let socket = open()?;
        at(&container.at(""), |address| connect(socket.as_raw_fd(), address))?;
        Ok::<_, std::io::Error>(socket)
    })
}

/// Sends a message; EAGAIN where the other side is slow, EPIPE where it is gone.
pub fn say(to: BorrowedFd, bytes: &[u8]) -> nix::Result<usize> {
    send(to.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// The next message; none of it at the end. EAGAIN where there is none yet.
pub fn hear(from: BorrowedFd, buffer: &mut [u8]) -> nix::Result<usize> {
    match recv(from.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
        Err(Errno::ECONNRESET) => Ok(0), // it was killed before it had read all
        heard => heard,
    }
}

fn open() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

/// By way of a descriptor: an address has at most 107 bytes, and a path can be longer. See unix(7).
fn at(directory: &Path, act: impl FnOnce(&UnixAddr) -> nix::Result<()>) -> std::io::Result<()> {
    let directory = std::fs::File::open(directory)?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/attach", directory.as_raw_fd()).as_str())?;
    Ok(act(&address)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let size = Window { rows: 24, columns: 300, width: 0, height: 7 };
        for message in [Message::Keys(vec![]), Message::Keys(b"ls\r".to_vec()), Message::Size(size)] {
            assert_eq!(Message::from_bytes(&message.to_bytes()), Some(message));
        }
        for bad in [&b""[..], b"s123", b"x"] {
            assert_eq!(Message::from_bytes(bad), None);
        }
    }
}
