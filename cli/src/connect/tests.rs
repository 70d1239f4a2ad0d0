use serde_json::{Value, json};

use super::*;
use crate::connect::description::{Workload, WorkloadKind};

const PLUMBR: &str = r#"
name: plumbr
tunnel: { encap: udp }
sides:
  - name: ohio
    workload: deployment/plumbr-a
    net1:
      plugin: { type: adit-bridge, isGateway: true }
      address: 10.10.1.200/24
      routes: [10.20.0.0/16]
    address: 10.4.0.1/30
  - name: mumbai
    context: asia
    namespace: plumbr
    workload: pod/plumbr-b
    node: mumbai-1
    net1:
      plugin: { type: macvlan, master: eth1 }
      address: 10.20.1.200/24
      gateway: 10.20.1.254
      routes: [10.10.0.0/16]
    address: 10.4.0.2/30
    routes: [10.5.0.0/16]
    endpoint: 192.0.2.7:16090
    publicKey: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
"#;

fn plumbr() -> Connection {
    Connection::parse(PLUMBR).unwrap()
}

fn problem(from: &str, to: &str) -> String {
    assert!(PLUMBR.contains(from));
    Connection::parse(&PLUMBR.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn each_side_gets_a_list_that_leads_to_the_other_one() {
    let connection = plumbr();
    let [ohio, mumbai] = connection.ends().unwrap();
    let config = |side, key| -> Value {
        let Manifests { network, .. } = manifests::of(&connection, side, key).unwrap();
        serde_json::from_str(network["spec"]["config"].as_str().unwrap()).unwrap()
    };
    assert_eq!(
        config(ohio, mumbai.public_key),
        json!({ "cniVersion": "1.1.0", "plugins": [
            {
                "type": "adit-bridge", "isGateway": true, "capabilities": { "ips": true },
                "ipam": { "type": "adit-static", "routes": [{ "dst": "10.20.0.0/16" }] },
            },
            {
                "type": "tun", "encap": "udp", "remote": "192.0.2.7:16090", "keepalive": "25s",
                "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "privateKeyFile": "plumbr.key",
                "ipam": { "type": "adit-static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": [] },
            },
        ] })
    );
    let of_mumbai = config(mumbai, None);
    assert_eq!(of_mumbai["plugins"][0]["ipam"]["routes"], json!([{ "dst": "10.10.0.0/16", "gw": "10.20.1.254" }]));
    assert_eq!(of_mumbai["plugins"][1]["remote"], "10.10.1.200");
    assert_eq!(of_mumbai["plugins"][1]["publicKey"], "(the public key of ohio)");
    assert_eq!(of_mumbai["plugins"][1]["ipam"]["routes"], json!([{ "dst": "10.5.0.0/16" }]));
}

#[test]
fn a_tunnel_without_encryption_has_no_keys() {
    let text = PLUMBR.replace("encap: udp", "encap: vxlan, encryption: none, vni: 7").replace(":16090", "");
    let connection = Connection::parse(&text).unwrap();
    assert!(!connection.is_sealed().unwrap() && plumbr().is_sealed().unwrap());
    let [ohio, _] = connection.ends().unwrap();
    let network = manifests::of(&connection, ohio, None).unwrap().network;
    let config = network["spec"]["config"].as_str().unwrap();
    for key in ["publicKey", "privateKeyFile", "keepalive"] {
        assert!(!config.contains(key), "{config}");
    }
}

#[test]
fn what_is_printed_is_two_networks_and_what_their_pods_need() {
    let text = printed(&plumbr()).unwrap();
    assert!(text.contains("# mumbai, context asia\n"), "{text}");
    assert!(text.contains("adit key generate --namespace default --file plumbr.key"), "{text}");
    assert!(!text.contains("--namespace plumbr"), "its key is there already: {text}");
    assert!(text.contains(r#"k8s.v1.cni.cncf.io/networks: '[{"ips":["10.10.1.200/24"],"name":"plumbr"}]'"#), "{text}");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let spaces: Vec<&Value> = documents
        .iter()
        .filter(|document| !document.is_null())
        .map(|document| &document["metadata"]["namespace"])
        .collect();
    assert_eq!(spaces, [&json!("default"), &json!("plumbr")]);
}

#[test]
fn what_cannot_be_connected_is_refused_by_name() {
    for (from, to, expected) in [
        ("name: mumbai\n", "name: ohio\n", "both are called ohio"),
        ("encap: udp", "encap: upd", "ohio: encap: upd is no encapsulation"),
        ("encap: udp", "encap: vxlan", "ohio: encryption is missing"),
        ("deployment/plumbr-a", "plumbr-a", "names no workload; write deployment/NAME"),
        ("deployment/plumbr-a", "job/plumbr-a", "\"job\" is no kind of workload"),
        ("type: adit-bridge, ", "", "ohio: net1.plugin.type is missing"),
        ("endpoint: 192.0.2.7:16090", "endpoint: mumbai.example", "ohio: remote: mumbai.example is not an IP address"),
        ("workload: pod", "wrokload: pod", "wrokload"),
        ("deployment/plumbr-a", "deployment/--server=https://192.0.2.1", "is no name"),
        ("name: mumbai\n", "name: \"mumbai\\n---\"\n", "is no name"),
        ("node: mumbai-1", "node: -f", "node: \"-f\" is no name"),
        ("node: mumbai-1", "tunnel: { encap: vxlan, encryption: none, vni: 7 }", "write both for both sides"),
        (
            "    address: 10.4.0.1/30\n",
            "    address: 10.4.0.1/30\n    tunnel: { underlay: host }\n",
            "ohio: endpoint is missing",
        ),
        ("    address: 10.4.0.1/30\n", "", "address"),
        ("    context: asia\n    namespace: plumbr\n", "    context: ohio\n", "one cluster; give one side another"),
    ] {
        let problem = problem(from, to);
        assert!(problem.contains(expected), "{to}: {problem}");
    }
    let alone = PLUMBR.split("  - name: mumbai").next().unwrap();
    assert!(Connection::parse(alone).unwrap_err().contains("there are 1, and a connection has two"));
}

#[test]
fn an_annotation_that_is_there_keeps_its_other_networks() {
    let own = json!({ "name": "plumbr", "ips": ["10.10.1.200/24"] });
    let after = |before: &str| -> Value {
        serde_json::from_str(&manifests::annotation(Some(before), &own, "default").unwrap()).unwrap()
    };
    assert_eq!(after(""), json!([own]));
    assert_eq!(
        after("storage/nfs@nfs0, backup"),
        json!([
            { "namespace": "storage", "name": "nfs", "interface": "nfs0" }, { "name": "backup" }, own,
        ])
    );
    assert_eq!(
        after(r#"[{ "name": "plumbr", "ips": ["10.9.9.9/24"] }, { "name": "backup" }]"#),
        json!([own, { "name": "backup" }])
    );
    assert!(
        manifests::selects("storage/nfs@nfs0, plumbr", "plumbr", "default")
            && !manifests::selects("plumbr-b, other/plumbr", "plumbr", "default")
    );
    assert!(manifests::annotation(Some("[{"), &own, "default").unwrap_err().contains("is no list of networks"));
}

#[test]
fn a_workload_is_a_kind_and_a_name() {
    let workload = Workload::try_from("statefulset/db".to_owned()).unwrap();
    assert_eq!((workload.kind, workload.name.as_str()), (WorkloadKind::StatefulSet, "db"));
}

#[test]
fn the_description_that_is_shipped_is_the_one_in_its_page() {
    let read = |path| std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (page, file) = (read("docs/connect.md"), read("conf/connect/plumbr.yaml"));
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let [shown, shipped] = [block, file.as_str()].map(|text| printed(&Connection::parse(text).unwrap()).unwrap());
    assert_eq!(shown, shipped);
}
