//! Where keys come from, and that they stay there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use adit_integration::{
    sealed::{Format, KeyPair, SealedPair, derived_key, install_key, peer, preshared_key, tunnel},
    trial,
    tunnels::Pair,
};
use adit_lab::{Attachment, Lab};
use libtest_mimic::Trial;
use serde_json::json;

use crate::Outcome;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        let named = |what: &str| format!("{what}_by_{format:?}").to_lowercase();
        trials.extend([
            trial(named("derived_keys_are_those_that_adit_shows_beforehand"), move || derived(format)),
            trial(named("a_preshared_key_is_used"), move || preshared(format)),
            trial(named("different_preshared_keys_keep_ends_apart"), move || wrong_preshared(format)),
            trial(named("nothing_secret_leaves_the_key_files"), move || nothing_secret(format)),
        ]);
    }
    trials.extend([
        trial("the_nodes_secret_is_made_once_and_for_root_alone", node_secret),
        trial("generated_keys_are_files_that_tunnels_take", generated),
        trial("the_agent_leaves_no_core_dump", no_core_dump),
    ]);
    trials
}

fn derived(format: Format) -> Outcome {
    let pair = SealedPair::new(format).derived().up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.mumbai.ping("10.4.0.1")?.all_received()?;
    for (node, other) in [(pair.lab.ohio(), pair.lab.mumbai()), (pair.lab.mumbai(), pair.lab.ohio())] {
        let shown = derived_key(node, "default", &format!("{}-a", node.cluster()), "tunnelled", "tun")?;
        assert_eq!(tunnel(node)?["publicKey"], json!(shown));
        assert_eq!(peer(other)?["publicKey"], json!(shown));
    }
    // The same attachment made again has the same key.
    let Pair { ohio, mumbai, lab } = pair;
    let shown = tunnel(lab.ohio())?["publicKey"].clone();
    let networks = adit_integration::tunnels::annotation("tunnelled", lab.ohio(), 200);
    ohio.delete()?;
    let again = lab.ohio().pod("ohio-a").annotated(&networks)?;
    assert_eq!(tunnel(lab.ohio())?["publicKey"], shown);
    again.ping("10.4.0.2")?.all_received()?;
    mumbai.ping("10.4.0.1")?.all_received()?;
    Ok(())
}

fn preshared(format: Format) -> Outcome {
    let pair = SealedPair::new(format).preshared().up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.mumbai.ping("10.4.0.1")?.all_received()?;
    Ok(())
}

fn wrong_preshared(format: Format) -> Outcome {
    let pair = SealedPair::new(format).preshared().up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    // It is read when the tunnel is taken up again.
    let ohio = pair.lab.ohio();
    ohio.stop_agent()?;
    install_key(ohio, "default", "tunnel.psk", &preshared_key()?)?;
    ohio.start_agent()?;
    pair.ohio.ping("10.4.0.2")?.none_received()?;
    assert_eq!(tunnel(ohio)?["state"], "waiting");
    Ok(())
}

/// Everything that users and logs see, and the files of the run directory, without either key in any spelling.
fn nothing_secret(format: Format) -> Outcome {
    let pair = SealedPair::new(format).preshared().up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let node = pair.lab.ohio();
    let secrets: Vec<String> = ["tunnel.key", "tunnel.psk"]
        .iter()
        .map(|file| fs::read_to_string(node.config_dir().join("keys/default").join(file)))
        .map(|text| Ok(text?.trim().to_owned()))
        .collect::<std::io::Result<_>>()?;
    let mut seen = vec![
        node.adit(["status"])?.ok()?.stdout,
        node.adit(["status", "--json"])?.ok()?.stdout,
        node.agent_log(),
        format!("{:?}", pair.ohio.attached()),
    ];
    for directory in [node.run_dir().to_owned(), node.run_dir().join("attachments"), node.cache_dir().to_owned()] {
        for entry in fs::read_dir(directory)? {
            seen.push(String::from_utf8_lossy(&fs::read(entry?.path()).unwrap_or_default()).into_owned());
        }
    }
    let hexadecimal = |text: &str| -> Result<String, libtest_mimic::Failed> {
        let bytes = base64_decoded(text)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    for secret in &secrets {
        let hex = hexadecimal(secret)?;
        for text in &seen {
            assert!(!text.contains(secret) && !text.contains(&hex), "{text}");
        }
    }
    // That the search finds what is there.
    let public = tunnel(node)?["publicKey"].as_str().unwrap_or("none").to_owned();
    assert!(seen[1].contains(&public), "{}", seen[1]);
    Ok(())
}

fn base64_decoded(text: &str) -> Result<Vec<u8>, libtest_mimic::Failed> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for byte in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == byte).ok_or("no base64")?;
        bits = bits << 6 | u32::try_from(value)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(bytes)
}

fn node_secret() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let node = lab.ohio();
    let path = node.config_dir().join("node.secret");
    assert!(!path.exists());
    // Before any pod and any agent.
    let first = derived_key(node, "default", "p", "n", "tun")?;
    let metadata = fs::metadata(&path)?;
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid(), metadata.len()), (0o600, 0, 32));
    let secret = fs::read(&path)?;
    assert_eq!(derived_key(node, "default", "p", "n", "tun")?, first);
    assert_eq!(fs::read(&path)?, secret);
    // Each word counts, and has its own place: what stands in one is not taken for another.
    for (namespace, pod, network, if_name) in [
        ("default", "p", "n", "tun1"),
        ("default", "p", "n2", "tun"),
        ("default", "p2", "n", "tun"),
        ("b", "p", "n", "tun"),
    ] {
        assert_ne!(derived_key(node, namespace, pod, network, if_name)?, first);
    }
    assert_ne!(derived_key(node, "a", "bc", "n", "tun")?, derived_key(node, "ab", "c", "n", "tun")?);
    assert_ne!(derived_key(node, "a", "b", "cd", "tun")?, derived_key(node, "a", "bc", "d", "tun")?);
    // Another node has another one.
    assert_ne!(derived_key(lab.mumbai(), "default", "p", "n", "tun")?, first);
    // One that is not as it was made is no secret of this node, and is not replaced.
    fs::write(&path, [7; 31])?;
    let words = ["key", "show", "--namespace", "default", "--pod", "p", "--network", "n", "--if-name", "tun"];
    let said = node.adit(words)?.fails()?.stderr;
    assert!(said.contains("node.secret"), "{said}");
    assert_eq!(fs::read(&path)?, [7; 31]);
    Ok(())
}

fn generated() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let node = lab.ohio();
    let line = ["key", "generate", "--namespace", "default", "--file", "made.key"];
    let public = node.adit(line)?.ok()?.stdout.trim().to_owned();
    let path = node.config_dir().join("keys/default/made.key");
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o7777, 0o600);
    // As another implementation reads it, and as ours reads another one's.
    let private = fs::read_to_string(&path)?;
    let shell = |line: &str| -> Result<String, libtest_mimic::Failed> {
        Ok(node.root(["sh", "-ec", line])?.ok()?.stdout.trim().to_owned())
    };
    assert_eq!(shell(&format!("wg pubkey <{}", path.display()))?, public);
    let other = KeyPair::new()?;
    let adit = adit_lab::Binaries::get()?.program("adit")?;
    assert_eq!(shell(&format!("echo {} | {} key public", other.private, adit.display()))?, other.public);
    // What is there is somebody's.
    let said = node.adit(line)?.fails()?.stderr;
    assert!(said.contains("made.key"), "{said}");
    assert_eq!(fs::read_to_string(&path)?, private);
    Ok(())
}

fn no_core_dump() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    lab.ohio().start_agent()?;
    let pid = lab.ohio().agent_pid().ok_or("no agent")?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).ok_or("no such limit")?;
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    Ok(())
}
