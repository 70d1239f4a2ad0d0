//! The netlink frames of a received datagram, and what the kernel says in an error.
//!
//! netlink-packet-core decodes an error's number only; the extended acknowledgement
//! (Documentation/userspace-api/netlink/intro.rst, "Ext ACK") is decoded here.

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NetlinkBuffer, NlasIterator};
use nix::errno::Errno;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

// enum nlmsgerr_attrs, include/uapi/linux/netlink.h
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
const NLMSGERR_ATTR_MISS_TYPE: u16 = 5;

const HEADER_BYTES: usize = 16;
const CODE_BYTES: usize = 4;

/// One frame of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub sequence: u32,
    /// A dump whose objects changed while it ran (`NLM_F_DUMP_INTR`).
    pub interrupted: bool,
    pub content: Content<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// An object; the whole frame with its header.
    Object(&'a [u8]),
    /// The request was carried out, or the dump is complete.
    Success,
    /// The request was refused.
    Refusal(Refusal),
    Nothing,
}

/// Why the kernel refused a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub errno: Errno,
    pub message: Option<String>,
    /// Where in the refused message the attribute begins that it was refused for.
    pub offset: Option<u32>,
}

/// The frames of a datagram, or what is wrong with it as the last item.
pub(crate) fn frames(datagram: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, String>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match split(rest) {
            Ok((frame, after)) => {
                rest = after;
                Some(Ok(frame))
            }
            Err(what) => {
                rest = &[];
                Some(Err(what))
            }
        }
    })
}

fn split(bytes: &[u8]) -> Result<(Frame<'_>, &[u8]), String> {
    let buffer = NetlinkBuffer::new_checked(bytes).map_err(|e| e.to_string())?;
    let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
    let whole = bytes.get(..length).ok_or("a frame is longer than its datagram")?;
    let body = whole.get(HEADER_BYTES..).ok_or("a frame is shorter than its header")?;
    let flags = buffer.flags();
    let content = match buffer.message_type() {
        NLMSG_NOOP => Content::Nothing,
        NLMSG_OVERRUN => return Err("messages were lost".into()),
        NLMSG_ERROR => answer(body, flags, error_attributes(body, flags)),
        NLMSG_DONE => answer(body, flags, body.get(CODE_BYTES..)),
        _ => Content::Object(whole),
    };
    let frame = Frame { sequence: buffer.sequence_number(), interrupted: flags & NLM_F_DUMP_INTR != 0, content };
    Ok((frame, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn answer<'a>(body: &[u8], flags: u16, attributes: Option<&[u8]>) -> Content<'a> {
    // An empty NLMSG_DONE counts as success.
    let code = body.first_chunk::<CODE_BYTES>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code >= 0 {
        return Content::Success;
    }
    let attributes = attributes.filter(|_| flags & NLM_F_ACK_TLVS != 0);
    Content::Refusal(Refusal {
        errno: Errno::from_raw(code.wrapping_neg()),
        message: attributes.and_then(extended_text),
        offset: attributes.and_then(offset),
    })
}

/// Behind the error code stands the refused request: its header only when capped.
fn error_attributes(body: &[u8], flags: u16) -> Option<&[u8]> {
    let request = body.get(CODE_BYTES..)?;
    let length = if flags & NLM_F_CAPPED != 0 {
        HEADER_BYTES
    } else {
        let length = u32::from_ne_bytes(*request.first_chunk()?);
        usize::try_from(length).ok()?.checked_next_multiple_of(4)?
    };
    request.get(length..)
}

/// The text of an extended acknowledgement, with the offset of the attribute it is about.
fn extended_text(attributes: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for attribute in NlasIterator::new(attributes) {
        let Ok(attribute) = attribute else { break };
        let number = || attribute.value().first_chunk().map(|b| u32::from_ne_bytes(*b));
        match attribute.kind() {
            NLMSGERR_ATTR_MSG => {
                let text = String::from_utf8_lossy(attribute.value());
                parts.insert(0, text.trim_end_matches('\0').trim_end().to_owned());
            }
            NLMSGERR_ATTR_OFFS => {
                parts.extend(number().map(|n| format!("(attribute at offset {n})")));
            }
            NLMSGERR_ATTR_MISS_TYPE => {
                parts.extend(number().map(|n| format!("(attribute {n} is missing)")));
            }
            _ => {}
        }
    }
    Some(parts.join(" ")).filter(|text| !text.is_empty())
}

fn offset(attributes: &[u8]) -> Option<u32> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    let found = all.find(|attribute| attribute.kind() == NLMSGERR_ATTR_OFFS)?;
    Some(u32::from_ne_bytes(found.value().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux 6.18 answers to `ip route add 10.9.0.0/16 via 192.0.2.1` without a route there,
    /// with NETLINK_CAP_ACK and NETLINK_EXT_ACK on.
    fn unreachable_gateway() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(72u32.to_ne_bytes()); // length
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend(0x300u16.to_ne_bytes()); // NLM_F_CAPPED | NLM_F_ACK_TLVS
        bytes.extend(7u32.to_ne_bytes()); // sequence
        bytes.extend(4242u32.to_ne_bytes()); // port
        bytes.extend((-101i32).to_ne_bytes()); // ENETUNREACH
        bytes.extend([44, 0, 0, 0, 24, 0, 5, 6, 7, 0, 0, 0, 146, 16, 0, 0]); // the request's header
        bytes.extend([32, 0, 1, 0]); // NLMSGERR_ATTR_MSG
        bytes.extend(b"Nexthop has invalid gateway\0");
        bytes.extend([4, 0, 3, 0]); // an empty cookie
        bytes
    }

    fn refusal(datagram: &[u8]) -> Refusal {
        let frame = frames(datagram).next().unwrap().unwrap();
        let Content::Refusal(refusal) = frame.content else { panic!("{frame:?}") };
        refusal
    }

    #[test]
    fn the_kernels_words_are_read_from_an_extended_ack() {
        let bytes = unreachable_gateway();
        assert_eq!(bytes.len(), 72);
        assert_eq!(frames(&bytes).next().unwrap().unwrap().sequence, 7);
        assert_eq!(
            refusal(&bytes),
            Refusal { errno: Errno::ENETUNREACH, message: Some("Nexthop has invalid gateway".into()), offset: None }
        );
    }

    #[test]
    fn the_offset_of_the_offending_attribute_follows_the_text() {
        let mut bytes = Vec::new();
        bytes.extend([76, 0, 0, 0, 2, 0, 0, 2, 1, 0, 0, 0, 9, 0, 0, 0]); // not capped
        bytes.extend((-34i32).to_ne_bytes());
        bytes.extend([20, 0, 0, 0, 16, 0, 5, 6, 1, 0, 0, 0, 9, 0, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa]);
        bytes.extend([8, 0, 2, 0, 32, 0, 0, 0]); // NLMSGERR_ATTR_OFFS comes first
        bytes.extend([26, 0, 1, 0]);
        bytes.extend(b"Attribute is too long\0\0\0");
        bytes.extend([0; 2]);
        let length = u8::try_from(bytes.len()).unwrap();
        bytes[0] = length;
        let refusal = refusal(&bytes);
        assert_eq!(refusal.errno, Errno::ERANGE);
        assert_eq!(refusal.message.unwrap(), "Attribute is too long (attribute at offset 32)");
        assert_eq!(refusal.offset, Some(32));
    }

    #[test]
    fn an_error_without_extended_ack_has_a_number_only() {
        let mut bytes = unreachable_gateway();
        bytes[6..8].copy_from_slice(&0x100u16.to_ne_bytes());
        assert_eq!(refusal(&bytes), Refusal { errno: Errno::ENETUNREACH, message: None, offset: None });
    }

    #[test]
    fn code_zero_is_success_and_an_interrupted_dump_is_seen() {
        let mut bytes = vec![20, 0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([20, 0, 0, 0, 3, 0, 0x12, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        let all: Vec<_> = frames(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            all,
            [
                Frame { sequence: 1, interrupted: false, content: Content::Success },
                Frame { sequence: 2, interrupted: true, content: Content::Success },
            ]
        );
    }

    #[test]
    fn an_error_of_a_dump_comes_with_its_text_too() {
        let mut bytes = vec![36, 0, 0, 0, 3, 0, 2, 2, 1, 0, 0, 0, 9, 0, 0, 0];
        bytes.extend((-2i32).to_ne_bytes());
        bytes.extend([15, 0, 1, 0]);
        bytes.extend(b"No table!!\0\0");
        assert_eq!(refusal(&bytes), Refusal { errno: Errno::ENOENT, message: Some("No table!!".into()), offset: None });
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_makes_the_reader_panic_or_hang(bytes: Vec<u8>) {
            for frame in frames(&bytes) { let _ = frame; }
        }

        #[test]
        fn no_damage_to_an_error_makes_the_reader_panic(at in 0usize..72, to: u8) {
            let mut bytes = unreachable_gateway();
            bytes[at] = to;
            for frame in frames(&bytes) { let _ = frame; }
        }
    }
}
