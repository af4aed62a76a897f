//! A worker that is none: plays a script at its end of the socket.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::script::{Script, Step};

/// Bytes of a packet that the server sends, at most.
const PACKET_BYTES: usize = 64 << 10;
/// Bytes of a packet that a script may send: more than the server takes.
const SENT_BYTES_MAX: u32 = 100 << 10;
/// Waiting for a packet that a script says there is.
const HEAR: Duration = Duration::from_millis(30);
/// The same for the first two, without which nothing begins.
const HEAR_FIRST: Duration = Duration::from_millis(500);
/// A whole script.
const PAUSES_MAX: u32 = 200;
const AGAIN_MAX: u8 = 80;

/// What is played next, and how far that is.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    next: Mutex<Option<Part>>,
}

/// One script, to be played once.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) script: Script,
    /// Orders that were heard; [`u32::MAX`] once it is over.
    pub(crate) orders: watch::Sender<u32>,
    /// Whoever waits for the worker.
    pub(crate) leave: CancellationToken,
}

impl Stage {
    pub(crate) fn set(&self, part: Part) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
    }

    /// Plays what was set; without anything it ends at once, as a process would that does not start.
    pub(crate) fn play(&self, socket: OwnedFd) {
        let part = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Part { script, orders, leave }) = part else { return };
        let mut speaker =
            Speaker { socket, arena: None, heard: 0, orders, space: 0, last: Vec::new(), pauses: PAUSES_MAX };
        for step in script.beginning().iter().chain(&script.steps) {
            if !speaker.step(step, &leave) {
                break;
            }
        }
    }
}

struct Speaker {
    socket: OwnedFd,
    arena: Option<File>,
    heard: u32,
    orders: watch::Sender<u32>,
    /// Where it was last given space.
    space: u64,
    last: Vec<u8>,
    pauses: u32,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.orders.send_replace(u32::MAX);
    }
}

impl Speaker {
    /// Does one; false once the other end is gone.
    fn step(&mut self, step: &Step, leave: &CancellationToken) -> bool {
        match step {
            Step::Hear => return self.hear(if self.heard < 2 { HEAR_FIRST } else { HEAR }),
            Step::Say { json, data } => return self.say(message(json, data)),
            Step::Raw(packet) => return self.say(packet.clone()),
            Step::Fill { bytes, json } => {
                return self.say(message(json, &vec![b'x'; (*bytes).min(SENT_BYTES_MAX) as usize]));
            }
            Step::Again(times) => return (0..*times.min(&AGAIN_MAX)).all(|_| self.send(false)),
            Step::File => return self.send(true),
            Step::Write { at, bytes } => {
                if let Some(arena) = &self.arena {
                    // Beyond its end it fails, as it should.
                    let _ = arena.write_all_at(bytes, self.space.wrapping_add(u64::from(*at)));
                }
            }
            Step::Leave => leave.cancel(),
            Step::Pause(millis) => {
                let millis = u32::from(*millis).min(self.pauses);
                self.pauses -= millis;
                return self.is_there(Duration::from_millis(millis.into()));
            }
            Step::Quiet => while self.is_there(Duration::from_secs(1)) {},
        }
        true
    }

    fn say(&mut self, packet: Vec<u8>) -> bool {
        self.last = packet;
        self.send(false)
    }

    fn send(&self, with_file: bool) -> bool {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let files = [self.socket.as_fd()];
            if with_file {
                ancillary.push(SendAncillaryMessage::ScmRights(&files));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(&self.last)], &mut ancillary, flags) {
                Err(Errno::AGAIN) => {
                    let _ = self.poll(PollFlags::OUT, Duration::from_secs(1));
                }
                sent => return sent.is_ok(),
            }
        }
    }

    /// Waits for a packet and looks at it; false once the other end is gone.
    fn hear(&mut self, time: Duration) -> bool {
        if !self.poll(PollFlags::IN, time).contains(PollFlags::IN) {
            return true;
        }
        let mut packet = vec![0; PACKET_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.socket, &mut [std::io::IoSliceMut::new(&mut packet)], &mut ancillary, flags);
        let Ok(got) = got else { return true };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                self.arena = files.next().map(File::from);
            }
        }
        packet.truncate(got.bytes);
        self.heard += 1;
        let Some((length, rest)) = packet.split_first_chunk::<4>() else { return false };
        let json = rest.get(..u32::from_le_bytes(*length) as usize).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        if said.get("do").is_some() {
            self.orders.send_modify(|orders| *orders += 1);
        }
        if let Some(at) = said.pointer("/space/at").and_then(serde_json::Value::as_u64) {
            self.space = at;
        }
        true
    }

    /// Waits for `time`, or until the other end is gone: then false.
    fn is_there(&self, time: Duration) -> bool {
        !self.poll(PollFlags::empty(), time).contains(PollFlags::HUP)
    }

    fn poll(&self, what: PollFlags, time: Duration) -> PollFlags {
        let mut ready = [PollFd::new(&self.socket, what)];
        let time = Timespec::try_from(time).expect("a time of this file fits");
        match poll(&mut ready, Some(&time)) {
            Ok(_) => ready[0].revents(),
            Err(_) => PollFlags::empty(),
        }
    }
}

/// A packet, framed as the server reads it.
pub(crate) fn message(json: &[u8], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&length[..], json, data].concat()
}
