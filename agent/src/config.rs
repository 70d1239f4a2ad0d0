//! What the data plane is told of a recorded tunnel.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use adit_dataplane::{
    self as dataplane, FecPolicy, Identity, PeerConfig, PeerId, PeerKeys, Probing, Security, TunnelConfig, TunnelStats,
};
use adit_tunnel::{
    Encap, Encryption, Fec, FecMode, Peer, PublicKey, Record,
    keys::Keys,
    mtu::{FLOOR_BYTES, FLOOR_WITH_IPV6_BYTES},
};
use ipnetwork::IpNetwork;

/// The tunnel of `record`, with its `keys` where it is sealed.
pub fn tunnel_config(record: &Record, keys: Option<Keys>) -> TunnelConfig {
    let spec = &record.spec;
    let identity = keys.as_ref().map(identity);
    let mut preshared = keys.map(|keys| keys.preshared).unwrap_or_default().into_iter();
    let peers = (0..).map(PeerId).zip(&spec.peers).map(|(id, peer)| PeerConfig {
        id,
        endpoint: peer.endpoint,
        heard_from: known_endpoint(record, peer),
        allowed_ips: peer.allowed_ips.clone(),
        keepalive: peer.keepalive_ms.map(Duration::from_millis),
        keys: peer.public_key.map(|public| PeerKeys {
            public: public.bytes(),
            also: record.also.get(&public).copied().map(PublicKey::bytes),
            preshared: preshared.next().flatten().map(Into::into),
        }),
    });
    let security = match identity {
        None => Security::Plain,
        Some(identity) if spec.encap == Encap::Wireguard => Security::WireGuard(identity),
        Some(identity) => Security::Noise(identity),
    };
    TunnelConfig {
        local: spec.local,
        mtu_bytes: spec.mtu_bytes,
        epoch: record.epoch_floor,
        shortcut: spec.shortcut,
        security,
        probing: Probing {
            interval: spec.probe_interval_ms.map(Duration::from_millis),
            timeout: spec.probe_timeout_ms.map(Duration::from_millis),
            path_mtu: !spec.fixed_mtu,
            floor_bytes: if has_ipv6(record) { FLOOR_WITH_IPV6_BYTES } else { FLOOR_BYTES },
            start_bytes: None,
        },
        fec: recovery(&spec.fec),
        peers: peers.collect(),
    }
}

fn recovery(fec: &Fec) -> FecPolicy {
    let mode = match fec.mode {
        FecMode::Auto => dataplane::FecMode::Auto,
        FecMode::Off => dataplane::FecMode::Off,
        FecMode::Fixed => dataplane::FecMode::Fixed { redundancy_ppm: fec.redundancy_ppm, window: fec.window },
    };
    let max_recovery_delay = Duration::from_millis(fec.max_recovery_delay_ms);
    FecPolicy { mode, max_overhead_ppm: fec.max_overhead_ppm, target_ppb: fec.target_ppb, max_recovery_delay }
}

/// The same tunnel, whose interface has this MTU now, as far as is known.
pub fn starting_at(mut config: TunnelConfig, mtu_bytes: Option<u16>) -> TunnelConfig {
    config.probing.start_bytes = mtu_bytes;
    config
}

/// Whether the kernel would take something from the interface whose MTU is too small for IPv6.
fn has_ipv6(record: &Record) -> bool {
    let routes = record.routes.iter().map(|route| &route.destination);
    record.addresses.iter().chain(routes).any(IpNetwork::is_ipv6)
}

/// Who this end is to its peers.
pub fn identity(keys: &Keys) -> Identity {
    Identity { private: keys.private.clone().into(), also: keys.also.clone().map(Into::into) }
}

/// Where the peer is, as far as it is known without the data plane: where it was last heard from wins.
pub fn known_endpoint(record: &Record, peer: &Peer) -> Option<SocketAddr> {
    let learned = peer.public_key.and_then(|public| record.learned.get(&public)).copied();
    learned.or(peer.endpoint)
}

/// Whether the peers of `record`'s tunnel are known by their keys, and may be anywhere.
pub fn is_sealed(record: &Record) -> bool {
    record.spec.encryption != Encryption::None
}

/// Where peers are that are not where the specification says, according to the data plane.
pub fn learned(record: &Record, stats: &TunnelStats) -> BTreeMap<PublicKey, SocketAddr> {
    let peers = (0..).map(PeerId).zip(&record.spec.peers).filter_map(|(id, peer)| {
        let known = stats.peers.iter().find(|stats| stats.id == id).and_then(|stats| stats.endpoint);
        let endpoint = known.or_else(|| known_endpoint(record, peer))?;
        Some((peer.public_key?, endpoint)).filter(|_| peer.endpoint != Some(endpoint))
    });
    peers.collect()
}

#[cfg(test)]
mod tests {
    use adit_tunnel::keys::{KeyNames, KeyStore};
    use serde_json::json;

    use super::*;

    /// A tunnel whose second peer alone has a preshared key, and the keys of it.
    fn sealed(encap: &str) -> (Record, Keys) {
        let directory = tempfile::tempdir().unwrap();
        let store = KeyStore::new(directory.path());
        let own = store.generate("default", &"own.key".parse().unwrap()).unwrap();
        store.generate("default", &"second.psk".parse().unwrap()).unwrap();
        let [first, second] = [1, 2].map(|byte| PublicKey::new([byte; 32]));
        let record: Record = serde_json::from_value(json!({
            "version": 1,
            "attachment": { "containerId": "c1", "cniIfName": "net1", "ifName": "tun" },
            "createdNs": 7, "network": "ohio",
            "pod": { "namespace": "default", "name": "plumbr-a", "uid": "" },
            "state": "attached",
            "netns": { "path": "/run/netns/p", "id": { "dev": 4, "inode": 7 } },
            "spec": {
                "ifName": "tun", "encap": encap, "engine": "agent", "encryption": "noise", "device": "net1", "local": "10.10.1.200:6090",
                "mtuBytes": 1440, "privateKeyFile": "own.key", "publicKey": own,
                "peers": [
                    { "publicKey": first, "endpoint": "10.20.1.200:6090", "allowedIPs": ["10.4.0.2/32"] },
                    { "publicKey": second, "presharedKeyFile": "second.psk", "allowedIPs": ["10.4.0.3/32"] },
                ],
            },
            "addresses": [], "routes": [], "epochFloor": 3,
        }))
        .unwrap();
        let keys = store.load(&KeyNames::of(&record)).unwrap();
        (record, keys)
    }

    #[test]
    fn each_format_gets_its_identity_and_each_peer_its_own_keys() {
        for encap in ["udp", "wireguard"] {
            let (record, keys) = sealed(encap);
            let second = keys.preshared[1].clone().map(Into::into);
            assert!(second.is_some());
            let config = tunnel_config(&record, Some(keys));
            assert_eq!(matches!(config.security, Security::WireGuard(_)), encap == "wireguard");
            assert_eq!(matches!(config.security, Security::Noise(_)), encap == "udp");
            let found: Vec<_> = config.peers.into_iter().map(|peer| peer.keys.unwrap()).collect();
            assert_eq!((found[0].public, &found[0].preshared), ([1; 32], &None));
            assert_eq!((found[1].public, &found[1].preshared), ([2; 32], &second));
        }
    }

    #[test]
    fn where_a_peer_was_heard_from_wins_and_is_kept_only_where_it_says_something_new() {
        let (mut record, keys) = sealed("udp");
        let [configured, heard] = ["10.20.1.200:6090", "192.0.2.7:41641"].map(|text| text.parse().unwrap());
        assert_eq!(known_endpoint(&record, &record.spec.peers[0]), Some(configured));
        assert_eq!(known_endpoint(&record, &record.spec.peers[1]), None);
        assert!(learned(&record, &TunnelStats::default()).is_empty());

        record.learned.insert(PublicKey::new([1; 32]), heard);
        record.learned.insert(PublicKey::new([2; 32]), heard);
        // What the data plane does not know yet is not forgotten.
        assert_eq!(learned(&record, &TunnelStats::default()), record.learned);
        let config = tunnel_config(&record, Some(keys));
        assert_eq!(config.peers.iter().map(|peer| peer.heard_from).collect::<Vec<_>>(), [Some(heard); 2]);
        assert_eq!(config.peers.iter().map(|peer| peer.endpoint).collect::<Vec<_>>(), [Some(configured), None]);
        record.learned.insert(PublicKey::new([1; 32]), configured);
        assert!(!learned(&record, &TunnelStats::default()).contains_key(&PublicKey::new([1; 32])));
    }
}
