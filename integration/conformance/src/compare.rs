//! Two implementations side by side: random names and addresses made equal, everything else to the letter.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{case::Instance, run::Record, text};

/// A point where two implementations differ.
#[derive(Debug, Clone)]
pub struct Difference {
    /// `step/state/pod1/links/net1/mtu`, `step/result/ips/0/address`, `step/code`.
    pub point: String,
    /// What the plugins under test show; `null` when nothing.
    pub plugins: Value,
    /// What the others show.
    pub against: Value,
}

/// A difference that is meant, from the file of `--expect`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Improvement {
    /// Pattern of instance names.
    pub case: String,
    /// Patterns of points; each must occur.
    pub points: Vec<String>,
    /// What is better, and for whom.
    pub why: String,
    /// The paragraph that decides.
    pub spec: String,
    /// What the others show, where only that is meant.
    #[serde(default)]
    pub theirs: Value,
    /// It depends on chance, as what a kill leaves behind does.
    #[serde(default)]
    pub sometimes: bool,
    /// The references (`--reference`) that differ in this; empty: all.
    #[serde(default)]
    pub against: Vec<String>,
}

/// The differences of two records of one case, without those that the case leaves out.
pub fn differences(instance: &Instance, plugins: &Record, against: &Record) -> Vec<Difference> {
    let mut found = Vec::new();
    let (plugins, against) = (comparable(instance, plugins), comparable(instance, against));
    diff(&plugins, &against, "", &mut found);
    found.retain(|difference| {
        !instance.case.ignore.iter().any(|ignore| text::matches(&ignore.point, &difference.point))
    });
    found
}

/// Appends where two values differ.
pub fn diff(one: &Value, other: &Value, path: &str, found: &mut Vec<Difference>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let value = |object: &Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                diff(&value(one), &value(other), &below(key), found);
            }
        }
        // The kernel's lists have no order that anybody relies on.
        (Value::Array(one), Value::Array(other)) if path.contains("state") => {
            let (mut left, mut right) = (one.clone(), other.clone());
            left.retain(|item| !take(&mut right, item));
            if !left.is_empty() || !right.is_empty() {
                found.push(Difference { point: path.to_owned(), plugins: left.into(), against: right.into() });
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                diff(one, other, &below(&index.to_string()), found);
            }
        }
        _ if one == other => {}
        _ => found.push(Difference { point: path.to_owned(), plugins: one.clone(), against: other.clone() }),
    }
}

fn take(items: &mut Vec<Value>, wanted: &Value) -> bool {
    let position = items.iter().position(|item| item == wanted);
    position.map(|position| items.swap_remove(position)).is_some()
}

/// What is compared of a record.
fn comparable(instance: &Instance, record: &Record) -> Value {
    let names = names(instance, record);
    let mut steps = Map::new();
    for step in &record.steps {
        let answer = &step.answer;
        let mut shown = json!({ "outcome": answer.outcome() });
        if let Some(object) = shown.as_object_mut() {
            match &answer.document {
                Some(document) if answer.exit == Some(0) => {
                    object.insert("result".to_owned(), document.clone());
                }
                // Texts are for people; where one matters, the case has a pattern for it.
                Some(document) => {
                    object.insert("code".to_owned(), document.get("code").cloned().unwrap_or_default());
                }
                None if answer.killed => {}
                None => {
                    object.insert("stdout".to_owned(), answer.stdout.clone().into());
                }
            }
            if let Some(state) = &step.state {
                object.insert("state".to_owned(), state.clone());
            }
        }
        steps.insert(step.name.clone(), shown);
    }
    keyed(&text::rename(&Value::Object(steps), &names))
}

/// Without indices, and with routes and addresses by name, so that a difference in one says in which.
fn keyed(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, _)| *key != "ifindex");
            let named = kept.map(|(key, value)| match (key.as_str(), value.as_array()) {
                ("routes", Some(routes)) if object.contains_key("links") => {
                    (key.clone(), by(routes, &["type", "dst", "gateway", "dev", "metric", "table"]))
                }
                ("addr_info", Some(addresses)) => (key.clone(), by(addresses, &["local", "prefixlen"])),
                _ => (key.clone(), keyed(value)),
            });
            named.collect()
        }
        Value::Array(items) => items.iter().map(keyed).collect(),
        other => other.clone(),
    }
}

fn by(items: &[Value], keys: &[&str]) -> Value {
    let name = |item: &Value| -> String {
        let parts = keys.iter().filter_map(|key| item.get(key)).map(text::plain);
        parts.collect::<Vec<_>>().join(" ")
    };
    items.iter().map(|item| (name(item), item.clone())).collect::<Map<_, _>>().into()
}

/// Names and MAC addresses that do not occur in the case are random; each gets a name by whose it is.
fn names(instance: &Instance, record: &Record) -> Vec<(String, String)> {
    let known: BTreeSet<&str> =
        instance.source.split(|c: char| !(c.is_alphanumeric() || "_.-:".contains(c))).chain(["lo", "net1"]).collect();
    let is_random = |name: &str| name.len() > 3 && !known.contains(name);
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for step in &record.steps {
        let interfaces = step.answer.document.as_ref().and_then(|document| document.get("interfaces")?.as_array());
        for (index, interface) in interfaces.into_iter().flatten().enumerate() {
            if let Some(name) = interface.get("name").and_then(Value::as_str).filter(|name| is_random(name)) {
                names.entry(name.to_owned()).or_insert_with(|| format!("<{}.{index}>", step.owner));
            }
        }
    }
    let states = || record.start.iter().chain(record.steps.iter().filter_map(|step| step.state.as_ref()));
    for (place, name, link) in states().flat_map(links) {
        if is_random(name) && !names.contains_key(name) {
            let kind = link.pointer("/linkinfo/info_kind").and_then(Value::as_str).unwrap_or("link");
            let number = names.len();
            names.insert(name.to_owned(), format!("<{place}.{kind}{number}>"));
        }
    }
    let mut macs: BTreeMap<String, String> = BTreeMap::new();
    let mut owners: Vec<(String, String)> = states()
        .flat_map(links)
        .filter_map(|(place, name, link)| {
            let mac = link.get("address")?.as_str()?;
            let name = names.get(name).map_or(name, String::as_str);
            (!known.contains(mac) && mac != "00:00:00:00:00:00")
                .then(|| (format!("<mac of {place}/{name}>"), mac.to_owned()))
        })
        .collect();
    owners.sort();
    for (owner, mac) in owners {
        macs.entry(mac).or_insert(owner);
    }
    names.into_iter().chain(macs).collect()
}

fn links(state: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    state.as_object().into_iter().flatten().flat_map(|(place, picture)| {
        let links = picture.get("links").and_then(Value::as_object);
        let mut links: Vec<_> = links.into_iter().flatten().collect();
        links.sort_by_key(|(_, link)| link.get("ifindex").and_then(Value::as_u64));
        links.into_iter().map(|(name, link)| (place.as_str(), name.as_str(), link))
    })
}

impl Improvement {
    /// Whether it is about this reference.
    pub fn concerns(&self, reference: Option<&str>) -> bool {
        self.against.is_empty() || reference.is_none_or(|name| self.against.iter().any(|against| against == name))
    }

    /// Whether it may be absent: by chance, or because nobody said which reference this is.
    pub fn may_be_absent(&self, reference: Option<&str>) -> bool {
        self.sometimes || (reference.is_none() && !self.against.is_empty())
    }

    /// Whether it explains a difference.
    pub fn explains(&self, instance: &str, difference: &Difference) -> bool {
        text::matches(&self.case, instance) && self.points.iter().any(|pattern| self.is_at(pattern, difference))
    }

    /// Whether a difference is what one of the patterns means.
    pub fn is_at(&self, pattern: &str, difference: &Difference) -> bool {
        text::matches(pattern, &difference.point) && (self.theirs.is_null() || self.theirs == difference.against)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(one: &Value, other: &Value) -> Vec<String> {
        let mut found = Vec::new();
        diff(one, other, "", &mut found);
        found.into_iter().map(|difference| difference.point).collect()
    }

    #[test]
    fn lists_of_the_kernel_have_no_order_and_lists_of_results_have() {
        let (one, other) = (json!([1, 2, 2]), json!([2, 1, 2]));
        assert_eq!(
            points(&json!({"state": {"routes": one}}), &json!({"state": {"routes": other}})),
            Vec::<String>::new()
        );
        assert_eq!(points(&json!({"result": one}), &json!({"result": other})), ["result/0", "result/1"]);
        assert_eq!(points(&json!({"state": [1, 1]}), &json!({"state": [1]})), ["state"]);
    }
}
