use crate::{
    PeerConfig, PeerStats,
    fec::Recovery,
    handshake::CAPABILITY_PROBES,
    health::{Health, Vitals},
    parcel::{Carry, Reader, Writer, carry},
    path::Path,
    sealed::{Sealed, keypair::Cipher},
};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

const HELLO_FIRST_INTERVAL: Duration = Duration::from_millis(250);
const HELLO_LONGEST_INTERVAL: Duration = Duration::from_secs(16);
const HELLO_INTERVAL_WITH_TRAFFIC: Duration = Duration::from_secs(1);
const WAITING_PACKETS: usize = 16;
const WAITING_BYTES: usize = 65_536;

/// One peer of a tunnel and everything that is known of it.
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    /// Where its datagrams go.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Of a sealed tunnel's peer; everything up to `counter` is a plain one's.
    pub(crate) sealed: Option<Box<Sealed>>,
    /// The index under which we receive from it; the same as long as its endpoint is.
    pub(crate) index: u32,
    /// What it told in the last handshake. Without it there is always a `hello`.
    pub(crate) session: Option<Session>,
    /// The handshake that we have begun.
    pub(crate) hello: Option<Hello>,
    /// Nonce of the handshake that we began last.
    pub(crate) last_nonce: u64,
    /// Packets sent in this direction and epoch.
    pub(crate) counter: u64,
    /// Inner packets sent in this direction and epoch.
    pub(crate) sequence: u32,
    pub(crate) waiting: Waiting,
    pub(crate) keepalive_at: Option<Instant>,
    pub(crate) last_rx: Option<Instant>,
    pub(crate) last_tx: Option<Instant>,
    pub(crate) handshakes: u64,
    pub(crate) rx: Traffic,
    pub(crate) tx: Traffic,
    pub(crate) vitals: Box<Vitals>,
    pub(crate) path: Path,
    /// Where the tunnel's format has repairs.
    pub(crate) recovery: Option<Box<Recovery>>,
}

/// What a peer told us of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// The index under which it receives from us.
    pub(crate) index: u32,
    pub(crate) epoch: u64,
    pub(crate) mtu_bytes: u16,
    /// What both ends can do.
    pub(crate) capabilities: u32,
    /// Nonce of its last HELLO that was accepted; 0 before the first.
    pub(crate) nonce: u64,
    /// It has shown that it knows our index.
    pub(crate) confirmed: bool,
    /// It says that it does not know the index: packets wait for the handshake.
    pub(crate) suspect: bool,
}

carry!(Session { index, epoch, mtu_bytes, capabilities, nonce, confirmed, suspect });

/// A handshake that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hello {
    pub(crate) nonce: u64,
    pub(crate) cookie: [u8; 16],
    /// Each HELLO of the timer may be repeated at once with a cookie, once.
    pub(crate) may_answer_cookie: bool,
    pub(crate) next_at: Instant,
    interval: Duration,
}

carry!(Hello { nonce, cookie, may_answer_cookie, next_at, interval });

impl Hello {
    pub(crate) const fn new(nonce: u64, now: Instant) -> Self {
        Self { nonce, cookie: [0; 16], may_answer_cookie: false, next_at: now, interval: HELLO_FIRST_INTERVAL }
    }

    /// The timer's HELLO leaves now: when the next one does.
    pub(crate) fn rearm(&mut self, now: Instant) {
        self.may_answer_cookie = true;
        self.next_at = later(now, self.interval);
        self.interval = self.interval.saturating_mul(2).min(HELLO_LONGEST_INTERVAL);
    }

    /// Somebody wants to send.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.min(later(now, HELLO_INTERVAL_WITH_TRAFFIC));
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    bytes: u64,
    packets: u64,
}

carry!(Traffic { bytes, packets });

impl Traffic {
    pub(crate) fn count(&mut self, bytes: usize) {
        self.add(bytes as u64, 1);
    }

    pub(crate) fn add(&mut self, bytes: u64, packets: u64) {
        self.bytes = self.bytes.wrapping_add(bytes);
        self.packets = self.packets.wrapping_add(packets);
    }
}

/// Packets that wait for a session, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    packets: VecDeque<Box<[u8]>>,
    bytes: usize,
}

carry!(Waiting { packets, bytes });

impl Waiting {
    /// Appends a packet; returns how many old ones had to make room.
    pub(crate) fn push(&mut self, packet: &[u8]) -> u64 {
        self.packets.push_back(packet.into());
        self.bytes = self.bytes.saturating_add(packet.len());
        let mut pushed_out = 0_u64;
        while self.packets.len() > WAITING_PACKETS || self.bytes > WAITING_BYTES {
            if self.pop().is_none() {
                break;
            }
            pushed_out = pushed_out.saturating_add(1);
        }
        pushed_out
    }

    pub(crate) fn pop(&mut self) -> Option<Box<[u8]>> {
        let packet = self.packets.pop_front()?;
        self.bytes = self.bytes.saturating_sub(packet.len());
        Some(packet)
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, index: u32) -> Self {
        Self {
            endpoint: config.heard_from.or(config.endpoint),
            sealed: config.keys.clone().map(|keys| Box::new(Sealed::new(keys))),
            config,
            index,
            session: None,
            hello: None,
            last_nonce: 0,
            counter: 0,
            sequence: 0,
            waiting: Waiting::default(),
            keepalive_at: None,
            last_rx: None,
            last_tx: None,
            handshakes: 0,
            rx: Traffic::default(),
            tx: Traffic::default(),
            vitals: Box::new(Vitals::new()),
            path: Path::new(),
            recovery: None,
        }
    }

    /// Everything but what it is told to be.
    pub(crate) fn save(&self, to: &mut Writer) {
        let Self {
            config: _,
            endpoint,
            sealed,
            index,
            session,
            hello,
            last_nonce,
            counter,
            sequence,
            waiting,
            keepalive_at,
            last_rx,
            last_tx,
            handshakes,
            rx,
            tx,
            vitals,
            path: Path { search: _, room_bytes },
            recovery,
        } = self;
        endpoint.encode(to);
        (*index, *session).encode(to);
        (*hello, *last_nonce).encode(to);
        (*counter, *sequence).encode(to);
        waiting.encode(to);
        (*keepalive_at, (*last_rx, *last_tx)).encode(to);
        (*handshakes, (*rx, *tx)).encode(to);
        vitals.encode(to);
        room_bytes.encode(to);
        recovery.is_some().encode(to);
        if let Some(recovery) = recovery {
            recovery.save(to);
        }
        sealed.is_some().encode(to);
        if let Some(state) = sealed {
            state.save(to);
        }
    }

    /// Goes on from where another carrier of the same peer has stopped.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>, now: Instant) -> Option<()> {
        self.endpoint = Carry::decode(from)?;
        (self.index, self.session) = Carry::decode(from)?;
        (self.hello, self.last_nonce) = Carry::decode(from)?;
        (self.counter, self.sequence) = Carry::decode(from)?;
        self.waiting = Carry::decode(from)?;
        (self.keepalive_at, (self.last_rx, self.last_tx)) = Carry::decode(from)?;
        (self.handshakes, (self.rx, self.tx)) = Carry::decode(from)?;
        self.vitals = Carry::decode(from)?;
        self.path.room_bytes = Carry::decode(from)?;
        match (bool::decode(from)?, &mut self.recovery) {
            (true, Some(recovery)) => recovery.restore(from)?,
            (had, recovery) => (had == recovery.is_some()).then_some(())?,
        }
        match (bool::decode(from)?, &mut self.sealed) {
            (true, Some(state)) => state.restore(from, self.endpoint.is_some(), now),
            (is_sealed, state) => (is_sealed == state.is_some()).then_some(()),
        }
    }

    /// The session to send in, unless the peer disowned it.
    pub(crate) fn usable_session(&self) -> Option<Session> {
        self.session.filter(|session| !session.suspect)
    }

    /// Whether a packet can leave now.
    pub(crate) fn can_send(&mut self, now: Instant) -> bool {
        match &mut self.sealed {
            Some(state) => self.endpoint.is_some() && state.usable(now).is_some(),
            None => self.usable_session().is_some(),
        }
    }

    /// Whether it answers probes, as far as it has said.
    pub(crate) fn answers_probes(&self) -> bool {
        self.is_capable_of(CAPABILITY_PROBES)
    }

    /// Whether both ends have said so.
    pub(crate) fn is_capable_of(&self, capability: u32) -> bool {
        let capabilities = match &self.sealed {
            Some(state) => state.current.as_ref().map(|keys| keys.capabilities),
            None => self.session.map(|session| session.capabilities),
        };
        capabilities.is_some_and(|capabilities| capabilities & capability != 0)
    }

    /// The number of the next packet.
    pub(crate) fn next_counter(&mut self) -> u32 {
        let counter = self.counter as u32;
        self.counter = self.counter.wrapping_add(1);
        counter
    }

    /// The number of the next inner packet.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        sequence
    }

    pub(crate) fn heard_within(&self, time: Duration, now: Instant) -> bool {
        self.last_rx.is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    /// Runs the keepalive timer from now on, or stops it.
    pub(crate) fn rearm_keepalive(&mut self, now: Instant) {
        let has_session = self.session.is_some() || self.sealed.is_some();
        self.keepalive_at = match (self.config.keepalive, has_session) {
            (Some(interval), true) if !interval.is_zero() => Some(later(now, interval)),
            _ => None,
        };
    }

    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let hello_at = self.hello.map(|hello| hello.next_at);
        let sealed = self.sealed.as_ref().and_then(|state| state.next_wake());
        hello_at
            .into_iter()
            .chain(self.keepalive_at)
            .chain(sealed)
            .chain(self.vitals.live.next_at())
            .chain(self.path.next_wake())
            .chain(self.recovery.as_ref().and_then(|recovery| recovery.next_wake()))
            .min()
    }

    pub(crate) fn stats(&self, health: Health, now: Instant) -> PeerStats {
        let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let state = self.sealed.as_deref();
        let remote = state.and_then(|state| state.current.as_ref()).and_then(|keys| keys.remote);
        PeerStats {
            id: self.config.id,
            endpoint: self.endpoint,
            public_key: self.config.keys.as_ref().map(|keys| keys.public),
            cipher: state.and_then(|state| state.cipher()).map(Cipher::name),
            last_handshake_age: state.and_then(|state| age(state.established_at)),
            established: state.map_or(self.usable_session().is_some(), |state| state.is_established(now)),
            handshakes: self.handshakes,
            remote_epoch: self.session.map(|session| session.epoch).or(remote.map(|(epoch, _)| epoch)),
            remote_mtu_bytes: self.session.map(|session| session.mtu_bytes).or(remote.map(|(_, mtu_bytes)| mtu_bytes)),
            rx_bytes: self.rx.bytes,
            rx_packets: self.rx.packets,
            tx_bytes: self.tx.bytes,
            tx_packets: self.tx.packets,
            last_rx_age: age(self.last_rx),
            last_tx_age: age(self.last_tx),
            shortcut: false,
            health,
            recovery: self.recovery.as_ref().and_then(|recovery| recovery.stats()),
        }
    }
}

/// `Instant + Duration` that saturates (at the present) instead of panicking.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    now.checked_add(by).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_keeps_the_newest_16_packets() {
        let mut waiting = Waiting::default();
        let pushed_out: u64 = (0..20).map(|number| waiting.push(&[number; 10])).sum();
        assert_eq!((pushed_out, waiting.len()), (4, 16));
        assert_eq!(waiting.pop().unwrap()[0], 4);
    }

    #[test]
    fn queue_keeps_at_most_64_kib() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.push(&[0; 40_000]), 0);
        assert_eq!(waiting.push(&[1; 40_000]), 1);
        assert_eq!(waiting.pop().unwrap()[0], 1);
        assert_eq!((waiting.len(), waiting.bytes), (0, 0));
    }
}
