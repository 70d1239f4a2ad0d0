//! What comes from the network to a sealed tunnel. Nothing is believed before it is authenticated.

use super::{
    format::{Counter, Format, Incoming, Packet},
    send_keepalive,
};
use crate::{
    Checksum, Core, DropReason, Ecn, Sink, inner,
    peers::Slot,
    wire::{FLAG_PARTIAL_CHECKSUM, HEADER_BYTES, Header, Type},
};
use std::{net::SocketAddr, time::Instant};

impl Core {
    pub(crate) fn receive_sealed<'p>(
        &mut self,
        from: SocketAddr,
        ecn: Ecn,
        datagram: &'p mut [u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let format = self.way.format;
        match format.read(datagram)? {
            Incoming::Packet(packet) => self.receive_sealed_packet((from, ecn), packet, datagram, now, out),
            Incoming::Initiation(message) => self.receive_initiation(from, &message, now, out),
            Incoming::Answer(message) => self.receive_answer(from, &message, now, out),
            Incoming::Cookie { receiver, nonce, sealed } => {
                let (_, peer) = self.peers.with_index(receiver).ok_or(DropReason::UnknownIndex)?;
                let state = peer.sealed.as_mut().ok_or(DropReason::UnexpectedAnswer)?;
                let mac1 = state.last_mac1.as_ref().ok_or(DropReason::UnexpectedAnswer)?;
                let cookie = state.macs.open_cookie(sealed, nonce, mac1).ok_or(DropReason::BadTag)?;
                state.cookie = Some((cookie, now));
                if let Some(attempt) = state.attempt.as_mut().filter(|attempt| attempt.may_answer_cookie) {
                    attempt.may_answer_cookie = false;
                    attempt.answers_cookie = true;
                    attempt.next_at = now;
                }
                self.sessions_changed();
                Ok(())
            }
            Incoming::Unknown(index) => self.receive_doubt(from, index, now),
        }
    }

    /// Anybody could have said so: the session stays in use, and a handshake shows.
    fn receive_doubt(&mut self, from: SocketAddr, index: u32, now: Instant) -> Result<(), DropReason> {
        let doubted = self
            .peers
            .iter_mut()
            .filter(|peer| peer.endpoint == Some(from))
            .any(|peer| peer.sealed.as_mut().is_some_and(|state| state.doubt(index, now)));
        if !doubted {
            return Err(DropReason::UnexpectedAnswer);
        }
        self.sessions_changed();
        Ok(())
    }

    fn receive_sealed_packet<'p>(
        &mut self,
        (from, ecn): (SocketAddr, Ecn),
        Packet { counter, header: about }: Packet,
        datagram: &'p mut [u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let (way, receiver) = (self.way, about.index);
        let Some((slot, peer)) = self.peers.with_index(receiver) else {
            return Err(self.answer_unknown_sealed(from, receiver, now, out));
        };
        let state = peer.sealed.as_mut().ok_or(DropReason::UnknownIndex)?;
        let keys = state.with_index(receiver).ok_or(DropReason::UnknownIndex)?;
        if !keys.may_receive(now) {
            return Err(DropReason::TooOldKey);
        }
        let counter = match counter {
            Counter::Low(low) => keys.whole_counter(low),
            Counter::Whole(whole) => whole,
        };
        if !keys.is_new(counter) {
            keys.repeat(counter);
            return Err(DropReason::Replayed);
        }
        let (header, sealed) = datagram.split_first_chunk_mut::<HEADER_BYTES>().ok_or(DropReason::Runt)?;
        let authenticated = if way.format == Format::Adit { &header[..] } else { &[] };
        let length = keys.open(counter, authenticated, sealed).ok_or(DropReason::BadTag)?;
        let is_newest = keys.mark(counter);
        let packet = sealed.get_mut(..length).unwrap_or_default();
        let is_data = !packet.is_empty() && about.kind == Type::Data;
        let timer = state.heard(is_data, now);
        let promoted = state.promote(receiver, now);
        peer.last_rx = Some(now);
        let is_awake = peer.vitals.live.heard(is_data, now);
        if is_newest && peer.endpoint != Some(from) {
            tracing::debug!(peer = %peer.config.id, endpoint = %from, "the peer has moved");
            peer.endpoint = Some(from);
        }
        if let Some(given_up) = promoted {
            peer.handshakes = peer.handshakes.wrapping_add(1);
            given_up.into_iter().for_each(|index| self.peers.release_index(index));
            self.session_begun(slot, now, out);
        }
        if timer | is_awake {
            self.wake_by_timers(slot);
        }
        let body = datagram.get(HEADER_BYTES..HEADER_BYTES.saturating_add(length)).unwrap_or_default();
        match about.kind {
            Type::Probe => return self.receive_probe(slot, body, datagram.len(), now, out),
            Type::Repair => {
                self.take_mark_of_repair(slot, ecn, now);
                return self.receive_repair(slot, &about, body, now, out);
            }
            Type::Report => return self.receive_report(slot, body, now, out),
            _ if is_data => {}
            _ => return Ok(()),
        }
        self.note_data(slot, &about, body, now)?;
        let delivered = self.deliver(slot, (about.flags, ecn), datagram, length, now, out);
        self.deliver_recovered(slot, now, out);
        delivered
    }

    /// An authentic packet enters the TUN, if it is one and may come from there.
    fn deliver<'p>(
        &mut self,
        slot: Slot,
        (flags, ecn): (u8, Ecn),
        datagram: &'p mut [u8],
        length: usize,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let end = HEADER_BYTES.saturating_add(length);
        let packet = datagram.get_mut(HEADER_BYTES..end).unwrap_or_default();
        let length = match self.way.format {
            Format::Adit => length,
            // What is behind it is padding.
            Format::WireGuard => {
                inner::length(packet).filter(|own| *own <= length).ok_or(DropReason::MalformedInner)?
            }
        };
        let packet = packet.get_mut(..length).unwrap_or_default();
        let addresses = inner::addresses(packet).ok_or(DropReason::MalformedInner)?;
        if self.peers.behind(addresses.source) != Some(slot) {
            return Err(DropReason::SourceNotAllowed);
        }
        let checksum = match (self.way.format, flags & FLAG_PARTIAL_CHECKSUM) {
            (Format::WireGuard, _) if inner::make_partial(packet) => Checksum::Partial,
            (Format::WireGuard, _) | (Format::Adit, 0) => Checksum::Complete,
            (Format::Adit, _) if inner::Transport::of(packet).is_some() => Checksum::Partial,
            (Format::Adit, _) => return Err(DropReason::BadChecksumOffload),
        };
        self.take_mark(slot, ecn, packet, now)?;
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.rx.count(length);
            self.paths.clamp(peer.path.room_bytes, packet, checksum);
        }
        if let Some(datagram) = datagram.get_mut(..HEADER_BYTES.saturating_add(length)) {
            out.tun(datagram, checksum);
        }
        Ok(())
    }

    /// What a sealed peer's timers ask for.
    pub(crate) fn tick_sealed<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        let way = self.way;
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Some(state) = peer.sealed.as_mut() else { return };
        let expired = state.expire(now);
        let due = state.due(now);
        if due.acknowledge {
            send_keepalive(peer, way, now, out);
        }
        expired.into_iter().for_each(|index| self.peers.release_index(index));
        if due.initiate {
            self.initiate(slot, now, out);
        }
    }

    /// Tells a peer, not too often, that an index is not ours. Strangers are told nothing; nor is anybody in WireGuard's format.
    fn answer_unknown_sealed<'p>(
        &mut self,
        from: SocketAddr,
        index: u32,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> DropReason {
        // The budget first: it also bounds how often all peers are looked at.
        if self.way.format == Format::Adit
            && self.unknown_budget.take(now)
            && self.peers.iter().any(|peer| peer.endpoint == Some(from))
        {
            out.network(from, &Header::new(Type::Unknown, index).encode(), &[]);
        }
        DropReason::UnknownIndex
    }
}
