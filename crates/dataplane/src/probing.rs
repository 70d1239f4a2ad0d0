//! The exchange of [probes](crate::probe): requests leave, and are answered.

use crate::{
    Core, DropReason, Sink,
    peer::Peer,
    peers::Slot,
    pmtu::is_of_search,
    probe::{BODY_BYTES, Kind, Probe},
    sealed,
    session::Way,
    wire::{HEADER_BYTES, Header, Type},
};
use std::{net::SocketAddr, time::Instant};

impl Core {
    /// A probe of an established peer, whose datagram had this length.
    pub(crate) fn receive_probe<'p>(
        &mut self,
        slot: Slot,
        payload: &[u8],
        datagram_bytes: usize,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let probe = Probe::decode(payload)?;
        let way = self.way;
        let is_asked_for = self.probe_came(slot, &probe, now);
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        match probe.kind {
            Kind::Request => {
                let length = u16::try_from(datagram_bytes).unwrap_or(u16::MAX);
                let path_mtu_bytes = peer.vitals.path_mtu_bytes.unwrap_or_default();
                let answer = Probe { kind: Kind::Answer(length), counts: peer.counts(now), path_mtu_bytes, ..probe };
                send_probe(peer, &answer, BODY_BYTES, way, now, out);
                Ok(())
            }
            Kind::Answer(length) if is_of_search(probe.number) => self.path_answered(slot, &probe, length, now),
            Kind::Answer(_) if is_asked_for => Ok(()),
            Kind::Answer(_) => Err(DropReason::UnexpectedAnswer),
        }
    }
}

/// Sends a probe in the peer's session, padded to a payload of this length. False: there is no session to send it in.
pub(crate) fn send_probe<'p>(
    peer: &mut Peer,
    probe: &Probe,
    length: usize,
    way: Way,
    now: Instant,
    out: &mut impl Sink<'p>,
) -> bool {
    send_body(peer, Type::Probe, &probe.encode(), length, way, now, out)
}

/// Sends what one end tells the other in the peer's session, padded to a payload of this length. False: there is no session.
pub(crate) fn send_body<'p>(
    peer: &mut Peer,
    kind: Type,
    body: &[u8],
    length: usize,
    way: Way,
    now: Instant,
    out: &mut impl Sink<'p>,
) -> bool {
    if peer.sealed.is_some() {
        return sealed::send_body(peer, kind, body, length, way, now, out);
    }
    let (Some(to), Some(session)) = (peer.endpoint, peer.usable_session()) else { return false };
    let header = Header { counter: peer.next_counter(), ..Header::new(kind, session.index) };
    peer.last_tx = Some(now);
    send_padded(to, &header, body, length, out);
    true
}

fn send_padded<'p>(to: SocketAddr, header: &Header, body: &[u8], length: usize, out: &mut impl Sink<'p>) {
    let mut datagram = vec![0; HEADER_BYTES.saturating_add(length.max(body.len()))];
    let head = header.encode();
    for (place, byte) in datagram.iter_mut().zip(head.iter().chain(body)) {
        *place = *byte;
    }
    out.network(to, &datagram, &[]);
}
