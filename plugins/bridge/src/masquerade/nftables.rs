//! Masquerading by nftables: in the reference plugin's table and beside its rules, but each pod is an element of sets.
//!
//! ```text
//! table inet cni_plugins_masquerade {
//!     set adit_pods4 { type ipv4_addr; elements = { 10.1.1.2 comment "adit:lan:…:net1" } }
//!     set adit_local4 { type ipv4_addr . ipv4_addr; flags interval; elements = { 10.1.1.2 . 10.1.1.0-10.1.1.255 comment … } }
//!     chain masq_checks {
//!         ip saddr . ip daddr @adit_local4 return
//!         ip saddr @adit_pods4 masquerade
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat
//!         ip daddr 224.0.0.0/4 return
//!         ip6 daddr ff00::/8 return
//!         goto masq_checks
//!     }
//! }
//! ```
//!
//! An element can carry one comment. When a second attachment has the address of a first (a replacement that comes before
//! the DEL of what it replaces, or a mistake), its ADD takes the element over; the DEL of the first then finds no element with
//! its own comment and leaves the second's alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_cni::Error;
use adit_net::Nftables;
use adit_net::nftables::{
    ChainKind, Element, Expression, Family, Field, Hook, HookPoint, KeyType, KeyValue, NetworkProtocol, Rule, Set,
    Table,
};
use adit_plugin::check::mismatch;
use ipnetwork::IpNetwork;

use crate::rules::{Chain, StaticPart, commented};
use crate::tag::Tag;

/// The reference's table, and the chain in it where its rules are too.
pub(crate) const TABLE: &str = "cni_plugins_masquerade";
pub(crate) const CHECKS: &str = "masq_checks";

/// `srcnat` (`NF_IP_PRI_NAT_SRC`).
const PRIORITY: i32 = 100;

/// Masquerades what comes from `addresses` and goes beyond their subnets.
pub(crate) fn add(nft: &Nftables, tag: &Tag, addresses: &[IpNetwork]) -> Result<(), Error> {
    let part = static_part();
    part.change(nft, |batch| {
        for address in addresses {
            let names = SetNames::of(address);
            // The same address with another prefix overlaps with the new element: the first part of the key finds that too.
            part.put(nft, batch, names.pods, pod(*address, tag))?;
            part.put(nft, batch, names.local, local(*address, tag))?;
        }
        Ok(())
    })
}

/// Deletes the elements whose comment `is_stale`, after `first` where there are any.
pub(crate) fn discard(
    nft: &Nftables,
    is_stale: impl Fn(&str) -> bool,
    first: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    static_part().discard(nft, is_stale, first)
}

/// Whether the rules and the elements of `addresses` are there.
pub(crate) fn check(nft: &Nftables, tag: &Tag, addresses: &[IpNetwork]) -> Result<(), Error> {
    let part = static_part();
    if !part.is_complete(nft)? {
        return Err(mismatch(format!("the masquerading rules of table inet {TABLE} are not complete"))
            .with_details("something has deleted them; the next ADD with ipMasq makes them again"));
    }
    let found = part.find(nft, |comment| comment == tag.as_str())?;
    let has = |set: &str, wanted: &Element| {
        found
            .iter()
            .filter(|(name, _)| *name == set)
            .flat_map(|(_, elements)| elements)
            .any(|there| (&there.key, there.key_end.as_ref()) == (&wanted.key, wanted.key_end.as_ref()))
    };
    let missing = addresses.iter().find(|address| {
        let names = SetNames::of(address);
        !(has(names.pods, &pod(**address, tag)) && has(names.local, &local(**address, tag)))
    });
    missing.map_or(Ok(()), |address| {
        Err(mismatch(format!("address {address} is not masqueraded: it is not in the sets of table inet {TABLE}")))
    })
}

/// The sets of a family.
struct SetNames {
    pods: &'static str,
    local: &'static str,
}

const PODS4: &str = "adit_pods4";
const PODS6: &str = "adit_pods6";
const LOCAL4: &str = "adit_local4";
const LOCAL6: &str = "adit_local6";

impl SetNames {
    fn of(address: &IpNetwork) -> Self {
        if address.is_ipv4() { Self { pods: PODS4, local: LOCAL4 } } else { Self { pods: PODS6, local: LOCAL6 } }
    }
}

fn pod(address: IpNetwork, tag: &Tag) -> Element {
    Element { comment: Some(tag.as_str().to_owned()), ..Element::new([value(address.ip())]) }
}

fn local(address: IpNetwork, tag: &Tag) -> Element {
    let source = value(address.ip());
    let last = match address {
        IpNetwork::V4(network) => KeyValue::Ipv4(network.broadcast()),
        IpNetwork::V6(network) => KeyValue::Ipv6(network.broadcast()),
    };
    Element {
        key_end: Some(vec![source.clone(), last]),
        comment: Some(tag.as_str().to_owned()),
        ..Element::new([source, value(address.network())])
    }
}

fn value(address: IpAddr) -> KeyValue {
    match address {
        IpAddr::V4(address) => KeyValue::Ipv4(address),
        IpAddr::V6(address) => KeyValue::Ipv6(address),
    }
}

fn static_part() -> StaticPart {
    let set = |name: &str, key: &[KeyType], interval| Set { name: name.to_owned(), key: key.to_vec(), interval };
    let (v4, v6) = (KeyType::Ipv4Addr, KeyType::Ipv6Addr);
    StaticPart {
        table: Table::new(Family::Inet, TABLE),
        sets: vec![
            set(PODS4, &[v4], false),
            set(LOCAL4, &[v4, v4], true),
            set(PODS6, &[v6], false),
            set(LOCAL6, &[v6, v6], true),
        ],
        chains: vec![
            Chain { name: CHECKS, hook: None, rules: check_rules(), shared: true },
            Chain {
                name: "postrouting",
                hook: Some(Hook { kind: ChainKind::Nat, hook: HookPoint::Postrouting, priority: PRIORITY }),
                rules: postrouting_rules(),
                shared: false,
            },
        ],
    }
}

fn check_rules() -> Vec<Rule> {
    use Field::{Ipv4Destination, Ipv4Source, Ipv6Destination, Ipv6Source};
    let family = |protocol, source, destination, local: &str, pods: &str, name: &str| {
        let within = [
            Expression::Protocol(protocol),
            Expression::InSet(vec![source, destination], local.to_owned()),
            Expression::Return,
        ];
        let beyond =
            [Expression::Protocol(protocol), Expression::InSet(vec![source], pods.to_owned()), Expression::Masquerade];
        [
            commented(within, format_args!("adit: {name} within a pod's subnet")),
            commented(beyond, format_args!("adit: {name} from pods")),
        ]
    };
    [
        family(NetworkProtocol::Ipv4, Ipv4Source, Ipv4Destination, LOCAL4, PODS4, "IPv4"),
        family(NetworkProtocol::Ipv6, Ipv6Source, Ipv6Destination, LOCAL6, PODS6, "IPv6"),
    ]
    .concat()
}

/// The reference's, in its order: it flushes the chain and writes them anew at every ADD, and so do we where they are missing.
fn postrouting_rules() -> Vec<Rule> {
    [
        multicast(NetworkProtocol::Ipv4, Field::Ipv4Destination, Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        multicast(NetworkProtocol::Ipv6, Field::Ipv6Destination, Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        Some(Rule::new([Expression::Goto(CHECKS.to_owned())])),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn multicast(protocol: NetworkProtocol, field: Field, groups: IpAddr, prefix: u8) -> Option<Rule> {
    let groups = IpNetwork::new(groups, prefix).ok()?;
    Some(Rule::new([Expression::Protocol(protocol), Expression::InNetwork(field, groups), Expression::Return]))
}
