//! The tunnels that the kernel carries alone. No process knows of them: what they are stands in their records, how they are in the
//! pod's namespace.

use adit_net::{LinkKind, Netlink, Netns, counters};
use adit_tunnel::{
    Error, Record, State, Store,
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
            Ok(record) if !record.spec.needs_agent() => found.tunnels.push(status(&record)),
            Ok(_) => found.needs_agent = true,
            Err(error) => found.unreadable.push(error),
        }
    }
    Ok(found)
}

fn status(record: &Record) -> TunnelStatus {
    let (traffic, reason) = match look(record) {
        Ok(traffic) => (traffic, None),
        Err(reason) => (None, Some(reason)),
    };
    // What one peer alone gets is what the interface counts.
    let of_one = traffic.filter(|_| record.spec.peers.len() == 1).unwrap_or_default();
    let peers = record.spec.peers.iter().map(|peer| PeerStatus {
        rx_bytes: of_one.rx_bytes,
        rx_packets: of_one.rx_packets,
        tx_bytes: of_one.tx_bytes,
        tx_packets: of_one.tx_packets,
        ..PeerStatus::described(peer)
    });
    TunnelStatus { peers: peers.collect(), traffic, ..TunnelStatus::described(record, reason) }
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
            let counted = pod.run(|| counters::read(name));
            Ok(counted.ok().and_then(Result::ok).flatten().map(Into::into))
        }
        None => Err(format!("the pod has no interface {name} any more: delete the pod")),
    }
}
