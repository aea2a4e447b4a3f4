//! The system call of this step that the crate `nix` has only with more of its features.
#![allow(unsafe_code)]

use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// connect(2), to an address of IPv4.
///
/// # Errors
/// EINPROGRESS where the socket does not wait.
pub fn connect(socket: BorrowedFd, to: SocketAddrV4) -> nix::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: connect(2) reads a sockaddr_in, and `address` is one that outlives the call.
    Errno::result(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
}
