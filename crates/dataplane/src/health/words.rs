//! A peer's state, and why, in words.

use super::{HealthState, delivery::loss_ppm, state::Silence};
use crate::peer::Peer;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

/// A peer of another format is down when something was sent to it, and nothing came for this long.
const UNANSWERED: Duration = Duration::from_secs(15);
/// A refusal to send says something for this long.
const REFUSAL_COUNTS: Duration = Duration::from_secs(15);

impl Peer {
    /// `refusal`: when and why the socket refused to send last. `strangers`: what came that nobody can use.
    pub(super) fn state_in_words(
        &self,
        refusal: Option<&(Instant, &'static str)>,
        strangers: u64,
        now: Instant,
    ) -> (HealthState, String) {
        let age = |at: Instant| now.saturating_duration_since(at);
        let refused = refusal.filter(|(at, _)| age(*at) < REFUSAL_COUNTS).map(|(_, words)| *words);
        let state = if self.vitals.live.heard_at.is_none() {
            HealthState::Waiting
        } else if self.is_mute(now) {
            HealthState::Down
        } else {
            self.vitals.state
        };
        let mut words = match state {
            HealthState::Up => return (state, String::new()),
            HealthState::Waiting => self.waiting(refused),
            HealthState::Down => self.down(refused, now),
            HealthState::Degraded => self.degraded(now),
        };
        let strangers = strangers.wrapping_sub(self.vitals.strangers_before);
        if strangers > 0 && matches!(state, HealthState::Waiting | HealthState::Down) {
            let _ = write!(
                words,
                "; {strangers} datagrams came meanwhile that are of no session, peer, address or key that is known here (see the tunnel's drops)"
            );
        }
        (state, words)
    }

    fn waiting(&self, refused: Option<&str>) -> String {
        let messages = self.vitals.handshake_messages;
        match (self.endpoint, refused) {
            (None, _) => "it has to begin, for its address is not known here".into(),
            (Some(_), Some(refused)) => format!("no handshake was answered yet; nothing leaves here: {refused}"),
            (Some(_), None) => {
                format!("no handshake was answered yet; {messages} messages left, none came back")
            }
        }
    }

    fn down(&self, refused: Option<&str>, now: Instant) -> String {
        let live = &self.vitals.live;
        let since = match live.is_down {
            Some(Silence::Outward) => live.arrived_at,
            _ => live.heard_at,
        };
        let seconds = since.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let what = match (live.is_down, refused) {
            (Some(Silence::Outward), None) => "packets come from it, those that leave here do not arrive there",
            (_, Some(refused)) => return format!("no answer since {seconds:.1} s; nothing leaves here: {refused}"),
            _ => "outer packets leave, none come back",
        };
        format!("no answer since {seconds:.1} s; {what}")
    }

    fn degraded(&self, now: Instant) -> String {
        let vitals = &self.vitals;
        let recent = [
            vitals.recent_received.of(self.received_tally(), now),
            vitals.recent_sent.of(vitals.sent().unwrap_or_default(), now),
        ];
        let lossy = vitals.lossy.iter().zip(["what it sends", "what is sent to it"]).zip(recent);
        let losses = lossy
            .filter(|((lossy, _), _)| **lossy)
            .map(|((_, which), recent)| format!("{:.1} % of {which} is lost", f64::from(loss_ppm(recent)) / 1e4));
        losses.chain(vitals.notes.0.iter().map(|(_, note)| note.clone())).collect::<Vec<_>>().join("; ")
    }

    /// Whether one that cannot be asked does not answer what is sent to it.
    fn is_mute(&self, now: Instant) -> bool {
        let Some(state) = self.sealed.as_deref().filter(|_| !self.answers_probes()) else {
            return self.session.is_some_and(|session| session.suspect) && !self.answers_probes();
        };
        let silent = self.vitals.live.heard_at.is_none_or(|at| now.saturating_duration_since(at) >= UNANSWERED);
        silent && state.is_unanswered(UNANSWERED, now)
    }
}
