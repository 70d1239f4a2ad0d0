//! Health: whether a peer answers, how fast, and what gets lost on the way, each way.

pub(crate) mod delivery;
mod report;
mod rtt;
pub(crate) mod state;
mod words;

pub use report::{Delivery, Health, HealthState, RoundTrip};

use crate::{
    Core, Probing, Sink,
    handshake::CAPABILITY_FEC,
    parcel::{Carry, Reader, Writer, carry},
    peer::Peer,
    peers::Slot,
    probe::{BODY_BYTES, Counts, Kind, Probe},
    probing::send_probe,
};
use delivery::{PlainSession, Recent, Tally, loss_ppm};
use state::Liveness;
use std::time::{Duration, Instant};

/// A direction is lossy from this share on, until it falls below the other, in parts per million.
const LOSSY_PPM: u32 = 20_000;
const SOUND_PPM: u32 = 10_000;
/// Fewer datagrams, or fewer lost ones, say nothing of a share.
const TELLING_DATAGRAMS: u64 = 100;
const TELLING_LOSSES: u64 = 3;

/// What is known of a peer's health.
#[derive(Debug)]
pub(crate) struct Vitals {
    pub(crate) live: Liveness,
    /// A plain peer's incarnation.
    plain: Option<PlainSession>,
    /// What came in sessions that are over.
    past: Tally,
    recent_received: Recent,
    /// What the peer told of this end's datagrams: before its present incarnation, when that told first, and last.
    sent_past: Tally,
    sent: Option<Told>,
    recent_sent: Recent,
    /// What loses much: the way here, the way there.
    lossy: [bool; 2],
    /// Further reasons why packets pass worse than they should.
    notes: Notes,
    pub(crate) path_mtu_bytes: Option<u16>,
    state: HealthState,
    since: Option<Instant>,
    /// Handshake messages sent since the last handshake succeeded, or ever.
    pub(crate) handshake_messages: u64,
    /// What strangers sent, before the state became what it is.
    strangers_before: u64,
}

/// What others say of a peer, and say anew to the next carrier.
#[derive(Debug, Default)]
struct Notes(Vec<(&'static str, String)>);

impl Carry for Notes {
    fn encode(&self, _: &mut Writer) {}

    fn decode(_: &mut Reader<'_>) -> Option<Self> {
        Some(Self::default())
    }
}

/// What a peer's incarnation told.
#[derive(Debug, Clone, Copy)]
struct Told {
    epoch: Option<u64>,
    first: Tally,
    last: Tally,
}

carry!(Told { epoch, first, last });
carry!(Vitals {
    live,
    plain,
    past,
    recent_received,
    sent_past,
    sent,
    recent_sent,
    lossy,
    notes,
    path_mtu_bytes,
    state,
    since,
    handshake_messages,
    strangers_before,
});

impl Vitals {
    pub(crate) fn new() -> Self {
        Self {
            live: Liveness::new(),
            plain: None,
            past: Tally::default(),
            recent_received: Recent::default(),
            sent_past: Tally::default(),
            sent: None,
            recent_sent: Recent::default(),
            lossy: [false; 2],
            notes: Notes::default(),
            path_mtu_bytes: None,
            state: HealthState::Waiting,
            since: None,
            handshake_messages: 0,
            strangers_before: 0,
        }
    }

    /// The peer is known from now on.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The incarnation of a plain peer whose datagrams come from now on.
    pub(crate) fn begin_plain(&mut self, epoch: u64) {
        if self.plain.as_ref().is_none_or(|plain| plain.epoch != epoch) {
            self.end_plain();
            self.plain = Some(PlainSession::new(epoch));
        }
    }

    fn end_plain(&mut self) {
        let over = self.plain.take().map(PlainSession::close).unwrap_or_default();
        self.past = self.past.plus(over);
    }

    /// A plain peer is looked for elsewhere: it is as one that has never answered.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.end_plain();
        self.live = Liveness::new();
        (self.state, self.since) = (HealthState::Waiting, Some(now));
    }

    /// A plain datagram with these low 32 bits of its number.
    pub(crate) fn take_plain(&mut self, number: u32) {
        if let Some(plain) = &mut self.plain {
            plain.take(number);
        }
    }

    /// A reason why packets pass worse than they should, or none any more, of those that `about` names.
    pub(crate) fn set_note(&mut self, about: &'static str, note: Option<String>) {
        self.notes.0.retain(|(other, _)| *other != about);
        self.notes.0.extend(note.map(|note| (about, note)));
    }

    /// What the peer told in a probe. Returns whether something arrived there since it told last.
    fn told(&mut self, counts: &Counts, epoch: Option<u64>) -> bool {
        let now = Tally {
            received: counts.received,
            lost: counts.lost,
            reordered: counts.reordered.into(),
            duplicated: counts.duplicated.into(),
        };
        match &mut self.sent {
            Some(told) if told.epoch == epoch => {
                // Probes may overtake each other.
                let is_newer = now.received > told.last.received;
                if is_newer {
                    told.last = now;
                }
                is_newer
            }
            told => {
                let over = told.replace(Told { epoch, first: now, last: now });
                let over = over.map(|told| told.last.since(told.first)).unwrap_or_default();
                self.sent_past = self.sent_past.plus(over);
                false
            }
        }
    }

    fn sent(&self) -> Option<Tally> {
        self.sent.map(|told| self.sent_past.plus(told.last.since(told.first)))
    }

    fn delivery(tally: Tally, recent: &Recent, now: Instant) -> Delivery {
        Delivery {
            packets: tally.received,
            lost: tally.lost,
            reordered: tally.reordered,
            duplicated: tally.duplicated,
            recent_loss_ppm: loss_ppm(recent.of(tally, now)),
        }
    }

    /// Concludes the state from everything. `received` is what came of all that the peer sent.
    pub(crate) fn conclude(&mut self, received: Tally, strangers: u64, now: Instant) {
        let sent = self.sent().unwrap_or_default();
        self.recent_received.note(received, now);
        self.recent_sent.note(sent, now);
        let recent = [self.recent_received.of(received, now), self.recent_sent.of(sent, now)];
        for (lossy, recent) in self.lossy.iter_mut().zip(recent) {
            let bound = if *lossy { SOUND_PPM } else { LOSSY_PPM };
            *lossy = recent.received.saturating_add(recent.lost) >= TELLING_DATAGRAMS
                && recent.lost >= TELLING_LOSSES
                && loss_ppm(recent) >= bound;
        }
        self.live.set_loss(recent.map(loss_ppm));
        let state = match (self.live.is_down, self.state) {
            _ if self.live.heard_at.is_none() => HealthState::Waiting,
            (Some(_), _) => HealthState::Down,
            _ if self.lossy.contains(&true) || !self.notes.0.is_empty() => HealthState::Degraded,
            _ => HealthState::Up,
        };
        if state != self.state {
            self.state = state;
            self.since = Some(now);
            self.strangers_before = strangers;
        }
    }
}

impl Peer {
    /// What came of all that it sent.
    pub(crate) fn received_tally(&self) -> Tally {
        let plain = self.vitals.plain.as_ref().map(PlainSession::tally).unwrap_or_default();
        let sealed = self.sealed.as_ref().map(|state| state.tally()).unwrap_or_default();
        self.vitals.past.plus(plain).plus(sealed)
    }

    /// Counts as lost what has been missing for long enough.
    fn settle(&mut self, now: Instant) {
        if let Some(plain) = &mut self.vitals.plain {
            plain.settle(now);
        }
        if let Some(state) = &mut self.sealed {
            state.settle(now);
        }
    }

    /// What its next probe is told.
    pub(crate) fn counts(&mut self, now: Instant) -> Counts {
        self.settle(now);
        let tally = self.received_tally();
        Counts {
            received: tally.received,
            lost: tally.lost,
            reordered: tally.reordered as u32,
            duplicated: tally.duplicated as u32,
        }
    }

    fn remote_epoch(&self) -> Option<u64> {
        let sealed = self.sealed.as_deref().and_then(|state| state.current.as_ref()).and_then(|keys| keys.remote);
        self.session.map(|session| session.epoch).or(sealed.map(|(epoch, _)| epoch))
    }

    /// A handshake has succeeded.
    pub(crate) fn is_established(&mut self, probing: Probing, now: Instant) {
        let can_ask = self.answers_probes();
        let (recovers, epoch) = (self.is_capable_of(CAPABILITY_FEC), self.remote_epoch());
        if let Some(recovery) = &mut self.recovery {
            recovery.begin(recovers, epoch);
        }
        self.vitals.handshake_messages = 0;
        self.vitals.live.established(probing, can_ask, now);
        // One that cannot be asked has no timer that would conclude it.
        if matches!(self.vitals.state, HealthState::Waiting | HealthState::Down) {
            (self.vitals.state, self.vitals.since) = (HealthState::Up, Some(now));
        }
    }

    /// How it is.
    pub(crate) fn health(&self, refusal: Option<&(Instant, &'static str)>, strangers: u64, now: Instant) -> Health {
        let vitals = &self.vitals;
        let (state, reason) = self.state_in_words(refusal, strangers, now);
        let since = if state == vitals.state { vitals.since } else { vitals.live.heard_at.or(vitals.since) };
        Health {
            state,
            reason,
            since: since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            rtt: vitals.live.trips.figures(),
            probes_sent: vitals.live.requests,
            probes_answered: vitals.live.answers,
            received: Vitals::delivery(self.received_tally(), &vitals.recent_received, now),
            sent: vitals.sent().map(|sent| Vitals::delivery(sent, &vitals.recent_sent, now)),
            path_mtu_bytes: vitals.path_mtu_bytes,
            late_intervals: vitals.live.late_intervals,
        }
    }
}

impl Core {
    /// What came that nobody here can use: it may be a peer's that has lost its way.
    pub(crate) fn strangers(&self) -> u64 {
        use crate::DropReason::{BadMac, BadTag, UnknownIndex, UnknownKey, WrongSource};
        [WrongSource, UnknownIndex, BadTag, BadMac, UnknownKey]
            .into_iter()
            .fold(0, |sum, reason| sum.wrapping_add(self.drops.of(reason)))
    }

    /// A probe came from this peer: what it tells, and whether it was asked for.
    pub(crate) fn probe_came(&mut self, slot: Slot, probe: &Probe, now: Instant) -> bool {
        let strangers = self.strangers();
        let Some(peer) = self.peers.get_mut(slot) else { return false };
        let epoch = peer.remote_epoch();
        if peer.vitals.told(&probe.counts, epoch) {
            peer.vitals.live.arrived(now);
        }
        let is_answer = matches!(probe.kind, Kind::Answer(_)) && peer.vitals.live.answered(probe.number, now);
        peer.settle(now);
        let received = peer.received_tally();
        peer.vitals.conclude(received, strangers, now);
        if is_answer {
            self.rearm();
        } else {
            self.wake_by_timers(slot);
        }
        is_answer
    }

    /// What a peer's health asks for.
    pub(crate) fn tick_health<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        let (way, strangers) = (self.way, self.strangers());
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.vitals.live.next_at().is_none_or(|at| at > now) {
            return;
        }
        if peer.vitals.live.due(now) {
            if peer.can_send(now) && !peer.answers_probes() {
                peer.vitals.live.set_can_ask(false, now);
            } else if peer.can_send(now) {
                let (counts, path_mtu) = (peer.counts(now), peer.vitals.path_mtu_bytes);
                let request = Probe {
                    kind: Kind::Request,
                    number: peer.vitals.live.ask(now),
                    clock: u64::try_from(now.saturating_duration_since(way.start).as_micros()).unwrap_or(u64::MAX),
                    counts,
                    path_mtu_bytes: path_mtu.unwrap_or_default(),
                };
                send_probe(peer, &request, BODY_BYTES, way, now, out);
            } else {
                peer.vitals.live.miss(now);
                // Without a session nothing shows that the peer is there again but a handshake.
                let endpoint = peer.endpoint;
                if let Some(state) = peer.sealed.as_mut().filter(|_| endpoint.is_some()) {
                    state.attempt(now);
                }
            }
        }
        peer.settle(now);
        let received = peer.received_tally();
        peer.vitals.conclude(received, strangers, now);
    }
}
