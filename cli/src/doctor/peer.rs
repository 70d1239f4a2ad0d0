//! What lies between a tunnel and each of its peers: the outer route, the next hop, the peer itself, what is behind it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use adit_net::{Link, Neighbour, Netlink};
use adit_tunnel::{
    Encap,
    protocol::{HealthState, PeerStatus, TunnelStatus},
};
use ipnetwork::IpNetwork;

use super::{Line, Verdict, tunnel::Tunnel};
use crate::{
    table::endpoint,
    units::{ago, percent, round_trip},
};

/// What an answer from inside the peer's pod may take.
const ECHO_WAIT: Duration = Duration::from_secs(1);

const LOOK: &str = "run adit doctor at the other end; is UDP filtered on the way, in either direction?";

/// What the drops of a tunnel tell of a peer that does not answer: their reason, what it means, what to do.
const HINTS: [(&str, &str, &str); 5] = [
    (
        "unknown_key",
        "handshakes came by a key that no peer here has",
        "compare publicKey here with what adit key show says at the other end",
    ),
    (
        "bad_mac",
        "handshakes came that were made for another key than this end's",
        "compare publicKey at the other end with what adit key show says here",
    ),
    ("bad_handshake", "handshakes came that do not open", "do both ends have the same presharedKeyFile?"),
    (
        "wrong_source",
        "packets came from another address or port than the peer's",
        "is there NAT on the way, or another local at the other end? Sealed tunnels learn where a peer is, plain ones do not",
    ),
    ("unknown_version", "packets came that are none of this format", "do both ends have the same encap?"),
];

impl Tunnel<'_> {
    /// The peers, as the agent knows them, else as was written; and whether packets to them leave as they should.
    pub(super) fn reach(&self, outer: &Netlink, device: &Link, lines: &mut Vec<Line>) -> Vec<(PeerStatus, bool)> {
        let peers: Vec<PeerStatus> = match self.seen {
            Some(seen) => seen.peers.clone(),
            None => self.record.spec.peers.iter().map(PeerStatus::described).collect(),
        };
        let reached = peers.into_iter().map(|peer| {
            let way = peer.endpoint.map_or(Ok(None), |to| self.way(outer, device, &peer, to).map(Some));
            let is_reachable = way.is_ok();
            match way {
                Ok(found) => lines.extend(found),
                Err(broken) => lines.push(broken),
            }
            (peer, is_reachable)
        });
        reached.collect()
    }

    fn way(&self, outer: &Netlink, device: &Link, peer: &PeerStatus, to: SocketAddr) -> Result<Line, Line> {
        let (to, local) = (to.ip(), self.record.spec.local.ip());
        let remedy = || format!("a route to {to} by {} is what the network's ipam has to give it", device.name);
        let route = outer
            .lookup_route(to, Some(local))
            .map_err(|error| self.fail("outer route", error.to_string(), remedy()))?;
        if route.device != device.index {
            let what = format!("packets to {to} do not leave by {}", device.name);
            return Err(self.fail("outer route", what, remedy()));
        }
        let hop = route.gateway.unwrap_or(to);
        // A kernel that does not tell is no reason to say anything of the neighbour.
        let known = outer.neighbour(device.index, hop).ok().flatten();
        if matches!(known, Some(Neighbour::Asked | Neighbour::Silent)) {
            self.silent(device, peer, hop, route.gateway.is_some())?;
        }
        let by = route.gateway.map_or_else(|| "on the link".into(), |gateway| format!("through {gateway}"));
        Ok(self.ok("outer route", format!("{to} {by}, by {}", device.name)))
    }

    /// The next hop does not answer ARP, or neighbour solicitations. One of which the peer lives has only been asked just now.
    fn silent(&self, device: &Link, peer: &PeerStatus, hop: IpAddr, is_gateway: bool) -> Result<(), Line> {
        let state = peer.health_state();
        let what = format!("{hop} does not answer on the link of {}", device.name);
        let remedy = "is it there, and in the same bridge, VLAN or network as this end?";
        match state {
            HealthState::Up | HealthState::Degraded => Ok(()),
            HealthState::Waiting if !is_gateway => {
                Err(self.line(Verdict::Warn, "neighbour", what, format!("{remedy} It may not have been attached yet")))
            }
            HealthState::Waiting | HealthState::Down => Err(self.fail("neighbour", what, remedy)),
        }
    }

    /// The peer, and what is behind it.
    pub(super) fn peer(&self, pod: &Netlink, peer: &PeerStatus, lines: &mut Vec<Line>) {
        let leg = format!("peer {}", endpoint(peer));
        let is_asked = self.record.spec.encap != Encap::Vxlan;
        let state = peer.health_state();
        match self.seen {
            Some(seen) if is_asked => lines.push(self.state(&leg, seen, peer)),
            None if is_asked => return,
            _ => {}
        }
        if !is_asked || matches!(state, HealthState::Up | HealthState::Degraded) {
            lines.extend(hosts(&peer.allowed_ips).into_iter().map(|host| self.echo(pod, &leg, host, is_asked)));
        }
    }

    fn state(&self, leg: &str, seen: &TunnelStatus, peer: &PeerStatus) -> Line {
        let reason = peer.health.as_ref().map(|health| health.reason.as_str()).filter(|reason| !reason.is_empty());
        let hint = HINTS.iter().find(|(drops, ..)| seen.drops.contains_key(*drops));
        let told = |words: &str| match hint {
            Some((_, meaning, _)) => format!("{words}; {meaning}"),
            None => words.to_owned(),
        };
        let remedy = hint.map_or(LOOK, |(.., remedy)| remedy);
        match peer.health_state() {
            HealthState::Up => self.ok(leg, format!("answers{}", figures(peer))),
            HealthState::Degraded => {
                let what = reason.unwrap_or("answers, and packets pass worse than they should");
                self.line(Verdict::Warn, leg, format!("{what}{}", figures(peer)), LOOK)
            }
            HealthState::Down => self.fail(leg, told(reason.unwrap_or("does not answer any more")), remedy),
            HealthState::Waiting => {
                let what = told(reason.unwrap_or("has never answered"));
                let keys = match hint {
                    None if peer.public_key.is_some() => "do both ends have each other's public key (adit status)? ",
                    _ => "",
                };
                self.line(Verdict::Warn, leg, what, format!("is it there already? {keys}{remedy}"))
            }
        }
    }

    fn echo(&self, pod: &Netlink, leg: &str, host: IpAddr, is_asked: bool) -> Line {
        let leg = format!("{leg}, inside");
        match adit_net::ping(pod.netns(), &self.record.spec.if_name, host, ECHO_WAIT) {
            Ok(Some(time)) => {
                let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                self.ok(&leg, format!("{host} answers a ping in {}", round_trip(time)))
            }
            Ok(None) if is_asked => {
                let remedy = format!("the peer is there: has it {host}, and does it answer pings?");
                self.line(Verdict::Note, &leg, format!("{host} does not answer a ping"), remedy)
            }
            Ok(None) => self.line(Verdict::Warn, &leg, format!("{host} does not answer a ping"), LOOK),
            Err(error) => self.line(Verdict::Note, &leg, error.to_string(), "run this as root"),
        }
    }
}

/// What is known of a peer that answers: round trip, loss, age of its keys.
fn figures(peer: &PeerStatus) -> String {
    let mut found = Vec::new();
    if let Some(health) = &peer.health {
        found.extend(health.rtt.map(|rtt| format!("round trip {}", round_trip(rtt.average_us))));
        for (delivery, direction) in [(Some(health.received), "in"), (health.sent, "out")] {
            let lost = delivery.map_or(0, |delivery| delivery.recent_loss_ppm);
            if lost > 0 {
                found.push(format!("{} lost {direction}", percent(lost)));
            }
        }
    }
    if peer.last_handshake_ms.is_some() {
        found.push(format!("last handshake {}", ago(peer.last_handshake_ms)));
    }
    found.into_iter().map(|figure| format!(", {figure}")).collect()
}

/// The first of each family that is one host alone.
fn hosts(allowed: &[IpNetwork]) -> Vec<IpAddr> {
    let first = |is_of: fn(&IpNetwork) -> bool| allowed.iter().copied().find(&is_of).map(|it| it.ip());
    let four = first(|network| network.is_ipv4() && network.prefix() == 32);
    let six = first(|network| network.is_ipv6() && network.prefix() == 128);
    four.into_iter().chain(six).collect()
}

#[cfg(test)]
mod tests {
    use adit_tunnel::protocol::{Delivery, Health, RoundTrip};

    use super::*;

    #[test]
    fn only_networks_of_one_host_are_asked() {
        let allowed = ["10.4.0.0/24", "10.4.0.2/32", "10.4.0.3/32", "fd04::/64", "fd04::2/128"];
        let allowed = allowed.map(|network| network.parse().unwrap());
        assert_eq!(hosts(&allowed), ["10.4.0.2", "fd04::2"].map(|host| host.parse::<IpAddr>().unwrap()));
        assert!(hosts(&["0.0.0.0/0".parse().unwrap()]).is_empty());
    }

    #[test]
    fn what_is_known_of_a_peer_is_told_in_words() {
        let described: adit_tunnel::Peer = serde_json::from_str(r#"{"allowedIPs":["10.4.0.2/32"]}"#).unwrap();
        let mut peer = PeerStatus::described(&described);
        assert_eq!(figures(&peer), "");
        let rtt = RoundTrip { last_us: 900, min_us: 800, average_us: 850, p99_us: 900, jitter_us: 10 };
        peer.health = Some(Health {
            state: HealthState::Degraded,
            reason: String::new(),
            since_ms: 0,
            rtt: Some(rtt),
            probes_sent: 1,
            probes_answered: 1,
            received: Delivery::default(),
            sent: Some(Delivery { recent_loss_ppm: 12_500, ..Delivery::default() }),
            path_mtu_bytes: None,
        });
        peer.last_handshake_ms = Some(12_000);
        assert_eq!(figures(&peer), ", round trip 850 us, 1.25 % lost out, last handshake 12 s ago");
    }
}
