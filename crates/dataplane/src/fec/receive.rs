//! Repairs and reports from the peer.

use super::{Window, decoder::Outcome, report::Report};
use crate::{
    Checksum, Core, DropReason, Sink, inner,
    peers::Slot,
    segment::put,
    session::TIMESTAMP_SHIFT,
    wire::{HEADER_BYTES, Header},
};
use std::time::Instant;

impl Core {
    /// An authentic repair.
    pub(crate) fn receive_repair<'p>(
        &mut self,
        slot: Slot,
        header: &Header,
        payload: &[u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let recovery = self.recovery(slot)?;
        let window = Window { last: header.sequence, count: header.timestamp };
        let outcome = recovery.decoder.repair(window, header.counter, payload);
        if outcome == Outcome::Malformed {
            return Err(DropReason::BadRepair);
        }
        if outcome != Outcome::TooOld {
            recovery.meter.covered(window.last, now);
        }
        recovery.meter.decoder(recovery.decoder.deficit(), recovery.decoder.counts().given_up);
        self.deliver_recovered(slot, now, out);
        self.wake_by_timers(slot);
        Ok(())
    }

    /// An authentic report.
    pub(crate) fn receive_report<'p>(
        &mut self,
        slot: Slot,
        payload: &[u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let report = Report::decode(payload)?;
        let clock = (now.saturating_duration_since(self.way.start).as_micros() >> TIMESTAMP_SHIFT) as u16;
        let probed = self.peers.get_mut(slot).and_then(|peer| peer.round_trip());
        let recovery = self.recovery(slot)?;
        recovery.control.set_round_trip(probed.or_else(|| report.round_trip(clock)));
        recovery.control.report(&report, now);
        if !recovery.control.protects() {
            recovery.encoder.forget();
        }
        if let Some(asked_for) = recovery.control.reactive(&report, now) {
            self.send_asked_for(slot, asked_for, now, out);
        }
        Ok(())
    }

    /// Authentic DATA.
    ///
    /// # Errors
    /// [`DropReason::Recovered`].
    pub(crate) fn note_data(
        &mut self,
        slot: Slot,
        header: &Header,
        packet: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(peer) = self.peers.get_mut(slot) else { return Ok(()) };
        let Some(recovery) = peer.recovery.as_deref_mut() else { return Ok(()) };
        let came = recovery.came(header, packet, now);
        if came.sets_timer {
            self.wake_by_timers(slot);
        }
        if came.is_new { Ok(()) } else { Err(DropReason::Recovered) }
    }

    fn recovery(&mut self, slot: Slot) -> Result<&mut super::Recovery, DropReason> {
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        peer.recovery.as_deref_mut().filter(|recovery| recovery.is_agreed).ok_or(DropReason::UnknownType)
    }

    /// Whatever has been recovered enters the TUN, if it may come from there.
    pub(crate) fn deliver_recovered<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        loop {
            let Some(peer) = self.peers.get_mut(slot) else { return };
            let Some(recovery) = peer.recovery.as_deref_mut() else { return };
            let Some((sequence, packet)) = recovery.decoder.recovered() else { return };
            recovery.meter.recovered(sequence, now);
            let mut place = vec![0; HEADER_BYTES.saturating_add(packet.len())];
            put(&mut place, HEADER_BYTES, packet);
            if let Err(reason) = self.deliver_one(slot, &mut place, out) {
                self.drops.count(reason);
            }
        }
    }

    fn deliver_one<'p>(&mut self, slot: Slot, place: &mut [u8], out: &mut impl Sink<'p>) -> Result<(), DropReason> {
        let packet = place.get_mut(HEADER_BYTES..).unwrap_or_default();
        let addresses = inner::addresses(packet).ok_or(DropReason::MalformedInner)?;
        if self.peers.behind(addresses.source) != Some(slot) {
            return Err(DropReason::SourceNotAllowed);
        }
        // Whether the sender had left the checksum to be completed is not known any more: it is worked out anew either way.
        let checksum = if inner::forget_checksum(packet) { Checksum::Partial } else { Checksum::Complete };
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        peer.rx.count(packet.len());
        self.paths.clamp(peer.path.room_bytes, packet, checksum);
        out.tun_now(place, checksum);
        Ok(())
    }
}
