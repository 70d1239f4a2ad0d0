//! `adit connect`: both clusters told from one description.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use adit_lab::{Binaries, Error, Ran, Result, run};
use serde_json::{Value, json};

use crate::{
    Outcome, Test,
    cluster::{BOTH, Cluster, MUMBAI, OHIO, Stage, in_both},
};

pub const TESTS: &[Test] = &[
    ("connect_joins_two_deployments_from_one_description", || joined("connected", &json!({ "encap": "udp" }))),
    ("connect_needs_no_key_where_the_network_is_trusted", || {
        joined("trusting", &json!({ "encap": "vxlan", "encryption": "none", "vni": 7 }))
    }),
    ("connect_says_which_leg_is_missing", missing),
];

const UP: Duration = Duration::from_secs(150);

/// `adit connect OPTION…` of this description, by somebody who has both clusters' kubeconfigs.
fn connect(description: &Value, options: &[&str]) -> Result<Ran> {
    let files = BOTH.map(|cluster| format!("/run/adit-k8s/{}/upper/etc/kubernetes/admin.conf", cluster.name));
    let parts = fs::read_to_string("/run/adit-k8s/parts").map_err(|error| Error::Unexpected(error.to_string()))?;
    let mut command = Command::new("nsenter");
    command.arg("--net=/run/netns/adit-k8s-router").arg("--").arg(Binaries::get()?.program("adit")?);
    command.args(["connect", "-", "--kubectl"]).arg(PathBuf::from(parts.trim()).join("kubectl"));
    command.args(files.iter().flat_map(|file| ["--kubeconfig", file])).args(options);
    run(command, Some(description.to_string().as_bytes()), UP)
}

fn description(stage: &Stage, tunnel: &Value) -> Value {
    let side = |cluster: Cluster, peer: Cluster| {
        json!({
            "name": cluster.name, "namespace": stage.namespace, "workload": "deployment/plumbr",
            "net1": {
                "plugin": { "type": "adit-bridge", "isGateway": true },
                "address": cluster.net1,
                "routes": [peer.net1.replace(".200/24", ".0/24")],
            },
            "address": format!("{}/30", cluster.inner),
        })
    };
    json!({ "name": "joined", "tunnel": tunnel, "sides": [side(OHIO, MUMBAI), side(MUMBAI, OHIO)] })
}

/// A deployment without any network of ours, as somebody may have had for years.
fn deployments(stage: &Stage) -> Result<()> {
    let manifest = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "plumbr" },
        "spec": {
            "selector": { "matchLabels": { "app": "plumbr" } },
            "strategy": { "type": "Recreate" },
            "template": {
                "metadata": { "labels": { "app": "plumbr" } },
                "spec": {
                    "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": "main", "image": "busybox:1.37", "command": ["sleep", "infinity"],
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                        },
                    }],
                },
            },
        },
    });
    in_both(|cluster| {
        stage.apply(cluster, &manifest.to_string())?;
        stage.kubectl(cluster, "rollout status deployment/plumbr --timeout=60s")?.ok().map(drop)
    })
}

fn joined(namespace: &str, tunnel: &Value) -> Outcome {
    let stage = Stage::new(namespace)?;
    deployments(&stage)?;
    let description = description(&stage, tunnel);
    let said = connect(&description, &[])?.ok()?.stdout;
    for line in ["ohio: up", "mumbai: up"] {
        assert!(said.lines().any(|told| told == line), "{said}");
    }
    stage.kubectl(OHIO, &format!("exec deployment/plumbr -- ping -c 2 -W 2 {}", MUMBAI.inner))?.ok()?;
    // Again it finds everything as it should be: the same pods, the same keys.
    let pods = || Ok::<_, Error>(stage.kubectl(OHIO, "get pods --output name")?.ok()?.stdout);
    let before = pods()?;
    connect(&description, &[])?.ok()?;
    assert_eq!(pods()?, before);
    Ok(())
}

fn missing() -> Outcome {
    let stage = Stage::new("missing")?;
    deployments(&stage)?;
    let mut description = description(&stage, &json!({ "encap": "udp", "encryption": "none" }));
    // An address plugin that no node has.
    description["sides"][1]["tunnel"] = json!({ "ipam": { "type": "adit-dynamic" } });
    let said = connect(&description, &["--timeout", "30"])?.fails()?.stderr;
    assert!(said.contains("mumbai: pod") && said.contains("adit-dynamic"), "{said}");

    description["sides"][0]["workload"] = json!("deployment/nobody");
    let said = connect(&description, &["--timeout", "5"])?.fails()?.stderr;
    assert!(said.contains("ohio: cannot") && said.contains("nobody"), "{said}");
    Ok(())
}
