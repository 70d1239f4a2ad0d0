//! Files for a foreign peer, and from one.

use std::fs;

use adit_integration::{
    foreign::WireguardGo,
    sealed::{Format, KeyPair, file_crosses, install_key, key_folder, preshared_key, sealed_tun},
    trial,
    tunnels::{FIRST_POD, Family, annotation, list, net1, outer, with},
};
use adit_lab::{Lab, Pod};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::{
    Outcome,
    world::{PORT, World},
};

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in ["wg", "wg-quick"] {
        for outside in [Family::V4, Family::V6] {
            let name = format!("a_file_exported_for_{format}_sets_the_other_up_over_{outside:?}").to_lowercase();
            trials.push(trial(name.replace('-', "_"), move || exported(format, outside)));
        }
    }
    trials.extend([
        trial("an_export_has_no_secret_and_needs_the_others_key_only", export_has_no_secret),
        trial("a_file_of_the_other_is_imported_into_a_definition", imported),
        trial("a_file_that_is_none_is_refused_with_its_line", refused),
    ]);
    trials
}

/// Ohio's pod with these keys merged into its `tun` object, for a peer with this public key that comes later.
fn ours(lab: &Lab, outside: Family, peer: &str, changes: &Value) -> Result<Pod, Failed> {
    let node = lab.ohio();
    let allowed = json!({ "peers": [{ "publicKey": peer, "allowedIPs": ["10.4.0.2/32"] }] });
    let own = with(sealed_tun(Format::Wireguard, outside, None, peer, "10.4.0.1/30"), &allowed);
    let nad = list("exchange", &[net1(lab, node), with(own, changes)]);
    Ok(node.pod("ours").attach(nad, &annotation("exchange", node, FIRST_POD))?)
}

/// A line of a file: `Address = 10.4.0.2/32`.
fn line<'a>(file: &'a str, key: &str) -> Option<&'a str> {
    file.lines()
        .find_map(|line| line.split_once('=').filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim()))
}

fn exported(format: &str, outside: Family) -> Outcome {
    let (lab, mumbai) = World::bare()?;
    let theirs = KeyPair::new()?;
    let secret = preshared_key()?;
    install_key(lab.ohio(), "default", "shared.psk", &secret)?;
    let peers =
        json!([{ "publicKey": theirs.public, "allowedIPs": ["10.4.0.2/32"], "presharedKeyFile": "shared.psk" }]);
    let ohio = ours(&lab, outside, &theirs.public, &json!({ "peers": peers }))?;

    let file = lab.ohio().adit(["peer", "export", "default/ours", "--format", format])?.ok()?.stdout;
    assert!(!file.contains(&secret), "{file}");
    // What it asks for in brackets is what only the other end has.
    let of =
        |key: &str, value: &str| line(&file, key).map(|old| (format!("{key} = {old}"), format!("{key} = {value}")));
    let mut filled = file.clone();
    for (old, new) in [of("PrivateKey", &theirs.private), of("PresharedKey", &secret)].into_iter().flatten() {
        filled = filled.replace(&old, &new);
    }
    assert_eq!(
        line(&filled, "Endpoint"),
        Some(std::net::SocketAddr::new(outer(lab.ohio(), outside, FIRST_POD), PORT).to_string().as_str())
    );
    let path = lab.directory("exchange")?.join("wg0.conf");
    fs::write(&path, &filled)?;
    let (configuration, address, mtu) = if format == "wg" {
        (filled.clone(), "10.4.0.2/32", outside.of(&[1440, 1420]))
    } else {
        let mtu = line(&filled, "MTU").unwrap_or_default().parse()?;
        let stripped = mumbai.root(["wg-quick", "strip", &path.display().to_string()])?.ok()?.stdout;
        (stripped, line(&filled, "Address").unwrap_or_default(), mtu)
    };
    assert_eq!(mtu, outside.of(&[1440, 1420]));
    let _theirs = WireguardGo::start(&mumbai, &configuration, address, mtu)?;
    mumbai.ip_batch(&["route add 10.4.0.1/32 dev wg0".to_owned()])?;
    mumbai.ping("10.4.0.1")?.all_received()?;
    ohio.ping("10.4.0.2")?.all_received()?;
    file_crosses(&mumbai, &ohio, "10.4.0.1")?;
    Ok(())
}

fn export_has_no_secret() -> Outcome {
    let (lab, _mumbai) = World::bare()?;
    let (own, theirs) = (KeyPair::new()?, KeyPair::new()?);
    install_key(lab.ohio(), "default", "own.key", &own.private)?;
    let _ohio = ours(&lab, Family::V4, &theirs.public, &json!({ "privateKeyFile": "own.key" }))?;
    for format in ["wg", "wg-quick", "json"] {
        let file = lab.ohio().adit(["peer", "export", "default/ours", "--format", format])?.ok()?.stdout;
        assert!(file.contains(&own.public) && !file.contains(&own.private), "{file}");
        assert!(file.contains("10.4.0.1/32") && file.contains("10.10.1.200:51820"), "{file}");
    }
    // Behind a NAT only a person knows where this end is.
    let line = ["peer", "export", "default/ours", "--format", "wg", "--endpoint", "198.51.100.7:7"];
    assert!(lab.ohio().adit(line)?.ok()?.stdout.contains("Endpoint = 198.51.100.7:7\n"));
    let said = lab.ohio().adit(["peer", "export", "default/nobody"])?.fails()?.stderr;
    assert!(said.contains("no tunnel default/nobody"), "{said}");
    Ok(())
}

/// What another end's administrator would send: its public side, as a section for `wg`.
fn imported() -> Outcome {
    let (lab, mumbai) = World::bare()?;
    let node = lab.ohio();
    let (own, theirs, secret) = (KeyPair::new()?, KeyPair::new()?, preshared_key()?);
    install_key(node, "default", "own.key", &own.private)?;
    let endpoint = std::net::SocketAddr::new(outer(lab.mumbai(), Family::V4, FIRST_POD), PORT);
    let path = lab.directory("exchange")?.join("office.conf");
    fs::write(
        &path,
        format!(
            "# the office\n[Peer]\nPublicKey = {}\nPresharedKey = {secret}\nAllowedIPs = 10.4.0.2\nEndpoint = {endpoint}\n\
             PersistentKeepalive = 25\n",
            theirs.public
        ),
    )?;
    let path = path.display().to_string();
    // A secret has no place in a definition.
    let said = node.adit(["peer", "import", &path])?.fails()?.stderr;
    assert!(said.contains("--preshared-key-file") && !said.contains(&secret), "{said}");
    let said = node.adit(["peer", "import", &path, "--preshared-key-file", "office.psk"])?.ok()?;
    assert!(!said.stdout.contains(&secret) && !said.stderr.contains(&secret), "{said:?}");
    assert!(key_folder(node, "default")?.join("office.psk").exists());
    let peers: Value = serde_json::from_str(&said.stdout)?;
    assert_eq!(
        peers,
        json!([{
            "publicKey": theirs.public, "presharedKeyFile": "office.psk", "allowedIPs": ["10.4.0.2/32"],
            "endpoint": endpoint.to_string(), "keepalive": "25s",
        }])
    );

    let configuration = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nPresharedKey = {secret}\nAllowedIPs = 10.4.0.1/32\n",
        theirs.private, own.public
    );
    let _theirs = WireguardGo::start(&mumbai, &configuration, "10.4.0.2/30", 1440)?;
    let ohio =
        ours(&lab, Family::V4, &theirs.public, &json!({ "privateKeyFile": "own.key", "peers": peers, "local": null }))?;
    ohio.ping("10.4.0.2")?.all_received()?;
    mumbai.ping("10.4.0.1")?.all_received()?;
    Ok(())
}

fn refused() -> Outcome {
    let lab = Lab::two_clusters(adit_lab::Attachment::Bridge)?;
    let path = lab.directory("exchange")?.join("other.conf");
    let key = KeyPair::new()?.public;
    for (text, words) in [
        (String::new(), "no [Peer]"),
        (format!("[Peer]\nPublicKey = {}\n", &key[1..]), "line 2"),
        (format!("[Peer]\nPublicKey = {key}\nAllowedIPs = 10.4.0.2/33\n"), "line 3"),
        (format!("[Peer]\nPublicKey = {key}\nEndpoint = office.example:51820\n"), "line 3"),
        ("{\"peers\": 1}".to_owned(), "peers"),
    ] {
        fs::write(&path, &text)?;
        let said = lab.ohio().adit(["peer", "import", &path.display().to_string()])?.fails()?;
        assert!(
            said.stdout.is_empty() && said.stderr.contains(words) && said.stderr.contains("other.conf"),
            "{said:?}"
        );
    }
    Ok(())
}
