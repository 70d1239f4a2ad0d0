use serde_json::json;

use super::*;

/// A tunnel with one peer, of a pod with that name.
fn tunnel(pod: &str) -> TunnelStatus {
    let delivery = json!({ "packets": 999, "lost": 1, "reordered": 2, "duplicated": 3, "recentLossPpm": 1000 });
    serde_json::from_value(json!({
        "attachment": { "containerId": "c1", "cniIfName": "net1", "ifName": "tun" },
        "pod": { "namespace": "default", "name": pod, "uid": "" }, "network": "ohio", "encap": "udp", "encryption": "none",
        "engine": "agent", "mtuBytes": 1356, "mtuLimitBytes": 1456, "local": "10.10.1.200:6090", "device": "net1",
        "addresses": [], "carried": true, "reason": "", "drops": { "wrong_source": 7 },
        "peers": [{
            "endpoint": "10.20.1.200:6090", "allowedIPs": [], "established": true, "handshakes": 1,
            "rxBytes": 1536, "rxPackets": 3, "txBytes": 84, "txPackets": 1, "lastSeenMs": 2100,
            "health": {
                "state": "degraded", "reason": "loss", "sinceMs": 1500, "probesSent": 10, "probesAnswered": 9, "received": delivery,
                "rtt": { "lastUs": 900, "minUs": 800, "averageUs": 1250, "p99Us": 4000, "jitterUs": 30 }, "pathMtuBytes": 1400,
            },
        }],
    }))
    .unwrap()
}

fn page_of(tunnels: Vec<TunnelStatus>) -> String {
    let agent = Agent { uptime: Duration::from_millis(1500), open_descriptors: Some(12), descriptor_limit: Some(1024) };
    page(tunnels.into(), agent).unwrap()
}

#[test]
fn everything_that_is_known_is_told_in_base_units() {
    let page = page_of(vec![tunnel("plumbr-a")]);
    let labels = r#"namespace="default",pod="plumbr-a",container="c1",interface="tun""#;
    let peer = format!(r#"{labels},peer="10.20.1.200:6090""#);
    for expected in [
        format!("adit_agent_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "adit_agent_uptime_seconds 1.5".into(),
        "adit_agent_tunnels 1".into(),
        "adit_agent_open_descriptors 12".into(),
        "adit_agent_descriptors_limit 1024".into(),
        format!(
            r#"adit_tunnel_info{{network="ohio",encap="udp",encryption="none",engine="agent",device="net1",local="10.10.1.200:6090",{labels}}} 1"#
        ),
        format!("adit_tunnel_carried{{{labels}}} 1"),
        format!("adit_tunnel_mtu_bytes{{{labels}}} 1356.0"),
        format!("adit_tunnel_mtu_limit_bytes{{{labels}}} 1456.0"),
        format!(r#"adit_tunnel_dropped_packets_total{{{labels},reason="wrong_source"}} 7"#),
        format!(r#"adit_peer_state{{{peer},state="degraded"}} 1"#),
        format!(r#"adit_peer_state{{{peer},state="up"}} 0"#),
        format!("adit_peer_received_bytes_total{{{peer}}} 1536"),
        format!("adit_peer_sent_packets_total{{{peer}}} 1"),
        format!("adit_peer_handshakes_total{{{peer}}} 1"),
        format!("adit_peer_last_seen_age_seconds{{{peer}}} 2.1"),
        format!("adit_peer_state_age_seconds{{{peer}}} 1.5"),
        format!(r#"adit_peer_rtt_seconds{{{peer},stat="p99"}} 0.004"#),
        format!("adit_peer_jitter_seconds{{{peer}}} 0.00003"),
        format!(r#"adit_peer_lost_packets_total{{{peer},direction="in"}} 1"#),
        format!(r#"adit_peer_reordered_packets_total{{{peer},direction="in"}} 2"#),
        format!(r#"adit_peer_duplicated_packets_total{{{peer},direction="in"}} 3"#),
        format!(r#"adit_peer_loss_ratio{{{peer},direction="in"}} 0.001"#),
        format!("adit_peer_probes_answered_total{{{peer}}} 9"),
        format!("adit_peer_path_mtu_bytes{{{peer}}} 1400.0"),
        "# UNIT adit_peer_rtt_seconds seconds".into(),
        "# TYPE adit_peer_received_bytes counter".into(),
        "# HELP adit_peer_received_bytes Inner bytes received from the peer.".into(),
    ] {
        assert!(page.lines().any(|line| line == expected), "{expected}\nin\n{page}");
    }
    assert!(page.ends_with("# EOF\n") && !page.contains("direction=\"out\""), "{page}");
}

#[test]
fn whoever_names_a_pod_writes_no_lines_of_the_page() {
    let page = page_of(vec![tunnel("a\"} 1\nadit_agent_tunnels 99\n\\")]);
    assert!(page.contains(r#"pod="a\"} 1\nadit_agent_tunnels 99\n\\","#), "{page}");
    assert!(!page.lines().any(|line| line == "adit_agent_tunnels 99"), "{page}");
}

#[test]
fn a_node_without_tunnels_has_a_page_as_well() {
    let page = page_of(vec![]);
    assert!(page.contains("adit_agent_tunnels 0\n") && page.ends_with("# EOF\n"), "{page}");
}

/// The metrics that a text of conf/prometheus names.
fn names_in(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("adit_")).collect()
}

#[test]
fn the_example_alerts_and_the_dashboard_ask_for_what_there_is() {
    let alerts = names_in(include_str!("../../../../conf/prometheus/alerts.yaml"));
    let dashboard = include_str!("../../../../conf/prometheus/dashboard.json");
    assert!(serde_json::from_str::<serde_json::Value>(dashboard).unwrap()["panels"].is_array());
    let dashboard = names_in(dashboard);
    assert!(alerts.len() >= 7 && dashboard.len() >= 14, "{alerts:?} {dashboard:?}");
    let page = page_of(vec![tunnel("plumbr-a")]);
    for name in alerts.into_iter().chain(dashboard) {
        assert!(page.contains(&format!("\n{name}{{")) || page.contains(&format!("\n{name} ")), "{name} in {page}");
    }
}
