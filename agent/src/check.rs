//! What CNI's STATUS, CHECK and a waiting ADD ask: whether one more tunnel can be taken, and whether one is as it should be.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use adit_tunnel::{
    AttachmentId, Encap,
    protocol::{HealthState, PeerStatus, TunnelStatus},
};
use nix::sys::statvfs::fstatvfs;

/// What a tunnel takes while it is handed over: two descriptors, the connection, a file of the record.
const DESCRIPTORS_OF_A_TUNNEL: usize = 4;

/// Why no more tunnels can be taken, in words: no descriptors are left, or no room for records in `records`.
pub fn room(records: &Path) -> Result<(), String> {
    let spare =
        |fd: &OwnedFd| -> io::Result<Vec<OwnedFd>> { (0..DESCRIPTORS_OF_A_TUNNEL).map(|_| fd.try_clone()).collect() };
    let directory = File::open(records).map_err(|error| format!("cannot open {}: {error}", records.display()))?.into();
    if let Err(error) = spare(&directory) {
        return Err(format!(
            "no descriptors are left for a tunnel: {error}; raise the service's LimitNOFILE, or have fewer tunnels"
        ));
    }
    let space =
        fstatvfs(&directory).map_err(|errno| format!("cannot see the room in {}: {errno}", records.display()))?;
    // A file system without a limit of files counts none.
    let is_full = space.blocks_available() == 0 || (space.files() > 0 && space.files_available() == 0);
    if is_full {
        return Err(format!("{} is full, and a tunnel needs a record there; make room", records.display()));
    }
    Ok(())
}

/// What is missing of a tunnel, with its `peers` or without, in words.
pub fn vouch(status: Option<TunnelStatus>, attachment: &AttachmentId, peers: bool) -> Result<(), String> {
    let Some(status) = status else {
        return Err(format!(
            "tunnel {attachment} is unknown to the agent, which takes recorded tunnels up within two seconds; see its log if this stays"
        ));
    };
    if !status.carried {
        return Err(format!("tunnel {attachment} is not carried: {}", status.reason));
    }
    let silent = status.peers.iter().find(|peer| peer.health_state() >= HealthState::Waiting);
    match silent.filter(|_| peers && status.encap != Encap::Vxlan) {
        Some(peer) => Err(missing_leg(attachment, peer)),
        None => Ok(()),
    }
}

fn missing_leg(attachment: &AttachmentId, peer: &PeerStatus) -> String {
    let name = match (peer.endpoint, peer.public_key) {
        (Some(endpoint), _) => endpoint.to_string(),
        (None, Some(key)) => format!("with the key {key}"),
        (None, None) => "without an endpoint".into(),
    };
    let why = peer.health.as_ref().map(|health| health.reason.as_str()).filter(|reason| !reason.is_empty());
    let why = why.map_or_else(|| seen(peer), str::to_owned);
    format!(
        "tunnel {attachment}: peer {name} does not answer: {why}; see whether it runs, knows this end's address and key, and whether UDP passes both ways"
    )
}

/// What is known of a peer that nobody asks.
fn seen(peer: &PeerStatus) -> String {
    match (peer.last_sent_ms, peer.last_seen_ms) {
        (None, _) => "nothing was sent to it yet".into(),
        (Some(_), None) => "something was sent to it, and nothing ever came back".into(),
        (Some(_), Some(ago)) => format!("nothing came from it since {ago} ms"),
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::{Record, protocol::Health};
    use serde_json::json;

    use super::*;

    fn tunnel(state: Option<HealthState>) -> TunnelStatus {
        let record: Record = serde_json::from_value(json!({
            "version": 1, "attachment": { "containerId": "c1", "cniIfName": "net1", "ifName": "tun" }, "createdNs": 1,
            "network": "ohio", "pod": { "namespace": "default", "name": "plumbr-a", "uid": "" }, "state": "attached",
            "netns": { "path": "/run/netns/x", "id": { "dev": 4, "inode": 5 } },
            "spec": {
                "ifName": "tun", "encap": "udp", "engine": "agent", "encryption": "none", "device": "net1",
                "local": "10.10.1.200:6090", "mtuBytes": 1456,
                "peers": [{ "endpoint": "10.20.1.200:6090", "allowedIPs": ["0.0.0.0/0"] }],
            },
            "addresses": [], "routes": [], "epochFloor": 3,
        }))
        .unwrap();
        let mut status = TunnelStatus::described(&record, None);
        let health = state.map(|state| Health { state, reason: "12 messages left, none came back".into(), ..health() });
        status.peers = vec![PeerStatus { health, ..PeerStatus::described(&record.spec.peers[0]) }];
        status
    }

    fn health() -> Health {
        serde_json::from_value(json!({
            "state": "up", "sinceMs": 1, "probesSent": 1, "probesAnswered": 0,
            "received": { "packets": 0, "lost": 0, "reordered": 0, "duplicated": 0, "recentLossPpm": 0 },
        }))
        .unwrap()
    }

    #[test]
    fn peers_count_only_where_they_are_asked_for() {
        let id = tunnel(None).attachment;
        for (state, missing) in [
            (None, Some("nothing was sent to it yet")),
            (Some(HealthState::Waiting), Some("12 messages left, none came back")),
            (Some(HealthState::Down), Some("10.20.1.200:6090")),
            (Some(HealthState::Degraded), None),
            (Some(HealthState::Up), None),
        ] {
            assert_eq!(vouch(Some(tunnel(state)), &id, false), Ok(()));
            let said = vouch(Some(tunnel(state)), &id, true);
            match missing {
                None => assert_eq!(said, Ok(())),
                Some(words) => assert!(said.as_ref().is_err_and(|said| said.contains(words)), "{said:?}"),
            }
        }
    }

    #[test]
    fn room_is_found_in_a_directory_and_not_where_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(room(directory.path()), Ok(()));
        assert!(room(&directory.path().join("gone")).unwrap_err().contains("cannot open"));
    }

    #[test]
    fn what_is_not_carried_or_not_known_is_said() {
        let id = tunnel(None).attachment;
        let lost = TunnelStatus { carried: false, reason: "port 6090 is taken".into(), ..tunnel(None) };
        let said = vouch(Some(lost), &id, false).unwrap_err();
        assert_eq!(said, "tunnel c1:net1:tun is not carried: port 6090 is taken");
        assert!(vouch(None, &id, false).unwrap_err().contains("unknown to the agent"));
    }
}
