//! The spoof check: a frame from a guarded port goes on only with the pod's MAC address.
//!
//! ```text
//! table bridge adit {
//!     set guarded { type ifname; elements = { "veth1b2c3d4e" comment "adit:lan:…:net1" } }
//!     set allowed { type ifname . ether_addr; elements = { "veth1b2c3d4e" . 02:…:07 comment … } }
//!     chain spoof_check {
//!         type filter hook prerouting priority dstnat; policy accept
//!         iifname . ether saddr @allowed accept
//!         iifname @guarded drop
//!     }
//! }
//! ```
//!
//! A table of our own: `nft delete table bridge adit` is a safe way back, and the reference's `bridge nat` stays as it is.

use adit_cni::{Code, Error};
use adit_net::nftables::{
    ChainKind, Element, Expression, Family, Field, Hook, HookPoint, KeyType, KeyValue, Set, Table,
};
use adit_net::{MacAddress, Nftables};
use adit_plugin::check::mismatch;
use adit_plugin::net_error;

use crate::rules::{Chain, StaticPart, commented};
use crate::tag::Tag;

const GUARDED: &str = "guarded";
const ALLOWED: &str = "allowed";

/// `dstnat` of the bridge family (`NF_BR_PRI_NAT_DST_BRIDGED`), as the reference has it.
const PRIORITY: i32 = -300;

/// Whether this kernel can check.
///
/// # Errors
/// [`Code::NOT_AVAILABLE`] when it cannot.
pub(crate) fn ensure_supported(nft: &Nftables) -> Result<(), Error> {
    if nft.is_supported().map_err(net_error)? {
        return Ok(());
    }
    Err(Error::new(Code::NOT_AVAILABLE, "macspoofchk needs nf_tables, which this kernel has not")
        .with_details("load the module nf_tables, or set macspoofchk to false"))
}

/// Lets only frames from `mac` through that come from `port`.
pub(crate) fn add(nft: &Nftables, tag: &Tag, port: &str, mac: MacAddress) -> Result<(), Error> {
    let part = static_part();
    let name = KeyValue::IfName(port.to_owned());
    let element = |key: &[KeyValue]| Element { comment: Some(tag.as_str().to_owned()), ..Element::new(key) };
    part.change(nft, |batch| {
        // In place of what an ADD that was killed has allowed to a port of this name.
        part.put(nft, batch, ALLOWED, element(&[name.clone(), KeyValue::Ether(mac)]))?;
        part.put(nft, batch, GUARDED, element(std::slice::from_ref(&name)))
    })
}

/// Deletes the elements whose comment `is_stale`, after `first` where there are any.
pub(crate) fn discard(
    nft: &Nftables,
    is_stale: impl Fn(&str) -> bool,
    first: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    static_part().discard(nft, is_stale, first)
}

/// Whether the port is guarded. Which address is allowed is not compared: a later plugin of the chain may have changed it.
pub(crate) fn check(nft: &Nftables, tag: &Tag, port: &str) -> Result<(), Error> {
    let part = static_part();
    if !part.is_complete(nft)? {
        return Err(mismatch("the rules of table bridge adit, which check MAC addresses, are not complete")
            .with_details("something has deleted them; the next ADD with macspoofchk makes them again"));
    }
    let name = KeyValue::IfName(port.to_owned());
    let found = part.find(nft, |comment| comment == tag.as_str())?;
    let has = |set: &str| {
        found
            .iter()
            .any(|(found, elements)| *found == set && elements.iter().any(|element| element.key.first() == Some(&name)))
    };
    if has(GUARDED) && has(ALLOWED) {
        Ok(())
    } else {
        Err(mismatch(format!(
            "the MAC addresses of {port} are not checked: it is not in the sets of table bridge adit"
        )))
    }
}

fn static_part() -> StaticPart {
    let pair = vec![Field::InputInterface, Field::EtherSource];
    StaticPart {
        table: Table::new(Family::Bridge, "adit"),
        sets: vec![
            Set { name: GUARDED.to_owned(), key: vec![KeyType::IfName], interval: false },
            Set { name: ALLOWED.to_owned(), key: vec![KeyType::IfName, KeyType::EtherAddr], interval: false },
        ],
        chains: vec![Chain {
            name: "spoof_check",
            hook: Some(Hook { kind: ChainKind::Filter, hook: HookPoint::Prerouting, priority: PRIORITY }),
            rules: vec![
                commented(
                    [Expression::InSet(pair, ALLOWED.to_owned()), Expression::Accept],
                    "adit: a pod's own address",
                ),
                commented(
                    [Expression::InSet(vec![Field::InputInterface], GUARDED.to_owned()), Expression::Drop],
                    "adit: any other address",
                ),
            ],
            shared: false,
        }],
    }
}
