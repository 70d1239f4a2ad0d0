//! WireGuard tunnels that the kernel carries: the agent tells the device in the pod its keys and peers, and reads how they are.
//!
//! The device needs nobody to go on: it lives as long as the pod, whatever becomes of the agent.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use adit_net::{
    Netlink, Wireguard,
    counters::{self, Counters},
    wireguard::{Device, DeviceChange, Peer as Found, PeerAction, PeerChange, Secret},
};
use adit_tunnel::{
    Peer, PublicKey, Record,
    keys::Keys,
    protocol::{PeerStatus, TunnelStatus},
};
use ipnetwork::IpNetwork;

use crate::{Error, Result, config::known_endpoint, reopen::within};

/// How old keys may be with which the kernel still sends (`REJECT_AFTER_TIME`, drivers/net/wireguard/messages.h).
const KEYS_LAST: Duration = Duration::from_secs(180);

/// Makes the device of `record` what the record and its `keys` say. What is so already stays untouched, and with it its sessions; and a
/// peer stays where it was last heard from.
///
/// # Errors
/// The namespace or the device is gone, the port is taken, or the kernel refuses.
pub fn configure(record: &Record, keys: &Keys) -> Result<()> {
    within(&record.netns, || {
        let kernel = Wireguard::open()?;
        let name = record.spec.if_name.as_str();
        let found = kernel.device(name)?.ok_or_else(|| Error::LinkGone(name.to_owned()))?;
        if is_as_recorded(record, &found) {
            // Which preshared keys it has is not told. The same ones again cost no session.
            return Ok(kernel.set(name, &preshared(record, keys))?);
        }
        kernel.set(name, &change(record, keys, &found)).map_err(|error| {
            if error.is_address_in_use() { Error::PortTaken(record.spec.local.port()) } else { error.into() }
        })?;
        let found = kernel.device(name)?.ok_or_else(|| Error::LinkGone(name.to_owned()))?;
        // It leaves out a peer that has the device's own key without a word.
        if is_as_recorded(record, &found) { Ok(()) } else { Err(Error::NotAsTold(name.to_owned())) }
    })
}

/// Where the device's peers are that are not where the specification says.
///
/// # Errors
/// The namespace or the device is gone, or the kernel refuses.
pub fn learned(record: &Record) -> Result<BTreeMap<PublicKey, SocketAddr>> {
    let Seen { device, .. } = look(record)?;
    let peers = device.peers.iter().filter_map(|found| {
        let (public, endpoint) = (PublicKey::new(found.public_key), found.endpoint?);
        let told =
            record.spec.peers.iter().any(|peer| peer.public_key == Some(public) && peer.endpoint == Some(endpoint));
        (!told).then_some((public, endpoint))
    });
    Ok(peers.collect())
}

/// The state of `record`'s tunnel.
pub fn status(record: &Record) -> TunnelStatus {
    let (device, counted, reason) = match look(record) {
        Ok(Seen { device, counters, up }) => {
            let name = &record.spec.if_name;
            let changed = "does not have the keys, peers and port that it was told: somebody in the pod changed them";
            let reason = match (up, is_as_recorded(record, &device)) {
                (true, true) => None,
                (_, false) => Some(format!("{name} {changed}; delete the pod, or start the agent anew")),
                (false, true) => Some(format!("{name} is down: delete the pod")),
            };
            (Some(device), Some(counters), reason)
        }
        Err(error) => (None, None, Some(error.to_string())),
    };
    let now = SystemTime::now();
    let peers = record.spec.peers.iter().map(|peer| peer_status(record, peer, device.as_ref(), now)).collect();
    TunnelStatus { peers, traffic: counted.map(Into::into), ..TunnelStatus::described(record, reason) }
}

fn peer_status(record: &Record, peer: &Peer, device: Option<&Device>, now: SystemTime) -> PeerStatus {
    let found = device.zip(peer.public_key).and_then(|(device, public)| of_key(device, public));
    let age = found.and_then(|found| found.last_handshake).map(|then| now.duration_since(then).unwrap_or_default());
    let endpoint = found.and_then(|found| found.endpoint).or_else(|| known_endpoint(record, peer));
    let established = age.is_some_and(|age| age < KEYS_LAST);
    PeerStatus {
        endpoint,
        learned: endpoint != peer.endpoint,
        cipher: established.then(|| "chacha20-poly1305".to_owned()),
        established,
        rx_bytes: found.map_or(0, |found| found.rx_bytes),
        tx_bytes: found.map_or(0, |found| found.tx_bytes),
        last_handshake_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        ..PeerStatus::described(peer)
    }
}

struct Seen {
    device: Device,
    counters: Counters,
    up: bool,
}

fn look(record: &Record) -> Result<Seen> {
    let name = record.spec.if_name.as_str();
    within(&record.netns, || {
        let gone = || Error::LinkGone(name.to_owned());
        let link = Netlink::open()?.link(name)?.ok_or_else(gone)?;
        let device = Wireguard::open()?.device(name)?.ok_or_else(gone)?;
        Ok(Seen { device, counters: counters::read(name)?.ok_or_else(gone)?, up: link.up })
    })
}

fn of_key(device: &Device, public: PublicKey) -> Option<&Found> {
    device.peers.iter().find(|found| found.public_key == public.bytes())
}

/// Whether the device has the key, the port and the peers of `record`, and no mark. Which preshared keys it has cannot be told without
/// reading them, nor whether an endpoint is where a peer was heard from or where somebody has put it.
fn is_as_recorded(record: &Record, device: &Device) -> bool {
    let spec = &record.spec;
    let same = |peer: &Peer| {
        let found = peer.public_key.and_then(|public| of_key(device, public));
        found.is_some_and(|found| {
            found.has_preshared_key == peer.preshared_key_file.is_some()
                && found.keepalive_seconds == keepalive_seconds(peer)
                && networks(&found.allowed_ips) == networks(&peer.allowed_ips)
        })
    };
    device.public_key.map(PublicKey::new) == spec.public_key
        && device.fwmark == 0
        && device.listen_port == spec.local.port()
        && device.peers.len() == spec.peers.len()
        && spec.peers.iter().all(same)
}

/// In no order, without what stands behind the prefix.
fn networks(networks: &[IpNetwork]) -> HashSet<(IpAddr, u8)> {
    networks.iter().map(|network| (network.network(), network.prefix())).collect()
}

fn keepalive_seconds(peer: &Peer) -> u16 {
    u16::try_from(peer.keepalive_ms.unwrap_or_default().div_ceil(1000)).unwrap_or(u16::MAX)
}

/// The preshared keys of peers that are there.
fn preshared<'a>(record: &'a Record, keys: &'a Keys) -> DeviceChange<'a> {
    let peers = record.spec.peers.iter().zip(&keys.preshared).filter_map(|(peer, preshared)| {
        Some(PeerChange {
            action: PeerAction::Update,
            preshared_key: Some(preshared.as_ref().map(|key| Secret::new(key.bytes()))),
            ..PeerChange::new(peer.public_key?.bytes())
        })
    });
    DeviceChange { peers: peers.collect(), ..DeviceChange::default() }
}

/// Everything that makes `found` the device of `record`.
fn change<'a>(record: &'a Record, keys: &'a Keys, found: &Device) -> DeviceChange<'a> {
    let spec = &record.spec;
    let stays = |found: &Found| spec.peers.iter().any(|peer| peer.public_key == Some(PublicKey::new(found.public_key)));
    let gone = found
        .peers
        .iter()
        .filter(|found| !stays(found))
        .map(|found| PeerChange { action: PeerAction::Remove, ..PeerChange::new(found.public_key) });
    let told = spec.peers.iter().zip(&keys.preshared).filter_map(|(peer, preshared)| {
        let public = peer.public_key?;
        let heard_from = of_key(found, public).and_then(|found| found.endpoint);
        Some(PeerChange {
            preshared_key: Some(preshared.as_ref().map(|key| Secret::new(key.bytes()))),
            endpoint: if heard_from.is_some() { None } else { known_endpoint(record, peer) },
            keepalive_seconds: Some(keepalive_seconds(peer)),
            replace_allowed_ips: true,
            allowed_ips: &peer.allowed_ips,
            ..PeerChange::new(public.bytes())
        })
    });
    DeviceChange {
        private_key: Some(Some(Secret::new(keys.private.bytes()))),
        listen_port: Some(spec.local.port()),
        fwmark: Some(0),
        peers: gone.chain(told).collect(),
        ..DeviceChange::default()
    }
}
