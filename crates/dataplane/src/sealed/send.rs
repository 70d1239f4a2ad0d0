//! The way of packets into a session.

use super::{
    format::{Format, WG_PADDING_BYTES},
    keypair::{Keypair, TAG_BYTES},
};
use crate::{
    Ecn, Sink,
    fec::{Due, Recovery, repair_header},
    inner::complete_checksum,
    peer::{Peer, Traffic},
    segment::{Checksum, Several, put},
    session::{TIMESTAMP_SHIFT, Way},
    wire::{FLAG_PARTIAL_CHECKSUM, FLAG_PROTECTED, HEADER_BYTES, Header, Type},
};
use std::{net::SocketAddr, time::Instant};

/// Sends the packets that `packet` stands for. False: there is no session to send them in.
pub(crate) fn send_packets<'p>(
    peer: &mut Peer,
    mut several: Several,
    packet: &[u8],
    way: Way,
    now: Instant,
    out: &mut impl Sink<'p>,
) -> bool {
    let Some((to, mut sealer)) = Sealer::open(peer, way, now) else { return false };
    if way.format == Format::WireGuard {
        several.checksum = Checksum::Complete;
    }
    let ecn = sealer.ecn(packet);
    for segment in several.segments() {
        let payload = packet.get(segment.payload.clone()).unwrap_or_default();
        let length = several.header_bytes().saturating_add(payload.len());
        sealer.send((to, ecn), length, several.checksum, out, |place| {
            let Some((head, rest)) = place.split_at_mut_checked(several.header_bytes()) else { return };
            several.write_head(packet, &segment, head);
            rest.copy_from_slice(payload);
        });
    }
    true
}

/// Sends one packet. False: there is no session to send it in.
pub(crate) fn send_one<'p>(
    peer: &mut Peer,
    packet: &[u8],
    checksum: Checksum,
    way: Way,
    now: Instant,
    out: &mut impl Sink<'p>,
) -> bool {
    let Some((to, mut sealer)) = Sealer::open(peer, way, now) else { return false };
    let completes = way.format == Format::WireGuard && checksum == Checksum::Partial;
    let checksum = if completes { Checksum::Complete } else { checksum };
    let ecn = sealer.ecn(packet);
    sealer.send((to, ecn), packet.len(), checksum, out, |place| {
        place.copy_from_slice(packet);
        if completes {
            // It was found to be possible when it was called partial.
            let _ = complete_checksum(place);
        }
    });
    true
}

/// Sends a packet without content.
pub(crate) fn send_keepalive<'p>(peer: &mut Peer, way: Way, now: Instant, out: &mut impl Sink<'p>) -> bool {
    if let Some(state) = &mut peer.sealed {
        state.said(false, now);
    }
    let Some((to, mut sealer)) = Sealer::open(peer, way, now) else { return false };
    sealer.send((to, Ecn::NotEct), 0, Checksum::Complete, out, |_| {});
    true
}

/// Sends what one end tells the other, padded to a payload of this length. False: there is no session to send it in.
pub(crate) fn send_body<'p>(
    peer: &mut Peer,
    kind: Type,
    body: &[u8],
    length: usize,
    way: Way,
    now: Instant,
    out: &mut impl Sink<'p>,
) -> bool {
    if let Some(state) = &mut peer.sealed {
        state.said(false, now);
    }
    let Some((to, mut sealer)) = Sealer::open(peer, way, now) else { return false };
    sealer.send_body(to, kind, body, length, out);
    true
}

/// Sends a repair, if there is a session to send it in.
pub(crate) fn send_repair<'p>(peer: &mut Peer, due: Due, way: Way, now: Instant, out: &mut impl Sink<'p>) {
    if let Some((to, mut sealer)) = Sealer::open(peer, way, now) {
        sealer.send_repair(to, due, out);
    }
}

/// A peer's session at work.
struct Sealer<'a> {
    keys: &'a mut Keypair,
    peer: Counted<'a>,
    /// Of a peer in Adit's format.
    recovery: Option<&'a mut Recovery>,
    way: Way,
    clock: u16,
}

/// What of a peer is counted.
struct Counted<'a> {
    sequence: &'a mut u32,
    tx: &'a mut Traffic,
    /// The longest packet that passes.
    room_bytes: u16,
}

impl<'a> Sealer<'a> {
    fn open(peer: &'a mut Peer, way: Way, now: Instant) -> Option<(SocketAddr, Self)> {
        let to = peer.endpoint?;
        let keys = peer.sealed.as_mut()?.usable(now)?;
        peer.last_tx = Some(now);
        let clock = (now.saturating_duration_since(way.start).as_micros() >> TIMESTAMP_SHIFT) as u16;
        let recovery = peer.recovery.as_deref_mut();
        let peer = Counted { sequence: &mut peer.sequence, tx: &mut peer.tx, room_bytes: peer.path.room_bytes };
        Some((to, Self { keys, peer, recovery, way, clock }))
    }

    /// What the outer header of a packet says.
    const fn ecn(&self, packet: &[u8]) -> Ecn {
        match self.way.format {
            Format::Adit => Ecn::of_outer(packet, self.keys.capabilities),
            Format::WireGuard => Ecn::of(packet),
        }
    }

    /// Sends `body`, followed by as many zeros as make it a payload of this length.
    fn send_body<'p>(&mut self, to: SocketAddr, kind: Type, body: &[u8], length: usize, out: &mut impl Sink<'p>) {
        let counter = self.keys.next_counter();
        let header = Header { counter: counter as u32, ..Header::new(kind, self.keys.their_index) }.encode();
        let length = length.max(body.len());
        seal(self.keys, self.way.format, to, (counter, &header), length, out, |place| put(place, 0, body));
    }

    fn send_repair<'p>(&mut self, to: SocketAddr, due: Due, out: &mut impl Sink<'p>) {
        let Some(recovery) = self.recovery.as_deref() else { return };
        let counter = self.keys.next_counter();
        let header = repair_header(due, counter as u32, self.keys.their_index).encode();
        seal(self.keys, self.way.format, to, (counter, &header), due.bytes, out, |place| {
            recovery.combine(due, counter as u32, place);
        });
    }

    /// Sends a packet of this length and with this mark, which `write` puts into its place.
    fn send<'p>(
        &mut self,
        (to, ecn): (SocketAddr, Ecn),
        length: usize,
        checksum: Checksum,
        out: &mut impl Sink<'p>,
        write: impl FnOnce(&mut [u8]),
    ) {
        let Self { keys, peer, recovery, way, clock } = self;
        let mut protecting = recovery.as_deref_mut().and_then(Recovery::protecting).filter(|_| length > 0);
        let sequence = *peer.sequence;
        let counter = keys.next_counter();
        let padding = padding_bytes(*way, length);
        let header = match way.format {
            Format::WireGuard => Format::wireguard_header(keys.their_index, counter),
            Format::Adit => {
                let mut header = Header { counter: counter as u32, ..Header::new(Type::Data, keys.their_index) };
                if length > 0 {
                    if checksum == Checksum::Partial {
                        header.flags = FLAG_PARTIAL_CHECKSUM;
                    }
                    if protecting.is_some() {
                        header.flags |= FLAG_PROTECTED;
                    }
                    header.timestamp = *clock;
                    header.sequence = sequence;
                    *peer.sequence = sequence.wrapping_add(1);
                }
                header.encode()
            }
        };
        if length > 0 {
            peer.tx.count(length);
        }
        let room_bytes = peer.room_bytes;
        out.ecn(ecn);
        seal(keys, way.format, to, (counter, &header), length.saturating_add(padding), out, |place| {
            if let Some((packet, padding)) = place.split_at_mut_checked(length) {
                write(packet);
                padding.fill(0);
                if let Some(recovery) = &mut protecting {
                    recovery.keep(sequence, packet, &[]);
                }
            }
        });
        if let Some(due) = protecting.and_then(|recovery| recovery.due(room_bytes)) {
            out.ecn(ecn);
            self.send_repair(to, due, out);
        }
    }
}

/// Sends a datagram with this number and header and a payload of this length, which `write` puts into its place.
fn seal<'p>(
    keys: &Keypair,
    format: Format,
    to: SocketAddr,
    (counter, header): (u64, &[u8; HEADER_BYTES]),
    length: usize,
    out: &mut impl Sink<'p>,
    write: impl FnOnce(&mut [u8]),
) {
    let total = [HEADER_BYTES, length, TAG_BYTES].into_iter().fold(0, usize::saturating_add);
    out.datagram(to, total, |place| {
        let Some(payload) = place.get_mut(HEADER_BYTES..HEADER_BYTES.saturating_add(length)) else { return false };
        write(payload);
        put(place, 0, header);
        let authenticated = if format == Format::Adit { &header[..] } else { &[] };
        keys.seal(counter, authenticated, place).is_some()
    });
}

/// WireGuard's: up to the next multiple, but not above the tunnel's MTU.
fn padding_bytes(way: Way, length: usize) -> usize {
    match way.format {
        Format::Adit => 0,
        Format::WireGuard => {
            let padded = length.next_multiple_of(WG_PADDING_BYTES).min(usize::from(way.mtu_bytes).max(length));
            padded.saturating_sub(length)
        }
    }
}

/// A datagram of these bytes, whatever they are.
#[cfg(feature = "fuzzing")]
pub(crate) fn seal_anything(peer: &mut Peer, bytes: &[u8], way: Way, now: Instant) -> Option<Vec<u8>> {
    struct Kept(Option<Vec<u8>>);
    impl<'p> Sink<'p> for Kept {
        fn network(&mut self, _: SocketAddr, _: &[u8], _: &'p [u8]) {}
        fn datagram(&mut self, _: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool) {
            let mut place = vec![0; length];
            self.0 = write(&mut place).then_some(place);
        }
        fn tun_now(&mut self, _: &mut [u8], _: Checksum) {}
    }
    let mut kept = Kept(None);
    send_one(peer, bytes, Checksum::Complete, way, now, &mut kept);
    kept.0
}
