//! What the kernel lists, read.

use crate::attribute::{attributes, find, long_number, number, text};

#[allow(clippy::wildcard_imports, reason = "numbers, each of which has the kernel's name")]
use super::kernel::*;
use super::{Element, KeyType, ListedRule, Table, comment, expression::jump_target, key};

/// `struct nlmsghdr` and `struct nfgenmsg`.
const NETLINK_HEADER_BYTES: usize = 16;
const NFGENMSG_BYTES: usize = 4;

/// What a set's elements are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetShape {
    pub(crate) key: Vec<KeyType>,
    pub(crate) interval: bool,
}

/// An element as it is listed: one end of an interval of one field, or a whole element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    key: Vec<u8>,
    end: Option<Vec<u8>>,
    /// The first key behind an interval.
    behind: bool,
    comment: Option<String>,
}

/// The attributes of a message of this kind and family; `None` when it is another.
fn body(message: &[u8], kind: u16, family: Option<u8>) -> Option<&[u8]> {
    let found = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let body = message.get(NETLINK_HEADER_BYTES..)?;
    let same_family = family.is_none_or(|family| body.first() == Some(&family));
    body.get(NFGENMSG_BYTES..).filter(|_| found == kind && same_family)
}

pub(crate) fn generation(message: &[u8]) -> Result<u32, String> {
    body(message, NEWGEN, None)
        .and_then(|attributes| find(attributes, NFTA_GEN_ID))
        .and_then(number)
        .ok_or_else(|| "it names no generation".into())
}

/// The name of a chain, if it is one of `table`.
pub(crate) fn chain(message: &[u8], table: &Table) -> Option<String> {
    let attributes = body(message, NEWCHAIN, Some(table.family.number()))?;
    let of = find(attributes, NFTA_CHAIN_TABLE).map(text)?;
    find(attributes, NFTA_CHAIN_NAME).map(text).filter(|_| of == table.name)
}

/// A rule, if it is one of `table`.
pub(crate) fn rule(message: &[u8], table: &Table) -> Option<ListedRule> {
    let attributes = body(message, NEWRULE, Some(table.family.number()))?;
    let of = find(attributes, NFTA_RULE_TABLE).map(text)?;
    let rule = ListedRule {
        chain: find(attributes, NFTA_RULE_CHAIN).map(text)?,
        handle: find(attributes, NFTA_RULE_HANDLE).and_then(long_number)?,
        comment: find(attributes, NFTA_RULE_USERDATA).and_then(comment::read),
        jump: find(attributes, NFTA_RULE_EXPRESSIONS).and_then(jump_target),
    };
    Some(rule).filter(|_| of == table.name)
}

pub(crate) fn set(message: &[u8]) -> Result<SetShape, String> {
    let attributes = body(message, NEWSET, None).ok_or("it is no set")?;
    let number_at = |kind| find(attributes, kind).and_then(number);
    let key_type = number_at(NFTA_SET_KEY_TYPE).unwrap_or(0);
    let key = key::types(key_type).ok_or_else(|| format!("the set's key is of the unknown type {key_type}"))?;
    let flags = number_at(NFTA_SET_FLAGS).unwrap_or(0);
    Ok(SetShape { key, interval: flags & NFT_SET_INTERVAL != 0 })
}

/// The entries in one message of a listing of elements.
pub(crate) fn entries(message: &[u8]) -> Vec<Entry> {
    let list = body(message, NEWSETELEM, None).and_then(|attributes| find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS));
    attributes(list.unwrap_or_default()).filter_map(|(_, element)| entry(element)).collect()
}

fn entry(element: &[u8]) -> Option<Entry> {
    let value = |kind| find(element, kind).and_then(|data| find(data, NFTA_DATA_VALUE)).map(<[u8]>::to_vec);
    let flags = find(element, NFTA_SET_ELEM_FLAGS).and_then(number).unwrap_or(0);
    Some(Entry {
        key: value(NFTA_SET_ELEM_KEY)?,
        end: value(NFTA_SET_ELEM_KEY_END),
        behind: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        comment: find(element, NFTA_SET_ELEM_USERDATA).and_then(comment::read),
    })
}

/// Whether no entry is there twice. When the kernel rearranges a set while it lists it in several parts, it lists some twice and
/// as many not at all.
pub(crate) fn is_complete(entries: &[Entry]) -> bool {
    let mut keys: Vec<_> = entries.iter().map(|entry| (&entry.key, &entry.end, entry.behind)).collect();
    keys.sort_unstable();
    keys.is_sorted_by(|one, next| one < next)
}

/// The elements that the entries stand for; what does not fit the set's key is left out.
pub(crate) fn elements(shape: &SetShape, entries: Vec<Entry>) -> Vec<Element> {
    if shape.interval && shape.key.len() == 1 {
        return intervals(shape, entries);
    }
    let element = |entry: Entry| {
        let end = entry.end.filter(|end| *end != entry.key);
        Some(Element {
            key: key::unpack(&shape.key, &entry.key)?,
            key_end: end.map(|end| key::unpack(&shape.key, &end).ok_or(())).transpose().ok()?,
            comment: entry.comment,
        })
    };
    entries.into_iter().filter_map(element).collect()
}

/// Intervals of one field, each from its two ends.
fn intervals(shape: &SetShape, mut entries: Vec<Entry>) -> Vec<Element> {
    // Where one interval begins right behind another, the end comes first.
    entries.sort_by(|a, b| (&a.key, !a.behind).cmp(&(&b.key, !b.behind)));
    let mut found = Vec::new();
    let mut open: Option<Entry> = None;
    for entry in entries {
        let last = key::predecessor(&entry.key);
        if let Some(begun) = open.take() {
            found.extend(interval(shape, begun, last));
        }
        if !entry.behind {
            open = Some(entry);
        }
    }
    if let Some(begun) = open {
        let highest = vec![0xff; begun.key.len()];
        found.extend(interval(shape, begun, Some(highest)));
    }
    found
}

fn interval(shape: &SetShape, begin: Entry, last: Option<Vec<u8>>) -> Option<Element> {
    let key_end = key::unpack(&shape.key, &last?)?;
    Some(Element { key: key::unpack(&shape.key, &begin.key)?, key_end: Some(key_end), comment: begin.comment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::Family;

    fn shape(key: &[KeyType], interval: bool) -> SetShape {
        SetShape { key: key.into(), interval }
    }

    fn entry(key: [u8; 4], behind: bool) -> Entry {
        Entry { key: key.into(), end: None, behind, comment: None }
    }

    fn show(elements: &[Element]) -> Vec<String> {
        elements.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn intervals_are_put_together_from_their_ends_in_any_order() {
        let listed = vec![
            entry([255, 255, 0, 0], false),
            entry([10, 0, 0, 20], true),
            entry([10, 0, 0, 10], false),
            entry([10, 0, 0, 10], true),
            entry([10, 0, 0, 0], false),
            // What `nft` puts before the first interval.
            entry([0, 0, 0, 0], true),
        ];
        let found = elements(&shape(&[KeyType::Ipv4Addr], true), listed);
        assert_eq!(show(&found), ["10.0.0.0 - 10.0.0.9", "10.0.0.10 - 10.0.0.19", "255.255.0.0 - 255.255.255.255"]);
    }

    #[test]
    fn an_upper_end_that_is_the_key_is_none() {
        let whole =
            |end: [u8; 8]| Entry { end: Some(end.into()), key: vec![10, 0, 0, 1, 10, 0, 0, 2], ..entry([0; 4], false) };
        let key = shape(&[KeyType::Ipv4Addr, KeyType::Ipv4Addr], true);
        let found = elements(&key, vec![whole([10, 0, 0, 1, 10, 0, 0, 2]), whole([10, 0, 0, 1, 10, 0, 0, 9])]);
        assert_eq!(show(&found), ["10.0.0.1 . 10.0.0.2", "10.0.0.1 . 10.0.0.2 - 10.0.0.1 . 10.0.0.9"]);
    }

    #[test]
    fn what_is_listed_twice_says_that_something_is_missing() {
        assert!(is_complete(&[]));
        let [one, two] = [entry([1; 4], false), entry([2; 4], false)];
        assert!(is_complete(&[two.clone(), one.clone(), entry([1; 4], true)]));
        assert!(!is_complete(&[one.clone(), two, one]));
    }

    #[test]
    fn a_key_that_is_too_short_is_left_out() {
        let found = elements(&shape(&[KeyType::Ipv6Addr], false), vec![entry([1; 4], false)]);
        assert_eq!(found, []);
    }

    /// As Linux 6.18 lists `ip saddr @pods jump checks comment "c"`, less what nobody reads.
    #[test]
    fn a_rule_is_read_with_its_comment_and_jump() {
        let mut message = vec![0, 0, 0, 0, 6, 10, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 5];
        message.extend([6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b'p', 0, 0, 0]);
        message.extend([12, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        message.extend([60, 0, 4, 0, 56, 0, 1, 0, 14, 0, 1, 0]);
        message.extend(b"immediate\0\0\0");
        message.extend([36, 0, 2, 0, 8, 0, 1, 0, 0, 0, 0, 0, 24, 0, 2, 0, 20, 0, 2, 0]);
        message.extend([8, 0, 1, 0, 0xff, 0xff, 0xff, 0xfd, 6, 0, 2, 0, b'x', 0, 0, 0]);
        message.extend([8, 0, 7, 0, 0, 2, b'c', 0]);
        let table = Table::new(Family::Inet, "t");
        let expected = ListedRule { chain: "p".into(), handle: 258, comment: Some("c".into()), jump: Some("x".into()) };
        assert_eq!(rule(&message, &table), Some(expected));
        assert_eq!(rule(&message, &Table::new(Family::Inet, "u")), None);
        assert_eq!(rule(&message, &Table::new(Family::Ipv4, "t")), None);
        assert_eq!(chain(&message, &table), None);
    }

    #[test]
    fn a_set_of_unknown_type_is_named() {
        let mut message = vec![0, 0, 0, 0, 9, 10, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 5];
        message.extend([8, 0, 4, 0, 0, 0, 0, 13, 8, 0, 3, 0, 0, 0, 0, 4]);
        assert_eq!(set(&message).unwrap_err(), "the set's key is of the unknown type 13");
        message[27] = 7;
        assert_eq!(set(&message).unwrap(), shape(&[KeyType::Ipv4Addr], true));
    }
}
