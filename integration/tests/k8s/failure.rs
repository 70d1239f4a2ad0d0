//! What goes wrong in a cluster, and how the pods' networks come out of it.

use std::time::Duration;

use adit_lab::{Error, Result, eventually};
use serde_json::{Value, json};

use crate::{
    Outcome, Test,
    cluster::{BOTH, Cluster, MUMBAI, OHIO, Stage, k8s},
    networks::{both_reach, both_ready, deployment, nad, pair},
};

pub const TESTS: &[Test] = &[
    ("an_event_says_what_is_wrong_with_a_network_and_the_pod_starts_once_it_is_right", broken_network),
    ("a_pod_deleted_by_force_is_replaced_under_the_same_address", replaced),
    ("a_deployment_that_is_rolled_out_again_keeps_its_tunnel", rolled_out),
    ("nothing_is_left_of_a_pod_that_multus_has_forgotten", forgotten),
    ("pods_and_tunnels_come_back_after_a_node_has_rebooted", rebooted),
];

/// The agent looks for dead pods every few seconds.
const SWEPT: Duration = Duration::from_secs(30);
const REBOOT: Duration = Duration::from_secs(300);

/// Waits until the agent of a node carries `count` tunnels; returns them.
fn tunnels(cluster: Cluster, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} tunnels in {}", cluster.name), SWEPT, || {
        let tunnels = cluster.tunnels()?;
        if tunnels.len() == count { Ok(Some(tunnels)) } else { Err(Error::Unexpected(format!("{tunnels:?}"))) }
    })
}

fn broken_network() -> Outcome {
    let stage = Stage::new("broken")?;
    let ipam = json!({"type": "static", "routes": [{"dst": "10.20.0.0/16"}]});
    let bridge = json!({"type": "bridge", "isGateway": true, "capabilities": {"ips": true}, "ipam": ipam});
    let inner = json!({"type": "static", "addresses": [{"address": "10.4.0.1/30"}]});
    let mut tun = json!({"type": "tun", "encap": "udp", "remote": "10.20.1.200", "ipam": inner});
    let list = |tun: &Value| nad("ohio", &json!({"cniVersion": "1.1.0", "plugins": [bridge, tun]}));

    // Neither a key nor the word for a tunnel without encryption.
    stage.apply(OHIO, &list(&tun))?;
    stage.apply_pod(OHIO, "ohio")?;
    let told = eventually("an event about the sandbox", Duration::from_secs(30), || {
        let events =
            stage.kubectl(OHIO, "get events --field-selector reason=FailedCreatePodSandBox --output json")?.json()?;
        Ok(events["items"][0]["message"].as_str().map(str::to_owned))
    })?;
    for word in ["publicKey", "encryption", "none"] {
        assert!(told.contains(word), "{word} not in: {told}");
    }

    tun["encryption"] = json!("none");
    stage.apply(OHIO, &list(&tun))?;
    stage.ready(OHIO, "pod/plumbr-a")?;
    Ok(())
}

/// The new pod comes before the old one's DEL, and answers in its place.
fn replaced() -> Outcome {
    let stage = pair("replaced", "bridge-tun")?;
    both_reach(&stage)?;
    for _ in 0..3 {
        let before = tunnels(OHIO, 1)?;
        stage.kubectl(OHIO, "delete pod plumbr-a --grace-period=0 --force --wait=true")?.ok()?;
        stage.apply_pod(OHIO, "ohio-bridge-tun")?;
        both_ready(&stage)?;
        both_reach(&stage)?;
        let after = tunnels(OHIO, 1)?;
        assert_ne!(container(&before), container(&after));
        // It still answers when the old one is gone.
        both_reach(&stage)?;
    }
    Ok(())
}

fn container(tunnels: &[Value]) -> Vec<Value> {
    tunnels.iter().map(|tunnel| tunnel["attachment"]["containerId"].clone()).collect()
}

fn rolled_out() -> Outcome {
    let stage = pair("rolled-out", "bridge-tun")?;
    stage.kubectl(OHIO, "delete pod plumbr-a --grace-period=1")?.ok()?;
    let networks = r#"[{ "name": "ohio-bridge-tun", "ips": ["10.10.1.200/24"] }]"#;
    stage.apply(OHIO, &deployment("one", "strategy: { type: Recreate }", networks)?)?;
    stage.kubectl(OHIO, "rollout status deployment/one --timeout=60s")?.ok()?;
    stage.reaches(MUMBAI, OHIO.inner)?;
    let before = tunnels(OHIO, 1)?;
    stage.kubectl(OHIO, "rollout restart deployment/one")?.ok()?;
    stage.kubectl(OHIO, "rollout status deployment/one --timeout=60s")?.ok()?;
    stage.reaches(MUMBAI, OHIO.inner)?;
    assert_ne!(container(&before), container(&tunnels(OHIO, 1)?));
    Ok(())
}

/// Multus calls no plugin for a pod that is neither in its cache nor in the cluster any more.
fn forgotten() -> Outcome {
    let stage = pair("forgotten", "bridge-tun")?;
    tunnels(OHIO, 1)?;
    let ports =
        || -> Result<String> { Ok(OHIO.node(&["ip", "-oneline", "link", "show", "master", "cni0"])?.ok()?.stdout) };
    assert_eq!(ports()?.lines().count(), 1);
    OHIO.node(&["sh", "-c", "rm -r /var/lib/cni/multus"])?.ok()?;
    stage.kubectl(OHIO, "delete pod plumbr-a --grace-period=0 --force")?.ok()?;
    tunnels(OHIO, 0)?;
    eventually("the port of the pod to go", SWEPT, || Ok(ports()?.is_empty().then_some(())))?;
    let records = OHIO.node(&["ls", "/run/adit/attachments"])?.ok()?.stdout;
    assert_eq!(records.lines().filter(|name| name.ends_with(".json")).count(), 0, "{records}");
    Ok(())
}

fn rebooted() -> Outcome {
    let stage = pair("rebooted", "bridge-tun")?;
    both_reach(&stage)?;
    k8s(&["reboot", "ohio"], None, REBOOT)?.ok()?;
    // Until the kubelet has seen its pods, the cluster believes what it knew of them before.
    eventually("the tunnel of the pod that was there before", REBOOT, || {
        stage.run(OHIO, &format!("ping -c 1 -W 2 {}", MUMBAI.inner))?.ok().map(Some)
    })?;
    both_ready(&stage)?;
    both_reach(&stage)?;
    for cluster in BOTH {
        assert_eq!(cluster.tunnels()?.len(), 1);
    }
    let pod = stage.kubectl(OHIO, "get pod plumbr-a --output json")?.json()?;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    Ok(())
}
