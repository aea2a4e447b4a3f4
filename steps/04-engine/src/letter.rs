//! What the child sends to the host when it has entered: a few bytes and descriptors from each part, such as the master of
//! a terminal that it has made in its own `/dev/pts`. See *SCM_RIGHTS* in unix(7).

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use shared::failure::During;

use crate::sys;

/// Bytes of a letter at most, with the one that is always sent.
const MOST: usize = 4097;

/// From one part in the child to the same part on the host.
#[derive(Debug, Default)]
pub struct Letter {
    /// At most 4 KiB.
    pub text: Vec<u8>,
    /// At most 4.
    pub descriptors: Vec<OwnedFd>,
}

/// A pair of sockets that keeps letters apart. Both ends are open in both processes: all is sent before it is read.
pub(crate) struct Post {
    host: OwnedFd,
    child: OwnedFd,
}

impl Post {
    pub fn open() -> Result<Self> {
        let (host, child) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .during("cannot make a pair of sockets")?;
        Ok(Post { host, child })
    }

    /// Host, and the child ready: the next letter; an empty one where there is none.
    pub fn receive(&self) -> Result<Letter> {
        let (mut text, descriptors) = match sys::receive(self.host.as_fd(), MOST) {
            Err(Errno::EAGAIN) => return Ok(Letter::default()),
            received => received.during("cannot read what the child has sent")?,
        };
        // One byte is always sent, as a message of none would be no message.
        text.pop();
        Ok(Letter { text, descriptors })
    }

    /// Child: has a part write its letter, and sends it.
    pub fn send(&self, write: impl FnOnce(&mut Letter) -> Result<()>) -> Result<()> {
        let mut letter = Letter::default();
        write(&mut letter)?;
        let Letter { mut text, descriptors } = letter;
        text.push(0);
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights };
        sendmsg::<()>(self.child.as_raw_fd(), &[IoSlice::new(&text)], control, MsgFlags::MSG_DONTWAIT, None)
            .map(drop)
            .during("cannot send the host what was made")
    }
}
