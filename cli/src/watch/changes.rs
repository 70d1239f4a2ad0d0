//! What has become of the tunnels' states from one look to the next.

use std::collections::BTreeMap;

use adit_tunnel::{AttachmentId, protocol::TunnelStatus};

use crate::table::{endpoint, owner};

/// The states at the last look.
#[derive(Debug, Default)]
pub struct States {
    known: Option<BTreeMap<(AttachmentId, usize), State>>,
}

#[derive(Debug, Clone)]
struct State {
    name: String,
    word: &'static str,
}

impl States {
    /// Takes another look into account, and tells what has changed since the one before. The first look changes nothing.
    pub fn add(&mut self, tunnels: &[TunnelStatus]) -> Vec<String> {
        let mut now = BTreeMap::new();
        let mut changes = Vec::new();
        for tunnel in tunnels {
            for (index, peer) in tunnel.peers.iter().enumerate() {
                let name = format!("{} {}: {}", owner(tunnel), tunnel.attachment.if_name, endpoint(peer));
                let word = tunnel.peer_state(peer);
                let whose = (tunnel.attachment.clone(), index);
                let before = self.known.as_ref().map(|known| known.get(&whose).map(|state| state.word));
                let reason = match &peer.health {
                    _ if !tunnel.carried => tunnel.reason.as_str(),
                    Some(health) => health.reason.as_str(),
                    None => "",
                };
                let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                match before {
                    Some(Some(before)) if before != word => {
                        changes.push(format!("{name} was {before}, is {word}{because}"));
                    }
                    Some(None) => changes.push(format!("{name} is new, and {word}{because}")),
                    _ => {}
                }
                now.insert(whose, State { name, word });
            }
        }
        let gone = self.known.iter().flatten().filter(|(whose, _)| !now.contains_key(whose));
        changes.extend(gone.map(|(_, state)| format!("{} is gone, and was {}", state.name, state.word)));
        self.known = Some(now);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{healthy, tunnel};

    #[test]
    fn only_what_changed_is_told_with_its_reason() {
        let mut states = States::default();
        assert!(states.add(&[tunnel()]).is_empty());
        assert!(states.add(&[tunnel()]).is_empty());
        let mut down = tunnel();
        let mut health = healthy();
        (health.state, health.reason) = (adit_tunnel::protocol::HealthState::Down, "no answer".into());
        down.peers[0].health = Some(health);
        let name = "default/plumbr-a tun: 10.20.1.200:6090";
        assert_eq!(states.add(&[down]), [format!("{name} was up, is down: no answer")]);
        assert_eq!(states.add(&[]), [format!("{name} is gone, and was down")]);
        assert_eq!(states.add(&[tunnel()]), [format!("{name} is new, and up")]);
    }
}
