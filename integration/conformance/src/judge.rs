//! What the protocol asks of every answer, and what a case asks of this one. Independent of any CNI library.

use ipnetwork::IpNetwork;
use regex_lite::Regex;
use serde_json::Value;

use crate::{
    case::Expect,
    run::{Answer, Call},
};

/// What is wrong with an answer; empty when nothing is.
pub fn answer(call: &Call, answer: &Answer, expect: &Expect) -> Vec<String> {
    if answer.killed {
        return Vec::new();
    }
    if answer.late {
        return vec!["did not end within the deadline".to_owned()];
    }
    let Some(exit) = answer.exit else { return vec!["was ended by a signal".to_owned()] };
    let mut wrong = Vec::new();
    match (expect.code.is_null(), exit == 0) {
        (_, _) if expect.either => {}
        (true, false) => wrong.push(format!("failed: {}", answer.stdout_shown())),
        (false, true) => wrong.push(format!("succeeded, error {} expected", expect.code)),
        _ => {}
    }
    match expect.stdout.as_deref() {
        Some("empty") if !answer.stdout.is_empty() => wrong.push(format!("stdout: {}", answer.stdout_shown())),
        Some(_) => {}
        None if exit == 0 => wrong.extend(success(call, answer)),
        None => wrong.extend(error(answer, expect)),
    }
    if exit == 0 && !expect.result.is_null() {
        let document = answer.document.as_ref().unwrap_or(&Value::Null);
        part(&expect.result, document, "result", Arrays::Exact, &mut wrong);
    }
    wrong
}

/// Section 2, "CNI operations", and section 5: the output of each verb.
fn success(call: &Call, answer: &Answer) -> Vec<String> {
    let expects_document = matches!(call.verb.as_str(), "ADD" | "VERSION");
    if !expects_document {
        let empty = answer.stdout.trim().is_empty();
        return if empty { Vec::new() } else { vec![format!("stdout has no place here: {}", answer.stdout_shown())] };
    }
    match &answer.document {
        None => vec![format!("stdout is not one JSON document: {}", answer.stdout_shown())],
        Some(document) if call.verb == "VERSION" => version(document),
        Some(document) => result(document, call.version()),
    }
}

/// Section 5, "Error".
fn error(answer: &Answer, expect: &Expect) -> Vec<String> {
    let Some(document) = &answer.document else {
        return vec![format!("stdout is not one error document: {}", answer.stdout_shown())];
    };
    let mut wrong = Vec::new();
    let code = document.get("code").and_then(Value::as_u64);
    let message = document.get("msg").and_then(Value::as_str);
    if code.is_none_or(|code| code == 0) {
        wrong.push(format!("the error has no code: {document}"));
    }
    if message.is_none_or(str::is_empty) {
        wrong.push(format!("the error has no msg: {document}"));
    }
    let found = document.get("code").unwrap_or(&Value::Null);
    let right = match &expect.code {
        Value::Array(codes) => codes.contains(found),
        Value::Number(_) => expect.code == *found,
        _ => true,
    };
    if !right {
        wrong.push(format!("error code {found}, {} expected: {document}", expect.code));
    }
    if let Some(pattern) = &expect.msg {
        let details = document.get("details").and_then(Value::as_str).unwrap_or_default();
        let text = format!("{}; {details}", message.unwrap_or_default());
        match Regex::new(pattern) {
            Ok(regex) if regex.is_match(&text) => {}
            Ok(_) => wrong.push(format!("the text {text:?} does not match {pattern:?}")),
            Err(error) => wrong.push(format!("the case's pattern {pattern:?}: {error}")),
        }
    }
    wrong
}

/// Section 5, "Version".
fn version(document: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    if document.get("cniVersion").and_then(Value::as_str).is_none() {
        wrong.push("the version document has no cniVersion".to_owned());
    }
    let versions = document.get("supportedVersions").and_then(Value::as_array);
    if versions.is_none_or(|versions| versions.is_empty() || !versions.iter().all(Value::is_string)) {
        wrong.push("supportedVersions is no list of versions".to_owned());
    }
    wrong
}

/// Section 5, "ADD Success", in the form of each version.
fn result(document: &Value, version: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let found = document.get("cniVersion").and_then(Value::as_str);
    if found != Some(version) {
        wrong.push(format!("result/cniVersion is {found:?}, the configuration's is {version:?}"));
    }
    if matches!(version, "0.1.0" | "0.2.0") {
        for (key, other) in [("ip4", "IPv4"), ("ip6", "IPv6")] {
            let ip = document.get(key).map(|family| family.get("ip").and_then(cidr));
            if ip.is_some_and(|ip| ip.is_none_or(|ip| ip.is_ipv4() != (key == "ip4"))) {
                wrong.push(format!("result/{key}/ip is no {other} address with a prefix length"));
            }
        }
        for key in ["interfaces", "ips"] {
            if document.get(key).is_some() {
                wrong.push(format!("result/{key} does not exist in {version}"));
            }
        }
        return wrong;
    }
    let list = |key: &str| document.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let interfaces = list("interfaces").len();
    for ip in list("ips") {
        let address = ip.get("address").and_then(cidr);
        if address.is_none() {
            wrong.push(format!("{ip} has no address with a prefix length"));
        }
        let index = ip.get("interface").and_then(Value::as_u64);
        if index.is_some_and(|index| usize::try_from(index).is_ok_and(|index| index >= interfaces)) {
            wrong.push(format!("{ip} points at an interface that is not in the result"));
        }
        let family = address.map(|address| if address.is_ipv4() { "4" } else { "6" });
        let wanted = if version.starts_with('0') { family } else { None };
        if ip.get("version").and_then(Value::as_str) != wanted {
            wrong.push(format!("{ip}: version {wanted:?} expected in {version}"));
        }
    }
    for interface in list("interfaces") {
        if interface.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            wrong.push(format!("{interface} has no name"));
        }
    }
    for route in list("routes") {
        if route.get("dst").and_then(cidr).is_none() {
            wrong.push(format!("route {route} has no destination with a prefix length"));
        }
    }
    wrong
}

fn cidr(value: &Value) -> Option<IpNetwork> {
    value.as_str().filter(|text| text.contains('/'))?.parse().ok()
}

/// How an array of an expectation is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arrays {
    /// As many items, in this order.
    Exact,
    /// Each of these occurs, in any order; an empty one means that there are none.
    Contain,
}

/// Appends where `found` lacks what `expected` asks for. Objects may hold more; `null` means absent; a string that begins
/// with `~` is a regular expression, one with `!~` one that must not match (in the value's JSON text); a key that begins with `!` holds a list of which nothing may occur.
pub fn part(expected: &Value, found: &Value, path: &str, arrays: Arrays, wrong: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(keys), Value::Object(object)) => {
            for (key, expected) in keys {
                if let Some(key) = key.strip_prefix('!') {
                    let items = object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                    let banned = expected.as_array().map(Vec::as_slice).unwrap_or_default();
                    for item in items.iter().filter(|item| banned.iter().any(|banned| fits(banned, item, arrays))) {
                        wrong.push(format!("{path}/{key} has {item}"));
                    }
                    continue;
                }
                let found = object.get(key).unwrap_or(&Value::Null);
                part(expected, found, &format!("{path}/{key}"), arrays, wrong);
            }
        }
        (Value::Array(items), Value::Array(found)) if arrays == Arrays::Exact => {
            if items.len() != found.len() {
                wrong.push(format!("{path} has {} items, {} expected: {}", found.len(), items.len(), shown(found)));
                return;
            }
            for (index, (expected, found)) in items.iter().zip(found).enumerate() {
                part(expected, found, &format!("{path}/{index}"), arrays, wrong);
            }
        }
        (Value::Array(items), Value::Array(found)) => {
            if items.is_empty() && !found.is_empty() {
                wrong.push(format!("{path} is not empty: {}", shown(found)));
            }
            for expected in items.iter().filter(|expected| !found.iter().any(|found| fits(expected, found, arrays))) {
                wrong.push(format!("{path} lacks {expected}: {}", shown(found)));
            }
        }
        (Value::String(pattern), found) if pattern.starts_with('~') => {
            let text = crate::text::plain(found);
            let regex = Regex::new(pattern.trim_start_matches('~'));
            if found.is_null() || !regex.is_ok_and(|regex| regex.is_match(&text)) {
                wrong.push(format!("{path} is {found}, which does not match {pattern:?}"));
            }
        }
        (Value::String(pattern), found) if pattern.starts_with("!~") => {
            let text = crate::text::plain(found);
            if !Regex::new(pattern.trim_start_matches("!~")).is_ok_and(|regex| !regex.is_match(&text)) {
                wrong.push(format!("{path} has what matches {pattern:?}: {text}"));
            }
        }
        (Value::Array(items), Value::Null) if items.is_empty() => {}
        _ if expected == found => {}
        _ => wrong.push(format!("{path} is {found}, {expected} expected")),
    }
}

fn fits(expected: &Value, found: &Value, arrays: Arrays) -> bool {
    let mut wrong = Vec::new();
    part(expected, found, "", arrays, &mut wrong);
    wrong.is_empty()
}

fn shown(items: &[Value]) -> String {
    let text = Value::from(items).to_string();
    if text.chars().count() > 600 { text.chars().take(600).chain(['…']).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(expected: &Value, found: &Value, arrays: Arrays) -> Vec<String> {
        let mut wrong = Vec::new();
        part(expected, found, "at", arrays, &mut wrong);
        wrong
    }

    #[test]
    fn a_part_may_be_less_than_the_whole_but_not_different() {
        let found = json!({"a": 1, "b": [{"c": "x", "d": 2}, {"c": "y"}]});
        for right in [
            json!({"a": 1}),
            json!({"z": null}),
            json!({"b": [{"c": "y"}]}),
            json!({"b": [{"c": "~^[xy]$"}]}),
            json!({"!b": [{"c": "z"}]}),
        ] {
            assert_eq!(wrong(&right, &found, Arrays::Contain), Vec::<String>::new(), "{right}");
        }
        for different in [
            json!({"a": 2}),
            json!({"a": null}),
            json!({"b": []}),
            json!({"b": [{"c": "z"}]}),
            json!({"!b": [{"c": "x"}]}),
            json!({"z": "~."}),
        ] {
            assert_eq!(wrong(&different, &found, Arrays::Contain).len(), 1, "{different}");
        }
        assert_eq!(wrong(&json!({"b": [{"c": "y"}]}), &found, Arrays::Exact).len(), 1);
    }

    #[test]
    fn results_are_judged_by_the_form_of_their_version() {
        let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/24"}, "dns": {}});
        assert_eq!(result(&old, "0.2.0"), Vec::<String>::new());
        assert_eq!(result(&json!({"cniVersion": "0.2.0", "ip6": {"ip": "10.0.0.1/24"}, "ips": []}), "0.2.0").len(), 2);
        let ip = |version: Value| {
            json!({"cniVersion": "x", "interfaces": [{"name": "net1"}],
                   "ips": [{"address": "10.0.0.1/24", "interface": 0, "version": version}]})
        };
        let mut four = ip(json!("4"));
        four["cniVersion"] = json!("0.4.0");
        assert_eq!(result(&four, "0.4.0"), Vec::<String>::new());
        assert_eq!(result(&four, "1.0.0").len(), 2, "the version, and the key that is no longer there");
        four["ips"][0]["interface"] = json!(1);
        four["ips"][0]["address"] = json!("10.0.0.1");
        assert_eq!(result(&four, "0.4.0").len(), 3);
    }
}
