//! What the other end is told of a tunnel.

use std::{fmt::Write as _, net::SocketAddr};

use adit_tunnel::{
    Encap,
    protocol::{PeerStatus, TunnelStatus},
};
use serde_json::json;

use super::Format;
use crate::Said;

/// `tunnel` as its `peer` has to know it, reached at `endpoint`.
pub fn export(tunnel: &TunnelStatus, peer: Option<&PeerStatus>, format: Format, endpoint: SocketAddr) -> Said {
    let name = format!("{} {}", tunnel.pod, tunnel.attachment.if_name);
    let key = tunnel.public_key.ok_or_else(|| format!("{name} has no key to export: its encryption is none"))?;
    let networks: Vec<String> = tunnel.addresses.iter().map(|address| host(address.ip())).collect();
    let Some(peer) = peer else {
        let entry = json!({ "endpoint": endpoint.to_string(), "publicKey": key, "allowedIPs": networks });
        return Ok(serde_json::to_string_pretty(&entry)? + "\n");
    };
    if tunnel.encap != Encap::Wireguard {
        return Err(format!(
            "{name} speaks {}, which no other WireGuard understands: use --format json for another cluster's network, or \
             \"encap\": \"wireguard\" in this one",
            tunnel.encap
        )
        .into());
    }
    let mut text = String::new();
    let theirs = peer.public_key.map(|key| key.to_string()).unwrap_or_default();
    writeln!(text, "# The other end of {name}, whose public key is {theirs}\n[Interface]")?;
    writeln!(text, "PrivateKey = (the private key of {theirs})")?;
    if let Some(port) = peer.endpoint.filter(|_| !peer.learned).map(|endpoint| endpoint.port()) {
        writeln!(text, "ListenPort = {port}")?;
    }
    if format == Format::WgQuick {
        // A network of one address is most likely the peer's own.
        let own =
            peer.allowed_ips.iter().filter(|network| network.prefix() == if network.is_ipv4() { 32 } else { 128 });
        let own: Vec<String> = own.map(ToString::to_string).collect();
        if own.is_empty() {
            writeln!(text, "Address = (its address in the tunnel, within {})", list(&peer.allowed_ips))?;
        } else {
            writeln!(text, "Address = {}", own.join(", "))?;
        }
        writeln!(text, "MTU = {}", tunnel.mtu_bytes)?;
    }
    writeln!(text, "\n[Peer]\nPublicKey = {key}")?;
    if peer.preshared {
        writeln!(text, "PresharedKey = (what both ends share: the content of the presharedKeyFile)")?;
    }
    writeln!(text, "AllowedIPs = {}\nEndpoint = {endpoint}", networks.join(", "))?;
    Ok(text)
}

fn host(address: std::net::IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn list(networks: &[impl ToString]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use adit_tunnel::PublicKey;

    use super::*;
    use crate::table::tests::tunnel;

    fn sealed(encap: Encap) -> TunnelStatus {
        let mut tunnel = tunnel();
        (tunnel.encap, tunnel.public_key) = (encap, Some(PublicKey::new([1; 32])));
        tunnel.local.set_port(51_820);
        tunnel.addresses.push("fd04::1/64".parse().unwrap());
        let peer = &mut tunnel.peers[0];
        peer.public_key = Some(PublicKey::new([2; 32]));
        peer.allowed_ips = vec!["10.4.0.2/32".parse().unwrap(), "10.5.0.0/16".parse().unwrap()];
        tunnel
    }

    fn exported(tunnel: &TunnelStatus, format: Format) -> String {
        export(tunnel, Some(&tunnel.peers[0]), format, tunnel.local).unwrap()
    }

    #[test]
    fn a_wireguard_elsewhere_gets_a_file_that_lacks_its_own_key_only() {
        let mut tunnel = sealed(Encap::Wireguard);
        tunnel.peers[0].preshared = true;
        let (ours, theirs) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
        assert_eq!(
            exported(&tunnel, Format::WgQuick),
            format!(
                "# The other end of default/plumbr-a tun, whose public key is {theirs}\n\
                 [Interface]\n\
                 PrivateKey = (the private key of {theirs})\n\
                 ListenPort = 6090\n\
                 Address = 10.4.0.2/32\n\
                 MTU = 1456\n\
                 \n\
                 [Peer]\n\
                 PublicKey = {ours}\n\
                 PresharedKey = (what both ends share: the content of the presharedKeyFile)\n\
                 AllowedIPs = 10.4.0.1/32, fd04::1/128\n\
                 Endpoint = 10.10.1.200:51820\n"
            )
        );
        let plain = exported(&tunnel, Format::Wg);
        assert!(!plain.contains("Address") && !plain.contains("MTU"), "{plain}");
        tunnel.peers[0].learned = true;
        assert!(!exported(&tunnel, Format::Wg).contains("ListenPort"), "a port behind a NAT is not its own");
    }

    #[test]
    fn another_cluster_gets_an_element_of_its_peers() {
        let tunnel = sealed(Encap::Udp);
        let text = export(&tunnel, None, Format::Json, "198.51.100.7:6090".parse().unwrap()).unwrap();
        let entry: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            entry,
            json!({
                "endpoint": "198.51.100.7:6090", "publicKey": PublicKey::new([1; 32]),
                "allowedIPs": ["10.4.0.1/32", "fd04::1/128"],
            })
        );
    }

    #[test]
    fn what_the_other_end_could_not_use_is_refused() {
        let udp = sealed(Encap::Udp);
        let refused = export(&udp, Some(&udp.peers[0]), Format::Wg, udp.local).unwrap_err().to_string();
        assert!(refused.contains("--format json"), "{refused}");
        let refused = export(&tunnel(), None, Format::Json, udp.local).unwrap_err().to_string();
        assert!(refused.contains("its encryption is none"), "{refused}");
    }
}
