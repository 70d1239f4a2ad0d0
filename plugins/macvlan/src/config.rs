//! The keys of the configuration, and the network that a valid one describes.

use adit_cni::{CniArgs, Code, Dns, Error, Version};
use adit_net::{IfName, MacAddress, MacvlanMode};
use adit_plugin::DuplicateAddressDetection;
use adit_plugin::config::{Args, Ipam, RequestedMac, check_result_without_ipam, configured_dns, requested_mac};
use serde::Deserialize;

/// The network configuration, as written. Unknown keys are ignored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    master: String,
    mode: String,
    mtu: i64,
    mac: String,
    #[serde(rename = "bcqueuelen")]
    bc_queue_len: u32,
    link_in_container: bool,
    #[serde(rename = "enabledad")]
    enable_dad: bool,
    address_conflict_detection: bool,
    ipam: Ipam,
    dns: Dns,
    args: Args,
    runtime_config: RequestedMac,
}

/// A network that can be joined, once its master is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The interface below; `None`: that of the default route.
    pub master: Option<IfName>,
    /// Whether the master is in the pod, not on the host.
    pub master_in_pod: bool,
    /// Which neighbours on the same master are reached, and how.
    pub mode: MacvlanMode,
    /// MTU as written, bytes; 0: the master's.
    pub mtu: i64,
    /// Queue length for broadcast frames; `None`: the kernel's.
    pub bc_queue_len: Option<u32>,
    /// Whether addresses are probed for duplicates, and when.
    pub dad: DuplicateAddressDetection,
    /// MAC address; `None`: the kernel chooses.
    pub mac: Option<MacAddress>,
    /// The IPAM plugin; `None`: layer 2 only.
    pub ipam: Option<String>,
    /// What replaces IPAM's DNS settings.
    pub dns: Option<Dns>,
}

impl Network {
    /// The MTU, bytes; `None`: the master's, which is `master_mtu`.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] when the master cannot carry it.
    pub fn mtu_on(&self, master: &str, master_mtu: u32) -> Result<Option<u32>, Error> {
        match u32::try_from(self.mtu) {
            Ok(0) => Ok(None),
            Ok(mtu) if mtu <= master_mtu => Ok(Some(mtu)),
            _ => Err(invalid(
                &format!("invalid MTU {}, must be [0, master MTU({master_mtu})]", self.mtu),
                &format!("set mtu to 0 for that of {master}, to a lower one, or raise the MTU of {master}"),
            )),
        }
    }
}

impl Config {
    /// The network it describes.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] for values that cannot be, with key, value and remedy.
    pub fn validate(&self, args: &CniArgs, version: Version) -> Result<Network, Error> {
        let mode = match self.mode.as_str() {
            "" => MacvlanMode::Bridge,
            text => text.parse().map_err(|_| {
                invalid(&format!("unknown macvlan mode: {text:?}"), "mode must be bridge, private, vepa or passthru")
            })?,
        };
        if self.ipam_plugin().is_none() {
            check_result_without_ipam(version)?;
        }
        Ok(Network {
            master: self.master()?,
            master_in_pod: self.link_in_container,
            mode,
            mtu: self.mtu,
            bc_queue_len: (self.bc_queue_len != 0).then_some(self.bc_queue_len),
            dad: self.duplicate_address_detection(),
            mac: self.requested_mac(args)?,
            ipam: self.ipam_plugin().map(str::to_owned),
            dns: configured_dns(&self.dns),
        })
    }

    /// The IPAM plugin to call, if there is one.
    #[must_use]
    pub fn ipam_plugin(&self) -> Option<&str> {
        self.ipam.plugin()
    }

    /// The master's name, if one is written.
    pub(crate) fn master(&self) -> Result<Option<IfName>, Error> {
        match self.master.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|error: adit_net::Error| {
                invalid(&format!("invalid master: {error}"), "give master an interface's name")
            }),
        }
    }

    /// The MAC address that is asked for, if one is.
    pub(crate) fn requested_mac(&self, args: &CniArgs) -> Result<Option<MacAddress>, Error> {
        requested_mac(&self.mac, args, &self.args, &self.runtime_config)
    }

    fn duplicate_address_detection(&self) -> DuplicateAddressDetection {
        match (self.address_conflict_detection, self.enable_dad) {
            (true, _) => DuplicateAddressDetection::WaitForBoth,
            (false, true) => DuplicateAddressDetection::Wait,
            (false, false) => DuplicateAddressDetection::Optimistic,
        }
    }

    /// Whether the master is in the pod.
    pub(crate) fn master_in_pod(&self) -> bool {
        self.link_in_container
    }
}

fn invalid(message: &str, remedy: &str) -> Error {
    Error::new(Code::INVALID_CONFIG, message).with_details(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn network(config: &Value, args: &str, version: Version) -> Result<Network, Error> {
        let config: Config = adit_cni::config::from_value(config).unwrap();
        config.validate(&CniArgs::parse(args).unwrap(), version)
    }

    #[test]
    fn an_empty_configuration_is_a_bridge_mode_macvlan_on_the_default_route() {
        let network = network(&json!({}), "", Version::LATEST).unwrap();
        assert_eq!((network.master, network.mode, network.mtu), (None, MacvlanMode::Bridge, 0));
    }

    #[test]
    fn every_mode_of_the_reference_is_known() {
        for mode in ["bridge", "private", "vepa", "passthru"] {
            let network = network(&json!({"mode": mode}), "", Version::LATEST).unwrap();
            assert_eq!(network.mode.to_string(), mode);
        }
    }

    #[test]
    fn impossible_values_are_named_with_their_remedy() {
        for (config, version, parts) in [
            (json!({"mode": "source"}), Version::LATEST, ["unknown macvlan mode: \"source\"", "passthru"]),
            (json!({"master": "eth0/1"}), Version::LATEST, ["eth0/1", "interface's name"]),
            (json!({"mac": "f1:00:00:00:00:01"}), Version::LATEST, ["f1:00:00:00:00:01", "multicast"]),
            (json!({}), Version::V0_1_0, ["0.1.0", "0.3.0 or later"]),
        ] {
            let error = network(&config, "", version).unwrap_err();
            for part in parts {
                assert!(error.to_string().contains(part), "{error} lacks {part}");
            }
        }
    }

    #[test]
    fn detection_is_optimistic_unless_the_configuration_wants_to_wait() {
        for (config, expected) in [
            (json!({}), DuplicateAddressDetection::Optimistic),
            (json!({"enabledad": true}), DuplicateAddressDetection::Wait),
            (json!({"addressConflictDetection": true}), DuplicateAddressDetection::WaitForBoth),
        ] {
            assert_eq!(network(&config, "", Version::LATEST).unwrap().dad, expected, "{config}");
        }
    }

    #[test]
    fn its_own_mac_is_the_weakest_source() {
        let config = json!({"mac": "02:00:00:00:00:01"});
        let mac = |args: &str| network(&config, args, Version::LATEST).unwrap().mac.unwrap().to_string();
        assert_eq!(mac(""), "02:00:00:00:00:01");
        assert_eq!(mac("IgnoreUnknown=1;MAC=02:00:00:00:00:02"), "02:00:00:00:00:02");
    }
}
