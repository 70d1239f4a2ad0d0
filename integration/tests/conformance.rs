//! The conformance harness: it finds what is wrong with a wrong plugin, and our plugins beside the reference's.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use adit_integration::{trial, trial_within};
use adit_lab::Binaries;
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

const REFERENCE: &str = "/usr/lib/cni";
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// A machine that does other things too may need several times of what it takes alone.
const DEADLINE: Duration = Duration::from_secs(900);

fn main() {
    let no_reference = !Path::new(REFERENCE).join("bridge").is_file();
    if no_reference {
        eprintln!("left out the comparison: {REFERENCE}/bridge is not there (Debian: containernetworking-plugins)");
    }
    adit_integration::main(vec![
        trial("a_wrong_plugin_is_reported_in_exactly_its_wrong_points", wrong_plugin),
        trial("a_difference_that_is_not_listed_and_a_listed_one_that_is_gone_both_fail", expected_differences),
        trial("a_plugin_that_hangs_or_leaves_things_behind_harms_nobody", hanging_plugin),
        trial("the_document_lists_the_deliberate_differences", document),
        trial_within("every_plugin_keeps_the_protocol", DEADLINE, protocol),
        trial_within("our_plugins_equal_the_reference_or_are_better_on_purpose", DEADLINE, reference)
            .with_ignored_flag(no_reference),
    ]);
}

/// Wrong in five points: ADD prints a version that nobody asked for and an address without a prefix length, and leaves a
/// link on the node; an error has no code; DEL fails when there is nothing left.
const WRONG: &str = r#"#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
ADD)
    if [ -z "$CNI_IFNAME" ]; then echo '{"msg": "no CNI_IFNAME"}'; exit 1; fi
    ip link add left0 type bridge
    echo '{"cniVersion": "0.4.0", "ips": [{"address": "10.9.0.5"}]}' ;;
DEL)
    ip link del left0 2>/dev/null || { echo '{"code": 100, "msg": "nothing to remove"}'; exit 1; } ;;
esac
"#;

/// The same without the errors.
const RIGHT: &str = r#"#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
ADD)
    if [ -z "$CNI_IFNAME" ]; then echo '{"code": 4, "msg": "no CNI_IFNAME"}'; exit 1; fi
    echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.5/24"}]}' ;;
esac
"#;

fn cases() -> [(&'static str, Value); 4] {
    let about =
        |steps: Value| json!({ "description": "d", "spec": "CNI 1.1.0, section 2", "plugin": "*", "steps": steps });
    [
        ("own/version", about(json!([{ "verb": "VERSION" }]))),
        ("own/result", about(json!([{ "verb": "ADD", "unchanged": { "since": "start" } }]))),
        ("own/error", about(json!([{ "verb": "ADD", "env": { "CNI_IFNAME": null }, "expect": { "code": 4 } }]))),
        (
            "own/del-twice",
            about(json!([{ "verb": "ADD", "expect": { "stdout": "any" } }, { "verb": "DEL" }, { "verb": "DEL" }])),
        ),
    ]
}

fn wrong_plugin() -> Outcome {
    let place = Place::new("wrong", WRONG, &cases());
    let ran = place.run(&[]);
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let report: Value = serde_json::from_slice(&ran.stdout)?;
    let failures = |name: &str| -> Vec<String> {
        let case = report["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
        case["plugins"]["failures"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(failures("own/version@plugin"), [""; 0]);
    let result = failures("own/result@plugin");
    let told = |part: &str| result.iter().filter(|failure| failure.contains(part)).count();
    assert_eq!(told("result/cniVersion is Some(\"0.4.0\"), the configuration's is \"1.0.0\""), 1, "{result:#?}");
    assert_eq!(told("no address with a prefix length"), 1, "{result:#?}");
    assert_eq!(told("state/node/links/left0 is"), 1, "{result:#?}");
    assert_eq!(
        told("state/node/links/") + 2,
        result.iter().filter(|text| !text.contains("/sysctl/")).count(),
        "{result:#?}"
    );
    let error = failures("own/error@plugin");
    assert_eq!(error.len(), 2, "no code, and so not the code that is expected: {error:#?}");
    let del = failures("own/del-twice@plugin");
    assert!(
        matches!(&del[..], [only] if only.starts_with("del-2: failed") && only.contains("nothing to remove")),
        "{del:#?}"
    );

    let right = Place::new("right", RIGHT, &cases());
    let ran = right.run(&[]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    Ok(())
}

fn expected_differences() -> Outcome {
    let (right, wrong) = (Place::new("one", RIGHT, &cases()), Place::new("other", WRONG, &cases()));
    let against = wrong.plugins();
    let list = right.directory.join("expect.json");
    let compare = |entries: Value| {
        fs::write(&list, entries.to_string()).unwrap();
        right.run(&["--against", against.to_str().unwrap(), "--expect", list.to_str().unwrap()])
    };
    let entry = |case: &str, points: Value| json!({ "case": case, "points": points, "why": "w", "spec": "s" });
    let all = compare(json!([entry("own/*", json!(["*"]))]));
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stdout));
    let report: Value = serde_json::from_slice(&all.stdout)?;
    let follows: BTreeSet<_> =
        report["cases"].as_array().unwrap().iter().map(|case| case["follows"].as_str().unwrap()).collect();
    assert_eq!(follows, BTreeSet::from(["equal", "plugins"]));
    let some = compare(json!([entry("own/result*", json!(["*"]))]));
    assert_eq!(some.status.code(), Some(1));
    let stale = compare(json!([entry("own/*", json!(["*"])), entry("own/version*", json!(["version/outcome"]))]));
    assert_eq!(stale.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&stale.stdout)?;
    assert_eq!(report["expectedButNotThere"], json!(["own/version*: version/outcome"]));
    Ok(())
}

fn hanging_plugin() -> Outcome {
    let script = "#!/bin/sh\nip link add left1 type bridge\nip netns add left-netns\nexec sleep 300\n";
    let before = (ip("link"), ip("netns"));
    let place = Place::new("hanging", script, &cases()[1..2]);
    let ran = place.run(&["--deadline", "1"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("did not end within the deadline"));
    let after = (ip("link"), ip("netns"));
    assert!(!after.0.contains("left1") && !after.1.contains("left-netns"), "before {before:?}, after {after:?}");
    Ok(())
}

fn protocol() -> Outcome {
    let place = Place::ours();
    let ran = place.run(&["--case", "protocol/*"]);
    assert!(ran.status.success(), "{}", failed(&ran));
    Ok(())
}

fn reference() -> Outcome {
    let place = Place::ours();
    let list = Path::new(ROOT).join("integration/conformance/improvements.json");
    let list = list.to_str().unwrap();
    let ran = place.run(&["--against", REFERENCE, "--also", REFERENCE, "--expect", list, "--reference", "1.1.1"]);
    assert!(ran.status.success(), "{}", failed(&ran));
    Ok(())
}

/// `docs/conformance.md` has one line for every entry of the list.
fn document() -> Outcome {
    let list = fs::read_to_string(Path::new(ROOT).join("integration/conformance/improvements.json"))?;
    let list: Vec<Value> = serde_json::from_str(&list)?;
    let page = fs::read_to_string(Path::new(ROOT).join("docs/conformance.md"))?;
    let (_, behind) = page.split_once("<!-- improvements -->\n").ok_or("no place for the list in the document")?;
    let (table, _) = behind.split_once("<!-- end -->").ok_or("the list in the document has no end")?;
    let mut expected = String::from("| cases | what is better | follows from |\n|---|---|---|\n");
    for entry in &list {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().replace('|', "\\|");
        expected.push_str(&format!("| `{}` | {} | {} |\n", text("case"), text("why"), text("spec")));
    }
    assert_eq!(table, expected, "put this between the marks in docs/conformance.md");
    Ok(())
}

/// A directory with plugins and perhaps cases.
struct Place {
    directory: PathBuf,
    has_cases: bool,
}

impl Place {
    fn new(name: &str, script: &str, cases: &[(&str, Value)]) -> Self {
        let place = Self { directory: directory(name), has_cases: true };
        fs::create_dir_all(place.plugins()).unwrap();
        let plugin = place.plugins().join("plugin");
        fs::write(&plugin, script).unwrap();
        fs::set_permissions(&plugin, Permissions::from_mode(0o755)).unwrap();
        for (name, case) in cases {
            let path = place.directory.join("cases").join(name).with_extension("json");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, case.to_string()).unwrap();
        }
        place
    }

    /// Our plugins, and nothing else of the build directory.
    fn ours() -> Self {
        let place = Self { directory: directory("ours"), has_cases: false };
        fs::create_dir_all(place.plugins()).unwrap();
        for name in ["bridge", "macvlan", "static", "tun"] {
            fs::copy(Binaries::get().unwrap().program(name).unwrap(), place.plugins().join(name)).unwrap();
        }
        place
    }

    fn plugins(&self) -> PathBuf {
        self.directory.join("plugins")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(harness());
        command.args(["--json", "--plugins"]).arg(self.plugins()).args(arguments);
        if self.has_cases {
            command.arg("--cases").arg(self.directory.join("cases"));
        }
        command.output().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn directory(name: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("adit-conformance-{}-{number}-{name}", std::process::id()))
}

/// The harness beside the plugins; built when it is not there.
fn harness() -> PathBuf {
    let binaries = Binaries::get().unwrap();
    let path = binaries.directory().join("conformance");
    if std::env::var_os("ADIT_BIN_DIR").is_none() {
        let target = binaries.directory().parent().unwrap();
        let profile = match binaries.directory().file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--package=adit-conformance", "--profile", profile, "--target-dir"])
            .arg(target);
        assert!(cargo.current_dir(ROOT).status().unwrap().success(), "the harness does not build");
    }
    path
}

/// The cases that are not as they should be, in words.
fn failed(ran: &Output) -> String {
    let Ok(report) = serde_json::from_slice::<Value>(&ran.stdout) else { return format!("{ran:?}") };
    let mut text = format!("{}\n{}\n", report["counts"], report["expectedButNotThere"]);
    for case in report["cases"].as_array().unwrap() {
        let unlisted: Vec<&Value> = case["differences"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|difference| difference["expected"].is_null())
            .collect();
        let failures = case["plugins"]["failures"].as_array().unwrap();
        if !failures.is_empty() || !unlisted.is_empty() {
            text.push_str(&format!("{}: {failures:?} {unlisted:?}\n", case["name"]));
        }
    }
    text
}

fn ip(what: &str) -> String {
    let output = Command::new("ip").args(what.split(' ')).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
