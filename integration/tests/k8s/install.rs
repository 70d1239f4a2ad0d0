//! Adit as a cluster's users install it: the DaemonSet of `conf/install`, beside the cluster's own plugins.

use std::{env, path::PathBuf, time::Duration};

use adit_integration::scripts::{RELEASE_DEADLINE, root, script};
use adit_lab::{COMMAND_DEADLINE, Error, Ran, Result, eventually};

use crate::{
    Outcome, Test,
    cluster::{BOTH, Cluster, MUMBAI, OHIO, Stage, conf, in_both, k8s},
    networks::{both_reach, both_ready},
};

pub const TESTS: &[Test] = &[
    ("the_daemon_set_installs_beside_the_clusters_own_plugins", installed),
    ("connections_live_through_an_upgrade_of_the_daemon_set", upgraded),
    ("connections_live_through_the_end_of_the_daemon_sets_agent", agent_killed),
    ("uninstalling_waits_for_the_pods_and_leaves_the_node_as_it_was", uninstalled),
];

const ROLLED_OUT: Duration = Duration::from_secs(90);
const PLUGINS: [&str; 4] = ["adit-bridge", "adit-macvlan", "adit-static", "tun"];

/// The programs as they ship, for the image; of `ADIT_DIST_DIR`, or built.
pub fn shipped() -> Result<PathBuf> {
    if let Some(directory) = env::var_os("ADIT_DIST_DIR") {
        return Ok(PathBuf::from(directory));
    }
    let directory = root().join("dist");
    script("scripts/build", &[], RELEASE_DEADLINE)?.ok()?;
    Ok(directory)
}

/// Networks and pods of `conf/`, with the names that the plugins have where they are installed.
fn pair(namespace: &str) -> Result<Stage> {
    let stage = Stage::new(namespace)?;
    in_both(|cluster| {
        let name = format!("{}-bridge-tun", cluster.name);
        let network = conf(&format!("nad/{name}.yaml"))?;
        let network = network.replace("\"bridge\"", "\"adit-bridge\"").replace("\"static\"", "\"adit-static\"");
        stage.apply(cluster, &network)?;
        stage.apply_pod(cluster, &name)
    })?;
    both_ready(&stage)?;
    both_reach(&stage)?;
    Ok(stage)
}

fn installed() -> Outcome {
    let stage = pair("installed")?;
    for cluster in BOTH {
        let there = plugins(cluster)?;
        for name in PLUGINS {
            assert!(there.iter().any(|plugin| plugin == name), "{name} is not in {there:?}");
        }
        own_plugins_are_untouched(cluster)?;
        let status = system(cluster, "exec daemonset/adit -- adit status")?.ok()?.stdout;
        assert!(status.contains(&format!("installed/{}", cluster.pod)), "{status}");
    }
    drop(stage);
    Ok(())
}

/// `kubectl` in the namespace of the DaemonSet.
fn system(cluster: Cluster, line: &str) -> Result<Ran> {
    cluster.kubectl(&format!("--namespace adit-system {line}"))
}

/// The names in the node's plugin directory.
fn plugins(cluster: Cluster) -> Result<Vec<String>> {
    let listed = cluster.node(&["ls", "-A", "/opt/cni/bin"])?.ok()?.stdout;
    Ok(listed.lines().map(str::to_owned).collect())
}

fn own_plugins_are_untouched(cluster: Cluster) -> Result<()> {
    for name in ["bridge", "macvlan", "static"] {
        let (own, reference) = (format!("/opt/cni/bin/{name}"), format!("/run/reference/{name}"));
        cluster.node(&["cmp", &own, &reference])?.ok()?;
    }
    Ok(())
}

/// Traffic of one connection through the tunnel for `seconds`, during which `happens`. Returns how long nothing arrived at
/// most, in seconds, to the tenth.
fn interruption(stage: &Stage, seconds: u32, happens: impl FnOnce() -> Result<()>) -> Result<f64> {
    stage.run(MUMBAI, "iperf3 --server --one-off --daemon")?.ok()?;
    let line =
        format!("iperf3 --client {} --time {seconds} --bitrate 20M --interval 0.1 --reverse --json", MUMBAI.inner);
    let line: Vec<String> = ["kubectl", "ohio", "--namespace", &stage.namespace, "exec", OHIO.pod, "--"]
        .into_iter()
        .map(str::to_owned)
        .chain(line.split(' ').map(str::to_owned))
        .collect();
    let limit = Duration::from_secs(seconds.into()) + COMMAND_DEADLINE;
    let client = std::thread::spawn(move || {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        k8s(&line, None, limit)?.json()
    });
    eventually("both connections of iperf3", COMMAND_DEADLINE, || {
        let connections = stage.run(MUMBAI, "netstat -tn")?.ok()?.stdout;
        let to_server = connections.lines().filter(|line| line.contains(":5201") && line.contains("ESTABLISHED"));
        Ok((to_server.count() >= 2).then_some(()))
    })?;
    happens()?;
    let report = client.join().map_err(|_| Error::Unexpected("the client panicked".to_owned()))??;
    let intervals = report["intervals"].as_array().cloned().unwrap_or_default();
    let arrived: Vec<bool> = intervals.iter().map(|one| one["sum"]["bytes"].as_u64().unwrap_or(0) > 0).collect();
    if arrived.last() != Some(&true) {
        return Err(Error::Unexpected(format!("nothing arrives at the end: {arrived:?}")));
    }
    let longest = arrived.split(|arrives| *arrives).map(<[bool]>::len).max().unwrap_or(0);
    Ok(f64::from(u32::try_from(longest).unwrap_or(u32::MAX)) / 10.0)
}

fn upgraded() -> Outcome {
    let stage = pair("upgraded")?;
    let seconds = interruption(&stage, 25, || {
        system(OHIO, "rollout restart daemonset/adit")?.ok()?;
        system(OHIO, &format!("rollout status daemonset/adit --timeout={}s", ROLLED_OUT.as_secs()))?.ok().map(drop)
    })?;
    println!("while the DaemonSet was rolled out, nothing arrived for {seconds:.1} s at most");
    both_reach(&stage)?;
    Ok(())
}

fn agent_killed() -> Outcome {
    let stage = pair("agent-killed")?;
    let pid = || Ok::<_, Error>(OHIO.node(&["pidof", "aditd"])?.ok()?.stdout.trim().to_owned());
    let seconds = interruption(&stage, 15, || {
        let before = pid()?;
        OHIO.node(&["kill", "-KILL", &before])?.ok()?;
        eventually("another agent", COMMAND_DEADLINE, || Ok(Some(pid()?).filter(|now| *now != before))).map(drop)
    })?;
    println!("when the agent was killed, nothing arrived for {seconds:.1} s at most");
    both_reach(&stage)?;
    Ok(())
}

/// As docs/install.md says; the last of these trials, after which the DaemonSet is there again.
fn uninstalled() -> Outcome {
    let stage = pair("uninstalled")?;
    let uninstall = root().join("conf/install/uninstall").display().to_string();
    system(OHIO, "delete daemonset adit")?.ok()?;
    OHIO.kubectl(&format!("apply --kustomize {uninstall}"))?.ok()?;
    let refusal = eventually("the refusal", ROLLED_OUT, || {
        let log = system(OHIO, "logs daemonset/adit-uninstall --container uninstall")?.ok()?.stdout;
        Ok(Some(log).filter(|log| log.contains("delete their pods first")))
    })?;
    println!("{}", refusal.trim());
    // The pods are as they were, but for what the agent carried.
    stage.reaches(OHIO, MUMBAI.outer())?;

    stage.clear()?;
    system(OHIO, &format!("rollout status daemonset/adit-uninstall --timeout={}s", ROLLED_OUT.as_secs()))?.ok()?;
    OHIO.kubectl(&format!("delete --kustomize {uninstall} --timeout=60s"))?.ok()?;
    let left: Vec<String> =
        plugins(OHIO)?.into_iter().filter(|name| PLUGINS.contains(&name.as_str()) || name.starts_with('.')).collect();
    assert_eq!(left, Vec::<String>::new());
    own_plugins_are_untouched(OHIO)?;

    let manifest = root().join("conf/install/adit.yaml").display().to_string();
    OHIO.kubectl(&format!("apply --filename {manifest}"))?.ok()?;
    system(OHIO, &format!("rollout status daemonset/adit --timeout={}s", ROLLED_OUT.as_secs()))?.ok()?;
    Ok(())
}
