//! The annotation `k8s.v1.cni.cncf.io/network-status`, made from results as Multus makes it
//! (network-attachment-definition-client `pkg/utils/net-attach-def.go`, `CreateNetworkStatuses`).

use std::net::IpAddr;

use adit_cni::{CniResult, Interface};
use serde::Serialize;

/// One entry: an interface of a network in the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NetworkStatus {
    /// `namespace/name` of the network.
    pub name: String,
    /// Interface in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Addresses without prefix length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether it is the cluster's default network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// Next hop of every default route; `<nil>` for one that has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<String>,
}

/// The entries of one network, from the result of its last plugin.
#[must_use]
pub fn network_status(name: &str, default: bool, result: &CniResult) -> Vec<NetworkStatus> {
    let gateway: Vec<String> = result
        .routes
        .iter()
        .filter(|route| route.dst.prefix() == 0)
        .map(|route| route.gw.map_or_else(|| "<nil>".to_owned(), |gw| gw.to_string()))
        .collect();
    let entry = |interface: Option<&Interface>, ips: Vec<IpAddr>| NetworkStatus {
        name: name.to_owned(),
        interface: interface.map(|interface| interface.name.clone()),
        ips,
        mac: interface.and_then(|interface| interface.mac.clone()),
        mtu: interface.and_then(|interface| interface.mtu),
        default,
        gateway: gateway.clone(),
    };
    let in_pod = |interface: &&Interface| interface.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty());

    if let [only] = result.interfaces.as_slice() {
        let ips = result.ips.iter().map(|ip| ip.address.ip()).collect();
        return vec![entry(Some(only).filter(in_pod), ips)];
    }
    let last = result.interfaces.iter().enumerate().rev().find(|(_, interface)| in_pod(interface)).map(|(i, _)| i);
    let in_pods = result.interfaces.iter().enumerate().filter(|(_, interface)| in_pod(interface));
    in_pods
        .map(|(index, interface)| {
            let mine = result.ips.iter().filter(|ip| ip.interface.or(last) == Some(index));
            entry(Some(interface), mine.map(|ip| ip.address.ip()).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_cni::Version;
    use serde_json::json;

    fn status(result: serde_json::Value) -> serde_json::Value {
        let result = CniResult::parse(&result, Version::LATEST).unwrap();
        serde_json::to_value(network_status("default/br", false, &result)).unwrap()
    }

    #[test]
    fn every_interface_in_the_pod_has_an_entry() {
        let got = status(json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "cni0"}, {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"},
                           {"name": "tun", "mtu": 1456, "sandbox": "/run/netns/x"}],
            "ips": [{"address": "10.10.1.200/24", "interface": 1}, {"address": "10.4.0.1/32", "interface": 2},
                    {"address": "10.9.9.9/24", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.20.0.0/16", "gw": "10.10.1.1"}]}));
        assert_eq!(
            got,
            json!([
                {"name": "default/br", "interface": "net1", "ips": ["10.10.1.200"], "mac": "02:00:00:00:00:01",
                 "gateway": ["<nil>"]},
                {"name": "default/br", "interface": "tun", "ips": ["10.4.0.1"], "mtu": 1456, "gateway": ["<nil>"]}
            ])
        );
    }

    #[test]
    fn an_address_without_interface_belongs_to_the_last_in_the_pod() {
        let got = status(json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "net1", "sandbox": "/x"}, {"name": "tun", "sandbox": "/x"}, {"name": "veth"}],
            "ips": [{"address": "10.4.0.1/32"}]}));
        assert_eq!(got[1]["ips"], json!(["10.4.0.1"]));
        assert_eq!(got[0].get("ips"), None);
    }

    #[test]
    fn a_result_without_interfaces_in_the_pod_has_no_entry() {
        assert_eq!(status(json!({"cniVersion": "1.1.0", "interfaces": []})), json!([]));
    }
}
