//! VLANs of a port: the keys, and what a port of a filtering bridge is a member of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use adit_cni::{Code, Error};
use adit_net::{Netlink, PortVlan};
use adit_plugin::net_error;
use serde::Deserialize;

/// Highest VLAN identifier that a network may have (IEEE 802.1Q, 9.6: 0 and 4095 are reserved).
const LAST: i64 = 4094;

/// What untagged frames of a trunk belong to when `vlan` does not say.
const DEFAULT: u16 = 1;

/// One entry of `vlanTrunk`: a VLAN, a range of VLANs, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TrunkEntry {
    id: Option<i64>,
    #[serde(rename = "minID")]
    min_id: Option<i64>,
    #[serde(rename = "maxID")]
    max_id: Option<i64>,
}

/// The VLANs of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlans {
    /// The VLAN of untagged frames, when `vlan` names it.
    pub access: Option<u16>,
    /// Tagged VLANs, ascending ranges that do not touch.
    pub trunk: Vec<(u16, u16)>,
    /// Whether the port stays in the bridge's default VLAN too.
    pub preserve_default: bool,
}

impl Vlans {
    /// The VLANs that the keys `vlan`, `vlanTrunk` and `preserveDefaultVlan` ask for; `None`: none.
    ///
    /// # Errors
    /// [`Code::INVALID_CONFIG`] for a number that is no VLAN, or half a range.
    pub fn new(vlan: i64, trunk: &[Option<TrunkEntry>], preserve_default: bool) -> Result<Option<Self>, Error> {
        let access = match u16::try_from(vlan) {
            Ok(0) => None,
            Ok(vid) if vlan <= LAST => Some(vid),
            _ => {
                return Err(invalid(format!("invalid VLAN ID {vlan} (must be between 0 and {LAST})"))
                    .with_details("set vlan to the VLAN of the pod's untagged frames, or to 0 for none"));
            }
        };
        let mut tagged = BTreeSet::new();
        for entry in trunk.iter().flatten() {
            tagged.extend(entry.vids()?);
        }
        let trunk = ranges(&tagged);
        Ok((access.is_some() || !trunk.is_empty()).then_some(Self { access, trunk, preserve_default }))
    }

    /// The VLAN of untagged frames.
    #[must_use]
    pub fn native(&self) -> u16 {
        self.access.unwrap_or(DEFAULT)
    }

    /// What the port is a member of. The native VLAN stays untagged when the trunk has it too.
    #[must_use]
    pub fn memberships(&self) -> Vec<PortVlan> {
        let native = self.native();
        let tagged = |first, last| PortVlan { first, last, pvid: false, untagged: false };
        let mut all = vec![PortVlan { first: native, last: native, pvid: true, untagged: true }];
        for &(first, last) in &self.trunk {
            if native < first || native > last {
                all.push(tagged(first, last));
                continue;
            }
            if first < native {
                all.push(tagged(first, native.saturating_sub(1)));
            }
            if native < last {
                all.push(tagged(native.saturating_add(1), last));
            }
        }
        all
    }
}

impl Vlans {
    /// Puts a port into them, which is down still.
    pub(crate) fn apply(&self, host: &Netlink, port: u32) -> Result<(), Error> {
        if !self.preserve_default {
            for present in host.port_vlans(port).map_err(net_error)? {
                host.delete_port_vlan(port, &present).map_err(net_error)?;
            }
        }
        self.memberships().iter().try_for_each(|vlan| host.add_port_vlan(port, vlan).map_err(net_error))
    }

    /// The first VLAN in which a port's membership is not as it should be.
    pub(crate) fn difference(&self, present: &[PortVlan]) -> Option<u16> {
        let wanted = by_vid(&self.memberships());
        let present = by_vid(present);
        let differs = |vid: &&u16| wanted.get(vid) != present.get(vid);
        let superfluous = |vid: &&u16| !self.preserve_default && !wanted.contains_key(vid);
        wanted.keys().find(differs).or_else(|| present.keys().find(superfluous)).copied()
    }
}

fn by_vid(vlans: &[PortVlan]) -> BTreeMap<u16, (bool, bool)> {
    vlans.iter().flat_map(|vlan| (vlan.first..=vlan.last).map(|vid| (vid, (vlan.pvid, vlan.untagged)))).collect()
}

impl fmt::Display for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in VLAN {} untagged", self.native())?;
        self.trunk.iter().try_for_each(|(first, last)| {
            if first == last { write!(f, ", {first}") } else { write!(f, ", {first}-{last}") }
        })?;
        f.write_str(if self.preserve_default { ", and the bridge's default" } else { "" })
    }
}

impl TrunkEntry {
    fn vids(self) -> Result<Vec<u16>, Error> {
        let mut vids = Vec::new();
        match (self.min_id, self.max_id) {
            (Some(min), Some(max)) => {
                let min = vid(min, "incorrect trunk minID parameter")?;
                let max = vid(max, "incorrect trunk maxID parameter")?;
                if max < min {
                    return Err(trunk_error("minID is greater than maxID in trunk parameter"));
                }
                vids.extend(min..=max);
            }
            (None, Some(_)) => {
                return Err(trunk_error("minID and maxID should be configured simultaneously, minID is missing"));
            }
            (Some(_), None) => {
                return Err(trunk_error("minID and maxID should be configured simultaneously, maxID is missing"));
            }
            (None, None) => {}
        }
        if let Some(id) = self.id {
            vids.push(vid(id, "incorrect trunk id parameter")?);
        }
        Ok(vids)
    }
}

fn vid(number: i64, text: &str) -> Result<u16, Error> {
    u16::try_from(number).ok().filter(|_| (1..=LAST).contains(&number)).ok_or_else(|| trunk_error(text))
}

fn ranges(vids: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &vid in vids {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(vid) => *last = vid,
            _ => ranges.push((vid, vid)),
        }
    }
    ranges
}

fn trunk_error(text: &str) -> Error {
    invalid(text).with_details(format!(
        "each entry of vlanTrunk is {{\"id\": N}} or {{\"minID\": N, \"maxID\": M}} with numbers from 1 to {LAST}"
    ))
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Code::INVALID_CONFIG, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn vlans(vlan: i64, trunk: &Value) -> Result<Option<Vlans>, Error> {
        let trunk: Vec<Option<TrunkEntry>> = adit_cni::config::from_value(trunk).unwrap();
        Vlans::new(vlan, &trunk, false)
    }

    fn members(vlan: i64, trunk: &Value) -> Vec<String> {
        let show = |vlan: &PortVlan| {
            let flags = if vlan.pvid && vlan.untagged { " native" } else { "" };
            format!("{}-{}{flags}", vlan.first, vlan.last)
        };
        vlans(vlan, trunk).unwrap().unwrap().memberships().iter().map(show).collect()
    }

    #[test]
    fn an_access_port_is_in_its_vlan_only() {
        assert_eq!(members(100, &json!([])), ["100-100 native"]);
        assert_eq!(vlans(0, &json!([])).unwrap(), None);
        assert_eq!(vlans(0, &json!([{}, null])).unwrap(), None);
    }

    #[test]
    fn a_trunk_is_sorted_without_duplicates_and_has_vlan_1_untagged() {
        let trunk = json!([{"id": 12}, {"minID": 10, "maxID": 11}, {"ID": 30}, {"id": 11}]);
        assert_eq!(members(0, &trunk), ["1-1 native", "10-12", "30-30"]);
        assert_eq!(members(7, &trunk), ["7-7 native", "10-12", "30-30"]);
    }

    #[test]
    fn the_native_vlan_stays_untagged_within_the_trunk() {
        assert_eq!(members(11, &json!([{"minID": 10, "maxID": 12}])), ["11-11 native", "10-10", "12-12"]);
        assert_eq!(members(0, &json!([{"minID": 1, "maxID": 4094}])), ["1-1 native", "2-4094"]);
    }

    #[test]
    fn a_difference_is_named_by_its_vlan() {
        let vlan = |first, last, native: bool| PortVlan { first, last, pvid: native, untagged: native };
        let wanted = vlans(5, &json!([{"minID": 7, "maxID": 9}])).unwrap().unwrap();
        assert_eq!(wanted.difference(&[vlan(5, 5, true), vlan(7, 8, false), vlan(9, 9, false)]), None);
        assert_eq!(wanted.difference(&[vlan(5, 5, true), vlan(7, 8, false)]), Some(9));
        assert_eq!(wanted.difference(&[vlan(5, 5, false), vlan(7, 9, false)]), Some(5));
        let more = [vlan(1, 1, false), vlan(5, 5, true), vlan(7, 9, false)];
        assert_eq!(wanted.difference(&more), Some(1));
        assert_eq!(Vlans { preserve_default: true, ..wanted }.difference(&more), None);
    }

    #[test]
    fn numbers_that_are_no_vlan_are_refused_in_the_references_words() {
        for vlan in [-1, 4095, 65536, 70000] {
            let error = vlans(vlan, &json!([])).unwrap_err();
            assert_eq!(error.msg, format!("invalid VLAN ID {vlan} (must be between 0 and 4094)"));
        }
        for (entry, text) in [
            (json!({"id": 0}), "incorrect trunk id parameter"),
            (json!({"id": 4095}), "incorrect trunk id parameter"),
            (json!({"minID": 0, "maxID": 5}), "incorrect trunk minID parameter"),
            (json!({"minID": 1, "maxID": 4095}), "incorrect trunk maxID parameter"),
            (json!({"minID": 9, "maxID": 8}), "minID is greater than maxID in trunk parameter"),
            (json!({"minID": 9}), "minID and maxID should be configured simultaneously, maxID is missing"),
            (json!({"maxID": 9}), "minID and maxID should be configured simultaneously, minID is missing"),
        ] {
            let error = vlans(0, &json!([entry])).unwrap_err();
            assert_eq!((error.code, error.msg.as_str()), (Code::INVALID_CONFIG, text));
            assert!(error.details.contains("from 1 to 4094"), "{error}");
        }
    }
}
