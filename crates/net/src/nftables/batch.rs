//! Transactions.

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};

use crate::{Error, attribute::Attributes, frame::Refusal};

#[allow(clippy::wildcard_imports, reason = "numbers, each of which has the kernel's name")]
use super::kernel::*;
use super::{
    ChainKind, Element, Hook, HookPoint, Rule, Set, Table, comment,
    element::{List, write_set},
    expression, message, name,
};

/// One transaction: the kernel does all of it or nothing, and nobody sees a part of it.
///
/// Every call adds a step; what cannot be sent (a name or comment that is too long) is reported by [`super::Nftables::apply`],
/// before anything is sent.
///
/// ```
/// use adit_net::nftables::{Batch, Family, Table};
/// let table = Table::new(Family::Inet, "adit");
/// let mut batch = Batch::new();
/// batch.add_table(&table).add_chain(&table, "pods", None);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    generation: Option<u32>,
    steps: Vec<Step>,
    /// The first step that cannot be sent.
    problem: Option<Problem>,
    sets: u32,
}

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    kind: u16,
    flags: u16,
    family: u8,
    attributes: Vec<u8>,
    action: &'static str,
    object: String,
    /// Where in the message each element begins, and its key in words.
    elements: Vec<(usize, String)>,
}

#[derive(Clone, Debug)]
struct Problem {
    action: &'static str,
    object: String,
    reason: String,
}

impl Batch {
    /// Without any step.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.problem.is_none()
    }

    /// The transaction fails with [`Error::is_outdated`] unless the ruleset of the namespace is still of `generation`
    /// ([`super::Nftables::generation`]), i.e. nobody has changed anything since.
    pub fn only_in_generation(&mut self, generation: u32) -> &mut Self {
        self.generation = Some(generation);
        self
    }

    /// Makes a table where it is not there.
    pub fn add_table(&mut self, table: &Table) -> &mut Self {
        self.step(NEWTABLE, NLM_F_CREATE, "add", table, "", |attributes| {
            attributes.text(NFTA_TABLE_NAME, name(&table.name)?);
            Ok(())
        })
    }

    /// Deletes a table with all that is in it. Fails with ENOENT when it is not there.
    pub fn delete_table(&mut self, table: &Table) -> &mut Self {
        self.step(DELTABLE, 0, "delete", table, "", |attributes| {
            attributes.text(NFTA_TABLE_NAME, name(&table.name)?);
            Ok(())
        })
    }

    /// Makes a chain where it is not there; with a hook a base chain. Fails with EEXIST or EOPNOTSUPP when a chain of that name
    /// has another hook. A base chain that is there keeps its policy.
    pub fn add_chain(&mut self, table: &Table, chain: &str, hook: Option<&Hook>) -> &mut Self {
        self.step(NEWCHAIN, NLM_F_CREATE, "add chain", table, chain, |attributes| {
            attributes.text(NFTA_CHAIN_TABLE, name(&table.name)?).text(NFTA_CHAIN_NAME, name(chain)?);
            if let Some(hook) = hook {
                attributes.nested(NFTA_CHAIN_HOOK, |inner| {
                    inner.u32(NFTA_HOOK_HOOKNUM, hook.hook.number());
                    inner.u32(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
                });
                attributes.text(NFTA_CHAIN_TYPE, hook.kind.name());
            }
            Ok(())
        })
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.step(DELRULE, 0, "flush chain", table, chain, |attributes| {
            attributes.text(NFTA_RULE_TABLE, name(&table.name)?).text(NFTA_RULE_CHAIN, name(chain)?);
            Ok(())
        })
    }

    /// Deletes a chain, which must be empty and which no rule may jump to (EBUSY).
    pub fn delete_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.step(DELCHAIN, 0, "delete chain", table, chain, |attributes| {
            attributes.text(NFTA_CHAIN_TABLE, name(&table.name)?).text(NFTA_CHAIN_NAME, name(chain)?);
            Ok(())
        })
    }

    /// Makes a set where it is not there.
    pub fn add_set(&mut self, table: &Table, set: &Set) -> &mut Self {
        self.new_set(table, set, "add set", 0)
    }

    /// Makes a set; fails with EEXIST when it is there.
    pub fn create_set(&mut self, table: &Table, set: &Set) -> &mut Self {
        self.new_set(table, set, "create set", NLM_F_EXCL)
    }

    /// Deletes a set, which no rule may look into (EBUSY).
    pub fn delete_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.step(DELSET, 0, "delete set", table, set, |attributes| {
            attributes.text(NFTA_SET_TABLE, name(&table.name)?).text(NFTA_SET_NAME, name(set)?);
            Ok(())
        })
    }

    /// Adds elements to a set. One that is there already stays as it is, with the comment that it has:
    /// [`Batch::replace_elements`] changes that.
    pub fn add_elements(&mut self, table: &Table, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(NEWSETELEM, NLM_F_CREATE, ["add element", "add elements"], table, set, elements)
    }

    /// Adds elements to a set, in place of those with the same keys.
    pub fn replace_elements(&mut self, table: &Table, set: &str, elements: &[Element]) -> &mut Self {
        self.discard_elements(table, set, elements).add_elements(table, set, elements)
    }

    /// Deletes elements from a set, by their keys (comments do not count). Fails with ENOENT when one is not there.
    pub fn delete_elements(&mut self, table: &Table, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(DELSETELEM, 0, ["delete element", "delete elements"], table, set, elements)
    }

    /// Deletes elements from a set by their keys, where they are there; the set must be there.
    pub fn discard_elements(&mut self, table: &Table, set: &str, elements: &[Element]) -> &mut Self {
        self.add_elements(table, set, elements).delete_elements(table, set, elements)
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) -> &mut Self {
        self.step(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, "add rule to chain", table, chain, |attributes| {
            attributes.text(NFTA_RULE_TABLE, name(&table.name)?).text(NFTA_RULE_CHAIN, name(chain)?);
            attributes.attributes(NFTA_RULE_EXPRESSIONS, &expression::write(&rule.expressions, table.family)?);
            if let Some(text) = &rule.comment {
                attributes.bytes(NFTA_RULE_USERDATA, &comment::write(text)?);
            }
            Ok(())
        })
    }

    /// Deletes a rule by its handle ([`super::ListedRule::handle`]). Fails with ENOENT when it is not there.
    pub fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) -> &mut Self {
        self.step(DELRULE, 0, "delete rule from chain", table, chain, |attributes| {
            attributes.text(NFTA_RULE_TABLE, name(&table.name)?).text(NFTA_RULE_CHAIN, name(chain)?);
            attributes.u64(NFTA_RULE_HANDLE, handle);
            Ok(())
        })
    }

    /// Whether all of it can be sent.
    pub(crate) fn check(&self) -> crate::Result<()> {
        self.problem.as_ref().map_or(Ok(()), |Problem { action, object, reason }| {
            Err(Error::InvalidRequest { action, object: object.clone(), reason: reason.clone() })
        })
    }

    /// How many messages [`Batch::write`] makes.
    pub(crate) fn messages(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// The messages, numbered from `sequence` on: the beginning, the steps, the end.
    pub(crate) fn write(&self, sequence: u32) -> Vec<u8> {
        // `res_id` of the two ends names the subsystem.
        let end = |kind, sequence, attributes: &[u8]| {
            message(kind, NLM_F_REQUEST, sequence, 0, NFNL_SUBSYS_NFTABLES, attributes)
        };
        let mut generation = Attributes::new();
        if let Some(number) = self.generation {
            generation.u32(NFNL_BATCH_GENID, number);
        }
        let mut next = sequence;
        let mut bytes = end(NFNL_MSG_BATCH_BEGIN, next, &generation.finish().unwrap_or_default());
        for step in &self.steps {
            next = next.wrapping_add(1);
            let flags = step.flags | NLM_F_REQUEST | NLM_F_ACK;
            bytes.extend(message(step.kind, flags, next, step.family, 0, &step.attributes));
        }
        bytes.extend(end(NFNL_MSG_BATCH_END, next.wrapping_add(1), &[]));
        bytes
    }

    /// What the refusal of the message at `position` was about.
    pub(crate) fn step_at(&self, position: u32) -> Option<&Step> {
        let position = usize::try_from(position).ok()?.checked_sub(1)?;
        self.steps.get(position)
    }

    /// A message about `what` of `table`; without `what` about the table itself.
    fn step(
        &mut self,
        kind: u16,
        flags: u16,
        action: &'static str,
        table: &Table,
        what: &str,
        fill: impl FnOnce(&mut Attributes) -> Result<(), String>,
    ) -> &mut Self {
        let object = if what.is_empty() { table.to_string() } else { format!("{what} of {table}") };
        let mut attributes = Attributes::new();
        let filled = fill(&mut attributes);
        self.push((kind, flags), table, action, object, filled.map(|()| (attributes, Vec::new())))
    }

    fn push(
        &mut self,
        (kind, flags): (u16, u16),
        table: &Table,
        action: &'static str,
        object: String,
        content: Result<(Attributes, Vec<(usize, String)>), String>,
    ) -> &mut Self {
        let content = content.and_then(|(attributes, elements)| {
            let bytes = attributes.finish().ok_or("it is longer than 64 KiB, which is all a message has room for")?;
            Ok((bytes, elements))
        });
        match content {
            Ok((attributes, elements)) => {
                let family = table.family.number();
                self.steps.push(Step { kind, flags, family, attributes, action, object, elements });
            }
            Err(reason) => self.problem = self.problem.take().or(Some(Problem { action, object, reason })),
        }
        self
    }

    fn new_set(&mut self, table: &Table, set: &Set, action: &'static str, flags: u16) -> &mut Self {
        self.sets = self.sets.saturating_add(1);
        let number = self.sets;
        self.step(NEWSET, NLM_F_CREATE | flags, action, table, &set.name, |attributes| {
            write_set(attributes, table, set, number)
        })
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        [one, many]: [&'static str; 2],
        table: &Table,
        set: &str,
        elements: &[Element],
    ) -> &mut Self {
        let place = format!("set {set} in {table}");
        let mut rest = elements;
        while let Some(first) = rest.first() {
            let list = match List::take(&mut rest, table, set) {
                Ok(list) => list,
                Err((element, reason)) => {
                    return self.push((kind, flags), table, one, format!("{element} of {place}"), Err(reason));
                }
            };
            let (action, object) = match list.elements.as_slice() {
                [_] => (one, format!("{first} of {place}")),
                several => {
                    let others = several.len().saturating_sub(1);
                    (many, format!("{first} and {others} more of {place}"))
                }
            };
            let mut attributes = list.head;
            attributes.attributes(NFTA_SET_ELEM_LIST_ELEMENTS, &list.list);
            self.push((kind, flags), table, action, object, Ok((attributes, list.elements)));
        }
        self
    }
}

impl Step {
    /// The error that says what was refused, and of several elements which.
    pub(crate) fn error(&self, refusal: Refusal) -> Error {
        let Refusal { errno, mut message, offset } = refusal;
        let offset = offset.and_then(|offset| usize::try_from(offset).ok());
        let element = offset.and_then(|at| self.elements.iter().rev().find(|(begin, _)| *begin <= at));
        if let Some((_, element)) = element.filter(|_| self.elements.len() > 1) {
            let text = message.unwrap_or_default();
            message = Some(format!("{text} about element {element}").trim_start().to_owned());
        }
        Error::Kernel { action: self.action, object: self.object.clone(), errno, message, remedy: super::remedy(errno) }
    }
}

impl HookPoint {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

impl ChainKind {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

#[cfg(test)]
mod tests;
