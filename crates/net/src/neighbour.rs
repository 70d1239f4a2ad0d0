//! What the kernel knows of the hosts on a link.

use std::net::IpAddr;

use crate::{
    Netlink, Result,
    attribute::{Attributes, attributes},
    ip,
    request::{GET_NEIGHBOUR, NEW_NEIGHBOUR, Request},
};

/// `struct ndmsg`.
const HEADER_BYTES: usize = 12;

// include/uapi/linux/neighbour.h
const NDA_DST: u16 = 1;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;

/// What came of asking for a neighbour's MAC address (RFC 826, RFC 4861).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// It has answered; its MAC address is known.
    Known,
    /// It was asked, and has not answered so far.
    Asked,
    /// It was asked, and does not answer.
    Silent,
}

impl Netlink {
    /// What is known of `address` on link `index`; `None` when nobody has asked for it lately.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn neighbour(&self, index: u32, address: IpAddr) -> Result<Option<Neighbour>> {
        let mut message = Attributes::new();
        message.header(&[ip::family(address), 0, 0, 0]).header(&[0; HEADER_BYTES - 4]);
        let request = Request::new(GET_NEIGHBOUR, message);
        let read = (NEW_NEIGHBOUR, |body: &[u8]| Some(parse(body)));
        let found = self.dump("list neighbours of link", || index.to_string(), &request, read)?;
        Ok(found.into_iter().flatten().find_map(|(on, to, state)| ((on, to) == (index, address)).then_some(state)))
    }
}

/// Index of the link, address, state; `None` for what has no address.
fn parse(body: &[u8]) -> Option<(u32, IpAddr, Neighbour)> {
    let (&[family, _, _, _, i0, i1, i2, i3, s0, s1, _, _], rest) = body.split_first_chunk::<HEADER_BYTES>()?;
    let address = attributes(rest).find_map(|(kind, value)| (kind == NDA_DST).then_some(value))?;
    let state = match u16::from_ne_bytes([s0, s1]) {
        NUD_FAILED => Neighbour::Silent,
        0 | NUD_INCOMPLETE => Neighbour::Asked,
        _ => Neighbour::Known,
    };
    Some((u32::from_ne_bytes([i0, i1, i2, i3]), ip::read(family, address)?, state))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::{
        AddressFamily,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    };

    use super::*;

    #[test]
    fn neighbours_are_read_as_others_write_them() {
        for (written, expected) in [
            (NeighbourState::Reachable, Neighbour::Known),
            (NeighbourState::Stale, Neighbour::Known),
            (NeighbourState::Permanent, Neighbour::Known),
            (NeighbourState::Incomplete, Neighbour::Asked),
            (NeighbourState::Failed, Neighbour::Silent),
        ] {
            let mut message = NeighbourMessage::default();
            message.header.family = AddressFamily::Inet;
            message.header.ifindex = 7;
            message.header.state = written;
            message.attributes = vec![
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
                NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())),
            ];
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            assert_eq!(parse(&bytes), Some((7, [10, 0, 0, 1].into(), expected)), "{written:?}");
            assert_eq!(parse(&bytes[..8]), None);
        }
    }
}
