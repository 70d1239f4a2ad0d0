//! Bad input: a clear error that names key, value and remedy, and nothing changed.

use adit_integration::{
    trial,
    tunnels::{FIRST_POD, Family, annotation, lab_with_agents, list, net1, outer, tun, with},
};
use adit_lab::{Attachment, Binaries, COMMAND_DEADLINE, Lab, LabSpec, run};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("impossible_values_are_refused_by_name_and_change_nothing", impossible_values),
        trial("settings_of_the_annotation_outside_overrides_are_refused", annotation_outside_overrides),
        trial("a_name_that_is_taken_is_refused_and_the_other_interface_stays", name_taken),
        trial("a_port_that_is_taken_is_refused_and_names_the_key", port_taken),
        trial("tun_without_an_interface_below_is_refused", no_interface_below),
        trial("without_an_agent_the_code_is_11_and_names_socket_and_unit", no_agent),
        trial("the_nodes_own_namespace_is_refused", own_namespace),
    ]);
}

/// Tries to attach a pod with `plugins`, and expects `code` and every one of `words` in the error, and no trace.
fn refused(lab: &Lab, plugins: &[Value], networks: &str, code: u32, words: &[&str]) -> Outcome {
    let node = lab.ohio();
    let mut pod = node.pod("refused").bare()?;
    // The chain's first plugin leaves its bridge, as bridges stay: let it be there before the first look.
    let settled = list("settle", &[net1(lab, node)]);
    pod.attach(settled, &annotation("settle", node, FIRST_POD))?;
    pod.detach()?;

    let (pod_before, node_before) = (pod.network_snapshot()?, node.snapshot()?);
    let error = match pod.attach(list("refused", plugins), networks) {
        Ok(()) => return Err(format!("attached, though {words:?} was expected").into()),
        Err(error) => error,
    };
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert_eq!(error.cni().map(|error| error.code.0), Some(code), "{text}");
    pod_before.unchanged(&pod.network_snapshot()?)?;
    node_before.unchanged(&node.snapshot()?)?;
    pod.delete()?;
    Ok(())
}

fn impossible_values() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let remote = outer(lab.mumbai(), Family::V4, FIRST_POD);
    let ipv6_inside = json!({ "type": "static", "addresses": [{ "address": "fd04::1/64" }] });
    let swallowing =
        json!({ "type": "static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": [{ "dst": "10.20.1.0/24" }] });
    let cases: [(Value, &[&str]); 13] = [
        (json!({ "encap": "smoke-signals" }), &["encap", "smoke-signals", "write \"udp\""]),
        (json!({ "encryption": null }), &["encryption", "write \"encryption\": \"none\""]),
        (json!({ "encryption": "noise" }), &["encryption", "noise", "not supported by this version"]),
        (json!({ "remote": null }), &["remote is missing"]),
        (
            json!({ "remote": "mumbai.example" }),
            &["remote", "mumbai.example", "not an IP address", "names are not resolved"],
        ),
        (json!({ "remote": "10.10.1.200" }), &["remote", "own address"]),
        (json!({ "remote": "127.0.0.9" }), &["remote", "127.0.0.9", "loopback"]),
        (json!({ "remote": "203.0.113.9" }), &["remote", "no route to 203.0.113.9"]),
        (json!({ "ipam": swallowing }), &["ipam route", "10.20.1.0/24", "into the tunnel"]),
        (json!({ "mtu": 1457 }), &["mtu", "1457", "does not fit", "1456"]),
        (json!({ "mtu": 1279, "ipam": ipv6_inside }), &["mtu", "1279", "IPv6", "1280"]),
        (json!({ "mtu": 500 }), &["mtu", "500", "576"]),
        (json!({ "device": "eth7" }), &["device", "no interface eth7"]),
    ];
    for (changes, words) in cases {
        let plugins = [net1(&lab, lab.ohio()), with(tun(remote, "10.4.0.1/30"), &changes)];
        refused(&lab, &plugins, &annotation("refused", lab.ohio(), FIRST_POD), 7, words)
            .map_err(|failed| format!("{changes}: {}", failed.message().unwrap_or_default()))?;
    }
    // net1 has IPv4 only, the peer is named by IPv6.
    let ipv6 = tun(outer(lab.mumbai(), Family::V6, FIRST_POD), "10.4.0.1/30");
    let ipv4_only = r#"[{"name":"refused","ips":["10.10.1.200/24"]}]"#;
    let below =
        with(net1(&lab, lab.ohio()), &json!({ "ipam": { "type": "static", "routes": [{ "dst": "10.20.1.0/24" }] } }));
    refused(&lab, &[below, ipv6], ipv4_only, 7, &["remote", "fd10:20:1::", "another address family than net1"])?;
    // Another interface leads to the peer: the cluster's own network.
    let below = with(net1(&lab, lab.ohio()), &json!({ "ipam": { "type": "static" } }));
    let elsewhere = with(tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30"), &json!({}));
    let mut pod = lab.ohio().pod("elsewhere").with_default_network().bare()?;
    let error = pod
        .attach(list("elsewhere", &[below, elsewhere]), &annotation("elsewhere", lab.ohio(), FIRST_POD))
        .err()
        .ok_or("attached although the peer is behind eth0")?;
    assert!(error.to_string().contains("is not reached through net1"), "{error}");
    Ok(())
}

fn annotation_outside_overrides() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let plugins = [net1(&lab, lab.ohio()), tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")];
    for (settings, word) in [
        (json!({ "remote": "10.66.6.6" }), "cni-args.tun.remote"),
        (json!({ "privateKeyFile": "/etc/shadow" }), "cni-args.tun.privateKeyFile"),
        (json!({ "overrides": ["remote"] }), "cni-args.tun.overrides"),
    ] {
        let mut networks: Value = serde_json::from_str(&annotation("refused", lab.ohio(), FIRST_POD))?;
        networks[0]["cni-args"] = json!({ "tun": settings });
        refused(&lab, &plugins, &networks.to_string(), 7, &[word])?;
    }
    Ok(())
}

fn name_taken() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let mut pod = lab.ohio().pod("taken").bare()?;
    pod.root(["ip", "tuntap", "add", "mode", "tun", "name", "tun"])?.ok()?;
    let before = pod.interface("tun")?.index;
    let nad = list("taken", &[net1(&lab, lab.ohio()), tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")]);
    let error = pod.attach(nad, &annotation("taken", lab.ohio(), FIRST_POD)).err().ok_or("attached")?;
    assert!(error.to_string().contains("ifName: the pod has an interface tun already"), "{error}");
    // The runtime has called DEL after the failure; a tunnel that was never made is not removed.
    assert_eq!(pod.interface("tun")?.index, before);
    assert_eq!(pod.interface_names()?, ["lo", "tun"]);
    Ok(())
}

fn port_taken() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let remote = outer(lab.mumbai(), Family::V4, FIRST_POD);
    let plugins = [
        net1(&lab, lab.ohio()),
        tun(remote, "10.4.0.1/30"),
        with(tun(remote, "10.5.0.1/30"), &json!({ "ifName": "tun1" })),
    ];
    refused(&lab, &plugins, &annotation("refused", lab.ohio(), FIRST_POD), 999, &["port taken", "6090", "\"local\""])
}

fn no_interface_below() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let alone = [tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")];
    refused(&lab, &alone, r#"[{"name":"refused"}]"#, 7, &["prevResult missing", "chained"])
}

fn no_agent() -> Outcome {
    let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge))?;
    let plugins = [net1(&lab, lab.ohio()), tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")];
    let socket = lab.ohio().run_dir().join("agent.sock").display().to_string();
    refused(&lab, &plugins, &annotation("refused", lab.ohio(), FIRST_POD), 11, &[&socket, "systemctl start aditd"])?;
    // STATUS says beforehand that the node cannot take tunnels.
    lab.ohio().define(list("refused", &plugins))?;
    let status = by_hand(&lab, "tun", "STATUS", &plugins[1])?;
    assert_eq!(
        (status["code"].as_u64(), status["msg"].as_str().is_some_and(|text| text.contains(&socket))),
        (Some(50), true)
    );
    lab.ohio().start_agent()?;
    lab.ohio().network_status("refused")?;
    Ok(())
}

fn own_namespace() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let before = lab.ohio().snapshot()?;
    let tunnel = tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30");
    for (plugin, config) in [("tun", tunnel), ("bridge", net1(&lab, lab.ohio()))] {
        let error = by_hand(&lab, plugin, "ADD", &config)?;
        assert_eq!(error["code"], 8, "{error}");
    }
    before.unchanged(&lab.ohio().snapshot()?)?;
    Ok(())
}

/// Runs a plugin on Ohio's node with the node's own namespace as CNI_NETNS; it must fail, and this is its error.
fn by_hand(lab: &Lab, plugin: &str, verb: &str, config: &Value) -> Result<Value, Failed> {
    let node = lab.ohio();
    let mut command = node.command(Binaries::get()?.program(plugin)?);
    command.envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "net1")]);
    command.env("CNI_PATH", Binaries::get()?.directory());
    command.env("CNI_NETNS", node.path());
    command.env("ADIT_RUN_DIR", node.run_dir());
    let stdin = with(config.clone(), &json!({ "cniVersion": "1.1.0", "name": "by-hand" })).to_string();
    let ran = run(command, Some(stdin.as_bytes()), COMMAND_DEADLINE)?.fails()?;
    Ok(serde_json::from_str(&ran.stdout)?)
}
