//! `adit schema`: the files in `conf/schema` are what it prints, and they say yes to what is right.
//!
//! `ADIT_WRITE_DOCS=1` writes the files.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use adit_lint::schema::{Subject, schema};
use jsonschema::Validator;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_adit")).arg("schema").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn validator(subject: Subject) -> Validator {
    jsonschema::draft202012::new(&schema(subject)).unwrap()
}

#[test]
fn the_files_are_what_the_command_prints() {
    let folder = root().join("conf/schema");
    let mut names = Vec::new();
    for subject in Subject::ALL {
        let text = printed(&[subject.as_str()]);
        let path = folder.join(format!("{subject}.json"));
        if env::var_os("ADIT_WRITE_DOCS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let is_fresh = fs::read_to_string(&path).unwrap_or_default() == text;
        assert!(is_fresh, "write it: adit schema {subject} > {}", path.display());
        names.push(format!("{subject}.json"));
    }
    let mut there: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    names.sort();
    assert_eq!(there, names);
    assert_eq!(printed(&[]), printed(&["nad"]));
    let unknown = Command::new(env!("CARGO_BIN_EXE_adit")).args(["schema", "tunn"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn every_network_of_the_repository_is_valid_but_for_the_misspelt_one() {
    let (nad, list, bridge) = (validator(Subject::Nad), validator(Subject::List), validator(Subject::Bridge));
    let mut count = 0;
    for entry in fs::read_dir(root().join("conf/nad")).unwrap() {
        let path = entry.unwrap().path();
        let document: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert!(nad.is_valid(&document), "{}", path.display());
        let config: Value = serde_json::from_str(document["spec"]["config"].as_str().unwrap()).unwrap();
        let is_misspelt = path.to_str().unwrap().ends_with("-plumbr.yaml");
        let validator = if config.get("plugins").is_some() { &list } else { &bridge };
        let errors: Vec<String> = validator.iter_errors(&config).map(|error| error.to_string()).collect();
        assert_eq!(errors.is_empty(), !is_misspelt, "{}: {errors:?}", path.display());
        if is_misspelt {
            assert!(errors[0].contains("capabilites"), "{errors:?}");
        }
        count += 1;
    }
    assert!(count >= 20, "{count}");
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let example = readme.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(list.is_valid(&serde_json::from_str(example).unwrap()));
}

#[test]
fn what_cannot_be_is_not_valid() {
    let list = validator(Subject::List);
    let tun = json!({ "type": "tun", "encap": "udp", "encryption": "none", "remote": "10.20.1.200" });
    let with = |key: &str, value: Value| {
        let mut tun = tun.clone();
        tun[key] = value;
        json!({ "cniVersion": "1.1.0", "name": "n", "plugins": [{ "type": "bridge" }, tun] })
    };
    assert!(list.is_valid(&with("ifName", json!("tun1"))));
    assert!(list.is_valid(&with("_remark", json!("why"))));
    for (key, value) in [
        ("encap", json!("gre")),
        ("encrytion", json!("none")),
        ("mtu", json!("1400")),
        ("mtu", json!(100)),
        ("vni", json!(0)),
        ("tos", json!(3)),
        ("ifName", json!("ips")),
        ("privateKeyFile", json!("/etc/key")),
        ("peers", json!([{ "endpoint": "10.20.1.200", "allowedIps": [] }])),
        ("ipam", json!({ "type": "static", "adresses": [] })),
    ] {
        assert!(!list.is_valid(&with(key, value.clone())), "{key}: {value}");
    }
    assert!(!list.is_valid(&json!({ "plugins": [] })));
    assert!(
        list.is_valid(&json!({ "plugins": [{ "type": "tuning", "anything": 1 }] })),
        "others have keys of their own"
    );
    assert!(list.is_valid(
        &json!({ "plugins": [{ "type": "bridge", "ipam": { "type": "host-local", "subnet": "10.0.0.0/8" } }] })
    ));
}
