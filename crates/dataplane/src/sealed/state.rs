//! A sealed peer's sessions and timers.

use super::{
    Stamp,
    keypair::{Cipher, Keypair, REJECT_AFTER, REKEY_AFTER_SILENT},
    mac::{Mac, MacKeys},
    noise::Initiator,
};
use crate::{
    PeerKeys, PublicKey,
    cookie::COOKIE_SECRET_LIFETIME,
    health::delivery::Tally,
    parcel::{Carry, Reader, Writer},
    peer::later,
};
use std::{
    mem,
    time::{Duration, Instant},
};

const FIRST_INTERVAL: Duration = Duration::from_millis(250);
const LONGEST_INTERVAL: Duration = Duration::from_secs(16);
/// Longer than a round trip may take: each message makes answers to those before it worthless (REKEY-TIMEOUT).
const INTERVAL_WITH_TRAFFIC: Duration = Duration::from_secs(5);
/// How many answers to one message are worked out, of which none was genuine.
const MOST_FORGERIES: u8 = 8;
/// So many messages of a handshake without an answer take seconds.
const SEVERAL_MESSAGES: u32 = 4;
/// How long to be silent after something was received, before saying that it was (KEEPALIVE-TIMEOUT).
const ACKNOWLEDGE_AFTER: Duration = Duration::from_secs(10);
/// How long to send without hearing anything, before beginning a new session (KEEPALIVE-TIMEOUT and REKEY-TIMEOUT).
const DOUBT_AFTER: Duration = Duration::from_secs(15);
/// A session that began this recently is not renewed because somebody says that it is not known.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of a peer of a sealed tunnel.
pub(crate) struct Sealed {
    pub(crate) keys: PeerKeys,
    /// For messages to it.
    pub(crate) macs: MacKeys,
    pub(crate) current: Option<Box<Keypair>>,
    /// The newest first. Three: when both ends began at once, the peer sends in another one than we do; when they do so again, two more
    /// come at once.
    pub(crate) previous: [Option<Box<Keypair>>; 3],
    pub(crate) next: Option<Box<Keypair>>,
    /// The handshake that we have begun.
    pub(crate) attempt: Option<Attempt>,
    /// What proves our address to it, and since when we have it.
    pub(crate) cookie: Option<(Mac, Instant)>,
    /// The first code of our last handshake message.
    pub(crate) last_mac1: Option<Mac>,
    /// Of the last initiation of its own that was accepted.
    pub(crate) stamp: Stamp,
    pub(crate) established_at: Option<Instant>,
    /// Since when something is sent without anything being received.
    pub(crate) unanswered_since: Option<Instant>,
    /// Since when something is received without anything being sent.
    pub(crate) unacknowledged_since: Option<Instant>,
    /// What came in sessions that are forgotten.
    past: Tally,
}

/// A handshake that waits for its answer.
pub(crate) struct Attempt {
    /// The index in it, and what reads the answer; none before the first message has left.
    pub(crate) pending: Option<(u32, Initiator)>,
    pub(crate) next_at: Instant,
    interval: Duration,
    /// Each message of the timer may be repeated at once with a cookie, once.
    pub(crate) may_answer_cookie: bool,
    /// That is what leaves next.
    pub(crate) answers_cookie: bool,
    /// How many messages of the timer have left.
    messages: u32,
    forgeries: u8,
}

impl Attempt {
    fn new(now: Instant) -> Self {
        Self {
            pending: None,
            next_at: now,
            interval: FIRST_INTERVAL,
            may_answer_cookie: false,
            answers_cookie: false,
            messages: 0,
            forgeries: 0,
        }
    }

    /// A message leaves now: when the timer's next one does.
    pub(crate) fn rearm(&mut self, now: Instant) {
        self.next_at = later(now, self.interval);
        self.forgeries = 0;
        self.may_answer_cookie = !mem::take(&mut self.answers_cookie);
        if !self.may_answer_cookie {
            return;
        }
        self.messages = self.messages.wrapping_add(1);
        self.interval = self.interval.saturating_mul(2).min(LONGEST_INTERVAL);
    }

    /// Every second message of the timer, the first not among them.
    pub(crate) const fn is_even(&self) -> bool {
        self.messages.is_multiple_of(2)
    }

    /// An answer was none.
    pub(crate) const fn count_forgery(&mut self) {
        self.forgeries = self.forgeries.saturating_add(1);
    }

    /// No more answers are worked out until the next message.
    pub(crate) const fn has_enough(&self) -> bool {
        self.forgeries >= MOST_FORGERIES
    }

    /// Somebody wants to send.
    fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.min(later(now, INTERVAL_WITH_TRAFFIC));
    }
}

impl Sealed {
    pub(crate) fn new(keys: PeerKeys) -> Self {
        Self {
            macs: MacKeys::of(&keys.public),
            keys,
            current: None,
            previous: [None, None, None],
            next: None,
            attempt: None,
            cookie: None,
            last_mac1: None,
            stamp: [0; 16],
            established_at: None,
            unanswered_since: None,
            unacknowledged_since: None,
            past: Tally::default(),
        }
    }

    /// New keys. If the one in use is among them, it is still addressed, and sessions stay until they are renewed; else everything that
    /// belonged to it is forgotten. Returns the indices that are given up.
    pub(crate) fn set_keys(&mut self, keys: PeerKeys) -> Vec<u32> {
        let used = self.keys.public;
        if used != keys.public && Some(used) != keys.also {
            let given_up = self.indices().collect();
            let past = self.sessions().fold(self.past, |past, keys| past.plus(keys.ledger.clone().close()));
            *self = Self { past, ..Self::new(keys) };
            return given_up;
        }
        self.macs = MacKeys::of(&keys.public);
        self.keys = keys;
        self.keys_used(&used);
        Vec::new()
    }

    /// Everything but what it is told to be and the handshake under way.
    pub(crate) fn save(&self, to: &mut Writer) {
        let Self {
            keys,
            macs: _,
            current,
            previous: [newest, middle, oldest],
            next,
            attempt,
            cookie,
            last_mac1,
            stamp,
            established_at,
            unanswered_since,
            unacknowledged_since,
            past,
        } = self;
        keys.public.encode(to);
        [current, newest, middle, oldest, next].into_iter().for_each(|place| place.encode(to));
        attempt.is_some().encode(to);
        (*cookie, *last_mac1).encode(to);
        (*stamp, *established_at).encode(to);
        (*unanswered_since, *unacknowledged_since).encode(to);
        past.encode(to);
    }

    /// Goes on from where another carrier has stopped. A handshake that was under way begins anew, for nobody can answer it any more.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>, is_reachable: bool, now: Instant) -> Option<()> {
        let used: PublicKey = Carry::decode(from)?;
        self.keys_used(&used);
        (self.keys.public == used).then_some(())?;
        self.current = Carry::decode(from)?;
        for place in &mut self.previous {
            *place = Carry::decode(from)?;
        }
        self.next = Carry::decode(from)?;
        self.attempt = (bool::decode(from)? && is_reachable).then(|| Attempt::new(now));
        (self.cookie, self.last_mac1) = Carry::decode(from)?;
        (self.stamp, self.established_at) = Carry::decode(from)?;
        (self.unanswered_since, self.unacknowledged_since) = Carry::decode(from)?;
        self.past = Carry::decode(from)?;
        Some(())
    }

    /// The peer uses this one of its keys now: it is the one to address.
    pub(crate) fn keys_used(&mut self, public: &PublicKey) {
        if self.keys.also == Some(*public) {
            self.keys.also = Some(mem::replace(&mut self.keys.public, *public));
            self.macs = MacKeys::of(public);
            self.cookie = None;
        }
    }

    /// Every index that datagrams from it may name.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        let sessions = self.sessions().map(|keys| keys.our_index);
        let pending = self.attempt.as_ref().and_then(|attempt| attempt.pending.as_ref()).map(|(index, _)| *index);
        sessions.chain(pending)
    }

    /// The session to send in.
    pub(crate) fn usable(&mut self, now: Instant) -> Option<&mut Keypair> {
        self.current.as_deref_mut().filter(|keys| keys.may_send(now))
    }

    pub(crate) fn with_index(&mut self, index: u32) -> Option<&mut Keypair> {
        let sessions = [&mut self.current, &mut self.next].into_iter().chain(&mut self.previous);
        sessions.flatten().map(AsMut::as_mut).find(|keys| keys.our_index == index)
    }

    fn sessions(&self) -> impl Iterator<Item = &Keypair> {
        [&self.current, &self.next].into_iter().chain(&self.previous).flatten().map(AsRef::as_ref)
    }

    /// What packets left in until now; some may be under way. Returns the index that is given up.
    fn retire(&mut self, keys: Box<Keypair>) -> Option<u32> {
        self.previous.rotate_right(1);
        let given_up = self.previous.first_mut().and_then(|newest| newest.replace(keys));
        given_up.map(|keys| self.forget(&keys))
    }

    /// A session is over. Returns its index.
    fn forget(&mut self, keys: &Keypair) -> u32 {
        self.past = self.past.plus(keys.ledger.clone().close());
        keys.our_index
    }

    /// What came in all sessions.
    pub(crate) fn tally(&self) -> Tally {
        self.sessions().fold(self.past, |sum, keys| sum.plus(keys.ledger.tally()))
    }

    /// Counts as lost what has been missing for long enough.
    pub(crate) fn settle(&mut self, now: Instant) {
        let sessions = [&mut self.current, &mut self.next].into_iter().chain(&mut self.previous).flatten();
        sessions.for_each(|keys| keys.ledger.settle(now));
    }

    /// Whether what was sent waits for an answer for so long, or handshakes do.
    pub(crate) fn is_unanswered(&self, time: Duration, now: Instant) -> bool {
        self.unanswered_since.is_some_and(|since| now.saturating_duration_since(since) >= time)
            || self.attempt.as_ref().is_some_and(|attempt| attempt.messages >= SEVERAL_MESSAGES)
    }

    /// If the session with this index is the next one, the peer has shown that it knows it: packets leave in it from now on. Returns the
    /// index that is given up then, if one is.
    pub(crate) fn promote(&mut self, index: u32, now: Instant) -> Option<Option<u32>> {
        let next = self.next.take_if(|next| next.our_index == index)?;
        self.established_at = Some(now);
        let replaced = self.current.replace(next);
        Some(replaced.and_then(|keys| self.retire(keys)))
    }

    /// A session that we began is up. Returns the indices that are given up.
    pub(crate) fn begin(&mut self, keys: Keypair, now: Instant) -> Vec<u32> {
        self.attempt = None;
        self.established_at = Some(now);
        // What the peer began at the same time may be what it sends in.
        let replaced = [self.current.replace(Box::new(keys)), self.next.take()];
        replaced.into_iter().flatten().filter_map(|keys| self.retire(keys)).collect()
    }

    /// A session that the peer began waits for its first packet. Returns the index that is given up.
    pub(crate) fn await_next(&mut self, keys: Keypair) -> Option<u32> {
        let replaced = self.next.replace(Box::new(keys));
        replaced.map(|keys| self.forget(&keys))
    }

    /// Whether a handshake has succeeded, and no later one of ours waits for an answer in vain.
    pub(crate) fn is_established(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|keys| keys.may_send(now))
            || (self.established_at.is_some() && self.attempt.is_none())
    }

    pub(crate) fn cipher(&self) -> Option<Cipher> {
        self.current.as_ref().map(|keys| keys.cipher)
    }

    /// Begins a handshake, unless one is under way; its first message is due at once.
    pub(crate) fn attempt(&mut self, now: Instant) {
        self.attempt.get_or_insert_with(|| Attempt::new(now));
    }

    /// The same, at once also where one waits for its next message: what it is to reach has changed.
    pub(crate) fn attempt_now(&mut self, now: Instant) {
        self.attempt =
            Some(Attempt { pending: self.attempt.take().and_then(|attempt| attempt.pending), ..Attempt::new(now) });
    }

    /// Packets pass by another way: whether the session should be renewed nevertheless.
    pub(crate) fn renew_if_old(&mut self, now: Instant) -> bool {
        let is_old = |keys: &Keypair| keys.is_worn(now) || keys.age(now) >= REKEY_AFTER_SILENT;
        let begins = self.attempt.is_none() && self.current.as_deref().is_some_and(is_old);
        if begins {
            self.attempt(now);
        }
        begins
    }

    /// Somebody wants to send and cannot.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.attempt.get_or_insert_with(|| Attempt::new(now)).hurry(now);
    }

    /// The peer's address claims not to know the session.
    pub(crate) fn doubt(&mut self, their_index: u32, now: Instant) -> bool {
        let is_current =
            self.current.as_ref().is_some_and(|keys| keys.their_index == their_index && keys.age(now) >= FRESH);
        if is_current {
            self.attempt(now);
        }
        is_current
    }

    /// Something of it was authentic. Returns whether a timer was set.
    pub(crate) fn heard(&mut self, is_data: bool, now: Instant) -> bool {
        self.unanswered_since = None;
        let mut set = false;
        if is_data {
            set = self.unacknowledged_since.is_none();
            self.unacknowledged_since.get_or_insert(now);
            let is_old = |keys: &Keypair| keys.is_initiator && keys.age(now) >= REKEY_AFTER_SILENT;
            if self.attempt.is_none() && self.current.as_deref().is_some_and(is_old) {
                self.attempt(now);
                set = true;
            }
        }
        set
    }

    /// Something leaves. Returns whether a timer was set.
    pub(crate) fn said(&mut self, is_data: bool, now: Instant) -> bool {
        self.unacknowledged_since = None;
        let mut set = false;
        if is_data {
            set = self.unanswered_since.is_none();
            self.unanswered_since.get_or_insert(now);
        }
        if self.attempt.is_none() && self.current.as_ref().is_some_and(|keys| keys.is_worn(now)) {
            self.attempt(now);
            set = true;
        }
        set
    }

    /// Forgets what is too old. Returns the indices that are given up.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<u32> {
        self.cookie.take_if(|(_, since)| now.saturating_duration_since(*since) >= COOKIE_SECRET_LIFETIME);
        let places = [&mut self.current, &mut self.next].into_iter().chain(&mut self.previous);
        let expired: Vec<_> = places.filter_map(|place| place.take_if(|keys| !keys.may_receive(now))).collect();
        expired.into_iter().map(|keys| self.forget(&keys)).collect()
    }

    /// What the timers ask for.
    pub(crate) fn due(&mut self, now: Instant) -> Due {
        if self.unanswered_at().is_some_and(|at| at <= now) {
            self.unanswered_since = None;
            self.attempt(now);
        }
        let acknowledge = self.acknowledge_at().is_some_and(|at| at <= now);
        if acknowledge {
            self.unacknowledged_since = None;
        }
        let initiate = self.attempt.as_ref().is_some_and(|attempt| attempt.next_at <= now);
        Due { initiate, acknowledge }
    }

    fn unanswered_at(&self) -> Option<Instant> {
        self.unanswered_since.map(|since| later(since, DOUBT_AFTER))
    }

    fn acknowledge_at(&self) -> Option<Instant> {
        self.unacknowledged_since.map(|since| later(since, ACKNOWLEDGE_AFTER))
    }

    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let expiries = self.sessions().map(|keys| later(keys.born, REJECT_AFTER));
        let attempt = self.attempt.as_ref().map(|attempt| attempt.next_at);
        expiries.chain(attempt).chain(self.unanswered_at()).chain(self.acknowledge_at()).min()
    }
}

/// What a peer's timers ask for.
pub(crate) struct Due {
    /// A handshake message.
    pub(crate) initiate: bool,
    /// A packet without content.
    pub(crate) acknowledge: bool,
}
