//! `CNI_ARGS`: `K=V;K2=V2`.

use std::fmt;
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::error::{Code, Error};

/// The pairs of `CNI_ARGS` (CNI specification, "Parameters").
///
/// Every key is accepted, known or not, with or without `IgnoreUnknown`: runtimes send what suits
/// them, and each plugin takes what it knows. Multus sends keys twice and with empty values; the last
/// pair of a key counts, as in the Go library (`types.LoadArgs`). A value may contain `=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniArgs {
    pairs: Vec<(String, String)>,
}

impl CniArgs {
    /// Parses the variable's text; empty text has no pairs, and empty pairs (`;;`) are skipped.
    ///
    /// # Errors
    /// [`Code::BAD_ENVIRONMENT`] for a pair without `=` or without a key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut pairs = Vec::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            pairs.push(split_pair(pair).ok_or_else(|| {
                Error::new(Code::BAD_ENVIRONMENT, format!("ARGS: invalid pair {pair:?}"))
                    .with_details("CNI_ARGS is a list of KEY=VALUE pairs separated by ;")
            })?);
        }
        Ok(Self { pairs })
    }

    /// Like [`parse`](Self::parse), but skips what is not a pair: DEL works with whatever it is given.
    pub fn parse_lossy(text: &str) -> Self {
        Self { pairs: text.split(';').filter_map(split_pair).collect() }
    }

    /// The value of `key`, which is case-sensitive: the last one if there are several; an empty value
    /// is `Some("")`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The addresses of `IP=a/n,b/m`, with their host bits; none when the key is absent or empty.
    ///
    /// # Errors
    /// [`Code::BAD_ENVIRONMENT`] for one that is not an address with a prefix length.
    pub fn ips(&self) -> Result<Vec<IpNetwork>, Error> {
        let list = self.get("IP").unwrap_or_default();
        list.split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(|text| {
                crate::result::parse_cidr(text).map_err(|why| {
                    Error::new(
                        Code::BAD_ENVIRONMENT,
                        format!("the 'ip' field is expected to be in CIDR notation, got: '{text}'"),
                    )
                    .with_details(format!("CNI_ARGS: IP={list}: {why}"))
                })
            })
            .collect()
    }

    /// The pairs without those of `keys`, in their order.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> Self {
        Self { pairs: self.pairs.iter().filter(|(key, _)| !keys.contains(&key.as_str())).cloned().collect() }
    }

    /// The pairs as they came, duplicates included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// True when there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// The variable's text again.
impl fmt::Display for CniArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.pairs.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for CniArgs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for CniArgs {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self { pairs: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }
}

fn split_pair(pair: &str) -> Option<(String, String)> {
    let (key, value) = pair.split_once('=')?;
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Multus 4.3.0 in thin mode sends.
    const MULTUS: &str = "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=manual;K8S_POD_INFRA_CONTAINER_ID=cid1;K8S_POD_UID=35b8;K8S_POD_NAMESPACE=default;K8S_POD_NAME=manual;K8S_POD_INFRA_CONTAINER_ID=cid1;K8S_POD_UID=35b8;IgnoreUnknown=1;MAC=02:00:00:00:77:12;IP=10.77.0.12/24,fd77::12/64";

    #[test]
    fn the_text_of_multus_is_understood_and_rendered_back() {
        let args = CniArgs::parse(MULTUS).unwrap();
        assert_eq!(args.get("IgnoreUnknown"), Some("1"));
        assert_eq!(args.get("K8S_POD_NAME"), Some("manual"));
        assert_eq!(args.get("MAC"), Some("02:00:00:00:77:12"));
        assert_eq!(
            args.ips().unwrap(),
            ["10.77.0.12/24", "fd77::12/64"].map(|text| text.parse::<IpNetwork>().unwrap())
        );
        assert_eq!(args.to_string(), MULTUS);
        assert_eq!(args.without(&["IP", "MAC", "GATEWAY"]).to_string(), MULTUS.split_once(";MAC=").unwrap().0);
    }

    #[test]
    fn the_last_duplicate_wins_and_values_may_be_empty() {
        let args = CniArgs::parse("A=1;K8S_POD_UID=;A=2").unwrap();
        assert_eq!(args.get("A"), Some("2"));
        assert_eq!(args.get("K8S_POD_UID"), Some(""));
        assert_eq!(args.get("a"), None);
    }

    #[test]
    fn unknown_keys_need_no_ignore_unknown() {
        assert_eq!(CniArgs::parse("FOO=bar").unwrap().get("FOO"), Some("bar"));
    }

    #[test]
    fn a_value_may_contain_an_equals_sign_and_the_list_a_trailing_semicolon() {
        let args = CniArgs::parse("TOKEN=YQ==;").unwrap();
        assert_eq!(args.get("TOKEN"), Some("YQ=="));
        assert!(CniArgs::parse("").unwrap().is_empty());
    }

    #[test]
    fn a_pair_without_equals_sign_is_refused_except_by_del() {
        let error = CniArgs::parse("A=1;nonsense").unwrap_err();
        assert_eq!(error.msg, r#"ARGS: invalid pair "nonsense""#);
        assert_eq!(error.code, Code::BAD_ENVIRONMENT);
        assert!(CniArgs::parse("=v").is_err());
        assert_eq!(CniArgs::parse_lossy("A=1;nonsense;=v").to_string(), "A=1");
    }

    #[test]
    fn addresses_need_a_prefix_length() {
        for text in ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/255.0.0.0", "x/8", "fd00::1/129"] {
            let args = CniArgs::parse(&format!("IP=10.0.0.2/8, {text}")).unwrap();
            let error = args.ips().unwrap_err();
            assert_eq!(error.msg, format!("the 'ip' field is expected to be in CIDR notation, got: '{text}'"));
        }
        assert_eq!(CniArgs::parse("IP=").unwrap().ips().unwrap(), []);
    }
}
