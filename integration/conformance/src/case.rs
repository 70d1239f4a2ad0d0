//! The format of a case, and how files become the instances that run. `case.schema.json` describes the same for editors.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, Result, text};

/// One file below `cases/`, after `each` and `plugin` have been filled in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Case {
    /// What is tried, in a sentence.
    pub description: String,
    /// The paragraph that decides: of the CNI specification, of CONVENTIONS.md or of the plugin's documentation.
    pub spec: String,
    /// Printed beside a difference between two implementations: which behaviour follows from `spec`, or "unspecified".
    #[serde(default)]
    pub verdict: String,
    /// The program under test; `*` in the file stands for every program of the directory.
    pub plugin: String,
    /// Programs, protocol versions and kernel features without which the case says nothing.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Variables and their values: one instance for every combination.
    #[serde(default, rename = "each")]
    _each: BTreeMap<String, Vec<Value>>,
    /// Shell commands before the first step, on the node or (`pod1: …`) in a pod.
    #[serde(default)]
    pub setup: Vec<String>,
    /// Files of the case by name, made in `${dir}`. Those that begin with `#!` are plugins that can be delegated to.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// How many pods there are.
    #[serde(default = "one")]
    pub pods: u32,
    /// The plugin's configuration; `cniVersion`, `name` and `type` have defaults.
    #[serde(default)]
    pub config: Value,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// Differences between implementations that say nothing, with the reason.
    #[serde(default)]
    pub ignore: Vec<Ignore>,
}

/// A call of the plugin (`verb`), a shell command (`run`), the end of a pod's namespace (`remove`), or several at once
/// (`together`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Step {
    /// How later steps and the report call it; else the verb in small letters, numbered when it occurs again.
    pub name: Option<String>,
    /// The program, where it is another than the case's: a member of a chain.
    pub plugin: Option<String>,
    /// `CNI_COMMAND`.
    pub verb: Option<String>,
    /// A shell command that must succeed, on the node or (`pod1: …`) in a pod.
    pub run: Option<String>,
    /// The name of a pod whose namespace ends.
    pub remove: Option<String>,
    /// Steps that begin at the same moment.
    pub together: Vec<Step>,
    /// The same call for the pods 1 to N at the same moment.
    pub parallel: u32,
    /// Number of the pod.
    pub pod: Option<u32>,
    /// Changes of the case's `config` as an RFC 7396 merge patch.
    pub config: Value,
    /// Standard input as it stands, instead of a configuration.
    pub stdin: Option<String>,
    /// Changes of the environment; `null` removes a variable.
    pub env: BTreeMap<String, Option<String>>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
    /// What `CNI_NETNS` says.
    pub netns: NetnsRef,
    /// The step whose result becomes `prevResult`, or a result.
    pub prev_result: Value,
    /// When the plugin is killed.
    pub kill: Option<Kill>,
    /// What the plugin must answer.
    pub expect: Expect,
    /// What the kernel must show afterwards: a part of the state.
    pub state: Value,
    /// The whole state must be what it was.
    pub unchanged: Option<Unchanged>,
}

/// What `CNI_NETNS` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetnsRef {
    /// The pod's namespace.
    #[default]
    Pod,
    /// The variable is not set.
    Absent,
    /// The variable is empty.
    Empty,
    /// A path where nothing is.
    Gone,
    /// The namespace that the plugin itself runs in.
    Own,
    /// A path where an ordinary file is.
    File,
}

/// A point at which the plugin gets SIGKILL.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Kill {
    /// Microseconds after the start; a number, also as text so that `each` can give it.
    pub after_us: Option<Value>,
    /// As soon as this file exists.
    pub file: Option<String>,
    /// As soon as this link exists: `pod1/net1`, `node/br0`.
    pub link: Option<String>,
    /// The plugin's children live on.
    pub only_plugin: bool,
}

/// What a plugin must answer. Without any key: success, with the output that the verb has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Expect {
    /// Code of the error document, or a list of codes that are all right; `"any"` for some error.
    pub code: Value,
    /// Regular expression that `msg` or `details` matches.
    pub msg: Option<String>,
    /// A part of the result.
    pub result: Value,
    /// Standard output: `empty` or `any`, where the verb's usual one is not right.
    pub stdout: Option<String>,
    /// Success and failure are both right.
    pub either: bool,
}

/// The state must equal that after an earlier step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unchanged {
    /// A step's name; `start` is before the first step.
    pub since: String,
    /// Points that may differ.
    #[serde(default)]
    pub except: Vec<String>,
}

/// A point where implementations may differ.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// Pattern of points.
    pub point: String,
    /// The reason.
    #[serde(rename = "why")]
    _why: String,
}

/// A case as it runs.
#[derive(Debug, Clone)]
pub struct Instance {
    /// `group/file`, with `@value` for what `each` and `plugin: "*"` filled in.
    pub name: String,
    /// The case.
    pub case: Case,
    /// Its text: what occurs in it is no random name.
    pub source: String,
}

fn one() -> u32 {
    1
}

/// The instances of one file; `plugins` are the programs that `*` stands for.
pub fn instances(name: &str, source: &str, plugins: &[String]) -> Result<Vec<Instance>> {
    let bad = |source: serde_json::Error| Error::Case { name: name.to_owned(), source };
    let value: Value = serde_json::from_str(source).map_err(bad)?;
    let mut variables: Vec<(String, Vec<Value>)> = Vec::new();
    if value.get("plugin").and_then(Value::as_str) == Some("*") {
        variables.push(("plugin".to_owned(), plugins.iter().cloned().map(Value::from).collect()));
    }
    for (key, values) in value.get("each").and_then(Value::as_object).into_iter().flatten() {
        variables.push((key.clone(), values.as_array().cloned().unwrap_or_default()));
    }
    let mut combinations: Vec<Vec<(String, Value)>> = vec![Vec::new()];
    for (key, values) in &variables {
        let extend = |combination: &Vec<(String, Value)>| -> Vec<_> {
            values.iter().map(|value| [combination.as_slice(), &[(key.clone(), value.clone())]].concat()).collect()
        };
        combinations = combinations.iter().flat_map(extend).collect();
    }
    let instance = |combination: Vec<(String, Value)>| {
        let mut filled = value.clone();
        if let (Some(("plugin", plugin)), Some(object)) =
            (combination.first().map(|(key, value)| (key.as_str(), value)), filled.as_object_mut())
        {
            object.insert("plugin".to_owned(), plugin.clone());
        }
        let plugin = filled.get("plugin").cloned().unwrap_or_default();
        let filled = text::fill(&filled, &|variable| {
            if variable == "plugin" {
                return Some(plugin.clone());
            }
            combination.iter().find(|(key, _)| key == variable).map(|(_, value)| value.clone())
        });
        let suffix: Vec<String> = combination.iter().map(|(_, value)| text::plain(value)).collect();
        let name = if suffix.is_empty() { name.to_owned() } else { format!("{name}@{}", suffix.join(",")) };
        let source = filled.to_string();
        Ok(Instance { name, case: serde_json::from_value(filled).map_err(bad)?, source })
    };
    combinations.into_iter().map(instance).collect()
}

/// Applies an RFC 7396 merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (key, change) in changes {
        if change.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), change);
        }
    }
}

impl Step {
    /// The single calls that begin at the same moment.
    pub fn calls(&self) -> Vec<Self> {
        if self.parallel == 0 {
            return if self.together.is_empty() { vec![self.clone()] } else { self.together.clone() };
        }
        (1..=self.parallel).map(|pod| Self { pod: Some(pod), parallel: 0, ..self.clone() }).collect()
    }

    /// The calls, for a look at what a case uses.
    pub fn verbs(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.together).filter(|step| step.verb.is_some())
    }
}

impl Case {
    /// Every protocol version that some call speaks.
    pub fn versions(&self) -> Vec<String> {
        let base = self.config.get("cniVersion").and_then(Value::as_str);
        let mut versions: Vec<String> = base.map(str::to_owned).into_iter().collect();
        for step in self.steps.iter().flat_map(Step::verbs) {
            versions.extend(step.config.get("cniVersion").and_then(Value::as_str).map(str::to_owned));
        }
        versions
    }

    /// The programs that take part, but for the case's own files and those that are missing on purpose: `no-such-…`.
    pub fn programs(&self) -> BTreeSet<&str> {
        let ipam = || self.config.get("ipam")?.get("type")?.as_str();
        let members = self.steps.iter().flat_map(Step::verbs).filter_map(|step| step.plugin.as_deref());
        let needed = self.needs.iter().filter_map(|need| need.strip_prefix("plugin:"));
        let all = needed.chain(members).chain(ipam()).chain([self.plugin.as_str()]);
        all.filter(|name| !self.files.contains_key(*name) && !name.starts_with("no-such-")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_and_the_star_make_one_instance_for_every_combination() {
        let source = r#"{"description": "d", "spec": "s", "plugin": "*", "each": {"v": ["1", "2"]},
            "config": {"cniVersion": "${v}"}, "steps": [{"verb": "ADD", "name": "of-${plugin}"}]}"#;
        let instances = instances("g/f", source, &["a".into(), "b".into()]).unwrap();
        let names: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
        assert_eq!(names, ["g/f@a,1", "g/f@a,2", "g/f@b,1", "g/f@b,2"]);
        let last = &instances.last().unwrap().case;
        assert_eq!((last.plugin.as_str(), last.steps[0].name.as_deref()), ("b", Some("of-b")));
        assert_eq!(last.versions(), ["2"]);
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_the_case() {
        let source = r#"{"description": "d", "spec": "s", "plugin": "p", "steps": [{"verbs": "ADD"}]}"#;
        let error = instances("g/f", source, &[]).unwrap_err().to_string();
        assert!(error.contains("g/f") && error.contains("verbs"), "{error}");
    }

    #[test]
    fn a_patch_changes_adds_and_removes() {
        let mut value = serde_json::json!({"a": 1, "b": {"c": 2, "d": 3}});
        merge(&mut value, &serde_json::json!({"a": null, "b": {"c": 4}, "e": [5]}));
        assert_eq!(value, serde_json::json!({"b": {"c": 4, "d": 3}, "e": [5]}));
    }
}
