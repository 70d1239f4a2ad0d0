//! Loss recovery: what is lost on the way comes back out of repair packets, each a combination of earlier packets (a sliding-window random
//! linear code over GF(2^8), as in RFC 8681, with windows that end wherever the sender is).
//!
//! ```text
//! sender    DATA --keep--> encoder --window--> REPAIR          control: how much, over how many packets
//! receiver  DATA, REPAIR --> decoder --> what was lost         meter: what is lost, and how
//!           meter --> REPORT --> the sender's control
//! ```
//!
//! What is combined is inner packets, before they are sealed and after they were opened: nobody but the peer can put anything in.

mod coefficient;
mod control;
pub(crate) mod decoder;
pub(crate) mod encoder;
mod gf;
mod meter;
mod receive;
mod report;
mod send;
#[cfg(test)]
mod simulation;
mod slots;
mod table;

pub(crate) use send::{repair_header, send_repair_plain};

use crate::{
    FecPolicy, RecoveryStats,
    parcel::{Carry, Reader, Writer},
    wire::{FLAG_PROTECTED, Header},
};
use control::Control;
use decoder::Decoder;
use encoder::Encoder;
use meter::Meter;
use std::time::Instant;

/// The most packets that one repair covers.
pub(crate) const LONGEST_WINDOW: u16 = 512;
const ONE_PPM: u32 = 1_000_000;
const MEDIAN_PPM: u32 = 500_000;
const P99_PPM: u32 = 990_000;

/// Which packets a repair covers: so many up to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// The sequence number of the last one.
    pub(crate) last: u32,
    /// How many; from 1 to [`LONGEST_WINDOW`].
    pub(crate) count: u16,
}

impl Window {
    /// The sequence number of the first packet.
    pub(crate) const fn first(self) -> u32 {
        self.last.wrapping_sub(self.count as u32).wrapping_add(1)
    }

    /// Whether it covers the packet with this sequence number.
    #[cfg(test)]
    pub(crate) const fn covers(self, sequence: u32) -> bool {
        self.last.wrapping_sub(sequence) < self.count as u32
    }
}

/// A repair that is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    pub(crate) window: Window,
    /// Its length: that of the longest packet that it covers.
    pub(crate) bytes: usize,
}

/// Loss recovery with one peer, both ways.
pub(crate) struct Recovery {
    encoder: Encoder,
    decoder: Decoder,
    meter: Meter,
    control: Control,
    /// Both ends understand repairs.
    is_agreed: bool,
    /// The incarnation of the peer whose packets are known here.
    epoch: Option<u64>,
    /// Grows by the redundancy with each packet; a repair takes [`ONE_PPM`].
    credit_ppm: u32,
    /// Packets that were kept since the last repair.
    uncovered: u16,
    /// When the last packets get a repair, if nothing follows them.
    tail_at: Option<Instant>,
}

impl Recovery {
    pub(crate) fn new(policy: FecPolicy, longest_bytes: u16) -> Self {
        Self {
            encoder: Encoder::new(longest_bytes),
            decoder: Decoder::new(longest_bytes),
            meter: Meter::new(),
            control: Control::new(policy),
            is_agreed: false,
            epoch: None,
            credit_ppm: 0,
            uncovered: 0,
            tail_at: None,
        }
    }

    /// A session has begun, with this incarnation of the peer.
    pub(crate) fn begin(&mut self, is_agreed: bool, epoch: Option<u64>) {
        self.is_agreed = is_agreed;
        if self.epoch != epoch || !is_agreed {
            self.epoch = epoch;
            self.restart();
        }
    }

    /// Neither end's packets mean anything to the other any more.
    fn restart(&mut self) {
        self.encoder.forget();
        self.decoder.forget();
        self.meter.restart();
        self.control.restart();
        (self.credit_ppm, self.uncovered, self.tail_at) = (0, 0, None);
    }

    /// Itself, while packets to the peer are protected.
    pub(crate) fn protecting(&mut self) -> Option<&mut Self> {
        (self.is_agreed && self.control.protects()).then_some(self)
    }

    /// A protected packet leaves, in two pieces.
    pub(crate) fn keep(&mut self, sequence: u32, head: &[u8], payload: &[u8]) {
        self.encoder.keep(sequence, head, payload);
        self.credit_ppm = self.credit_ppm.saturating_add(self.control.redundancy_ppm());
        self.uncovered = self.uncovered.saturating_add(1);
    }

    /// The repair that follows the packet that was kept last. `room_bytes`: the longest that passes.
    pub(crate) fn due(&mut self, room_bytes: u16) -> Option<Due> {
        self.credit_ppm = self.credit_ppm.checked_sub(ONE_PPM)?;
        let window = self.encoder.window(self.control.window())?;
        self.repair(window, room_bytes)
    }

    fn repair(&mut self, window: Window, room_bytes: u16) -> Option<Due> {
        let bytes = self.encoder.longest_bytes(window);
        if !self.control.allows(bytes) {
            return None;
        }
        if bytes > room_bytes.into() {
            // The path has become narrower: what was sent before is beyond help.
            self.encoder.forget();
            return None;
        }
        self.uncovered = 0;
        self.control.repair_sent(bytes);
        Some(Due { window, bytes })
    }

    /// Writes a repair. `number`: what its datagram's header has as counter.
    pub(crate) fn combine(&self, due: Due, number: u32, to: &mut [u8]) {
        self.encoder.combine(due.window, number, to);
    }

    /// Packets have left. Returns whether a timer was set.
    pub(crate) fn said(&mut self, packets: usize, bytes: usize, now: Instant) -> bool {
        if !self.is_agreed {
            return false;
        }
        self.control.sent(u32::try_from(packets).unwrap_or(u32::MAX), bytes as u64, now);
        if self.uncovered == 0 || self.tail_at.is_some() {
            return false;
        }
        self.tail_at = self.control.tail_after().and_then(|after| now.checked_add(after));
        self.tail_at.is_some()
    }

    /// DATA has come.
    pub(crate) fn came(&mut self, header: &Header, packet: &[u8], now: Instant) -> Came {
        if !self.is_agreed {
            return Came { is_new: true, sets_timer: false };
        }
        let is_protected = header.flags & FLAG_PROTECTED != 0;
        let sets_timer = self.meter.take(header.sequence, header.timestamp, packet.len(), is_protected, now);
        let is_new = !is_protected || self.decoder.source(header.sequence, packet);
        Came { is_new, sets_timer }
    }

    /// The path has marked a packet that came.
    pub(crate) fn congestion_experienced(&mut self, now: Instant) {
        if self.is_agreed {
            self.meter.congestion_experienced(now);
        }
    }

    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.meter.next_wake().into_iter().chain(self.tail_at).min()
    }

    /// What is told of it; `None` while the peer has not agreed.
    pub(crate) fn stats(&self) -> Option<RecoveryStats> {
        let (received, sent) = (self.meter.counts(), self.control.counts());
        self.is_agreed.then(|| RecoveryStats {
            lost: received.lost_random.wrapping_add(received.lost_outage),
            lost_to_congestion: received.lost_congestion,
            recovered: received.recovered,
            unrecoverable: received.unrecoverable,
            bursts: received.runs,
            delay_median: received.recovery_delay(MEDIAN_PPM),
            delay_p99: received.recovery_delay(P99_PPM),
            sent_loss_ppm: sent.loss_ppm,
            redundancy_ppm: sent.redundancy_ppm,
            window: sent.window,
            repairs_sent: sent.repairs_sent,
            repair_bytes: sent.repair_bytes,
            overhead_ppm: sent.overhead_ppm,
        })
    }

    /// Everything but what it is told to be.
    pub(crate) fn save(&self, to: &mut Writer) {
        let Self { encoder, decoder, meter, control, is_agreed, epoch, credit_ppm, uncovered, tail_at } = self;
        encoder.encode(to);
        decoder.encode(to);
        meter.encode(to);
        control.encode(to);
        (*is_agreed, *epoch).encode(to);
        (*credit_ppm, *uncovered).encode(to);
        tail_at.encode(to);
    }

    /// Goes on where another carrier has stopped.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.encoder = Carry::decode(from)?;
        self.decoder = Carry::decode(from)?;
        self.meter = Carry::decode(from)?;
        let policy = self.control.policy();
        self.control = Carry::decode(from)?;
        self.control.set_policy(policy);
        (self.is_agreed, self.epoch) = Carry::decode(from)?;
        (self.credit_ppm, self.uncovered) = Carry::decode(from)?;
        self.tail_at = Carry::decode(from)?;
        Some(())
    }
}

/// What follows from a packet that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    /// False: it was there already, out of repairs.
    pub(crate) is_new: bool,
    /// A timer is due earlier than before.
    pub(crate) sets_timer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FecMode, wire::Type};

    #[test]
    fn windows_in_flight_go_on_with_the_next_carrier() {
        let policy = FecPolicy { mode: FecMode::Fixed { redundancy_ppm: 250_000, window: 64 }, ..FecPolicy::default() };
        let packet = |number: u32| {
            let mut packet = vec![number as u8; 100];
            packet[..12].copy_from_slice(&[0x45, 0, 0, 100, 0, 0, 0, 0, 64, 99, 0, 0]);
            packet
        };
        let carried = |recovery: &Recovery| {
            let mut writer = Writer::new();
            recovery.save(&mut writer);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            let mut next = Recovery::new(policy, 1440);
            next.restore(&mut reader).unwrap();
            assert!(reader.is_at_end());
            next
        };
        let now = Instant::now();
        let [mut sender, mut receiver] = [(); 2].map(|()| Recovery::new(policy, 1440));
        sender.begin(true, Some(1));
        receiver.begin(true, Some(1));
        let mut recovered = Vec::new();
        for number in 0..1000 {
            if number % 100 == 50 {
                (sender, receiver) = (carried(&sender), carried(&receiver));
            }
            let header = Header { sequence: number, flags: FLAG_PROTECTED, ..Header::new(Type::Data, 1) };
            sender.protecting().unwrap().keep(number, &packet(number), &[]);
            if number % 10 != 3 {
                assert!(receiver.came(&header, &packet(number), now).is_new);
            }
            if let Some(due) = sender.due(1440) {
                let mut repair = vec![0; due.bytes];
                sender.combine(due, number, &mut repair);
                receiver.decoder.repair(due.window, number, &repair);
            }
            while let Some((sequence, bytes)) = receiver.decoder.recovered() {
                assert_eq!(bytes, packet(sequence));
                recovered.push(sequence);
            }
        }
        assert_eq!(recovered, (0..100).map(|number| number * 10 + 3).collect::<Vec<_>>());
    }
}
