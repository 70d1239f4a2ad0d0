//! Placeholders, patterns and the replacement of names in JSON.

use serde_json::{Map, Value};

/// Replaces `${name}` in every string and key; a string that is nothing but one placeholder becomes the value itself.
/// Names that `look_up` does not know stay as they are.
pub fn fill(value: &Value, look_up: &dyn Fn(&str) -> Option<Value>) -> Value {
    match value {
        Value::String(text) => {
            let whole = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            match whole.filter(|name| !name.contains('}')).and_then(look_up) {
                Some(value) => value,
                None => Value::String(fill_text(text, look_up)),
            }
        }
        Value::Array(items) => items.iter().map(|item| fill(item, look_up)).collect(),
        Value::Object(object) => {
            object.iter().map(|(key, item)| (fill_text(key, look_up), fill(item, look_up))).collect()
        }
        other => other.clone(),
    }
}

/// Replaces `${name}` in a text.
pub fn fill_text(text: &str, look_up: &dyn Fn(&str) -> Option<Value>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            filled.push_str("${");
            rest = after;
            continue;
        };
        match look_up(name) {
            Some(value) => filled.push_str(&plain(&value)),
            None => filled.push_str(&format!("${{{name}}}")),
        }
        rest = behind;
    }
    filled.push_str(rest);
    filled
}

/// A string without its quotes, anything else as JSON.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether `text` is what `pattern` describes; `*` stands for any characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, others)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = others.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    true
}

/// Replaces names in every string and key.
pub fn rename(value: &Value, names: &[(String, String)]) -> Value {
    match value {
        Value::String(text) => Value::String(rename_text(text, names)),
        Value::Array(items) => items.iter().map(|item| rename(item, names)).collect(),
        Value::Object(object) => {
            let renamed = object.iter().map(|(key, item)| (rename_text(key, names), rename(item, names)));
            Value::Object(renamed.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// Replaces names in a text.
pub fn rename_text(text: &str, names: &[(String, String)]) -> String {
    names
        .iter()
        .fold(text.to_owned(), |text, (from, to)| if text.contains(from) { text.replace(from, to) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn placeholders_keep_the_type_of_what_they_stand_for() {
        let look_up = |name: &str| (name == "n").then(|| json!(7));
        let filled = fill(&json!({"a": "${n}", "b": "x${n}y", "c": "${other}", "${n}": ["${n}"]}), &look_up);
        assert_eq!(filled, json!({"a": 7, "b": "x7y", "c": "${other}", "7": [7]}));
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text) in
            [("a", "a"), ("*", ""), ("a*c", "abbc"), ("*/x/*", "a/x/b"), ("a*b*c", "a1b2c"), ("a*", "a")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*c", "ab"), ("*/x/*", "a/y/b"), ("a*a", "a"), ("a*bc", "abcd")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
