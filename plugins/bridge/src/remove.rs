//! DEL and GC: everything is found by the attachment's identity, whatever the configuration says by now.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use adit_cni::{Attachment, CniResult, DelCall, Error, GcCall};
use adit_net::{Link, LinkChange, LinkKind, Netlink, Netns, Nftables};
use adit_plugin::{Identity, collected, ipam, net_error};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::masquerade;
use crate::reference;
use crate::spoof;
use crate::tag::Tag;

/// Removes the attachment's interfaces and rules and gives its addresses back. Nothing there is success.
pub(crate) fn del(call: &DelCall<Config>) -> Result<(), Error> {
    let network = call.network.as_str();
    let tag = Tag::new(network, &call.attachment);
    let is_ours = |comment: &str| comment == tag.as_str();
    let remove = || {
        on_node(|Node { host, nft }| {
            let (links, unknown) = match interfaces(host, call) {
                Ok(links) => (links, Ok(())),
                Err(error) => (Vec::new(), Err(error)),
            };
            // No frame passes unchecked or with the pod's address once the rules are gone. They go before the links: the
            // kernel destroys them while it waits for the links, and closing the socket then waits no more.
            let silence = || each(&links, |link| set_down(host, link));
            vec![
                unknown,
                // First, for the pod's interface may tell the addresses.
                iptables(Node { host, nft }, network, &call.attachment, call.config.by_iptables(), || {
                    known_addresses(call)
                }),
                spoof::discard(nft, is_ours, silence),
                masquerade::nftables::discard(nft, is_ours, silence),
                each(&links, |link| host.delete_link(link.index).map(drop).map_err(net_error)),
                reference::remove_masquerade(nft, network, &call.attachment),
                reference::remove_spoof_check(nft, &call.attachment),
            ]
        })
    };
    collected(ipam::del_after(&call.delegate, call.config.ipam_plugin(), remove))
}

/// Tries all of `links`.
fn each(links: &[Link], act: impl Fn(&Link) -> Result<(), Error>) -> Result<(), Error> {
    collected(links.iter().filter_map(|link| act(link).err()).collect())
}

fn set_down(host: &Netlink, link: &Link) -> Result<(), Error> {
    match host.change_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() }) {
        // With its pod.
        Err(error) if error.is_not_found() => Ok(()),
        done => done.map_err(net_error),
    }
}

/// Removes the interfaces and rules of every network that the attachment may be of. The address cannot be given back, nor
/// iptables rules be found: which IPAM plugin and which network it was is in the configuration that nobody can read.
pub(crate) fn del_unreadable(attachment: &Attachment, why: Error) -> Result<(), Error> {
    let is_ours = |comment: &str| Tag::is_of(comment, attachment);
    let mut errors = vec![why];
    errors.extend(on_node(|node| {
        vec![
            delete_links(node.host, |link| has_alias(link, |alias| Identity::is_of(alias, attachment))),
            spoof::discard(node.nft, is_ours, || Ok(())),
            masquerade::nftables::discard(node.nft, is_ours, || Ok(())),
            reference::remove_masquerade_everywhere(node.nft, attachment),
            reference::remove_spoof_check(node.nft, attachment),
        ]
    }));
    collected(errors)
}

/// Removes the host interfaces and rules of this network's attachments that are not listed, then lets the IPAM plugin do
/// the same. Without a list: nothing.
pub(crate) fn gc(call: &GcCall<Config>) -> Result<(), Error> {
    let Some(valid) = &call.valid else { return Ok(()) };
    let network = call.network.as_str();
    let aliases: HashSet<String> =
        valid.iter().map(|attachment| Identity::new(network, attachment).alias().to_owned()).collect();
    let tags: HashSet<Tag> = valid.iter().map(|attachment| Tag::new(network, attachment)).collect();
    let containers: BTreeSet<&str> = valid.iter().map(|attachment| attachment.container_id.as_str()).collect();
    let (alias_prefix, tag_prefix) = (Identity::prefix(network), Tag::prefix(network));
    let is_stale = |comment: &str| comment.starts_with(&tag_prefix) && !tags.iter().any(|tag| tag.as_str() == comment);
    let is_unlisted = |alias: &str| alias.starts_with(&alias_prefix) && !aliases.contains(alias);
    let half_made = half_made(network);
    let mut errors = on_node(|node| {
        vec![
            delete_links(node.host, |link| {
                has_alias(link, is_unlisted) || (link.group == half_made && link.alias.is_none() && !link.up)
            }),
            spoof::discard(node.nft, is_stale, || Ok(())),
            masquerade::nftables::discard(node.nft, is_stale, || Ok(())),
            reference::gc_masquerade(node.nft, network, valid),
            masquerade::iptables::gc(node.nft, network, &containers),
        ]
    });
    if let Some(plugin) = call.config.ipam_plugin() {
        errors.extend(call.delegate.gc(plugin).err());
    }
    collected(errors)
}

/// Sockets of the node.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    pub host: &'a Netlink,
    pub nft: &'a Nftables,
}

/// Does all of `work` and returns what failed of it.
fn on_node(work: impl FnOnce(Node<'_>) -> Vec<Result<(), Error>>) -> Vec<Error> {
    let open = || Ok((Netlink::open()?, Nftables::open()?));
    match open() {
        Ok((host, nft)) => work(Node { host: &host, nft: &nft }).into_iter().filter_map(Result::err).collect(),
        Err(error) => vec![net_error(error)],
    }
}

/// Removes the iptables rules of an attachment. While another one of its container lives in the same network, which uses the
/// same chain, only the jumps of `addresses` go; all of them else.
pub(crate) fn iptables(
    Node { host, nft }: Node<'_>,
    network: &str,
    attachment: &Attachment,
    by_iptables: bool,
    addresses: impl FnOnce() -> Vec<IpNetwork>,
) -> Result<(), Error> {
    let found = masquerade::iptables::find(nft, network, attachment, by_iptables)?;
    if found.is_empty() {
        return Ok(());
    }
    let identity = Identity::new(network, attachment);
    let links = host.links().map_err(net_error)?;
    if links.iter().filter_map(|link| link.alias.as_deref()).any(|alias| is_sibling(alias, identity.alias())) {
        masquerade::iptables::remove_addresses(nft, network, attachment, &found, &addresses())
    } else {
        masquerade::iptables::remove_chains(nft, &found)
    }
}

/// Whether two aliases differ in the interface's name only.
fn is_sibling(alias: &str, own: &str) -> bool {
    let container = |alias: &str| alias.rsplit_once(':').map(|(container, _)| container.to_owned());
    alias != own && container(alias) == container(own)
}

/// The attachment's addresses: those of the result, else those of the pod's interface.
fn known_addresses(call: &DelCall<Config>) -> Vec<IpNetwork> {
    let ifname = call.attachment.ifname.as_str();
    if let Some(result) = &call.prev_result {
        let is_own = |index: Option<usize>| {
            index.is_none_or(|index| {
                result.interfaces.get(index).is_some_and(|i| i.name == ifname && i.sandbox.is_some())
            })
        };
        return result.ips.iter().filter(|ip| is_own(ip.interface)).map(|ip| ip.address).collect();
    }
    let in_pod = || {
        let netlink = Netlink::open_in(&Netns::open(call.netns.as_deref()?).ok()?).ok()?;
        let link = netlink.link(ifname).ok()??;
        netlink.addresses(link.index).ok()
    };
    in_pod().unwrap_or_default().iter().map(|address| address.network).collect()
}

/// The group of a network's pairs until they have their alias, by which alone GC can tell whose they are: what a killed ADD
/// left without one. Never 0, which every other link is in.
pub(crate) fn half_made(network: &str) -> u32 {
    let digits: String = reference::hex_sha512(network).chars().take(8).collect();
    u32::from_str_radix(&digits, 16).unwrap_or_default().max(1)
}

fn has_alias(link: &Link, is_wanted: impl Fn(&str) -> bool) -> bool {
    link.alias.as_deref().is_some_and(is_wanted)
}

fn delete_links(host: &Netlink, is_stale: impl Fn(&Link) -> bool) -> Result<(), Error> {
    let links = host.links().map_err(net_error)?;
    let stale = links.iter().filter(|link| link.kind == LinkKind::Veth && is_stale(link));
    collected(stale.filter_map(|link| host.delete_link(link.index).err().map(net_error)).collect())
}

/// The host's ends of the attachment's pairs; the pod's ends go with them.
fn interfaces(host: &Netlink, call: &DelCall<Config>) -> Result<Vec<Link>, Error> {
    let identity = Identity::new(call.network.as_str(), &call.attachment);
    if let Some(link) = host_end(host, &identity)? {
        return Ok(vec![link]);
    }
    match call.netns.as_deref() {
        Some(netns) => Ok(peer_of_pod(host, netns, call)?.into_iter().collect()),
        None => named_in_result(host, call),
    }
}

/// The host's end: by its name, else by its alias should something have renamed it.
fn host_end(host: &Netlink, identity: &Identity) -> Result<Option<Link>, Error> {
    let named = host.link(&identity.host_name(0)).map_err(net_error)?;
    if let Some(link) = named.filter(|link| is_ours(link, identity)) {
        return Ok(Some(link));
    }
    let links = host.links().map_err(net_error)?;
    Ok(links.into_iter().find(|link| link.alias.as_deref() == Some(identity.alias())))
}

/// By alias; a pair without one that is in no bridge is ours when its maker was killed before it could write the alias.
fn is_ours(link: &Link, identity: &Identity) -> bool {
    match link.alias.as_deref() {
        Some(alias) => alias == identity.alias(),
        None => link.kind == LinkKind::Veth && link.master.is_none(),
    }
}

/// A pair that has no identity was made by the reference plugin: it is the attachment's when its host end is in our bridge
/// or in `prevResult`. Any other interface of that name is somebody else's.
fn peer_of_pod(host: &Netlink, netns: &Path, call: &DelCall<Config>) -> Result<Option<Link>, Error> {
    // A namespace that is gone, or a file where it was mounted once, has nothing to delete.
    let Ok(pod) = Netns::open(netns) else { return Ok(None) };
    let pod_netlink = Netlink::open_in(&pod).map_err(net_error)?;
    let link = pod_netlink.link(call.attachment.ifname.as_str()).map_err(net_error)?;
    let Some(link) = link.filter(|link| link.kind == LinkKind::Veth) else { return Ok(None) };
    let Some(peer) = link.peer_index else { return Ok(None) };
    let peer = host.link_by_index(peer).map_err(net_error)?;
    let Some(peer) = peer.filter(|peer| peer.peer_index == Some(link.index) && peer.kind == LinkKind::Veth) else {
        return Ok(None);
    };
    let known = in_bridge(host, &peer, call)? || in_result(call.prev_result.as_ref(), &peer, false);
    Ok(Some(peer).filter(|peer| peer.alias.is_none() && known))
}

/// Without the pod, a pair of the reference plugin is known by the name *and* the MAC address that its result gives the
/// host's end, and by its bridge.
fn named_in_result(host: &Netlink, call: &DelCall<Config>) -> Result<Vec<Link>, Error> {
    let Some(result) = &call.prev_result else { return Ok(Vec::new()) };
    let mut links = Vec::new();
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_none()) {
        let Some(link) = host.link(&interface.name).map_err(net_error)? else { continue };
        let is_unnamed_pair = link.kind == LinkKind::Veth && link.alias.is_none();
        if is_unnamed_pair && in_result(Some(result), &link, true) && in_bridge(host, &link, call)? {
            links.push(link);
        }
    }
    Ok(links)
}

fn in_bridge(host: &Netlink, port: &Link, call: &DelCall<Config>) -> Result<bool, Error> {
    let bridge = host.link(call.config.bridge_name()).map_err(net_error)?;
    Ok(bridge.is_some_and(|bridge| port.master == Some(bridge.index)))
}

fn in_result(result: Option<&CniResult>, host_end: &Link, with_mac: bool) -> bool {
    let mac = host_end.mac.map(|mac| mac.to_string());
    result.is_some_and(|result| {
        result.interfaces.iter().any(|interface| {
            interface.name == host_end.name
                && interface.sandbox.is_none()
                && (!with_mac || interface.mac.as_ref().map(|mac| mac.to_ascii_lowercase()) == mac)
        })
    })
}
