//! The pod annotation `k8s.v1.cni.cncf.io/networks`, read as Multus 4.3 reads it
//! (multus-cni `pkg/k8sclient/k8sclient.go`, `parsePodNetworkAnnotation`).

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// One network that a pod wants.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Selection {
    /// Name of the network attachment definition.
    pub name: String,
    /// Its namespace; the pod's where none is given.
    pub namespace: Option<String>,
    /// Interface name; `net<index>` where none is given.
    #[serde(alias = "interfaceRequest")]
    pub interface: Option<String>,
    /// Addresses that are asked for, as text.
    #[serde(default)]
    pub ips: Vec<String>,
    /// Hardware address that is asked for.
    pub mac: Option<String>,
    /// Merged into `args.cni` of every plugin.
    #[serde(rename = "cni-args")]
    pub cni_args: Option<Map<String, Value>>,
}

/// Reads the annotation: JSON as soon as the text contains `[`, `{` or `"`, else `namespace/name@interface, …`.
///
/// # Errors
/// The text is neither.
pub fn parse(text: &str) -> Result<Vec<Selection>> {
    let wrong = |why: String| Error::Annotation { text: text.to_owned(), why };
    let selections: Vec<Selection> = if text.contains(['[', '{', '"']) {
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?
    } else {
        text.split(',').map(|item| short(item.trim()).map_err(wrong)).collect::<Result<_>>()?
    };
    if selections.iter().any(|selection| selection.name.is_empty()) {
        return Err(wrong("a network has no name".to_owned()));
    }
    Ok(selections)
}

fn short(item: &str) -> std::result::Result<Selection, String> {
    let (network, interface) = match item.split_once('@') {
        Some((network, interface)) => (network, Some(interface)),
        None => (item, None),
    };
    let (namespace, name) = match network.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, network),
    };
    if interface.is_some_and(|name| name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '@'])) {
        return Err(format!("interface name in `{item}` is not possible"));
    }
    if name.contains('/') {
        return Err(format!("`{item}` has more than one `/`"));
    }
    Ok(Selection {
        name: name.trim().to_owned(),
        namespace: namespace.map(|namespace| namespace.trim().to_owned()),
        interface: interface.map(str::to_owned),
        ..Selection::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_names_namespace_network_and_interface() {
        let got = parse("demo/br@net7, mac").unwrap();
        let first = Selection {
            name: "br".into(),
            namespace: Some("demo".into()),
            interface: Some("net7".into()),
            ..Selection::default()
        };
        assert_eq!(got, [first, Selection { name: "mac".into(), ..Selection::default() }]);
    }

    #[test]
    fn the_json_form_carries_addresses_and_arguments() {
        let got = parse(
            r#"[{"name":"br","ips":["10.10.1.200/24"],"mac":"02:00:00:00:00:01",
                 "cni-args":{"tun":{"ips":["10.4.0.1/32"]}},"default-route":["10.10.1.1"]}]"#,
        )
        .unwrap();
        assert_eq!(got[0].ips, ["10.10.1.200/24"]);
        assert_eq!(got[0].cni_args.as_ref().unwrap()["tun"]["ips"][0], "10.4.0.1/32");
    }

    #[test]
    fn addresses_as_one_string_are_refused() {
        let error = parse(r#"[{"name":"br","ips":"10.10.1.200/24"}]"#).unwrap_err();
        assert!(error.to_string().contains("expected a sequence"), "{error}");
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert!(parse("").is_err());
        assert!(parse("br,").is_err());
        assert!(parse("br@").is_err());
    }
}
