//! Names and addresses of interfaces, as types that cannot hold a wrong value.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result};

/// The longest interface name in bytes (`IFNAMSIZ` less the terminating zero).
pub const MAX_NAME_BYTES: usize = 15;

/// The name of a network interface.
///
/// The rules are the kernel's (`dev_valid_name`, net/core/dev.c): 1 to 15 bytes, neither `.` nor
/// `..`, no `/`, `:` or white space. `%` is refused too, as the kernel takes it for a template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

impl IfName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for IfName {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        let rule = if text.is_empty() {
            "it is empty"
        } else if text.len() > MAX_NAME_BYTES {
            "it is longer than 15 bytes"
        } else if text == "." || text == ".." {
            "`.` and `..` are reserved"
        } else if text.contains(['/', ':', '%']) {
            "`/`, `:` and `%` are not allowed in it"
        } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            "white space and control characters are not allowed in it"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(Error::InvalidName { text: text.to_owned(), rule })
    }
}

impl FromStr for IfName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::try_from(text)
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for IfName {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IfName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::try_from(text.as_str()).map_err(de::Error::custom)
    }
}

/// A six byte Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// `ff:ff:ff:ff:ff:ff`
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (broadcast included): no interface can have such an address.
    #[must_use]
    pub const fn is_multicast(&self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 1
    }

    /// Whether all bytes are zero: no interface can have this address.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 6]
    }

    /// The IPv6 link-local address that the kernel makes of it (modified EUI-64, RFC 4291 appendix A), unless the link's
    /// `addr_gen_mode` says otherwise.
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let group = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, group(a ^ 2, b), group(c, 0xff), group(0xfe, d), group(e, f))
    }

    /// A random locally administered unicast address.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random_local() -> Result<Self> {
        let mut bytes = [0; 6];
        getrandom::fill(&mut bytes).map_err(|e| Error::io("make", "a random MAC address", e.into()))?;
        let [first, ..] = &mut bytes;
        *first = (*first & !1) | 2;
        Ok(Self(bytes))
    }
}

impl FromStr for MacAddress {
    type Err = Error;

    /// Reads `aa:bb:cc:dd:ee:ff`, `aa-bb-cc-dd-ee-ff` and `aabb.ccdd.eeff`, in either case.
    fn from_str(text: &str) -> Result<Self> {
        parse_mac(text).map(Self).ok_or_else(|| Error::InvalidMac { text: text.to_owned() })
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let (separator, digits_per_group) = match text.len() {
        17 if text.contains(':') => (':', 2),
        17 => ('-', 2),
        14 => ('.', 4),
        _ => return None,
    };
    let mut digits = String::with_capacity(12);
    for group in text.split(separator) {
        if group.len() != digits_per_group || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        digits.push_str(group);
    }
    let number = u64::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 12)?;
    let [0, 0, bytes @ ..] = number.to_be_bytes() else { return None };
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_link_local_address_is_made_of_the_mac() {
        let of = |mac: &str| mac.parse::<MacAddress>().unwrap().link_local().to_string();
        assert_eq!(of("86:9d:62:69:8d:d9"), "fe80::849d:62ff:fe69:8dd9");
        assert_eq!(of("00:00:5e:00:53:01"), "fe80::200:5eff:fe00:5301");
    }

    #[test]
    fn names_follow_the_kernels_rules() {
        for good in ["a", "eth0", "net1", "veth01234567890", "br-0", "eth0.100", "tün"] {
            assert_eq!(IfName::try_from(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "sixteen-bytes-xx", "a/b", "a:b", "a b", "a\tb", "a\0", "tun%d", "tünn-und-mehr--"]
        {
            let error = IfName::try_from(bad).unwrap_err();
            assert!(error.to_string().contains("is not an interface name"), "{bad}: {error}");
        }
    }

    #[test]
    fn macs_are_read_in_three_notations_and_written_in_one() {
        let expected = MacAddress([0x0a, 0xbb, 0xcc, 0xdd, 0xee, 0x0f]);
        for text in ["0a:bb:cc:dd:ee:0f", "0A-BB-CC-DD-EE-0F", "0abb.ccdd.ee0f"] {
            assert_eq!(text.parse::<MacAddress>().unwrap(), expected, "{text}");
        }
        assert_eq!(expected.to_string(), "0a:bb:cc:dd:ee:0f");
    }

    #[test]
    fn what_is_no_mac_is_refused() {
        for bad in [
            "",
            "0a:bb:cc:dd:ee",
            "0a:bb:cc:dd:ee:0f:01",
            "0a:bb-cc:dd:ee:0f",
            "0abb.ccddee.0f",
            "+a:bb:cc:dd:ee:0f",
            "0a:bb:cc:dd:ee:0g",
            "0abbccddee0f",
            "0abb.ccdd.ee0f ",
            "ä:bb:cc:dd:ee:0f",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_random_mac_is_local_and_unicast() {
        let mac = MacAddress::random_local().unwrap();
        assert!(!mac.is_multicast() && !mac.is_zero());
        assert_eq!(mac.0[0] & 2, 2);
        assert!(MacAddress::BROADCAST.is_multicast());
    }

    proptest! {
        #[test]
        fn every_mac_survives_text(bytes: [u8; 6]) {
            prop_assert_eq!(MacAddress(bytes).to_string().parse::<MacAddress>().unwrap(), MacAddress(bytes));
        }

        #[test]
        fn an_accepted_name_is_what_was_given(text in ".{0,20}") {
            if let Ok(name) = IfName::try_from(text.as_str()) {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(text.len() <= MAX_NAME_BYTES);
            }
        }
    }
}
