//! The files below `conf/install/`.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use adit_integration::scripts::root;
use adit_lab::{COMMAND_DEADLINE, run};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

pub fn read(path: &str) -> Result<Vec<Value>, Failed> {
    parse(&fs::read_to_string(root().join("conf/install").join(path)).map_err(|error| format!("{path}: {error}"))?)
}

fn parse(text: &str) -> Result<Vec<Value>, Failed> {
    Ok(serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?)
}

fn one(path: &str) -> Result<Value, Failed> {
    let [object] = <[Value; 1]>::try_from(read(path)?).map_err(|all| format!("{path}: {} objects", all.len()))?;
    Ok(object)
}

/// What a kustomization lists, and what those list, in their order.
fn collect(directory: &str) -> Result<Vec<Value>, Failed> {
    let mut found = Vec::new();
    let kustomization = one(&format!("{directory}/kustomization.yaml"))?;
    for resource in kustomization["resources"].as_array().ok_or("no resources")? {
        let path = format!("{directory}/{}", resource.as_str().ok_or("no path")?);
        found.extend(if path.ends_with(".yaml") { read(&path)? } else { collect(&path)? });
    }
    Ok(found)
}

/// In an order that does not depend on who wrote them down.
fn sorted(mut objects: Vec<Value>) -> Vec<String> {
    objects.sort_by_key(|object| (object["kind"].to_string(), object["metadata"]["name"].to_string()));
    objects.iter().map(Value::to_string).collect()
}

pub fn rendered() -> Outcome {
    let again = "kubectl kustomize conf/install >conf/install/adit.yaml";
    assert_eq!(sorted(read("adit.yaml")?), sorted(collect(".")?), "make it again: {again}");
    // Where there is the real one: its word counts, for every kustomization.
    let kustomize = |directory: &Path| {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("kustomize").arg(directory);
        run(kubectl, None, COMMAND_DEADLINE)
    };
    let Ok(ran) = kustomize(&root().join("conf/install")) else {
        println!("left out: kubectl kustomize is not there");
        return Ok(());
    };
    assert_eq!(sorted(parse(&ran.ok()?.stdout)?), sorted(read("adit.yaml")?), "make it again: {again}");
    for directory in ["openshift", "uninstall"] {
        let objects = parse(&kustomize(&root().join("conf/install").join(directory))?.ok()?.stdout)?;
        assert_eq!(objects.len(), collect(directory)?.len(), "{directory}");
    }
    Ok(())
}

/// The capabilities that a container adds, without the others.
fn capabilities(container: &Value) -> Result<BTreeSet<String>, Failed> {
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], json!(["ALL"]));
    let added = capabilities["add"].as_array().ok_or("no capabilities")?;
    Ok(added.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

pub fn daemonset() -> Outcome {
    let set = one("agent/daemonset.yaml")?;
    let (spec, pod) = (&set["spec"], &set["spec"]["template"]["spec"]);
    assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
    assert_eq!(spec["updateStrategy"]["rollingUpdate"], json!({ "maxSurge": 1, "maxUnavailable": 0 }));
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"], &pod["hostIPC"]), (&json!(true), &json!(true), &Value::Null));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");

    let (install, agent) = (&pod["initContainers"][0], &pod["containers"][0]);
    for container in [install, agent] {
        let context = &container["securityContext"];
        assert_eq!((&context["readOnlyRootFilesystem"], &context["privileged"]), (&json!(true), &Value::Null));
        assert_eq!(context["allowPrivilegeEscalation"], false);
    }
    // The next agent waits for the present one; without that neither would ever be ready.
    assert_eq!(agent["command"], json!(["aditd", "--standby"]));
    assert_eq!(agent["readinessProbe"]["exec"]["command"], json!(["adit", "ready"]));
    assert_eq!(agent["securityContext"]["appArmorProfile"]["type"], "Unconfined");
    // What systemd leaves to it, which a test shows to be enough (`the_units_capabilities_are_enough`).
    let unit = fs::read_to_string(root().join("conf/systemd/aditd.service"))?;
    let bounding =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).ok_or("no capabilities")?;
    let bounding: BTreeSet<String> = bounding.split(' ').map(|name| name.replacen("CAP_", "", 1)).collect();
    assert_eq!(capabilities(agent)?, bounding);
    assert_eq!(capabilities(install)?, BTreeSet::from(["DAC_OVERRIDE".to_owned()]));

    let host = |name: &Value| {
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        volumes.clone().find(|volume| volume["name"] == *name).map(|volume| volume["hostPath"]["path"].clone())
    };
    let mounts = |container: &Value| -> Vec<(Value, Value, Value)> {
        let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
        mounts
            .iter()
            .map(|m| (m["mountPath"].clone(), host(&m["name"]).unwrap_or_default(), m["mountPropagation"].clone()))
            .collect()
    };
    let same = |path: &str| (json!(path), json!(path), Value::Null);
    let seen = json!("HostToContainer");
    assert_eq!(mounts(install), [same("/opt/cni/bin")]);
    assert_eq!(
        mounts(agent),
        [
            same("/run/adit"),
            same("/etc/adit"),
            (json!("/run/netns"), json!("/run/netns"), seen.clone()),
            (json!("/var/run/netns"), json!("/run/netns"), seen),
            same("/dev/net/tun"),
        ]
    );
    let namespace = one("namespace/namespace.yaml")?;
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    assert_eq!(namespace["metadata"]["name"], set["metadata"]["namespace"]);
    Ok(())
}

pub fn commands() -> Outcome {
    let binaries = adit_lab::Binaries::get()?;
    for path in ["agent/daemonset.yaml", "uninstall/daemonset.yaml"] {
        let pod = one(path)?["spec"]["template"]["spec"].clone();
        assert_eq!(pod["serviceAccountName"], one("namespace/service-account.yaml")?["metadata"]["name"]);
        let containers = ["initContainers", "containers"].map(|kind| pod[kind].as_array().cloned().unwrap_or_default());
        for container in containers.concat() {
            assert_eq!(container["image"], format!("localhost/adit:{}", env!("CARGO_PKG_VERSION")), "{path}");
            let command: Vec<&str> =
                container["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let (program, arguments) = command.split_first().ok_or("no command")?;
            // They are understood; nothing is done.
            let mut understood = Command::new(binaries.program(program)?);
            understood.args(arguments).arg("--help");
            run(understood, None, COMMAND_DEADLINE)?.ok()?;
        }
    }
    Ok(())
}

pub fn openshift() -> Outcome {
    let constraints = one("openshift/security-context-constraints.yaml")?;
    let pod = one("agent/daemonset.yaml")?["spec"]["template"]["spec"].clone();
    let allowed: BTreeSet<String> = constraints["allowedCapabilities"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let needed: BTreeSet<String> =
        capabilities(&pod["initContainers"][0])?.union(&capabilities(&pod["containers"][0])?).cloned().collect();
    assert_eq!(allowed, needed);
    for key in ["allowHostNetwork", "allowHostPID", "allowHostDirVolumePlugin", "readOnlyRootFilesystem"] {
        assert_eq!(constraints[key], true, "{key}");
    }
    for key in ["allowPrivilegedContainer", "allowPrivilegeEscalation", "allowHostIPC", "allowHostPorts"] {
        assert_eq!(constraints[key], false, "{key}");
    }
    let account = one("namespace/service-account.yaml")?;
    let name = |key: &str| account["metadata"][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(constraints["users"], json!([format!("system:serviceaccount:{}:{}", name("namespace"), name("name"))]));
    // The patch names a volume by its place.
    assert_eq!(pod["volumes"][0]["name"], "plugins");
    Ok(())
}
