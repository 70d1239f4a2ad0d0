//! What ADD does, as typed steps: the interface, then, with IPAM's addresses, its configuration.

use std::fmt;
use std::net::IpAddr;

use adit_cni::{CniResult, Code, Error};
use adit_net::{Link, MacAddress, MacvlanMode};
use adit_plugin::{InterfaceSpec, InterfaceStep, addresses, check_ipv6_mtu, fill_gateways, planned_routes};
use ipnetwork::IpNetwork;

use crate::config::Network;

/// Index of the pod's interface in the result, which has no other.
pub(crate) const POD_INTERFACE: usize = 0;

/// One step of ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the interface in the pod.
    Create {
        /// Its name.
        ifname: String,
        /// Name of the interface below.
        master: String,
        /// Its mode.
        mode: MacvlanMode,
        /// MTU, bytes.
        mtu: Option<u32>,
        /// MAC address.
        mac: Option<MacAddress>,
        /// Queue length for broadcast frames.
        bc_queue_len: Option<u32>,
    },
    /// Configure the interface.
    Pod(Vec<InterfaceStep>),
    /// Tell the neighbours where the addresses are.
    Announce(Vec<IpAddr>),
}

/// The steps until addresses are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In their order.
    pub steps: Vec<Step>,
}

/// The steps with addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressPlan {
    /// In their order.
    pub steps: Vec<Step>,
    /// Those that are made last and cannot fail the ADD.
    pub last_steps: Vec<Step>,
    /// The result's ips, routes and DNS settings.
    pub result: CniResult,
}

impl Plan {
    /// The steps that make the pod's interface `ifname` on `master`.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] when the MTU is larger than the master's.
    pub fn create(network: &Network, ifname: &str, master: &Link) -> Result<Self, Error> {
        if let Some(mtu) = network.mtu.filter(|mtu| *mtu > master.mtu) {
            return Err(Error::new(
                Code::INVALID_CONFIG,
                format!("invalid MTU {mtu}, must be [0, master MTU({})]", master.mtu),
            )
            .with_details(format!("lower mtu, or raise the MTU of {}", master.name)));
        }
        Ok(Self {
            steps: vec![Step::Create {
                ifname: ifname.to_owned(),
                master: master.name.clone(),
                mode: network.mode,
                mtu: network.mtu,
                mac: network.mac,
                bc_queue_len: network.bc_queue_len,
            }],
        })
    }
}

impl AddressPlan {
    /// The steps that give the interface what IPAM returned (nothing on layer 2).
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] when the MTU is too small for an address.
    pub fn new(network: &Network, ifname: &str, master: &Link, ipam: CniResult) -> Result<Self, Error> {
        let mut result = CniResult { interfaces: Vec::new(), ..ipam };
        if network.dns.is_some() {
            result.dns.clone_from(&network.dns);
        }
        for ip in &mut result.ips {
            ip.interface = Some(POD_INTERFACE);
        }
        fill_gateways(&mut result);
        let pod = addresses(&result, POD_INTERFACE);
        check_ipv6_mtu(network.mtu.or(Some(master.mtu)), &pod)?;
        let hosts: Vec<IpAddr> = pod.iter().map(IpNetwork::ip).collect();
        let interface = InterfaceSpec {
            name: ifname,
            addresses: pod,
            routes: planned_routes(&result),
            dad: network.dad,
            notify: true,
        };
        let steps = vec![Step::Pod(interface.plan())];
        let last_steps = if hosts.is_empty() { Vec::new() } else { vec![Step::Announce(hosts)] };
        Ok(Self { steps, last_steps, result })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { ifname, master, mode, mtu, mac, bc_queue_len } => {
                write!(f, "make macvlan {ifname} on {master} mode {mode}")?;
                if let Some(mtu) = mtu {
                    write!(f, " mtu {mtu}")?;
                }
                if let Some(mac) = mac {
                    write!(f, " mac {mac}")?;
                }
                if let Some(length) = bc_queue_len {
                    write!(f, " bcqueuelen {length}")?;
                }
                Ok(())
            }
            Self::Pod(steps) => {
                let lines: Vec<String> = steps.iter().map(|step| format!("pod: {step}")).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Announce(addresses) => {
                f.write_str("announce")?;
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use adit_cni::{CniArgs, Version};
    use adit_net::LinkKind;
    use serde_json::{Value, json};

    fn network(config: &Value) -> Network {
        let config: Config = adit_cni::config::from_value(config).unwrap();
        config.validate(&CniArgs::default(), Version::LATEST).unwrap()
    }

    fn master(mtu: u32) -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            kind: LinkKind::None,
            mac: None,
            mtu,
            up: true,
            oper_up: true,
            lower_up: true,
            promisc: false,
            master: None,
            peer_index: None,
            peer_netnsid: None,
            macvlan_mode: None,
            alias: None,
            flags: 0,
        }
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps.iter().flat_map(|step| step.to_string().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn the_interface_is_made_under_its_final_name() {
        let network = network(&json!({"mode": "vepa", "mtu": 1400, "mac": "02:00:00:00:00:01", "bcqueuelen": 2000}));
        assert_eq!(
            lines(&Plan::create(&network, "net1", &master(1500)).unwrap().steps),
            ["make macvlan net1 on eth0 mode vepa mtu 1400 mac 02:00:00:00:00:01 bcqueuelen 2000"]
        );
    }

    #[test]
    fn an_mtu_above_the_masters_names_both() {
        let error = Plan::create(&network(&json!({"mtu": 1501})), "net1", &master(1500)).unwrap_err();
        assert_eq!(error.msg, "invalid MTU 1501, must be [0, master MTU(1500)]");
        assert!(error.details.contains("eth0"), "{error}");
        Plan::create(&network(&json!({"mtu": 1500})), "net1", &master(1500)).unwrap();
    }

    #[test]
    fn ipv6_does_not_wait_for_duplicate_address_detection_unless_asked() {
        let answer = json!({"ips": [{"address": "fd01::2/64", "gateway": "fd01::1"}], "routes": [{"dst": "::/0"}]});
        let plan = |config: &Value| {
            let ipam = CniResult::parse(&answer, Version::LATEST).unwrap();
            AddressPlan::new(&network(config), "net1", &master(1500), ipam).unwrap()
        };
        let quick = plan(&json!({}));
        let steps = lines(&quick.steps);
        assert!(steps.contains(&"pod: add address fd01::2/64 nodad".to_owned()), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("wait")), "{steps:?}");
        assert_eq!(steps.last().unwrap(), "pod: add route ::/0 via fd01::1");
        assert_eq!(lines(&quick.last_steps), ["announce fd01::2"]);
        assert_eq!(quick.result.ips[0].interface, Some(0));
        let slow = lines(&plan(&json!({"enabledad": true})).steps);
        assert!(slow.iter().any(|step| step.contains("wait up to 5 s")), "{slow:?}");
    }

    #[test]
    fn an_ipv6_address_on_a_master_with_a_small_mtu_is_refused() {
        let answer = json!({"ips": [{"address": "fd01::2/64"}]});
        let ipam = CniResult::parse(&answer, Version::LATEST).unwrap();
        let error = AddressPlan::new(&network(&json!({})), "net1", &master(1000), ipam).unwrap_err();
        assert!(error.to_string().contains("1000"), "{error}");
    }
}
