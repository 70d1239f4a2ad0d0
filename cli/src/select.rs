//! Which tunnel, and which of its peers, a person means.

use std::error::Error;

use adit_tunnel::{
    Client, PublicKey,
    protocol::{PeerStatus, TunnelStatus},
};

/// The tunnel of that name: an attachment (`<containerID>:net1:tun`), a pod (`default/plumbr-a`), or a pod's interface
/// (`default/plumbr-a:tun`).
pub fn tunnel(agent: &Client, name: &str) -> Result<TunnelStatus, Box<dyn Error>> {
    let mut found = agent.status()?;
    found.retain(|tunnel| names(tunnel).iter().any(|known| known == name));
    match <[TunnelStatus; 1]>::try_from(found) {
        Ok([tunnel]) => Ok(tunnel),
        Err(found) if found.is_empty() => {
            Err(format!("the agent has no tunnel {name}; `adit status --json` lists those that it has").into())
        }
        Err(found) => {
            let names: Vec<String> = found.iter().map(|tunnel| tunnel.attachment.to_string()).collect();
            Err(format!("{name} has {} tunnels: name one of {}", names.len(), names.join(", ")).into())
        }
    }
}

fn names(tunnel: &TunnelStatus) -> [String; 3] {
    let TunnelStatus { attachment, pod, .. } = tunnel;
    [attachment.to_string(), pod.to_string(), format!("{pod}:{}", attachment.if_name)]
}

/// The peer with that key; without one the only peer.
pub fn peer(tunnel: &TunnelStatus, key: Option<PublicKey>) -> Result<&PeerStatus, Box<dyn Error>> {
    match (key, tunnel.peers.as_slice()) {
        (None, [only]) => Ok(only),
        (None, peers) => {
            let keys: Vec<String> =
                peers.iter().filter_map(|peer| peer.public_key).map(|key| key.to_string()).collect();
            Err(format!("the tunnel has {} peers: say which by --peer and one of {}", peers.len(), keys.join(", "))
                .into())
        }
        (Some(key), peers) => peers
            .iter()
            .find(|peer| peer.public_key == Some(key))
            .ok_or_else(|| format!("the tunnel has no peer with the public key {key}").into()),
    }
}
