//! The system calls of this step that `nix` has only with raw descriptors.
#![allow(unsafe_code)]

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The next message of a socket, of at most this many bytes, with the descriptors that come with it, at most 4. Never
/// waits: EAGAIN. See *SCM_RIGHTS* in unix(7).
pub fn receive(socket: BorrowedFd, most: usize) -> nix::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut text, mut space) = (vec![0; most], cmsg_space!([i32; 4]));
    let mut buffer = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffer, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: recvmsg(2) has just made them for this process, and nothing else knows their numbers.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    let length = message.bytes;
    text.truncate(length);
    Ok((text, descriptors))
}

/// Child: closes every descriptor above 2 but this one. close_range(2).
pub fn close_all_but(kept: BorrowedFd) -> nix::Result<()> {
    let kept = kept.as_raw_fd() as u32;
    for (first, last) in [(3, kept - 1), (kept + 1, u32::MAX)].into_iter().filter(|(first, last)| first <= last) {
        // SAFETY: nothing is dropped in a child, which ends by exec or _exit: so no owner closes its number once more.
        Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    }
    Ok(())
}

/// _exit(2): ends this process, a copy of another one, without that one's clean-up.
pub fn exit(code: u8) -> ! {
    // SAFETY: it runs no code of this process.
    unsafe { libc::_exit(code.into()) }
}
