//! Requests of rtnetlink(7): a type, a fixed header, and attributes.
//!
//! Written and read by this crate itself. The decoders of netlink-packet-route hang together, so that one of them brings all
//! (traffic control, tunnels, bonding), and made a plugin 0.6 MB larger; they check ours in tests.

use netlink_packet_core::NLM_F_REQUEST;

use crate::attribute::Attributes;

/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

// include/uapi/linux/rtnetlink.h
pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DELETE_LINK: u16 = 17;
pub(crate) const GET_LINK: u16 = 18;
pub(crate) const SET_LINK: u16 = 19;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const DELETE_ADDRESS: u16 = 21;
pub(crate) const GET_ADDRESS: u16 = 22;
pub(crate) const NEW_ROUTE: u16 = 24;
pub(crate) const DELETE_ROUTE: u16 = 25;
pub(crate) const GET_ROUTE: u16 = 26;
pub(crate) const NEW_NEIGHBOUR: u16 = 28;
pub(crate) const GET_NEIGHBOUR: u16 = 30;
pub(crate) const NEW_TUNNEL: u16 = 120;
pub(crate) const GET_TUNNEL: u16 = 122;

/// A request, but for its flags and its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    kind: u16,
    body: Attributes,
}

impl Request {
    pub(crate) fn new(kind: u16, body: Attributes) -> Self {
        Self { kind, body }
    }

    /// The whole message; empty, which the kernel refuses, when an attribute is longer than its length can say.
    pub(crate) fn write(&self, sequence: u32, flags: u16) -> Vec<u8> {
        let body = self.body.clone().finish().unwrap_or_default();
        let length = body.len().checked_add(HEADER_BYTES).and_then(|length| u32::try_from(length).ok());
        let Some(length) = length.filter(|_| !body.is_empty()) else { return Vec::new() };
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(self.kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]); // the kernel's port
        message.extend(body);
        message
    }
}

/// What stands behind the header of a message that must be of this type.
///
/// # Errors
/// Says of which type it is instead.
pub(crate) fn body(message: &[u8], kind: u16) -> Result<&[u8], String> {
    let found = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match message.get(HEADER_BYTES..) {
        Some(body) if found == Some(kind) => Ok(body),
        _ => Err(format!("message type {} where {kind} was expected", found.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLM_F_ACK;

    use super::*;
    use crate::frame::{Content, frames};

    fn request() -> Request {
        let mut body = Attributes::new();
        body.header(&[0; 16]).text(3, "lo");
        Request::new(GET_LINK, body)
    }

    #[test]
    fn a_request_is_written_as_the_kernel_reads_it() {
        let mut expected = vec![40, 0, 0, 0, 18, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0; 16]); // struct ifinfomsg
        expected.extend([7, 0, 3, 0, b'l', b'o', 0, 0]); // IFLA_IFNAME
        assert_eq!(request().write(7, NLM_F_ACK), expected);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let bytes = request().write(9, 0);
        let frame = frames(&bytes).next().unwrap().unwrap();
        assert_eq!(frame.sequence, 9);
        let Content::Object(object) = frame.content else { panic!("{frame:?}") };
        assert_eq!(body(object, GET_LINK).unwrap().len(), 24);
        assert_eq!(body(object, NEW_LINK).unwrap_err(), "message type 18 where 16 was expected");
        body(&bytes[..15], GET_LINK).unwrap_err();
    }
}
