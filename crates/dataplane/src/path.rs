//! The path to each peer, as a running tunnel knows it: what the [search](crate::pmtu) finds out, and what follows for packets.
//!
//! Sizes of the search are those of outer packets; a *room* is what is left of one for the inner packet.

use crate::{
    Checksum, Core, DropReason, Security, Sink, TunnelConfig, Vnet,
    budget::Budget,
    clamp::clamp_mss,
    peer::Peer,
    peers::Slot,
    pmtu::Search,
    probe::{BODY_BYTES, Kind, Probe},
    probing::send_probe,
    segment::Several,
    session::Way,
    too_big,
    wire::{HEADER_BYTES, overhead_bytes},
};
use std::time::{Duration, Instant};

const UDP_BYTES: u16 = 8;
/// How often senders are told that their packets are too large.
const ANSWER_BURST: u32 = 20;
const ANSWER_INTERVAL: Duration = Duration::from_millis(10);
/// What the health of a peer calls it.
const NOTE: &str = "path MTU";

/// What the paths of a tunnel have in common.
#[derive(Debug)]
pub(crate) struct Paths {
    is_searched: bool,
    is_ipv6: bool,
    overhead_bytes: u16,
    /// The interface's MTU as it was asked for, and the least that it may have.
    most_bytes: u16,
    floor_bytes: u16,
    /// Inner packets from this length on give a reason to look after the path.
    telling_bytes: usize,
    /// What the interface's MTU should be, and what its owner was told last.
    wanted_bytes: u16,
    told_bytes: u16,
    answers: Budget,
}

/// The path to one peer.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) search: Option<Box<Search>>,
    /// The largest inner packet that passes, as far as is known.
    pub(crate) room_bytes: u16,
}

impl Path {
    pub(crate) const fn new() -> Self {
        Self { search: None, room_bytes: u16::MAX }
    }

    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.search.as_ref().and_then(|search| search.next_wake())
    }
}

/// What becomes of a packet that is larger than the path takes.
pub(crate) enum Fit {
    /// It leaves as these.
    Cut(Several),
    /// It leaves in fragments, for the interface cannot have a smaller MTU.
    Fragments,
    /// It does not leave. Its sender is told this, if anything.
    Refused(Option<Vec<u8>>),
}

impl Paths {
    pub(crate) fn new(config: &TunnelConfig, now: Instant) -> Self {
        let is_ipv6 = config.local.is_ipv6();
        let overhead_bytes = overhead_bytes(is_ipv6, config.security.seal());
        let probing = config.probing;
        let is_foreign = matches!(config.security, Security::WireGuard(_));
        // Who is never asked cannot be asked for sizes either.
        let is_searched = probing.path_mtu && !is_foreign && probing.interval != Some(Duration::ZERO);
        let most_bytes = config.mtu_bytes;
        let told_bytes = probing.start_bytes.unwrap_or(most_bytes).min(most_bytes);
        Self {
            is_searched,
            is_ipv6,
            overhead_bytes,
            most_bytes,
            floor_bytes: probing.floor_bytes.min(most_bytes),
            telling_bytes: usize::from(Search::least_bytes(is_ipv6).saturating_sub(overhead_bytes)),
            wanted_bytes: told_bytes,
            told_bytes,
            answers: Budget::new(ANSWER_BURST, ANSWER_INTERVAL, now),
        }
    }

    /// What the path of a peer is taken for that was there when the tunnel began.
    pub(crate) fn first_room(&self) -> u16 {
        if self.is_searched && self.told_bytes < self.most_bytes { self.told_bytes } else { u16::MAX }
    }

    const fn outer(&self, inner_bytes: u16) -> u16 {
        inner_bytes.saturating_add(self.overhead_bytes)
    }

    /// A packet of this length leaves. Whether a timer was set.
    #[inline]
    pub(crate) fn note_sent(&self, peer: &mut Peer, bytes: usize, now: Instant) -> bool {
        bytes > self.telling_bytes && self.is_searched && self.note_large(peer, now)
    }

    fn note_large(&self, peer: &mut Peer, now: Instant) -> bool {
        let Some(to) = peer.endpoint else { return false };
        if peer.path.search.is_none() {
            if !peer.answers_probes() {
                return false;
            }
            let room = peer.path.room_bytes;
            let start = (room < self.most_bytes).then(|| self.outer(room));
            peer.path.search = Some(Box::new(Search::new(self.is_ipv6, self.outer(self.most_bytes), start, now)));
        }
        peer.path.search.as_mut().is_some_and(|search| search.note_sent(to, now))
    }

    /// What becomes of a packet that is larger than the path to its peer takes.
    pub(crate) fn fit(
        &mut self,
        room_bytes: u16,
        packet: &[u8],
        several: Option<&Several>,
        header: &Vnet,
        now: Instant,
    ) -> Fit {
        let cut = match several {
            Some(several) => several.cut_smaller(room_bytes),
            None => Several::of_one(packet, header, room_bytes),
        };
        if let Some(several) = cut {
            return Fit::Cut(several);
        }
        let limit_bytes = room_bytes.max(self.floor_bytes);
        if several.map_or(packet.len(), Several::longest_bytes) <= usize::from(limit_bytes) {
            return Fit::Fragments;
        }
        let is_told = self.answers.take(now);
        Fit::Refused(is_told.then(|| too_big::answer(packet, limit_bytes)).flatten())
    }

    /// Lowers what a peer, or its pod, announces to be told in one piece.
    #[inline]
    pub(crate) fn clamp(&self, room_bytes: u16, packet: &mut [u8], checksum: Checksum) {
        clamp_mss(packet, room_bytes.min(self.most_bytes), checksum);
    }

    /// What the search knows now becomes what packets are measured by.
    fn settle(&self, peer: &mut Peer) {
        let Some(search) = &peer.path.search else { return };
        let (size, known) = (search.size(), search.known());
        let room = size.saturating_sub(self.overhead_bytes);
        peer.vitals.path_mtu_bytes = known;
        peer.path.room_bytes = if room < self.most_bytes { room } else { u16::MAX };
        let note = (room < self.floor_bytes).then(|| {
            format!(
                "the path takes outer packets of {size} bytes, the interface cannot go below {} ({} outside): larger ones leave in fragments",
                self.floor_bytes,
                self.outer(self.floor_bytes)
            )
        });
        peer.vitals.set_note(NOTE, note);
    }
}

impl Core {
    /// The MTU that the interface should have.
    pub(crate) const fn wanted_mtu_bytes(&self) -> u16 {
        self.paths.wanted_bytes
    }

    /// The MTU that the interface should have from now on, if that is news.
    pub(crate) fn mtu_news(&mut self) -> Option<u16> {
        let Paths { wanted_bytes, told_bytes, .. } = &mut self.paths;
        (wanted_bytes != told_bytes).then(|| {
            *told_bytes = *wanted_bytes;
            *told_bytes
        })
    }

    /// The state came from the carrier before, which has told it.
    pub(crate) fn paths_restored(&mut self) {
        if !self.paths.is_searched {
            self.peers.iter_mut().for_each(|peer| peer.path = Path::new());
        }
        self.renew_wanted_mtu();
        self.paths.told_bytes = self.paths.wanted_bytes;
    }

    /// After a path has changed, or a peer has come or gone.
    pub(crate) fn renew_wanted_mtu(&mut self) {
        let Paths { most_bytes, floor_bytes, .. } = self.paths;
        let rooms = self.peers.iter().map(|peer| peer.path.room_bytes.max(floor_bytes));
        self.paths.wanted_bytes = rooms.fold(most_bytes, u16::min);
    }

    /// What a peer's path asks for.
    pub(crate) fn tick_path<'p>(&mut self, slot: Slot, now: Instant, out: &mut impl Sink<'p>) {
        let (way, overhead) = (self.way, self.paths.overhead_bytes);
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.path.next_wake().is_none_or(|at| at > now) {
            return;
        }
        if peer.can_send(now) && !peer.answers_probes() {
            // Its next incarnation cannot be asked.
            peer.path = Path::new();
            peer.vitals.set_note(NOTE, None);
            peer.vitals.path_mtu_bytes = None;
            return self.renew_wanted_mtu();
        }
        let Some(search) = &mut peer.path.search else { return };
        let due = search.tick(now);
        for (size, number) in due.requests {
            let padded = usize::from(size.saturating_sub(overhead)).max(BODY_BYTES);
            let request = request(peer, number, way, now);
            send_probe(peer, &request, padded, way, now, out);
        }
        if due.changed {
            self.path_changed(slot, now);
        }
    }

    fn path_changed(&mut self, slot: Slot, now: Instant) {
        let strangers = self.strangers();
        let Some(peer) = self.peers.get_mut(slot) else { return };
        self.paths.settle(peer);
        let received = peer.received_tally();
        peer.vitals.conclude(received, strangers, now);
        if let Some(search) = &peer.path.search {
            tracing::info!(peer = %peer.config.id, bytes = search.size(), "the largest packet that passes has changed");
        }
        self.renew_wanted_mtu();
    }

    /// The answer to a request of the search, whose datagram was this long.
    pub(crate) fn path_answered(
        &mut self,
        slot: Slot,
        probe: &Probe,
        datagram_bytes: u16,
        now: Instant,
    ) -> Result<(), DropReason> {
        let start = self.way.start;
        let ip_bytes = if self.paths.is_ipv6 { 40 } else { 20 };
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        let search = peer.path.search.as_mut().ok_or(DropReason::UnexpectedAnswer)?;
        let took = now.saturating_duration_since(start).saturating_sub(Duration::from_micros(probe.clock));
        let size = datagram_bytes.saturating_add(UDP_BYTES).saturating_add(ip_bytes);
        if search.answer(probe.number, size, took, now) {
            let known = search.known();
            peer.vitals.path_mtu_bytes = known;
            self.rearm();
        }
        Ok(())
    }

    /// This host refused a datagram as too large for its own device or route.
    pub(crate) fn refused_as_too_big(&mut self, now: Instant) {
        let searches = self.peers.iter_mut().filter_map(|peer| peer.path.search.as_mut());
        let timers = searches.fold(false, |timers, search| search.refused(now) | timers);
        if timers {
            self.rearm();
        }
    }

    /// Puts what a sender is told in the place of its packet, into the TUN.
    pub(crate) fn tell_too_big<'p>(datagram: &'p mut [u8], answer: &[u8], out: &mut impl Sink<'p>) {
        let Some(place) = datagram.get_mut(..HEADER_BYTES.saturating_add(answer.len())) else { return };
        if let Some(packet) = place.get_mut(HEADER_BYTES..) {
            packet.copy_from_slice(answer);
            out.tun(place, Checksum::Complete);
        }
    }
}

fn request(peer: &mut Peer, number: u32, way: Way, now: Instant) -> Probe {
    Probe {
        kind: Kind::Request,
        number,
        clock: u64::try_from(now.saturating_duration_since(way.start).as_micros()).unwrap_or(u64::MAX),
        counts: peer.counts(now),
        path_mtu_bytes: peer.vitals.path_mtu_bytes.unwrap_or_default(),
    }
}
