//! The verbs from environment and stdin to stdout.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "common/recorder.rs"]
mod recorder;

use std::io;

use adit_cni::{Code, Environment, Error, Version, run_with};
use recorder::{Add, Recorder, env, env_with};

const CONF: &str = r#"{"cniVersion":"1.1.0","name":"net","type":"recorder","mtu":1400}"#;
const OWN_NETNS: &str = "/proc/self/ns/net";

fn conf(version: &str) -> String {
    CONF.replace("1.1.0", version)
}

#[test]
fn without_a_verb_the_plugin_says_what_it_is() {
    let (status, stdout, stderr) = Recorder::default().run(&Environment::default(), "");
    assert_eq!((status, stdout.as_str()), (0, ""));
    assert_eq!(
        stderr,
        "CNI recorder plugin v1.2.3\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
    );
}

#[test]
fn version_needs_nothing_but_the_verb_and_ignores_stdin() {
    let env = Environment::from_iter([("CNI_COMMAND", "VERSION")]);
    let (status, stdout, _) = Recorder::default().run(&env, "not json");
    assert_eq!(status, 0);
    assert_eq!(
        stdout,
        concat!(
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
            "\n"
        )
    );
}

#[test]
fn add_prints_its_result_in_the_configurations_version() {
    let plugin = Recorder::default();
    for (version, address) in [("1.1.0", "/ips/0/address"), ("0.4.0", "/ips/0/address"), ("0.2.0", "/ip4/ip")] {
        let (status, stdout, stderr) = plugin.run(&env("ADD"), &conf(version));
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert!(stdout.starts_with("{\n    \"cniVersion\": "), "{stdout}");
        assert!(stdout.ends_with('}'));
        let value: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(value["cniVersion"], version);
        assert_eq!(value.pointer(address).unwrap(), "10.0.0.5/24");
    }
    let missing = conf("").replace(r#""cniVersion":"","#, "");
    let (_, stdout, _) = plugin.run(&env("ADD"), &missing);
    assert!(stdout.contains(r#""cniVersion": "0.1.0""#), "{stdout}");
}

#[test]
fn a_call_carries_everything_that_was_sent() {
    let plugin = Recorder::default();
    let stdin = r#"{"CNIVERSION":"1.0.0","name":"net","MTU":9,"x":{"y":1},
        "prevResult":{"ips":[{"address":"10.1.0.5/24"}]}}"#;
    assert_eq!(plugin.run(&env("ADD"), stdin).0, 0);
    let call = plugin.last_add.lock().unwrap().clone().unwrap();
    assert_eq!(call.attachment.to_string(), "c1:net1");
    assert_eq!(call.netns.to_str(), Some("/run/netns/no-such-namespace"));
    assert_eq!(call.args.get("A"), Some("1"));
    assert_eq!(call.network.as_str(), "net");
    assert_eq!(call.version, Version::V1_0_0);
    assert_eq!(call.config.mtu, 9);
    assert_eq!(call.prev_result.unwrap().ips.len(), 1);
    assert_eq!(call.raw["x"]["y"], 1);
    assert_eq!(call.delegate.stdin(), stdin.as_bytes());
}

#[test]
fn the_other_verbs_print_nothing() {
    let plugin = Recorder::default();
    let with_result = CONF.replace('}', r#","prevResult":{}}"#);
    for verb in ["CHECK", "DEL", "GC", "STATUS"] {
        let (status, stdout, stderr) = plugin.run(&env(verb), &with_result);
        assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "", ""), "{verb}");
    }
    assert_eq!(plugin.calls(), ["check c1:net1", "del c1:net1", "gc", "status net"]);
}

#[test]
fn an_error_is_a_document_on_stdout_indented_by_four() {
    let error = Error::new(Code(100), "cannot").with_details("because");
    let plugin = Recorder { add: Add::Fail(error), ..Recorder::default() };
    let (status, stdout, stderr) = plugin.run(&env("ADD"), CONF);
    assert_eq!((status, stderr.as_str()), (1, ""));
    assert_eq!(stdout, "{\n    \"code\": 100,\n    \"msg\": \"cannot\",\n    \"details\": \"because\"\n}");
    let (_, stdout, _) = plugin.run(&env("FOO"), CONF);
    assert_eq!(stdout, "{\n    \"code\": 4,\n    \"msg\": \"unknown CNI_COMMAND: FOO\"\n}");
}

#[test]
fn a_panic_becomes_an_error_document() {
    let plugin = Recorder { add: Add::Panic, ..Recorder::default() };
    let error = plugin.fail(&env("ADD"), CONF);
    assert_eq!(error.code, Code::INTERNAL);
    assert_eq!(error.msg, "plugin recorder panicked: on purpose");
}

#[test]
fn the_references_texts_for_a_wrong_configuration() {
    let table = [
        ("{", 6, "error unmarshall network config: EOF while parsing an object at line 1 column 1"),
        ("", 6, "error unmarshall network config: EOF while parsing a value at line 1 column 0"),
        ("[]", 6, "error unmarshall network config: it is not a JSON object"),
        (r#"{"name":5}"#, 6, "error unmarshall network config: name: 5 is not a string"),
        ("{}", 7, "missing network name"),
        ("null", 7, "missing network name"),
        (r#"{"name":""}"#, 7, "missing network name"),
        (r#"{"name":"-n"}"#, 7, "invalid characters found in network name; -n"),
        (r#"{"name":"n","cniVersion":1}"#, 6, "decoding version from network config: cniVersion: 1 is not a string"),
        (
            r#"{"name":"n","cniVersion":"9.9.9"}"#,
            1,
            r#"incompatible CNI versions; config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#,
        ),
        (
            r#"{"name":"n","mtu":-1}"#,
            7,
            "failed to load netconf: mtu: invalid value: integer `-1`, expected u32; line 1 column 19 of the configuration",
        ),
        (
            r#"{"name":"n","cniVersion":"1.0.0","prevResult":{"ips":[{}]}}"#,
            6,
            "could not parse prevResult: cannot decode the result: ips[0]: missing field `address`",
        ),
    ];
    for (stdin, code, text) in table {
        let plugin = Recorder::default();
        let error = plugin.fail(&env("ADD"), stdin);
        assert_eq!((error.code.0, error.to_string().as_str()), (code, text));
        assert!(plugin.calls().is_empty());
    }
}

#[test]
fn an_unknown_verb_is_told_after_a_wrong_configuration() {
    let error = Recorder::default().fail(&env("FOO"), "{");
    assert_eq!(error.code, Code::DECODE);
}

#[test]
fn verbs_need_the_version_that_brought_them() {
    let table = [
        ("CHECK", "0.3.1", "config version does not allow CHECK"),
        ("CHECK", "", "config version does not allow CHECK"),
        ("GC", "1.0.0", "config version does not allow GC"),
        ("STATUS", "0.4.0", "config version does not allow STATUS"),
        ("CHECK", "1.2.0", "plugin version does not allow CHECK"),
        ("GC", "2.0.0", "plugin version does not allow GC"),
        ("STATUS", "1.1.1", "plugin version does not allow STATUS"),
        ("CHECK", "0.9.0", "incompatible CNI versions"),
    ];
    for (verb, version, text) in table {
        let error = Recorder::default().fail(&env(verb), &conf(version));
        assert_eq!(error.msg, text, "{verb} {version}");
        assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
    }
    let error = Recorder::default().fail(&env("GC"), &conf("x"));
    assert_eq!(error.code, Code::DECODE);
}

#[test]
fn the_plugins_own_namespace_is_refused_before_it_acts() {
    for verb in ["ADD", "DEL"] {
        let plugin = Recorder::default();
        let error = plugin.fail(&env_with(verb, "CNI_NETNS", OWN_NETNS), CONF);
        assert_eq!(error.code, Code::INVALID_NETNS);
        assert_eq!(error.msg, "plugin's netns and netns from CNI_NETNS should not be the same");
        assert!(plugin.calls().is_empty());
    }
    let plugin = Recorder::default();
    let error = plugin.fail(&env_with("DEL", "CNI_NETNS", OWN_NETNS), "{");
    assert_eq!(error.code, Code::INVALID_NETNS);
    assert!(plugin.calls().is_empty());
}

#[test]
fn the_override_allows_the_plugins_own_namespace() {
    for (value, status) in [("1", 0), ("TRUE", 0), ("true", 0), ("yes", 1), ("", 1)] {
        let mut env = env_with("ADD", "CNI_NETNS", OWN_NETNS);
        env.set("CNI_NETNS_OVERRIDE", value);
        assert_eq!(Recorder::default().run(&env, CONF).0, status, "{value:?}");
    }
}

#[test]
fn an_attachment_without_addresses_fails_in_the_oldest_versions_before_it_is_made() {
    let plugin = Recorder { add: Add::Nothing, ..Recorder::default() };
    let error = plugin.fail(&env("ADD"), &conf("0.2.0"));
    assert_eq!(error.msg, "cannot convert: no valid IP addresses");
    assert_eq!(plugin.calls(), ["add c1:net1"]);
    assert_eq!(plugin.run(&env("ADD"), &conf("0.3.0")).0, 0);
    assert_eq!(plugin.calls(), ["add c1:net1", "made"]);
}

#[test]
fn check_without_prev_result_is_an_error_of_the_plugin_that_needs_it() {
    let error = Recorder::default().fail(&env("CHECK"), CONF);
    assert_eq!(error.msg, "Required prevResult missing");
}

#[test]
fn del_with_an_unreadable_configuration_still_names_its_attachment() {
    let plugin = Recorder::default();
    for stdin in ["", "{", "[]", r#"{"cniVersion":"1.0.0"}"#, r#"{"name":"n","mtu":"x"}"#] {
        let (status, stdout, _) = plugin.run(&env("DEL"), stdin);
        assert_eq!((status, stdout.as_str()), (0, ""), "{stdin}");
    }
    let calls = plugin.calls();
    assert_eq!(calls.len(), 5);
    assert_eq!(calls[0], r#"del_unreadable c1:net1 Some("/run/netns/no-such-namespace") 6"#);
    // So does one of a version that the plugin does not know (any more); what it answers is the plugin's choice.
    assert_eq!(plugin.run(&env("DEL"), &conf("9.9.9")).0, 0);
    assert_eq!(plugin.calls()[0], r#"del_unreadable c1:net1 Some("/run/netns/no-such-namespace") 1"#);
}

#[test]
fn del_works_with_what_add_would_refuse() {
    let plugin = Recorder::default();
    let mut env = env_with("DEL", "CNI_NETNS", "");
    env.set("CNI_ARGS", "nonsense;A=2");
    let stdin = r#"{"name":"net","cniVersion":"1.0.0","prevResult":{"ips":"what"}}"#;
    assert_eq!(plugin.run(&env, stdin).0, 0);
    let call = plugin.last_del.lock().unwrap().clone().unwrap();
    assert_eq!(call.netns, None);
    assert_eq!(call.args.get("A"), Some("2"));
    assert_eq!(call.prev_result, None);
}

#[test]
fn an_absent_list_of_attachments_is_not_an_empty_one() {
    let valid = |keys: &str| {
        let plugin = Recorder::default();
        let stdin = CONF.replace('}', &format!("{keys}}}"));
        assert_eq!(plugin.run(&env("GC"), &stdin).0, 0, "{stdin}");
        let call = plugin.last_gc.lock().unwrap().clone().unwrap();
        call.valid.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(valid(""), None);
    assert_eq!(valid(r#","cni.dev/valid-attachments":null"#), None);
    assert_eq!(valid(r#","cni.dev/valid-attachments":[]"#), Some(Vec::new()));
    assert_eq!(
        valid(r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}],"cni.dev/attachments":[]"#),
        Some(vec!["a:b".to_owned()])
    );
    assert_eq!(
        valid(r#","cni.dev/attachments":[{"containerID":"a","ifname":"b","ifName":"c"}]"#),
        Some(vec!["a:b".to_owned()])
    );
    let wrong = CONF.replace('}', r#","cni.dev/valid-attachments":[{"containerID":"a"}]}"#);
    let error = Recorder::default().fail(&env("GC"), &wrong);
    assert_eq!(error.code, Code::INVALID_CONFIG);
    assert!(error.msg.starts_with("cni.dev/valid-attachments: "), "{error}");
}

#[test]
fn an_unreadable_stdin_is_an_error() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("no pipe"))
        }
    }
    let mut stdout = Vec::new();
    let status = run_with(&Recorder::default(), &env("ADD"), Broken, &mut stdout, io::sink());
    let error: Error = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(status, 1);
    assert_eq!(error, Error::new(Code::IO, "error reading from stdin: no pipe"));
}

#[test]
fn an_unwritable_stdout_is_told_on_stderr() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for verb in ["ADD", "VERSION", "FOO"] {
        let mut stderr = Vec::new();
        let status = run_with(&Recorder::default(), &env(verb), CONF.as_bytes(), Full, &mut stderr);
        assert_eq!(status, 1, "{verb}");
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(stderr.starts_with("cannot write to stdout: "), "{stderr}");
    }
}
