//! The receiver's half: it keeps what came, and makes what did not of repairs.

mod equations;
mod ring;

use super::{LONGEST_WINDOW, Window, coefficient::coefficient, encoder::sequences};
use crate::{
    inner,
    parcel::{Carry, Reader, Writer, carry},
};
use equations::{COLUMNS, Equations};
use ring::{LENGTH, Position, Ring};
use std::collections::VecDeque;

/// What came of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It says nothing that was not known.
    Unneeded,
    /// It will help once more repairs, or what it covers, have come.
    Kept,
    /// So many packets came out of it.
    Recovered(u16),
    /// It covers packets from before those that are remembered, or from so far ahead that none of those would remain.
    TooOld,
    /// More is missing in its window than is ever recovered.
    TooMany,
    /// No encoder makes such a repair, or what came out of it is no IP packet.
    Malformed,
}

/// Running counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DecoderCounts {
    /// Packets that came out of repairs.
    pub(crate) recovered: u64,
    /// Repairs that said nothing new.
    pub(crate) unneeded: u64,
    /// Packets that a repair covered and that neither came nor were recovered while they were remembered.
    pub(crate) given_up: u64,
    /// Repairs that no encoder makes, and symbols that came out of them and are no IP packets.
    pub(crate) malformed: u64,
}

carry!(DecoderCounts { recovered, unneeded, given_up, malformed });

/// The last 1024 packets, and what repairs say of those among them that are missing. A packet is missing when a repair covers it and it
/// did not come: a gap in the numbers alone says nothing, for what is not protected has numbers too. Memory for all of them is taken with
/// the first one.
///
/// Whoever fills this is authenticated as the peer, and one that means no good can make packets without our help: here it can
/// harm nothing but its own traffic, and neither memory nor the time that a call takes has a bound that it could move. A repair far
/// ahead of everything forgets nothing (a packet does).
#[derive(Debug)]
pub(crate) struct Decoder {
    ring: Ring,
    equations: Equations,
    /// Recovered, and not yet asked for.
    recovered: VecDeque<u32>,
    /// The one that was asked for last.
    out: Vec<u8>,
    counts: DecoderCounts,
}

impl Decoder {
    /// Neither keeps nor recovers a packet that is longer than this.
    pub(crate) fn new(longest_bytes: u16) -> Self {
        Self {
            ring: Ring::new(longest_bytes),
            equations: Equations::new(longest_bytes),
            recovered: VecDeque::new(),
            out: Vec::new(),
            counts: DecoderCounts::default(),
        }
    }

    /// A protected packet came. False: it was there already, or was recovered, and is not to be delivered again. One from before those
    /// that are remembered, or that is too long to be protected, is not kept and not ours to judge.
    pub(crate) fn source(&mut self, sequence: u32, packet: &[u8]) -> bool {
        let is_too_long = packet.len() > self.ring.longest_bytes().into();
        match self.ring.position(sequence) {
            Position::Held if self.ring.has(sequence) => return false,
            Position::Old => return true,
            _ if is_too_long => return true,
            Position::Held => {}
            Position::Ahead => self.advance(sequence),
            Position::FarAhead => self.begin(sequence),
        }
        self.ring.put(sequence, packet);
        if !self.equations.is_empty() {
            self.equations.learn(sequence, self.ring.padded(sequence), packet.len());
            self.take_solved();
        }
        true
    }

    /// A repair came. What it makes recoverable comes out of [`recovered`](Self::recovered).
    pub(crate) fn repair(&mut self, window: Window, number: u32, payload: &[u8]) -> Outcome {
        let is_possible = (1..=LONGEST_WINDOW).contains(&window.count)
            && (1..=usize::from(self.ring.longest_bytes())).contains(&payload.len());
        if !is_possible {
            return self.malformed();
        }
        match self.ring.position(window.last) {
            Position::Held => {}
            Position::Ahead => self.advance(window.last),
            Position::FarAhead if self.ring.newest().is_none() => self.begin(window.last),
            Position::FarAhead | Position::Old => return Outcome::TooOld,
        }
        if self.ring.position(window.first()) != Position::Held {
            return Outcome::TooOld;
        }
        let mut absent = [0; COLUMNS];
        let missing = self.ring.cover(window, &mut absent);
        if missing == 0 {
            return self.unneeded();
        }
        let Some(absent) = absent.get(..missing) else { return Outcome::TooMany };
        let known = || sequences(window).filter(|sequence| self.ring.has(*sequence));
        if known().any(|sequence| self.ring.packet(sequence).len() > payload.len()) {
            return self.malformed();
        }
        let known = known().map(|sequence| (self.ring.padded(sequence), coefficient(number, sequence)));
        let unknown = absent.iter().map(|sequence| (*sequence, coefficient(number, *sequence)));
        if !self.equations.insert(unknown, known.chain([(payload, 1)]), payload.len()) {
            return self.unneeded();
        }
        self.take_solved()
    }

    /// The next packet that was recovered, and its sequence number. The bytes are the packet's as it was protected, and the caller's to
    /// change.
    pub(crate) fn recovered(&mut self) -> Option<(u32, &mut [u8])> {
        while let Some(sequence) = self.recovered.pop_front() {
            // Whoever asks late may find the place taken.
            if self.ring.position(sequence) == Position::Held && self.ring.has(sequence) {
                self.out.clear();
                self.out.extend_from_slice(self.ring.packet(sequence));
                return Some((sequence, &mut self.out));
            }
        }
        None
    }

    /// How many more repairs would recover all that is missing and that repairs tell of, and the oldest packet's number.
    pub(crate) fn deficit(&self) -> Option<(u16, u32)> {
        self.equations.deficit()
    }

    /// Running counts.
    pub(crate) const fn counts(&self) -> DecoderCounts {
        self.counts
    }

    /// Gives the memory back. What is missing is given up.
    pub(crate) fn forget(&mut self) {
        let given_up = self.ring.forget();
        self.give_up(given_up);
        self.equations = Equations::new(self.ring.longest_bytes());
        (self.recovered, self.out) = (VecDeque::new(), Vec::new());
    }

    fn begin(&mut self, newest: u32) {
        let given_up = self.ring.begin(newest);
        self.give_up(given_up);
        self.equations.clear();
    }

    fn advance(&mut self, newest: u32) {
        let given_up = self.ring.advance(newest);
        self.give_up(given_up);
        self.equations.expire(newest.wrapping_sub(LENGTH).wrapping_add(1));
    }

    /// Keeps what the equations say without a doubt, in the packets' order.
    fn take_solved(&mut self) -> Outcome {
        let mut outcome = Outcome::Kept;
        while let Some(solved) = self.equations.solved() {
            let packet = own_part(solved.symbol());
            if packet.is_some_and(|packet| self.ring.put(solved.sequence, packet)) {
                if self.recovered.len() >= LENGTH as usize {
                    self.recovered.pop_front();
                }
                self.recovered.push_back(solved.sequence);
                self.counts.recovered = self.counts.recovered.wrapping_add(1);
                outcome = match outcome {
                    Outcome::Recovered(count) => Outcome::Recovered(count.saturating_add(1)),
                    _ => Outcome::Recovered(1),
                };
            } else {
                let malformed = self.malformed();
                outcome = if outcome == Outcome::Kept { malformed } else { outcome };
            }
            self.equations.recycle(solved);
        }
        outcome
    }

    const fn malformed(&mut self) -> Outcome {
        self.counts.malformed = self.counts.malformed.wrapping_add(1);
        Outcome::Malformed
    }

    const fn unneeded(&mut self) -> Outcome {
        self.counts.unneeded = self.counts.unneeded.wrapping_add(1);
        Outcome::Unneeded
    }

    const fn give_up(&mut self, packets: u64) {
        self.counts.given_up = self.counts.given_up.wrapping_add(packets);
    }
}

/// A recovered symbol without the zeros behind it. `None`: it is not an IP packet and zeros.
fn own_part(symbol: &[u8]) -> Option<&[u8]> {
    let (packet, zeros) = symbol.split_at_checked(inner::length(symbol)?)?;
    (inner::addresses(packet).is_some() && zeros.iter().all(|byte| *byte == 0)).then_some(packet)
}

impl Carry for Decoder {
    fn encode(&self, to: &mut Writer) {
        (self.ring.longest_bytes(), self.counts).encode(to);
        self.ring.newest().encode(to);
        for sequence in self.ring.sequences() {
            (self.ring.is_missing(sequence), self.ring.has(sequence)).encode(to);
            if self.ring.has(sequence) {
                write(self.ring.packet(sequence), to);
            }
        }
        self.equations.iter().count().encode(to);
        for (unknown, sum) in self.equations.iter() {
            let unknown: Vec<(u32, u8)> = unknown.collect();
            unknown.len().encode(to);
            unknown.into_iter().for_each(|term| term.encode(to));
            write(sum, to);
        }
        self.recovered.encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let (longest_bytes, counts) = Carry::decode(from)?;
        let mut decoder = Self { counts, ..Self::new(longest_bytes) };
        if let Some(newest) = Carry::decode(from)? {
            decoder.ring.begin(newest);
        }
        for sequence in decoder.ring.sequences() {
            match Carry::decode(from)? {
                (false, false) => {}
                (true, false) => decoder.ring.set_missing(sequence),
                (false, true) => decoder.ring.put(sequence, read(longest_bytes, from)?).then_some(())?,
                (true, true) => return None,
            }
        }
        for _ in 0..usize::decode(from).filter(|count| *count < COLUMNS)? {
            decoder.decode_equation(from)?;
        }
        decoder.recovered = VecDeque::decode(from).filter(|recovered| recovered.len() <= LENGTH as usize)?;
        Some(decoder)
    }
}

impl Decoder {
    fn decode_equation(&mut self, from: &mut Reader<'_>) -> Option<()> {
        let count = usize::decode(from).filter(|count| *count <= COLUMNS)?;
        let unknown: Vec<(u32, u8)> = (0..count).map(|_| Carry::decode(from)).collect::<Option<_>>()?;
        let is_missing = |sequence| self.ring.position(sequence) == Position::Held && self.ring.is_missing(sequence);
        unknown.iter().all(|(sequence, _)| is_missing(*sequence)).then_some(())?;
        let sum = read(self.ring.longest_bytes(), from)?;
        self.equations.insert(unknown.iter().copied(), [(sum, 1)].into_iter(), sum.len());
        Some(())
    }
}

fn write(bytes: &[u8], to: &mut Writer) {
    (bytes.len() as u16).encode(to);
    to.bytes(bytes);
}

fn read<'a>(longest_bytes: u16, from: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = u16::decode(from).filter(|length| *length <= longest_bytes)?;
    from.bytes(length.into())
}

#[cfg(test)]
mod tests;
