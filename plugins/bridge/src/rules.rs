//! What masquerading and the spoof check have in common: sets whose elements carry the attachments' comments, and a few
//! static rules that look into them.
//!
//! One process at a time changes them ([`RulesLock`]), so a hundred ADDs at once make the static part once, and an element
//! is deleted only while it still carries the comment under which it was found.

use std::fmt::Display;

use adit_cni::Error;
use adit_net::Nftables;
use adit_net::nftables::{Batch, Element, Expression, Hook, ListedRule, Rule, Set, Table};
use adit_plugin::net_error;

use crate::lock::RulesLock;

/// The part of a table that does not depend on attachments.
pub(crate) struct StaticPart {
    pub table: Table,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

/// A chain with the rules that it must have. A rule is recognised by its comment, or else by the chain that it goes to.
pub(crate) struct Chain {
    pub name: &'static str,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
    /// Whether others have rules in it too.
    pub shared: bool,
}

impl StaticPart {
    /// Whether every rule is there, and with the rules all that they name.
    pub(crate) fn is_complete(&self, nft: &Nftables) -> Result<bool, Error> {
        let listed = nft.rules(&self.table, None).map_err(net_error)?;
        Ok(self.chains.iter().all(|chain| chain.is_complete(&listed)))
    }

    /// Adds the steps that make what is missing, be it everything or the rules that somebody flushed.
    fn complete(&self, nft: &Nftables, batch: &mut Batch) -> Result<(), Error> {
        let listed = nft.rules(&self.table, None).map_err(net_error)?;
        if self.chains.iter().all(|chain| chain.is_complete(&listed)) {
            return Ok(());
        }
        batch.add_table(&self.table);
        for set in &self.sets {
            batch.add_set(&self.table, set);
        }
        for chain in &self.chains {
            batch.add_chain(&self.table, chain.name, chain.hook.as_ref());
        }
        for chain in self.chains.iter().filter(|chain| !chain.is_complete(&listed)) {
            if chain.shared {
                for rule in listed.iter().filter(|rule| chain.wrote(rule)) {
                    batch.delete_rule(&self.table, chain.name, rule.handle);
                }
            } else {
                batch.flush_chain(&self.table, chain.name);
            }
            for rule in &chain.rules {
                batch.add_rule(&self.table, chain.name, rule);
            }
        }
        Ok(())
    }

    /// Carries out what `change` adds to a transaction, with the static part before it where that is missing.
    pub(crate) fn change(
        &self,
        nft: &Nftables,
        change: impl FnOnce(&mut Batch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _lock = RulesLock::take()?;
        let mut batch = Batch::new();
        self.complete(nft, &mut batch)?;
        change(&mut batch)?;
        nft.apply(&batch).map_err(net_error)
    }

    /// The elements, with their set's name, whose comment `is_wanted`.
    pub(crate) fn find(
        &self,
        nft: &Nftables,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(&str, Vec<Element>)>, Error> {
        let mut found = Vec::new();
        for set in &self.sets {
            let mut elements = listed(nft, nft.elements(&self.table, &set.name))?;
            elements.retain(|element| element.comment.as_deref().is_some_and(&is_wanted));
            if !elements.is_empty() {
                found.push((set.name.as_str(), elements));
            }
        }
        Ok(found)
    }

    /// Adds the steps that put `element` into a set, in place of what has the same first part of the key.
    ///
    /// What is there is looked at before: the kernel destroys what a transaction deletes only after all its readers have moved
    /// on, and closing the socket waits for that, 10 ms and more. Additions alone cost no wait.
    pub(crate) fn put(&self, nft: &Nftables, batch: &mut Batch, set: &str, element: Element) -> Result<(), Error> {
        let mut old = nft.elements(&self.table, set).map_err(net_error)?;
        old.retain(|old| old.key.first() == element.key.first());
        batch.delete_elements(&self.table, set, &old).add_elements(&self.table, set, &[element]);
        Ok(())
    }

    /// Deletes the elements whose comment `is_stale`, after `first` where there are any. None is success.
    pub(crate) fn discard(
        &self,
        nft: &Nftables,
        is_stale: impl Fn(&str) -> bool,
        first: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Most attachments have none: they wait for nobody.
        if self.find(nft, &is_stale)?.is_empty() {
            return Ok(());
        }
        first()?;
        let _lock = RulesLock::take()?;
        let mut batch = Batch::new();
        for (set, elements) in self.find(nft, &is_stale)? {
            batch.delete_elements(&self.table, set, &elements);
        }
        nft.apply(&batch).map_err(net_error)
    }
}

impl Chain {
    fn is_complete(&self, listed: &[ListedRule]) -> bool {
        self.rules
            .iter()
            .filter(|rule| is_recognisable(rule))
            .all(|rule| listed.iter().any(|listed| listed.chain == self.name && is_same(rule, listed)))
    }

    fn wrote(&self, listed: &ListedRule) -> bool {
        listed.chain == self.name
            && self.rules.iter().any(|rule| rule.comment.is_some() && rule.comment == listed.comment)
    }
}

fn is_recognisable(rule: &Rule) -> bool {
    rule.comment.is_some() || target(rule).is_some()
}

fn is_same(rule: &Rule, listed: &ListedRule) -> bool {
    match &rule.comment {
        Some(comment) => listed.comment.as_ref() == Some(comment),
        None => listed.jump.as_deref() == target(rule),
    }
}

fn target(rule: &Rule) -> Option<&str> {
    match rule.expressions.last() {
        Some(Expression::Jump(chain) | Expression::Goto(chain)) => Some(chain),
        _ => None,
    }
}

/// What was listed; nothing where the kernel has no nf_tables.
pub(crate) fn listed<T>(nft: &Nftables, list: adit_net::Result<Vec<T>>) -> Result<Vec<T>, Error> {
    match list {
        Err(_) if !nft.is_supported().map_err(net_error)? => Ok(Vec::new()),
        list => list.map_err(net_error),
    }
}

/// A rule with a comment.
pub(crate) fn commented(expressions: impl Into<Vec<Expression>>, comment: impl Display) -> Rule {
    Rule { comment: Some(comment.to_string()), ..Rule::new(expressions) }
}
