//! Every file below `conf/` does what it says.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use adit_integration::{
    sealed::{derived_key, tunnel},
    trial,
    tunnels::lab_with_agents,
};
use adit_lab::{
    Attachment, Binaries, COMMAND_DEADLINE, Error, Host, Lab, LabSpec, Nad, Node, Pod, nad::in_workspace, run,
};
use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("the_documented_networks_connect_net1", documented_networks),
        trial("the_pods_of_the_documented_network_connect", || applied("plumbr-a-net1", "plumbr-b-net1", false)),
        trial("the_pods_with_a_tunnel_connect", || applied("plumbr-a", "plumbr-b", true)),
        trial("bridge_and_tun_connect", || tunnels(Attachment::Bridge, "bridge-tun", 0)),
        trial("macvlan_and_tun_connect", || tunnels(Attachment::Macvlan, "macvlan-tun", 0)),
        trial("bridge_and_tun_connect_over_ipv6", || tunnels(Attachment::Bridge, "bridge-tun-ipv6", 1)),
        trial("macvlan_and_tun_connect_over_ipv6", || tunnels(Attachment::Macvlan, "macvlan-tun-ipv6", 1)),
        trial("bridge_and_vxlan_connect_without_an_agent", || {
            connected(&Lab::two_clusters(Attachment::Bridge)?, "bridge-vxlan", 0)
        }),
        trial("bridge_and_an_encrypted_tunnel_connect", || sealed("bridge-noise")),
        trial("bridge_and_wireguard_connect", || sealed("bridge-wireguard")),
        trial("one_interface_reaches_pods_of_two_clusters", || one_to_many("bridge-tun-many", true)),
        trial("one_vxlan_interface_reaches_pods_of_two_clusters", || one_to_many("bridge-vxlan-many", false)),
        trial("the_units_capabilities_are_enough", unit_capabilities),
        trial("systemd_understands_the_whole_unit", unit_verified),
        trial("the_unit_allows_what_the_agent_does_itself", unit_allows),
    ]);
}

fn agents(lab: &Lab) -> Outcome {
    lab.nodes().iter().try_for_each(Node::start_agent)?;
    Ok(())
}

fn documented_networks() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let annotation = |ip: &str| format!(r#"[{{"name":"br-plumr-config","ips":["{ip}"]}}]"#);
    let a = lab.ohio().pod("a").attach("conf/nad/ohio-plumbr.yaml", &annotation("10.10.1.200/24"))?;
    let b = lab.mumbai().pod("b").attach("conf/nad/mumbai-plumbr.yaml", &annotation("10.20.1.200/24"))?;
    for (pod, address, gateway, routes) in [
        (&a, "10.10.1.200/24", "10.10.1.1", ["10.10.2.0/24", "10.20.0.0/16"].as_slice()),
        (&b, "10.20.1.200/24", "10.20.1.1", &["10.20.2.0/24", "10.20.3.0/24", "10.10.0.0/16"]),
    ] {
        assert_eq!(pod.addresses("net1")?.iter().map(ToString::to_string).collect::<Vec<_>>(), [address]);
        for route in routes {
            let route = pod.route(route)?;
            assert_eq!((route.gateway, route.device.as_str()), (gateway.parse().ok(), "net1"));
        }
    }
    b.ping_times("10.10.1.200", 2)?.all_received()?.with_ttl(59)?;
    Ok(())
}

/// Applies networks and pods as `kubectl apply -f` would.
fn applied(first: &str, second: &str, has_tunnel: bool) -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    if has_tunnel {
        agents(&lab)?;
    }
    let mut pods: Vec<Pod> = Vec::new();
    for (node, pod) in [(lab.ohio(), first), (lab.mumbai(), second)] {
        let network = if has_tunnel { "bridge-tun" } else { "plumbr" };
        assert!(node.apply(format!("conf/nad/{}-{network}.yaml", node.cluster()))?.is_empty());
        pods.extend(node.apply(format!("conf/pods/{pod}.yaml"))?);
    }
    let [a, b] = <[Pod; 2]>::try_from(pods).map_err(|pods| format!("{pods:?}"))?;
    a.ping("10.20.1.200")?.all_received()?.with_ttl(59)?;
    if has_tunnel {
        a.ping("10.4.0.2")?.all_received()?.with_ttl(64)?;
        b.ping("10.4.0.1")?.all_received()?.with_ttl(64)?;
    }
    for pod in [&a, &b] {
        assert!(pod.capabilities()?.are_none());
    }
    a.delete()?;
    b.delete()?;
    Ok(())
}

fn pod(node: &Node, network: &str, family: usize) -> Result<Pod, Failed> {
    let name = format!("{}-{network}", node.cluster());
    let address = node.number().pods(Host(200))[family];
    let annotation = format!(r#"[{{"name":"{name}","ips":["{address}"]}}]"#);
    Ok(node.pod(node.cluster()).attach(format!("conf/nad/{name}.yaml").as_str(), &annotation)?)
}

fn tunnels(attachment: Attachment, network: &str, family: usize) -> Outcome {
    let lab = Lab::two_clusters(attachment)?;
    agents(&lab)?;
    connected(&lab, network, family)
}

fn connected(lab: &Lab, network: &str, family: usize) -> Outcome {
    let (a, b) = (pod(lab.ohio(), network, family)?, pod(lab.mumbai(), network, family)?);
    a.ping(b.node().number().pods(Host(200))[family].ip())?.all_received()?.with_ttl(59)?;
    a.ping("10.4.0.2")?.all_received()?.with_ttl(64)?;
    b.ping("10.4.0.1")?.all_received()?;
    if family == 1 {
        a.ping("fd10:4::2")?.all_received()?.with_ttl(64)?;
    }
    a.check()?;
    b.check()?;
    Ok(())
}

/// The networks name each other's public key, which each node tells as its file says.
fn sealed(network: &str) -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ends = [(lab.ohio(), "plumbr-a"), (lab.mumbai(), "plumbr-b")];
    let name = |node: &Node| format!("{}-{network}", node.cluster());
    let mut keys = Vec::new();
    let mut texts = Vec::new();
    for (node, pod) in ends {
        let text = fs::read_to_string(in_workspace(Path::new(&format!("conf/nad/{}.yaml", name(node)))))?;
        keys.push(if text.contains("privateKeyFile") {
            let line = ["key", "generate", "--namespace", "default", "--file", &format!("{}.key", node.cluster())];
            node.adit(line)?.ok()?.stdout.trim().to_owned()
        } else {
            derived_key(node, "default", pod, &name(node), "tun")?
        });
        texts.push(text);
    }
    let mut pods = Vec::new();
    for (((node, pod), text), theirs) in ends.into_iter().zip(&texts).zip(keys.iter().rev()) {
        let (_, config) = text.split_once("config: |").ok_or("the file has no configuration")?;
        let (before, rest) = config.split_once("(the public key of ").ok_or("the file has no place for the key")?;
        let (_, behind) = rest.split_once(')').ok_or("the place for the key has no end")?;
        let address = node.number().pods(Host(200))[0];
        let annotation = format!(r#"[{{"name":"{}","ips":["{address}"]}}]"#, name(node));
        let network = Nad::new(&name(node), format!("{before}{theirs}{behind}"));
        pods.push(node.pod(pod).attach(network, &annotation)?);
    }
    for (pod, other) in pods.iter().zip(["10.4.0.2", "10.4.0.1"]) {
        pod.ping(other)?.all_received()?;
        pod.check()?;
    }
    for ((node, _), own) in ends.into_iter().zip(&keys) {
        assert_eq!(tunnel(node)?["publicKey"], own.as_str());
        assert_eq!(tunnel(node)?["encryption"], "noise");
    }
    Ok(())
}

fn one_to_many(network: &str, has_agents: bool) -> Outcome {
    let spec = LabSpec::new(Attachment::Bridge).cluster("ohio", 1).cluster("mumbai", 1).cluster("tokyo", 1);
    let lab = Lab::build(&spec)?;
    if has_agents {
        agents(&lab)?;
    }
    let pods: Vec<Pod> = lab.nodes().iter().map(|node| pod(node, network, 0)).collect::<Result<_, _>>()?;
    pods[0].ping("10.4.0.2")?.all_received()?;
    pods[0].ping("10.4.0.3")?.all_received()?;
    pods[2].ping("10.4.0.1")?.all_received()?;
    Ok(())
}

fn unit() -> Result<String, Failed> {
    Ok(fs::read_to_string(in_workspace(Path::new("conf/systemd/aditd.service")))?)
}

/// The value of a key of the unit.
fn setting(key: &str) -> Result<String, Failed> {
    let unit = unit()?;
    let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("no {key} in the unit"))?.to_owned())
}

fn unit_verified() -> Outcome {
    let lab = Lab::build(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
    let path = lab.directory("unit")?.join("aditd.service");
    // The program is looked for; it is not installed here.
    let installed = unit()?.replace("/usr/local/bin/aditd", &Binaries::get()?.program("aditd")?.display().to_string());
    fs::write(&path, installed)?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&path);
    let ran = match run(verify, None, COMMAND_DEADLINE) {
        Err(Error::Start { source, .. }) if source.kind() == ErrorKind::NotFound => {
            println!("left out: systemd-analyze (package systemd) is not there");
            return Ok(());
        }
        ran => ran?.ok()?,
    };
    // What it does not understand it ignores, says so, and ends with status 0.
    assert_eq!(format!("{}{}", ran.stdout, ran.stderr).trim(), "");
    Ok(())
}

fn unit_allows() -> Outcome {
    // The packet threads confine themselves.
    assert!(setting("SystemCallFilter")?.split(' ').any(|call| call == "seccomp"));

    // Unit and agent make the run directory alike.
    let lab = Lab::build(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
    let directory = lab.directory("new")?.join("run");
    let mut agent = lab.ohio().command("timeout");
    agent.arg("1").arg(Binaries::get()?.program("aditd")?).arg("--run-dir").arg(&directory);
    run(agent, None, COMMAND_DEADLINE)?;
    let mode = fs::metadata(&directory)?.permissions().mode() & 0o7777;
    assert_eq!(format!("{mode:04o}"), setting("RuntimeDirectoryMode")?);
    Ok(())
}

/// The agent as systemd would start it, as far as capabilities go: none but those of the unit, and no new ones. It
/// carries a tunnel, and takes it up again after it was killed.
fn unit_capabilities() -> Outcome {
    let allowed = setting("CapabilityBoundingSet")?;
    let allowed: Vec<String> = allowed.split(' ').map(|name| name.replacen("CAP_", "+", 1).to_lowercase()).collect();
    let bounding = format!("--bounding-set=-all,{}", allowed.join(","));
    let wrapper = ["setpriv", bounding.as_str(), "--inh-caps=-all", "--no-new-privs", "--"];

    let lab = Lab::two_clusters(Attachment::Bridge)?;
    lab.ohio().start_agent_under(&wrapper)?;
    lab.mumbai().start_agent()?;
    let (a, _b) = (pod(lab.ohio(), "bridge-tun", 0)?, pod(lab.mumbai(), "bridge-tun", 0)?);
    a.ping("10.4.0.2")?.all_received()?;
    lab.ohio().kill_agent()?;
    lab.ohio().start_agent_under(&wrapper)?;
    a.ping("10.4.0.2")?.all_received()?;
    assert_eq!(lab.ohio().agent_fds()?.tun, 1, "{}", lab.ohio().agent_log());
    assert_eq!(lab.ohio().agent_fds()?.udp, 1);
    Ok(())
}
