//! The same, compared with what others have written: tun-rs, whose cutting is wireguard-go's.

use crate::{
    generate::headers,
    model::{Headers, TCP, payload},
    tunnel::{MTU_BYTES, Tunnel, seen, vnet},
};
use adit_dataplane::{GsoKind, Vnet};
use proptest::prelude::*;
use tun_rs::{VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, VirtioNetHdr, gso_split};

fn tun_rs(packet: &[u8], header: &Vnet, is_v6: bool) -> Vec<Vec<u8>> {
    let (gso, (csum_start, csum_offset)) = (header.segments.unwrap(), header.checksum.unwrap());
    let gso_type = match gso.kind {
        GsoKind::Tcp4 => VIRTIO_NET_HDR_GSO_TCPV4,
        GsoKind::Tcp6 => VIRTIO_NET_HDR_GSO_TCPV6,
        GsoKind::Udp => VIRTIO_NET_HDR_GSO_UDP_L4,
    };
    let header = VirtioNetHdr {
        flags: 1,
        gso_type,
        hdr_len: gso.header_bytes,
        gso_size: gso.segment_bytes,
        csum_start,
        csum_offset,
    };
    let mut places = vec![vec![0; usize::from(MTU_BYTES)]; 70];
    let mut sizes = vec![0; places.len()];
    let count = gso_split(&mut packet.to_vec(), header, &mut places, &mut sizes, 0, is_v6).unwrap();
    places.iter().zip(sizes).take(count).map(|(place, size)| place[..size].to_vec()).collect()
}

/// In TCP 0 and 0xffff are the same checksum; the kernel and we write the latter.
fn normal(mut packet: Vec<u8>, headers: &Headers) -> Vec<u8> {
    let (start, offset) = headers.checksum_place();
    let field = &mut packet[start + offset..start + offset + 2];
    if headers.protocol == TCP && field == [0, 0] {
        field.fill(0xff);
    }
    packet
}

proptest! {
    #[test]
    fn packet_for_several_is_cut_as_tun_rs_cuts_it(headers in headers(), segment in 1..1300_usize, count in 1..64_usize, last: u16) {
        let bytes = ((count - 1) * segment + 1 + usize::from(last) % segment).min(65_535 - headers.bytes());
        let packet = headers.partial(&payload(bytes, 5));
        let header = vnet(&headers, Some(segment));
        let expected: Vec<_> =
            tun_rs(&packet, &header, headers.is_v6).into_iter().map(|packet| normal(packet, &headers)).collect();
        let arrived: Vec<_> = Tunnel::up().pass(&packet, header).into_iter().map(seen).collect();
        prop_assert_eq!(arrived, expected);
    }
}
