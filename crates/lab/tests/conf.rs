//! The files below `conf/` are what they say they are.

use std::{fs, path::Path};

use adit_lab::{Manifests, annotation, nad::in_workspace};
use serde_json::Value;

#[expect(clippy::unwrap_used, reason = "a panic here is a failed test")]
fn files(directory: &str) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(in_workspace(Path::new(directory)))
        .unwrap()
        .map(|entry| format!("{directory}/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn every_network_is_one_definition_with_a_json_configuration() {
    for file in files("conf/nad") {
        let manifests = Manifests::read(&file).unwrap();
        let [nad] = manifests.nads.as_slice() else { panic!("{file}: {manifests:?}") };
        let config: Value = serde_json::from_str(&nad.config).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(config["cniVersion"].is_string(), "{file}");
        assert!(config["plugins"].is_array() || config["type"].is_string(), "{file}");
        assert!(nad.name == "br-plumr-config" || file.ends_with(&format!("/{}.yaml", nad.name)), "{file}");
    }
}

#[test]
fn every_pod_passes_pod_security_restricted() {
    // https://kubernetes.io/docs/concepts/security/pod-security-standards/ "Restricted"
    for file in files("conf/pods") {
        let manifests = Manifests::read(&file).unwrap();
        for pod in &manifests.pods {
            let spec = &pod.object["spec"];
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{file}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{file}");
            for forbidden in ["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers", "shareProcessNamespace"]
            {
                assert!(spec[forbidden].is_null(), "{file}: {forbidden}");
            }
            for container in spec["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{file}");
                assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}), "{file}");
                assert!(context["privileged"].is_null(), "{file}");
            }
        }
    }
}

#[test]
fn every_pod_names_networks_that_are_there() {
    let names: Vec<String> =
        files("conf/nad").iter().flat_map(|file| Manifests::read(file).unwrap().nads).map(|nad| nad.name).collect();
    for file in files("conf/pods") {
        for pod in Manifests::read(&file).unwrap().pods {
            for selection in annotation::parse(&pod.networks.unwrap()).unwrap() {
                assert!(names.contains(&selection.name), "{file}: {}", selection.name);
                assert_eq!(selection.ips.len(), 1, "{file}");
            }
        }
    }
}
