//! `adit lint` on every manifest of the repository, on a folder of broken ones, and on the examples of its own page.
//!
//! `ADIT_WRITE_DOCS=1` writes what is found as what is expected; then look at the difference.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use adit_lint::{Code, Source, lint};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn writes() -> bool {
    env::var_os("ADIT_WRITE_DOCS").is_some()
}

fn adit(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adit")).args(arguments).current_dir(directory).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What lint says of a text in a file of that name.
fn said(name: &str, text: &str) -> String {
    let source = Source { path: name.to_owned(), text: text.to_owned(), is_found: false };
    lint(&[source]).findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// The code blocks of a language in a page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn each_mistake_of_the_broken_manifests_is_found_and_none_is_invented() {
    let folder = root().join("integration/lint/broken");
    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with(".expected"));
    names.sort();
    assert!(names.len() >= 30, "{}", names.len());
    for name in names {
        let output = adit(&["lint", &name], &folder);
        let found = stdout(&output);
        assert!(!found.is_empty(), "{name} is not broken");
        let expected = folder.join(&name).with_extension("expected");
        if writes() {
            fs::write(&expected, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&expected).unwrap_or_default(), "{name}");
        let is_wrong = found.lines().any(|line| line.contains(": error: "));
        assert_eq!(output.status.code(), Some(i32::from(is_wrong)), "{name}");
    }
}

/// Placeholders of keys, and the misspelt key of the documented cluster, stand there on purpose.
const ON_PURPOSE: [(&str, &str); 6] = [
    ("conf/nad/mumbai-bridge-noise.yaml", "[placeholder]"),
    ("conf/nad/mumbai-bridge-wireguard.yaml", "[placeholder]"),
    ("conf/nad/mumbai-plumbr.yaml", "\"capabilites\" is no key of \"ipam\" (static)"),
    ("conf/nad/ohio-bridge-noise.yaml", "[placeholder]"),
    ("conf/nad/ohio-bridge-wireguard.yaml", "[placeholder]"),
    ("conf/nad/ohio-plumbr.yaml", "\"capabilites\" is no key of \"ipam\" (static)"),
];

#[test]
fn every_manifest_of_the_repository_is_clean_but_for_what_stands_there_on_purpose() {
    let folders = ["conf", "docs", "plugins", "crates", "scripts", "integration/conformance", "integration/src"];
    let output = adit(&[["lint"].as_slice(), &folders].concat(), &root());
    let found = stdout(&output);
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), ON_PURPOSE.len(), "{found}");
    for (line, (path, part)) in lines.iter().zip(ON_PURPOSE) {
        assert!(line.starts_with(path) && line.contains(part), "{line}");
    }
    assert_eq!(output.status.code(), Some(0));
    for name in fs::read_dir(root().join("conf/nad")).unwrap() {
        let name = name.unwrap().path();
        let alone = stdout(&adit(&["lint", name.to_str().unwrap()], &root()));
        let count = ON_PURPOSE.iter().filter(|(path, _)| name.ends_with(path)).count();
        assert_eq!(alone.lines().count(), count, "{alone}");
    }
}

#[test]
fn the_examples_of_the_pages_are_clean() {
    let mut count = 0;
    let pages = ["README.md", "SECURITY.md", "CONTRIBUTING.md"].map(|name| root().join(name)).into_iter();
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for page in pages.chain(docs).filter(|page| !page.ends_with("docs/lint.md")) {
        let Ok(text) = fs::read_to_string(&page) else { continue };
        for (language, name) in [("json", "example.json"), ("yaml", "example.yaml")] {
            for block in blocks(&text, language) {
                // An annotation by itself is looked at as the one of a pod.
                let document = if block.trim_start().starts_with('[') {
                    let pod = serde_json::json!({
                        "apiVersion": "v1", "kind": "Pod", "metadata": {
                            "name": "example", "annotations": { "k8s.v1.cni.cncf.io/networks": block }
                        }, "spec": { "containers": [] }
                    });
                    pod.to_string()
                } else {
                    block
                };
                assert_eq!(said(name, &document), "", "{}:\n{document}", page.display());
                count += 1;
            }
        }
    }
    assert!(count >= 4, "{count}");
}

#[test]
fn the_network_and_the_annotation_of_the_readme_fit_together() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let [network, annotation]: [String; 2] = blocks(&readme, "json").try_into().unwrap();
    let documents = serde_json::json!({ "kind": "List", "items": [
        { "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": { "name": "ohio" },
          "spec": { "config": network } },
        { "kind": "Pod", "metadata": { "name": "a", "annotations": { "k8s.v1.cni.cncf.io/networks": annotation } },
          "spec": { "containers": [] } },
    ] });
    assert_eq!(said("readme.json", &documents.to_string()), "");
}

#[test]
fn the_page_lists_each_code_with_an_example_that_does_what_it_says() {
    let path = root().join("docs/lint.md");
    let mut page = fs::read_to_string(&path).unwrap();
    let sections: Vec<String> = page.split("\n#### `").skip(1).map(str::to_owned).collect();
    let listed: Vec<&str> = sections.iter().filter_map(|section| section.split('`').next()).collect();
    let mut known: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let mut sorted = listed.clone();
    known.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(sorted, known);
    for (section, code) in sections.iter().zip(listed) {
        let example = blocks(section, "yaml").remove(0);
        let shown = blocks(section, "text").remove(0);
        let found = said("example.yaml", &example);
        if writes() {
            page = page
                .replace(section, &section.replace(&format!("```text\n{shown}```"), &format!("```text\n{found}```")));
        } else {
            assert_eq!(found, shown, "{code}");
        }
        assert!(found.contains(&format!("[{code}]\n")), "{code}: {found}");
    }
    if writes() {
        fs::write(&path, page).unwrap();
    }
}

const CLEAN: &str = "kind: Service\n---\nkind: Pod\nmetadata: { name: a, annotations: { k8s.v1.cni.cncf.io/networks: lan } }\nspec: {}\n";
const WARNED: &str = r#"{"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "isGatewya": true}"#;
const WRONG: &str = r#"{"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "vlan": 5000}"#;

#[test]
fn a_tunnel_in_the_nodes_network_needs_no_route_of_the_pod() {
    let manifest = |underlay: &str| {
        format!(
            r#"apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: far
spec:
  config: |
    {{
      "cniVersion": "1.1.0",
      "plugins": [
        {{ "type": "adit-bridge", "capabilities": {{ "ips": true }}, "ipam": {{ "type": "adit-static" }} }},
        {{ "type": "tun", "encap": "udp", "underlay": "{underlay}", "remote": "192.0.2.1",
          "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
          "ipam": {{ "type": "adit-static", "addresses": [{{ "address": "10.4.0.1/30" }}] }} }}
      ]
    }}
---
apiVersion: v1
kind: Pod
metadata:
  name: a
  annotations:
    k8s.v1.cni.cncf.io/networks: '[{{ "name": "far", "ips": ["10.10.1.200/24"] }}]'
spec:
  containers: [{{ name: a, image: a }}]
"#
        )
    };
    assert_eq!(said("far.yaml", &manifest("host")), "");
    assert!(said("far.yaml", &manifest("pod")).contains("[unreachable-peer]"));
}

#[test]
fn the_exit_status_says_how_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (name, text) in [("clean.yaml", CLEAN), ("warned.conflist", WARNED), ("wrong.conf", WRONG)] {
        fs::write(at.join(name), text).unwrap();
    }
    let status = |arguments: &[&str]| adit(&[["lint"].as_slice(), arguments].concat(), at).status.code();
    assert_eq!(status(&["clean.yaml"]), Some(0));
    assert_eq!(status(&["clean.yaml", "--strict"]), Some(0));
    assert_eq!(status(&["wrong.conf"]), Some(1));
    assert_eq!(status(&["."]), Some(1));
    assert_eq!(status(&["no-such-file.yaml"]), Some(2));
    assert_eq!(status(&["wrong.conf", "no-such-file.yaml"]), Some(2));
    assert_eq!(status(&[]), Some(2));
    assert_eq!(status(&["--no-such-option", "clean.yaml"]), Some(2));
    fs::write(at.join("warned.conf"), WARNED).unwrap();
    assert_eq!(status(&["warned.conf"]), Some(0));
    assert_eq!(status(&["warned.conf", "--strict"]), Some(1));
    let unreadable = adit(&["lint", "no-such-file.yaml"], at);
    assert!(String::from_utf8_lossy(&unreadable.stderr).contains("cannot read no-such-file.yaml: "));
}

#[test]
fn stdin_is_a_file_like_others() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["lint", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(WRONG.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(stdout(&output).starts_with("-:1:66: error: invalid VLAN ID 5000"), "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn folders_are_looked_through_and_what_is_nothing_of_ours_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::create_dir_all(at.join("a/b")).unwrap();
    fs::create_dir_all(at.join(".git")).unwrap();
    for (name, text) in [
        ("a/b/wrong.conf", WRONG),
        ("a/nginx.conf", "server { listen 80; }\n"),
        ("a/tsconfig.json", "{ // comments\n}\n"),
        ("a/template.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {{ .Values.metadata }}\n"),
        ("a/eslint.json", r#"{"name": "x", "plugins": ["a"]}"#),
        ("a/notes.txt", "{"),
        (".git/config.yaml", "a: [\n"),
        ("service.yaml", "kind: Service\nmetadata: { name: a }\n"),
    ] {
        fs::write(at.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("..", at.join("a/up")).unwrap();
    let found = stdout(&adit(&["lint", "."], at));
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(found.starts_with("./a/b/wrong.conf:1:66: error: "), "{found}");
    let verbose = stdout(&adit(&["lint", "--verbose", "."], at));
    assert!(verbose.contains("./service.yaml:1: Service: passed over\n"), "{verbose}");
    assert!(verbose.contains("./a/tsconfig.json:1: neither YAML nor JSON: passed over\n"), "{verbose}");
    // Named by a person it is meant.
    assert_eq!(adit(&["lint", "a/tsconfig.json"], at).status.code(), Some(1));
}

/// Two clusters, each with a folder, and networks of one name in both.
#[test]
fn a_name_means_the_network_of_its_own_folder() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (cluster, pod) in [("ohio", "plumbr-a"), ("mumbai", "plumbr-b")] {
        let read = |name: String| fs::read_to_string(root().join(name)).unwrap();
        let rename = |text: String| text.replace(&format!("{cluster}-bridge-tun"), "net");
        fs::create_dir(at.join(cluster)).unwrap();
        fs::write(at.join(cluster).join("nad.yaml"), rename(read(format!("conf/nad/{cluster}-bridge-tun.yaml"))))
            .unwrap();
        fs::write(at.join(cluster).join("pod.yaml"), rename(read(format!("conf/pods/{pod}.yaml")))).unwrap();
    }
    assert_eq!(stdout(&adit(&["lint", "."], at)), "");
    let nad = at.join("mumbai/nad.yaml");
    fs::write(&nad, fs::read_to_string(&nad).unwrap().replace("10.4.0.2/30", "10.4.9.2/30")).unwrap();
    let found = stdout(&adit(&["lint", "."], at));
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(found.contains("another subnet") && found.ends_with("[ends]\n"), "{found}");
}

#[test]
fn programs_get_json() {
    let output = adit(&["lint", "--json", "--explain", "--verbose", "conf"], &root());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = document["findings"].as_array().unwrap();
    assert_eq!(findings.len(), ON_PURPOSE.len());
    let of_plumbr = findings.iter().find(|finding| finding["code"] == "unknown-key").unwrap();
    assert_eq!(of_plumbr["path"], "conf/nad/mumbai-plumbr.yaml");
    assert_eq!((&of_plumbr["line"], &of_plumbr["column"]), (&Value::from(14), &Value::from(9)));
    assert_eq!(of_plumbr["severity"], "warning");
    assert!(of_plumbr["remedy"].as_str().unwrap().starts_with("\"capabilities\" is meant"));
    assert!(!document["ways"].as_array().unwrap().is_empty());
    assert!(document["passedOver"].is_array());
    let alone: Value = serde_json::from_slice(&adit(&["lint", "--json", "conf/pods"], &root()).stdout).unwrap();
    assert_eq!(alone, serde_json::json!({ "findings": [] }));
}

#[test]
fn the_way_of_each_part_of_an_annotation_is_explained() {
    let network = r#"{
        "cniVersion": "1.1.0", "plugins": [
            { "type": "bridge", "ipam": { "type": "static" } },
            { "type": "tuning", "capabilities": { "mac": true } },
            { "type": "tun", "encap": "udp", "encryption": "none", "remote": "10.10.1.2", "ipam": { "type": "static" } }
        ]
    }"#;
    let annotation = r#"[{ "name": "lan", "ips": ["10.10.1.1/24"], "mac": "02:00:00:00:00:01", "default-route": ["10.10.1.9"],
        "cni-args": { "tun": { "ips": ["10.4.0.1/30"] } }, "portMappings": [] }]"#;
    let documents = serde_json::json!({ "kind": "List", "items": [
        { "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": { "name": "lan" },
          "spec": { "config": network } },
        { "kind": "Pod", "metadata": { "name": "a", "annotations": { "k8s.v1.cni.cncf.io/networks": annotation } },
          "spec": { "containers": [] } },
    ] });
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("all.json"), documents.to_string()).unwrap();
    let table = stdout(&adit(&["lint", "--explain", "all.json"], directory.path()));
    let line = |key: &str| -> Vec<&str> { table.lines().filter(|line| line.contains(&format!("  {key}  "))).collect() };
    assert!(line("interface")[0].contains("bridge, tuning, tun"), "{table}");
    let ips = line("ips");
    assert!(ips[0].contains("bridge, static") && ips[0].contains("CNI_ARGS IP"), "{table}");
    assert!(ips.iter().any(|line| line.contains("not tun ")), "{table}");
    assert!(line("mac").iter().any(|line| line.contains("tuning  ") && line.contains("runtimeConfig.mac")), "{table}");
    assert!(line("cni-args.tun.ips")[0].contains("the addresses of the tunnel"), "{table}");
    assert!(line("default-route")[0].contains("nobody"), "{table}");
    assert!(line("portMappings")[0].contains("nobody"), "{table}");
}
