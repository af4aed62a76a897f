//! Packets over a socket pair that keeps their edges: one send is one receive, whole or not at all.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair, sockopt,
};

use super::message::PACKET_BYTES_MAX;

/// What the system may keep of packets that the other side has not taken. It gives what it allows, if that is less.
const BUFFER_BYTES: usize = 1 << 20;

/// One end. Sending and receiving never block.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// A packet that arrived.
pub(super) enum Received {
    Packet(Vec<u8>, Option<OwnedFd>),
    /// The other side is gone.
    End,
}

impl Socket {
    /// Both ends.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        for end in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size(end, BUFFER_BYTES)?;
        }
        Ok((Self(ours), Self(theirs)))
    }

    /// The end that this process was given.
    pub(super) fn received(end: OwnedFd) -> Self {
        Self(end)
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The same end once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends one packet, with a file if there is one. [`io::ErrorKind::WouldBlock`] if the other side has taken too
    /// little of those before.
    pub(super) fn send(&self, packet: &[u8], file: Option<&File>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = file.map(|file| [file.as_fd()]);
        if let Some(files) = &files {
            ancillary.push(SendAncillaryMessage::ScmRights(files));
        }
        sendmsg(&self.0, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// The next packet. With `files` a file that came with it is kept; without, the system drops it.
    pub(super) fn receive(&self, files: bool) -> io::Result<Received> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = if files { RecvAncillaryBuffer::new(&mut space) } else { RecvAncillaryBuffer::default() };
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.0, &mut [IoSliceMut::new(&mut packet)], &mut ancillary, flags)?;
        if got.bytes == 0 {
            return Ok(Received::End);
        }
        if got.flags.contains(rustix::net::ReturnFlags::TRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet larger than any may be"));
        }
        packet.truncate(got.bytes);
        let file = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        Ok(Received::Packet(packet, file))
    }

    /// Wakes whoever waits at either end: there is nothing more to come.
    pub(super) fn close(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn next(socket: &Socket, files: bool) -> (Vec<u8>, bool) {
        match socket.receive(files).unwrap() {
            Received::Packet(packet, file) => (packet, file.is_some()),
            Received::End => panic!("it ended"),
        }
    }

    #[test]
    fn packets_keep_their_edges_and_files_come_only_where_wanted() {
        let (ours, theirs) = Socket::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        ours.send(b"one", None).unwrap();
        ours.send(b"three", Some(&file)).unwrap();
        ours.send(b"four", Some(&file)).unwrap();
        assert_eq!(next(&theirs, true), (b"one".to_vec(), false));
        assert_eq!(next(&theirs, true), (b"three".to_vec(), true));
        assert_eq!(next(&theirs, false), (b"four".to_vec(), false));
        assert_eq!(theirs.receive(true).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert!(matches!(theirs.receive(true), Ok(Received::End)));
        assert!(theirs.send(b"x", None).is_err(), "and no signal");
    }

    #[test]
    fn who_reads_nothing_makes_no_one_wait() {
        let (ours, theirs) = Socket::pair().unwrap();
        let packet = vec![0; PACKET_BYTES_MAX];
        let mut sent = 0;
        while ours.send(&packet, None).is_ok() {
            sent += 1;
            assert!(sent < 1000, "there is a bound");
        }
        assert!(sent >= 2, "{sent}");
        assert_eq!(ours.send(&packet, None).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        theirs.receive(true).unwrap();
        ours.send(&packet, None).unwrap();
    }

    #[test]
    fn a_packet_larger_than_any_is_an_error() {
        let (ours, theirs) = Socket::pair().unwrap();
        ours.send(&vec![0; PACKET_BYTES_MAX + 1], None).unwrap();
        assert_eq!(theirs.receive(true).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }
}
