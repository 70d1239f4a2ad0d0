//! nftables over nfnetlink: transactions, and reading back what they made.
//!
//! Sets hold what changes, few static rules look into them; so a change costs the same whatever the ruleset's size.
//! Comments are those of `nft` (libnftnl's user data), so `nft list ruleset` shows them. Linux 5.10 is enough.

mod batch;
mod comment;
mod element;
mod expression;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod kernel;
mod key;
mod listing;
mod object;

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

pub use batch::Batch;
pub use expression::{Expression, Field, NetworkProtocol};
pub use object::{ChainKind, Element, Family, Hook, HookPoint, KeyType, KeyValue, ListedRule, Rule, Set, Table};

#[allow(clippy::wildcard_imports, reason = "numbers, each of which has the kernel's name")]
use kernel::*;

use crate::{
    Error, Netns, Result,
    attribute::Attributes,
    channel::{ANSWER_TIMEOUT, Channel, Failure},
};

/// The longest name of a table, chain or set in bytes (`NFT_NAME_MAXLEN` less the terminating zero).
const MAX_NAME_BYTES: usize = 255;

/// What is known of a kernel that does not know the messages.
const UNSUPPORTED: &str = "this kernel has no nf_tables (CONFIG_NF_TABLES), or its module cannot be loaded";

/// An nfnetlink socket of one network namespace; it keeps acting in the namespace it was opened in.
#[derive(Debug)]
pub struct Nftables {
    /// `None` where the kernel has no nfnetlink.
    channel: Option<Mutex<Channel>>,
}

impl Nftables {
    /// A socket in the calling thread's namespace. Succeeds on a kernel without nf_tables too.
    ///
    /// # Errors
    /// When the system refuses a socket.
    pub fn open() -> Result<Self> {
        Self::with(Channel::open(NETLINK_NETFILTER))
    }

    /// A socket in `ns`; the calling thread is there only for a moment.
    ///
    /// # Errors
    /// As [`Nftables::open`] and [`Netns::enter`].
    pub fn open_in(ns: &Netns) -> Result<Self> {
        Self::with(ns.run(|| Channel::open(NETLINK_NETFILTER))?)
    }

    /// Whether this kernel has nf_tables at all (`CONFIG_NF_TABLES`).
    ///
    /// # Errors
    /// When that cannot be found out: without CAP_NET_ADMIN the kernel says nothing.
    pub fn is_supported(&self) -> Result<bool> {
        match self.generation() {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The number of the namespace's ruleset; every transaction of anybody makes another one.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn generation(&self) -> Result<u32> {
        self.locked("ask for", || "the generation of the nftables ruleset".into(), generation)
    }

    /// Carries out a transaction: all of it or nothing.
    ///
    /// # Errors
    /// What the first step that was refused was about, with the kernel's words; [`Error::InvalidRequest`] when a step cannot
    /// even be sent. Nothing is changed then.
    pub fn apply(&self, batch: &Batch) -> Result<()> {
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let action = "carry out";
        let object = || format!("a transaction of {} nftables messages", batch.messages());
        let Some(channel) = &self.channel else { return Err(unsupported(action, object())) };
        let mut channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        let write = |sequence| {
            let written = batch.write(sequence);
            bytes = written.len();
            written
        };
        let refused = channel.transact(write, batch.messages()).map_err(|failure| match failure {
            Failure::Socket(Errno::EMSGSIZE) => Error::InvalidRequest {
                action,
                object: object(),
                reason: format!(
                    "its {bytes} bytes do not fit into the socket's send buffer ({}): raise net.core.wmem_max to as much",
                    channel.send_limit_bytes()
                ),
            },
            Failure::Socket(Errno::ENOBUFS) => Error::answer(
                action,
                object(),
                "part of it was lost, so that nobody knows the outcome: raise net.core.rmem_max, and look at the ruleset",
            ),
            failure => failure.into_error(action, object()),
        })?;
        let mut refused = refused.into_iter();
        let Some((position, refusal)) = refused.next() else { return Ok(()) };
        for (position, refusal) in refused {
            tracing::debug!(step = ?batch.step_at(position), ?refusal, "the transaction was refused for this too");
        }
        Err(match batch.step_at(position) {
            Some(step) => step.error(refusal),
            // The kernel names the subsystem's absence, and what hinders a transaction as a whole, by its first message.
            None if refusal.errno == Errno::EOPNOTSUPP => unsupported(action, object()),
            None => Failure::Refused(refusal)
                .into_error(action, object())
                .with_remedy(Errno::ERESTART, "the ruleset has changed since it was read: read it again"),
        })
    }

    /// The elements of a set; none when the table or the set is not there.
    ///
    /// # Errors
    /// When the kernel refuses, or the set's key is none of [`KeyType`].
    pub fn elements(&self, table: &Table, set: &str) -> Result<Vec<Element>> {
        let object = || format!("elements of set {set} in {table}");
        let mut attributes = Attributes::new();
        attributes.text(NFTA_SET_TABLE, &table.name).text(NFTA_SET_NAME, set);
        let request = |kind| Request::new(kind, table, &attributes, object());
        let none_when_absent = |error: Error| if error.is_not_found() { Ok(Vec::new()) } else { Err(error) };
        let shape = match self.get("list", object, &request(GETSET)?, listing::set) {
            Ok(mut shapes) => shapes.pop().ok_or_else(|| Error::answer("list", object(), "it is empty"))?,
            Err(error) => return none_when_absent(error),
        };
        // NFTA_SET_ELEM_LIST_TABLE and _SET have the numbers of NFTA_SET_TABLE and _NAME.
        let decode = |message: &[u8]| Ok(listing::entries(message));
        let complete = |parts: &[Vec<listing::Entry>]| listing::is_complete(&parts.concat());
        match self.dump("list", object, &request(GETSETELEM)?, decode, complete) {
            Ok(parts) => Ok(listing::elements(&shape, parts.concat())),
            Err(error) => none_when_absent(error),
        }
    }

    /// The rules of a chain, or of all chains of the table, in their order; none when the table or the chain is not there.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn rules(&self, table: &Table, chain: Option<&str>) -> Result<Vec<ListedRule>> {
        let object = || match chain {
            Some(chain) => format!("rules of chain {chain} in {table}"),
            None => format!("rules of {table}"),
        };
        let mut attributes = Attributes::new();
        attributes.text(NFTA_RULE_TABLE, &table.name);
        if let Some(chain) = chain {
            attributes.text(NFTA_RULE_CHAIN, chain);
        }
        let request = Request::new(GETRULE, table, &attributes, object())?;
        let decode = |message: &[u8]| Ok(listing::rule(message, table));
        let rules = self.dump("list", object, &request, decode, |_| true)?;
        Ok(rules.into_iter().flatten().filter(|rule| chain.is_none_or(|chain| rule.chain == chain)).collect())
    }

    /// The names of a table's chains; none when the table is not there.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn chains(&self, table: &Table) -> Result<Vec<String>> {
        let object = || format!("chains of {table}");
        let request = Request::new(GETCHAIN, table, &Attributes::new(), object())?;
        let decode = |message: &[u8]| Ok(listing::chain(message, table));
        let chains = self.dump("list", object, &request, decode, |_| true)?;
        Ok(chains.into_iter().flatten().collect())
    }

    fn with(channel: std::io::Result<Channel>) -> Result<Self> {
        match channel {
            Ok(channel) => Ok(Self { channel: Some(Mutex::new(channel)) }),
            Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => Ok(Self { channel: None }),
            Err(error) => Err(Error::io("open", "nfnetlink socket", error)),
        }
    }

    /// A request for one object.
    fn get<T>(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        request: &Request,
        decode: impl Fn(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<Vec<T>> {
        self.locked(action, object, |channel| channel.request(|sequence| request.write(sequence, NLM_F_ACK), decode))
    }

    /// A request for any number of objects, which are listed again until they are `complete` and of one generation. The kernel
    /// marks a listing that a transaction has come into, but not one of elements.
    fn dump<T>(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        request: &Request,
        decode: impl Fn(&[u8]) -> std::result::Result<T, String>,
        complete: impl Fn(&[T]) -> bool,
    ) -> Result<Vec<T>> {
        self.locked(action, object, |channel| {
            let started = Instant::now();
            while started.elapsed() < ANSWER_TIMEOUT {
                let before = generation(channel)?;
                let objects = channel.dump(|sequence| request.write(sequence, NLM_F_DUMP), &decode)?;
                if generation(channel)? == before && complete(&objects) {
                    return Ok(objects);
                }
            }
            Err(Failure::Interrupted)
        })
    }

    fn locked<T>(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        talk: impl FnOnce(&mut Channel) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let Some(channel) = &self.channel else { return Err(unsupported(action, object())) };
        let mut channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
        talk(&mut channel).map_err(|failure| refused(failure, action, object()))
    }
}

fn generation(channel: &mut Channel) -> std::result::Result<u32, Failure> {
    let request = Request { kind: GETGEN, family: 0, attributes: Vec::new() };
    let mut answers = channel.request(|sequence| request.write(sequence, NLM_F_ACK), listing::generation)?;
    answers.pop().ok_or_else(|| Failure::Answer("it is empty".into()))
}

/// A message that asks for something.
struct Request {
    kind: u16,
    family: u8,
    attributes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, table: &Table, attributes: &Attributes, object: String) -> Result<Self> {
        let attributes = attributes.clone().finish().ok_or_else(|| Error::InvalidRequest {
            action: "list",
            object,
            reason: "a name is longer than 64 KiB".into(),
        })?;
        Ok(Self { kind, family: table.family.number(), attributes })
    }

    fn write(&self, sequence: u32, flags: u16) -> Vec<u8> {
        message(self.kind, flags | NLM_F_REQUEST, sequence, self.family, 0, &self.attributes)
    }
}

/// A message of nfnetlink: `struct nlmsghdr`, `struct nfgenmsg`, attributes.
fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(attributes.len().saturating_add(20));
    // A batch's attributes have been measured one by one; 4 GiB of them there cannot be.
    let length = u32::try_from(attributes.len()).unwrap_or(u32::MAX).saturating_add(20);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// A name of a table, chain or set, or what is wrong with it.
fn name(text: &str) -> std::result::Result<&str, String> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.contains('\0') {
        return Err(format!("the name `{text}` must have 1 to {MAX_NAME_BYTES} bytes, none of them zero"));
    }
    Ok(text)
}

/// Why nothing was listed. A request of a subsystem that is not there is invalid (EINVAL) to nfnetlink.
fn refused(failure: Failure, action: &'static str, object: String) -> Error {
    match failure {
        Failure::Refused(refusal) if matches!(refusal.errno, Errno::EINVAL | Errno::EOPNOTSUPP) => {
            unsupported(action, object)
        }
        failure => failure.into_error(action, object),
    }
}

fn unsupported(action: &'static str, object: String) -> Error {
    Error::Kernel { action, object, errno: Errno::EPROTONOSUPPORT, message: None, remedy: Some(UNSUPPORTED) }
}

/// What helps against the refusal of a step.
fn remedy(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::ENOENT => Some("it is not there, or what it refers to is not, or the kernel lacks such an expression"),
        Errno::EEXIST => Some("it is there already, or overlaps with what is there, or differs from it"),
        Errno::EBUSY => Some("something still refers to it, or it is not empty"),
        _ => crate::error::remedy(errno),
    }
}

impl Family {
    /// `NFPROTO_*`
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Bridge => 7,
            Self::Ipv6 => 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Refusal;

    #[test]
    fn a_kernel_without_nf_tables_is_told_in_words() {
        let without = Nftables { channel: None };
        assert!(!without.is_supported().unwrap());
        let table = Table::new(Family::Inet, "t");
        let mut batch = Batch::new();
        batch.add_table(&table);
        for error in [
            without.apply(&batch).unwrap_err(),
            without.elements(&table, "s").unwrap_err(),
            without.rules(&table, None).unwrap_err(),
            without.chains(&table).unwrap_err(),
            // What nfnetlink says when the subsystem is not there.
            refused(
                Failure::Refused(Refusal { errno: Errno::EINVAL, message: None, offset: None }),
                "list",
                "chains".into(),
            ),
        ] {
            assert!(error.to_string().contains("this kernel has no nf_tables (CONFIG_NF_TABLES)"), "{error}");
            assert!(!error.is_not_found());
        }
    }

    #[test]
    fn a_transaction_without_steps_is_not_sent() {
        Nftables { channel: None }.apply(&Batch::new()).unwrap();
    }
}
