//! Bad keys and bad peers: each refused by name before anything has changed.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
};

use adit_integration::{
    sealed::{Format, KeyPair, install_key, key_folder, sealed_tun},
    trial,
    tunnels::{Below, Call, FIRST_POD, Family, lab_with_agents, outer, with},
};
use adit_lab::{Attachment, Lab, LabSpec};
use libtest_mimic::{Failed, Trial};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::Outcome;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        let named = |what: &str| format!("{what}_by_{format:?}").to_lowercase();
        trials.extend([
            trial(named("key_files_that_are_none_are_refused_by_name"), move || key_files(format)),
            trial(named("peers_that_cannot_be_are_refused_by_name"), move || peers(format)),
        ]);
    }
    trials.extend([
        trial("wireguard_without_encryption_is_refused", wireguard_in_the_clear),
        trial("a_nodes_secret_that_is_none_is_refused_and_stays", node_secret),
        trial("keys_behind_a_linked_folder_are_refused", linked_folder),
        trial("del_needs_no_key", del_needs_no_key),
        trial("a_tunnel_whose_key_has_gone_is_not_carried_and_says_so", key_gone),
    ]);
    trials
}

struct Usual {
    below: Below,
    own: Value,
    key: KeyPair,
    lab: Lab,
}

/// A pod with net1, a tunnel that would be taken, and the pair whose private key it uses from a file.
fn usual(format: Format) -> Result<Usual, Failed> {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let below = Below::usual(&lab, lab.ohio(), "refused")?;
    let key = KeyPair::new()?;
    install_key(lab.ohio(), "_", "good.key", &key.private)?;
    let endpoint = outer(lab.mumbai(), Family::V4, FIRST_POD);
    let own = sealed_tun(format, Family::V4, Some(endpoint), &KeyPair::new()?.public, "10.4.0.1/30");
    let own = with(own, &json!({ "privateKeyFile": "good.key" }));
    Ok(Usual { below, own, key, lab })
}

fn key_files(format: Format) -> Outcome {
    let Usual { below, own, key, lab } = usual(format)?;
    let node = lab.ohio();
    let folder = key_folder(node, "_")?;
    let private = key.private.as_str();
    let long = format!("{}AAAA", private.trim_end_matches('='));
    for (file, text) in [
        ("mode.key", private),
        ("group.key", private),
        ("owner.key", private),
        ("short.key", "AAAA"),
        ("long.key", &long),
        ("empty.key", ""),
        ("other.key", "-----BEGIN PRIVATE KEY-----"),
    ] {
        install_key(node, "_", file, text)?;
    }
    fs::set_permissions(folder.join("mode.key"), Permissions::from_mode(0o644))?;
    fs::set_permissions(folder.join("group.key"), Permissions::from_mode(0o640))?;
    chown(folder.join("owner.key"), Some(65_534), None)?;
    symlink("good.key", folder.join("link.key"))?;
    symlink(folder.join("good.key"), folder.join("absolute.key"))?;
    fs::create_dir(folder.join("folder.key"))?;
    // Nobody ever writes to it: who waits for that waits for ever.
    nix::unistd::mkfifo(&folder.join("pipe.key"), Mode::from_bits_truncate(0o600))?;
    let absolute = folder.join("good.key").display().to_string();
    let cases: [(&str, &[&str]); 14] = [
        ("missing.key", &["does not exist"]),
        ("mode.key", &["0644", "0600"]),
        ("group.key", &["0640", "0600"]),
        ("owner.key", &["root", "65534"]),
        ("short.key", &["44 characters"]),
        ("long.key", &["44 characters"]),
        ("empty.key", &["44 characters"]),
        ("other.key", &["base64"]),
        ("link.key", &["symbolic link"]),
        ("absolute.key", &["symbolic link"]),
        ("folder.key", &["regular file"]),
        ("pipe.key", &["regular file"]),
        ("../good.key", &["plain file name"]),
        (&absolute, &["plain file name"]),
    ];
    for key in ["privateKeyFile", "presharedKeyFile"] {
        for (file, words) in &cases {
            let stdin = below.stdin(&with(own.clone(), &json!({ key: file })));
            let words: Vec<&str> = [key, file].iter().chain(words.iter()).copied().collect();
            below
                .refuses(&Call::tun(&below.pod)?, &stdin, 7, &words)
                .map_err(|error| format!("{key} {file}: {error}"))?;
        }
    }
    // What is in the files is in no error, and the same words with good ones are taken.
    let stdin = below.stdin(&with(own.clone(), &json!({ "privateKeyFile": "short.key" })));
    let said = Call::tun(&below.pod)?.run("ADD", &stdin)?.fails()?;
    assert!(!said.stdout.contains("AAAA") && !said.stderr.contains("AAAA"), "{said:?}");
    below.add(&own)?;
    Ok(())
}

fn peers(format: Format) -> Outcome {
    let Usual { below, own, key, lab } = usual(format)?;
    let (one, other) = (KeyPair::new()?.public, KeyPair::new()?.public);
    let endpoint = outer(lab.mumbai(), Family::V4, FIRST_POD).to_string();
    let several = |peers: Value| json!({ "remote": null, "publicKey": null, "peers": peers });
    let peer =
        |public: &str, networks: Value| json!({ "publicKey": public, "allowedIPs": networks, "endpoint": endpoint });
    let short = &one[..40];
    // 256 bits leave two bits of the last letter unused; they must be zero, or one key would have four names.
    let mut twisted = one.clone().into_bytes();
    twisted[42] += 1;
    let twisted = String::from_utf8(twisted)?;
    let cases: Vec<(Value, Vec<&str>)> = vec![
        (json!({ "publicKey": null }), vec!["publicKey", "adit key show", "\"encryption\": \"none\""]),
        (json!({ "publicKey": "" }), vec!["publicKey"]),
        (json!({ "publicKey": short }), vec!["publicKey", short, "44 characters"]),
        (json!({ "publicKey": twisted }), vec!["publicKey", &twisted]),
        (json!({ "publicKey": "not a key" }), vec!["publicKey", "not a key", "base64"]),
        (json!({ "publicKey": key.public }), vec!["publicKey", &key.public, "own"]),
        (json!({ "remote": null }), vec!["remote is missing"]),
        (several(json!([{ "endpoint": endpoint }])), vec!["peers[0].publicKey", "adit key show"]),
        (
            several(
                json!([peer(&one, json!(["10.4.0.2/32"])), { "publicKey": key.public, "allowedIPs": ["10.4.0.3/32"] }]),
            ),
            vec!["publicKey", &key.public, "own"],
        ),
        (
            several(json!([peer(&one, json!(["10.4.0.2/32"])), { "publicKey": one, "allowedIPs": ["10.4.0.3/32"] }])),
            vec!["peers[1].publicKey", &one, "peers[0]"],
        ),
        (
            several(json!([peer(&one, json!(["10.4.0.0/24"])), { "publicKey": other, "allowedIPs": ["10.4.0.9/24"] }])),
            vec!["peers[1].allowedIPs", "10.4.0.0/24", "peers[0]"],
        ),
        (
            several(json!([peer(&one, json!(["10.4.0.2/32", "10.20.0.0/16"]))])),
            vec!["peers[0].allowedIPs", "10.20.0.0/16", "10.20.1.200"],
        ),
        (
            several(
                json!([peer(&one, json!(["10.4.0.2/32"])), { "publicKey": other, "allowedIPs": ["10.20.1.200/32"] }]),
            ),
            vec!["peers[1].allowedIPs", "10.20.1.200/32"],
        ),
        (several(json!([peer(&one, json!(["10.4.0.2/32"])), { "publicKey": other }])), vec!["peers[1].allowedIPs"]),
        (json!({ "presharedKeyFile": "missing.psk" }), vec!["presharedKeyFile", "missing.psk"]),
        (
            several(json!([{ "publicKey": one, "endpoint": endpoint, "presharedKeyFile": "missing.psk" }])),
            vec!["peers[0].presharedKeyFile", "missing.psk"],
        ),
        (json!({ "underlay": "cluster" }), vec!["underlay", "cluster"]),
        (json!({ "engine": "bpf" }), vec!["engine", "bpf"]),
        (json!({ "mtu": 1441 }), vec!["mtu", "1441", "1440"]),
    ];
    for (changes, words) in cases {
        let stdin = below.stdin(&with(own.clone(), &changes));
        below.refuses(&Call::tun(&below.pod)?, &stdin, 7, &words).map_err(|error| format!("{changes}: {error}"))?;
    }
    below.add(&own)?;
    Ok(())
}

fn wireguard_in_the_clear() -> Outcome {
    let Usual { below, own, lab: _lab, .. } = usual(Format::Wireguard)?;
    for (changes, words) in [
        (json!({ "encryption": "none" }), ["encryption", "none", "wireguard"]),
        (json!({ "encryption": "rot13" }), ["encryption", "rot13", ""]),
        (json!({ "shortcut": true }), ["shortcut", "wireguard", ""]),
        (json!({ "vni": 7 }), ["vni", "wireguard", ""]),
    ] {
        below.refuses(&Call::tun(&below.pod)?, &below.stdin(&with(own.clone(), &changes)), 7, &words)?;
    }
    below.add(&with(own, &json!({ "encryption": "noise" })))?;
    Ok(())
}

/// Nobody replaces it: every derived key of the node would be another one.
fn node_secret() -> Outcome {
    let Usual { below, own, lab, .. } = usual(Format::Noise)?;
    let own = with(own, &json!({ "privateKeyFile": null }));
    let path = lab.ohio().config_dir().join("node.secret");
    let other = lab.directory("other")?.join("secret");
    fs::write(&other, [7; 32])?;
    fs::set_permissions(&other, Permissions::from_mode(0o600))?;
    let call = Call::tun(&below.pod)?;
    for (content, mode, words) in [
        ([7; 31].as_slice(), 0o600, ["node.secret", "31 bytes"]),
        (&[7; 33], 0o600, ["node.secret", "33 bytes"]),
        (&[], 0o600, ["node.secret", "0 bytes"]),
        (&[7; 32], 0o644, ["node.secret", "0644"]),
    ] {
        fs::write(&path, content)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        below.refuses(&call, &below.stdin(&own), 7, &words)?;
        assert_eq!(fs::read(&path)?, content);
        fs::remove_file(&path)?;
    }
    symlink(&other, &path)?;
    below.refuses(&call, &below.stdin(&own), 7, &["node.secret", "symbolic link"])?;
    fs::remove_file(&path)?;
    below.add(&own)?;
    assert_eq!(fs::read(&path)?.len(), 32);
    Ok(())
}

fn linked_folder() -> Outcome {
    let Usual { below, own, lab, .. } = usual(Format::Noise)?;
    let folder = key_folder(lab.ohio(), "_")?;
    let elsewhere = lab.directory("elsewhere")?;
    fs::copy(folder.join("good.key"), elsewhere.join("good.key"))?;
    fs::rename(&folder, folder.with_file_name("moved"))?;
    let (call, stdin) = (Call::tun(&below.pod)?, below.stdin(&own));
    for target in [elsewhere.as_path(), std::path::Path::new("moved"), std::path::Path::new("../keys/moved")] {
        symlink(target, &folder)?;
        below.refuses(&call, &stdin, 7, &["privateKeyFile", "good.key", "symbolic link"])?;
        fs::remove_file(&folder)?;
    }
    fs::rename(folder.with_file_name("moved"), &folder)?;
    call.run("ADD", &stdin)?.ok()?;
    Ok(())
}

/// What a pod leaves is removed without its keys, and without an agent.
fn del_needs_no_key() -> Outcome {
    for has_agent in [true, false] {
        let Usual { below, own, lab, .. } = usual(Format::Noise)?;
        let call = Call::tun(&below.pod)?;
        let stdin = below.stdin(&own);
        let before = below.pod.network_snapshot()?;
        call.run("ADD", &stdin)?.ok()?;
        fs::remove_dir_all(lab.ohio().config_dir().join("keys"))?;
        if !has_agent {
            lab.ohio().kill_agent()?;
        }
        call.run("DEL", &stdin)?.ok()?;
        before.unchanged(&below.pod.network_snapshot()?)?;
        let left: Vec<_> = fs::read_dir(lab.ohio().run_dir().join("attachments"))?.collect();
        assert!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

/// An agent that cannot read a tunnel's key any more does not carry the tunnel, and says why.
fn key_gone() -> Outcome {
    let Usual { below, own, key, lab } = usual(Format::Noise)?;
    let node = lab.ohio();
    let (call, stdin) = (Call::tun(&below.pod)?, below.stdin(&own));
    call.run("ADD", &stdin)?.ok()?;
    let file = key_folder(node, "_")?.join("good.key");
    node.stop_agent()?;
    fs::remove_file(&file)?;
    node.start_agent()?;
    let tunnel = adit_integration::sealed::tunnel(node)?;
    assert_eq!(tunnel["state"], "down", "{tunnel:#}");
    assert!(tunnel["reason"].as_str().is_some_and(|reason| reason.contains("good.key")), "{tunnel:#}");
    install_key(node, "_", "good.key", &key.private)?;
    adit_lab::eventually("the tunnel to be carried again", std::time::Duration::from_secs(10), || {
        Ok((adit_integration::sealed::tunnel(node)?["carried"] == true).then_some(()))
    })?;
    call.run("DEL", &stdin)?.ok()?;
    Ok(())
}
