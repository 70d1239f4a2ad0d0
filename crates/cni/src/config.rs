//! Decoding configuration the way CNI users are used to, with errors that say where.
//!
//! Configurations in the field were written for Go's `encoding/json`: keys match in any case, `null`
//! is the same as absent, the last duplicate wins, unknown keys are ignored. All of that holds here for
//! structs. `#[serde(flatten)]` and untagged enums lose both these habits and the error's position.

mod lenient;
mod position;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::lenient::Lenient;
use crate::error::{Code, Error};

/// Decodes a configuration document.
///
/// # Errors
/// [`Code::DECODE`] when it is not JSON (line and column are in the message), and
/// [`Code::INVALID_CONFIG`] when it is not a `T`: the message names the key's path, the details its
/// line and column.
pub fn decode<T: DeserializeOwned>(document: &[u8]) -> Result<T, Error> {
    let value: Value = serde_json::from_slice(document).map_err(not_json)?;
    T::deserialize(Lenient(&value)).map_err(|why| {
        let error = invalid(&why);
        match position::locate(document, why.path()) {
            Some(place) => {
                error.with_details(format!("line {} column {} of the configuration", place.line, place.column))
            }
            None => error,
        }
    })
}

/// Decodes a part of a configuration that was parsed before, such as `args.cni.<key>`.
///
/// # Errors
/// [`Code::INVALID_CONFIG`]; the message names the key's path within `value`.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(Lenient(value)).map_err(|why| invalid(&why))
}

/// The member of an object: the exact key, or else one that differs in case only. `null` is absent.
pub fn member<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object
        .get(key)
        .or_else(|| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value))
        .filter(|value| !value.is_null())
}

pub(crate) fn not_json(why: serde_json::Error) -> Error {
    Error::new(Code::DECODE, format!("error unmarshall network config: {why}"))
}

fn invalid(why: &lenient::Error) -> Error {
    Error::new(Code::INVALID_CONFIG, format!("failed to load netconf: {why}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Conf {
        #[serde(default)]
        is_gateway: bool,
        mtu: Option<u32>,
        #[serde(default, alias = "bridge")]
        bridge_name: String,
        #[serde(default)]
        peers: Vec<Peer>,
        #[serde(default)]
        sysctl: BTreeMap<String, String>,
        mode: Option<Mode>,
        rest: Option<Value>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Peer {
        endpoint: crate::IfName,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Vepa,
    }

    fn conf(text: &str) -> Result<Conf, Error> {
        decode(text.as_bytes())
    }

    #[test]
    fn keys_match_in_any_case_and_the_exact_one_wins() {
        let conf = conf(r#"{"ISGATEWAY":true,"MTU":1,"mtu":2,"Bridge":"br0","foo":[1]}"#).unwrap();
        assert!(conf.is_gateway);
        assert_eq!(conf.mtu, Some(2));
        assert_eq!(conf.bridge_name, "br0");
    }

    #[test]
    fn null_is_absent_and_the_last_duplicate_wins() {
        let conf = conf(r#"{"isGateway":null,"mtu":1,"mtu":7,"peers":null,"mode":null,"rest":{"x":null}}"#).unwrap();
        assert!(!conf.is_gateway);
        assert_eq!(conf.mtu, Some(7));
        assert_eq!(conf.peers, []);
        assert_eq!(conf.rest, Some(serde_json::json!({"x": null})));
    }

    #[test]
    fn enums_and_maps_are_decoded() {
        let conf = conf(r#"{"mode":"vepa","sysctl":{"A":"1","a":"2"}}"#).unwrap();
        assert_eq!(conf.mode, Some(Mode::Vepa));
        assert_eq!(conf.sysctl.len(), 2);
    }

    #[test]
    fn a_wrong_value_is_named_by_path_line_and_column() {
        let error =
            conf("{\n  \"name\": \"n\",\n  \"Peers\": [{\"endpoint\": \"a\"},\n    {\"endpoint\": \"b/c\"}]\n}")
                .unwrap_err();
        assert_eq!(error.code, Code::INVALID_CONFIG);
        assert_eq!(
            error.msg,
            "failed to load netconf: peers[1].endpoint: interface name contains / or : or whitespace characters"
        );
        assert_eq!(error.details, "line 4 column 18 of the configuration");
    }

    #[test]
    fn a_wrong_type_is_named() {
        let error = conf(r#"{"mtu":"1500"}"#).unwrap_err();
        assert_eq!(error.msg, "failed to load netconf: mtu: invalid type: string \"1500\", expected u32");
        assert_eq!(error.details, "line 1 column 8 of the configuration");
    }

    #[test]
    fn a_missing_key_is_named_at_its_object() {
        let error = conf(r#"{"peers":[{}]}"#).unwrap_err();
        assert_eq!(error.msg, "failed to load netconf: peers[0]: missing field `endpoint`");
        assert_eq!(error.details, "line 1 column 11 of the configuration");
        assert_eq!(
            conf("[1]").unwrap_err().msg,
            "failed to load netconf: invalid type: sequence, expected struct Conf"
        );
    }

    #[test]
    fn what_is_not_json_is_a_decoding_failure() {
        let error = conf("{\"mtu\": ").unwrap_err();
        assert_eq!(error.code, Code::DECODE);
        assert!(error.msg.starts_with("error unmarshall network config: EOF"), "{error}");
    }
}
