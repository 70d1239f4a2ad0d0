//! Datagrams on their way to the network. Consecutive ones of equal length to one endpoint leave by one call, which the kernel cuts
//! (`UDP_SEGMENT`, udp(7)); what they consist of stays where it is until then.

use crate::{
    DropReason, Ecn,
    io::Trouble,
    merge::MOST_PACKETS,
    offload::Offload,
    parcel::{Carry, Reader, Writer, carry},
    wire::LONGEST_SEND_BYTES,
};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};
use std::{
    collections::VecDeque,
    io::IoSlice,
    mem,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    slice,
};

const PIECES: usize = MOST_PACKETS * 2;
/// What may wait for room in the socket's buffer, bytes.
const PARKED_BYTES: usize = 256 * 1024;

/// What the outer headers of datagrams say that leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) to: SocketAddr,
    pub(crate) ecn: Ecn,
}

/// Datagrams that may leave together.
pub(crate) struct Batch<'p> {
    /// Room for headers.
    heads: &'p mut [u8],
    pieces: [IoSlice<'p>; PIECES],
    piece_count: usize,
    /// How many pieces there are up to the end of each datagram.
    ends: [u8; MOST_PACKETS],
    count: usize,
    outer: Option<Outer>,
    /// Length of each datagram but the last, which may be shorter.
    segment_bytes: usize,
    last_bytes: usize,
    total_bytes: usize,
}

impl<'p> Batch<'p> {
    /// `heads` is room for all headers that will be pushed.
    pub(crate) fn new(heads: &'p mut [u8]) -> Self {
        Self {
            heads,
            pieces: [IoSlice::new(&[]); PIECES],
            piece_count: 0,
            ends: [0; MOST_PACKETS],
            count: 0,
            outer: None,
            segment_bytes: 0,
            last_bytes: 0,
            total_bytes: 0,
        }
    }

    /// Room for headers that is left, bytes.
    pub(crate) const fn room_bytes(&self) -> usize {
        self.heads.len()
    }

    /// Whether a datagram may leave with those that are there.
    pub(crate) fn takes(&self, outer: Outer, length: usize) -> bool {
        self.count == 0
            || (self.count < MOST_PACKETS
                && self.outer == Some(outer)
                && self.last_bytes == self.segment_bytes
                && length <= self.segment_bytes
                && self.total_bytes.saturating_add(length) <= LONGEST_SEND_BYTES)
    }

    /// Appends a datagram that [`takes`](Self::takes) has allowed. False: there is no room for its head.
    pub(crate) fn push(&mut self, outer: Outer, head: &[u8], payload: &'p [u8]) -> bool {
        if !head.is_empty() {
            let heads = mem::take(&mut self.heads);
            let Some((place, rest)) = heads.split_at_mut_checked(head.len()) else { return false };
            place.copy_from_slice(head);
            self.heads = rest;
            self.piece(place);
        }
        if !payload.is_empty() {
            self.piece(payload);
        }
        self.count_in(outer, head.len().saturating_add(payload.len()));
        true
    }

    fn count_in(&mut self, outer: Outer, length: usize) {
        if self.count == 0 {
            (self.outer, self.segment_bytes) = (Some(outer), length);
        }
        if let Some(end) = self.ends.get_mut(self.count) {
            *end = self.piece_count as u8;
        }
        self.count = self.count.saturating_add(1);
        self.last_bytes = length;
        self.total_bytes = self.total_bytes.saturating_add(length);
    }

    /// The same for a datagram that is written in its place. False: there is no room for it, or it was not written.
    pub(crate) fn push_written(&mut self, outer: Outer, length: usize, write: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let heads = mem::take(&mut self.heads);
        let Some((place, rest)) = heads.split_at_mut_checked(length) else { return false };
        self.heads = rest;
        if !write(place) {
            return false;
        }
        self.piece(place);
        self.count_in(outer, length);
        true
    }

    fn piece(&mut self, bytes: &'p [u8]) {
        if let Some(place) = self.pieces.get_mut(self.piece_count) {
            *place = IoSlice::new(bytes);
            self.piece_count = self.piece_count.saturating_add(1);
        }
    }

    /// Sends what is there. What the socket has no room for waits in `parked`, behind what waits there already; what the kernel
    /// refuses is given up and counted.
    pub(crate) fn flush(
        &mut self,
        udp: Option<BorrowedFd<'_>>,
        offload: &mut Offload,
        parked: &mut Parked,
        trouble: &mut Trouble,
    ) {
        if self.count == 0 {
            return;
        }
        let pieces = self.pieces.get(..self.piece_count).unwrap_or_default();
        let ends = self.ends.get(..self.count).unwrap_or_default();
        let (Some(outer), Some(udp)) = (self.outer, udp) else {
            trouble.note(DropReason::SendFailed, "send to the network", Errno::EBADF, self.count as u64);
            return self.clear();
        };
        let unsent = if parked.is_empty() {
            let datagrams = Pieces { pieces, ends };
            send(udp, outer, self.segment_bytes, &datagrams, offload, trouble)
        } else {
            Some(0)
        };
        if let Some(first) = unsent {
            let skipped = first.checked_sub(1).and_then(|last| ends.get(last)).map_or(0, |end| usize::from(*end));
            let rest = pieces.get(skipped..).unwrap_or_default();
            let lost = self.count.saturating_sub(first);
            if !parked.push(outer, self.segment_bytes, rest) {
                trouble.note(DropReason::SendFailed, "send to the network", Errno::EAGAIN, lost as u64);
            }
        }
        self.clear();
    }

    fn clear(&mut self) {
        (self.count, self.piece_count, self.total_bytes) = (0, 0, 0);
    }
}

/// Datagrams in pieces.
struct Pieces<'a, 'p> {
    pieces: &'a [IoSlice<'p>],
    ends: &'a [u8],
}

impl<'a, 'p> Pieces<'a, 'p> {
    fn datagram(&self, number: usize) -> &'a [IoSlice<'p>] {
        let end = |number: usize| self.ends.get(number).map_or(0, |end| usize::from(*end));
        let start = number.checked_sub(1).map_or(0, end);
        self.pieces.get(start..end(number)).unwrap_or_default()
    }
}

/// Sends datagrams of one length and outer header, by one call if the kernel lets us. `Some(number)`: the socket's buffer was full
/// when it came to that one.
fn send(
    udp: BorrowedFd<'_>,
    outer: Outer,
    segment_bytes: usize,
    datagrams: &Pieces<'_, '_>,
    offload: &mut Offload,
    trouble: &mut Trouble,
) -> Option<usize> {
    let to = SockaddrStorage::from(outer.to);
    let class = outer.ecn as u8;
    let wide_class = i32::from(class);
    // As the socket's own DSCP is 0, the field is the whole of TOS and traffic class.
    let mark = match (outer.ecn, outer.to) {
        (Ecn::NotEct, _) => None,
        (_, SocketAddr::V4(_)) => Some(ControlMessage::Ipv4Tos(&class)),
        (_, SocketAddr::V6(_)) => Some(ControlMessage::Ipv6TClass(&wide_class)),
    };
    let count = datagrams.ends.len();
    let mut refused = None;
    if count > 1 && offload.segmented_sends {
        let segment_bytes = segment_bytes as u16;
        let segments = ControlMessage::UdpGsoSegments(&segment_bytes);
        let both = mark.map(|mark| [segments, mark]);
        let control = both.as_ref().map_or(slice::from_ref(&segments), |both| both.as_slice());
        match send_once(udp, &to, datagrams.pieces, control) {
            Ok(()) => return None,
            Err(Errno::EAGAIN) => return Some(0),
            // What may be about the segments, not about the datagrams: whether it is, these show one by one.
            Err(errno @ (Errno::EINVAL | Errno::EIO | Errno::EOPNOTSUPP | Errno::EMSGSIZE)) => refused = Some(errno),
            Err(errno) => {
                trouble.note(DropReason::SendFailed, "send to the network", errno, count as u64);
                return None;
            }
        }
    }
    let mut sent = 0_usize;
    for number in 0..count {
        match send_once(udp, &to, datagrams.datagram(number), mark.as_slice()) {
            Ok(()) => sent = sent.saturating_add(1),
            Err(Errno::EAGAIN) => return Some(number),
            Err(Errno::EMSGSIZE) => trouble.note(DropReason::TooBig, "send to the network", Errno::EMSGSIZE, 1),
            Err(errno) => trouble.note(DropReason::SendFailed, "send to the network", errno, 1),
        }
    }
    if let Some(errno) = refused.filter(|_| sent == count) {
        offload.refuse_segmented_sends(errno);
    }
    None
}

fn send_once(
    udp: BorrowedFd<'_>,
    to: &SockaddrStorage,
    pieces: &[IoSlice<'_>],
    control: &[ControlMessage<'_>],
) -> Result<(), Errno> {
    loop {
        match sendmsg(udp.as_raw_fd(), pieces, control, MsgFlags::MSG_DONTWAIT, Some(to)) {
            Err(Errno::EINTR) => {}
            done => return done.map(drop),
        }
    }
}

/// Datagrams that wait for room in the socket's buffer, in order.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    runs: VecDeque<ParkedRun>,
    bytes: usize,
}

#[derive(Debug)]
struct ParkedRun {
    outer: Outer,
    segment_bytes: usize,
    bytes: Vec<u8>,
}

carry!(Parked { runs, bytes });

impl Carry for ParkedRun {
    fn encode(&self, to: &mut Writer) {
        let Outer { to: address, ecn } = self.outer;
        (address, self.segment_bytes).encode(to);
        (ecn as u8).encode(to);
        self.bytes.encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let (to, segment_bytes) = Carry::decode(from)?;
        let outer = Outer { to, ecn: Ecn::of_class(Carry::decode(from)?) };
        let bytes = Carry::decode(from)?;
        (segment_bytes > 0).then_some(Self { outer, segment_bytes, bytes })
    }
}

impl Parked {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Keeps a copy. False: too much waits already.
    fn push(&mut self, outer: Outer, segment_bytes: usize, pieces: &[IoSlice<'_>]) -> bool {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let total = self.bytes.saturating_add(bytes.len());
        if total > PARKED_BYTES {
            return false;
        }
        self.bytes = total;
        self.runs.push_back(ParkedRun { outer, segment_bytes: segment_bytes.max(1), bytes });
        true
    }

    /// Keeps one datagram.
    #[cfg(test)]
    pub(crate) fn keep(&mut self, to: SocketAddr, datagram: &[u8]) {
        let outer = Outer { to, ecn: Ecn::NotEct };
        assert!(self.push(outer, datagram.len(), &[IoSlice::new(datagram)]));
    }

    /// Sends as much as the socket has room for.
    pub(crate) fn flush(&mut self, udp: Option<BorrowedFd<'_>>, offload: &mut Offload, trouble: &mut Trouble) {
        let Some(udp) = udp else { return self.give_up(trouble) };
        while let Some(mut run) = self.runs.pop_front() {
            self.bytes = self.bytes.saturating_sub(run.bytes.len());
            let pieces: Vec<IoSlice<'_>> = run.bytes.chunks(run.segment_bytes).map(IoSlice::new).collect();
            let ends: Vec<u8> = (1..=pieces.len()).map(|end| end as u8).collect();
            let datagrams = Pieces { pieces: &pieces, ends: &ends };
            if let Some(first) = send(udp, run.outer, run.segment_bytes, &datagrams, offload, trouble) {
                run.bytes.drain(..first.saturating_mul(run.segment_bytes).min(run.bytes.len()));
                self.bytes = self.bytes.saturating_add(run.bytes.len());
                self.runs.push_front(run);
                return;
            }
        }
    }

    /// Gives up everything.
    pub(crate) fn give_up(&mut self, trouble: &mut Trouble) {
        for run in self.runs.drain(..) {
            let count = run.bytes.len().div_ceil(run.segment_bytes);
            trouble.note(DropReason::SendFailed, "send to the network", Errno::EAGAIN, count as u64);
        }
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
