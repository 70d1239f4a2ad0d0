//! The exact documents, in every version of CNI, through the protocol's own door.

use adit_cni::{Environment, run_with};
use adit_static::Static;

const ADDRESSES: &str = r#"[{"address":"10.1.1.2/24","gateway":"10.1.1.1"},{"address":"fd01::2/64"}]"#;
const ROUTES: &str = r#"[{"dst":"10.9.3.4/16"},{"dst":"fd09::/32","gw":"fd01::1","mtu":1300,"table":0}]"#;

fn run(command: &str, args: &str, config: &str) -> (u8, String) {
    let env: Environment = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/of-no-interest"),
        ("CNI_IFNAME", "net1"),
        ("CNI_PATH", "/nowhere"),
        ("CNI_ARGS", args),
    ]
    .into_iter()
    .collect();
    let mut stdout = Vec::new();
    let status = run_with(&Static, &env, config.as_bytes(), &mut stdout, std::io::sink());
    (status, String::from_utf8_lossy(&stdout).into_owned())
}

fn config(version: &str) -> String {
    format!(
        r#"{{"cniVersion":"{version}","name":"lan","ipam":{{"type":"static","addresses":{ADDRESSES},"routes":{ROUTES},
            "dns":{{"nameservers":["10.1.1.1"]}}}}}}"#
    )
}

fn compact(document: &str) -> String {
    let mut text = String::new();
    let mut quoted = false;
    for c in document.chars() {
        quoted ^= c == '"';
        if quoted || !c.is_whitespace() {
            text.push(c);
        }
    }
    text
}

#[test]
fn the_result_has_each_versions_shape() {
    let old = |version: &str| {
        format!(
            r#"{{"cniVersion":"{version}","ip4":{{"ip":"10.1.1.2/24","gateway":"10.1.1.1","routes":[{{"dst":"10.9.3.4/16"}}]}},"ip6":{{"ip":"fd01::2/64","routes":[{{"dst":"fd09::/32","gw":"fd01::1"}}]}},"dns":{{"nameservers":["10.1.1.1"]}}}}"#
        )
    };
    let middle = |version: &str| {
        format!(
            r#"{{"cniVersion":"{version}","ips":[{{"version":"4","address":"10.1.1.2/24","gateway":"10.1.1.1"}},{{"version":"6","address":"fd01::2/64"}}],"routes":[{{"dst":"10.9.3.4/16"}},{{"dst":"fd09::/32","gw":"fd01::1","mtu":1300,"table":0}}],"dns":{{"nameservers":["10.1.1.1"]}}}}"#
        )
    };
    let new = |version: &str| {
        format!(
            r#"{{"cniVersion":"{version}","dns":{{"nameservers":["10.1.1.1"]}},"ips":[{{"address":"10.1.1.2/24","gateway":"10.1.1.1"}},{{"address":"fd01::2/64"}}],"routes":[{{"dst":"10.9.3.4/16"}},{{"dst":"fd09::/32","gw":"fd01::1","mtu":1300,"table":0}}]}}"#
        )
    };
    for (version, expected) in [
        ("0.1.0", old("0.1.0")),
        ("0.2.0", old("0.2.0")),
        ("0.3.0", middle("0.3.0")),
        ("0.3.1", middle("0.3.1")),
        ("0.4.0", middle("0.4.0")),
        ("1.0.0", new("1.0.0")),
        ("1.1.0", new("1.1.0")),
    ] {
        let (status, document) = run("ADD", "", &config(version));
        assert_eq!(status, 0, "{document}");
        assert_eq!(compact(&document), expected, "{version}");
    }
}

#[test]
fn an_old_version_takes_one_address_of_each_family() {
    let (status, document) = run("ADD", "IP=10.1.1.3/24", &config("0.2.0"));
    assert_eq!(status, 1);
    assert!(document.contains("CNI version 0.2.0 does not support more than 1 address per family"), "{document}");
}

#[test]
fn what_multus_sends_for_the_documents_network_gives_its_address() {
    let config = r#"{"cniVersion":"0.3.0","name":"br-plumr-config","type":"bridge","isGateway":true,
        "ipam":{"type":"static","capabilites":{"ips":true},"routes":[{"dst":"10.10.2.0/24"}]}}"#;
    let args =
        "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_UID=;IgnoreUnknown=1;IP=10.10.1.200/24";
    let (status, document) = run("ADD", args, config);
    assert_eq!(status, 0, "{document}");
    assert!(compact(&document).contains(r#""ips":[{"version":"4","address":"10.10.1.200/24"}]"#), "{document}");
}

fn check(previous_ips: &str) -> (u8, String) {
    let config = format!(
        r#"{{"cniVersion":"1.0.0","name":"lan","ipam":{{"type":"static","addresses":{ADDRESSES}}},
            "prevResult":{{"cniVersion":"1.0.0","ips":{previous_ips}}}}}"#
    );
    run("CHECK", "", &config)
}

#[test]
fn check_notices_an_absent_address_and_another_gateway() {
    // A gateway that another plugin computed is no difference, and neither is an address that it added.
    let (status, document) = check(
        r#"[{"address":"10.1.1.2/24","gateway":"10.1.1.1"},{"address":"fd01::2/64","gateway":"fd01::1"},{"address":"10.4.0.1/32"}]"#,
    );
    assert_eq!((status, document.as_str()), (0, ""));
    for ips in [
        r#"[{"address":"10.1.1.2/24","gateway":"10.1.1.1"}]"#,
        r#"[{"address":"10.1.1.2/24","gateway":"10.1.1.9"},{"address":"fd01::2/64"}]"#,
        "[]",
    ] {
        let (status, document) = check(ips);
        assert_eq!(status, 1, "{ips}");
        assert!(document.contains("static: Failed to match addr"), "{document}");
    }
}

#[test]
fn check_needs_the_previous_result() {
    let (status, document) = run("CHECK", "", &config("1.0.0"));
    assert_eq!(status, 1);
    assert!(document.contains("Required prevResult missing"), "{document}");
}

#[test]
fn del_succeeds_whatever_the_configuration_is() {
    for config in [
        config("1.0.0"),
        r#"{"cniVersion":"1.0.0","name":"lan"}"#.to_owned(),
        r#"{"cniVersion":"1.0.0","name":"lan","ipam":{"addresses":[{"address":"x"}],"routes":[{"dst":"y"}]}}"#
            .to_owned(),
        r#"{"cniVersion":"1.0.0","name":"lan","ipam":7}"#.to_owned(),
    ] {
        assert_eq!(run("DEL", "", &config), (0, String::new()), "{config}");
    }
}

#[test]
fn gc_and_status_succeed() {
    for command in ["GC", "STATUS"] {
        assert_eq!(run(command, "", &config("1.1.0")), (0, String::new()));
    }
}

#[test]
fn a_wrong_route_is_named_with_its_place() {
    let config = r#"{"cniVersion":"1.0.0","name":"lan","ipam":{"routes":[{"dst":"10.0.0.0"}]}}"#;
    let (status, document) = run("ADD", "", config);
    assert_eq!(status, 1);
    for part in ["ipam.routes[0].dst", "10.0.0.0", "line 1"] {
        assert!(document.contains(part), "{document} lacks {part}");
    }
}
