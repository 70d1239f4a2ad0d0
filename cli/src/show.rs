//! `adit show`: the configuration that one tunnel has, and where each part of it comes from.

use std::{error::Error, fmt::Display, path::Path};

use adit_tunnel::{
    Client, Encap, Engine, Peer, Record, Store, Underlay,
    protocol::{PeerStatus, TunnelStatus},
};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::Said;

/// The whole configuration of one tunnel
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Which tunnel: a pod (default/plumbr-a), a pod's interface (default/plumbr-a:tun), or an attachment (<containerID>:net1:tun)
    #[arg(value_name = "TUNNEL")]
    tunnel: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// One part of a configuration.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Setting {
    key: String,
    value: String,
    from: String,
}

impl Show {
    pub fn run(&self, run_dir: &Path) -> Said {
        let records = Store::new(run_dir).list()?;
        let found: Vec<Record> =
            records.into_iter().flatten().filter(|record| is_meant(record, &self.tunnel)).collect();
        let record = match <[Record; 1]>::try_from(found) {
            Ok([record]) => record,
            Err(found) if found.is_empty() => {
                return Err(format!(
                    "this node has no tunnel {}; `adit status --json` lists those that it has",
                    self.tunnel
                )
                .into());
            }
            Err(found) => {
                let names: Vec<String> = found.iter().map(|record| record.attachment.to_string()).collect();
                return Err(
                    format!("{} has {} tunnels: name one of {}", self.tunnel, names.len(), names.join(", ")).into()
                );
            }
        };
        // What stands in the record can be told without an agent.
        let now = Client::new(run_dir).status().ok();
        let now = now.into_iter().flatten().find(|tunnel| tunnel.attachment == record.attachment);
        let settings = settings(&record, now.as_ref());
        if self.json { as_json(&record, &settings) } else { Ok(as_text(&record, &settings)) }
    }
}

fn is_meant(record: &Record, name: &str) -> bool {
    let Record { attachment, pod, .. } = record;
    [attachment.to_string(), pod.to_string(), format!("{pod}:{}", attachment.if_name)].iter().any(|known| known == name)
}

fn as_json(record: &Record, settings: &[Setting]) -> Result<String, Box<dyn Error>> {
    let document = serde_json::json!({
        "attachment": record.attachment, "pod": record.pod, "network": record.network,
        "netns": record.netns.path, "settings": settings,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn as_text(record: &Record, settings: &[Setting]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["KEY", "VALUE", "FROM"]);
    for Setting { key, value, from } in settings {
        table.add_row([key, value, from]);
    }
    let (pod, netns) = (&record.pod, record.netns.path.display());
    let mut text = format!("{} of pod {pod}, network {}, namespace {netns}\n", record.attachment, record.network);
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn settings(record: &Record, now: Option<&TunnelStatus>) -> Vec<Setting> {
    let Record { spec, written, addresses, routes, .. } = record;
    let origin = Origin { written, annotated: format!("cni-args.{}.", spec.if_name) };
    let mut settings = Vec::new();
    let mut set = |key: &str, value: &dyn Display, from: String| {
        settings.push(Setting { key: key.into(), value: value.to_string(), from });
    };
    set("ifName", &spec.if_name, origin.of("ifName", "default"));
    set("encap", &spec.encap, origin.of("encap", "default"));
    set("engine", &spec.engine, origin.of("engine", &format!("default: who carries {} best", spec.encap)));
    set("encryption", &spec.encryption, origin.of("encryption", &format!("default of {}", spec.encap)));
    set("underlay", &spec.underlay.owner(), origin.of("underlay", "default"));
    let leads = match spec.underlay {
        Underlay::Pod => "default: the chain's own interface",
        Underlay::Host => "found: the node's route to the peers leaves there",
    };
    set("device", &spec.device, origin.of("device", leads));
    let first = format!("found: first address of {}, port of {}", spec.device, spec.encap);
    set("local", &spec.local, origin.of("local", &first));
    set(
        "mtu",
        &spec.mtu_bytes,
        origin.of("mtu", "computed: MTU of the routes to the peers without what encapsulation takes"),
    );
    if let Some(lower) = now.map(|now| now.mtu_bytes).filter(|mtu| *mtu != spec.mtu_bytes) {
        set("mtu now", &lower, "found: what the path to the peers lets through".into());
    }
    if spec.encap == Encap::Udp {
        let milliseconds = |value: Option<u64>| value.map_or_else(|| "not set".into(), |value| format!("{value} ms"));
        set("shortcut", &spec.shortcut, origin.of("shortcut", "default"));
        set("probe.interval", &milliseconds(spec.probe_interval_ms), origin.of("probe", "default of the agent"));
        set("probe.timeout", &milliseconds(spec.probe_timeout_ms), origin.of("probe", "default of the agent"));
        set("probe.mtu", &!spec.fixed_mtu, origin.of("probe", "default"));
        let fec = spec.fec;
        set("fec.mode", &fec.mode.word(), origin.of("fec", "default"));
        set("fec.maxOverhead", &(f64::from(fec.max_overhead_ppm) / 1e6), origin.of("fec", "default"));
        set("fec.target", &(f64::from(fec.target_ppb) / 1e9), origin.of("fec", "default"));
        let delay = format!("{} ms", fec.max_recovery_delay_ms);
        set("fec.maxRecoveryDelay", &delay, origin.of("fec", "default"));
    }
    if let Some(vxlan) = spec.vxlan {
        set("vni", &vxlan.vni, origin.of("vni", "default"));
        set("ttl", &vxlan.ttl, origin.of("ttl", "default: the pod's"));
        set("tos", &vxlan.tos, origin.of("tos", "default"));
    }
    if let Some(key) = spec.public_key {
        let file = spec.private_key_file.as_ref();
        let name = file.map_or_else(|| "derived".into(), ToString::to_string);
        set("privateKeyFile", &name, origin.of("privateKeyFile", "default: this tunnel's own, from the node's secret"));
        set("own public key", &key, "computed: of the private key".into());
    }
    let seen = now.map_or(&[][..], |now| now.peers.as_slice());
    for (index, peer) in spec.peers.iter().enumerate() {
        settings.extend(of_peer(&origin, index, peer, seen.get(index), spec.engine));
    }
    let mut set = |key: &str, value: &dyn Display, from: String| {
        settings.push(Setting { key: key.into(), value: value.to_string(), from });
    };
    let by_ipam = match origin.of("ips", "") {
        from if from.is_empty() => origin.of("ipam", "found"),
        annotation => annotation,
    };
    for address in addresses {
        set("address", address, by_ipam.clone());
    }
    for route in routes {
        let from = route.peer.map_or_else(|| origin.of("ipam", "found"), |peer| format!("allowedIPs of peers[{peer}]"));
        set("route", &route.destination, from);
    }
    settings
}

fn of_peer(origin: &Origin<'_>, index: usize, peer: &Peer, seen: Option<&PeerStatus>, engine: Engine) -> Vec<Setting> {
    // One peer is written in short, too.
    let from = |short: &str, default: &str| match origin.of("peers", "") {
        from if from.is_empty() => origin.of(short, default),
        from => from,
    };
    let mut settings = Vec::new();
    let mut set = |key: &str, value: String, from: String| {
        settings.push(Setting { key: format!("peers[{index}].{key}"), value, from });
    };
    let written = peer.endpoint.map_or_else(|| "not written".into(), |endpoint| endpoint.to_string());
    set(
        "endpoint",
        written,
        peer.endpoint.map_or_else(|| "default: it is heard from first".into(), |_| from("remote", "found")),
    );
    if let Some(endpoint) = seen.filter(|seen| seen.learned).and_then(|seen| seen.endpoint) {
        set("endpoint now", endpoint.to_string(), "learned: the peer was heard from there".into());
    }
    if let Some(key) = peer.public_key {
        set("publicKey", key.to_string(), from("publicKey", "found"));
    }
    if let Some(file) = &peer.preshared_key_file {
        set("presharedKeyFile", file.to_string(), from("presharedKeyFile", "found"));
    }
    let networks: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    set("allowedIPs", networks.join(", "), from("allowedIPs", "default: everything"));
    match peer.keepalive_ms {
        Some(interval) => set("keepalive", format!("{interval} ms"), from("keepalive", "default")),
        None if engine == Engine::Agent => set("keepalive", "off".into(), "default".into()),
        None => {}
    }
    settings
}

/// Who wrote which keys.
struct Origin<'a> {
    written: &'a [String],
    /// Before each key of the annotation.
    annotated: String,
}

impl Origin<'_> {
    /// Where `key` is from; `otherwise` when nobody wrote it.
    fn of(&self, key: &str, otherwise: &str) -> String {
        let by_annotation = format!("{}{key}", self.annotated);
        if self.written.contains(&by_annotation) {
            format!("the pod's annotation: {by_annotation}")
        } else if self.written.iter().any(|written| written == key) {
            format!("the network: {key}")
        } else if self.written.is_empty() && !otherwise.is_empty() {
            "not recorded: attached by an older release".into()
        } else {
            otherwise.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::tests::tunnel;

    fn record(written: &[&str]) -> Record {
        serde_json::from_value(json!({
            "version": 1, "attachment": { "containerId": "c1", "cniIfName": "net1", "ifName": "tun" }, "createdNs": 1,
            "network": "ohio", "pod": { "namespace": "default", "name": "plumbr-a", "uid": "" }, "state": "attached",
            "netns": { "path": "/run/netns/x", "id": { "dev": 4, "inode": 1 } }, "written": written,
            "spec": {
                "ifName": "tun", "encap": "udp", "engine": "agent", "encryption": "none", "device": "net1",
                "local": "10.10.1.200:6090", "mtuBytes": 1456,
                "peers": [{ "endpoint": "10.20.1.200:6090", "allowedIPs": ["0.0.0.0/0"] }],
            },
            "addresses": ["10.4.0.1/30"], "routes": [{ "destination": "10.5.0.0/16" }], "epochFloor": 0,
        }))
        .unwrap()
    }

    fn from(settings: &[Setting], key: &str) -> String {
        let found = settings.iter().find(|setting| setting.key == key);
        found.map(|Setting { value, from, .. }| format!("{value} <- {from}")).unwrap_or_default()
    }

    #[test]
    fn each_value_is_told_with_who_wrote_it() {
        let record =
            record(&["encap", "encryption", "remote", "ipam", "overrides", "cni-args.tun.ips", "cni-args.tun.mtu"]);
        let mut now = tunnel();
        now.mtu_bytes = 1356;
        (now.peers[0].learned, now.peers[0].endpoint) = (true, Some("192.0.2.7:41641".parse().unwrap()));
        let settings = settings(&record, Some(&now));
        for (key, expected) in [
            ("ifName", "tun <- default"),
            ("encap", "udp <- the network: encap"),
            ("encryption", "none <- the network: encryption"),
            ("device", "net1 <- default: the chain's own interface"),
            ("local", "10.10.1.200:6090 <- found: first address of net1, port of udp"),
            ("mtu", "1456 <- the pod's annotation: cni-args.tun.mtu"),
            ("mtu now", "1356 <- found: what the path to the peers lets through"),
            ("peers[0].endpoint", "10.20.1.200:6090 <- the network: remote"),
            ("peers[0].endpoint now", "192.0.2.7:41641 <- learned: the peer was heard from there"),
            ("peers[0].allowedIPs", "0.0.0.0/0 <- default: everything"),
            ("address", "10.4.0.1/30 <- the pod's annotation: cni-args.tun.ips"),
            ("route", "10.5.0.0/16 <- the network: ipam"),
        ] {
            assert_eq!(from(&settings, key), expected);
        }
        let text = as_text(&record, &settings);
        assert!(
            text.starts_with("c1:net1:tun of pod default/plumbr-a, network ohio, namespace /run/netns/x\n"),
            "{text}"
        );
    }

    #[test]
    fn a_record_of_an_older_release_tells_values_and_claims_no_origin() {
        let settings = settings(&record(&[]), None);
        assert_eq!(from(&settings, "mtu"), "1456 <- not recorded: attached by an older release");
        assert_eq!(from(&settings, "mtu now"), "");
        assert_eq!(from(&settings, "address"), "10.4.0.1/30 <- not recorded: attached by an older release");
    }
}
