//! The names by which an attachment's objects on the host are found again.

use std::hash::Hasher;

use adit_cni::Attachment;
use siphasher::sip128::{Hasher128, SipHasher24};

/// Longest alias that the kernel keeps: `IFALIASZ` (256, `include/uapi/linux/if.h`) with its terminating zero.
const ALIAS_MAX_BYTES: usize = 255;

/// What an attachment's host interface is called: containerID + interface name + network.
///
/// The alias is `adit:<network>:<containerID>:<ifname>`; `:` occurs in none of the three (CNI specification, "Parameters").
/// A part that would make it longer than the kernel keeps is replaced by `~` and 32 hexadecimal digits of its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    alias: String,
}

impl Identity {
    /// The identity of `attachment` in the network called `network`.
    #[must_use]
    pub fn new(network: &str, attachment: &Attachment) -> Self {
        let container = attachment.container_id.as_str();
        let ifname = attachment.ifname.as_str();
        let full = format!("{}{container}:{ifname}", Self::prefix(network));
        let alias = if full.len() <= ALIAS_MAX_BYTES {
            full
        } else {
            format!("{}{}:{ifname}", Self::prefix(network), shortened(container))
        };
        Self { alias }
    }

    /// What every alias of `network` starts with.
    #[must_use]
    pub fn prefix(network: &str) -> String {
        // Room for the two other parts, the longest of which is the hash of a containerID.
        if network.len() <= 160 { format!("adit:{network}:") } else { format!("adit:{}:", shortened(network)) }
    }

    /// Whether `alias` is of `attachment`, in whichever network.
    #[must_use]
    pub fn is_of(alias: &str, attachment: &Attachment) -> bool {
        let container = attachment.container_id.as_str();
        let ends = |container: &str| alias.ends_with(&format!(":{container}:{}", attachment.ifname));
        alias.starts_with("adit:") && (ends(container) || ends(&shortened(container)))
    }

    /// The interface alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// The host interface's name: `veth` and 8 hexadecimal digits, the same at every call, so that a host interface whose
    /// maker was killed before it could write the alias is still found. `attempt` gives further names where a stranger has the first.
    #[must_use]
    pub fn host_name(&self, attempt: u8) -> String {
        let text = format!("{}#{attempt}", self.alias);
        format!("veth{:08x}", (hash(&text) & 0xffff_ffff) as u32)
    }
}

fn shortened(part: &str) -> String {
    format!("~{:032x}", hash(part))
}

/// SipHash-2-4 with 128 bits and a zero key: the value is on disk (in the kernel), so it must never change.
fn hash(text: &str) -> u128 {
    let mut hasher = SipHasher24::new();
    hasher.write(text.as_bytes());
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(network: &str, container: &str, ifname: &str) -> Identity {
        Identity::new(
            network,
            &Attachment { container_id: container.parse().unwrap(), ifname: ifname.parse().unwrap() },
        )
    }

    #[test]
    fn the_alias_names_network_container_and_interface() {
        let id = identity("lan", "c1", "net1");
        assert_eq!(id.alias(), "adit:lan:c1:net1");
        assert!(id.alias().starts_with(&Identity::prefix("lan")));
        assert!(!id.alias().starts_with(&Identity::prefix("la")));
    }

    #[test]
    fn an_alias_never_exceeds_what_the_kernel_keeps() {
        for (network, container) in [(1, 300), (300, 1), (300, 300), (160, 79), (120, 120)] {
            let id = identity(&"n".repeat(network), &"c".repeat(container), "interface123456");
            assert!(id.alias().len() <= ALIAS_MAX_BYTES, "{}", id.alias());
            assert!(id.alias().starts_with(&Identity::prefix(&"n".repeat(network))));
            let other = identity(&"n".repeat(network), &"c".repeat(container + 1), "interface123456");
            assert_ne!(id, other);
            let attachment = Attachment {
                container_id: "c".repeat(container).parse().unwrap(),
                ifname: "interface123456".parse().unwrap(),
            };
            assert!(Identity::is_of(id.alias(), &attachment));
            assert!(!Identity::is_of(other.alias(), &attachment));
        }
    }

    #[test]
    fn host_names_are_stable_distinct_and_short() {
        let id = identity("lan", "c1", "net1");
        assert_eq!(id.host_name(0), identity("lan", "c1", "net1").host_name(0));
        assert_ne!(id.host_name(0), id.host_name(1));
        assert_ne!(id.host_name(0), identity("lan", "c1", "net2").host_name(0));
        assert_eq!(id.host_name(0).len(), 12);
        assert!(id.host_name(0).starts_with("veth"));
    }
}
