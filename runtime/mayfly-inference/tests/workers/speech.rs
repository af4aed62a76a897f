//! The packets of a worker's socket, as a process that is not one of ours would make them.

use std::io;
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The most that the server sends at once.
const PACKET_BYTES: usize = 64 << 10;

/// Waits for a packet and gives its JSON. The process ends with the server's end of the socket.
pub(crate) fn hear() -> String {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    poll(&mut [PollFd::new(&socket, PollFlags::IN)], None).unwrap();
    let mut packet = vec![0; PACKET_BYTES];
    let (len, _) = recv(socket, &mut packet[..], RecvFlags::empty()).unwrap();
    if len == 0 {
        std::process::exit(0);
    }
    let json = u32::from_le_bytes(packet[..4].try_into().unwrap()) as usize;
    String::from_utf8_lossy(&packet[4..4 + json]).into_owned()
}

/// Sends a packet as it is.
pub(crate) fn say(packet: &[u8]) {
    // The server's end does not block; this one is told not to by its type only.
    while send(io::stdin().as_fd(), packet, SendFlags::NOSIGNAL) == Err(rustix::io::Errno::AGAIN) {}
}

/// Sends a message of `json` with `data` behind it.
pub(crate) fn tell(json: &str, data: &[u8]) {
    let length = u32::try_from(json.len()).unwrap().to_le_bytes();
    say(&[&length[..], json.as_bytes(), data].concat());
}
