//! What a ruleset consists of, as values.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::MacAddress;

use super::Expression;

/// Which packets a table sees (`NFPROTO_*`, include/uapi/linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Frames that pass a bridge.
    Bridge,
}

/// A table: the name space of chains and sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// Which packets it sees.
    pub family: Family,
    /// Its name among the tables of its family.
    pub name: String,
}

impl Table {
    /// The table `name` of `family`.
    #[must_use]
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Accept and drop.
    Filter,
    /// Rewrite addresses; only the first packet of a connection comes here.
    Nat,
}

/// Where in the kernel a base chain stands (`NF_INET_*`, `NF_BR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookPoint {
    /// Whatever comes in, before it is routed or forwarded.
    Prerouting,
    /// What is for this host itself.
    Input,
    /// What goes from one interface (or port) to another.
    Forward,
    /// What this host itself sends.
    Output,
    /// Whatever leaves.
    Postrouting,
}

/// What makes a chain a base chain: the kernel hands it packets. Its policy is accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where it stands.
    pub hook: HookPoint,
    /// Its order among the chains of the hook: lower comes first.
    pub priority: i32,
}

/// A set of values that rules look things up in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// Its name in its table.
    pub name: String,
    /// The fields of a key; several make a concatenation.
    pub key: Vec<KeyType>,
    /// The fields are ranges ([`Element::key_end`]).
    pub interval: bool,
}

/// The type of a field of a set's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `ether_addr`
    EtherAddr,
    /// `ifname`
    IfName,
}

/// A field of an element's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyValue {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// An Ethernet address.
    Ether(MacAddress),
    /// The name of an interface, of at most 15 bytes.
    IfName(String),
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key, one value for each field of the set; the lower ends where the set is one of intervals.
    pub key: Vec<KeyValue>,
    /// The upper ends, included, in a set of intervals. A set of intervals with *one* field needs it in every element
    /// (a single value: the same as `key`), for without it the kernel takes the interval for one without end. With several
    /// fields `None` means the same as `key`, and so it is reported.
    pub key_end: Option<Vec<KeyValue>>,
    /// What `nft` shows as the element's comment: at most 127 bytes. An element that is there already keeps the comment it has
    /// ([`super::Batch::add_elements`]).
    pub comment: Option<String>,
}

impl Element {
    /// An element without an upper end and without a comment.
    #[must_use]
    pub fn new(key: impl Into<Vec<KeyValue>>) -> Self {
        Self { key: key.into(), key_end: None, comment: None }
    }
}

/// A rule: its expressions are carried out one after the other until one does not match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Matches, statements, and at most one verdict at the end.
    pub expressions: Vec<Expression>,
    /// What `nft` shows as the rule's comment: at most 127 bytes.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule without a comment.
    #[must_use]
    pub fn new(expressions: impl Into<Vec<Expression>>) -> Self {
        Self { expressions: expressions.into(), comment: None }
    }
}

/// A rule as the kernel lists it, as far as one needs to find and delete it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListedRule {
    /// The chain it is in.
    pub chain: String,
    /// The kernel's number of the rule in its table, never used for another one.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// The chain that it jumps or goes to, if it does.
    pub jump: Option<String>,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Bridge => "bridge",
        })
    }
}

impl fmt::Display for Table {
    /// As `nft` names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} {}", self.family, self.name)
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(address) => address.fmt(f),
            Self::Ipv6(address) => address.fmt(f),
            Self::Ether(address) => address.fmt(f),
            Self::IfName(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Element {
    /// The key as `nft` writes it, with the upper ends behind where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_fields(f, &self.key)?;
        if let Some(end) = &self.key_end {
            f.write_str(" - ")?;
            write_fields(f, end)?;
        }
        Ok(())
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[KeyValue]) -> fmt::Result {
    for (position, field) in fields.iter().enumerate() {
        let separator = if position == 0 { "" } else { " . " };
        write!(f, "{separator}{field}")?;
    }
    Ok(())
}
