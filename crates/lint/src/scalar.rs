//! Where in the file each character of a text stands.
//!
//! A configuration inside a manifest is JSON inside a YAML text, which may be a block, folded, or quoted in two ways. All of them
//! keep every character that is not blank, in its order; what differs is blanks, line breaks and escapes.

use granit_parser::ScalarStyle;

use crate::node::{Origin, Text};

impl Text {
    /// The offset in `source`, the whole file, of each byte of the text, and of its end. `None` for a text within a text.
    pub fn offsets(&self, source: &str) -> Option<Vec<usize>> {
        let (range, is_escaped, is_single) = match &self.origin {
            Origin::Nested => return None,
            Origin::Json(range) => (range, true, false),
            Origin::Yaml(range, style) => {
                (range, *style == ScalarStyle::DoubleQuoted, *style == ScalarStyle::SingleQuoted)
            }
        };
        let written = source.get(range.clone())?;
        let start = range.start.saturating_add(content_start(written, &self.origin));
        let mut cursor = Cursor { source, at: start, end: range.end };
        let mut offsets = Vec::with_capacity(self.value.len().saturating_add(1));
        for wanted in self.value.chars() {
            let at = if is_escaped {
                cursor.next_escaped(wanted)
            } else if wanted.is_whitespace() {
                cursor.at
            } else {
                cursor.skip_to(wanted, is_single)
            };
            offsets.extend(std::iter::repeat_n(at, wanted.len_utf8()));
        }
        offsets.push(cursor.at.min(range.end));
        Some(offsets)
    }
}

/// How far the content is from the text's first mark: behind the quote, or below the line with `|` or `>`.
fn content_start(written: &str, origin: &Origin) -> usize {
    match origin {
        Origin::Yaml(_, ScalarStyle::Literal | ScalarStyle::Folded) if written.starts_with(['|', '>']) => {
            written.find('\n').map_or(written.len(), |line| line.saturating_add(1))
        }
        Origin::Yaml(_, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) | Origin::Json(_) => 1,
        _ => 0,
    }
}

struct Cursor<'a> {
    source: &'a str,
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.source.get(self.at..self.end)?.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at = self.at.saturating_add(next.len_utf8());
        Some(next)
    }

    /// The place of the next `wanted`, which is not blank: only blanks are before it.
    fn skip_to(&mut self, wanted: char, is_single: bool) -> usize {
        while self.peek().is_some_and(|found| found != wanted) {
            self.bump();
        }
        let at = self.at;
        self.bump();
        if is_single && wanted == '\'' && self.peek() == Some('\'') {
            self.bump();
        }
        at
    }

    /// The place of `wanted` in a text with escapes: itself, the escape that means it, or the blanks that were folded into it.
    fn next_escaped(&mut self, wanted: char) -> usize {
        let at = self.at;
        match self.peek() {
            Some('\\') => {
                let at = self.at;
                if self.escape() { at } else { self.next_escaped(wanted) }
            }
            Some(found) if found == wanted && found != '\n' => {
                self.bump();
                at
            }
            Some(found) if found.is_whitespace() => self.folded(wanted),
            _ => {
                self.bump();
                at
            }
        }
    }

    /// Blanks with line breaks among them: one break is a blank, more of them are breaks less one.
    fn folded(&mut self, wanted: char) -> usize {
        let start = self.at;
        let rest = self.source.get(self.at..self.end).unwrap_or_default();
        let run = rest.len().saturating_sub(rest.trim_start_matches([' ', '\t', '\r', '\n']).len());
        let end = start.saturating_add(run);
        let breaks = rest.get(..run).unwrap_or_default().matches('\n').count();
        if wanted == '\n' && breaks > 2 {
            // One of several: leave the others for those that follow.
            while self.bump().is_some_and(|found| found != '\n') {}
            return start;
        }
        self.at = end;
        if wanted.is_whitespace() { start } else { self.next_escaped(wanted) }
    }

    /// Passes an escape; false for one that joins lines, which means nothing.
    fn escape(&mut self) -> bool {
        self.bump();
        let digits = match self.bump() {
            Some('x') => 2_u32,
            Some('u') => 4,
            Some('U') => 8,
            Some('\r' | '\n') => {
                while self.peek().is_some_and(|found| matches!(found, ' ' | '\t' | '\n' | '\r')) {
                    self.bump();
                }
                return false;
            }
            _ => 0,
        };
        for _ in 0..digits {
            self.bump();
        }
        // The second half of a pair is no character of its own.
        let is_high = |text: &str| {
            matches!(text.get(..4).map(str::to_ascii_lowercase).as_deref(), Some("\\udc" | "\\udd" | "\\ude" | "\\udf"))
        };
        if digits == 4 && self.source.get(self.at..self.end).is_some_and(is_high) {
            for _ in 0..6 {
                self.bump();
            }
        }
        true
    }
}
