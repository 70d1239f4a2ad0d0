//! What ADD does, as typed steps: the interface, then, with IPAM's addresses, its configuration.

use std::fmt;
use std::net::IpAddr;

use adit_cni::{CniResult, Error};
use adit_net::{MacAddress, MacvlanMode};
use adit_plugin::{
    DuplicateAddressDetection, InterfaceSpec, InterfaceStep, addresses, check_ipv6_mtu, fill_gateways, planned_routes,
};
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

/// The interface below, as far as the plan depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Master<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MTU, bytes.
    pub mtu: u32,
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
    /// [`INVALID_CONFIG`](adit_cni::Code::INVALID_CONFIG) when the MTU is larger than the master's.
    pub fn create(network: &Network, ifname: &str, master: Master<'_>) -> Result<Self, Error> {
        let mtu = network.mtu_on(master.name, master.mtu)?;
        Ok(Self {
            steps: vec![Step::Create {
                ifname: ifname.to_owned(),
                master: master.name.to_owned(),
                mode: network.mode,
                mtu,
                mac: network.mac,
                bc_queue_len: network.bc_queue_len,
            }],
        })
    }
}

impl AddressPlan {
    /// The steps that give the interface what IPAM returned (nothing on layer 2); `dad` is what the kernel can do of the
    /// network's.
    ///
    /// # Errors
    /// [`INVALID_CONFIG`](adit_cni::Code::INVALID_CONFIG) when the MTU is too small for an address.
    pub fn new(
        network: &Network,
        ifname: &str,
        master: Master<'_>,
        dad: DuplicateAddressDetection,
        ipam: CniResult,
    ) -> Result<Self, Error> {
        let mut result = CniResult { interfaces: Vec::new(), ..ipam };
        if network.dns.is_some() {
            result.dns.clone_from(&network.dns);
        }
        for ip in &mut result.ips {
            ip.interface = Some(POD_INTERFACE);
        }
        fill_gateways(&mut result);
        let pod = addresses(&result, POD_INTERFACE);
        let mtu = network.mtu_on(master.name, master.mtu)?.unwrap_or(master.mtu);
        check_ipv6_mtu(Some(mtu), &pod)?;
        let optimistic = dad == DuplicateAddressDetection::Optimistic;
        let hosts: Vec<IpAddr> =
            pod.iter().filter(|network| !(optimistic && network.is_ipv6())).map(IpNetwork::ip).collect();
        let interface =
            InterfaceSpec { name: ifname, addresses: pod, routes: planned_routes(&result), dad, notify: true };
        let announce = (!hosts.is_empty()).then_some(Step::Announce(hosts));
        let mut steps = Vec::new();
        let mut last_steps = Vec::new();
        if optimistic {
            // Before the IPv6 addresses are there: an optimistic one must not be announced over that of another host
            // (RFC 4429, section 3.3). The kernel does it when detection has ended (ndisc_notify).
            let (until_up, rest) = InterfaceStep::split_at_up(interface.plan());
            steps.push(Step::Pod(until_up));
            steps.extend(announce);
            if !rest.is_empty() {
                steps.push(Step::Pod(rest));
            }
        } else {
            steps.push(Step::Pod(interface.plan()));
            last_steps.extend(announce);
        }
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
    use serde_json::{Value, json};

    fn network(config: &Value) -> Network {
        let config: Config = adit_cni::config::from_value(config).unwrap();
        config.validate(&CniArgs::default(), Version::LATEST).unwrap()
    }

    fn master(mtu: u32) -> Master<'static> {
        Master { name: "eth0", mtu }
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps.iter().flat_map(|step| step.to_string().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn the_interface_is_made_under_its_final_name() {
        let network = network(&json!({"mode": "vepa", "mtu": 1400, "mac": "02:00:00:00:00:01", "bcqueuelen": 2000}));
        assert_eq!(
            lines(&Plan::create(&network, "net1", master(1500)).unwrap().steps),
            ["make macvlan net1 on eth0 mode vepa mtu 1400 mac 02:00:00:00:00:01 bcqueuelen 2000"]
        );
    }

    #[test]
    fn an_mtu_above_the_masters_names_both() {
        for mtu in [1501, -1, 4_294_967_297_i64] {
            let error = Plan::create(&network(&json!({"mtu": mtu})), "net1", master(1500)).unwrap_err();
            assert_eq!(error.msg, format!("invalid MTU {mtu}, must be [0, master MTU(1500)]"));
            assert!(error.details.contains("eth0"), "{error}");
        }
        Plan::create(&network(&json!({"mtu": 1500})), "net1", master(1500)).unwrap();
    }

    fn address_plan(answer: &Value, dad: DuplicateAddressDetection) -> AddressPlan {
        let ipam = CniResult::parse(answer, Version::LATEST).unwrap();
        AddressPlan::new(&network(&json!({})), "net1", master(1500), dad, ipam).unwrap()
    }

    #[test]
    fn ipv6_is_optimistic_and_announced_by_the_kernel_later() {
        let answer = json!({
            "ips": [{"address": "fd01::2/64", "gateway": "fd01::1"}, {"address": "10.1.1.2/24"}],
            "routes": [{"dst": "::/0"}]
        });
        let plan = address_plan(&answer, DuplicateAddressDetection::Optimistic);
        let steps = lines(&plan.steps);
        assert_eq!(
            steps[steps.len() - 6..],
            [
                "pod: add address 10.1.1.2/24",
                "pod: add the link-local address of the MAC nodad",
                "pod: bring the link up",
                "announce 10.1.1.2",
                "pod: add address fd01::2/64 optimistic",
                "pod: add route ::/0 via fd01::1",
            ]
        );
        assert!(plan.last_steps.is_empty());
        assert_eq!(plan.result.ips[0].interface, Some(0));
    }

    #[test]
    fn without_optimism_everything_is_announced_at_the_end() {
        let answer = json!({"ips": [{"address": "fd01::2/64"}]});
        let quick = address_plan(&answer, DuplicateAddressDetection::Off);
        assert!(lines(&quick.steps).contains(&"pod: add address fd01::2/64 nodad".to_owned()), "{quick:?}");
        assert_eq!(lines(&quick.last_steps), ["announce fd01::2"]);
        let slow = address_plan(&answer, DuplicateAddressDetection::Wait);
        assert!(lines(&slow.steps).iter().any(|step| step.contains("wait up to 5 s")), "{slow:?}");
        assert_eq!(lines(&slow.last_steps), ["announce fd01::2"]);
    }

    #[test]
    fn an_ipv6_address_on_a_master_with_a_small_mtu_is_refused() {
        let answer = json!({"ips": [{"address": "fd01::2/64"}]});
        let ipam = CniResult::parse(&answer, Version::LATEST).unwrap();
        let error = AddressPlan::new(&network(&json!({})), "net1", master(1000), DuplicateAddressDetection::Off, ipam)
            .unwrap_err();
        assert!(error.to_string().contains("1000"), "{error}");
    }
}
