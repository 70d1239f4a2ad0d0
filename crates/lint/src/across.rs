//! What the given files contradict each other in: addresses that two pods have, templates that give one to many.

use std::rc::Rc;

use adit_net::MacAddress;
use ipnetwork::IpNetwork;

use crate::{
    attach::Attached,
    finding::{Code, Findings, Place},
    manifest::Objects,
    node::Node,
    pod::{Pod, Replicas, Selection},
};

/// A pod in a network.
pub(crate) struct Member<'a> {
    pub pod: &'a Pod,
    pub selection: &'a Selection,
    pub attached: Attached,
}

/// An address that an attachment has: of which interface, where the file says so.
struct Held {
    interface: String,
    address: IpNetwork,
    place: Place,
    /// It stands in the annotation; else in the network's definition.
    is_own: bool,
}

pub(crate) fn check(members: &[Member<'_>], findings: &mut Findings) {
    let all: Vec<(&Member<'_>, Vec<Held>)> = members.iter().map(|member| (member, held(member))).collect();
    for (index, (member, own)) in all.iter().enumerate() {
        shared(member, own, findings);
        for (earlier, others) in all.iter().take(index) {
            let is_alternative = member.pod.is_same_object(earlier.pod) && !std::ptr::eq(member.pod, earlier.pod);
            if Rc::ptr_eq(&member.attached.network, &earlier.attached.network) && !is_alternative {
                collide((*member, own.as_slice()), (*earlier, others.as_slice()), findings);
            }
        }
    }
}

/// Objects of the same name in one file: one replaces the other.
pub(crate) fn duplicates(objects: &Objects, findings: &mut Findings) {
    let networks = objects.networks.iter().filter_map(|network| {
        let (namespace, name) = network.definition.clone()?;
        Some((network.place(network.at), format!("NetworkAttachmentDefinition {namespace}/{name}")))
    });
    let named_pods = objects.pods.iter().filter(|pod| !pod.name.is_empty());
    let pods = named_pods.map(|pod| (pod.place(pod.at), pod.label()));
    let mut known: Vec<(Place, String)> = Vec::new();
    for (place, label) in networks.chain(pods) {
        if known.iter().any(|(earlier, other)| earlier.file == place.file && *other == label) {
            findings.warning(
                place,
                Code::DuplicateObject,
                format!("the file has {label} twice"),
                "the last one counts: remove or rename one of them",
            );
        }
        known.push((place, label));
    }
}

fn held(member: &Member<'_>) -> Vec<Held> {
    let Member { pod, selection, attached } = member;
    let at_name = pod.place(selection.name_at);
    let written = |entries: &[(usize, &str)], address: &IpNetwork| {
        let same = entries.iter().find(|(_, text)| text.parse::<IpNetwork>().is_ok_and(|written| written == *address));
        same.map(|(at, _)| pod.place(*at))
    };
    let mut held = Vec::new();
    for address in attached.addresses.iter().flatten() {
        let own = written(&selection.ips(), address);
        held.push(Held {
            interface: selection.interface.clone(),
            address: *address,
            place: own.unwrap_or(at_name),
            is_own: own.is_some(),
        });
    }
    for end in &attached.ends {
        let name = end.intent.if_name.as_str();
        let asked = selection.cni_args().and_then(|args| args.get(name)).and_then(|own| own.get("ips"));
        let asked = asked.map(crate::pod::texts).unwrap_or_default();
        for address in end.inner.iter().flatten() {
            let own = written(&asked, address);
            held.push(Held {
                interface: name.to_owned(),
                address: *address,
                place: own.unwrap_or(at_name),
                is_own: own.is_some(),
            });
        }
    }
    held
}

fn collide((member, own): (&Member<'_>, &[Held]), (earlier, others): (&Member<'_>, &[Held]), findings: &mut Findings) {
    for held in own {
        let same = |other: &&Held| {
            other.interface_kind(earlier) == held.interface_kind(member) && other.address.ip() == held.address.ip()
        };
        if others.iter().any(|other| same(&other)) {
            let remedy = if held.is_own {
                "give each pod an address of its own".to_owned()
            } else if held.interface == member.selection.interface {
                "the network's definition gives it to every pod: write \"ips\" in their annotations instead".to_owned()
            } else {
                format!(
                    "the network's definition gives it to every pod: write \"cni-args\": {{ \"{}\": {{ \"ips\": […] }} }} in their annotations",
                    held.interface
                )
            };
            findings.error(
                held.place,
                Code::AddressCollision,
                format!(
                    "{} of {} has {}, which {} has too, on the same network",
                    held.interface,
                    member.pod.label(),
                    held.address.ip(),
                    earlier.pod.label()
                ),
                remedy,
            );
        }
    }
    if let (Some(mac), Some(other)) = (member.attached.mac, earlier.attached.mac)
        && mac == other
    {
        mac_collision(member, earlier, mac, findings);
    }
}

fn mac_collision(member: &Member<'_>, earlier: &Member<'_>, mac: MacAddress, findings: &mut Findings) {
    let at = member.selection.get("mac").map_or(member.selection.name_at, |node| node.at);
    findings.error(
        member.pod.place(at),
        Code::MacCollision,
        format!(
            "{} has the MAC address {mac}, which {} has too, on the same network",
            member.pod.label(),
            earlier.pod.label()
        ),
        "give each its own, or none: then the kernel chooses",
    );
}

impl Held {
    /// Interfaces below tunnels are of one kind, whatever the pods call them.
    fn interface_kind(&self, member: &Member<'_>) -> Option<&str> {
        (self.interface != member.selection.interface).then_some(self.interface.as_str())
    }
}

/// One address for many pods.
fn shared(member: &Member<'_>, own: &[Held], findings: &mut Findings) {
    let Member { pod, .. } = member;
    let many = match pod.replicas {
        Replicas::Number(0 | 1) => return,
        Replicas::Number(number) => format!("the {number} pods of {}", pod.label()),
        Replicas::EachNode => format!("every pod of {}, one on each node,", pod.label()),
    };
    let remedy = "make a Pod or a StatefulSet of its own for each, or use an address plugin that hands out different ones (host-local, whereabouts)";
    let mut told = |place: Place, what: String| {
        let message = format!("{many} get {what}");
        match pod.replicas {
            Replicas::EachNode => {
                findings.warning(place, Code::SharedAddress, message.replace(", get", ", gets"), remedy)
            }
            Replicas::Number(_) => findings.error(place, Code::SharedAddress, message, remedy),
        }
    };
    for held in own {
        told(held.place, format!("the same address {} on {}", held.address.ip(), held.interface));
    }
    if let (Some(mac), Some(node)) = (member.attached.mac, member.selection.get("mac").map(|node: &Node| node)) {
        told(pod.place(node.at), format!("the same MAC address {mac}"));
    }
}
