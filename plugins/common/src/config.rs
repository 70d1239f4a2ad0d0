//! Configuration keys that every interface plugin has.

use adit_cni::{CniArgs, Code, Dns, Error, Version};
use adit_net::MacAddress;
use serde::Deserialize;

/// `ipam`: only its type matters here, the rest is the IPAM plugin's. Absent, empty or without type: layer 2 only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// The IPAM plugin's name.
    #[serde(rename = "type")]
    pub plugin: String,
}

impl Ipam {
    /// The plugin to call, if there is one.
    #[must_use]
    pub fn plugin(&self) -> Option<&str> {
        (!self.plugin.is_empty()).then_some(self.plugin.as_str())
    }
}

/// `args`: what the runtime or the pod's annotation adds (CNI conventions, "args in network config").
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Args {
    /// `args.cni`.
    pub cni: RequestedMac,
}

/// An object that may carry a `mac`: `args.cni` and `runtimeConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RequestedMac {
    /// The address as written.
    pub mac: String,
}

/// Refuses an attachment without IPAM whose result this version could not tell, before anything is made.
///
/// # Errors
/// [`Code::INVALID_CONFIG`] before 0.3.0, with the text of the reference's conversion.
pub fn check_result_without_ipam(version: Version) -> Result<(), Error> {
    if version >= Version::V0_3_0 {
        return Ok(());
    }
    Err(Error::new(Code::INVALID_CONFIG, "cannot convert: no valid IP addresses").with_details(format!(
        "cniVersion {version} has no results without an address: set cniVersion to 0.3.0 or later, or add ipam"
    )))
}

/// What replaces IPAM's DNS settings: the configuration's own, when any member is set.
#[must_use]
pub fn configured_dns(dns: &Dns) -> Option<Dns> {
    (!dns.is_empty()).then(|| dns.clone())
}

/// The MAC address that is asked for: the last of `mac` (the plugin's own key), `CNI_ARGS` `MAC`, `args.cni.mac` and
/// `runtimeConfig.mac` that is set. `None`: the kernel chooses.
///
/// # Errors
/// [`Code::INVALID_CONFIG`] (or [`Code::BAD_ENVIRONMENT`] for `CNI_ARGS`) when the one that counts is no MAC address of a
/// single interface.
pub fn requested_mac(
    key: &str,
    env: &CniArgs,
    args: &Args,
    runtime: &RequestedMac,
) -> Result<Option<MacAddress>, Error> {
    let sources = [
        ("runtimeConfig.mac", runtime.mac.as_str(), Code::INVALID_CONFIG),
        ("args.cni.mac", args.cni.mac.as_str(), Code::INVALID_CONFIG),
        ("CNI_ARGS MAC", env.get("MAC").unwrap_or_default(), Code::BAD_ENVIRONMENT),
        ("mac", key, Code::INVALID_CONFIG),
    ];
    let Some((name, text, code)) = sources.into_iter().find(|(_, text, _)| !text.is_empty()) else {
        return Ok(None);
    };
    let mac: MacAddress = text.parse().map_err(|_| {
        Error::new(code, format!("address {text}: invalid MAC address"))
            .with_details(format!("{name} must be six bytes such as 02:00:00:00:00:01"))
    })?;
    if mac.is_multicast() || mac.is_zero() {
        let kind = if mac.is_zero() { "all zero" } else { "a multicast address" };
        return Err(Error::new(code, format!("{name} {text} is {kind}, which no interface can have"))
            .with_details("the first byte must be even and the address not zero: for a local one start with 02"));
    }
    Ok(Some(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac_of(key: &str, env: &str, args: &str, runtime: &str) -> Result<Option<String>, Error> {
        let env = CniArgs::parse(env).unwrap();
        let args = Args { cni: RequestedMac { mac: args.into() } };
        let runtime = RequestedMac { mac: runtime.into() };
        requested_mac(key, &env, &args, &runtime).map(|mac| mac.map(|mac| mac.to_string()))
    }

    #[test]
    fn the_last_source_of_a_mac_wins() {
        let (a, b, c, d) = ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c", "02:00:00:00:00:0d");
        let env = format!("IgnoreUnknown=1;MAC={b}");
        for (key, env, args, runtime, expected) in [
            ("", "", "", "", None),
            (a, "", "", "", Some(a)),
            (a, env.as_str(), "", "", Some(b)),
            (a, env.as_str(), c, "", Some(c)),
            (a, env.as_str(), c, d, Some(d)),
            ("", "MAC=", "", d, Some(d)),
            ("02-00-00-00-00-0A", "", "", "", Some(a)),
        ] {
            assert_eq!(mac_of(key, env, args, runtime).unwrap().as_deref(), expected);
        }
    }

    #[test]
    fn a_wrong_mac_names_its_source_its_value_and_the_remedy() {
        for (key, env, args, runtime, parts) in [
            ("", "", "", "zz", ["zz", "runtimeConfig.mac", "02:00"]),
            ("f1:00:00:00:00:01", "", "", "", ["f1:00:00:00:00:01", "mac", "start with 02"]),
            ("", "MAC=00:00:00:00:00:00", "", "", ["00:00:00:00:00:00", "CNI_ARGS MAC", "not zero"]),
            ("", "", "1", "", ["1", "args.cni.mac", "six bytes"]),
        ] {
            let text = mac_of(key, env, args, runtime).unwrap_err().to_string();
            for part in parts {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
    }
}
