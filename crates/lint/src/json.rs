//! JSON as a tree with places. Whether it is JSON at all, `serde_json` decides, as for the plugins.

use serde_json::{Deserializer, Value};

use crate::node::{Kind, Member, Node, Origin, Text};

/// Why a text is no JSON, and at which of its bytes.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub at: usize,
    pub message: String,
    pub remedy: String,
}

/// The one value of `text`.
pub(crate) fn parse(text: &str, place: impl Fn(usize) -> usize, is_file: bool) -> Result<Node, Wrong> {
    serde_json::from_str::<Value>(text).map_err(|error| wrong(text, 0, &error))?;
    let mut reader = Reader { text, at: 0, place: &place, is_file };
    Ok(reader.value())
}

/// The values of `text`, one after another, as `kubectl` takes them.
pub(crate) fn parse_stream(text: &str) -> Result<Vec<Node>, Wrong> {
    let mut stream = Deserializer::from_str(text).into_iter::<Value>();
    let mut nodes = Vec::new();
    loop {
        let start = stream.byte_offset();
        match stream.next() {
            None => return Ok(nodes),
            Some(Err(error)) => return Err(wrong(text, start, &error)),
            Some(Ok(_)) => {
                let mut reader = Reader { text, at: start, place: &|at| at, is_file: true };
                nodes.push(reader.value());
            }
        }
    }
}

fn wrong(text: &str, start: usize, error: &serde_json::Error) -> Wrong {
    let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let mut at = line_start.saturating_add(error.column().saturating_sub(1)).clamp(start, text.len());
    while !text.is_char_boundary(at) {
        at = at.saturating_sub(1);
    }
    let whole = error.to_string();
    let message = whole.split(" at line ").next().unwrap_or(&whole);
    let before = text.get(..at).unwrap_or_default().trim_end();
    let found = text.get(at..).unwrap_or_default().chars().next();
    let remedy = match message {
        "trailing comma" => "remove the comma before it",
        _ if message.starts_with("EOF") => "a bracket or a quote is not closed",
        _ if matches!(found, Some('\'')) => "JSON quotes with \" only",
        _ if matches!(found, Some('#' | '/')) => "JSON has no comments",
        _ if message.starts_with("key must be a string") && before.ends_with(',') => {
            "quote the key, or remove the comma before it"
        }
        _ if message.starts_with("key must be a string") => "quote the key with \"",
        _ if message.starts_with("expected `,` or") => {
            "write the comma that is missing before it, or close the quote before"
        }
        _ if message.starts_with("trailing characters") => {
            "the value ends before it: remove what follows, or open a bracket in front"
        }
        "recursion limit exceeded" => "nest it less deeply",
        _ if message.starts_with("control character") => "close the quote before the line ends",
        _ => "write valid JSON",
    };
    Wrong { at, message: message.to_owned(), remedy: remedy.to_owned() }
}

/// Reads what is known to be JSON.
struct Reader<'a, 'p> {
    text: &'a str,
    at: usize,
    place: &'p dyn Fn(usize) -> usize,
    is_file: bool,
}

impl Reader<'_, '_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at = self.at.saturating_add(rest.len().saturating_sub(rest.trim_start().len()));
    }

    fn next_is(&mut self, wanted: char) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(wanted);
        if found {
            self.at = self.at.saturating_add(1);
        }
        found
    }

    fn value(&mut self) -> Node {
        self.skip_blanks();
        let start = self.at;
        let kind = match self.rest().chars().next() {
            Some('{') => self.map(),
            Some('[') => self.list(),
            Some('"') => Kind::Text(self.text_value()),
            _ => self.word(),
        };
        Node { at: (self.place)(start), kind }
    }

    fn map(&mut self) -> Kind {
        self.at = self.at.saturating_add(1);
        let mut members = Vec::new();
        while !self.next_is('}') && !self.rest().is_empty() {
            self.next_is(',');
            self.skip_blanks();
            let at = (self.place)(self.at);
            let key = self.text_value().value;
            self.next_is(':');
            members.push(Member { key, at, value: self.value() });
        }
        Kind::Map(members)
    }

    fn list(&mut self) -> Kind {
        self.at = self.at.saturating_add(1);
        let mut items = Vec::new();
        while !self.next_is(']') && !self.rest().is_empty() {
            self.next_is(',');
            items.push(self.value());
        }
        Kind::List(items)
    }

    fn text_value(&mut self) -> Text {
        let start = self.at;
        let mut is_escaped = false;
        let end = self.rest().char_indices().skip(1).find_map(|(at, char)| match char {
            '"' if !is_escaped => Some(at.saturating_add(1)),
            _ => {
                is_escaped = char == '\\' && !is_escaped;
                None
            }
        });
        self.at = start.saturating_add(end.unwrap_or(self.rest().len()));
        let written = self.text.get(start..self.at).unwrap_or_default();
        let origin = if self.is_file { Origin::Json(start..self.at) } else { Origin::Nested };
        Text { value: serde_json::from_str(written).unwrap_or_default(), origin }
    }

    fn word(&mut self) -> Kind {
        let rest = self.rest();
        let length = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        let word = rest.get(..length).unwrap_or_default();
        let kind = match word {
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            number => serde_json::from_str(number).map_or(Kind::Null, Kind::Number),
        };
        self.at = self.at.saturating_add(length.max(1));
        kind
    }
}
