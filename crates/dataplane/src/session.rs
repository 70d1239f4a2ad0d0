//! Sessions: how they begin, how they are renewed, how packets leave in them.

use crate::{
    Core, DropReason, Ecn, Result, Sink, fec,
    handshake::{Cookie, Message, Offer},
    peer::{Hello, Peer, Session},
    random::Random,
    sealed::{self, format::Format, mac::is_same},
    segment::{Checksum, LONGEST_HEADERS_BYTES, Several, put},
    wire::{FLAG_PARTIAL_CHECKSUM, FLAG_PROTECTED, HEADER_BYTES, Header, Type, VERSION},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A session that heard its peer this recently is not given up for an older HELLO.
const ALIVE: Duration = Duration::from_secs(3);
/// The unit of the header's timestamp, as a power of two of microseconds.
pub(crate) const TIMESTAMP_SHIFT: u32 = 6;

/// What is the same for every packet that leaves a tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) format: Format,
    pub(crate) mtu_bytes: u16,
    /// What this end can do.
    pub(crate) capabilities: u32,
    pub(crate) start: Instant,
}

impl Core {
    pub(crate) fn receive_handshake<'p>(
        &mut self,
        from: SocketAddr,
        header: &Header,
        body: &[u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let message = Message::decode(body)?;
        let Some((_, peer)) = self.peers.with_endpoint(from) else {
            return Err(DropReason::WrongSource);
        };
        if !matches!(message, Message::Hello(..)) && header.index != peer.index {
            return Err(DropReason::UnknownIndex);
        }
        match message {
            Message::Hello(offer, cookie) => self.receive_hello(from, &offer, &cookie, now, out),
            Message::Cookie(nonce, cookie) => self.receive_cookie(from, nonce, cookie, now, out),
            Message::Welcome(offer) => self.receive_welcome(from, &offer, now, out),
        }
    }

    /// Believed only from the peer's endpoint and for the index in use. The session stays until the
    /// handshake that begins now is answered; meanwhile packets wait.
    pub(crate) fn receive_unknown(&mut self, from: SocketAddr, index: u32, now: Instant) -> Result<(), DropReason> {
        let Some((_, peer)) = self.peers.with_endpoint(from) else {
            return Err(DropReason::WrongSource);
        };
        match &mut peer.session {
            Some(session) if session.index == index => session.suspect = true,
            _ => return Err(DropReason::UnexpectedAnswer),
        }
        if peer.hello.is_none() {
            begin_hello(peer, &mut self.random, now);
        }
        self.sessions_changed();
        Ok(())
    }

    fn receive_hello<'p>(
        &mut self,
        from: SocketAddr,
        offer: &Offer,
        cookie: &Cookie,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let Some((_, peer)) = self.peers.with_endpoint(from) else {
            return Err(DropReason::WrongSource);
        };
        if !(offer.min_version..=offer.max_version).contains(&VERSION) {
            return Err(DropReason::UnknownVersion);
        }
        let without_cookie = *cookie == [0; 16];
        if without_cookie || !self.cookies.is_shown(from, &offer.for_cookie(), now, |known| is_same(known, cookie)) {
            let cookie = self.cookies.make(from, &offer.for_cookie(), now);
            send_message(peer, offer.index, &Message::Cookie(offer.nonce, cookie), now, out);
            return if without_cookie { Ok(()) } else { Err(DropReason::BadCookie) };
        }
        let repeated = match peer.session {
            Some(session) if (offer.epoch, offer.nonce) == (session.epoch, session.nonce) => {
                if session.confirmed {
                    return Err(DropReason::ReplayedHello);
                }
                true
            }
            Some(session) if peer.heard_within(ALIVE, now) => {
                if offer.epoch < session.epoch {
                    return Err(DropReason::StaleEpoch);
                }
                if offer.epoch == session.epoch && offer.nonce < session.nonce {
                    return Err(DropReason::ReplayedHello);
                }
                false
            }
            _ => false,
        };
        let welcome = Message::Welcome(Offer {
            min_version: VERSION,
            max_version: VERSION,
            index: peer.index,
            epoch: self.epoch,
            capabilities: self.way.capabilities & offer.capabilities,
            mtu_bytes: self.way.mtu_bytes,
            nonce: offer.nonce,
        });
        send_message(peer, offer.index, &welcome, now, out);
        if !repeated {
            let session = Session {
                index: offer.index,
                epoch: offer.epoch,
                mtu_bytes: offer.mtu_bytes,
                capabilities: self.way.capabilities & offer.capabilities,
                nonce: offer.nonce,
                confirmed: false,
                suspect: false,
            };
            self.establish(from, session, now, out);
        }
        Ok(())
    }

    fn receive_cookie<'p>(
        &mut self,
        from: SocketAddr,
        nonce: u64,
        cookie: Cookie,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let (way, epoch) = (self.way, self.epoch);
        let Some((_, peer)) = self.peers.with_endpoint(from) else {
            return Err(DropReason::WrongSource);
        };
        if nonce != peer.last_nonce {
            return Err(DropReason::UnexpectedAnswer);
        }
        // Without a pending HELLO the peer's own was quicker.
        if let Some(hello) = &mut peer.hello {
            hello.cookie = cookie;
            if hello.may_answer_cookie {
                hello.may_answer_cookie = false;
                send_hello(peer, way, epoch, now, out);
            }
        }
        Ok(())
    }

    fn receive_welcome<'p>(
        &mut self,
        from: SocketAddr,
        offer: &Offer,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let Some((_, peer)) = self.peers.with_endpoint(from) else {
            return Err(DropReason::WrongSource);
        };
        if (offer.min_version, offer.max_version) != (VERSION, VERSION) {
            return Err(DropReason::UnknownVersion);
        }
        if offer.nonce != peer.last_nonce {
            return Err(DropReason::UnexpectedAnswer);
        }
        let same_epoch = peer.session.filter(|session| session.epoch == offer.epoch);
        if peer.hello.is_none() {
            // The peer's own HELLO was quicker; this says the same.
            return match same_epoch {
                Some(session) if session.index == offer.index => Ok(()),
                _ => Err(DropReason::UnexpectedAnswer),
            };
        }
        let session = Session {
            index: offer.index,
            epoch: offer.epoch,
            mtu_bytes: offer.mtu_bytes,
            capabilities: self.way.capabilities & offer.capabilities,
            nonce: same_epoch.map_or(0, |session| session.nonce),
            confirmed: true,
            suspect: false,
        };
        let nothing_to_send = peer.waiting.len() == 0;
        self.establish(from, session, now, out);
        if nothing_to_send && let Some((_, peer)) = self.peers.with_endpoint(from) {
            // Shows the peer that its WELCOME arrived.
            send_keepalive(peer, now, out);
        }
        Ok(())
    }

    fn establish<'p>(&mut self, from: SocketAddr, session: Session, now: Instant, out: &mut impl Sink<'p>) {
        let (start, probing) = (self.way.start, self.probing);
        if let Some((_, peer)) = self.peers.with_endpoint(from) {
            tracing::debug!(peer = %peer.config.id, epoch = session.epoch, "session established");
            peer.vitals.begin_plain(session.epoch);
            peer.session = Some(session);
            peer.is_established(probing, now);
            peer.hello = None;
            peer.handshakes = peer.handshakes.wrapping_add(1);
            peer.last_rx = Some(now);
            while let Some(packet) = peer.waiting.pop() {
                send_copy(peer, &packet, start, now, out);
            }
            peer.rearm_keepalive(now);
        }
        self.sessions_changed();
    }
}

/// Begins a handshake; its first HELLO is due at once.
pub(crate) fn begin_hello(peer: &mut Peer, random: &mut Random, now: Instant) {
    peer.last_nonce = random.next_nonce();
    peer.hello = Some(Hello::new(peer.last_nonce, now));
}

pub(crate) fn send_hello<'p>(peer: &mut Peer, way: Way, epoch: u64, now: Instant, out: &mut impl Sink<'p>) {
    let Some(hello) = peer.hello else { return };
    let offer = Offer {
        min_version: VERSION,
        max_version: VERSION,
        index: peer.index,
        epoch,
        capabilities: way.capabilities,
        mtu_bytes: way.mtu_bytes,
        nonce: hello.nonce,
    };
    peer.vitals.handshake_messages = peer.vitals.handshake_messages.saturating_add(1);
    send_message(peer, 0, &Message::Hello(offer, hello.cookie), now, out);
}

/// Sends the packet that lies behind [`HEADER_BYTES`] bytes of room.
pub(crate) fn send_data<'p>(
    peer: &mut Peer,
    datagram: &'p mut [u8],
    checksum: Checksum,
    start: Instant,
    now: Instant,
    out: &mut impl Sink<'p>,
) {
    let (Some(to), Some(header)) = (peer.endpoint, data_header(peer, checksum, start, now)) else { return };
    peer.tx.count(datagram.len().saturating_sub(HEADER_BYTES));
    put(datagram, 0, &header.encode());
    let datagram = &*datagram;
    let packet = datagram.get(HEADER_BYTES..).unwrap_or_default();
    let ecn = outer_ecn(peer, packet);
    out.ecn(ecn);
    out.network(to, &[], datagram);
    protect(peer, &header, ecn, (packet, &[]), out);
}

/// Sends the packets that `packet` stands for.
pub(crate) fn send_several<'p>(
    peer: &mut Peer,
    several: &Several,
    packet: &'p [u8],
    start: Instant,
    now: Instant,
    out: &mut impl Sink<'p>,
) {
    let (Some(to), Some(mut header)) = (peer.endpoint, data_header(peer, several.checksum, start, now)) else { return };
    let mut head = [0; HEADER_BYTES + LONGEST_HEADERS_BYTES];
    let head_bytes = HEADER_BYTES.saturating_add(several.header_bytes());
    let Some(head) = head.get_mut(..head_bytes) else { return };
    let ecn = outer_ecn(peer, packet);
    for segment in several.segments() {
        put(head, 0, &header.encode());
        several.write_head(packet, &segment, head.get_mut(HEADER_BYTES..).unwrap_or_default());
        peer.tx.count(several.header_bytes().saturating_add(segment.payload.len()));
        let payload = packet.get(segment.payload.clone()).unwrap_or_default();
        out.ecn(ecn);
        out.network(to, head, payload);
        protect(peer, &header, ecn, (head.get(HEADER_BYTES..).unwrap_or_default(), payload), out);
        if !segment.is_last {
            (header.counter, header.sequence) = (peer.next_counter(), peer.next_sequence());
        }
    }
}

/// What the outer header of a packet says.
fn outer_ecn(peer: &Peer, packet: &[u8]) -> Ecn {
    Ecn::of_outer(packet, peer.session.map_or(0, |session| session.capabilities))
}

/// What a protected packet takes with it.
fn protect<'p>(peer: &mut Peer, header: &Header, ecn: Ecn, (head, payload): (&[u8], &[u8]), out: &mut impl Sink<'p>) {
    if header.flags & FLAG_PROTECTED == 0 {
        return;
    }
    let room_bytes = peer.path.room_bytes;
    let due = peer.recovery.as_deref_mut().and_then(|recovery| {
        recovery.keep(header.sequence, head, payload);
        recovery.due(room_bytes)
    });
    if let Some(due) = due {
        out.ecn(ecn);
        fec::send_repair_plain(peer, due, out);
    }
}

/// The header of the next packet, whose numbers are taken.
fn data_header(peer: &mut Peer, checksum: Checksum, start: Instant, now: Instant) -> Option<Header> {
    let session = peer.session?;
    let clock = now.saturating_duration_since(start).as_micros() >> TIMESTAMP_SHIFT;
    peer.last_tx = Some(now);
    let is_protected = peer.recovery.as_deref_mut().is_some_and(|recovery| recovery.protecting().is_some());
    let protected = if is_protected { FLAG_PROTECTED } else { 0 };
    Some(Header {
        flags: protected | if checksum == Checksum::Partial { FLAG_PARTIAL_CHECKSUM } else { 0 },
        timestamp: clock as u16,
        counter: peer.next_counter(),
        sequence: peer.next_sequence(),
        ..Header::new(Type::Data, session.index)
    })
}

/// Sends complete packets that do not lie where they were read. Whether a timer was set.
pub(crate) fn send_copies<'p>(
    peer: &mut Peer,
    packets: &[Box<[u8]>],
    way: Way,
    now: Instant,
    out: &mut impl Sink<'p>,
) -> bool {
    let timer = peer.sealed.as_mut().is_some_and(|state| state.said(true, now));
    for packet in packets {
        if peer.sealed.is_some() {
            sealed::send_one(peer, packet, Checksum::Complete, way, now, out);
        } else {
            send_copy(peer, packet, way.start, now, out);
        }
    }
    timer | peer.vitals.live.said(now)
}

fn send_copy<'p>(peer: &mut Peer, packet: &[u8], start: Instant, now: Instant, out: &mut impl Sink<'p>) {
    let (Some(to), Some(header)) = (peer.endpoint, data_header(peer, Checksum::Complete, start, now)) else { return };
    peer.tx.count(packet.len());
    let ecn = outer_ecn(peer, packet);
    out.ecn(ecn);
    out.network(to, &[&header.encode(), packet].concat(), &[]);
    protect(peer, &header, ecn, (packet, &[]), out);
}

/// The keepalive timer has fired: says something if nothing was said since it was set.
pub(crate) fn send_keepalive_if_idle<'p>(peer: &mut Peer, way: Way, now: Instant, out: &mut impl Sink<'p>) {
    let Some(interval) = peer.config.keepalive else {
        peer.keepalive_at = None;
        return;
    };
    let idle = peer.last_tx.is_none_or(|at| now.saturating_duration_since(at) >= interval);
    if idle && peer.sealed.is_some() {
        if !sealed::send_keepalive(peer, way, now, out)
            && let Some(state) = peer.sealed.as_mut().filter(|_| peer.endpoint.is_some())
        {
            state.attempt(now);
        }
    } else if idle && peer.usable_session().is_some() {
        send_keepalive(peer, now, out);
    }
    let since = if idle { now } else { peer.last_tx.unwrap_or(now) };
    peer.rearm_keepalive(since);
}

fn send_keepalive<'p>(peer: &mut Peer, now: Instant, out: &mut impl Sink<'p>) {
    let (Some(to), Some(session)) = (peer.endpoint, peer.session) else { return };
    let header = Header { counter: peer.next_counter(), ..Header::new(Type::Data, session.index) };
    peer.last_tx = Some(now);
    out.network(to, &header.encode(), &[]);
}

fn send_message<'p>(peer: &mut Peer, index: u32, message: &Message, now: Instant, out: &mut impl Sink<'p>) {
    let Some(to) = peer.endpoint else { return };
    peer.last_tx = Some(now);
    let header = Header::new(Type::Handshake, index).encode();
    let datagram = [header.as_slice(), message.encode().as_ref()].concat();
    out.network(to, &datagram, &[]);
}
