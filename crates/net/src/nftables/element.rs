//! Sets and their elements as netlink attributes.

#[allow(clippy::wildcard_imports, reason = "numbers, each of which has the kernel's name")]
use super::kernel::*;
use crate::attribute::Attributes;

use super::{Element, KeyType, Set, Table, comment, key, name};

/// The most that one message's list of elements takes: its length is a number of 16 bits.
const MAX_LIST_BYTES: usize = 60_000;

/// Without this `nft` reads a text as if it were a number, and shows nothing (`NFTNL_UDATA_SET_KEYBYTEORDER`,
/// include/libnftnl/udata.h: type, length, and `enum byteorder` of nftables' include/datatype.h).
const KEY_BYTE_ORDER: [u8; 2] = [0, 4];
const HOST_BYTE_ORDER: u32 = 1;

/// Bytes of a message before its attributes: `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS_BYTES: usize = 20;

/// As many elements as one message has room for.
pub(crate) struct List {
    /// Whose elements they are.
    pub(crate) head: Attributes,
    pub(crate) list: Attributes,
    /// Where in the message each begins, and its key in words.
    pub(crate) elements: Vec<(usize, String)>,
}

impl List {
    /// Takes them from the front of `rest`; or the element that cannot be sent, and why.
    pub(crate) fn take<'a>(rest: &mut &'a [Element], table: &Table, set: &str) -> Result<Self, (&'a Element, String)> {
        let mut head = Attributes::new();
        let mut list = Attributes::new();
        let mut elements = Vec::new();
        while let Some((element, others)) = rest.split_first() {
            let explain = |reason| (element, reason);
            if elements.is_empty() {
                head.text(NFTA_SET_ELEM_LIST_TABLE, name(&table.name).map_err(explain)?);
                head.text(NFTA_SET_ELEM_LIST_SET, name(set).map_err(explain)?);
            }
            let written = write_element(element).map_err(explain)?;
            if list.len().saturating_add(written.len()) > MAX_LIST_BYTES {
                break;
            }
            // Behind the headers and the list's own four bytes.
            let begin = head.len().saturating_add(list.len()).saturating_add(HEADERS_BYTES).saturating_add(4);
            elements.push((begin, element.to_string()));
            list.append(&written);
            *rest = others;
        }
        Ok(Self { head, list, elements })
    }
}

/// What makes a set, or what is wrong with it. `number` is its own in the transaction.
pub(crate) fn write_set(attributes: &mut Attributes, table: &Table, set: &Set, number: u32) -> Result<(), String> {
    let length = key::len(&set.key)?;
    let concatenation = set.key.len() > 1;
    if set.interval && set.key == [KeyType::IfName] {
        return Err("there are no intervals of interface names".into());
    }
    let mut flags = 0;
    if set.interval {
        flags |= NFT_SET_INTERVAL;
        if concatenation {
            flags |= NFT_SET_CONCAT;
        }
    }
    attributes.text(NFTA_SET_TABLE, name(&table.name)?).text(NFTA_SET_NAME, name(&set.name)?);
    attributes.u32(NFTA_SET_FLAGS, flags).u32(NFTA_SET_KEY_TYPE, key::type_number(&set.key));
    attributes.u32(NFTA_SET_KEY_LEN, u32::try_from(length).unwrap_or(u32::MAX)).u32(NFTA_SET_ID, number);
    if set.key == [KeyType::IfName] {
        attributes.bytes(NFTA_SET_USERDATA, &[&KEY_BYTE_ORDER[..], &HOST_BYTE_ORDER.to_ne_bytes()].concat());
    }
    if set.interval && concatenation {
        attributes.nested(NFTA_SET_DESC, |desc| {
            desc.nested(NFTA_SET_DESC_CONCAT, |fields| {
                for field in &set.key {
                    fields.nested(LIST_ELEMENT, |inner| {
                        inner.u32(NFTA_SET_FIELD_LEN, u32::try_from(field.len()).unwrap_or(u32::MAX));
                    });
                }
            });
        });
    }
    Ok(())
}

/// One or two entries of a list of elements.
fn write_element(element: &Element) -> Result<Attributes, String> {
    let lower = key::pack(&element.key)?;
    let upper = element.key_end.as_ref().map(|end| {
        let same_types = end.iter().map(|v| v.key_type()).eq(element.key.iter().map(|v| v.key_type()));
        let upper = key::pack(end)?;
        // Fields are compared one by one; packed one after the other they have their own places.
        let ordered = end.iter().zip(&element.key).all(|(end, begin)| end.bytes() >= begin.bytes());
        if same_types && ordered {
            Ok(upper)
        } else {
            Err("the upper end is no end of an interval from the key".to_owned())
        }
    });
    let upper = upper.transpose()?;
    let user_data = element.comment.as_deref().map(comment::write).transpose()?;
    let mut list = Attributes::new();
    let entry = |list: &mut Attributes, fill: &dyn Fn(&mut Attributes)| {
        list.nested(LIST_ELEMENT, fill);
    };
    let value = |attributes: &mut Attributes, kind, bytes: &[u8]| {
        attributes.nested(kind, |inner| {
            inner.bytes(NFTA_DATA_VALUE, bytes);
        });
    };
    let concatenation = element.key.len() > 1;
    entry(&mut list, &|inner| {
        value(inner, NFTA_SET_ELEM_KEY, &lower);
        if let Some(upper) = upper.as_ref().filter(|_| concatenation) {
            value(inner, NFTA_SET_ELEM_KEY_END, upper);
        }
        if let Some(data) = &user_data {
            inner.bytes(NFTA_SET_ELEM_USERDATA, data);
        }
    });
    // Intervals of one field are two elements to the kernel, the second of which is the first key behind. Without it the
    // interval goes on to the highest key.
    if let Some(behind) = upper.filter(|_| !concatenation).and_then(|upper| key::successor(&upper)) {
        entry(&mut list, &|inner| {
            inner.u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            value(inner, NFTA_SET_ELEM_KEY, &behind);
        });
    }
    Ok(list)
}
