//! A document as a tree in which everything knows where it stands.

use std::ops::Range;

use granit_parser::ScalarStyle;
use serde_json::{Map, Number, Value};

/// A value and the offset in the file at which it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// A text, and how the file writes it.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub value: String,
    pub origin: Origin,
}

/// The notation of a text, from which the place of each of its characters follows.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Yaml(Range<usize>, ScalarStyle),
    Json(Range<usize>),
    /// A text within a text.
    Nested,
}

/// One `key: value`.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub key: String,
    pub at: usize,
    pub value: Node,
}

/// A step into a map or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl Node {
    pub fn members(&self) -> &[Member] {
        match &self.kind {
            Kind::Map(members) => members,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// The member of that name, the last one if there are several; a null is as good as none.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.member(key).map(|member| &member.value).filter(|value| !matches!(value.kind, Kind::Null))
    }

    /// The same in whatever case the key is written, as CNI plugins read their keys.
    pub fn get_any_case(&self, key: &str) -> Option<&Self> {
        self.get(key).or_else(|| {
            let found = self.members().iter().rev().find(|member| member.key.eq_ignore_ascii_case(key));
            found.map(|member| &member.value).filter(|value| !matches!(value.kind, Kind::Null))
        })
    }

    pub fn member(&self, key: &str) -> Option<&Member> {
        self.members().iter().rev().find(|member| member.key == key)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(&text.value),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<u64> {
        match &self.kind {
            Kind::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    /// Follows `path` as far as it exists.
    pub fn follow(&self, path: &[Step]) -> &Self {
        let mut node = self;
        for step in path {
            let next = match step {
                Step::Key(key) => node.get_any_case(key),
                Step::Index(index) => node.items().get(*index),
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }

    /// What it is, in a message.
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "an object",
        }
    }

    pub fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.value.clone()),
            Kind::List(items) => items.iter().map(Self::to_value).collect(),
            Kind::Map(_) => Value::Object(self.to_object()),
        }
    }

    /// The members, the last of equal keys.
    pub fn to_object(&self) -> Map<String, Value> {
        self.members().iter().map(|member| (member.key.clone(), member.value.to_value())).collect()
    }

    /// The keys that stand in one map more than once, each at its later places.
    pub fn duplicates(&self, found: &mut Vec<(String, usize)>) {
        match &self.kind {
            Kind::List(items) => items.iter().for_each(|item| item.duplicates(found)),
            Kind::Map(members) => {
                for (index, member) in members.iter().enumerate() {
                    if members.iter().take(index).any(|earlier| earlier.key == member.key) {
                        found.push((member.key.clone(), member.at));
                    }
                    member.value.duplicates(found);
                }
            }
            _ => {}
        }
    }
}

/// `peers[1].endpoint` as steps.
pub(crate) fn path(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in text.split('.') {
        let mut pieces = part.split('[');
        steps.extend(pieces.next().filter(|name| !name.is_empty()).map(|name| Step::Key(name.to_owned())));
        steps.extend(pieces.filter_map(|index| index.trim_end_matches(']').parse().ok().map(Step::Index)));
    }
    steps
}
