//! The way of packets into a session.

use super::{
    format::{Format, WG_PADDING_BYTES},
    keypair::{Keypair, TAG_BYTES},
};
use crate::{
    Sink,
    inner::complete_checksum,
    peer::{Peer, Traffic},
    probe,
    segment::{Checksum, Several, put},
    session::{TIMESTAMP_SHIFT, Way},
    wire::{FLAG_PARTIAL_CHECKSUM, HEADER_BYTES, Header, Type},
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
    for segment in several.segments() {
        let payload = packet.get(segment.payload.clone()).unwrap_or_default();
        let length = several.header_bytes().saturating_add(payload.len());
        sealer.send(to, length, several.checksum, out, |place| {
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
    sealer.send(to, packet.len(), checksum, out, |place| {
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
    sealer.send(to, 0, Checksum::Complete, out, |_| {});
    true
}

/// Sends a probe whose payload has this length. False: there is no session to send it in.
pub(crate) fn send_probe<'p>(
    peer: &mut Peer,
    body: &[u8; probe::BODY_BYTES],
    length: usize,
    way: Way,
    now: Instant,
    out: &mut impl Sink<'p>,
) -> bool {
    if let Some(state) = &mut peer.sealed {
        state.said(false, now);
    }
    let Some((to, mut sealer)) = Sealer::open(peer, way, now) else { return false };
    sealer.send_probe(to, body, length, out);
    true
}

/// A peer's session at work.
struct Sealer<'a> {
    keys: &'a mut Keypair,
    peer: Counted<'a>,
    way: Way,
    clock: u16,
}

/// What of a peer is counted.
struct Counted<'a> {
    sequence: &'a mut u32,
    tx: &'a mut Traffic,
}

impl<'a> Sealer<'a> {
    fn open(peer: &'a mut Peer, way: Way, now: Instant) -> Option<(SocketAddr, Self)> {
        let to = peer.endpoint?;
        let keys = peer.sealed.as_mut()?.usable(now)?;
        peer.last_tx = Some(now);
        let clock = (now.saturating_duration_since(way.start).as_micros() >> TIMESTAMP_SHIFT) as u16;
        let peer = Counted { sequence: &mut peer.sequence, tx: &mut peer.tx };
        Some((to, Self { keys, peer, way, clock }))
    }

    /// Sends a probe: `body`, followed by as many zeros as make it a payload of this length.
    fn send_probe<'p>(
        &mut self,
        to: SocketAddr,
        body: &[u8; probe::BODY_BYTES],
        length: usize,
        out: &mut impl Sink<'p>,
    ) {
        let counter = self.keys.next_counter();
        let header = Header { counter: counter as u32, ..Header::new(Type::Probe, self.keys.their_index) }.encode();
        let length = length.max(body.len());
        self.seal(to, counter, &header, length, out, |place| put(place, 0, body));
    }

    /// Sends a packet of this length, which `write` puts into its place.
    fn send<'p>(
        &mut self,
        to: SocketAddr,
        length: usize,
        checksum: Checksum,
        out: &mut impl Sink<'p>,
        write: impl FnOnce(&mut [u8]),
    ) {
        let Self { keys, peer, way, clock } = self;
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
                    header.timestamp = *clock;
                    header.sequence = *peer.sequence;
                    *peer.sequence = peer.sequence.wrapping_add(1);
                }
                header.encode()
            }
        };
        if length > 0 {
            peer.tx.count(length);
        }
        self.seal(to, counter, &header, length.saturating_add(padding), out, |place| {
            if let Some((packet, padding)) = place.split_at_mut_checked(length) {
                write(packet);
                padding.fill(0);
            }
        });
    }

    /// Sends a datagram with this header and a payload of this length, which `write` puts into its place.
    fn seal<'p>(
        &self,
        to: SocketAddr,
        counter: u64,
        header: &[u8; HEADER_BYTES],
        length: usize,
        out: &mut impl Sink<'p>,
        write: impl FnOnce(&mut [u8]),
    ) {
        let total = [HEADER_BYTES, length, TAG_BYTES].into_iter().fold(0, usize::saturating_add);
        out.datagram(to, total, |place| {
            let Some(payload) = place.get_mut(HEADER_BYTES..HEADER_BYTES.saturating_add(length)) else { return false };
            write(payload);
            put(place, 0, header);
            let authenticated = if self.way.format == Format::Adit { &header[..] } else { &[] };
            self.keys.seal(counter, authenticated, place).is_some()
        });
    }
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
        fn tun(&mut self, _: &'p mut [u8], _: Checksum) {}
    }
    let mut kept = Kept(None);
    send_one(peer, bytes, Checksum::Complete, way, now, &mut kept);
    kept.0
}
