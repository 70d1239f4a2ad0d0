//! What the agent tells about a tunnel.

use std::time::Duration;

use adit_dataplane::{self as dataplane, PeerId, PeerStats, TunnelStats};
use adit_tunnel::{
    PublicKey, Record,
    protocol::{Delivery, Health, HealthState, PeerStatus, Recovery, RoundTrip, TunnelStatus},
};

use crate::config::known_endpoint;

/// Why a tunnel that the data plane has is not carried all the same; `None` when it is.
pub fn broken(stats: &TunnelStats) -> Option<String> {
    let whole = stats.tun_attached && stats.udp_attached;
    (!whole).then(|| stats.last_error.clone().unwrap_or_else(|| "a descriptor was lost".into()))
}

/// The state of `record`'s tunnel; it is carried when there is no `reason` why not.
pub fn status(record: &Record, stats: &TunnelStats, reason: Option<String>) -> TunnelStatus {
    let spec = &record.spec;
    let peers = (0..).map(PeerId).zip(&spec.peers).map(|(id, peer)| {
        let stats = stats.peers.iter().find(|stats| stats.id == id);
        let count = |field: fn(&PeerStats) -> u64| stats.map(field).unwrap_or_default();
        let age = |field: fn(&PeerStats) -> Option<Duration>| {
            stats.and_then(field).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        };
        let endpoint = stats.and_then(|stats| stats.endpoint).or_else(|| known_endpoint(record, peer));
        PeerStatus {
            endpoint,
            learned: endpoint != peer.endpoint,
            public_key: stats.and_then(|stats| stats.public_key).map(PublicKey::new).or(peer.public_key),
            cipher: stats.and_then(|stats| stats.cipher).map(str::to_owned),
            established: stats.is_some_and(|stats| stats.established),
            handshakes: count(|stats| stats.handshakes),
            shortcut: stats.is_some_and(|stats| stats.shortcut),
            rx_bytes: count(|stats| stats.rx_bytes),
            rx_packets: count(|stats| stats.rx_packets),
            tx_bytes: count(|stats| stats.tx_bytes),
            tx_packets: count(|stats| stats.tx_packets),
            last_seen_ms: age(|stats| stats.last_rx_age),
            last_sent_ms: age(|stats| stats.last_tx_age),
            last_handshake_ms: age(|stats| stats.last_handshake_age),
            health: stats.map(|stats| health(&stats.health)),
            recovery: stats.and_then(|stats| stats.recovery.as_ref()).map(recovery),
            ..PeerStatus::described(peer)
        }
    });
    TunnelStatus {
        mtu_bytes: stats.mtu_bytes.unwrap_or(spec.mtu_bytes),
        peers: peers.collect(),
        offloads: stats.offload.names().map(str::to_owned).collect(),
        offload_refusal: stats.offload.refusal.map(|(what, errno)| format!("cannot {what}: {errno}")),
        drops: stats.drops.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        ..TunnelStatus::described(record, reason)
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn recovery(recovery: &dataplane::RecoveryStats) -> Recovery {
    Recovery {
        lost: recovery.lost,
        lost_to_congestion: recovery.lost_to_congestion,
        recovered: recovery.recovered,
        unrecoverable: recovery.unrecoverable,
        bursts: recovery.bursts,
        delay_median_us: recovery.delay_median.map(us),
        delay_p99_us: recovery.delay_p99.map(us),
        sent_loss_ppm: recovery.sent_loss_ppm,
        redundancy_ppm: recovery.redundancy_ppm,
        window: recovery.window,
        repairs_sent: recovery.repairs_sent,
        repair_bytes: recovery.repair_bytes,
        overhead_ppm: recovery.overhead_ppm,
    }
}

fn health(health: &dataplane::Health) -> Health {
    let delivery = |delivery: dataplane::Delivery| Delivery {
        packets: delivery.packets,
        lost: delivery.lost,
        reordered: delivery.reordered,
        duplicated: delivery.duplicated,
        recent_loss_ppm: delivery.recent_loss_ppm,
    };
    Health {
        state: match health.state {
            dataplane::HealthState::Up => HealthState::Up,
            dataplane::HealthState::Degraded => HealthState::Degraded,
            dataplane::HealthState::Waiting => HealthState::Waiting,
            dataplane::HealthState::Down => HealthState::Down,
        },
        reason: health.reason.clone(),
        since_ms: u64::try_from(health.since.as_millis()).unwrap_or(u64::MAX),
        rtt: health.rtt.map(|rtt| RoundTrip {
            last_us: us(rtt.last),
            min_us: us(rtt.min),
            average_us: us(rtt.average),
            p99_us: us(rtt.p99),
            jitter_us: us(rtt.jitter),
        }),
        probes_sent: health.probes_sent,
        probes_answered: health.probes_answered,
        received: delivery(health.received),
        sent: health.sent.map(delivery),
        path_mtu_bytes: health.path_mtu_bytes,
    }
}
