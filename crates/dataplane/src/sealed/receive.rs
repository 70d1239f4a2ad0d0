//! What comes from the network to a sealed tunnel. Nothing is believed before it is authenticated.

use super::{
    CAPABILITY_AES, Offer, first_payload,
    format::{Counter, Format, Handshake, Incoming, append_macs},
    keypair::{About, Cipher, Keypair},
    mac::{MacKeys, is_same, mac2},
    noise::{Initiator, Responder},
    read_first_payload,
    state::Attempt,
};
use crate::{
    Checksum, Core, DropReason, Sink, inner,
    peers::Slot,
    sealed::{send_keepalive, send_one},
    wire::{FLAG_PARTIAL_CHECKSUM, HEADER_BYTES, Header, Type},
};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Instant,
};

impl Core {
    pub(crate) fn receive_sealed<'p>(
        &mut self,
        from: SocketAddr,
        datagram: &'p mut [u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let format = self.way.format;
        match format.read(datagram)? {
            Incoming::Data { receiver, counter, flags } => {
                self.receive_sealed_data(from, (receiver, counter, flags), datagram, now, out)
            }
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

    fn receive_sealed_data<'p>(
        &mut self,
        from: SocketAddr,
        (receiver, counter, flags): (u32, Counter, u8),
        datagram: &'p mut [u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let way = self.way;
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
            return Err(DropReason::Replayed);
        }
        let (header, sealed) = datagram.split_first_chunk_mut::<HEADER_BYTES>().ok_or(DropReason::Runt)?;
        let authenticated = if way.format == Format::Adit { &header[..] } else { &[] };
        let length = keys.open(counter, authenticated, sealed).ok_or(DropReason::BadTag)?;
        let is_newest = keys.mark(counter);
        let packet = sealed.get_mut(..length).unwrap_or_default();
        let is_data = !packet.is_empty();
        let timer = state.heard(is_data, now);
        let promoted = state.promote(receiver, now);
        peer.last_rx = Some(now);
        if is_newest && peer.endpoint != Some(from) {
            tracing::debug!(peer = %peer.config.id, endpoint = %from, "the peer has moved");
            peer.endpoint = Some(from);
        }
        if let Some(given_up) = promoted {
            peer.handshakes = peer.handshakes.wrapping_add(1);
            given_up.into_iter().for_each(|index| self.peers.release_index(index));
            self.session_begun(slot, now, out);
        }
        if timer {
            self.wake_by_timers(slot);
        }
        if is_data {
            self.deliver(slot, flags, length, datagram, out)?;
        }
        Ok(())
    }

    /// An authentic packet enters the TUN, if it is one and may come from there.
    fn deliver<'p>(
        &mut self,
        slot: Slot,
        flags: u8,
        length: usize,
        datagram: &'p mut [u8],
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
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.rx.count(length);
        }
        if let Some(datagram) = datagram.get_mut(..HEADER_BYTES.saturating_add(length)) {
            out.tun(datagram, checksum);
        }
        Ok(())
    }

    fn receive_initiation<'p>(
        &mut self,
        from: SocketAddr,
        message: &Handshake<'_>,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let Some(realm) = &mut self.realm else { return Err(DropReason::UnknownType) };
        let format = realm.format;
        let [(before_mac1, mac1), (before_mac2, code2)] = &message.macs;
        let own = realm.identities.iter().position(|own| is_same(&own.macs.mac1(before_mac1), mac1));
        let own = own.ok_or(DropReason::BadMac)?;
        let is_proven = self.cookies.is_shown(from, &[], now, |cookie| is_same(code2, &mac2(cookie, before_mac2)));
        let may_work = if is_proven {
            realm.proven(self.cookies.make(whole_site(from), b"budget", now)).take(now)
        } else {
            realm.unproven.take(now)
        };
        let Some(own) = realm.identities.get(own) else { return Err(DropReason::BadMac) };
        if !may_work {
            if !is_proven {
                let mut nonce = [0; 24];
                self.random.fill(&mut nonce);
                let sealed = own.macs.seal_cookie(&self.cookies.make(from, &[], now), &nonce, mac1);
                if let Some(sealed) = sealed {
                    out.network(from, &format.cookie(message.sender, &nonce, &sealed), &[]);
                }
            }
            return Err(DropReason::RateLimited);
        }
        let responder = Responder::read(format, &own.private, message.noise).ok_or(DropReason::BadHandshake)?;
        let (stamp, offer) = read_first_payload(format, &responder.payload).ok_or(DropReason::BadHandshake)?;
        let capabilities = realm.capabilities() & offer.map_or(0, |offer| offer.capabilities);
        let answer = Offer { epoch: self.epoch, nonce: 0, capabilities, mtu_bytes: self.way.mtu_bytes };
        let macs_of_initiator = MacKeys::of(&responder.remote);

        let our_index = self.peers.free_index(|| self.random.next_u32());
        let (slot, peer) = self.peers.with_key(&responder.remote).ok_or(DropReason::UnknownKey)?;
        let state = peer.sealed.as_mut().ok_or(DropReason::UnknownKey)?;
        if stamp <= state.stamp {
            return Err(DropReason::ReplayedHello);
        }
        let remote = responder.remote;
        let payload = if format == Format::Adit { answer.encode().to_vec() } else { Vec::new() };
        let (noise, keys) =
            responder.answer(state.keys.preshared.as_ref(), &payload).ok_or(DropReason::BadHandshake)?;
        let about = About {
            our_index,
            their_index: message.sender,
            is_initiator: false,
            cipher: cipher(capabilities),
            remote: offer.map(|offer| (offer.epoch, offer.mtu_bytes)),
        };
        let keys = Keypair::new(about, &keys, now).ok_or(DropReason::BadHandshake)?;
        state.stamp = stamp;
        state.keys_used(&remote);
        let given_up = state.await_next(keys);
        let mut answer = format.answer(message.sender, our_index, &noise);
        let cookie = state.cookie.map(|(cookie, _)| cookie);
        let mac1 = macs_of_initiator.mac1(&answer);
        state.last_mac1 = Some(append_macs(&mut answer, mac1, |message| cookie.map_or([0; 16], |c| mac2(&c, message))));
        peer.last_tx = Some(now);
        // Where it came from, whoever sent it: that it is from there shows with the first packet of the session.
        out.network(from, &answer, &[]);
        given_up.into_iter().for_each(|index| self.peers.release_index(index));
        self.peers.claim_index(our_index, slot);
        self.sessions_changed();
        Ok(())
    }

    fn receive_answer<'p>(
        &mut self,
        from: SocketAddr,
        message: &Handshake<'_>,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let Some(realm) = &self.realm else { return Err(DropReason::UnknownType) };
        let format = realm.format;
        let (before_mac1, mac1) = &message.macs[0];
        if !realm.identities.iter().any(|own| is_same(&own.macs.mac1(before_mac1), mac1)) {
            return Err(DropReason::BadMac);
        }
        let (slot, peer) = self.peers.with_index(message.receiver).ok_or(DropReason::UnknownIndex)?;
        let state = peer.sealed.as_mut().ok_or(DropReason::UnknownIndex)?;
        if state.attempt.as_ref().is_some_and(Attempt::has_enough) {
            return Err(DropReason::RateLimited);
        }
        let pending = state.attempt.as_mut().and_then(|attempt| attempt.pending.as_mut());
        let (our_index, initiator) =
            pending.filter(|(index, _)| *index == message.receiver).ok_or(DropReason::UnexpectedAnswer)?;
        let our_index = *our_index;
        let Some((payload, keys)) = initiator.finish(message.noise) else {
            state.attempt.iter_mut().for_each(Attempt::count_forgery);
            return Err(DropReason::BadHandshake);
        };
        let offer = match format {
            Format::Adit => Some(Offer::decode(&payload).ok_or(DropReason::BadHandshake)?),
            Format::WireGuard => None,
        };
        let about = About {
            our_index,
            their_index: message.sender,
            is_initiator: true,
            cipher: cipher(offer.map_or(0, |offer| offer.capabilities)),
            remote: offer.map(|offer| (offer.epoch, offer.mtu_bytes)),
        };
        let keys = Keypair::new(about, &keys, now).ok_or(DropReason::BadHandshake)?;
        let given_up = state.begin(keys, now);
        state.heard(false, now);
        peer.handshakes = peer.handshakes.wrapping_add(1);
        peer.last_rx = Some(now);
        peer.endpoint = Some(from);
        given_up.into_iter().for_each(|index| self.peers.release_index(index));
        let nothing_waits = self.peers.get_mut(slot).is_some_and(|peer| peer.waiting.len() == 0);
        self.session_begun(slot, now, out);
        if nothing_waits && let Some(peer) = self.peers.get_mut(slot) {
            // Shows the peer that its answer arrived.
            send_keepalive(peer, self.way, now, out);
        }
        Ok(())
    }

    /// A session is up: what waited for it leaves.
    fn session_begun<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        let way = self.way;
        if let Some(peer) = self.peers.get_mut(slot) {
            tracing::debug!(peer = %peer.config.id, "session established");
            while let Some(packet) = peer.waiting.pop() {
                send_one(peer, &packet, Checksum::Complete, way, now, out);
            }
            peer.rearm_keepalive(now);
        }
        self.sessions_changed();
    }

    /// Sends an initiation to a peer whose endpoint is known.
    pub(crate) fn initiate<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        let index = self.peers.free_index(|| self.random.next_u32());
        let nonce = self.random.next_nonce();
        let Some(realm) = &self.realm else { return };
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Some(state) = peer.sealed.as_mut() else { return };
        let Some(attempt) = &mut state.attempt else { return };
        attempt.rearm(now);
        // Where nobody answers any more, it may be at home again.
        let configured = peer.config.endpoint.filter(|_| attempt.is_even());
        let (Some(to), Some(own)) = (configured.or(peer.endpoint), realm.own()) else { return };
        let offer =
            Offer { epoch: self.epoch, nonce, capabilities: realm.capabilities(), mtu_bytes: self.way.mtu_bytes };
        let payload = first_payload(realm, offer, now.saturating_duration_since(self.way.start));
        let psk = state.keys.preshared.as_ref();
        let begun = Initiator::begin(realm.format, &own.private, &state.keys.public, psk, &payload);
        let Some((initiator, noise)) = begun else { return };
        let replaced = attempt.pending.replace((index, initiator)).map(|(index, _)| index);
        let mut message = realm.format.initiation(index, &noise);
        let (mac1, cookie) = (state.macs.mac1(&message), state.cookie.map(|(cookie, _)| cookie));
        state.last_mac1 =
            Some(append_macs(&mut message, mac1, |message| cookie.map_or([0; 16], |c| mac2(&c, message))));
        peer.last_tx = Some(now);
        out.network(to, &message, &[]);
        replaced.into_iter().for_each(|index| self.peers.release_index(index));
        self.peers.claim_index(index, slot);
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

fn cipher(capabilities: u32) -> Cipher {
    if capabilities & CAPABILITY_AES != 0 { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 }
}

/// What one site has of addresses: a whole network of IPv6, any port.
fn whole_site(from: SocketAddr) -> SocketAddr {
    let ip = match from.ip() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    };
    SocketAddr::new(ip, 0)
}
