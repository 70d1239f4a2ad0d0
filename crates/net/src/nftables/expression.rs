//! Expressions of rules.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::attribute::{Attributes, attributes, find, number, text};

#[allow(clippy::wildcard_imports, reason = "numbers, each of which has the kernel's name")]
use super::kernel::*;
use super::{Family, KeyType, KeyValue, name};

// enum nft_payload_bases, nft_meta_keys, nft_cmp_ops
const LINK_LAYER: u32 = 0;
const NETWORK_LAYER: u32 = 1;
const NFT_META_PROTOCOL: u32 = 1;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_IIFTYPE: u32 = 8;
const NFT_META_NFPROTO: u32 = 15;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_LOOKUP_F_INV: u32 = 1;

// Verdicts; the kernel's own are negative (enum nft_verdicts).
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;

// Attributes of the expressions.
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const LOOKUP_FLAGS: u16 = 5;
const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;

/// The most expressions of a rule (`NFT_RULE_MAXEXPRS`, net/netfilter/nf_tables_api.c).
const MAX_EXPRESSIONS: usize = 128;

/// Registers of four bytes.
const REGISTERS: usize = 16;

/// What a packet is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `ip saddr`
    Ipv4Source,
    /// `ip daddr`
    Ipv4Destination,
    /// `ip6 saddr`
    Ipv6Source,
    /// `ip6 daddr`
    Ipv6Destination,
    /// `ether saddr`
    EtherSource,
    /// `ether daddr`
    EtherDestination,
    /// `iifname`
    InputInterface,
    /// `oifname`
    OutputInterface,
}

/// The protocol of the network layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetworkProtocol {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

/// One expression of a rule: a match, a statement or a verdict.
///
/// A match of an address is preceded by one of its protocol where the table sees several, as `nft` does it; registers are the
/// crate's business.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// The packet is of this protocol (`meta nfproto`; in a bridge's table `meta protocol`).
    Protocol(NetworkProtocol),
    /// The field has this value: `ip saddr 10.0.0.1`, `iifname "veth0"`.
    Is(Field, KeyValue),
    /// The field has another value.
    IsNot(Field, KeyValue),
    /// The address field is in the network: `ip daddr 224.0.0.0/4`. Host bits do not count.
    InNetwork(Field, IpNetwork),
    /// The address field is not in the network: `ip daddr != 10.1.0.0/16`.
    NotInNetwork(Field, IpNetwork),
    /// The fields, concatenated, are in the set of this name in the same table: `iifname . ether saddr @pairs`. They must be of
    /// the types of the set's key: the kernel does not compare them.
    InSet(Vec<Field>, String),
    /// The fields are not in the set.
    NotInSet(Vec<Field>, String),
    /// Count packets and bytes.
    Counter,
    /// Rewrite the source to the address of the interface it leaves through; ends the rule.
    Masquerade,
    /// Verdict: no further rule of this base chain.
    Accept,
    /// Verdict: the packet is gone.
    Drop,
    /// Verdict: back to the calling chain.
    Return,
    /// Verdict: through this chain and back.
    Jump(String),
    /// Verdict: on to this chain for good.
    Goto(String),
}

/// How a field gets into a register.
enum Load {
    Payload { base: u32, offset: u32 },
    Meta(u32),
}

/// What must be known of a packet before one of its fields can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Protocol(NetworkProtocol),
    Ethernet,
}

impl Field {
    fn key_type(self) -> KeyType {
        match self {
            Self::Ipv4Source | Self::Ipv4Destination => KeyType::Ipv4Addr,
            Self::Ipv6Source | Self::Ipv6Destination => KeyType::Ipv6Addr,
            Self::EtherSource | Self::EtherDestination => KeyType::EtherAddr,
            Self::InputInterface | Self::OutputInterface => KeyType::IfName,
        }
    }

    fn load(self) -> Load {
        let network = |offset| Load::Payload { base: NETWORK_LAYER, offset };
        match self {
            Self::Ipv4Source => network(12),
            Self::Ipv4Destination => network(16),
            Self::Ipv6Source => network(8),
            Self::Ipv6Destination => network(24),
            Self::EtherSource => Load::Payload { base: LINK_LAYER, offset: 6 },
            Self::EtherDestination => Load::Payload { base: LINK_LAYER, offset: 0 },
            Self::InputInterface => Load::Meta(NFT_META_IIFNAME),
            Self::OutputInterface => Load::Meta(NFT_META_OIFNAME),
        }
    }

    fn need(self) -> Option<Need> {
        match self.key_type() {
            KeyType::Ipv4Addr => Some(Need::Protocol(NetworkProtocol::Ipv4)),
            KeyType::Ipv6Addr => Some(Need::Protocol(NetworkProtocol::Ipv6)),
            KeyType::EtherAddr => Some(Need::Ethernet),
            KeyType::IfName => None,
        }
    }
}

/// The expressions as a list of netlink attributes, or what is wrong with them.
pub(crate) fn write(expressions: &[Expression], family: Family) -> Result<Attributes, String> {
    let mut writer = Writer { family, known: Vec::new(), list: Attributes::new(), count: 0 };
    for expression in expressions {
        writer.expression(expression)?;
    }
    if writer.count > MAX_EXPRESSIONS {
        return Err(format!("{} expressions: {MAX_EXPRESSIONS} is the most in a rule", writer.count));
    }
    Ok(writer.list)
}

struct Writer {
    family: Family,
    /// What the expressions so far have made sure of.
    known: Vec<Need>,
    list: Attributes,
    count: usize,
}

impl Writer {
    fn expression(&mut self, expression: &Expression) -> Result<(), String> {
        match expression {
            Expression::Protocol(protocol) => self.require(Need::Protocol(*protocol))?,
            Expression::Is(field, value) => self.compare(*field, NFT_CMP_EQ, value)?,
            Expression::IsNot(field, value) => self.compare(*field, NFT_CMP_NEQ, value)?,
            Expression::InNetwork(field, network) => self.compare_network(*field, NFT_CMP_EQ, *network)?,
            Expression::NotInNetwork(field, network) => self.compare_network(*field, NFT_CMP_NEQ, *network)?,
            Expression::InSet(fields, set) => self.look_up(fields, set, 0)?,
            Expression::NotInSet(fields, set) => self.look_up(fields, set, NFT_LOOKUP_F_INV)?,
            Expression::Counter => self.push("counter", |_| {}),
            Expression::Masquerade => self.push("masq", |_| {}),
            Expression::Accept => self.verdict(NF_ACCEPT, None)?,
            Expression::Drop => self.verdict(NF_DROP, None)?,
            Expression::Return => self.verdict(NFT_RETURN, None)?,
            Expression::Jump(chain) => self.verdict(NFT_JUMP, Some(chain))?,
            Expression::Goto(chain) => self.verdict(NFT_GOTO, Some(chain))?,
        }
        Ok(())
    }

    fn push(&mut self, name: &str, fill: impl FnOnce(&mut Attributes)) {
        self.count = self.count.saturating_add(1);
        self.list.nested(LIST_ELEMENT, |element| {
            element.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, fill);
        });
    }

    /// Makes sure of `need`, unless the table or an expression before has done so.
    fn require(&mut self, need: Need) -> Result<(), String> {
        let (key, value): (u32, Vec<u8>) = match (need, self.family) {
            (Need::Protocol(NetworkProtocol::Ipv4), Family::Ipv4)
            | (Need::Protocol(NetworkProtocol::Ipv6), Family::Ipv6)
            | (Need::Ethernet, Family::Bridge) => return Ok(()),
            (Need::Protocol(_), Family::Ipv4 | Family::Ipv6) => {
                return Err(format!("no packet of the other IP version comes into a table of family {}", self.family));
            }
            (Need::Protocol(protocol), Family::Bridge) => (NFT_META_PROTOCOL, protocol.ethertype().to_vec()),
            (Need::Protocol(protocol), Family::Inet) => (NFT_META_NFPROTO, vec![protocol.number()]),
            (Need::Ethernet, Family::Inet | Family::Ipv4 | Family::Ipv6) => {
                // ARPHRD_ETHER, in the host's byte order.
                (NFT_META_IIFTYPE, 1u16.to_ne_bytes().to_vec())
            }
        };
        if !self.known.contains(&need) {
            self.load_meta(key, 0);
            self.cmp(NFT_CMP_EQ, &value);
            self.known.push(need);
        }
        Ok(())
    }

    fn compare(&mut self, field: Field, operation: u32, value: &KeyValue) -> Result<(), String> {
        if value.key_type() != field.key_type() {
            return Err(format!("{field:?} cannot be compared with {value}"));
        }
        let bytes = value.bytes()?;
        self.prepare(field)?;
        self.load(field, 0);
        self.cmp(operation, &bytes);
        Ok(())
    }

    fn compare_network(&mut self, field: Field, operation: u32, network: IpNetwork) -> Result<(), String> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let expected = if network.is_ipv4() { KeyType::Ipv4Addr } else { KeyType::Ipv6Addr };
        if field.key_type() != expected {
            return Err(format!("{field:?} cannot be compared with {network}"));
        }
        let mask = octets(network.mask());
        self.prepare(field)?;
        self.load(field, 0);
        // `nft` takes a comparison under a full mask for an odd prefix.
        if mask.iter().any(|byte| *byte != 0xff) {
            let length = u32::try_from(mask.len()).unwrap_or_default();
            self.push("bitwise", |data| {
                data.u32(BITWISE_SREG, NFT_REG32_00).u32(BITWISE_DREG, NFT_REG32_00).u32(BITWISE_LEN, length);
                data.nested(BITWISE_MASK, |value| {
                    value.bytes(NFTA_DATA_VALUE, &mask);
                });
                data.nested(BITWISE_XOR, |value| {
                    value.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]);
                });
            });
        }
        self.cmp(operation, &octets(network.network()));
        Ok(())
    }

    fn look_up(&mut self, fields: &[Field], set: &str, flags: u32) -> Result<(), String> {
        name(set)?;
        let needed = fields.iter().fold(0, |sum: usize, field| sum.saturating_add(field.key_type().registers()));
        if fields.is_empty() || needed > REGISTERS {
            return Err(format!("a look-up of {} fields in the set {set}", fields.len()));
        }
        // All conditions first: they use the registers too.
        for field in fields {
            self.prepare(*field)?;
        }
        let mut register = 0;
        for field in fields {
            self.load(*field, register);
            register = register.saturating_add(field.key_type().registers());
        }
        self.push("lookup", |data| {
            data.text(LOOKUP_SET, set).u32(LOOKUP_SREG, NFT_REG32_00);
            if flags != 0 {
                data.u32(LOOKUP_FLAGS, flags);
            }
        });
        Ok(())
    }

    fn verdict(&mut self, code: i32, chain: Option<&String>) -> Result<(), String> {
        if let Some(chain) = chain {
            name(chain)?;
        }
        self.push("immediate", |data| {
            data.u32(IMMEDIATE_DREG, NFT_REG_VERDICT).nested(IMMEDIATE_DATA, |value| {
                value.nested(NFTA_DATA_VERDICT, |verdict| {
                    verdict.bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        verdict.text(NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        });
        Ok(())
    }

    fn prepare(&mut self, field: Field) -> Result<(), String> {
        field.need().map_or(Ok(()), |need| self.require(need))
    }

    fn load(&mut self, field: Field, register: usize) {
        match field.load() {
            Load::Meta(key) => self.load_meta(key, register),
            Load::Payload { base, offset } => {
                let length = u32::try_from(field.key_type().len()).unwrap_or_default();
                self.push("payload", |data| {
                    data.u32(PAYLOAD_DREG, number_of(register)).u32(PAYLOAD_BASE, base);
                    data.u32(PAYLOAD_OFFSET, offset).u32(PAYLOAD_LEN, length);
                });
            }
        }
    }

    fn load_meta(&mut self, key: u32, register: usize) {
        self.push("meta", |data| {
            data.u32(META_KEY, key).u32(META_DREG, number_of(register));
        });
    }

    fn cmp(&mut self, operation: u32, bytes: &[u8]) {
        self.push("cmp", |data| {
            data.u32(CMP_SREG, NFT_REG32_00).u32(CMP_OP, operation).nested(CMP_DATA, |value| {
                value.bytes(NFTA_DATA_VALUE, bytes);
            });
        });
    }
}

fn number_of(register: usize) -> u32 {
    NFT_REG32_00.saturating_add(u32::try_from(register).unwrap_or_default())
}

impl NetworkProtocol {
    /// `NFPROTO_*`
    fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    fn ethertype(self) -> [u8; 2] {
        match self {
            Self::Ipv4 => [0x08, 0x00],
            Self::Ipv6 => [0x86, 0xdd],
        }
    }
}

/// The chain that a rule's expressions jump or go to.
pub(crate) fn jump_target(expressions: &[u8]) -> Option<String> {
    attributes(expressions).find_map(|(_, expression)| {
        let kind = find(expression, NFTA_EXPR_NAME).map(text)?;
        let data = find(expression, NFTA_EXPR_DATA).filter(|_| kind == "immediate")?;
        let verdict = find(find(data, IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
        let code = find(verdict, NFTA_VERDICT_CODE).and_then(number)?.cast_signed();
        find(verdict, NFTA_VERDICT_CHAIN).filter(|_| matches!(code, NFT_JUMP | NFT_GOTO)).map(text)
    })
}
