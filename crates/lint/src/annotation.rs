//! The annotation `k8s.v1.cni.cncf.io/networks`, as Multus 4.3 reads it (multus-cni `pkg/k8sclient/k8sclient.go`,
//! `parsePodNetworkAnnotation`).

use adit_cni::{IfName, parse_cidr};
use adit_net::MacAddress;

use crate::{
    finding::{Code, Findings, Place},
    guess, json,
    node::{Kind, Node, Text},
    pod::{NETWORKS, Selection},
};

/// Every key of an element that Multus reads, or that its users write (network-attachment-definition-client
/// `pkg/apis/k8s.cni.cncf.io/v1/types.go`, `NetworkSelectionElement`).
pub(crate) const KEYS: [&str; 13] = [
    "name",
    "namespace",
    "interface",
    "interfaceRequest",
    "ips",
    "mac",
    "cni-args",
    "default-route",
    "infiniband-guid",
    "portMappings",
    "bandwidth",
    "deviceID",
    "ipam-claim-reference",
];

/// Reads the annotation's value, which stands at `node` of a file with the text `source`.
pub(crate) fn read(node: &Node, file: usize, source: &str, namespace: &str, findings: &mut Findings) -> Vec<Selection> {
    let place = |at: usize| Place { file, at };
    let Kind::Text(text) = &node.kind else {
        findings.error(
            place(node.at),
            Code::Annotation,
            format!("{NETWORKS} is {}, and annotations are texts", node.kind_name()),
            "quote it: '[{ \"name\": \"ohio\" }]'",
        );
        return Vec::new();
    };
    let offsets = text.offsets(source).unwrap_or_default();
    let inner = |at: usize| offsets.get(at).copied().unwrap_or(node.at);
    let mut selections = if text.value.contains(['[', '{', '"']) {
        from_json(text, &inner, namespace, &place, findings)
    } else {
        short(text, &inner, namespace, &place, findings)
    };
    name_interfaces(&mut selections, &place, findings);
    selections
}

fn from_json(
    text: &Text,
    inner: &dyn Fn(usize) -> usize,
    namespace: &str,
    place: &dyn Fn(usize) -> Place,
    findings: &mut Findings,
) -> Vec<Selection> {
    let root = match json::parse(&text.value, inner, false) {
        Ok(root) => root,
        Err(wrong) => {
            findings.error(
                place(inner(wrong.at)),
                Code::Json,
                format!("the annotation is no JSON: {}", wrong.message),
                wrong.remedy,
            );
            return Vec::new();
        }
    };
    let Kind::List(items) = root.kind else {
        findings.error(
            place(root.at),
            Code::Annotation,
            format!("the annotation is {}, not a list", root.kind_name()),
            "write [{ \"name\": \"ohio\" }]",
        );
        return Vec::new();
    };
    let mut duplicates = Vec::new();
    items.iter().for_each(|item| item.duplicates(&mut duplicates));
    for (key, at) in duplicates {
        findings.warning(
            place(at),
            Code::DuplicateKey,
            format!("{key:?} stands here for the second time"),
            "the last one counts: remove the other",
        );
    }
    items.into_iter().filter_map(|item| element(item, namespace, place, findings)).collect()
}

fn element(item: Node, namespace: &str, place: &dyn Fn(usize) -> Place, findings: &mut Findings) -> Option<Selection> {
    if !item.is_map() {
        findings.error(
            place(item.at),
            Code::Annotation,
            format!("an element of the annotation is {}, not an object", item.kind_name()),
            "write { \"name\": \"ohio\" }",
        );
        return None;
    }
    for member in item.members() {
        if KEYS.contains(&member.key.as_str()) {
            continue;
        }
        // Go matches keys in any case.
        if KEYS.iter().any(|key| key.eq_ignore_ascii_case(&member.key)) {
            continue;
        }
        let remedy = match guess::nearest(&member.key, KEYS) {
            Some((meant, _)) => format!("{meant:?} is meant"),
            None if is_for_cni_args(member.key.as_str()) => {
                format!("what a plugin is to be told stands in \"cni-args\": {{ {:?}: … }}", member.key)
            }
            None => "remove it; what a plugin is to be told stands in \"cni-args\"".to_owned(),
        };
        findings.warning(
            place(member.at),
            Code::UnknownKey,
            format!("{:?} is no key of a network selection, so Multus ignores it", member.key),
            remedy,
        );
    }
    let is_sound = check_types(&item, place, findings);
    let name = item.get_any_case("name").and_then(Node::text).unwrap_or_default().to_owned();
    if name.is_empty() && is_sound {
        findings.error(
            place(item.at),
            Code::Annotation,
            "the element names no network",
            "write the name of a NetworkAttachmentDefinition: \"name\": \"ohio\"",
        );
    }
    if name.is_empty() || !is_sound {
        return None;
    }
    let name_at = item.get_any_case("name").map_or(item.at, |node| node.at);
    let own = item.get_any_case("namespace").and_then(Node::text).filter(|own| !own.is_empty());
    let interface = item.get_any_case("interface").or_else(|| item.get_any_case("interfaceRequest"));
    if let Some(node) = interface
        && let Some(name) = node.text()
        && !name.is_empty()
        && let Err(why) = IfName::try_from(name)
    {
        findings.error(
            place(node.at),
            Code::InterfaceName,
            format!("{name:?} cannot name an interface: {}", why.msg),
            "write 1 to 15 characters without '/', ':' and blanks",
        );
    }
    let interface = interface.and_then(Node::text).unwrap_or_default().to_owned();
    Some(Selection {
        at: item.at,
        name_at,
        namespace: own.unwrap_or(namespace).to_owned(),
        name,
        interface,
        node: Some(item),
    })
}

fn is_for_cni_args(key: &str) -> bool {
    ["tun", "args", "labels"].contains(&key)
}

/// What Multus cannot decode, or passes on although nobody can use it. False: it refuses the pod.
fn check_types(item: &Node, place: &dyn Fn(usize) -> Place, findings: &mut Findings) -> bool {
    let before = findings.len();
    let mut wrong = |node: &Node, key: &str, what: &str, remedy: String| {
        findings.error(
            place(node.at),
            Code::Annotation,
            format!("\"{key}\" is {}, not {what}: Multus refuses the pod", node.kind_name()),
            remedy,
        );
    };
    for key in ["name", "namespace", "interface", "interfaceRequest", "mac", "infiniband-guid", "deviceID"] {
        if let Some(node) = item.get_any_case(key).filter(|node| node.text().is_none()) {
            wrong(node, key, "a text", format!("write \"{key}\": \"…\""));
        }
    }
    for key in ["ips", "default-route"] {
        let Some(node) = item.get_any_case(key) else { continue };
        if let Some(text) = node.text() {
            wrong(node, key, "a list", format!("write \"{key}\": [{text:?}]"));
        } else if !matches!(node.kind, Kind::List(_)) {
            wrong(node, key, "a list", format!("write \"{key}\": [\"…\"]"));
        }
        for entry in node.items().iter().filter(|entry| entry.text().is_none()) {
            wrong(entry, key, "a list of texts", "quote each".to_owned());
        }
    }
    if let Some(node) = item.get_any_case("cni-args").filter(|node| !node.is_map()) {
        wrong(
            node,
            "cni-args",
            "an object",
            "write \"cni-args\": { \"tun\": { \"ips\": [\"10.4.0.1/30\"] } }".to_owned(),
        );
    }
    let is_sound = findings.len() == before;
    check_values(item, place, findings);
    is_sound
}

fn check_values(item: &Node, place: &dyn Fn(usize) -> Place, findings: &mut Findings) {
    for entry in item.get_any_case("ips").map(Node::items).unwrap_or_default() {
        if let Some(text) = entry.text() {
            check_address(text, place(entry.at), findings);
        }
    }
    if let Some(node) = item.get_any_case("mac")
        && let Some(text) = node.text()
    {
        const REMEDY: &str = "write six bytes such as 02:00:00:00:00:01";
        match text.parse::<MacAddress>() {
            Err(_) if text.is_empty() => {}
            Err(_) => findings.error(place(node.at), Code::Value, format!("{text:?} is no MAC address"), REMEDY),
            Ok(mac) if mac.is_zero() => findings.error(
                place(node.at),
                Code::Value,
                format!("{text} is all zero, which no interface can have"),
                REMEDY,
            ),
            Ok(mac) if mac.is_multicast() => findings.error(
                place(node.at),
                Code::Value,
                format!("{text} is a multicast address, which no interface can have"),
                "the first byte must be even: for a local one start with 02",
            ),
            Ok(_) => {}
        }
    }
    if let Some(member) = item.member("default-route").filter(|member| !member.value.items().is_empty()) {
        findings.warning(
            place(member.at),
            Code::DefaultRoute,
            "\"default-route\" reaches no plugin: Multus itself is to replace the pod's default route after ADD, and 4.3 leaves it as it was",
            "write the route in the network's ipam ({ \"dst\": \"0.0.0.0/0\" }, or narrower ones), or isDefaultGateway for bridge",
        );
    }
    if let Some(member) = item.member("ipam-claim-reference") {
        findings.warning(
            place(member.at),
            Code::IpamClaim,
            "\"ipam-claim-reference\" is dropped by Multus: no plugin hears of it",
            "write the address in \"ips\"",
        );
    }
}

/// An address as Multus lets it pass: with or without a prefix length.
fn check_address(text: &str, place: Place, findings: &mut Findings) {
    if parse_cidr(text).is_err() && text.parse::<std::net::IpAddr>().is_err() {
        findings.error(
            place,
            Code::Value,
            format!("{text:?} is no address with a prefix length"),
            "write it as 10.10.1.200/24",
        );
    }
}

fn short(
    text: &Text,
    inner: &dyn Fn(usize) -> usize,
    namespace: &str,
    place: &dyn Fn(usize) -> Place,
    findings: &mut Findings,
) -> Vec<Selection> {
    let mut selections = Vec::new();
    let mut start = 0_usize;
    for piece in text.value.split(',') {
        let leading = piece.len().saturating_sub(piece.trim_start().len());
        let at = inner(start.saturating_add(leading));
        start = start.saturating_add(piece.len()).saturating_add(1);
        let item = piece.trim();
        let mut wrong = |message: String| {
            findings.error(
                place(at),
                Code::Annotation,
                message,
                "write namespace/name@interface, name, …, or a JSON list",
            )
        };
        let (network, interface) = item.split_once('@').map_or((item, None), |(network, name)| (network, Some(name)));
        let (own, name) = network.split_once('/').map_or((None, network), |(own, name)| (Some(own), name));
        if name.is_empty() {
            wrong(if item.is_empty() {
                "no network stands between the commas".to_owned()
            } else {
                format!("{item:?} names no network")
            });
            continue;
        }
        if name.contains('/') || item.matches('@').count() > 1 {
            wrong(format!("{item:?} is no network selection"));
            continue;
        }
        if let Some(interface) = interface
            && let Err(why) = IfName::try_from(interface)
        {
            findings.error(
                place(at),
                Code::InterfaceName,
                format!("{interface:?} cannot name an interface: {}", why.msg),
                "write 1 to 15 characters without '/', ':' and blanks",
            );
        }
        selections.push(Selection {
            at,
            name_at: at,
            namespace: own.unwrap_or(namespace).to_owned(),
            name: name.to_owned(),
            interface: interface.unwrap_or_default().to_owned(),
            node: None,
        });
    }
    selections
}

/// Names those that ask for no name, and finds names that are taken: the cluster's own network is number 0, with eth0.
fn name_interfaces(selections: &mut [Selection], place: &dyn Fn(usize) -> Place, findings: &mut Findings) {
    let mut taken = vec!["eth0".to_owned(), "lo".to_owned()];
    for (index, selection) in selections.iter_mut().enumerate() {
        if selection.interface.is_empty() {
            selection.interface = format!("net{}", index.saturating_add(1));
        }
        if taken.contains(&selection.interface) {
            findings.error(
                place(selection.at),
                Code::InterfaceName,
                format!("the pod already has an interface {}", selection.interface),
                "write another \"interface\", or none",
            );
        }
        taken.push(selection.interface.clone());
    }
}
