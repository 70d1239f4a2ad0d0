//! What is scraped: text as OpenMetrics 1.0 has it, in base units.

use std::{
    fmt, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use adit_tunnel::{
    Engine,
    protocol::{BURST_LENGTHS, Delivery, Health, HealthState, PeerStatus, Recovery, RoundTrip, TunnelStatus},
};
use nix::sys::resource::{Resource, getrlimit};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

const STATES: [HealthState; 4] = [HealthState::Up, HealthState::Degraded, HealthState::Waiting, HealthState::Down];

/// The agent's own process.
#[derive(Debug, Clone, Copy)]
pub struct Agent {
    uptime: Duration,
    open_descriptors: Option<u64>,
    descriptor_limit: Option<u64>,
}

impl Agent {
    /// As it is now; what the kernel does not tell is left out.
    pub fn look(started: Instant) -> Self {
        Self {
            uptime: started.elapsed(),
            open_descriptors: fs::read_dir("/proc/self/fd").ok().and_then(|open| u64::try_from(open.count()).ok()),
            descriptor_limit: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
        }
    }
}

/// The whole page.
pub fn page(tunnels: Arc<[TunnelStatus]>, agent: Agent) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("adit");
    registry.register_collector(Box::new(Node { tunnels, agent }));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
struct Node {
    tunnels: Arc<[TunnelStatus]>,
    agent: Agent,
}

impl Collector for Node {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder };
        self.agent(&mut page)?;
        self.tunnels(&mut page)?;
        self.peers(&mut page)?;
        self.health(&mut page)?;
        self.recovery(&mut page)
    }
}

impl Node {
    fn agent(&self, page: &mut Page<'_>) -> fmt::Result {
        let Agent { uptime, open_descriptors, descriptor_limit } = self.agent;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        page.infos("agent", "The agent of this node.", [(Vec::new(), version)])?;
        page.gauges("agent_uptime", "How long the agent has run.", Unit::Seconds, [(vec![], uptime.as_secs_f64())])?;
        let count = u64::try_from(self.tunnels.len()).unwrap_or(u64::MAX);
        page.counts("agent_tunnels", "Tunnels that the agent answers for.", [(vec![], count)])?;
        let open = open_descriptors.map(|open| (vec![], open));
        page.counts("agent_open_descriptors", "Descriptors that the agent has open.", open)?;
        let limit = descriptor_limit.map(|limit| (vec![], limit));
        page.counts("agent_descriptors_limit", "How many it may have.", limit)
    }

    fn tunnels(&self, page: &mut Page<'_>) -> fmt::Result {
        let each =
            |value: fn(&TunnelStatus) -> u64| self.tunnels.iter().map(move |tunnel| (labels(tunnel), value(tunnel)));
        let infos = self.tunnels.iter().map(|tunnel| (labels(tunnel), description(tunnel)));
        page.infos("tunnel", "What a tunnel is.", infos)?;
        let carried = each(|tunnel| tunnel.carried.into());
        page.counts("tunnel_carried", "Whether anything carries the tunnel's packets.", carried)?;
        let now = self.tunnels.iter().map(|tunnel| (labels(tunnel), f64::from(tunnel.mtu_bytes)));
        page.gauges("tunnel_mtu", "The interface's MTU as it is now.", Unit::Bytes, now)?;
        let limit = self.tunnels.iter().map(|tunnel| (labels(tunnel), f64::from(tunnel.mtu_limit_bytes)));
        page.gauges("tunnel_mtu_limit", "The interface's MTU where the path lets it.", Unit::Bytes, limit)?;
        let drops = self.tunnels.iter().flat_map(|tunnel| {
            tunnel.drops.iter().map(|(reason, count)| (with(labels(tunnel), "reason", reason), *count))
        });
        page.counters("tunnel_dropped", "Packets dropped at this end, by reason.", packets(), drops)
    }

    fn peers(&self, page: &mut Page<'_>) -> fmt::Result {
        type Count = fn(&PeerStatus) -> u64;
        let counts = |value: Count| self.each_peer().map(move |(_, peer, labels)| (labels, value(peer)));
        // The kernel's WireGuard counts no packets.
        let packet_counts = |value: Count| {
            let counted = self.each_peer().filter(|(tunnel, ..)| tunnel.engine == Engine::Agent);
            counted.map(move |(_, peer, labels)| (labels, value(peer)))
        };
        let states = self.each_peer().flat_map(|(tunnel, peer, labels)| {
            let now = tunnel.peer_state(peer);
            STATES.map(|state| (with(labels.clone(), "state", state.word()), u64::from(state.word() == now)))
        });
        page.counts("peer_state", "1 for the state that the peer is in, 0 for the others.", states)?;
        page.counters(
            "peer_received",
            "Inner bytes received from the peer.",
            Some(Unit::Bytes),
            counts(|peer| peer.rx_bytes),
        )?;
        page.counters("peer_sent", "Inner bytes sent to the peer.", Some(Unit::Bytes), counts(|peer| peer.tx_bytes))?;
        let received = packet_counts(|peer| peer.rx_packets);
        page.counters("peer_received", "Inner packets received from the peer.", packets(), received)?;
        let sent = packet_counts(|peer| peer.tx_packets);
        page.counters("peer_sent", "Inner packets sent to the peer.", packets(), sent)?;
        let handshakes = self.each_peer().filter(|(tunnel, ..)| tunnel.engine == Engine::Agent);
        let handshakes = handshakes.map(|(_, peer, labels)| (labels, peer.handshakes));
        page.counters("peer_handshakes", "Handshakes with the peer that succeeded.", None, handshakes)?;
        let seen = self.each_peer().filter_map(|(_, peer, labels)| Some((labels, seconds(peer.last_seen_ms?))));
        page.gauges("peer_last_seen_age", "How long ago anything valid came from the peer.", Unit::Seconds, seen)?;
        let shaken = self.each_peer().filter_map(|(_, peer, labels)| Some((labels, seconds(peer.last_handshake_ms?))));
        page.gauges("peer_last_handshake_age", "How long ago the last handshake was.", Unit::Seconds, shaken)
    }

    fn health(&self, page: &mut Page<'_>) -> fmt::Result {
        let age = self.each_health().map(|(health, labels)| (labels, seconds(health.since_ms)));
        page.gauges("peer_state_age", "How long the peer has been in its state.", Unit::Seconds, age)?;
        let times = self.each_health().filter_map(|(health, labels)| Some((health.rtt?, labels)));
        let times = times.flat_map(|(RoundTrip { last_us, min_us, average_us, p99_us, .. }, labels)| {
            [("last", last_us), ("min", min_us), ("average", average_us), ("p99", p99_us)]
                .map(|(stat, time)| (with(labels.clone(), "stat", stat), microseconds(time)))
        });
        page.gauges("peer_rtt", "Round trips of probes of the last minutes.", Unit::Seconds, times)?;
        let jitter =
            self.each_health().filter_map(|(health, labels)| Some((labels, microseconds(health.rtt?.jitter_us))));
        page.gauges("peer_jitter", "Mean difference of a round trip to the next.", Unit::Seconds, jitter)?;
        let sent = self.each_health().map(|(health, labels)| (labels, health.probes_sent));
        page.counters("peer_probes_sent", "Probes sent to the peer.", None, sent)?;
        let answered = self.each_health().map(|(health, labels)| (labels, health.probes_answered));
        page.counters("peer_probes_answered", "Probes that the peer answered.", None, answered)?;

        let counts = |value: fn(&Delivery) -> u64| {
            self.each_direction().map(move |(delivery, labels)| (labels, value(&delivery)))
        };
        let arrived = counts(|delivery| delivery.packets);
        page.counters("peer_arrived", "Outer packets that arrived, by direction.", packets(), arrived)?;
        let lost = counts(|delivery| delivery.lost);
        page.counters("peer_lost", "Outer packets that did not arrive, by direction.", packets(), lost)?;
        let reordered = counts(|delivery| delivery.reordered);
        page.counters("peer_reordered", "Outer packets that were overtaken, by direction.", packets(), reordered)?;
        let duplicated = counts(|delivery| delivery.duplicated);
        page.counters("peer_duplicated", "Outer packets that arrived again, by direction.", packets(), duplicated)?;
        let loss = self.each_direction().map(|(delivery, labels)| (labels, f64::from(delivery.recent_loss_ppm) / 1e6));
        page.gauges(
            "peer_loss",
            "Share of the last seconds' outer packets that was lost.",
            Unit::Other("ratio".into()),
            loss,
        )?;
        let mtu = self.each_health().filter_map(|(health, labels)| Some((labels, health.path_mtu_bytes?.into())));
        page.gauges("peer_path_mtu", "Largest outer packet known to pass to the peer.", Unit::Bytes, mtu)
    }

    fn recovery(&self, page: &mut Page<'_>) -> fmt::Result {
        let counts = |value: fn(&Recovery) -> u64| self.each_recovery().map(move |(one, labels)| (labels, value(one)));
        let lost = self.each_recovery().flat_map(|(one, labels)| {
            let causes = [("random", one.lost), ("congestion", one.lost_to_congestion)];
            causes.map(|(cause, lost)| (with(labels.clone(), "cause", cause), lost))
        });
        let text = "Inner packets from the peer that did not come by themselves, by cause.";
        page.counters("fec_lost", text, packets(), lost)?;
        let text = "Lost packets that came out of repairs.";
        page.counters("fec_recovered", text, packets(), counts(|one| one.recovered))?;
        let text = "Lost packets that nothing brings back.";
        page.counters("fec_unrecoverable", text, packets(), counts(|one| one.unrecoverable))?;
        let bursts = self.each_recovery().flat_map(|(one, labels)| {
            let lengths = BURST_LENGTHS.into_iter().zip(one.bursts);
            lengths.map(|(most, count)| (with(labels.clone(), "most", most), count)).collect::<Vec<_>>()
        });
        page.counters("fec_bursts", "Runs of lost packets, by their greatest length.", None, bursts)?;
        let delays = self.each_recovery().flat_map(|(one, labels)| {
            let delays = [("median", one.delay_median_us), ("p99", one.delay_p99_us)];
            delays
                .into_iter()
                .filter_map(move |(stat, time)| Some((with(labels.clone(), "stat", stat), microseconds(time?))))
        });
        let text = "From when a packet was missed until it was recovered, as exact as powers of two of a millisecond.";
        page.gauges("fec_recovery_delay", text, Unit::Seconds, delays)?;
        let ratio = |value: fn(&Recovery) -> u32| {
            self.each_recovery().map(move |(one, labels)| (labels, f64::from(value(one)) / 1e6))
        };
        let ratios = [
            (
                "fec_sent_loss",
                "Share of the packets to the peer that is lost, as it reports.",
                ratio(|one| one.sent_loss_ppm),
            ),
            ("fec_redundancy", "Repairs for each packet to the peer.", ratio(|one| one.redundancy_ppm)),
            ("fec_overhead", "Repairs' share of the bytes sent to the peer lately.", ratio(|one| one.overhead_ppm)),
        ];
        for (name, text, shares) in ratios {
            page.gauges(name, text, Unit::Other("ratio".into()), shares)?;
        }
        let text = "How many packets each repair to the peer covers.";
        page.counts("fec_window_packets", text, counts(|one| one.window.into()))?;
        page.counters("fec_repairs_sent", "Repairs sent to the peer.", packets(), counts(|one| one.repairs_sent))?;
        let sent = counts(|one| one.repair_bytes);
        page.counters("fec_repairs_sent", "Bytes of repairs sent to the peer.", Some(Unit::Bytes), sent)
    }

    fn each_recovery(&self) -> impl Iterator<Item = (&Recovery, Labels)> {
        self.each_peer().filter_map(|(_, peer, labels)| Some((peer.recovery.as_ref()?, labels)))
    }

    fn each_peer(&self) -> impl Iterator<Item = (&TunnelStatus, &PeerStatus, Labels)> {
        self.tunnels.iter().flat_map(|tunnel| {
            tunnel.peers.iter().map(move |peer| (tunnel, peer, with(labels(tunnel), "peer", &identity(peer))))
        })
    }

    fn each_health(&self) -> impl Iterator<Item = (&Health, Labels)> {
        self.each_peer().filter_map(|(_, peer, labels)| Some((peer.health.as_ref()?, labels)))
    }

    fn each_direction(&self) -> impl Iterator<Item = (Delivery, Labels)> {
        self.each_health().flat_map(|(health, labels)| {
            let both = [("in", Some(health.received)), ("out", health.sent)];
            both.into_iter().filter_map(move |(direction, delivery)| {
                Some((delivery?, with(labels.clone(), "direction", direction)))
            })
        })
    }
}

/// A page on its way.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn infos(&mut self, name: &str, help: &str, all: impl IntoIterator<Item = (Labels, Labels)>) -> fmt::Result {
        let all = all.into_iter().map(|(labels, description)| (labels, Info::new(escape(description))));
        self.family((name, help, None), MetricType::Info, all)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Unit,
        all: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let all = all.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family((name, help, Some(unit)), MetricType::Gauge, all)
    }

    /// Gauges of things that are counted one by one.
    fn counts(&mut self, name: &str, help: &str, all: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        let all = all.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family((name, help, None), MetricType::Gauge, all)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        all: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let all = all.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family((name, help, unit), MetricType::Counter, all)
    }

    fn family<M: EncodeMetric>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        kind: MetricType,
        all: impl IntoIterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, metric) in all {
            if labels.is_empty() {
                return metric.encode(family);
            }
            metric.encode(family.encode_family(&escape(labels))?)?;
        }
        Ok(())
    }
}

/// What tells a tunnel from all others. The container does where pods have no names, or where one takes the place of another.
fn labels(tunnel: &TunnelStatus) -> Labels {
    let TunnelStatus { attachment, pod, .. } = tunnel;
    vec![
        ("namespace", pod.namespace.clone()),
        ("pod", pod.name.clone()),
        ("container", attachment.container_id.clone()),
        ("interface", attachment.if_name.to_string()),
    ]
}

fn description(tunnel: &TunnelStatus) -> Labels {
    vec![
        ("network", tunnel.network.clone()),
        ("encap", tunnel.encap.to_string()),
        ("encryption", tunnel.encryption.to_string()),
        ("engine", tunnel.engine.to_string()),
        ("device", tunnel.device.clone()),
        ("local", tunnel.local.to_string()),
    ]
}

/// What a peer is known by: its key, which does not change where it roams; else where it is.
fn identity(peer: &PeerStatus) -> String {
    let key = peer.public_key.map(|key| key.to_string());
    key.or_else(|| peer.endpoint.map(|endpoint| endpoint.to_string())).unwrap_or_default()
}

fn with(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, value.to_owned()));
    labels
}

/// Values as the format wants them between quotation marks: whoever names a pod must not write lines of the page.
fn escape(mut labels: Labels) -> Labels {
    for (_, value) in &mut labels {
        *value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    }
    labels
}

fn packets() -> Option<Unit> {
    Some(Unit::Other("packets".into()))
}

fn seconds(milliseconds: u64) -> f64 {
    Duration::from_millis(milliseconds).as_secs_f64()
}

fn microseconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

#[cfg(test)]
mod tests;
