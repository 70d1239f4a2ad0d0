//! Handshakes: how they are begun, admitted, answered, and what follows.

use super::{
    CAPABILITY_AES, Offer, first_payload,
    format::{Format, Handshake, append_macs},
    keypair::{About, Cipher, Keypair},
    mac::{MacKeys, is_same, mac2},
    noise::{Initiator, Responder},
    read_first_payload, send_keepalive, send_one,
    state::Attempt,
};
use crate::{Checksum, Core, DropReason, Sink, peers::Slot};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Instant,
};

impl Core {
    pub(super) fn receive_initiation<'p>(
        &mut self,
        from: SocketAddr,
        message: &Handshake<'_>,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        let own = self.admit(from, message, now, out)?;
        let Some(realm) = &self.realm else { return Err(DropReason::UnknownType) };
        let (format, Some(own)) = (realm.format, realm.identities.get(own)) else { return Err(DropReason::BadMac) };
        let responder = Responder::read(format, &own.private, message.noise).ok_or(DropReason::BadHandshake)?;
        let (stamp, offer) = read_first_payload(format, &responder.payload).ok_or(DropReason::BadHandshake)?;
        let capabilities = realm.capabilities & offer.map_or(0, |offer| offer.capabilities);
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
            capabilities,
        };
        let keys = Keypair::new(about, keys, now).ok_or(DropReason::BadHandshake)?;
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

    /// Whether an initiation is for us, and may be worked out: for which of our keys. Where too many come, its sender gets a cookie.
    fn admit<'p>(
        &mut self,
        from: SocketAddr,
        message: &Handshake<'_>,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<usize, DropReason> {
        let Some(realm) = &mut self.realm else { return Err(DropReason::UnknownType) };
        let [(before_mac1, mac1), (before_mac2, code2)] = &message.macs;
        let own = realm.identities.iter().position(|own| is_same(&own.macs.mac1(before_mac1), mac1));
        let own = own.ok_or(DropReason::BadMac)?;
        if self.cookies.is_shown(from, &[], now, |cookie| is_same(code2, &mac2(cookie, before_mac2))) {
            let budget = realm.proven(self.cookies.make(whole_site(from), b"budget", now));
            return if budget.take(now) { Ok(own) } else { Err(DropReason::RateLimited) };
        }
        if realm.unproven.take(now) {
            return Ok(own);
        }
        let mut nonce = [0; 24];
        self.random.fill(&mut nonce);
        let cookie = self.cookies.make(from, &[], now);
        let sealed = realm.identities.get(own).and_then(|own| own.macs.seal_cookie(&cookie, &nonce, mac1));
        if let Some(sealed) = sealed {
            out.network(from, &realm.format.cookie(message.sender, &nonce, &sealed), &[]);
        }
        Err(DropReason::RateLimited)
    }

    pub(super) fn receive_answer<'p>(
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
            capabilities: offer.map_or(0, |offer| offer.capabilities),
        };
        let keys = Keypair::new(about, keys, now).ok_or(DropReason::BadHandshake)?;
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
    pub(super) fn session_begun<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        let (way, probing) = (self.way, self.probing);
        if let Some(peer) = self.peers.get_mut(slot) {
            tracing::debug!(peer = %peer.config.id, "session established");
            peer.is_established(probing, now);
            while let Some(packet) = peer.waiting.pop() {
                send_one(peer, &packet, Checksum::Complete, way, now, out);
            }
            peer.rearm_keepalive(now);
        }
        self.sessions_changed();
    }

    /// Sends an initiation to a peer whose endpoint is known.
    pub(super) fn initiate<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
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
        let offer = Offer { epoch: self.epoch, nonce, capabilities: realm.capabilities, mtu_bytes: self.way.mtu_bytes };
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
        peer.vitals.handshake_messages = peer.vitals.handshake_messages.saturating_add(1);
        out.network(to, &message, &[]);
        replaced.into_iter().for_each(|index| self.peers.release_index(index));
        self.peers.claim_index(index, slot);
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
