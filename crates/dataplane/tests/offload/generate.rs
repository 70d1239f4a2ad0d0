//! Headers that the kernel may hand over.

use super::model::{Headers, TCP, UDP};
use proptest::prelude::*;

/// TCP options of whole words: none, timestamps, or anything.
pub fn tcp_options() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(vec![]),
        4 => any::<[u8; 8]>().prop_map(|times| [&[1, 1, 8, 10][..], &times].concat()),
        1 => (0..=10_usize).prop_flat_map(|words| proptest::collection::vec(any::<u8>(), words * 4)),
    ]
}

/// Headers of any TCP or UDP packet that the kernel may hand over as one for several.
pub fn headers() -> impl Strategy<Value = Headers> {
    let ip = (any::<bool>(), any::<u8>(), 1..=255_u8, 0..1_u32 << 20, any::<u16>(), any::<bool>());
    let options = prop_oneof![3 => Just(0), 1 => 1..=10_usize]
        .prop_flat_map(|words| proptest::collection::vec(any::<u8>(), words * 4));
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), any::<u16>(), tcp_options());
    (any::<bool>(), ip, options, any::<(u16, u16)>(), tcp).prop_map(|(is_tcp, ip, ip_options, ports, tcp)| {
        let (is_v6, tos, ttl, label, identification, df) = ip;
        let (sequence, acknowledged, flags, window, urgent, tcp_options) = tcp;
        Headers {
            protocol: if is_tcp { TCP } else { UDP },
            tos,
            ttl,
            label,
            identification,
            fragment: if df { 0x4000 } else { 0 },
            ip_options: if is_v6 { vec![] } else { ip_options },
            ports,
            sequence,
            acknowledged,
            flags,
            window,
            urgent,
            tcp_options: if is_tcp { tcp_options } else { vec![] },
            ..Headers::plain(TCP, is_v6)
        }
    })
}
