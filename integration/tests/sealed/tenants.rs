//! Pods of two namespaces on one node: neither uses what is the other's.

use std::{fs, os::unix::fs::symlink};

use adit_integration::{
    sealed::{Format, KeyPair, derived_key, install_key, key_folder, sealed_tun, tunnel},
    trial,
    tunnels::{Below, Call, FIRST_POD, Family, annotation, lab_with_agents, list, net1, outer, tunnels, with},
};
use adit_lab::{Attachment, Lab, LabSpec};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::Outcome;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_pod_cannot_name_a_key_of_another_namespace", no_foreign_files),
        trial("pods_of_one_name_in_two_namespaces_have_different_keys", different_keys),
        trial("a_namespace_that_is_no_folders_name_is_refused", no_paths_as_namespaces),
        trial("an_annotation_changes_no_peer_and_no_key", no_overrides),
    ]
}

/// What all calls by hand have in common: a pod with net1, and a `tun` object that would be taken.
fn usual() -> Result<(Lab, Below, Value), Failed> {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let below = Below::usual(&lab, lab.ohio(), "tenant")?;
    let endpoint = outer(lab.mumbai(), Family::V4, FIRST_POD);
    let own = sealed_tun(Format::Noise, Family::V4, Some(endpoint), &KeyPair::new()?.public, "10.4.0.1/30");
    Ok((lab, below, own))
}

fn no_foreign_files() -> Outcome {
    let (lab, below, own) = usual()?;
    let node = lab.ohio();
    let (theirs, folder) = (install_key(node, "a", "tunnel.key", &KeyPair::new()?.private)?, key_folder(node, "b")?);
    install_key(node, "a", "tunnel.psk", &KeyPair::new()?.private)?;
    symlink(&theirs, folder.join("absolute.key"))?;
    symlink("../a/tunnel.key", folder.join("relative.key"))?;
    symlink("../a", folder.join("folder"))?;
    let call = Call::tun(&below.pod)?.with_arguments("K8S_POD_NAMESPACE=b;K8S_POD_NAME=tenant");
    let absolute = theirs.display().to_string();
    let names = [
        "tunnel.key",
        "../a/tunnel.key",
        "..",
        ".",
        "",
        "folder/tunnel.key",
        "a/tunnel.key",
        "relative.key",
        "absolute.key",
        &absolute,
    ];
    for key in ["privateKeyFile", "presharedKeyFile"] {
        for name in names {
            let stdin = below.stdin(&with(own.clone(), &json!({ key: name })));
            below.refuses(&call, &stdin, 7, &[key]).map_err(|error| format!("{key} {name:?}: {error}"))?;
        }
    }
    // The owner may use it by the same words, and only those.
    let call = Call::tun(&below.pod)?.with_arguments("K8S_POD_NAMESPACE=a;K8S_POD_NAME=tenant");
    call.run("ADD", &below.stdin(&with(own, &json!({ "privateKeyFile": "tunnel.key" }))))?.ok()?;
    Ok(())
}

fn different_keys() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let node = lab.ohio();
    let mut pods = Vec::new();
    for (namespace, host) in [("a", FIRST_POD), ("b", FIRST_POD + 1)] {
        let endpoint = outer(lab.mumbai(), Family::V4, host);
        let own = sealed_tun(Format::Noise, Family::V4, Some(endpoint), &KeyPair::new()?.public, "10.4.0.1/30");
        let nad = list("same", &[net1(&lab, node), own]).in_namespace(namespace);
        pods.push(node.pod("same").in_namespace(namespace).attach(nad, &annotation("same", node, host))?);
    }
    let mut keys: Vec<_> = tunnels(node)?.iter().map(|tunnel| tunnel["publicKey"].clone()).collect();
    let mut shown = Vec::new();
    for namespace in ["a", "b"] {
        shown.push(json!(derived_key(node, namespace, "same", "same", "tun")?));
    }
    keys.sort_by_key(Value::to_string);
    shown.sort_by_key(Value::to_string);
    assert_eq!(keys, shown);
    assert_ne!(keys[0], keys[1]);
    Ok(())
}

/// A runtime gives no such names; whoever can call the plugin otherwise is refused all the same.
fn no_paths_as_namespaces() -> Outcome {
    let (lab, below, own) = usual()?;
    install_key(lab.ohio(), "a", "tunnel.key", &KeyPair::new()?.private)?;
    fs::write(lab.ohio().config_dir().join("tunnel.key"), KeyPair::new()?.private)?;
    let own = with(own, &json!({ "privateKeyFile": "tunnel.key" }));
    for namespace in ["..", ".", "../keys/a", "/", "a/../a", "a/"] {
        let call = Call::tun(&below.pod)?.with_arguments(&format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=tenant"));
        below
            .refuses(&call, &below.stdin(&own), 7, &["privateKeyFile"])
            .map_err(|error| format!("{namespace}: {error}"))?;
    }
    Ok(())
}

fn no_overrides() -> Outcome {
    let (lab, below, own) = usual()?;
    let key = KeyPair::new()?;
    install_key(lab.ohio(), "_", "tunnel.key", &key.private)?;
    let settings = [
        json!({ "publicKey": key.public }),
        json!({ "remote": "10.20.1.66" }),
        json!({ "peers": [{ "publicKey": key.public }] }),
        json!({ "encryption": "none" }),
        json!({ "encap": "wireguard" }),
        json!({ "local": "0.0.0.0:7777" }),
        json!({ "underlay": "host" }),
        json!({ "privateKeyFile": "tunnel.key" }),
        json!({ "presharedKeyFile": "tunnel.key" }),
    ];
    for setting in settings {
        let name = setting.as_object().and_then(|map| map.keys().next()).cloned().unwrap_or_default();
        let args = json!({ "args": { "cni": { "tun": setting } } });
        let word = format!("cni-args.tun.{name}");
        below.refuses(&Call::tun(&below.pod)?, &below.stdin(&with(own.clone(), &args)), 7, &[&word])?;
        // Files are never for a pod to choose, whatever its definition allows.
        if name.ends_with("File") {
            let allowing = with(with(own.clone(), &args), &json!({ "overrides": ["ips", name] }));
            below.refuses(&Call::tun(&below.pod)?, &below.stdin(&allowing), 7, &[&word])?;
        }
    }
    below.add(&own)?;
    assert_eq!(tunnel(lab.ohio())?["encryption"], "noise");
    Ok(())
}
