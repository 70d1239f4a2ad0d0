use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    thread,
};

use super::*;

/// RFC 7748 section 6.1.
const ALICE: [&str; 2] =
    ["dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="];
const BOB: [&str; 2] = ["XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=", "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="];

struct Node {
    directory: tempfile::TempDir,
    store: KeyStore,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = KeyStore::new(directory.path());
        Self { directory, store }
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join("keys").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        mode(&path, 0o600);
        path
    }

    fn names(&self, namespace: &str, file: Option<&str>) -> KeyNames {
        KeyNames {
            owner: Owner { namespace: namespace.into(), pod: "a".into(), ..Owner::default() },
            private_key_file: file.map(|file| file.parse().unwrap()),
            peers: vec![],
        }
    }

    fn public(&self, namespace: &str, file: Option<&str>) -> String {
        self.store.load(&self.names(namespace, file)).unwrap().public.to_string()
    }

    fn problem(&self, namespace: &str, file: &str) -> String {
        self.store.load(&self.names(namespace, Some(file))).unwrap_err().to_string()
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn public_keys_follow_from_private_ones_as_the_standard_says() {
    for [private, public] in [ALICE, BOB] {
        let key = SecretKey::from_text(private.as_bytes()).unwrap();
        assert_eq!(key.public().to_string(), public);
        assert_eq!(key.to_text().as_str(), format!("{private}\n"));
        assert_eq!(format!("{key:?}"), "SecretKey");
    }
}

#[test]
fn a_key_has_one_text_only() {
    let [_, text] = ALICE;
    let key: PublicKey = text.parse().unwrap();
    assert_eq!(serde_json::to_string(&key).unwrap(), format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<PublicKey>(&format!("\"{text}\"")).unwrap(), key);
    let without_padding = text.trim_end_matches('=');
    let other_last_bits = text.replace("mo=", "mp=");
    let url_alphabet = text.replace('/', "_");
    for other in [
        "",
        "=",
        without_padding,
        &other_last_bits,
        &url_alphabet,
        &format!(" {text}"),
        &format!("{text}{text}"),
        "YQ==",
    ] {
        assert!(other.parse::<PublicKey>().is_err(), "{other}");
        assert!(serde_json::from_str::<PublicKey>(&format!("\"{other}\"")).is_err());
    }
}

#[test]
fn a_file_is_read_as_the_usual_tools_write_it() {
    let node = Node::new();
    for (name, content) in
        [("one", format!("{}\n", ALICE[0])), ("two", ALICE[0].into()), ("three", format!("{}\r\n", ALICE[0]))]
    {
        let path = node.write(&format!("default/{name}"), &content);
        assert_eq!(node.public("default", Some(name)), ALICE[1]);
        mode(&path, 0o400);
        assert_eq!(node.public("default", Some(name)), ALICE[1]);
    }
    node.write("_/outside", BOB[0]);
    assert_eq!(node.public("", Some("outside")), BOB[1]);
}

#[test]
fn a_file_that_is_no_key_of_roots_alone_is_refused_with_a_remedy() {
    let node = Node::new();
    let missing = node.problem("default", "none.key");
    let path = node.directory.path().join("keys/default/none.key");
    assert_eq!(
        missing,
        format!(
            "privateKeyFile: {} does not exist; make it with: adit key generate --namespace default --file none.key",
            path.display()
        )
    );
    let readable = node.write("default/readable", ALICE[0]);
    for open in [0o640, 0o604, 0o660, 0o4600, 0o700] {
        mode(&readable, open);
        let message = node.problem("default", "readable");
        assert!(message.contains(&format!("has mode {open:04o}, not 0600")), "{message}");
    }
    for (name, content, expected) in [
        ("empty", "", "is of another length than a key"),
        ("short", "YWJj\n", "is of another length than a key"),
        ("words", "my secret", "is not the base64 of a key"),
        ("long", &"A".repeat(64), "is longer than a key"),
        ("zeroes", &format!("{}=", "A".repeat(43)), "holds a key that is all zeroes"),
        ("hex", &"ab".repeat(32), "is longer than a key"),
    ] {
        node.write(&format!("default/{name}"), content);
        let message = node.problem("default", name);
        assert!(message.contains(expected), "{name}: {message}");
        assert!(content.is_empty() || !message.contains(content), "it tells what the file holds: {message}");
    }
    fs::create_dir(node.directory.path().join("keys/default/folder")).unwrap();
    assert!(
        node.problem("default", "folder").contains("has mode") || node.problem("default", "folder").contains("regular")
    );
    let fifo = node.directory.path().join("keys/default/fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(node.problem("default", "fifo").contains("is no regular file"));
}

#[test]
fn the_files_of_another_user_are_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: giving a file away needs root");
        return;
    }
    let node = Node::new();
    let path = node.write("default/given", ALICE[0]);
    std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
    assert!(node.problem("default", "given").contains("belongs to user 65534, not to root"));
}

#[test]
fn no_name_and_no_link_leads_out_of_the_namespaces_folder() {
    let node = Node::new();
    let theirs = node.write("theirs/key", ALICE[0]);
    node.write("ours/own", BOB[0]);
    let keys = node.directory.path().join("keys");
    symlink(&theirs, keys.join("ours/absolute")).unwrap();
    symlink("../theirs/key", keys.join("ours/relative")).unwrap();
    symlink("own", keys.join("ours/beside")).unwrap();
    symlink(keys.join("theirs"), keys.join("linked")).unwrap();
    for (namespace, file) in [("ours", "absolute"), ("ours", "relative"), ("ours", "beside"), ("linked", "key")] {
        let message = node.problem(namespace, file);
        assert!(message.contains("is a symbolic link, or lies behind one"), "{namespace}/{file}: {message}");
    }
    for name in ["../theirs/key", "/etc/passwd", "..", ".", "", "a/b", ".hidden", "a\0b", "a\nb", &"x".repeat(256)] {
        assert!(name.parse::<KeyFile>().is_err(), "{name:?}");
        assert!(serde_json::from_value::<KeyFile>(name.into()).is_err(), "{name:?}");
    }
    for namespace in ["../keys/theirs", "..", "a/b", "/", "."] {
        let message = node.problem(namespace, "key");
        assert!(message.contains("is no folder's name"), "{namespace}: {message}");
        assert!(node.store.load(&node.names(namespace, None)).is_err());
    }
}

#[test]
fn every_tunnel_derives_a_key_of_its_own_and_always_the_same() {
    let node = Node::new();
    let owner = |namespace: &str, pod: &str, container: &str, network: &str, if_name: &str| Owner {
        namespace: namespace.into(),
        pod: pod.into(),
        container_id: container.into(),
        network: network.into(),
        if_name: if_name.into(),
    };
    let owners = [
        owner("a", "pod", "", "ohio", "tun"),
        owner("b", "pod", "", "ohio", "tun"),
        owner("a", "pod2", "", "ohio", "tun"),
        owner("a", "pod", "", "ohio2", "tun"),
        owner("a", "pod", "", "ohio", "tun2"),
        owner("a", "", "pod", "ohio", "tun"),
        // The same letters, divided otherwise.
        owner("ap", "od", "", "ohio", "tun"),
        owner("a", "pod", "", "ohiot", "un"),
    ];
    let publics = || {
        let public = |owner: &Owner| {
            let names = KeyNames { owner: owner.clone(), ..KeyNames::default() };
            node.store.load(&names).unwrap().public
        };
        owners.iter().map(public).collect::<Vec<_>>()
    };
    let first = publics();
    assert_eq!(first, publics());
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), owners.len());
    let elsewhere = Node::new();
    assert_ne!(node.public("a", None), elsewhere.public("a", None), "each node has its own secret");
}

#[test]
fn derived_keys_stay_what_they_are_in_later_versions() {
    let node = Node::new();
    let path = node.directory.path().join(NODE_SECRET);
    fs::write(&path, [7; 32]).unwrap();
    mode(&path, 0o600);
    let owner = Owner {
        namespace: "default".into(),
        pod: "plumbr-a".into(),
        container_id: String::new(),
        network: "ohio".into(),
        if_name: "tun".into(),
    };
    let keys = node.store.load(&KeyNames { owner, ..KeyNames::default() }).unwrap();
    assert_eq!(keys.private.to_text().trim_end(), "B0hujL4Jm9iZXh9ooZhVuZkBG0eKsoQ+NrM0Jce2WTE=");
}

#[test]
fn the_nodes_secret_is_made_once_whoever_asks_first() {
    let node = Node::new();
    let publics: Vec<String> = thread::scope(|scope| {
        let askers: Vec<_> = (0..8).map(|_| scope.spawn(|| node.public("default", None))).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert!(publics.iter().all(|public| *public == publics[0]), "{publics:?}");
    let path = node.directory.path().join(NODE_SECRET);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(node.directory.path()).unwrap().count(), 1, "nothing is left beside it");
    let secret = fs::read(&path).unwrap();
    assert_eq!(secret.len(), 32);

    for damage in [&secret[..31], &[]] {
        fs::write(&path, damage).unwrap();
        let message = node.store.load(&node.names("default", None)).unwrap_err().to_string();
        assert!(message.contains("node.secret has ") && message.contains(" bytes, not 32"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), damage, "it is never written again");
    }
    fs::write(&path, &secret).unwrap();
    mode(&path, 0o644);
    assert!(node.store.load(&node.names("default", None)).unwrap_err().to_string().contains("has mode 0644"));
}

#[test]
fn a_generated_key_is_roots_alone_and_overwrites_nothing() {
    let node = Node::new();
    let file: KeyFile = "ohio.key".parse().unwrap();
    let public = node.store.generate("default", &file).unwrap();
    assert_eq!(node.public("default", Some("ohio.key")), public.to_string());
    let path = node.directory.path().join("keys/default/ohio.key");
    for (path, expected) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700)] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, expected);
    }
    let message = node.store.generate("default", &file).unwrap_err().to_string();
    assert!(message.contains("ohio.key exists already"), "{message}");
    assert_eq!(node.public("default", Some("ohio.key")), public.to_string());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    assert!(node.store.generate("../x", &file).is_err());
}

#[test]
fn peers_keys_are_loaded_and_our_own_is_no_peer() {
    let node = Node::new();
    node.write("default/own", ALICE[0]);
    node.write("default/psk", BOB[0]);
    let with = |public: &str, preshared: Option<&str>| {
        let peer = PeerKeyNames {
            public_key: public.parse().unwrap(),
            preshared_key_file: preshared.map(|file| file.parse().unwrap()),
            place: "peers[0].".into(),
        };
        node.store.load(&KeyNames { peers: vec![peer], ..node.names("default", Some("own")) })
    };
    let keys = with(BOB[1], Some("psk")).unwrap();
    assert_eq!(keys.preshared[0].as_ref().unwrap().to_text().trim_end(), BOB[0]);
    assert!(with(BOB[1], None).unwrap().preshared[0].is_none());
    let own = with(ALICE[1], None).unwrap_err().to_string();
    assert!(own.starts_with(&format!("peers[0].publicKey: {} is this tunnel's own public key", ALICE[1])), "{own}");
    let missing = with(BOB[1], Some("none")).unwrap_err().to_string();
    assert!(missing.starts_with("peers[0].presharedKeyFile: ") && missing.contains("does not exist"), "{missing}");
    let preshared_key_file = Some("none".parse().unwrap());
    let peer = PeerKeyNames { public_key: BOB[1].parse().unwrap(), preshared_key_file, place: String::new() };
    assert!(node.store.load(&KeyNames { peers: vec![peer], ..node.names("default", None) }).is_err());
    assert!(!node.directory.path().join(NODE_SECRET).exists(), "what cannot succeed makes no secret");
}

#[test]
fn a_records_names_hold_what_its_keys_are_found_by() {
    let record: Record = serde_json::from_value(serde_json::json!({
        "version": 1,
        "attachment": { "containerId": "c1", "cniIfName": "net1", "ifName": "tun" },
        "createdNs": 7, "network": "ohio",
        "pod": { "namespace": "default", "name": "plumbr-a", "uid": "u" },
        "state": "adding",
        "netns": { "path": "/x", "id": { "dev": 1, "inode": 2 } },
        "spec": {
            "ifName": "tun", "encap": "udp", "engine": "agent", "encryption": "noise", "device": "net1", "privateKeyFile": "k",
            "local": "10.0.0.1:6090", "mtuBytes": 1440,
            "peers": [{ "publicKey": BOB[1], "presharedKeyFile": "p", "allowedIPs": [] }],
        },
        "addresses": [], "routes": [], "epochFloor": 3, "learned": { BOB[1]: "192.0.2.1:7" },
    }))
    .unwrap();
    let names = KeyNames::of(&record);
    assert_eq!((names.owner.pod.as_str(), names.owner.container_id.as_str()), ("plumbr-a", ""));
    assert_eq!(names.peers[0].preshared_key_file.as_ref().unwrap().as_str(), "p");
    assert_eq!(serde_json::from_value::<KeyNames>(serde_json::to_value(&names).unwrap()).unwrap(), names);
    let nameless = Record { pod: Pod::default(), ..record.clone() };
    assert_eq!(KeyNames::of(&nameless).owner.container_id, "c1");
    let again: Record = serde_json::from_value(serde_json::to_value(&record).unwrap()).unwrap();
    assert_eq!(again, record);
}

#[test]
fn private_key_gives_way_to_another_step_by_step_and_also_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let store = KeyStore::new(directory.path());
    store.generate("default", &"own.key".parse().unwrap()).unwrap();
    let derived = KeyNames {
        owner: Owner { namespace: "default".into(), pod: "p".into(), network: "n".into(), ..Owner::default() },
        ..KeyNames::default()
    };
    let by_file = KeyNames { private_key_file: Some("own.key".parse().unwrap()), ..derived.clone() };
    for names in [derived, by_file] {
        let keys = || store.load(&names).unwrap();
        let first = keys().public;
        assert!(keys().also.is_none());
        assert!(store.rotate(&names, Rotation::Use).unwrap_err().to_string().contains("prepare it first"));

        let next = store.rotate(&names, Rotation::Prepare).unwrap();
        assert_eq!(
            store.rotate(&names, Rotation::Prepare).unwrap(),
            next,
            "a step that is taken again changes nothing"
        );
        assert_eq!((keys().public, keys().also.unwrap().public()), (first, next));
        assert!(store.rotate(&names, Rotation::Finish).unwrap_err().to_string().contains("use it first"));

        for _ in 0..2 {
            assert_eq!(store.rotate(&names, Rotation::Use).unwrap(), next);
        }
        assert_eq!((keys().public, keys().also.unwrap().public()), (next, first));

        // Whoever goes on without finishing keeps one companion only.
        let third = store.rotate(&names, Rotation::Prepare).unwrap();
        assert_eq!((keys().public, keys().also.unwrap().public()), (next, third));
        store.rotate(&names, Rotation::Use).unwrap();
        assert_eq!(store.rotate(&names, Rotation::Finish).unwrap(), third);
        assert_eq!((keys().public, keys().also.is_none()), (third, true));
    }
    let files = fs::read_dir(directory.path().join("keys/default")).unwrap().count();
    assert_eq!(files, 2, "the derived key's and the other one");
}
