//! The tunnels that the kernel carries. No process knows of them: what they are stands in their records, how they are in the
//! pod's namespace.

use std::{collections::BTreeMap, fs};

use adit_net::{LinkKind, Netlink, Netns};
use adit_tunnel::{
    Engine, Error, Record, State, Store,
    protocol::{PeerStatus, Traffic, TunnelStatus},
};

/// What the records of a node say.
#[derive(Default)]
pub struct Recorded {
    /// The tunnels of the kernel.
    pub tunnels: Vec<TunnelStatus>,
    /// Whether there are others, of which the agent knows more.
    pub needs_agent: bool,
    /// Records that cannot be read.
    pub unreadable: Vec<Error>,
}

/// Reads the records of `store`, and looks at the tunnels that are the kernel's.
///
/// # Errors
/// The records cannot be listed.
pub fn recorded(store: &Store) -> Result<Recorded, Error> {
    let mut found = Recorded::default();
    for record in store.list()? {
        match record {
            Ok(record) if record.spec.encap.engine() == Engine::Kernel => found.tunnels.push(status(&record)),
            Ok(_) => found.needs_agent = true,
            Err(error) => found.unreadable.push(error),
        }
    }
    Ok(found)
}

fn status(record: &Record) -> TunnelStatus {
    let (traffic, reason) = match look(record) {
        Ok(traffic) => (traffic, String::new()),
        Err(reason) => (None, reason),
    };
    let spec = &record.spec;
    // What one peer alone gets is what the interface counts.
    let of_one = traffic.filter(|_| spec.peers.len() == 1).unwrap_or_default();
    let peers = spec.peers.iter().map(|peer| PeerStatus {
        endpoint: peer.endpoint,
        learned: false,
        public_key: None,
        preshared: false,
        cipher: None,
        allowed_ips: peer.allowed_ips.clone(),
        established: false,
        handshakes: 0,
        shortcut: false,
        rx_bytes: of_one.rx_bytes,
        rx_packets: of_one.rx_packets,
        tx_bytes: of_one.tx_bytes,
        tx_packets: of_one.tx_packets,
        last_seen_ms: None,
        last_sent_ms: None,
        last_handshake_ms: None,
    });
    TunnelStatus {
        attachment: record.attachment.clone(),
        pod: record.pod.clone(),
        network: record.network.clone(),
        encap: spec.encap,
        encryption: spec.encryption,
        public_key: None,
        engine: Engine::Kernel.to_string(),
        mtu_bytes: spec.mtu_bytes,
        local: spec.local,
        device: spec.device.to_string(),
        addresses: record.addresses.clone(),
        carried: reason.is_empty(),
        reason,
        peers: peers.collect(),
        traffic,
        offloads: Vec::new(),
        offload_refusal: None,
        drops: BTreeMap::new(),
    }
}

/// What the interface has counted; or why it carries nothing.
fn look(record: &Record) -> Result<Option<Traffic>, String> {
    if record.state == State::Adding {
        return Err("its ADD is at work, or was killed".into());
    }
    let (path, name) = (record.netns.path.display(), record.spec.if_name.as_str());
    let gone = || format!("the namespace {path} is gone; DEL or GC removes the record");
    let pod = Netns::open(&record.netns.path).map_err(|_| gone())?;
    let netlink = Netlink::open_in(&pod).map_err(|error| error.to_string())?;
    if !record.netns.is(pod.id(), netlink.netns_cookie()) {
        return Err(gone());
    }
    match netlink.link(name).map_err(|error| error.to_string())? {
        Some(link) if link.kind != LinkKind::Vxlan => Err(format!("{name} is another interface than ADD made")),
        Some(link) if !link.up => Err(format!("{name} is down, and has lost its routes: delete the pod")),
        Some(_) => {
            let counted = pod.run(|| fs::read_to_string("/proc/thread-self/net/dev"));
            Ok(counted.ok().and_then(Result::ok).and_then(|text| traffic(&text, name)))
        }
        None => Err(format!("the pod has no interface {name} any more: delete the pod")),
    }
}

/// The counters of an interface in the text of `/proc/net/dev`: eight columns of what it received, eight of what it sent.
fn traffic(text: &str, name: &str) -> Option<Traffic> {
    let columns = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = columns.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect();
    let [rx_bytes, rx_packets, _, _, _, _, _, _, tx_bytes, tx_packets, ..] = numbers[..] else { return None };
    Some(Traffic { rx_bytes, rx_packets, tx_bytes, tx_packets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_an_interface_are_read_by_its_whole_name() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
            \x20 tun1: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
            \x20  tun:  84       1    0    0    0     0          0         0      168       2    0    0    0     0       0          0\n";
        let expected = Traffic { rx_bytes: 84, rx_packets: 1, tx_bytes: 168, tx_packets: 2 };
        assert_eq!(traffic(text, "tun"), Some(expected));
        assert_eq!(traffic(text, "net1"), None);
        assert_eq!(traffic("tun: 1 2 3\n", "tun"), None);
    }
}
