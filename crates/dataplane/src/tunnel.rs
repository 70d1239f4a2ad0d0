use crate::{
    Checksum, DropReason, Ecn, Error, FecMode, FecPolicy, Identity, PeerConfig, Probing, Result, ShortcutPacket,
    TunnelConfig, TunnelStats,
    allowed::AllowedIps,
    budget::Budget,
    cookie::CookieMaker,
    fec::Recovery,
    handshake::{CAPABILITIES, CAPABILITY_FEC},
    inner,
    parcel::{Carry, Reader, Writer},
    path::Paths,
    peer::Peer,
    peers::{Peers, Slot},
    random::Random,
    sealed::{Own, Realm, format::Format},
    session::{Way, begin_hello, send_hello, send_keepalive_if_idle},
    shortcut::{Established, Session},
    stats::Drops,
    wire::{FLAG_PARTIAL_CHECKSUM, HEADER_BYTES, Header, Type, ZERO_CHECKSUM_BYTES},
};
use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

const UNKNOWN_BURST: u32 = 10;
const UNKNOWN_INTERVAL: Duration = Duration::from_millis(100);

/// Number of a peer within its tunnel, chosen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}

/// Where the core's output goes. What lives for `'p` may be kept, uncopied, until a batch is complete.
pub trait Sink<'p> {
    /// One datagram for the network: `head` followed by `payload`.
    fn network(&mut self, to: SocketAddr, head: &[u8], payload: &'p [u8]);
    /// The same, for a datagram of this length that is written in its place. `write` says whether it was: what it leaves there otherwise
    /// goes nowhere.
    fn datagram(&mut self, to: SocketAddr, length: usize, write: impl FnOnce(&mut [u8]) -> bool);
    /// One IP packet for the TUN, behind [`HEADER_BYTES`] bytes that nobody needs any more.
    fn tun(&mut self, packet: &'p mut [u8], checksum: Checksum) {
        self.tun_now(packet, checksum);
    }
    /// The same for a packet that is gone when this returns.
    fn tun_now(&mut self, packet: &mut [u8], checksum: Checksum);
    /// What the outer header of the next datagram says of congestion. That of any other datagram says [`Ecn::NotEct`].
    fn ecn(&mut self, ecn: Ecn) {
        let _ = ecn;
    }
    /// A packet from the TUN, behind [`HEADER_BYTES`] bytes of room, for a peer whose TUN may be within reach. False: it has to take
    /// the network.
    fn shortcut(&mut self, packet: &mut [u8], about: &ShortcutPacket) -> bool {
        let _ = (packet, about);
        false
    }
}

/// A tunnel without I/O: bytes and time in, bytes out.
pub struct Core {
    pub(crate) way: Way,
    pub(crate) epoch: u64,
    /// Of a sealed tunnel.
    pub(crate) realm: Option<Realm>,
    pub(crate) peers: Peers,
    pub(crate) random: Random,
    pub(crate) cookies: CookieMaker,
    pub(crate) drops: Drops,
    pub(crate) shortcut: bool,
    /// Counts what may concern sessions.
    changes: u64,
    pub(crate) unknown_budget: Budget,
    pub(crate) probing: Probing,
    /// Of a format that has repairs.
    fec: Option<FecPolicy>,
    pub(crate) paths: Paths,
    /// When and why the socket refused to send last.
    refusal: Option<(Instant, &'static str)>,
    pub(crate) wake: Option<Instant>,
}

impl Core {
    /// A tunnel with its peers; their first HELLOs leave at the first [`tick`](Self::tick).
    ///
    /// `seed` must be random and secret: session indices, nonces and cookie secrets come from it.
    ///
    /// # Errors
    /// Peers that clash with each other or cannot be reached from `config.local`.
    pub fn new(config: TunnelConfig, now: Instant, seed: [u8; 32]) -> Result<Self> {
        let (random_key, cookie_key) = halves(seed);
        let paths = Paths::new(&config, now);
        let recovers = config.fec.mode != FecMode::Off;
        let capabilities = CAPABILITIES | if recovers { CAPABILITY_FEC } else { 0 };
        let realm = Realm::new(config.security, capabilities, now)?;
        let format = realm.as_ref().map_or(Format::Adit, |realm| realm.format);
        let mut core = Self {
            way: Way { format, mtu_bytes: config.mtu_bytes, capabilities, start: now },
            epoch: config.epoch,
            peers: Peers::new(config.local, realm.is_some()),
            realm,
            random: Random::new(&random_key),
            cookies: CookieMaker::new(cookie_key, now),
            drops: Drops::default(),
            shortcut: config.shortcut,
            changes: 0,
            unknown_budget: Budget::new(UNKNOWN_BURST, UNKNOWN_INTERVAL, now),
            probing: config.probing,
            fec: Some(config.fec).filter(|_| recovers && format == Format::Adit),
            paths,
            refusal: None,
            wake: None,
        };
        for peer in config.peers {
            core.add_peer(peer, now)?;
        }
        let room = core.paths.first_room();
        core.peers.iter_mut().for_each(|peer| peer.path.room_bytes = room);
        core.renew_wanted_mtu();
        Ok(core)
    }

    /// The state of a tunnel that stops here and goes on elsewhere.
    pub(crate) fn save(&self, to: &mut Writer) {
        let Self {
            way: Way { format, mtu_bytes: _, capabilities: _, start },
            epoch,
            realm,
            peers,
            random,
            cookies,
            drops,
            shortcut: _,
            changes: _,
            unknown_budget: _,
            probing: _,
            fec: _,
            paths: _,
            refusal: _,
            wake: _,
        } = self;
        (realm.is_some(), *format == Format::WireGuard).encode(to);
        (*epoch, *start).encode(to);
        random.nonces().encode(to);
        cookies.encode(to);
        drops.encode(to);
        peers.len().encode(to);
        for peer in peers.iter() {
            peer.config.id.0.encode(to);
            peer.save(to);
        }
    }

    /// Takes on the state of the same tunnel that has stopped elsewhere. `None`: it is another one's, and this core is of no use any more.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>, now: Instant) -> Option<()> {
        let protection = (self.realm.is_some(), self.way.format == Format::WireGuard);
        (<(bool, bool)>::decode(from)? == protection).then_some(())?;
        (self.epoch, self.way.start) = Carry::decode(from)?;
        self.random.continue_nonces(Carry::decode(from)?);
        self.cookies = Carry::decode(from)?;
        self.drops = Carry::decode(from)?;
        (usize::decode(from)? == self.peers.len()).then_some(())?;
        for _ in 0..self.peers.len() {
            let id = PeerId(Carry::decode(from)?);
            self.peers.with_id(id)?.restore(from, now)?;
        }
        self.peers.reindex();
        self.paths_restored();
        self.sessions_changed();
        Some(())
    }

    /// One datagram from the network; it may be changed in place.
    pub fn inbound<'p>(&mut self, from: SocketAddr, datagram: &'p mut [u8], now: Instant, out: &mut impl Sink<'p>) {
        self.inbound_marked(from, Ecn::NotEct, datagram, now, out);
    }

    /// The same for a datagram whose outer header says this of congestion.
    pub fn inbound_marked<'p>(
        &mut self,
        from: SocketAddr,
        ecn: Ecn,
        datagram: &'p mut [u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) {
        if let Err(reason) = self.receive(from, ecn, datagram, now, out) {
            self.drops.count(reason);
        }
    }

    /// Whatever is due by `now`.
    pub fn tick<'p>(&mut self, now: Instant, out: &mut impl Sink<'p>) {
        if self.wake.is_none_or(|at| at > now) {
            return;
        }
        for slot in self.peers.slots() {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            if peer.hello.is_some_and(|hello| hello.next_at <= now) {
                if let Some(hello) = &mut peer.hello {
                    hello.rearm(now);
                }
                send_hello(peer, self.way, self.epoch, now, out);
            }
            if peer.keepalive_at.is_some_and(|at| at <= now) {
                send_keepalive_if_idle(peer, self.way, now, out);
            }
            self.tick_sealed(slot, now, out);
            self.tick_health(slot, now, out);
            self.tick_path(slot, now, out);
            self.tick_recovery(slot, now, out);
        }
        self.rearm();
    }

    /// When [`tick`](Self::tick) is wanted next; `None` while nothing is due without a packet.
    pub fn next_wake(&self) -> Option<Instant> {
        self.wake
    }

    /// Adds a peer to the running tunnel. Its first HELLO leaves at the next [`tick`](Self::tick).
    ///
    /// # Errors
    /// It clashes with another peer, or cannot be reached from here; nothing has changed then.
    pub fn add_peer(&mut self, peer: PeerConfig, now: Instant) -> Result<()> {
        self.refuse_own_key(&peer)?;
        let slot = self.peers.add(peer, || self.random.next_u32())?;
        if let (Some(fec), Some(peer)) = (self.fec, self.peers.get_mut(slot)) {
            peer.recovery = Some(Box::new(Recovery::new(fec, self.way.mtu_bytes)));
        }
        self.begin(slot, now);
        self.sessions_changed();
        Ok(())
    }

    /// Replaces the settings of the peer with the same number. Plain: a new endpoint begins a new session; what waits for the old one
    /// leaves when the new one is up. Sealed: the session goes on until the next handshake, to the new endpoint if there is one.
    ///
    /// # Errors
    /// There is no such peer, it would clash with another, or it cannot be reached; nothing has changed then.
    pub fn change_peer(&mut self, peer: PeerConfig, now: Instant) -> Result<()> {
        self.refuse_own_key(&peer)?;
        let (slot, moved) = self.peers.change(peer, || self.random.next_u32())?;
        if let Some(peer) = self.peers.get_mut(slot) {
            if moved {
                peer.session = None;
                peer.vitals.restart(now);
                peer.last_rx = None;
            }
            peer.rearm_keepalive(now);
        }
        if moved {
            self.begin(slot, now);
        }
        self.sessions_changed();
        Ok(())
    }

    /// Gives this end of a sealed tunnel other keys. Sessions go on until the next handshake, which begins at once if
    /// the key of new sessions is another one.
    ///
    /// # Errors
    /// The tunnel is plain, or a peer has one of the keys; nothing has changed then.
    pub fn set_identity(&mut self, identity: Identity, now: Instant) -> Result<()> {
        let realm = self.realm.as_mut().ok_or(Error::NotSealed)?;
        let identities = Own::all(identity)?;
        if let Some(holder) = identities.iter().find_map(|own| self.peers.holder_of_key(&own.public)) {
            return Err(Error::OwnKey(holder));
        }
        let is_new = realm.own().map(|own| own.public) != identities.first().map(|own| own.public);
        realm.identities = identities;
        if !is_new {
            return Ok(());
        }
        for slot in self.peers.slots() {
            self.begin(slot, now);
        }
        self.sessions_changed();
        Ok(())
    }

    /// Begins a handshake with a peer.
    fn begin(&mut self, slot: Slot, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.vitals.begin(now);
        match &mut peer.sealed {
            Some(state) if peer.endpoint.is_some() => state.attempt_now(now),
            // It has to begin.
            Some(_) => {}
            None => begin_hello(peer, &mut self.random, now),
        }
    }

    fn refuse_own_key(&self, peer: &PeerConfig) -> Result<()> {
        let (Some(realm), Some(keys)) = (&self.realm, &peer.keys) else { return Ok(()) };
        let is_own = realm.is_own(&keys.public) || keys.also.is_some_and(|also| realm.is_own(&also));
        if is_own { Err(Error::OwnKey(peer.id)) } else { Ok(()) }
    }

    /// Removes a peer and what waits for it.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn remove_peer(&mut self, peer: PeerId) -> Result<()> {
        let peer = self.peers.remove(peer)?;
        self.renew_wanted_mtu();
        self.drops.add(DropReason::NoSession, peer.waiting.len() as u64);
        self.sessions_changed();
        Ok(())
    }

    /// State and counters. The descriptors' part is left for the shell to fill in.
    pub fn stats(&self, now: Instant) -> TunnelStats {
        let (refusal, strangers) = (self.refusal.as_ref(), self.strangers());
        let stats = |peer: &Peer| peer.stats(peer.health(refusal, strangers, now), now);
        TunnelStats {
            peers: self.peers.iter().map(stats).collect(),
            drops: self.drops.non_zero(),
            mtu_bytes: Some(self.wanted_mtu_bytes()),
            ..TunnelStats::default()
        }
    }

    pub(crate) const fn allows_shortcuts(&self) -> bool {
        self.shortcut
    }

    /// Counts everything that may concern sessions.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// The sessions that packets leave in.
    pub(crate) fn established(&self) -> (Vec<Established>, &AllowedIps<Slot>) {
        let established = self.peers.in_slots().filter_map(|(slot, peer)| {
            let (ours, theirs, epoch) = match &peer.sealed {
                Some(state) => state.current.as_ref().map(|keys| (keys.our_index, keys.their_index, keys.remote))?,
                None => peer.usable_session().map(|session| (peer.index, session.index, Some((session.epoch, 0))))?,
            };
            let session = Session { ours: (ours, self.epoch), theirs: (theirs, epoch?.0) };
            Some(Established { peer: peer.config.id, slot, session })
        });
        (established.collect(), self.peers.allowed())
    }

    /// Counts what a peer's packets were that came by a shortcut.
    pub(crate) fn count_received(&mut self, received: &[(PeerId, u64, u64)], now: Instant) {
        for (id, bytes, packets) in received {
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.config.id == *id) {
                peer.rx.add(*bytes, *packets);
                peer.last_rx = Some(now);
            }
        }
    }

    /// Counts packets that the shell had to drop.
    pub fn count(&mut self, reason: DropReason, packets: u64) {
        self.drops.add(reason, packets);
    }

    /// The socket refused to send.
    pub(crate) const fn refused(&mut self, why: &'static str, now: Instant) {
        self.refusal = Some((now, why));
    }

    /// After whatever may concern sessions.
    pub(crate) fn sessions_changed(&mut self) {
        self.changes = self.changes.wrapping_add(1);
        self.rearm();
    }

    /// After a timer of a peer was set.
    pub(crate) fn wake_by_timers(&mut self, slot: Slot) {
        let at = self.peers.get_mut(slot).and_then(|peer| peer.next_wake());
        self.wake = self.wake.into_iter().chain(at).min();
    }

    pub(crate) fn rearm(&mut self) {
        self.wake = self.peers.iter().filter_map(Peer::next_wake).min();
    }

    fn receive<'p>(
        &mut self,
        from: SocketAddr,
        ecn: Ecn,
        datagram: &'p mut [u8],
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> Result<(), DropReason> {
        if datagram.len() == ZERO_CHECKSUM_BYTES {
            return Err(DropReason::ZeroChecksum);
        }
        if self.realm.is_some() {
            return self.receive_sealed(from, ecn, datagram, now, out);
        }
        let (header, payload) = datagram.split_first_chunk_mut::<HEADER_BYTES>().ok_or(DropReason::Runt)?;
        let header = Header::decode(header)?;
        match header.kind {
            Type::Handshake => self.receive_handshake(from, &header, payload, now, out),
            Type::Unknown => self.receive_unknown(from, header.index, now),
            kind => {
                let Some((slot, peer)) = self.peers.with_index(header.index) else {
                    return Err(self.answer_unknown(from, header.index, now, out));
                };
                if !peer.endpoint.is_some_and(|endpoint| same_host_and_port(endpoint, from)) {
                    return Err(DropReason::WrongSource);
                }
                let is_data = kind == Type::Data && !payload.is_empty();
                peer.vitals.take_plain(header.counter);
                let timer = peer.vitals.live.heard(is_data, now);
                if timer {
                    self.wake_by_timers(slot);
                }
                let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
                if kind != Type::Data {
                    peer.last_rx = Some(now);
                    if let Some(session) = &mut peer.session {
                        session.confirmed = true;
                    }
                    let length = HEADER_BYTES.saturating_add(payload.len());
                    return match kind {
                        Type::Repair => {
                            self.take_mark_of_repair(slot, ecn, now);
                            self.receive_repair(slot, &header, payload, now, out)
                        }
                        Type::Report => self.receive_report(slot, payload, now, out),
                        _ => self.receive_probe(slot, payload, length, now, out),
                    };
                }
                if !payload.is_empty() {
                    self.note_data(slot, &header, payload, now)?;
                    let addresses = inner::addresses(payload).ok_or(DropReason::MalformedInner)?;
                    if self.peers.behind(addresses.source) != Some(slot) {
                        return Err(DropReason::SourceNotAllowed);
                    }
                }
                let checksum = match header.flags & FLAG_PARTIAL_CHECKSUM {
                    0 => Checksum::Complete,
                    // The kernel completes it where we say, and we say it from our own reading.
                    _ if inner::Transport::of(payload).is_some() => Checksum::Partial,
                    _ => return Err(DropReason::BadChecksumOffload),
                };
                let Some(peer) = self.peers.get_mut(slot) else {
                    return Err(DropReason::UnknownIndex);
                };
                peer.last_rx = Some(now);
                if let Some(session) = &mut peer.session {
                    session.confirmed = true;
                }
                if payload.is_empty() {
                    return Ok(());
                }
                let marked = self.take_mark(slot, ecn, payload, now);
                if marked.is_ok()
                    && let Some(peer) = self.peers.get_mut(slot)
                {
                    peer.rx.count(payload.len());
                    self.paths.clamp(peer.path.room_bytes, payload, checksum);
                    out.tun(datagram, checksum);
                }
                self.deliver_recovered(slot, now, out);
                marked
            }
        }
    }

    /// Tells a peer, not too often, that an index is not ours. Strangers are told nothing.
    fn answer_unknown<'p>(
        &mut self,
        from: SocketAddr,
        index: u32,
        now: Instant,
        out: &mut impl Sink<'p>,
    ) -> DropReason {
        let Some((_, peer)) = self.peers.with_endpoint(from) else {
            return DropReason::WrongSource;
        };
        if self.unknown_budget.take(now) {
            let header = Header::new(Type::Unknown, index).encode();
            if let Some(to) = peer.endpoint {
                out.network(to, &header, &[]);
            }
        } else {
            self.drops.count(DropReason::RateLimited);
        }
        DropReason::UnknownIndex
    }
}

fn same_host_and_port(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip() == other.ip() && one.port() == other.port()
}

fn halves(seed: [u8; 32]) -> ([u8; 16], [u8; 16]) {
    let mut halves = ([0; 16], [0; 16]);
    if let ([first, second], []) = seed.as_chunks::<16>() {
        halves = (*first, *second);
    }
    halves
}
