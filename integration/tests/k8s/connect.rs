//! `adit connect`: both clusters told from one description.

use std::{fs, process::Command, time::Duration};

use adit_integration::scripts::root;
use adit_lab::{Binaries, Error, Ran, Result, run};
use serde_json::{Value, json};

use crate::{
    Outcome, Test,
    cluster::{BOTH, Cluster, MUMBAI, OHIO, Stage, conf, in_both},
};

pub const TESTS: &[Test] = &[
    ("the_quick_start_of_the_readme_works_as_it_stands_there", quick_start),
    ("connect_joins_two_deployments_from_one_description", || joined("connected", &json!({ "encap": "udp" }))),
    ("connect_needs_no_key_where_the_network_is_trusted", || {
        joined("trusting", &json!({ "encap": "vxlan", "encryption": "none", "vni": 7 }))
    }),
    ("connect_says_which_leg_is_missing", missing),
];

const UP: Duration = Duration::from_secs(150);

/// A program in a shell from where both clusters are reached.
fn shell(line: &[&str], input: Option<&str>) -> Result<Ran> {
    let mut command = Command::new(root().join("scripts/k8s"));
    command.arg("shell").args(line).current_dir(root()).env("ADIT_BIN_DIR", Binaries::get()?.directory());
    run(command, input.map(str::as_bytes), UP)
}

/// `adit connect OPTION…` of this description, by somebody who has a kubeconfig for each cluster.
fn connect(description: &Value, options: &[&str]) -> Result<Ran> {
    let files = BOTH.map(|cluster| format!("/run/adit-k8s/{}/upper/etc/kubernetes/admin.conf", cluster.name));
    let files = files.iter().flat_map(|file| ["--kubeconfig", file]);
    let line = ["adit", "connect", "-"].into_iter().chain(files).chain(options.iter().copied());
    shell(&line.collect::<Vec<_>>(), Some(&description.to_string()))
}

fn description(stage: &Stage, tunnel: &Value) -> Value {
    let side = |cluster: Cluster, peer: Cluster| {
        json!({
            "name": cluster.name, "namespace": stage.namespace, "workload": format!("deployment/{}", cluster.pod),
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

/// Deployments without any network of ours, as somebody may have had for years.
fn deployments(stage: &Stage) -> Result<()> {
    in_both(|cluster| {
        stage.apply(cluster, &conf(&format!("connect/{}.yaml", cluster.pod))?)?;
        let line = format!("rollout status deployment/{} --timeout=60s", cluster.pod);
        stage.kubectl(cluster, &line)?.ok().map(drop)
    })
}

/// Every command of the README's chapter, as it stands there, by a user who has both contexts in one kubeconfig.
fn quick_start() -> Outcome {
    let readme = fs::read_to_string(root().join("README.md"))?;
    let chapter = readme.split("## On two clusters").nth(1).and_then(|rest| rest.split("\n## ").next());
    let chapter = chapter.ok_or("the README has no chapter \"On two clusters\"")?;
    let commands: Vec<&str> = chapter.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(commands.iter().any(|command| command.starts_with("adit connect")), "{commands:?}");
    let followed: Result<()> =
        commands.iter().try_for_each(|command| shell(&["bash", "-c", command], None)?.ok().map(drop));
    for cluster in BOTH {
        let line = format!("delete deployment/{} network-attachment-definitions/plumbr --timeout=60s", cluster.pod);
        cluster.kubectl(&line)?.ok()?;
    }
    Ok(followed?)
}

fn joined(namespace: &str, tunnel: &Value) -> Outcome {
    let stage = Stage::new(namespace)?;
    deployments(&stage)?;
    let description = description(&stage, tunnel);
    let said = connect(&description, &[])?.ok()?.stdout;
    for line in ["ohio: up", "mumbai: up"] {
        assert!(said.lines().any(|told| told == line), "{said}");
    }
    stage.kubectl(OHIO, &format!("exec deployment/plumbr-a -- ping -c 2 -W 2 {}", MUMBAI.inner))?.ok()?;
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
