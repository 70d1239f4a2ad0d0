//! Where in a document the value of a path stands.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::lenient::Segment;

/// A place in a text, both counted from 1; the column in bytes.
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

/// The first byte of the value at `path`, or of the innermost value on the way to it that exists.
pub(super) fn locate<'p>(document: &[u8], path: impl Iterator<Item = &'p Segment>) -> Option<Place> {
    let mut value: &RawValue = serde_json::from_slice(document).ok()?;
    for segment in path {
        let inner = match segment {
            Segment::Key(key) => find_member(value, key),
            Segment::Index(index) => {
                serde_json::from_str::<Vec<&RawValue>>(value.get()).ok().and_then(|items| items.get(*index).copied())
            }
        };
        let Some(inner) = inner else { break };
        value = inner;
    }
    // The raw value borrows from the document, so their distance is the offset.
    let offset = value.get().as_ptr().addr().checked_sub(document.as_ptr().addr())?;
    let before = document.get(..offset)?;
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline.saturating_add(1));
    Some(Place {
        line: before.iter().filter(|byte| **byte == b'\n').count().saturating_add(1),
        column: offset.saturating_sub(line_start).saturating_add(1),
    })
}

fn find_member<'a>(object: &'a RawValue, key: &str) -> Option<&'a RawValue> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(object.get()).ok()?;
    members
        .get(key)
        .copied()
        .or_else(|| members.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| *value))
}
