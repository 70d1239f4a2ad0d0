//! The keys of the configuration, and the network that a valid one describes.

use adit_cni::{CniArgs, Code, Dns, Error, Version};
use adit_net::{IfName, MacAddress};
use adit_plugin::DuplicateAddressDetection;
use adit_plugin::config::{Args, Ipam, RequestedMac, check_result_without_ipam, configured_dns, requested_mac};
use serde::Deserialize;

use crate::masquerade::Backend;
use crate::vlan::{TrunkEntry, Vlans};

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
    address_conflict_detection: bool,
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    vlan: i64,
    vlan_trunk: Vec<Option<TrunkEntry>>,
    preserve_default_vlan: bool,
    #[serde(rename = "macspoofchk")]
    mac_spoof_check: bool,
    port_isolation: bool,
    disable_container_interface: bool,
    ipam: Ipam,
    dns: Dns,
    args: Args,
    runtime_config: RequestedMac,
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
    /// Whether the port reaches no other isolated port.
    pub isolated: bool,
    /// The VLANs of the port; `None`: the bridge decides.
    pub vlans: Option<Vlans>,
    /// Whether only frames with the pod's MAC address may come from the port.
    pub mac_spoof_check: bool,
    /// Whether what leaves the pod's subnet gets the node's address.
    pub masquerade: Option<Backend>,
    /// Whether the pod's interface comes up.
    pub interface_up: bool,
    /// Whether the bridge is promiscuous.
    pub promiscuous: bool,
    /// Whether the pod's addresses are probed for duplicates.
    pub dad: DuplicateAddressDetection,
    /// The pod's MAC address; `None`: the kernel chooses.
    pub mac: Option<MacAddress>,
    /// The IPAM plugin; `None`: layer 2 only.
    pub ipam: Option<String>,
    /// What replaces IPAM's DNS settings.
    pub dns: Option<Dns>,
}

impl Network {
    /// The interface that has the gateways' addresses.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] when the one of a VLAN would have a name that is too long.
    pub(crate) fn gateway_interface(&self) -> Result<IfName, Error> {
        let vlan = self.vlans.as_ref().and_then(|vlans| vlans.access);
        vlan.map_or_else(|| Ok(self.bridge.clone()), |vlan| gateway_name(&self.bridge, vlan))
    }
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
    /// [`Code::INVALID_CONFIG`] for values that cannot be; each with key, value and remedy.
    pub fn validate(&self, args: &CniArgs, version: Version) -> Result<Network, Error> {
        let vlans = self.vlans()?;
        let mac = requested_mac("", args, &self.args, &self.runtime_config)?;
        if self.disable_container_interface && self.ipam_plugin().is_some() {
            return Err(invalid(
                "cannot use IPAM when DisableContainerInterface flag is set",
                "remove ipam, or set disableContainerInterface to false",
            ));
        }
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
        if self.ipam_plugin().is_none() {
            check_result_without_ipam(version)?;
        }
        let masquerade = self.masquerade()?;
        let is_gateway = self.is_gateway || self.is_default_gateway;
        if let Some(vlan) = vlans.as_ref().and_then(|vlans| vlans.access)
            && is_gateway
            && self.ipam_plugin().is_some()
        {
            gateway_name(&bridge, vlan)?;
        }
        Ok(Network {
            bridge,
            mtu: (self.mtu != 0).then_some(self.mtu),
            gateway: is_gateway
                .then_some(Gateway { default_route: self.is_default_gateway, force_address: self.force_address }),
            hairpin: self.hairpin_mode,
            isolated: self.port_isolation,
            vlans,
            mac_spoof_check: self.mac_spoof_check,
            masquerade: masquerade.filter(|_| self.ipam_plugin().is_some()),
            interface_up: !self.disable_container_interface,
            promiscuous: self.promisc_mode,
            dad: match (self.address_conflict_detection, self.enable_dad) {
                (true, _) => DuplicateAddressDetection::WaitForBoth,
                (false, true) => DuplicateAddressDetection::Wait,
                (false, false) => DuplicateAddressDetection::Off,
            },
            mac,
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

    /// The VLANs that the port is to be in.
    ///
    /// # Errors
    /// As [`Vlans::new`].
    pub(crate) fn vlans(&self) -> Result<Option<Vlans>, Error> {
        Vlans::new(self.vlan, &self.vlan_trunk, self.preserve_default_vlan)
    }

    /// What masquerades, if anything is to.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] for a backend that nobody knows.
    pub(crate) fn masquerade(&self) -> Result<Option<Backend>, Error> {
        if !self.ip_masq {
            return Ok(None);
        }
        let backend = self.ip_masq_backend.as_deref();
        backend.map_or(Ok(Backend::Default), str::parse).map(Some)
    }

    /// Whether the configuration names the iptables backend.
    #[must_use]
    pub(crate) fn by_iptables(&self) -> bool {
        self.ip_masq_backend.as_deref() == Some("iptables")
    }

    /// Whether only frames with the pod's MAC address may come from the port.
    #[must_use]
    pub(crate) fn mac_spoof_check(&self) -> bool {
        self.mac_spoof_check
    }
}

/// What the gateway of a VLAN is called: an interface of its own, connected with the bridge.
///
/// # Errors
/// [`Code::INVALID_CONFIG`] when the kernel cannot have a name of that length.
pub(crate) fn gateway_name(bridge: &IfName, vlan: u16) -> Result<IfName, Error> {
    let name = format!("{bridge}.{vlan}");
    name.parse().map_err(|_| {
        invalid(
            &format!("the gateway of VLAN {vlan} would be called {name:?}, which is no interface's name"),
            "give the bridge a shorter name: an interface's has 15 bytes at most, with the dot and the VLAN",
        )
    })
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
    fn every_key_of_the_port_reaches_the_network() {
        let network = latest(json!({
            "vlan": 5, "preserveDefaultVlan": true, "macspoofchk": true, "portIsolation": true,
            "disableContainerInterface": true, "ipMasq": true
        }))
        .unwrap();
        let vlans = network.vlans.unwrap();
        assert_eq!((vlans.access, vlans.preserve_default), (Some(5), true));
        assert!(network.mac_spoof_check && network.isolated && !network.interface_up);
        assert_eq!(network.masquerade, None, "without addresses there is nothing to masquerade");
        let network = latest(json!({"vlan": 0, "vlanTrunk": [], "preserveDefaultVlan": true})).unwrap();
        assert!(network.vlans.is_none() && network.interface_up && !network.isolated);
    }

    #[test]
    fn the_backend_is_nftables_unless_the_configuration_says_otherwise() {
        let backend = |value: Value| {
            latest(json!({"ipMasq": true, "ipMasqBackend": value, "ipam": {"type": "static"}})).map(|n| n.masquerade)
        };
        assert_eq!(backend(Value::Null).unwrap(), Some(Backend::Default));
        assert_eq!(backend(json!("nftables")).unwrap(), Some(Backend::Nftables));
        assert_eq!(backend(json!("iptables")).unwrap(), Some(Backend::Iptables));
        for unknown in ["", "ipfw", "NFTables"] {
            let error = backend(json!(unknown)).unwrap_err();
            assert_eq!((error.code, error.msg), (Code::INVALID_CONFIG, format!("unknown ipmasq backend {unknown:?}")));
        }
        latest(json!({"ipMasq": false, "ipMasqBackend": "ipfw"})).unwrap();
    }

    #[test]
    fn a_vlan_gateway_needs_a_name_that_fits() {
        let config = |bridge: &str, ipam: Value| {
            latest(json!({"bridge": bridge, "isGateway": true, "vlan": 1000, "ipam": ipam}))
        };
        let error = config("br-fifteen-byte", json!({"type": "static"})).unwrap_err();
        assert!(error.msg.contains("br-fifteen-byte.1000") && error.details.contains("15 bytes"), "{error}");
        config("br-fifteen-byte", Value::Null).unwrap();
        config("br-ten-byt", json!({"type": "static"})).unwrap();
    }

    #[test]
    fn impossible_values_are_named_with_their_remedy() {
        for (config, parts) in [
            (
                json!({"hairpinMode": true, "promiscMode": true}),
                ["cannot set hairpin mode and promiscuous mode at the same time", "false"],
            ),
            (
                json!({"disableContainerInterface": true, "ipam": {"type": "static"}}),
                ["cannot use IPAM when DisableContainerInterface flag is set", "remove ipam"],
            ),
            (json!({"vlan": 4095}), ["invalid VLAN ID 4095 (must be between 0 and 4094)", "set vlan"]),
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
