//! The comment by which an attachment's elements in the kernel's sets are found again.

use adit_cni::Attachment;

use crate::reference::hex_sha512;

/// Longest network name and containerID that are written out. With `adit:`, two colons and an interface's name it makes 126
/// bytes; a comment has at most 127 (`NFTNL_UDATA_COMMENT_MAXLEN`).
const NETWORK_BYTES: usize = 40;
const CONTAINER_BYTES: usize = 64;

/// Digits of the hash that stands for a longer one.
const HASH_DIGITS: usize = 32;

/// An attachment's comment: `adit:<network>:<containerID>:<ifname>`, where a part that is too long is `~` and its hash.
///
/// `:` and `~` occur in none of the three (CNI specification, "Parameters").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tag(String);

impl Tag {
    pub(crate) fn new(network: &str, attachment: &Attachment) -> Self {
        Self(format!("{}{}", Self::prefix(network), suffix(attachment)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What every comment of `network` starts with.
    pub(crate) fn prefix(network: &str) -> String {
        format!("adit:{}:", shortened(network, NETWORK_BYTES))
    }

    /// Whether `comment` is of `attachment`, in whichever network.
    pub(crate) fn is_of(comment: &str, attachment: &Attachment) -> bool {
        comment.starts_with("adit:") && comment.ends_with(&format!(":{}", suffix(attachment)))
    }
}

fn suffix(attachment: &Attachment) -> String {
    format!("{}:{}", shortened(attachment.container_id.as_str(), CONTAINER_BYTES), attachment.ifname)
}

fn shortened(part: &str, limit: usize) -> String {
    if part.len() <= limit {
        return part.to_owned();
    }
    let digits: String = hex_sha512(part).chars().take(HASH_DIGITS).collect();
    format!("~{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str, ifname: &str) -> Attachment {
        Attachment { container_id: container.parse().unwrap(), ifname: ifname.parse().unwrap() }
    }

    #[test]
    fn a_usual_attachment_is_written_out() {
        let container = "a".repeat(64);
        let tag = Tag::new("lan", &attachment(&container, "net1"));
        assert_eq!(tag.as_str(), format!("adit:lan:{container}:net1"));
    }

    #[test]
    fn a_comment_always_fits_and_is_recognised_by_network_and_by_attachment() {
        for (network, container) in [(1, 1), (40, 64), (41, 64), (40, 65), (300, 300)] {
            let network = "n".repeat(network);
            let attachment = attachment(&"c".repeat(container), "interface123456");
            let tag = Tag::new(&network, &attachment);
            assert!(tag.as_str().len() <= 127, "{tag:?}");
            assert!(tag.as_str().starts_with(&Tag::prefix(&network)));
            assert!(!tag.as_str().starts_with(&Tag::prefix(&format!("{network}n"))));
            assert!(Tag::is_of(tag.as_str(), &attachment));
        }
    }

    #[test]
    fn attachments_of_one_container_are_told_apart() {
        let one = Tag::new("lan", &attachment("c1", "net1"));
        assert!(!Tag::is_of(one.as_str(), &attachment("c1", "net2")));
        assert!(!Tag::is_of(one.as_str(), &attachment("1", "net1")));
        assert!(!Tag::is_of("lan:c1:net1", &attachment("c1", "net1")));
    }
}
