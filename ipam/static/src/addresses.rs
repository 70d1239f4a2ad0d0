//! Which addresses the pod gets.

use std::net::IpAddr;

use adit_cni::{CniArgs, Code, Error, Version};
use ipnetwork::IpNetwork;

use crate::config::{AddressEntry, Config};

/// An address of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticAddress {
    /// Address with its prefix length and host bits.
    pub network: IpNetwork,
    /// Gateway, if one is known.
    pub gateway: Option<IpAddr>,
}

/// The addresses that count, from the four sources. Each address once.
///
/// # Errors
/// [`Code::INVALID_CONFIG`] or, for `CNI_ARGS`, [`Code::BAD_ENVIRONMENT`], when one cannot be read. A configured address
/// that is replaced is in nobody's way.
pub fn effective(config: &Config, args: &CniArgs) -> Result<Vec<StaticAddress>, Error> {
    let is_replaced = !(config.args_ips().is_empty() && config.runtime_ips().is_empty());
    let mut addresses = Vec::new();
    for entry in &config.ipam()?.addresses {
        match configured(entry) {
            Err(_) if is_replaced => {}
            address => addresses.push(address?),
        }
    }
    let mut asked_for = from_args(args)?;
    set_gateways(&mut asked_for, args)?;
    addresses.extend(asked_for);
    for requested in [config.args_ips(), config.runtime_ips()] {
        if !requested.is_empty() {
            addresses = replaced(&addresses, requested)?;
        }
    }
    let mut unique: Vec<StaticAddress> = Vec::new();
    for address in addresses {
        if !unique.iter().any(|other| other.network == address.network) {
            unique.push(address);
        }
    }
    Ok(unique)
}

/// Results before 0.3.0 hold one address of each family.
///
/// # Errors
/// [`Code::INVALID_CONFIG`] when there are more.
pub(crate) fn check_version(addresses: &[StaticAddress], version: Version) -> Result<(), Error> {
    let ipv4 = addresses.iter().filter(|address| address.network.is_ipv4()).count();
    let ipv6 = addresses.len().saturating_sub(ipv4);
    if version < Version::V0_3_0 && (ipv4 > 1 || ipv6 > 1) {
        return Err(Error::new(
            Code::INVALID_CONFIG,
            format!("CNI version {version} does not support more than 1 address per family"),
        )
        .with_details("set cniVersion to 0.3.0 or later, or leave one address of each family"));
    }
    Ok(())
}

fn configured(entry: &AddressEntry) -> Result<StaticAddress, Error> {
    let network = cidr(&entry.address).ok_or_else(|| {
        not_cidr(
            format!("the 'address' field is expected to be in CIDR notation, got: '{}'", entry.address),
            &entry.address,
        )
    })?;
    let gateway = match entry.gateway.as_str() {
        "" => None,
        text => Some(gateway(text, Code::INVALID_CONFIG)?),
    };
    if let Some(gateway) = gateway.filter(|gateway| gateway.is_ipv4() != network.is_ipv4()) {
        return Err(Error::new(
            Code::INVALID_CONFIG,
            format!("invalid gateway address: {gateway} is not of the family of {network}"),
        )
        .with_details("give each address a gateway of its own family, or none"));
    }
    Ok(StaticAddress { network, gateway })
}

fn from_args(args: &CniArgs) -> Result<Vec<StaticAddress>, Error> {
    Ok(args.ips()?.into_iter().map(|network| StaticAddress { network, gateway: None }).collect())
}

fn set_gateways(addresses: &mut [StaticAddress], args: &CniArgs) -> Result<(), Error> {
    for text in list(args, "GATEWAY") {
        let gateway = gateway(text, Code::BAD_ENVIRONMENT)?;
        for address in addresses.iter_mut() {
            if address.network.contains(gateway) {
                address.gateway = Some(gateway);
            }
        }
    }
    Ok(())
}

fn replaced(addresses: &[StaticAddress], requested: &[String]) -> Result<Vec<StaticAddress>, Error> {
    requested
        .iter()
        .map(|text| {
            let text = text.trim();
            let network = cidr(text).ok_or_else(|| {
                not_cidr(format!("an entry in the 'ips' field is NOT in CIDR notation, got: '{text}'"), text)
            })?;
            let gateway = addresses
                .iter()
                .find(|old| old.gateway.is_some() && old.network.contains(network.ip()))
                .and_then(|old| old.gateway);
            Ok(StaticAddress { network, gateway })
        })
        .collect()
}

/// The comma-separated values of a `CNI_ARGS` key.
fn list<'a>(args: &'a CniArgs, key: &str) -> impl Iterator<Item = &'a str> {
    args.get(key).unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty())
}

fn gateway(text: &str, code: Code) -> Result<IpAddr, Error> {
    let address: Result<IpAddr, _> = text.parse();
    address.map(|address| address.to_canonical()).map_err(|_| {
        Error::new(code, format!("invalid gateway address: {text}"))
            .with_details("write the gateway's address without prefix length, such as 10.1.1.1")
    })
}

/// An address with its prefix length, which must be written, as a number.
fn cidr(text: &str) -> Option<IpNetwork> {
    adit_cni::parse_cidr(text).ok()
}

fn not_cidr(message: String, text: &str) -> Error {
    let remedy = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("add the prefix length: {text}/24 if the subnet is that large"),
        Ok(IpAddr::V6(_)) => format!("add the prefix length: {text}/64 if the subnet is that large"),
        Err(_) => "write an address and its prefix length, such as 10.1.1.2/24".to_owned(),
    };
    Error::new(Code::INVALID_CONFIG, message).with_details(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_cni::config::from_value;
    use serde_json::{Value, json};

    fn texts(config: &Value, args: &str) -> Result<Vec<String>, Error> {
        let config: Config = from_value(config).unwrap();
        Ok(effective(&config, &CniArgs::parse(args).unwrap())?
            .iter()
            .map(|address| match address.gateway {
                Some(gateway) => format!("{} via {gateway}", address.network),
                None => address.network.to_string(),
            })
            .collect())
    }

    #[test]
    fn each_source_adds_or_replaces() {
        let addresses = json!([{"address": "10.1.1.2/24", "gateway": "10.1.1.1"}]);
        for (config, args, expected) in [
            (json!({"ipam": {"addresses": addresses}}), "", vec!["10.1.1.2/24 via 10.1.1.1"]),
            (
                json!({"ipam": {"addresses": addresses}}),
                "IgnoreUnknown=1;IP=10.1.1.3/24,fd01::3/64",
                vec!["10.1.1.2/24 via 10.1.1.1", "10.1.1.3/24", "fd01::3/64"],
            ),
            (
                json!({"ipam": {}}),
                "IP=10.1.1.3/24,fd01::3/64;GATEWAY=10.1.1.254,fd01::1",
                vec!["10.1.1.3/24 via 10.1.1.254", "fd01::3/64 via fd01::1"],
            ),
            (
                json!({"ipam": {"addresses": addresses}, "args": {"cni": {"ips": ["10.1.1.4/24", "10.2.0.4/16"]}}}),
                "IP=10.9.9.9/24",
                vec!["10.1.1.4/24 via 10.1.1.1", "10.2.0.4/16"],
            ),
            (
                json!({"ipam": {"addresses": addresses}, "args": {"cni": {"ips": ["10.1.1.4/24"]}},
                       "runtimeConfig": {"ips": ["10.1.1.5/24"]}}),
                "",
                vec!["10.1.1.5/24 via 10.1.1.1"],
            ),
            (
                json!({"ipam": {"addresses": addresses}, "runtimeConfig": {"ips": []}}),
                "IP=",
                vec!["10.1.1.2/24 via 10.1.1.1"],
            ),
            (json!({"ipam": {"addresses": addresses}}), "IP=10.1.1.2/24", vec!["10.1.1.2/24 via 10.1.1.1"]),
            (json!({"ipam": {"capabilites": {"ips": true}}}), "IP=10.10.1.200/24", vec!["10.10.1.200/24"]),
            (json!({"ipam": {"addresses": null}}), "", vec![]),
            (json!({"IPAM": {"Addresses": [{"ADDRESS": "10.1.1.2/24", "gateway": null}]}}), "", vec!["10.1.1.2/24"]),
            (
                json!({"ipam": {"addresses": [{"address": "::ffff:10.1.1.2/120", "gateway": "::ffff:10.1.1.1"}]}}),
                "",
                vec!["10.1.1.2/24 via 10.1.1.1"],
            ),
            // What is not used need not be right.
            (
                json!({"ipam": {"addresses": [{"address": "10.1.1.2"}]}, "runtimeConfig": {"ips": ["10.1.1.5/24"]}}),
                "",
                vec!["10.1.1.5/24"],
            ),
            // Like the reference, which has not read the configured addresses by then.
            (json!({"ipam": {"addresses": addresses}}), "GATEWAY=10.1.1.254", vec!["10.1.1.2/24 via 10.1.1.1"]),
            // Sent to every network of a pod: one that is of none of its addresses is ignored, as by the reference.
            (json!({"ipam": {}}), "IP=10.1.1.3/24;GATEWAY=10.9.9.9", vec!["10.1.1.3/24"]),
        ] {
            assert_eq!(texts(&config, args).unwrap(), expected, "{config} {args}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_remedy() {
        for (config, args, parts) in [
            (json!({}), "", ["IPAM config missing 'ipam' key", "static"]),
            (
                json!({"ipam": {"addresses": [{"address": "10.1.1.2"}]}}),
                "",
                ["'address' field is expected to be in CIDR notation, got: '10.1.1.2'", "10.1.1.2/24"],
            ),
            (
                json!({"ipam": {"addresses": [{"address": "10.1.1.2/24", "gateway": "x"}]}}),
                "",
                ["invalid gateway address: x", "without prefix"],
            ),
            (
                json!({"ipam": {"addresses": [{"address": "10.1.1.2/24", "gateway": "fd01::1"}]}}),
                "",
                ["invalid gateway address: fd01::1", "family"],
            ),
            (
                json!({"ipam": {}}),
                "IP=10.77.0.99",
                ["the 'ip' field is expected to be in CIDR notation, got: '10.77.0.99'", "IP=10.77.0.99"],
            ),
            (json!({"ipam": {}}), "IP=10.77.0.9/24;GATEWAY=y", ["invalid gateway address: y", "10.1.1.1"]),
            (
                json!({"ipam": {}, "args": {"cni": {"ips": ["fd01::1"]}}}),
                "",
                ["an entry in the 'ips' field is NOT in CIDR notation, got: 'fd01::1'", "/64"],
            ),
            (
                json!({"ipam": {}, "runtimeConfig": {"ips": ["10.1.1.1/33"]}}),
                "",
                ["got: '10.1.1.1/33'", "prefix length"],
            ),
        ] {
            let text = texts(&config, args).unwrap_err().to_string();
            for part in parts {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn before_0_3_0_one_address_of_each_family() {
        let address = |text: &str| StaticAddress { network: text.parse().unwrap(), gateway: None };
        let both = [address("10.1.1.2/24"), address("fd01::2/64")];
        check_version(&both, Version::V0_2_0).unwrap();
        let two = [address("10.1.1.2/24"), address("10.1.1.3/24")];
        assert!(
            check_version(&two, Version::V0_2_0)
                .unwrap_err()
                .to_string()
                .contains("CNI version 0.2.0 does not support more than 1 address per family")
        );
        check_version(&two, Version::V0_3_0).unwrap();
    }
}
