//! Keys of sets: types and values as the kernel and `nft` have them.
//!
//! Each field of a concatenation begins at a multiple of four bytes, as it would in the registers.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{MacAddress, name::MAX_NAME_BYTES};

use super::{KeyType, KeyValue};

/// Bits of a type's number in the number of a concatenation (`TYPE_BITS`, nftables' include/datatype.h).
const TYPE_BITS: u32 = 6;
const TYPE_MASK: u32 = (1 << TYPE_BITS) - 1;

/// The longest key, in bytes (`NFT_REG32_NUM`, include/uapi/linux/netfilter/nf_tables.h).
const MAX_KEY_BYTES: usize = 64;

impl KeyType {
    /// The number by which `nft` knows the type (`enum datatypes`, nftables' include/datatype.h); the kernel only keeps it.
    fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::EtherAddr => 9,
            Self::IfName => 41,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        [Self::Ipv4Addr, Self::Ipv6Addr, Self::EtherAddr, Self::IfName].into_iter().find(|t| t.number() == number)
    }

    /// Length of a value in bytes.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Ipv4Addr => 4,
            Self::Ipv6Addr | Self::IfName => 16,
            Self::EtherAddr => 6,
        }
    }

    /// Length of a value in registers of four bytes.
    pub(crate) fn registers(self) -> usize {
        self.len().div_ceil(4)
    }
}

impl KeyValue {
    pub(crate) fn key_type(&self) -> KeyType {
        match self {
            Self::Ipv4(_) => KeyType::Ipv4Addr,
            Self::Ipv6(_) => KeyType::Ipv6Addr,
            Self::Ether(_) => KeyType::EtherAddr,
            Self::IfName(_) => KeyType::IfName,
        }
    }

    /// The bytes in a register, or what is wrong with the value.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Ipv4(address) => Ok(address.octets().to_vec()),
            Self::Ipv6(address) => Ok(address.octets().to_vec()),
            Self::Ether(address) => Ok(address.0.to_vec()),
            Self::IfName(name) if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') => {
                Err(format!("`{name}` is no interface name: it must have 1 to 15 bytes, none of them zero"))
            }
            Self::IfName(name) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(KeyType::IfName.len(), 0);
                Ok(bytes)
            }
        }
    }

    fn from_bytes(key_type: KeyType, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..key_type.len())?;
        Some(match key_type {
            KeyType::Ipv4Addr => Self::Ipv4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
            KeyType::Ipv6Addr => Self::Ipv6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
            KeyType::EtherAddr => Self::Ether(MacAddress(*bytes.first_chunk::<6>()?)),
            KeyType::IfName => Self::IfName(crate::attribute::text(bytes)),
        })
    }
}

/// The number of a set's key type.
pub(crate) fn type_number(key: &[KeyType]) -> u32 {
    key.iter().fold(0, |number, field| number.wrapping_shl(TYPE_BITS) | field.number())
}

/// The fields of a set's key; `None` when one of them is unknown here.
pub(crate) fn types(mut number: u32) -> Option<Vec<KeyType>> {
    let mut fields = Vec::new();
    while number != 0 {
        fields.push(KeyType::from_number(number & TYPE_MASK)?);
        number = number.wrapping_shr(TYPE_BITS);
    }
    fields.reverse();
    (!fields.is_empty()).then_some(fields)
}

/// Length of a set's key in bytes, or why no set can have such a key.
pub(crate) fn len(key: &[KeyType]) -> Result<usize, String> {
    // A number of 32 bits has room for five types.
    match key {
        [] => Err("a key needs a field".into()),
        [field] => Ok(field.len()),
        fields if fields.len() > 5 => Err(format!("a key of {} fields: five is the most", fields.len())),
        fields => {
            let bytes = fields.iter().fold(0, |sum: usize, field| sum.saturating_add(field.len().next_multiple_of(4)));
            if bytes > MAX_KEY_BYTES {
                return Err(format!("a key of {bytes} bytes: {MAX_KEY_BYTES} is the most"));
            }
            Ok(bytes)
        }
    }
}

/// A key as the kernel has it, or what is wrong with it.
pub(crate) fn pack(fields: &[KeyValue]) -> Result<Vec<u8>, String> {
    let types: Vec<KeyType> = fields.iter().map(KeyValue::key_type).collect();
    let length = len(&types)?;
    let mut bytes = Vec::with_capacity(length);
    for field in fields {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(field.bytes()?);
    }
    bytes.resize(length, 0);
    Ok(bytes)
}

/// The fields of a key; `None` when it is shorter than they are.
pub(crate) fn unpack(types: &[KeyType], mut bytes: &[u8]) -> Option<Vec<KeyValue>> {
    let mut fields = Vec::with_capacity(types.len());
    for field in types {
        fields.push(KeyValue::from_bytes(*field, bytes)?);
        bytes = bytes.get(field.len().next_multiple_of(4)..).unwrap_or_default();
    }
    Some(fields)
}

/// The next higher number of the same length; `None` behind the highest.
pub(crate) fn successor(number: &[u8]) -> Option<Vec<u8>> {
    step(number, u8::overflowing_add)
}

/// The next lower number of the same length; `None` before zero.
pub(crate) fn predecessor(number: &[u8]) -> Option<Vec<u8>> {
    step(number, u8::overflowing_sub)
}

fn step(number: &[u8], by_one: fn(u8, u8) -> (u8, bool)) -> Option<Vec<u8>> {
    let mut number = number.to_vec();
    for byte in number.iter_mut().rev() {
        let (changed, carry) = by_one(*byte, 1);
        *byte = changed;
        if !carry {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_concatenation_begin_at_multiples_of_four() {
        let key = [
            KeyValue::Ether(MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc])),
            KeyValue::Ipv4(Ipv4Addr::new(10, 1, 2, 3)),
            KeyValue::IfName("eth0".into()),
        ];
        let bytes = pack(&key).unwrap();
        let mut expected = vec![2, 0, 0, 0xaa, 0xbb, 0xcc, 0, 0, 10, 1, 2, 3, b'e', b't', b'h', b'0'];
        expected.extend([0; 12]);
        assert_eq!(bytes, expected);
        let types: Vec<KeyType> = key.iter().map(KeyValue::key_type).collect();
        assert_eq!(unpack(&types, &bytes).unwrap(), key);
        assert_eq!(unpack(&types, &bytes[..20]), None);
        assert_eq!(pack(&key[..1]).unwrap().len(), 6);
    }

    #[test]
    fn a_concatenations_type_is_made_of_those_of_its_fields() {
        let pair = [KeyType::IfName, KeyType::EtherAddr];
        assert_eq!(type_number(&pair), 41 << 6 | 9);
        assert_eq!(types(41 << 6 | 9).unwrap(), pair);
        assert_eq!(types(7).unwrap(), [KeyType::Ipv4Addr]);
        for unknown in [0, 13, 7 << 6 | 13, u32::MAX] {
            assert_eq!(types(unknown), None);
        }
    }

    #[test]
    fn impossible_keys_are_refused() {
        for key in [vec![], vec![KeyType::Ipv4Addr; 6], vec![KeyType::Ipv6Addr; 5]] {
            len(&key).unwrap_err();
        }
        for name in ["", "sixteen-bytes-xx", "a\0b"] {
            pack(&[KeyValue::IfName(name.into())]).unwrap_err();
        }
    }

    #[test]
    fn neighbours_of_a_number_carry() {
        assert_eq!(successor(&[1, 0xff]).unwrap(), [2, 0]);
        assert_eq!(predecessor(&[2, 0]).unwrap(), [1, 0xff]);
        assert_eq!(successor(&[0xff, 0xff]), None);
        assert_eq!(predecessor(&[0, 0]), None);
    }
}
