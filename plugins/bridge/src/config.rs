//! The keys of the configuration, and the network that a valid one describes.

use adit_cni::{CniArgs, Code, Dns, Error, Version};
use adit_net::{IfName, MacAddress};
use adit_plugin::DuplicateAddressDetection;
use adit_plugin::config::{Args, Ipam, RequestedMac, configured_dns, requested_mac, unsupported};
use serde::Deserialize;
use serde::de::IgnoredAny;

const DEFAULT_BRIDGE: &str = "cni0";

/// Smallest MTU of an Ethernet interface (`ETH_MIN_MTU`) and largest of a veth (`ETH_MAX_MTU`), bytes.
const MTU_BYTES: std::ops::RangeInclusive<u32> = 68..=65535;

/// The network configuration, as written. Unknown keys are ignored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    mtu: u32,
    hairpin_mode: bool,
    promisc_mode: bool,
    #[serde(rename = "enabledad")]
    enable_dad: bool,
    ipam: Ipam,
    dns: Dns,
    args: Args,
    runtime_config: RequestedMac,

    // Known, but not supported with a value that asks for something.
    ip_masq: bool,
    vlan: i64,
    vlan_trunk: Vec<IgnoredAny>,
    #[serde(rename = "macspoofchk")]
    mac_spoof_check: bool,
    port_isolation: bool,
    disable_container_interface: bool,
}

/// A network that can be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The bridge's name.
    pub bridge: IfName,
    /// MTU of the pair, and of the bridge when it is made; `None`: the kernel's.
    pub mtu: Option<u32>,
    /// Whether the bridge is the pods' gateway.
    pub gateway: Option<Gateway>,
    /// Whether frames may leave through the port they came from.
    pub hairpin: bool,
    /// Whether the bridge is promiscuous.
    pub promiscuous: bool,
    /// Treatment of IPv6 addresses in the pod.
    pub dad: DuplicateAddressDetection,
    /// The pod's MAC address; `None`: the kernel chooses.
    pub mac: Option<MacAddress>,
    /// The IPAM plugin; `None`: layer 2 only.
    pub ipam: Option<String>,
    /// What replaces IPAM's DNS settings.
    pub dns: Option<Dns>,
}

/// The bridge as the pods' gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Whether pods get a default route to it.
    pub default_route: bool,
    /// Whether an address of the bridge that is in the way is replaced.
    pub force_address: bool,
}

impl Config {
    /// The network it describes.
    ///
    /// # Errors
    /// [`Code::UNSUPPORTED_FIELD`] for a key whose value asks for something that is not there yet,
    /// [`Code::INVALID_CONFIG`] for values that cannot be; each with key, value and remedy.
    pub fn validate(&self, args: &CniArgs, version: Version) -> Result<Network, Error> {
        self.refuse_unsupported()?;
        if self.hairpin_mode && self.promisc_mode {
            return Err(invalid(
                "cannot set hairpin mode and promiscuous mode at the same time",
                "set one of hairpinMode and promiscMode to false",
            ));
        }
        if self.mtu != 0 && !MTU_BYTES.contains(&self.mtu) {
            return Err(invalid(
                &format!("invalid mtu {}", self.mtu),
                &format!(
                    "mtu must be between {} and {}, or 0 for the kernel's default",
                    MTU_BYTES.start(),
                    MTU_BYTES.end()
                ),
            ));
        }
        let bridge = self.bridge_name().parse().map_err(|error: adit_net::Error| {
            invalid(&format!("invalid bridge name: {error}"), "give bridge an interface's name")
        })?;
        if self.ipam_plugin().is_none() && version < Version::V0_3_0 {
            return Err(invalid(
                &format!("cniVersion {version} has no results without an address, and ipam is not set"),
                "set cniVersion to 0.3.0 or later, or add an IPAM plugin",
            ));
        }
        let is_gateway = self.is_gateway || self.is_default_gateway;
        Ok(Network {
            bridge,
            mtu: (self.mtu != 0).then_some(self.mtu),
            gateway: is_gateway
                .then_some(Gateway { default_route: self.is_default_gateway, force_address: self.force_address }),
            hairpin: self.hairpin_mode,
            promiscuous: self.promisc_mode,
            dad: if self.enable_dad { DuplicateAddressDetection::Wait } else { DuplicateAddressDetection::Off },
            mac: requested_mac("", args, &self.args, &self.runtime_config)?,
            ipam: self.ipam_plugin().map(str::to_owned),
            dns: configured_dns(&self.dns),
        })
    }

    /// The bridge's name as written, or the default.
    #[must_use]
    pub fn bridge_name(&self) -> &str {
        if self.bridge.is_empty() { DEFAULT_BRIDGE } else { &self.bridge }
    }

    /// The IPAM plugin to call, if there is one.
    #[must_use]
    pub fn ipam_plugin(&self) -> Option<&str> {
        self.ipam.plugin()
    }

    fn refuse_unsupported(&self) -> Result<(), Error> {
        let vlan = self.vlan.to_string();
        let trunk = format!("a list of {}", self.vlan_trunk.len());
        for (asked, key, value, remedy) in [
            (self.ip_masq, "ipMasq", "true", "remove it, and masquerade on the node's uplink"),
            (self.vlan != 0, "vlan", vlan.as_str(), "remove it, and use one bridge for each VLAN"),
            (!self.vlan_trunk.is_empty(), "vlanTrunk", trunk.as_str(), "remove it, and use one bridge for each VLAN"),
            (self.mac_spoof_check, "macspoofchk", "true", "remove it, and filter MAC addresses on the node"),
            (self.port_isolation, "portIsolation", "true", "remove it, and give each pod a bridge of its own"),
            (
                self.disable_container_interface,
                "disableContainerInterface",
                "true",
                "remove it, and set the interface down in the pod",
            ),
        ] {
            if asked {
                return Err(unsupported(key, value, remedy));
            }
        }
        Ok(())
    }
}

fn invalid(message: &str, remedy: &str) -> Error {
    Error::new(Code::INVALID_CONFIG, message).with_details(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn network(config: Value, args: &str, version: Version) -> Result<Network, Error> {
        let config: Config = adit_cni::config::from_value(&config).unwrap();
        config.validate(&CniArgs::parse(args).unwrap(), version)
    }

    fn latest(config: Value) -> Result<Network, Error> {
        network(config, "", Version::LATEST)
    }

    #[test]
    fn an_empty_configuration_joins_cni0_without_addresses() {
        let network = latest(json!({})).unwrap();
        assert_eq!(network.bridge.as_str(), "cni0");
        assert_eq!((network.mtu, network.gateway, network.ipam), (None, None, None));
        assert_eq!(network.dad, DuplicateAddressDetection::Off);
    }

    #[test]
    fn a_default_gateway_is_a_gateway() {
        let network = latest(json!({"isDefaultGateway": true, "forceAddress": true})).unwrap();
        assert_eq!(network.gateway, Some(Gateway { default_route: true, force_address: true }));
    }

    #[test]
    fn null_and_unknown_keys_are_accepted() {
        latest(json!({"bridge": null, "ipam": null, "vlanTrunk": null, "ipMasq": null, "isGatewya": true})).unwrap();
    }

    #[test]
    fn unsupported_keys_are_refused_only_when_they_ask_for_something() {
        for (config, key, value) in [
            (json!({"ipMasq": true}), "ipMasq", "true"),
            (json!({"vlan": 5}), "vlan", "5"),
            (json!({"vlanTrunk": [{"id": 5}]}), "vlanTrunk", "a list of 1"),
            (json!({"macspoofchk": true}), "macspoofchk", "true"),
            (json!({"portIsolation": true}), "portIsolation", "true"),
            (json!({"disableContainerInterface": true}), "disableContainerInterface", "true"),
        ] {
            let error = latest(config).unwrap_err();
            assert_eq!(error.code, Code::UNSUPPORTED_FIELD);
            assert!(error.msg.contains(&format!("{key} = {value}")), "{error}");
            assert!(error.details.contains("remove it"), "{error}");
        }
        latest(json!({"ipMasq": false, "ipMasqBackend": "nftables", "vlan": 0, "vlanTrunk": [],
                      "preserveDefaultVlan": true, "macspoofchk": false, "portIsolation": false}))
        .unwrap();
    }

    #[test]
    fn impossible_values_are_named_with_their_remedy() {
        for (config, parts) in [
            (
                json!({"hairpinMode": true, "promiscMode": true}),
                ["cannot set hairpin mode and promiscuous mode at the same time", "false"],
            ),
            (json!({"mtu": 10}), ["mtu 10", "between 68 and 65535"]),
            (json!({"bridge": "a name too long for it"}), ["a name too long for it", "interface's name"]),
            (json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}), ["01:00:5e:00:00:01", "multicast"]),
        ] {
            let error = latest(config).unwrap_err();
            for part in parts {
                assert!(error.to_string().contains(part), "{error} lacks {part}");
            }
        }
    }

    #[test]
    fn an_old_version_without_ipam_is_refused() {
        let error = network(json!({}), "", Version::V0_2_0).unwrap_err();
        assert!(error.to_string().contains("0.2.0"), "{error}");
        network(json!({"ipam": {"type": "static"}}), "", Version::V0_2_0).unwrap();
    }

    #[test]
    fn the_mac_comes_from_the_last_source() {
        let config = json!({"args": {"cni": {"mac": "02:00:00:00:00:02"}}});
        let mac = network(config, "MAC=02:00:00:00:00:01", Version::LATEST).unwrap().mac.unwrap();
        assert_eq!(mac.to_string(), "02:00:00:00:00:02");
    }
}
