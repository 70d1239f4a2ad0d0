//! What passes in a second, from the differences of counters.

use std::{collections::BTreeMap, time::Instant};

use adit_tunnel::{AttachmentId, protocol::TunnelStatus};
use serde::Serialize;

/// What passes in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

/// A tunnel, and where in its list the peer stands. What the kernel counts by interface is the first one's.
type Whose = (AttachmentId, usize);

/// Counters of one peer: what was received in bytes and packets, what was sent, and the handshakes.
type Counts = [u64; 5];

/// The rates of all peers between the last two looks.
#[derive(Debug, Default)]
pub struct Rates {
    counts: BTreeMap<Whose, (Instant, Counts)>,
    rates: BTreeMap<Whose, Rate>,
}

impl Rates {
    /// Takes another look into account, made at `now`. Counters that became smaller are those of another agent, whose rates are
    /// not known before the next look.
    pub fn add(&mut self, tunnels: &[TunnelStatus], now: Instant) {
        let before = std::mem::take(&mut self.counts);
        self.rates.clear();
        for tunnel in tunnels {
            for (index, counts) in counts(tunnel).into_iter().enumerate() {
                let whose = (tunnel.attachment.clone(), index);
                if let Some(rate) = before.get(&whose).and_then(|(then, old)| between(old, &counts, *then, now)) {
                    self.rates.insert(whose.clone(), rate);
                }
                self.counts.insert(whose, (now, counts));
            }
        }
    }

    /// The rate of a tunnel's peer of that index, if it is known.
    pub fn of(&self, tunnel: &TunnelStatus, index: usize) -> Option<Rate> {
        self.rates.get(&(tunnel.attachment.clone(), index)).copied()
    }
}

fn counts(tunnel: &TunnelStatus) -> Vec<Counts> {
    if let Some(all) = tunnel.traffic {
        return vec![[all.rx_bytes, all.rx_packets, all.tx_bytes, all.tx_packets, 0]];
    }
    let peers = tunnel.peers.iter();
    peers.map(|peer| [peer.rx_bytes, peer.rx_packets, peer.tx_bytes, peer.tx_packets, peer.handshakes]).collect()
}

fn between(old: &Counts, new: &Counts, then: Instant, now: Instant) -> Option<Rate> {
    let elapsed_us = now.saturating_duration_since(then).as_micros();
    let per_second = |(old, new): (&u64, &u64)| {
        let difference = u128::from(new.checked_sub(*old)?);
        u64::try_from(difference.checked_mul(1_000_000)?.checked_div(elapsed_us)?).ok()
    };
    let rates: Option<Vec<u64>> = old.iter().zip(new).map(per_second).collect();
    let [rx_bytes, rx_packets, tx_bytes, tx_packets, _] = *rates?.first_chunk::<5>()?;
    Some(Rate { rx_bytes, rx_packets, tx_bytes, tx_packets })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::table::tests::tunnel;

    #[test]
    fn an_agent_that_started_anew_has_no_rates_before_its_second_look() {
        let start = Instant::now();
        let mut rates = Rates::default();
        let mut look = |bytes: u64, second: u64| {
            let mut seen = tunnel();
            seen.peers[0].rx_bytes = bytes;
            rates.add(&[seen.clone()], start + Duration::from_secs(second));
            rates.of(&seen, 0).map(|rate| rate.rx_bytes)
        };
        let seen = [look(1_000_000, 0), look(3_000_000, 2), look(500, 3), look(1_500, 4)];
        assert_eq!(seen, [None, Some(1_000_000), None, Some(1_000)]);
    }

    #[test]
    fn a_tunnel_that_was_away_has_no_rate_when_it_is_back() {
        let start = Instant::now();
        let mut rates = Rates::default();
        rates.add(&[tunnel()], start);
        rates.add(&[], start + Duration::from_secs(1));
        rates.add(&[tunnel()], start + Duration::from_secs(2));
        assert_eq!(rates.of(&tunnel(), 0), None);
        rates.add(&[tunnel()], start + Duration::from_secs(2));
        assert_eq!(rates.of(&tunnel(), 0), None, "no time has passed");
    }
}
