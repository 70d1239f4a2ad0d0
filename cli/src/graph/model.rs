//! Pods and tunnels as a graph. Where both ends of a tunnel are known, they are one edge.

use adit_tunnel::protocol::{Delivery, HealthState, PeerStatus, TunnelStatus};
use serde::Serialize;

use crate::table::{endpoint, owner};

/// What one node tells.
pub struct View {
    /// Where it is from; empty for this node.
    pub source: String,
    /// Its tunnels.
    pub tunnels: Vec<TunnelStatus>,
    /// Bytes received and sent in a second, of each tunnel's each peer, where they are known.
    pub rates: Vec<Vec<Option<(u64, u64)>>>,
}

/// Pods and the tunnels between them.
#[derive(Debug, Default, Serialize)]
pub struct Graph {
    /// Pods, and peers of which nobody told more than where they are.
    pub nodes: Vec<Node>,
    /// The tunnels.
    pub edges: Vec<Edge>,
}

/// A pod, or a stranger.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// What it is called.
    pub name: String,
    /// The runtime's id of the pod; absent for strangers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whose status told of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// A tunnel to one peer. `forth` is from the first end to the second.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// The places of both ends among the nodes.
    pub ends: [usize; 2],
    /// The tunnel's interface at each end; empty where it is not known.
    pub interfaces: [String; 2],
    /// The worse of what both ends say.
    pub state: &'static str,
    /// Mean round trip in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Loss forth and back of the last seconds, in parts per million.
    pub loss_ppm: [Option<u32>; 2],
    /// Repairs' share of the bytes sent forth and back lately, in parts per million; absent where there are none.
    pub repairs_ppm: [Option<u32>; 2],
    /// Inner bytes forth and back in a second.
    pub bytes_per_second: [Option<u64>; 2],
}

/// One end of one tunnel to one peer.
struct End<'a> {
    node: usize,
    tunnel: &'a TunnelStatus,
    peer: &'a PeerStatus,
    rate: Option<(u64, u64)>,
}

impl Graph {
    /// The graph of what all nodes tell.
    pub fn of(views: &[View]) -> Self {
        let mut graph = Self::default();
        let mut ends = Vec::new();
        for view in views {
            for (index, tunnel) in view.tunnels.iter().enumerate() {
                let container = Some(tunnel.attachment.container_id.clone());
                let node = graph.node(Node { name: owner(tunnel), container, source: view.source.clone() });
                for (at, peer) in tunnel.peers.iter().enumerate() {
                    let rate = view.rates.get(index).and_then(|rates| rates.get(at)).copied().flatten();
                    ends.push(End { node, tunnel, peer, rate });
                }
            }
        }
        let mut drawn = vec![false; ends.len()];
        for (index, end) in ends.iter().enumerate() {
            if std::mem::replace(drawn.get_mut(index).unwrap_or(&mut true), true) {
                continue;
            }
            let other = other_end(&ends, index);
            if let Some(drawn) = other.and_then(|(other, _)| drawn.get_mut(other)) {
                *drawn = true;
            }
            graph.draw(end, other.map(|(_, other)| other));
        }
        graph
    }

    fn node(&mut self, node: Node) -> usize {
        self.nodes.iter().position(|known| *known == node).unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len().saturating_sub(1)
        })
    }

    fn draw(&mut self, end: &End<'_>, other: Option<&End<'_>>) {
        let second = other.map_or_else(
            || {
                let key = end.peer.public_key.map(|key| format!(" {key}")).unwrap_or_default();
                self.node(Node { name: endpoint(end.peer) + &key, container: None, source: String::new() })
            },
            |other| other.node,
        );
        let told = [Some(end), other];
        let worst = told.iter().flatten().max_by_key(|end| badness(end)).map_or("down", |end| state(end));
        let average = |end: &&End<'_>| Some(end.peer.health.as_ref()?.rtt?.average_us);
        let arrived = |end: &End<'_>| end.peer.health.as_ref().map(|health| health.received);
        let told_sent = |end: &End<'_>| end.peer.health.as_ref().and_then(|health| health.sent);
        let loss = |delivery: Delivery| delivery.recent_loss_ppm;
        // Who receives knows first.
        let forth = other.and_then(arrived).or_else(|| told_sent(end)).map(loss);
        let back = arrived(end).or_else(|| other.and_then(told_sent)).map(loss);
        let repairs =
            |end: &End<'_>| end.peer.recovery.as_ref().map(|recovery| recovery.overhead_ppm).filter(|share| *share > 0);
        let interface = |end: &End<'_>| end.tunnel.attachment.if_name.to_string();
        self.edges.push(Edge {
            ends: [end.node, second],
            interfaces: [interface(end), other.map(interface).unwrap_or_default()],
            state: worst,
            round_trip_us: told.iter().flatten().find_map(average),
            loss_ppm: [forth, back],
            repairs_ppm: [repairs(end), other.and_then(repairs)],
            bytes_per_second: [
                end.rate
                    .map(|(_, sent)| sent)
                    .or_else(|| other.and_then(|other| other.rate).map(|(received, _)| received)),
                end.rate
                    .map(|(received, _)| received)
                    .or_else(|| other.and_then(|other| other.rate).map(|(_, sent)| sent)),
            ],
        });
    }
}

/// The end that `ends[index]` leads to, if there is one that leads back, and no other one that might be meant.
fn other_end<'a, 'b>(ends: &'a [End<'b>], index: usize) -> Option<(usize, &'a End<'b>)> {
    let end = ends.get(index)?;
    let mut found =
        ends.iter().enumerate().filter(|(at, other)| *at != index && leads_to(end, other) && leads_to(other, end));
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

/// By the key, which one tunnel alone has; in plain tunnels by the address.
fn leads_to(from: &End<'_>, to: &End<'_>) -> bool {
    from.tunnel.encap == to.tunnel.encap
        && match (from.peer.public_key, to.tunnel.public_key) {
            (Some(wanted), Some(own)) => wanted == own,
            (None, None) => from.peer.endpoint == Some(to.tunnel.local),
            _ => false,
        }
}

fn state(end: &End<'_>) -> &'static str {
    end.tunnel.peer_state(end.peer)
}

fn badness(end: &End<'_>) -> HealthState {
    if end.tunnel.carried { end.peer.health_state() } else { HealthState::Down }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::{Encryption, PublicKey};

    use super::*;
    use crate::table::tests::{healthy, tunnel};

    fn view(source: &str, tunnels: Vec<TunnelStatus>) -> View {
        View { source: source.into(), tunnels, rates: vec![vec![Some((10, 20))]] }
    }

    /// Both ends of the usual tunnel.
    fn pair() -> [TunnelStatus; 2] {
        let (near, mut far) = (tunnel(), tunnel());
        (far.local, far.peers[0].endpoint) = (near.peers[0].endpoint.unwrap(), Some(near.local));
        (far.attachment.container_id, far.pod.name) = ("c2".into(), "plumbr-b".into());
        [near, far]
    }

    #[test]
    fn both_ends_of_a_plain_tunnel_are_one_edge_with_what_either_knows() {
        let [mut near, far] = pair();
        near.peers[0].health = Some(healthy());
        let graph = Graph::of(&[view("ohio", vec![near]), view("mumbai", vec![far])]);
        assert_eq!((graph.nodes.len(), graph.edges.len()), (2, 1), "{graph:?}");
        let edge = &graph.edges[0];
        assert_eq!((edge.ends, edge.state, edge.round_trip_us), ([0, 1], "up", Some(1_250)));
        assert_eq!((edge.loss_ppm, edge.bytes_per_second), ([Some(0), Some(1_000)], [Some(20), Some(10)]));
        assert_eq!(edge.interfaces, ["tun", "tun"]);
    }

    #[test]
    fn sealed_ends_find_each_other_by_their_keys_wherever_they_are() {
        let [mut near, mut far] = pair();
        for (own, peer, end) in [(1, 2, &mut near), (2, 1, &mut far)] {
            (end.encryption, end.public_key) = (Encryption::Noise, Some(PublicKey::new([own; 32])));
            (end.peers[0].public_key, end.peers[0].endpoint) = (Some(PublicKey::new([peer; 32])), None);
        }
        far.carried = false;
        let graph = Graph::of(&[view("ohio", vec![near.clone()]), view("mumbai", vec![far.clone()])]);
        assert_eq!((graph.nodes.len(), graph.edges.len(), graph.edges[0].state), (2, 1, "down"));

        far.peers[0].public_key = Some(PublicKey::new([3; 32]));
        let graph = Graph::of(&[view("ohio", vec![near]), view("mumbai", vec![far])]);
        assert_eq!((graph.nodes.len(), graph.edges.len()), (4, 2), "they do not mean each other: {graph:?}");
    }

    #[test]
    fn ends_that_could_be_either_of_two_are_not_guessed() {
        let [near, far] = pair();
        let mut twin = far.clone();
        twin.attachment.container_id = "c3".into();
        let graph = Graph::of(&[view("ohio", vec![near]), view("mumbai", vec![far]), view("pune", vec![twin])]);
        assert!(graph.edges.iter().any(|edge| edge.interfaces[1].is_empty()), "{graph:?}");
    }
}
