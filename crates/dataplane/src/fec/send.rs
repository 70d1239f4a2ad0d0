//! Repairs and reports on their way to the peer.

use super::{Due, Recovery};
use crate::{
    Core, Sink,
    peer::Peer,
    peers::Slot,
    probing::send_body,
    sealed,
    segment::put,
    session::Way,
    wire::{HEADER_BYTES, Header, Type},
};
use std::time::{Duration, Instant};

/// Sends a repair in a plain peer's session.
pub(crate) fn send_repair_plain<'p>(peer: &mut Peer, due: Due, out: &mut impl Sink<'p>) {
    let (Some(to), Some(session)) = (peer.endpoint, peer.usable_session()) else { return };
    let header = repair_header(due, peer.next_counter(), session.index);
    let Some(recovery) = peer.recovery.as_deref() else { return };
    out.datagram(to, HEADER_BYTES.saturating_add(due.bytes), |place| {
        put(place, 0, &header.encode());
        recovery.combine(due, header.counter, place.get_mut(HEADER_BYTES..).unwrap_or_default());
        true
    });
}

/// The header of a repair.
pub(crate) const fn repair_header(due: Due, counter: u32, index: u32) -> Header {
    let (timestamp, sequence) = (due.window.count, due.window.last);
    Header { counter, timestamp, sequence, ..Header::new(Type::Repair, index) }
}

/// Sends a repair in whatever session the peer has.
fn send_repair<'p>(peer: &mut Peer, due: Due, way: Way, now: Instant, out: &mut impl Sink<'p>) {
    if peer.sealed.is_some() {
        sealed::send_repair(peer, due, way, now, out);
    } else {
        send_repair_plain(peer, due, out);
    }
}

impl Recovery {
    /// Nothing followed the last packets: how many repairs they get. `None`: it is not yet time, or something did follow.
    fn tail(&mut self, last_tx: Option<Instant>, now: Instant) -> u16 {
        if self.tail_at.is_none_or(|at| at > now) {
            return 0;
        }
        self.tail_at = None;
        let Some(after) = self.control.tail_after().filter(|_| self.uncovered > 0) else { return 0 };
        let silent_at = last_tx.and_then(|at| at.checked_add(after)).unwrap_or(now);
        if silent_at > now {
            self.tail_at = Some(silent_at);
            return 0;
        }
        self.control.tail(self.uncovered)
    }
}

impl Core {
    /// What loss recovery with a peer asks for.
    pub(crate) fn tick_recovery<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        let way = self.way;
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let round_trip = peer.round_trip();
        let room_bytes = peer.path.room_bytes;
        let Some(recovery) = peer.recovery.as_deref_mut().filter(|recovery| recovery.is_due(now)) else { return };
        let report = recovery.meter.due(round_trip, now);
        let repairs = recovery.tail(peer.last_tx, now);
        for _ in 0..repairs {
            let Some(recovery) = peer.recovery.as_deref_mut() else { return };
            let window = recovery.encoder.window(recovery.control.window());
            let Some(due) = window.and_then(|window| recovery.repair(window, room_bytes)) else { break };
            send_repair(peer, due, way, now, out);
        }
        if let Some(report) = report {
            send_body(peer, Type::Report, &report.encode(), 0, way, now, out);
        }
    }

    /// Repairs that the peer has asked for: so many, over the packets from this one on.
    pub(super) fn send_asked_for<'p>(
        &mut self,
        slot: Slot,
        (first, count): (u32, u16),
        now: Instant,
        out: &mut impl Sink<'p>,
    ) {
        let way = self.way;
        let Some(peer) = self.peers.get_mut(slot) else { return };
        for _ in 0..count {
            let room_bytes = peer.path.room_bytes;
            let Some(recovery) = peer.recovery.as_deref_mut() else { return };
            let window = recovery.encoder.window_from(first);
            let Some(due) = window.and_then(|window| recovery.repair(window, room_bytes)) else { return };
            send_repair(peer, due, way, now, out);
        }
    }
}

impl Recovery {
    fn is_due(&self, now: Instant) -> bool {
        self.next_wake().is_some_and(|at| at <= now)
    }
}

impl Peer {
    /// Packets have left for it. Returns whether a timer was set.
    pub(crate) fn recovers(&mut self, packets: usize, bytes: usize, now: Instant) -> bool {
        self.recovery.as_deref_mut().is_some_and(|recovery| recovery.said(packets, bytes, now))
    }

    /// The smoothed round trip, as far as probes have told.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.vitals.live.trips.smooth().map(|(smooth, _)| smooth)
    }
}
