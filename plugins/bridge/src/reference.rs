//! What the reference plugin calls its objects, and the removal of those that it left: pods that it attached before this
//! plugin took its place.
//!
//! Its host interfaces carry no identity. DEL finds one through the pod, or by name and MAC address in `prevResult`. GC leaves
//! them: a pair lives as long as both its namespaces do, so what is there still may be in use, and whose it is
//! nobody can tell; one whose pod is gone is gone itself.

use std::collections::HashSet;

use adit_cni::{Attachment, Error};
use adit_net::Nftables;
use adit_net::nftables::{Batch, Family, ListedRule, Table};
use adit_plugin::net_error;
use sha2::{Digest, Sha512};

use crate::masquerade::nftables::{CHECKS, TABLE};
use crate::rules::listed;

/// Length of an iptables chain's name, and what it starts with.
const CHAIN_BYTES: usize = 28;
const CHAIN_PREFIX: &str = "CNI-";

/// Digits of each of the two hashes in an nftables comment.
const HASH_DIGITS: usize = 16;

/// The table and base chain of the reference's spoof check.
const SPOOF_TABLE: &str = "nat";
const SPOOF_BASE: &str = "PREROUTING";

/// SHA-512 in hexadecimal digits.
pub(crate) fn hex_sha512(text: &str) -> String {
    Sha512::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digits(text: &str, count: usize) -> String {
    hex_sha512(text).chars().take(count).collect()
}

/// The iptables chain of a container in a network.
pub(crate) fn chain_name(network: &str, container: &str) -> String {
    let room = CHAIN_BYTES.saturating_sub(CHAIN_PREFIX.len());
    format!("{CHAIN_PREFIX}{}", digits(&format!("{network}{container}"), room))
}

/// Whether a chain may be named by [`chain_name`].
pub(crate) fn is_chain_name(name: &str) -> bool {
    name.len() == CHAIN_BYTES
        && name.strip_prefix(CHAIN_PREFIX).is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The comment of the rules in that chain.
pub(crate) fn comment(network: &str, container: &str) -> String {
    format!("name: \"{network}\" id: \"{container}\"")
}

/// The container that a comment of `network` names, as `iptables -S` quotes it.
pub(crate) fn named_in<'a>(comment: &'a str, network: &str) -> Option<&'a str> {
    let rest = comment.strip_prefix("name: \\\"")?.strip_prefix(network)?.strip_prefix("\\\" id: \\\"")?;
    rest.split_once("\\\"").map(|(container, _)| container)
}

fn network_hash(network: &str) -> String {
    digits(network, HASH_DIGITS)
}

fn instance_hash(attachment: &Attachment) -> String {
    digits(&format!("{}:{}", attachment.ifname, attachment.container_id), HASH_DIGITS)
}

/// What the comment of an attachment's nftables rules starts with.
fn comment_prefix(network: &str, attachment: &Attachment) -> String {
    format!("{}-{}", network_hash(network), instance_hash(attachment))
}

/// Removes the attachment's masquerade rules.
pub(crate) fn remove_masquerade(nft: &Nftables, network: &str, attachment: &Attachment) -> Result<(), Error> {
    let prefix = comment_prefix(network, attachment);
    remove_rules(nft, |comment| comment.starts_with(&prefix))
}

/// Removes the masquerade rules of the attachment in every network.
pub(crate) fn remove_masquerade_everywhere(nft: &Nftables, attachment: &Attachment) -> Result<(), Error> {
    let instance = format!("-{}", instance_hash(attachment));
    remove_rules(nft, |comment| hashes(comment).is_some_and(|(_, rest)| rest.starts_with(&instance)))
}

/// Removes the masquerade rules of the network's attachments that are not listed.
pub(crate) fn gc_masquerade(nft: &Nftables, network: &str, valid: &[Attachment]) -> Result<(), Error> {
    let ours = network_hash(network);
    let keep: HashSet<String> = valid.iter().map(|attachment| format!("-{}", instance_hash(attachment))).collect();
    remove_rules(nft, |comment| {
        hashes(comment).is_some_and(|(network, rest)| {
            network == ours
                && !rest.get(..HASH_DIGITS.saturating_add(1)).is_some_and(|instance| keep.contains(instance))
        })
    })
}

/// Splits a comment after the network's hash, when it starts with two hashes.
fn hashes(comment: &str) -> Option<(&str, &str)> {
    let (network, rest) = comment.split_at_checked(HASH_DIGITS)?;
    let instance = rest.strip_prefix('-')?.get(..HASH_DIGITS)?;
    [network, instance].iter().all(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some((network, rest))
}

fn remove_rules(nft: &Nftables, is_stale: impl Fn(&str) -> bool) -> Result<(), Error> {
    let table = Table::new(Family::Inet, TABLE);
    let rules = listed(nft, nft.rules(&table, Some(CHECKS)))?;
    let stale: Vec<&ListedRule> = rules.iter().filter(|rule| rule.comment.as_deref().is_some_and(&is_stale)).collect();
    if stale.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    for rule in stale {
        batch.delete_rule(&table, CHECKS, rule.handle);
    }
    nft.apply(&batch).map_err(net_error)
}

/// Removes the attachment's spoof check: a rule in the base chain, and two chains. They name no network, so only the DEL of
/// the attachment can know that they are stale.
pub(crate) fn remove_spoof_check(nft: &Nftables, attachment: &Attachment) -> Result<(), Error> {
    let table = Table::new(Family::Bridge, SPOOF_TABLE);
    let interface_chain = format!("cni-br-iface-{}-{}", attachment.container_id, attachment.ifname);
    let mac_chain = format!("{interface_chain}-mac");
    let chains = listed(nft, nft.chains(&table))?;
    if !chains.contains(&interface_chain) && !chains.contains(&mac_chain) {
        return Ok(());
    }
    let mut batch = Batch::new();
    for rule in nft.rules(&table, Some(SPOOF_BASE)).map_err(net_error)? {
        if rule.jump.as_ref() == Some(&interface_chain) {
            batch.delete_rule(&table, SPOOF_BASE, rule.handle);
        }
    }
    // The first jumps to the second.
    for chain in [interface_chain, mac_chain].iter().filter(|chain| chains.contains(chain)) {
        batch.flush_chain(&table, chain).delete_chain(&table, chain);
    }
    nft.apply(&batch).map_err(net_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str, ifname: &str) -> Attachment {
        Attachment { container_id: container.parse().unwrap(), ifname: ifname.parse().unwrap() }
    }

    /// The names were read from the kernel after ADDs of the reference, version 1.9.1.
    #[test]
    fn names_are_the_references() {
        assert_eq!(chain_name("bnet", "leak1"), "CNI-3b7a1c419a9d1ebc830bb3ca");
        assert_eq!(comment("bnet", "leak1"), r#"name: "bnet" id: "leak1""#);
        assert_eq!(comment_prefix("bnet", &attachment("leak2", "eth0")), "fb748804e81d69c8-3ea5b74e0f62fcff");
        assert!(is_chain_name("CNI-3b7a1c419a9d1ebc830bb3ca"));
        assert!(!is_chain_name("CNI-DN-3b7a1c419a9d1ebc830bb") && !is_chain_name("CNI-3b7a"));
    }

    #[test]
    fn a_container_is_named_only_for_the_exact_network() {
        let quoted = r#"name: \"lan\" id: \"c1\"" -j CNI-1"#;
        assert_eq!(named_in(quoted, "lan"), Some("c1"));
        assert_eq!(named_in(quoted, "la"), None);
        assert_eq!(named_in(quoted, "lan2"), None);
        assert_eq!(named_in("", "lan"), None);
    }

    #[test]
    fn a_comment_is_split_only_when_it_is_the_references() {
        assert_eq!(hashes("fb748804e81d69c8-3ea5b74e0f62fcff, net: b").unwrap().0, "fb748804e81d69c8");
        for other in ["adit: IPv4 from pods", "fb748804e81d69c8", "fb748804e81d69c8-3ea5b74e0f62fcf", "ä", ""] {
            assert_eq!(hashes(other), None, "{other}");
        }
    }
}
