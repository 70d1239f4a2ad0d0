//! YAML as trees with places.

use std::{collections::BTreeMap, ops::Range};

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::{
    json::Wrong,
    node::{Kind, Member, Node, Origin, Text},
};

/// Aliases may make much of little; no manifest is larger.
const MOST_NODES: usize = 1_000_000;
/// No manifest is nested deeper.
const DEEPEST: usize = 128;

/// A collection that is not closed yet.
struct Open {
    at: usize,
    anchor: usize,
    is_map: bool,
    nodes: Vec<Node>,
}

/// The documents of a file.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Wrong> {
    let mut parser = Parser::new_from_str(text);
    let mut documents = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: BTreeMap<usize, Node> = BTreeMap::new();
    let mut count = 0_usize;
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| Wrong {
            at: error.marker().byte_offset().unwrap_or_default().min(text.len()),
            message: error.info(),
            remedy: "write valid YAML: look at the indentation and the quotes up to here".to_owned(),
        })?;
        let at = range(&span).start;
        let too_much = |what: &str| Wrong { at, message: what.to_owned(), remedy: "write it out".to_owned() };
        count = count.saturating_add(1);
        if open.len() > DEEPEST {
            return Err(too_much("is nested too deeply"));
        }
        let (node, anchor) = match event {
            Event::Scalar(value, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
                (scalar(value.into_owned(), style, range(&span), is_text), anchor)
            }
            Event::Alias(id) => {
                let node = anchors.get(&id).cloned().ok_or_else(|| too_much("is an alias of something around it"))?;
                count = count.saturating_add(size(&node));
                (node, 0)
            }
            Event::SequenceStart(_, anchor, _) => {
                open.push(Open { at, anchor, is_map: false, nodes: Vec::new() });
                continue;
            }
            Event::MappingStart(_, anchor, _) => {
                open.push(Open { at, anchor, is_map: true, nodes: Vec::new() });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(closed) = open.pop() else { continue };
                let anchor = closed.anchor;
                (close(closed), anchor)
            }
            Event::DocumentStart(..) => {
                anchors.clear();
                continue;
            }
            _ => continue,
        };
        if count > MOST_NODES {
            return Err(too_much("has too many values"));
        }
        if anchor != 0 {
            anchors.insert(anchor, node.clone());
        }
        match open.last_mut() {
            Some(around) => around.nodes.push(node),
            None => documents.push(node),
        }
    }
    Ok(documents)
}

fn range(span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or_default()
}

fn size(node: &Node) -> usize {
    let inner: usize = match &node.kind {
        Kind::List(items) => items.iter().map(size).sum(),
        Kind::Map(members) => members.iter().map(|member| size(&member.value)).sum(),
        _ => 0,
    };
    inner.saturating_add(1)
}

fn close(open: Open) -> Node {
    let Open { at, is_map, nodes, .. } = open;
    if !is_map {
        return Node { at, kind: Kind::List(nodes) };
    }
    let mut members: Vec<Member> = Vec::new();
    let mut merged: Vec<Member> = Vec::new();
    let mut nodes = nodes.into_iter();
    while let (Some(key), Some(value)) = (nodes.next(), nodes.next()) {
        match key.text() {
            Some("<<") => {
                merged.extend(value.members().iter().chain(value.items().iter().flat_map(Node::members)).cloned())
            }
            _ => members.push(Member { key: word(&key), at: key.at, value }),
        }
    }
    for member in merged {
        if !members.iter().any(|known| known.key == member.key) {
            members.push(member);
        }
    }
    Node { at, kind: Kind::Map(members) }
}

/// A key, which JSON has as texts only.
fn word(key: &Node) -> String {
    match &key.kind {
        Kind::Text(text) => text.value.clone(),
        _ => key.to_value().to_string(),
    }
}

/// A value as Kubernetes' own reader (YAML 1.1) takes it.
fn scalar(value: String, style: ScalarStyle, range: Range<usize>, is_text: bool) -> Node {
    let at = range.start;
    if style != ScalarStyle::Plain || is_text {
        return Node { at, kind: Kind::Text(Text { value, origin: Origin::Yaml(range, style) }) };
    }
    let kind = match value.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Kind::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Kind::Bool(false),
        text => match serde_json::from_str(text) {
            Ok(number) => Kind::Number(number),
            Err(_) => Kind::Text(Text { value, origin: Origin::Yaml(range, style) }),
        },
    };
    Node { at, kind }
}
