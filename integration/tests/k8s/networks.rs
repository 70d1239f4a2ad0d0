//! Pods of both clusters on each kind of network.

use std::time::Duration;

use adit_lab::{COMMAND_DEADLINE, Error, Result, eventually};
use serde_json::{Value, json};

use crate::{
    Outcome, Test,
    cluster::{BOTH, Cluster, MUMBAI, OHIO, Stage, conf, in_both, k8s},
};

pub const TESTS: &[Test] = &[
    ("the_documented_network_and_pods_connect", documented),
    ("restricted_pods_exchange_traffic_through_a_tunnel", tunnel),
    ("a_tunnel_connects_and_passes_check", || connect("bridge-tun")),
    ("network_status_shows_net1_and_tun_with_addresses_and_mtu", network_status),
    ("macvlan_and_a_tunnel_connect_and_pass_check", macvlan),
    ("an_encrypted_tunnel_connects_and_passes_check", || sealed("bridge-noise")),
    ("a_wireguard_tunnel_connects_and_passes_check", || sealed("bridge-wireguard")),
    ("vxlan_connects_and_passes_check", || connect("bridge-vxlan")),
    ("a_tunnel_over_ipv6_carries_both_families", ipv6),
    ("replicas_of_a_deployment_have_an_address_each", replicas),
    ("cnitool_drives_the_list_through_every_verb", cnitool),
    ("containerd_runs_a_container_with_our_list", containerd),
];

pub const TESTS_OF_THICK: &[Test] = &[
    ("thick_multus_attaches_net1_and_a_tunnel", tunnel),
    ("thick_multus_tells_the_status_of_both", network_status),
    ("thick_multus_detaches", detach),
];

/// The networks of `conf/nad` of that name and the pods of `conf/pods` on them, both ready.
pub fn pair(namespace: &str, network: &str) -> Result<Stage> {
    let stage = Stage::new(namespace)?;
    in_both(|cluster| {
        let name = format!("{}-{network}", cluster.name);
        stage.apply(cluster, &conf(&format!("nad/{name}.yaml"))?)?;
        stage.apply_pod(cluster, &name)
    })?;
    both_ready(&stage)?;
    Ok(stage)
}

pub fn both_ready(stage: &Stage) -> Result<()> {
    in_both(|cluster| stage.ready(cluster, &format!("pod/{}", cluster.pod)))
}

pub fn both_reach(stage: &Stage) -> Result<()> {
    stage.reaches(OHIO, MUMBAI.outer())?;
    stage.reaches(OHIO, MUMBAI.inner)?;
    stage.reaches(MUMBAI, OHIO.inner)
}

fn documented() -> Outcome {
    let stage = Stage::new("documented")?;
    for cluster in BOTH {
        stage.apply(cluster, &conf(&format!("nad/{}-plumbr.yaml", cluster.name))?)?;
        stage.apply(cluster, &conf(&format!("pods/{}-net1.yaml", cluster.pod))?)?;
    }
    both_ready(&stage)?;
    stage.reaches(MUMBAI, OHIO.outer())?;
    let status = stage.network_status(OHIO)?;
    let net1 = interface(&status, "net1")?;
    assert_eq!(net1["name"], "documented/br-plumr-config");
    assert_eq!(net1["ips"], json!(["10.10.1.200"]));
    Ok(())
}

fn connect(network: &str) -> Outcome {
    let stage = pair(network, network)?;
    both_reach(&stage)?;
    in_both(|cluster| check_as_cri_o(&stage, cluster, network))?;
    Ok(())
}

fn tunnel() -> Outcome {
    let stage = pair("tunnel", "bridge-tun")?;
    both_reach(&stage)?;

    // What `restricted` means, as the kernel sees it; and the pod is one container without volumes.
    let status = stage.run(OHIO, "cat /proc/self/status")?.ok()?.stdout;
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} not in {status}");
    }
    let pod = stage.kubectl(OHIO, "get pod plumbr-a --output json")?.json()?;
    assert_eq!(pod["spec"]["containers"].as_array().map(Vec::len), Some(1));
    assert_eq!((&pod["spec"]["volumes"], &pod["spec"]["initContainers"]), (&Value::Null, &Value::Null));

    let sent = iperf3(&stage)?;
    println!("iperf3 through tun, between pods of two clusters: {:.2} Gbit/s", sent / 1e9);
    Ok(())
}

/// Bits a second that Mumbai's pod gets from Ohio's through the tunnel.
fn iperf3(stage: &Stage) -> Result<f64> {
    stage.run(MUMBAI, "iperf3 --server --one-off --daemon")?.ok()?;
    let report = eventually("iperf3 through the tunnel", Duration::from_secs(20), || {
        let line = format!("iperf3 --client {} --time 3 --json", MUMBAI.inner);
        stage.run(OHIO, &line)?.json().map(Some)
    })?;
    let received = &report["end"]["sum_received"];
    received["bits_per_second"]
        .as_f64()
        .filter(|rate| *rate > 0.0)
        .ok_or_else(|| Error::Unexpected(format!("nothing was received: {received}")))
}

fn interface<'a>(status: &'a [Value], name: &str) -> Result<&'a Value> {
    let found = status.iter().find(|entry| entry["interface"] == name);
    found.ok_or_else(|| Error::Unexpected(format!("no {name} in {status:?}")))
}

fn network_status() -> Outcome {
    let stage = pair("network-status", "bridge-tun")?;
    let status = stage.network_status(MUMBAI)?;
    let shown = |name| interface(&status, name).map(|entry| (&entry["name"], &entry["ips"], &entry["mtu"]));
    let network = json!("network-status/mumbai-bridge-tun");
    assert_eq!(shown("net1")?, (&network, &json!(["10.20.1.200"]), &json!(1500)));
    assert_eq!(shown("tun")?, (&network, &json!(["10.4.0.2"]), &json!(1456)));
    assert_eq!(interface(&status, "eth0")?["default"], true);
    Ok(())
}

fn ipv6() -> Outcome {
    let stage = Stage::new("ipv6")?;
    for (cluster, net1) in BOTH.into_iter().zip(["fd10:10:1::200/64", "fd10:20:1::200/64"]) {
        let name = format!("{}-bridge-tun-ipv6", cluster.name);
        stage.apply(cluster, &conf(&format!("nad/{name}.yaml"))?)?;
        stage.apply_pod_with(cluster, &name, net1)?;
    }
    both_ready(&stage)?;
    for address in ["fd10:20:1::200", MUMBAI.inner, "fd10:4::2"] {
        stage.reaches(OHIO, address)?;
    }
    Ok(())
}

/// The router is the gateway of pods on a macvlan: the node is not on their way.
fn macvlan() -> Outcome {
    k8s(&["gateway", "router"], None, COMMAND_DEADLINE)?.ok()?;
    let outcome = connect("macvlan-tun");
    k8s(&["gateway", "node"], None, COMMAND_DEADLINE)?.ok()?;
    outcome
}

/// The networks name each other's public key, which each node tells as its file says.
fn sealed(network: &str) -> Outcome {
    let stage = Stage::new(network)?;
    let mut keys = Vec::new();
    for cluster in BOTH {
        let file = format!("{}.key", cluster.name);
        let name = format!("{}-{network}", cluster.name);
        let line = if network.contains("wireguard") {
            ["adit", "key", "generate", "--namespace", network, "--file", &file].to_vec()
        } else {
            ["adit", "key", "show", "--namespace", network, "--pod", cluster.pod, "--network", &name].to_vec()
        };
        keys.push(cluster.node(&line)?.ok()?.stdout.trim().to_owned());
    }
    for (cluster, theirs) in BOTH.into_iter().zip(keys.iter().rev()) {
        let text = conf(&format!("nad/{}-{network}.yaml", cluster.name))?;
        let (before, rest) = text.split_once("(the public key of ").ok_or("the file has no place for the key")?;
        let (_, behind) = rest.split_once(')').ok_or("the place for the key has no end")?;
        stage.apply(cluster, &format!("{before}{theirs}{behind}"))?;
        stage.apply_pod(cluster, &format!("{}-{network}", cluster.name))?;
    }
    both_ready(&stage)?;
    both_reach(&stage)?;
    for (cluster, own) in BOTH.into_iter().zip(&keys) {
        let tunnels = cluster.tunnels()?;
        assert_eq!(tunnels.len(), 1, "{tunnels:?}");
        assert_eq!((&tunnels[0]["publicKey"], &tunnels[0]["encryption"]), (&json!(own), &json!("noise")));
    }
    iperf3(&stage)?;
    in_both(|cluster| check_as_cri_o(&stage, cluster, network))?;
    Ok(())
}

/// Another IPAM plugin than ours gives addresses away.
fn replicas() -> Outcome {
    let stage = Stage::new("replicas")?;
    stage.apply(MUMBAI, &conf("nad/mumbai-plumbr.yaml")?)?;
    stage.apply(MUMBAI, &conf("pods/plumbr-b-net1.yaml")?)?;
    let ipam =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.10.1.0/24"}]], "routes": [{"dst": "10.20.0.0/16"}]});
    let network = json!({"cniVersion": "1.1.0", "type": "bridge", "isGateway": true, "ipam": ipam});
    stage.apply(OHIO, &nad("many", &network))?;
    stage.apply(OHIO, &deployment("many", "replicas: 3", "many")?)?;
    stage.ready(MUMBAI, "pod/plumbr-b")?;
    stage.kubectl(OHIO, "rollout status deployment/many --timeout=60s")?.ok()?;

    let pods = stage.kubectl(OHIO, "get pods --selector app=many --output json")?.json()?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    assert_eq!(pods.len(), 3);
    let mut addresses = Vec::new();
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let text = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str().unwrap_or_default();
        let status: Vec<Value> = serde_json::from_str(text)?;
        addresses.push(interface(&status, "net1")?["ips"].to_string());
        stage.kubectl(OHIO, &format!("exec {name} -- ping -c 2 -i 0.2 {}", MUMBAI.outer()))?.ok()?;
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    Ok(())
}

/// A deployment of the pod of `conf/pods/plumbr-a.yaml`, attached to `networks`.
pub fn deployment(name: &str, how: &str, networks: &str) -> Result<String> {
    let pod = conf("pods/plumbr-a.yaml")?;
    let spec = pod.split_once("\nspec:\n").map(|(_, spec)| spec);
    let spec = spec.ok_or_else(|| Error::Unexpected("the pod has no specification".to_owned()))?;
    let spec: String = spec.lines().map(|line| format!("      {line}\n")).collect();
    Ok(format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  {how}
  selector:
    matchLabels: {{ app: {name} }}
  template:
    metadata:
      labels: {{ app: {name} }}
      annotations:
        k8s.v1.cni.cncf.io/networks: '{networks}'
    spec:
        # Its process ends by no signal that can be ignored.
        terminationGracePeriodSeconds: 1
{spec}"
    ))
}

/// A network as `kubectl` takes it.
pub fn nad(name: &str, config: &Value) -> String {
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": name},
        "spec": {"config": config.to_string()},
    })
    .to_string()
}

/// What libcni remembers of the attachments to a network of that name on a node: container, configuration, result.
fn remembered(cluster: Cluster, network: &str) -> Result<Value> {
    let line =
        format!("cat /var/lib/cni/multus/results/{network}-* 2>/dev/null || cat /var/lib/cni/results/{network}-*");
    cluster.node(&["sh", "-c", &line])?.json()
}

/// As CRI-O does it: CHECK of every plugin of the list, with the result of the ADD, as soon as it has ended. And as nobody
/// should have to see it: with another address in the place of the interface's own.
fn check_as_cri_o(stage: &Stage, cluster: Cluster, network: &str) -> Result<()> {
    let network = format!("{}-{network}", cluster.name);
    let cache = remembered(cluster, &network)?;
    let list = stage.kubectl(cluster, &format!("get network-attachment-definition {network} --output json"))?.json()?;
    let list = serde_json::from_str(list["spec"]["config"].as_str().unwrap_or_default());
    let list: Value = list.map_err(|error| Error::Unexpected(format!("{network}: {error}")))?;
    let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
    assert_eq!(plugins.len(), 2);
    for mut plugin in plugins {
        let kind = plugin["type"].as_str().unwrap_or_default().to_owned();
        plugin["cniVersion"] = list["cniVersion"].clone();
        plugin["name"] = cache["networkName"].clone();
        plugin["prevResult"] = cache["result"].clone();
        plugin["runtimeConfig"] = json!({"ips": [cluster.net1]});
        checked(cluster, &kind, &cache, &plugin)?.ok()?;

        let own = if kind == "tun" { cluster.inner } else { cluster.outer() };
        let result = plugin["prevResult"].to_string();
        let wrong = result.replace(&format!("\"{own}/"), "\"10.99.9.9/");
        assert_ne!(wrong, result);
        plugin["prevResult"] = wrong.parse().map_err(|error| Error::Unexpected(format!("{wrong}: {error}")))?;
        let refused = checked(cluster, &kind, &cache, &plugin)?.fails()?;
        assert!(refused.stdout.contains("Failed to match addr"), "{}", refused.stdout);
    }
    Ok(())
}

fn checked(cluster: Cluster, plugin: &str, cache: &Value, stdin: &Value) -> Result<adit_lab::Ran> {
    let variable = |name: &str, key: &str| format!("{name}={}", cache[key].as_str().unwrap_or_default());
    let (container, interface) = (variable("CNI_CONTAINERID", "containerId"), variable("CNI_IFNAME", "ifName"));
    let netns = variable("CNI_NETNS", "netns");
    let program = format!("/opt/cni/bin/{plugin}");
    let line =
        ["exec", cluster.name, "env", "CNI_COMMAND=CHECK", "CNI_PATH=/opt/cni/bin", &container, &interface, &netns];
    let line: Vec<&str> = line.into_iter().chain([program.as_str()]).collect();
    k8s(&line, Some(&stdin.to_string()), COMMAND_DEADLINE)
}

/// libcni itself, without Kubernetes around it.
fn cnitool() -> Outcome {
    let text = conf("nad/ohio-bridge-tun.yaml")?;
    let (_, list) = text.split_once("config: |").ok_or("the file has no configuration")?;
    let mut list: Value = serde_json::from_str(list)?;
    list["name"] = json!("by-hand");
    let place = "ip netns delete by-hand 2>/dev/null; mkdir -p /run/by-hand && cat >/run/by-hand/net.conflist && ip netns add by-hand";
    k8s(&["exec", OHIO.name, "sh", "-c", place], Some(&list.to_string()), COMMAND_DEADLINE)?.ok()?;
    let interfaces = || -> Result<Vec<String>> {
        let shown = OHIO.node(&["ip", "-n", "by-hand", "-json", "link", "show"])?.json()?;
        let names = shown.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        Ok(names.map(str::to_owned).collect())
    };
    let environment = ["NETCONFPATH=/run/by-hand", "CNI_PATH=/opt/cni/bin", "CNI_IFNAME=net1"];
    let addresses = format!(r#"CAP_ARGS={{"ips":["{}"]}}"#, OHIO.net1);
    let verb = |verb: &str| {
        let line = ["env", environment[0], environment[1], environment[2], &addresses, "/run/reference/cnitool", verb];
        OHIO.node(&line.into_iter().chain(["by-hand", "/run/netns/by-hand"]).collect::<Vec<_>>())?.ok()
    };
    let outcome = (|| {
        verb("status")?;
        let result: Value = verb("add")?.json()?;
        assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
        assert_eq!(interfaces()?, ["lo", "net1", "tun"]);
        verb("check")?;
        verb("del")?;
        assert_eq!(interfaces()?, ["lo"]);
        verb("del")?;
        verb("gc")
    })();
    OHIO.node(&["sh", "-c", "rm -r /run/by-hand && ip netns delete by-hand"])?.ok()?;
    outcome?;
    Ok(())
}

/// containerd's own client, without Kubernetes or Multus: the container's only network is our list.
fn containerd() -> Outcome {
    let list = json!({
        "cniVersion": "1.0.0", "name": "by-ctr",
        "plugins": [
            {
                "type": "bridge", "bridge": "by-ctr0", "isGateway": true,
                "ipam": { "type": "static", "addresses": [{ "address": "10.99.1.2/24", "gateway": "10.99.1.1" }] },
            },
            {
                "type": "tun", "encap": "udp", "encryption": "none", "remote": "10.99.1.3",
                "ipam": { "type": "static", "addresses": [{ "address": "10.98.0.1/30" }] },
            },
        ],
    });
    // The client reads one directory, which this container alone sees with our list in it.
    let run = "mkdir -p /run/by-ctr && cat >/run/by-ctr/10-ours.conflist && exec unshare --mount sh -c '\
        mount --bind /run/by-ctr /etc/cni/net.d && \
        exec ctr --namespace k8s.io run --cni --rm docker.io/library/busybox:1.37 by-ctr ip address'";
    let ran = k8s(&["exec", OHIO.name, "sh", "-c", run], Some(&list.to_string()), COMMAND_DEADLINE);
    let left = OHIO.tunnels();
    OHIO.node(&["sh", "-c", "rm -r /run/by-ctr; ip link delete by-ctr0"])?.ok()?;
    let shown = ran?.ok()?.stdout;
    for part in ["10.99.1.2/24", "tun: <POINTOPOINT", "10.98.0.1/30"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert_eq!(left?, Vec::<Value>::new());
    Ok(())
}

fn detach() -> Outcome {
    let stage = pair("detach", "bridge-tun")?;
    both_reach(&stage)?;
    stage.clear()?;
    for cluster in BOTH {
        assert_eq!(cluster.tunnels()?, Vec::<Value>::new());
    }
    Ok(())
}
