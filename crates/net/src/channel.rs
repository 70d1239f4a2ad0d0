//! A netlink socket of whatever protocol: requests, their answers, and why they come to nothing.
//!
//! Strict checking makes the kernel refuse what it would otherwise ignore, and filter dumps;
//! extended acknowledgements make it say why it refused.

use std::{
    io::IoSliceMut,
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::socket::{
        MsgFlags, NetlinkAddr, SetSockOpt, getsockopt, recvmsg, setsockopt,
        sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce},
    },
};
use socket2::SockRef;
use zeroize::Zeroize;

use crate::{
    Error,
    frame::{Content, Frame, Refusal, frames},
};

/// More than the kernel puts into one datagram of a dump (32 KiB).
const BUFFER_BYTES: usize = 64 * 1024;

/// How long one answer may take, and how long a dump is repeated whose objects change while it runs. On a busy node another
/// process may hold the kernel's locks for seconds.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What the kernel charges a receive buffer for one acknowledgement, rounded up.
const ACKNOWLEDGEMENT_BYTES: usize = 1024;

/// What the kernel keeps for itself of a send buffer (`netlink_sendmsg`, net/netlink/af_netlink.c), rounded up.
const SEND_RESERVE_BYTES: usize = 64;

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(Refusal),
    Socket(Errno),
    Answer(String),
    Interrupted,
}

impl Failure {
    pub(crate) fn into_error(self, action: &'static str, object: String) -> Error {
        match self {
            Self::Refused(Refusal { errno, message, .. }) => {
                Error::Kernel { action, object, errno, message, remedy: crate::error::remedy(errno) }
            }
            Self::Socket(Errno::EAGAIN) => Error::TimedOut {
                what: format!("the kernel's answer to: {action} {object}"),
                after: ANSWER_TIMEOUT,
                state: "no answer".into(),
            },
            Self::Socket(errno) => Error::kernel(action, object, errno),
            Self::Answer(detail) => Error::answer(action, object, detail),
            Self::Interrupted => {
                let detail = format!("the objects changed during every attempt of {ANSWER_TIMEOUT:?}");
                Error::answer(action, object, detail)
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// A socket of `protocol` (`NETLINK_*`) in the calling thread's namespace.
    pub(crate) fn open(protocol: isize) -> std::io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Each of the three is missing on old kernels only, and only makes answers poorer there.
        let options = [
            ("strict checking", socket.set_netlink_get_strict_chk(true)),
            ("extended acknowledgements", socket.set_ext_ack(true)),
            ("short acknowledgements", socket.set_cap_ack(true)),
        ];
        for (option, outcome) in options {
            if let Err(error) = outcome {
                tracing::debug!(option, %error, "netlink socket option is not available");
            }
        }
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// One request, which `write` makes for its sequence number, and the objects of its answer.
    pub(crate) fn request<T, B: AsRef<[u8]>>(
        &mut self,
        write: impl FnOnce(u32) -> B,
        decode: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Vec<T>, Failure> {
        let sequence = self.next_sequence();
        self.send(write(sequence).as_ref())?;
        let mut answer = Answer::to(sequence);
        while !answer.ended {
            answer.take(self.receive()?, &decode, Oddities::Fail)?;
        }
        answer.objects()
    }

    /// A request that is answered by any number of objects; repeated when they changed while they were listed.
    pub(crate) fn dump<T>(
        &mut self,
        write: impl Fn(u32) -> Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Vec<T>, Failure> {
        let started = Instant::now();
        loop {
            let sequence = self.next_sequence();
            self.send(&write(sequence))?;
            let mut answer = Answer::to(sequence);
            while !answer.ended {
                answer.take(self.receive()?, &decode, Oddities::LeaveOut)?;
            }
            match answer.objects() {
                Err(Failure::Interrupted) if started.elapsed() < ANSWER_TIMEOUT => {}
                other => return other,
            }
        }
    }

    /// Several messages in one datagram, numbered from `first` on, each of which is acknowledged. The outcome of message
    /// `first` alone may stand for all: the kernel refuses a transaction as a whole by it.
    ///
    /// Returns what was refused, in the order of the messages, with the message's position.
    pub(crate) fn transact(
        &mut self,
        write: impl FnOnce(u32) -> Vec<u8>,
        count: u32,
    ) -> Result<Vec<(u32, Refusal)>, Failure> {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        let bytes = write(first);
        self.make_room(bytes.len(), count);
        self.send(&bytes)?;
        let mut outcome = Outcome::to(first, count);
        while !outcome.ended {
            outcome.take(self.receive()?)?;
        }
        Ok(outcome.refused())
    }

    /// Overwrites what was received, which may have had secrets in it.
    pub(crate) fn wipe(&mut self) {
        self.buffer.as_mut_slice().zeroize();
    }

    /// The most that one datagram may hold.
    pub(crate) fn send_limit_bytes(&self) -> usize {
        getsockopt(&self.socket, SndBuf).unwrap_or(0).saturating_sub(SEND_RESERVE_BYTES)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Without privilege the limits of net.core.wmem_max and rmem_max hold; what does not fit then is refused in sending.
    fn make_room(&self, bytes: usize, acknowledgements: u32) {
        let answers = usize::try_from(acknowledgements).unwrap_or(usize::MAX).saturating_mul(ACKNOWLEDGEMENT_BYTES);
        let wanted = bytes.saturating_add(SEND_RESERVE_BYTES);
        if getsockopt(&self.socket, SndBuf).is_ok_and(|has| has < wanted) {
            self.enlarge((SndBufForce, SndBuf), wanted);
        }
        if getsockopt(&self.socket, RcvBuf).is_ok_and(|has| has < answers) {
            self.enlarge((RcvBufForce, RcvBuf), answers);
        }
    }

    /// The kernel doubles what it is told.
    fn enlarge<F: SetSockOpt<Val = usize>, O: SetSockOpt<Val = usize>>(&self, (force, ask): (F, O), bytes: usize) {
        if setsockopt(&self.socket, force, &bytes).is_err()
            && let Err(errno) = setsockopt(&self.socket, ask, &bytes)
        {
            tracing::debug!(%errno, "the netlink socket's buffer stays as it is");
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(bytes, &kernel, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Failure::Socket(Errno::from_raw(error.raw_os_error().unwrap_or_default())));
                }
            }
        }
    }

    fn receive(&mut self) -> Result<&[u8], Failure> {
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let fd = self.socket.as_raw_fd();
            match recvmsg::<NetlinkAddr>(fd, &mut parts, None, MsgFlags::empty()) {
                // Processes with CAP_NET_ADMIN in the namespace could send here too.
                Ok(received) if received.address.is_none_or(|from| from.pid() != 0) => {}
                Ok(received) if received.flags.contains(MsgFlags::MSG_TRUNC) => {
                    return Err(Failure::Answer("a datagram is longer than 64 KiB".into()));
                }
                Ok(received) => break received.bytes,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::Socket(errno)),
            }
        };
        Ok(self.buffer.get(..length).unwrap_or_default())
    }
}

/// What to do with an object that cannot be decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oddities {
    Fail,
    /// One odd object must not hide all others.
    LeaveOut,
}

/// The answer to one request, as far as it has come.
pub(crate) struct Answer<T> {
    sequence: u32,
    found: Vec<T>,
    interrupted: bool,
    pub(crate) ended: bool,
}

impl<T> Answer<T> {
    pub(crate) fn to(sequence: u32) -> Self {
        Self { sequence, found: Vec::new(), interrupted: false, ended: false }
    }

    /// Takes what is in a datagram; what is left of earlier requests that were given up is skipped.
    pub(crate) fn take(
        &mut self,
        datagram: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, String>,
        oddities: Oddities,
    ) -> Result<(), Failure> {
        for frame in frames(datagram) {
            let Frame { sequence, interrupted, content } = frame.map_err(Failure::Answer)?;
            if sequence != self.sequence || self.ended {
                continue;
            }
            self.interrupted |= interrupted;
            match content {
                Content::Nothing => {}
                Content::Success => self.ended = true,
                Content::Refusal(refusal) => return Err(Failure::Refused(refusal)),
                Content::Object(bytes) => match decode(bytes) {
                    Ok(object) => self.found.push(object),
                    Err(error) if oddities == Oddities::LeaveOut => {
                        tracing::warn!(error, "an object of a netlink dump is left out");
                    }
                    Err(error) => return Err(Failure::Answer(error)),
                },
            }
        }
        Ok(())
    }

    pub(crate) fn objects(self) -> Result<Vec<T>, Failure> {
        if self.interrupted { Err(Failure::Interrupted) } else { Ok(self.found) }
    }
}

/// The outcomes of a transaction's messages, as far as they have come.
pub(crate) struct Outcome {
    first: u32,
    count: u32,
    /// How many messages between the first and the last have no outcome yet.
    missing: u32,
    refused: Vec<(u32, Refusal)>,
    ended: bool,
}

impl Outcome {
    /// Of `count` messages, numbered from `first` on.
    pub(crate) fn to(first: u32, count: u32) -> Self {
        Self { first, count, missing: count.saturating_sub(2), refused: Vec::new(), ended: false }
    }

    pub(crate) fn take(&mut self, datagram: &[u8]) -> Result<(), Failure> {
        for frame in frames(datagram) {
            let Frame { sequence, content, .. } = frame.map_err(Failure::Answer)?;
            let position = sequence.wrapping_sub(self.first);
            if position >= self.count {
                continue;
            }
            match content {
                Content::Refusal(refusal) => self.refused.push((position, refusal)),
                Content::Success if position > 0 => {}
                Content::Success | Content::Nothing | Content::Object(_) => continue,
            }
            // By its first message the kernel refuses all of it, whatever it says of the others.
            self.missing = if position == 0 { 0 } else { self.missing.saturating_sub(1) };
            self.ended |= self.missing == 0;
        }
        Ok(())
    }

    /// What was refused, in the order of the messages.
    pub(crate) fn refused(mut self) -> Vec<(u32, Refusal)> {
        self.refused.sort_by_key(|(position, _)| *position);
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An acknowledgement with a code, of message `sequence`.
    fn acknowledgement(sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 1];
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes
    }

    fn outcome(acknowledgements: &[(u32, i32)]) -> Outcome {
        // Begin, three steps, end.
        let mut outcome = Outcome::to(10, 5);
        for (sequence, code) in acknowledgements {
            assert!(!outcome.ended, "before {sequence}");
            outcome.take(&acknowledgement(*sequence, *code)).unwrap();
        }
        outcome
    }

    #[test]
    fn a_transaction_is_over_when_every_step_has_its_outcome() {
        let done = outcome(&[(9, -1), (11, 0), (12, 0), (13, 0)]);
        assert!(done.ended && done.refused().is_empty());
        assert!(!outcome(&[(11, 0), (12, 0)]).ended);
    }

    #[test]
    fn the_first_refusal_is_the_one_of_the_first_step() {
        let done = outcome(&[(13, -2), (12, -17), (11, 0)]);
        assert!(done.ended);
        let refused: Vec<_> = done.refused().into_iter().map(|(position, refusal)| (position, refusal.errno)).collect();
        assert_eq!(refused, [(2, Errno::EEXIST), (3, Errno::ENOENT)]);
    }

    #[test]
    fn a_refusal_as_a_whole_ends_it_at_once() {
        let done = outcome(&[(11, 0), (10, -1)]);
        assert!(done.ended);
        assert_eq!(done.refused()[0].1.errno, Errno::EPERM);
        // Kernels of 2024 and later acknowledge the two ends where they are asked to: nobody asked.
        assert!(!outcome(&[(10, 0)]).ended);
    }
}
