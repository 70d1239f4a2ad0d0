//! What an IP packet carries, behind options and extension headers.

use super::IPV6_HEADER_BYTES;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
/// RFC 8200 section 4.1 has each of them once, and destination options twice.
const MOST_EXTENSIONS: usize = 5;

/// The protocol above IP and its options. An authentication header is such a protocol: what it covers is not to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upper {
    /// Its number, as IANA gives it.
    pub(crate) protocol: u8,
    /// Where its header begins, bytes.
    pub(crate) start: usize,
}

impl Upper {
    /// Finds it. `None`: a fragment that is not the first, or headers that the packet does not hold.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let upper = match packet.first()? >> 4 {
            4 => {
                let &[first, _, _, _, _, _, f0, f1, _, protocol] = packet.first_chunk()?;
                let start = usize::from(first & 0x0f).checked_mul(4)?;
                (start >= 20 && u16::from_be_bytes([f0, f1]) & 0x1fff == 0).then_some(Self { protocol, start })
            }
            6 => Self::behind_extensions(packet),
            _ => None,
        };
        upper.filter(|upper| upper.start <= packet.len())
    }

    fn behind_extensions(packet: &[u8]) -> Option<Self> {
        let mut upper = Self { protocol: *packet.get(6)?, start: IPV6_HEADER_BYTES };
        for _ in 0..=MOST_EXTENSIONS {
            if !matches!(upper.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
                return Some(upper);
            }
            let &[next, length, o0, o1] = packet.get(upper.start..)?.first_chunk()?;
            let eights = match upper.protocol {
                // Its second byte is reserved, and its offset is in the upper 13 bits (RFC 8200 section 4.5).
                FRAGMENT if u16::from_be_bytes([o0, o1]) & 0xfff8 != 0 => return None,
                FRAGMENT => 1,
                _ => usize::from(length).checked_add(1)?,
            };
            upper = Self { protocol: next, start: upper.start.checked_add(eights.checked_mul(8)?)? };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv4(fragment: u16, protocol: u8) -> Vec<u8> {
        let mut packet = vec![0x46, 0, 0, 24, 0, 0, 0, 0, 64, protocol];
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet.resize(24, 0);
        packet
    }

    fn ipv6(first: u8, chain: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, chain.len() as u8, first, 64];
        packet.resize(IPV6_HEADER_BYTES, 0);
        packet.extend(chain);
        packet
    }

    #[test]
    fn options_of_ipv4_are_passed() {
        assert_eq!(Upper::of(&ipv4(0, 6)), Some(Upper { protocol: 6, start: 24 }));
        assert_eq!(Upper::of(&ipv4(0, 6)[..23]), None);
        let mut short = ipv4(0, 6);
        short[0] = 0x44;
        assert_eq!(Upper::of(&short), None);
    }

    #[test]
    fn extension_headers_are_passed() {
        let hop_by_hop = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0];
        let options = [[ROUTING, 1, 1, 12, 0, 0, 0, 0], [0; 8]].concat();
        let routing = [FRAGMENT, 0, 0, 0, 0, 0, 0, 0];
        let fragment = [6, 99, 0, 1, 0, 0, 0, 7];
        let chain = [&hop_by_hop[..], &options, &routing, &fragment].concat();
        assert_eq!(Upper::of(&ipv6(HOP_BY_HOP, &chain)), Some(Upper { protocol: 6, start: 80 }));
        assert_eq!(Upper::of(&ipv6(17, &[])), Some(Upper { protocol: 17, start: 40 }));
        let authentication = ipv6(51, &[6, 4, 0, 0]);
        assert_eq!(Upper::of(&authentication), Some(Upper { protocol: 51, start: 40 }));
    }

    #[test]
    fn only_the_first_fragment_has_it() {
        assert!(Upper::of(&ipv4(0x2000, 6)).is_some());
        assert!(Upper::of(&ipv4(0x2001, 6)).is_none());
        assert!(Upper::of(&ipv4(0x0100, 6)).is_none());
        assert!(Upper::of(&ipv6(FRAGMENT, &[6, 0, 0, 8, 0, 0, 0, 7])).is_none());
    }

    #[test]
    fn a_chain_that_does_not_end_in_the_packet_is_refused() {
        assert_eq!(Upper::of(&ipv6(HOP_BY_HOP, &[6, 1, 0, 0, 0, 0, 0, 0])), None);
        assert_eq!(Upper::of(&ipv6(HOP_BY_HOP, &[6, 0, 0])), None);
        let long: Vec<u8> = [DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0].repeat(MOST_EXTENSIONS);
        let end = [6, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Upper::of(&ipv6(HOP_BY_HOP, &[&long[8..], &end].concat())).map(|upper| upper.protocol), Some(6));
        assert_eq!(Upper::of(&ipv6(HOP_BY_HOP, &[&long[..], &end].concat())), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut packet in proptest::collection::vec(any::<u8>(), 0..200), is_v6: bool) {
            if let Some(first) = packet.first_mut() {
                *first = (*first & 0x0f) | if is_v6 { 0x60 } else { 0x40 };
            }
            prop_assert!(Upper::of(&packet).is_none_or(|upper| (20..=packet.len()).contains(&upper.start)));
        }
    }
}
