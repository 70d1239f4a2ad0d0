//! JSON Schemas of what lint reads, so that editors complete it. The keys and their types are those of the plugins' parsers; the
//! descriptions stand here, and a test holds the two against each other.

use std::{fmt, str::FromStr};

use adit_cni::Version;
use serde_json::{Map, Value, json};

use crate::{
    keys::{CAPABILITIES, OF_A_LIST, OF_EVERY_PLUGIN, SHAPES},
    shape::Shape,
};

mod texts;

use texts::{BRIDGE, COMMON, LIST, MACVLAN, STATIC, TUN, Text};

/// What a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A NetworkAttachmentDefinition.
    Nad,
    /// The object of `tun` in a list.
    Tun,
    /// The object of `bridge` in a list.
    Bridge,
    /// The object of `macvlan` in a list.
    Macvlan,
    /// `ipam` with the type `static`.
    Static,
    /// A list of plugins, as in a `.conflist` and in a NetworkAttachmentDefinition.
    List,
}

impl Subject {
    /// Every subject.
    pub const ALL: [Self; 6] = [Self::Nad, Self::Tun, Self::Bridge, Self::Macvlan, Self::Static, Self::List];

    /// Its name on the command line and in `conf/schema`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nad => "nad",
            Self::Tun => "tun",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Static => "static",
            Self::List => "list",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|subject| subject.as_str() == text).ok_or_else(|| format!("there are {names}"))
    }
}

/// The schema (JSON Schema 2020-12).
#[must_use]
pub fn schema(subject: Subject) -> Value {
    let body = match subject {
        Subject::Nad => definition(),
        Subject::List => list(),
        Subject::Static => address_plugin(),
        Subject::Tun => with_ipam(plugin("tun", &SHAPES.tun, TUN)),
        Subject::Bridge => with_ipam(plugin("bridge", &SHAPES.bridge, BRIDGE)),
        Subject::Macvlan => with_ipam(plugin("macvlan", &SHAPES.macvlan, MACVLAN)),
    };
    let mut schema = Map::new();
    schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".into(), json!(title(subject)));
    schema.extend(body);
    Value::Object(schema)
}

const fn title(subject: Subject) -> &'static str {
    match subject {
        Subject::Nad => "NetworkAttachmentDefinition with a list of CNI plugins",
        Subject::Tun => "tun: an encapsulated point-to-point interface in the pod",
        Subject::Bridge => "bridge: a pod on a bridge of its node",
        Subject::Macvlan => "macvlan: a pod on an interface of its node",
        Subject::Static => "static: addresses and routes that are written",
        Subject::List => "A list of CNI plugins",
    }
}

/// What an object may hold beside its keys: remarks, and what runtimes add.
fn remarks() -> Value {
    json!({ "^(_|#|\\$|//|x-|comment$|cni\\.dev/)": true })
}

/// A parser's shape with the texts of its keys; `path` leads to it.
fn of_shape(shape: &Shape, path: &str, texts: &[Text]) -> Map<String, Value> {
    let mut schema = match shape {
        Shape::Any => json!({}),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Integer { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Text => json!({ "type": "string" }),
        Shape::List(item) => json!({ "type": "array", "items": of_shape(item, &format!("{path}[]"), texts) }),
        Shape::Map(value) => {
            json!({ "type": "object", "additionalProperties": of_shape(value, &format!("{path}.*"), texts) })
        }
        Shape::Object(members) => {
            let properties: Map<String, Value> = members
                .iter()
                .map(|(key, shape)| ((*key).to_owned(), Value::Object(of_shape(shape, &below(path, key), texts))))
                .collect();
            json!({ "type": "object", "properties": properties, "patternProperties": remarks(), "additionalProperties": false })
        }
    };
    let mut schema = schema.as_object_mut().map(std::mem::take).unwrap_or_default();
    if let Some((_, description, more)) = texts.iter().find(|(key, ..)| *key == path) {
        schema.insert("description".into(), json!(description));
        schema.extend(serde_json::from_str::<Map<String, Value>>(more).unwrap_or_default());
    }
    schema
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A plugin's object: its own keys, and those of every plugin.
fn plugin(name: &str, shape: &Shape, texts: &[Text]) -> Map<String, Value> {
    let mut schema = of_shape(shape, "", texts);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for key in OF_EVERY_PLUGIN {
            properties.insert(key.to_owned(), common(key));
        }
        let pattern = format!("^(adit-)?{name}$");
        properties.insert(
            "type".into(),
            json!({ "description": "The plugin.", "type": "string", "pattern": pattern, "examples": [name] }),
        );
        // Of a tunnel the runtime may fill anything but this.
        if name == "tun"
            && let Some(capabilities) = properties
                .get_mut("capabilities")
                .and_then(|all| all.get_mut("properties"))
                .and_then(Value::as_object_mut)
        {
            capabilities.remove("ips");
        }
    }
    schema.insert("required".into(), if name == "tun" { json!(["type", "encap"]) } else { json!(["type"]) });
    schema
}

/// A key that every plugin has.
fn common(key: &str) -> Value {
    let text = COMMON.iter().find(|(known, ..)| *known == key);
    let mut schema = match key {
        "ipam" => json!({ "$ref": "#/$defs/ipam" }),
        "capabilities" => {
            let each: Map<String, Value> =
                CAPABILITIES.iter().map(|key| ((*key).to_owned(), json!({ "type": "boolean" }))).collect();
            json!({ "type": "object", "properties": each, "additionalProperties": { "type": "boolean" } })
        }
        "cniVersion" => versions(),
        "dns" => SHAPES
            .of_static
            .member("dns")
            .map_or_else(|| json!({}), |shape| Value::Object(of_shape(shape, "dns", STATIC))),
        "args" | "runtimeConfig" | "prevResult" => json!({ "type": "object" }),
        _ => json!({ "type": "string" }),
    };
    if let (Some(object), Some((_, description, _))) = (schema.as_object_mut(), text) {
        object.insert("description".into(), json!(description));
    }
    schema
}

fn versions() -> Value {
    let spoken: Vec<&str> = Version::SUPPORTED.iter().rev().map(|version| version.as_str()).collect();
    json!({ "type": "string", "enum": spoken })
}

/// `ipam` with `static`.
fn address_plugin() -> Map<String, Value> {
    let mut schema = of_shape(&SHAPES.of_static, "", STATIC);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("type".into(), json!({ "description": "The address plugin.", "type": "string", "pattern": "^(adit-)?static$", "examples": ["static"] }));
    }
    schema.insert("required".into(), json!(["type"]));
    schema
}

/// Any address plugin; what `static` has, the schema knows.
fn ipam() -> Value {
    json!({
        "description": "Who gives the interface its addresses and routes.",
        "type": "object",
        "if": { "properties": { "type": { "pattern": "^(adit-)?static$" } }, "required": ["type"] },
        "then": { "$ref": "#/$defs/static" },
    })
}

fn with_ipam(mut schema: Map<String, Value>) -> Map<String, Value> {
    schema.insert("$defs".into(), json!({ "ipam": ipam(), "static": address_plugin() }));
    schema
}

/// A member of a list: ours by their names, others as they like.
fn member() -> Value {
    let of = |name: &str| {
        json!({
            "if": { "properties": { "type": { "pattern": format!("^(adit-)?{name}$") } }, "required": ["type"] },
            "then": { "$ref": format!("#/$defs/{name}") },
        })
    };
    json!({
        "type": "object",
        "required": ["type"],
        "properties": { "type": { "description": "The plugin.", "type": "string", "pattern": "^[^/]+$", "examples": ["bridge", "macvlan", "tun", "tuning", "sbr"] } },
        "allOf": [of("bridge"), of("macvlan"), of("tun")],
    })
}

fn definitions() -> Value {
    json!({
        "bridge": plugin("bridge", &SHAPES.bridge, BRIDGE),
        "macvlan": plugin("macvlan", &SHAPES.macvlan, MACVLAN),
        "tun": plugin("tun", &SHAPES.tun, TUN),
        "ipam": ipam(),
        "static": address_plugin(),
        "member": member(),
    })
}

fn list_body() -> Value {
    let flag = json!({ "type": ["boolean", "string"], "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$" });
    let properties: Map<String, Value> = OF_A_LIST
        .iter()
        .map(|key| {
            let mut schema = match *key {
                "cniVersion" => versions(),
                "cniVersions" => json!({ "type": "array", "items": { "type": "string" } }),
                "name" => json!({ "type": "string", "pattern": "^([a-zA-Z0-9][a-zA-Z0-9_.\\-]*)?$" }),
                "plugins" => json!({ "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/member" } }),
                _ => flag.clone(),
            };
            if let (Some(object), Some((_, text, _))) =
                (schema.as_object_mut(), LIST.iter().find(|(known, ..)| known == key))
            {
                object.insert("description".into(), json!(text));
            }
            ((*key).to_owned(), schema)
        })
        .collect();
    json!({
        "type": "object",
        "required": ["plugins"],
        "properties": properties,
        "patternProperties": remarks(),
        "additionalProperties": false,
    })
}

fn list() -> Map<String, Value> {
    let mut schema = list_body().as_object_mut().map(std::mem::take).unwrap_or_default();
    schema.insert("$defs".into(), definitions());
    schema
}

fn definition() -> Map<String, Value> {
    let schema = json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata"],
        "properties": {
            "apiVersion": { "const": "k8s.cni.cncf.io/v1" },
            "kind": { "const": "NetworkAttachmentDefinition" },
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string", "description": "What a pod's annotation selects; also the network's name where the list has none." },
                    "namespace": { "type": "string" },
                },
            },
            "spec": {
                "type": "object",
                "properties": {
                    "config": {
                        "description": "The list, as JSON in a text. Without it the node has a file of the network's name.",
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": {
                            "if": { "type": "object", "required": ["plugins"] },
                            "then": { "$ref": "#/$defs/list" },
                            "else": { "$ref": "#/$defs/member" },
                        },
                    },
                },
                "additionalProperties": false,
            },
        },
    });
    let mut schema = match schema {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let mut all = definitions();
    if let Some(all) = all.as_object_mut() {
        all.insert("list".into(), list_body());
    }
    schema.insert("$defs".into(), all);
    schema
}

#[cfg(test)]
mod tests;
