//! Bridges and their ports: settings, states and VLANs.

use std::fmt;

use nix::errno::Errno;

use crate::{
    Error, Netlink, Result, link_message as message,
    request::{DELETE_LINK, GET_LINK, NEW_LINK, Request, SET_LINK},
};

/// What helps where the kernel supports no VLANs on bridges.
pub(crate) const NO_VLAN_FILTERING: &str = "this kernel has no bridge VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)";

/// A bridge's port as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Frames may leave through the port they came from.
    pub hairpin: bool,
    /// Isolated ports do not reach each other.
    pub isolated: bool,
    /// Whether it forwards.
    pub state: PortState,
}

/// The state of a bridge's port (IEEE 802.1D; `BR_STATE_*`, include/uapi/linux/if_bridge.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortState {
    /// Administratively or physically down.
    Disabled,
    /// Takes part in the spanning tree only.
    Listening,
    /// Learns addresses, forwards nothing yet.
    Learning,
    /// Forwards.
    Forwarding,
    /// Kept off by the spanning tree.
    Blocking,
}

/// VLANs of a bridge's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortVlan {
    /// First VLAN identifier, 1 to 4094.
    pub first: u16,
    /// Last one, included.
    pub last: u16,
    /// Untagged frames that come in belong to it (`BRIDGE_VLAN_INFO_PVID`); for a single VLAN only.
    pub pvid: bool,
    /// Frames leave without a tag.
    pub untagged: bool,
}

impl Netlink {
    /// Switches VLAN filtering of a bridge on or off.
    ///
    /// # Errors
    /// With words when this kernel has no bridge VLAN filtering.
    pub fn set_vlan_filtering(&self, bridge_index: u32, on: bool) -> Result<()> {
        let request = Request::new(NEW_LINK, message::vlan_filtering(bridge_index, on));
        self.acked("set VLAN filtering of bridge", || self.label(bridge_index), &request, 0)
            .map_err(|error| error.with_remedy(Errno::EOPNOTSUPP, NO_VLAN_FILTERING))
    }

    /// The VLANs of a bridge's port, consecutive ones of equal settings as one range; none where the kernel has no VLAN
    /// filtering or the link is no port.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn port_vlans(&self, index: u32) -> Result<Vec<PortVlan>> {
        // The kernel lists the ports of all bridges or none.
        let request = Request::new(GET_LINK, message::ports_with_vlans());
        let read = (NEW_LINK, |body: &[u8]| Some(message::port_vlans(body, index)));
        Ok(self.dump("list VLANs of bridge port", || self.label(index), &request, read)?.concat())
    }

    /// Adds VLANs to a bridge's port; one that is there gets the new settings.
    ///
    /// # Errors
    /// When the link is no port; with words when this kernel has no bridge VLAN filtering.
    pub fn add_port_vlan(&self, index: u32, vlan: &PortVlan) -> Result<()> {
        self.change_port_vlan("add VLAN", index, vlan, SET_LINK)
    }

    /// Deletes VLANs from a bridge's port; one that is not there is no error, so there is none either on a kernel without bridge
    /// VLAN filtering.
    ///
    /// # Errors
    /// When the link is no port.
    pub fn delete_port_vlan(&self, index: u32, vlan: &PortVlan) -> Result<()> {
        self.change_port_vlan("delete VLAN", index, vlan, DELETE_LINK)
    }

    fn change_port_vlan(&self, action: &'static str, index: u32, vlan: &PortVlan, kind: u16) -> Result<()> {
        let object = || format!("{vlan} of bridge port {}", self.label(index));
        if let Some(reason) = vlan.problem() {
            return Err(Error::InvalidRequest { action, object: object(), reason: reason.into() });
        }
        self.acked(action, object, &Request::new(kind, message::port_vlan(index, vlan)), 0).map_err(|error| {
            // The kernel says the same of a link that is no port.
            match self.link_by_index(index) {
                Ok(Some(link)) if link.port.is_none() => {
                    error.with_remedy(Errno::EOPNOTSUPP, "the link must be a port of a bridge")
                }
                _ => error.with_remedy(Errno::EOPNOTSUPP, NO_VLAN_FILTERING),
            }
        })
    }
}

impl PortVlan {
    /// What makes it impossible.
    fn problem(&self) -> Option<&'static str> {
        let identifiers = 1..=4094;
        if !identifiers.contains(&self.first) || !identifiers.contains(&self.last) {
            Some("a VLAN identifier is 1 to 4094")
        } else if self.first > self.last {
            Some("the first VLAN is behind the last")
        } else if self.pvid && self.first != self.last {
            Some("untagged frames can belong to a single VLAN only")
        } else {
            None
        }
    }
}

impl fmt::Display for PortVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_vlans_are_refused_before_they_are_sent() {
        let netlink = Netlink::open().unwrap();
        let vlan = |first, last, pvid| PortVlan { first, last, pvid, untagged: pvid };
        for (wrong, why) in [
            (vlan(0, 5, false), "1 to 4094"),
            (vlan(1, 4095, false), "1 to 4094"),
            (vlan(6, 5, false), "behind"),
            (vlan(5, 6, true), "single VLAN"),
        ] {
            let error = netlink.add_port_vlan(1, &wrong).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("add VLAN {wrong} of bridge port lo: ")) && error.contains(why),
                "{error}"
            );
            netlink.delete_port_vlan(1, &wrong).unwrap_err();
        }
    }
}
