//! Netlink attributes (`struct nlattr`, netlink(7)): writing and reading them. Routes and links have numbers in the machine's
//! byte order, nf_tables in the network's.

use netlink_packet_core::{NLA_F_NESTED, NlasIterator};

/// Length and type before each attribute's value.
const HEADER_BYTES: usize = 4;

/// Attributes being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        match value.len().checked_add(HEADER_BYTES).map(u16::try_from) {
            Some(Ok(length)) => {
                self.bytes.extend(length.to_ne_bytes());
                self.bytes.extend(kind.to_ne_bytes());
                self.bytes.extend(value);
                self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
            }
            _ => self.too_long = true,
        }
        self
    }

    /// In the machine's byte order.
    pub(crate) fn native_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// In network byte order.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// In network byte order.
    pub(crate) fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// With the terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// A fixed header, whose length is a multiple of four, in front of attributes.
    pub(crate) fn header(&mut self, bytes: &[u8]) -> &mut Self {
        debug_assert!(bytes.len().is_multiple_of(4));
        self.bytes.extend(bytes);
        self
    }

    /// Nested without the flag that says so, as route messages have it.
    pub(crate) fn group(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        fill(&mut inner);
        self.too_long |= inner.too_long;
        self.bytes(kind, &inner.bytes)
    }

    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        fill(&mut inner);
        self.attributes(kind, &inner)
    }

    /// What was written elsewhere, nested.
    pub(crate) fn attributes(&mut self, kind: u16, inner: &Self) -> &mut Self {
        self.too_long |= inner.too_long;
        self.bytes(kind | NLA_F_NESTED, &inner.bytes)
    }

    /// What was written elsewhere, behind what is here.
    pub(crate) fn append(&mut self, more: &Self) {
        self.too_long |= more.too_long;
        self.bytes.extend(&more.bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All of them; `None` when one is longer than the 64 KiB that its length can say.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.too_long).then_some(self.bytes)
    }
}

/// The attributes in `bytes`, up to the first that is damaged.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let attribute = NlasIterator::new(rest).next()?.ok()?;
        let kind = attribute.kind();
        let length = usize::from(attribute.length());
        let value = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// In the machine's byte order.
pub(crate) fn native(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// In network byte order.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

pub(crate) fn long_number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// A text up to its terminating zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_ones_marked() {
        let mut written = Attributes::new();
        written.text(1, "adit").nested(2, |inner| {
            inner.u32(3, 5).u64(4, 6);
        });
        let bytes = written.finish().unwrap();
        let mut expected = vec![9, 0, 1, 0, b'a', b'd', b'i', b't', 0, 0, 0, 0];
        expected.extend([24, 0, 2, 0x80, 8, 0, 3, 0, 0, 0, 0, 5, 12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(bytes, expected);

        let inner = find(&bytes, 2).unwrap();
        assert_eq!(find(&bytes, 1).map(text).as_deref(), Some("adit"));
        assert_eq!(find(inner, 3).and_then(number), Some(5));
        assert_eq!(find(inner, 4).and_then(long_number), Some(6));
        assert_eq!(find(inner, 5), None);
    }

    #[test]
    fn what_is_longer_than_its_length_can_say_is_not_written() {
        let mut written = Attributes::new();
        written.nested(1, |inner| {
            inner.bytes(2, &[0; 65_532]);
        });
        assert_eq!(written.finish(), None);
        let mut written = Attributes::new();
        written.bytes(2, &[0; 65_531]);
        assert_eq!(written.finish().unwrap().len(), 65_536);
    }

    #[test]
    fn a_damaged_attribute_ends_the_list() {
        let mut written = Attributes::new();
        let good = written.u32(1, 7).clone().finish().unwrap();
        for tail in [&[3u8, 0, 1, 0][..], &[9, 0, 1, 0, 0], &[1], &[0, 0, 0, 0]] {
            let bytes = [good.as_slice(), tail].concat();
            assert_eq!(attributes(&bytes).count(), 1, "{tail:?}");
        }
    }
}
