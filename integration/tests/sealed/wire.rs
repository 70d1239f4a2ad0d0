//! What whoever reads the wire finds.

use std::{net::IpAddr, time::Duration};

use adit_integration::{
    sealed::{Format, SealedPair},
    trial,
    tunnels::{FIRST_POD, Family, Pair, inner_pair, outer},
};
use adit_lab::{
    Attachment, COMMAND_DEADLINE, TappedPacket,
    packet::{ICMP, ICMPV6},
};
use libtest_mimic::Trial;

use crate::Outcome;

const MARKER: &[u8] = b"the-inner-bytes-of-this-tunnel/";

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        for outside in [Family::V4, Family::V6] {
            let name = format!("the_wire_shows_nothing_of_the_inside_by_{format:?}_over_{outside:?}").to_lowercase();
            trials.push(trial(name, move || sealed(format, outside)));
        }
    }
    trials.push(trial("the_search_finds_the_inside_of_a_plain_tunnel", plain));
    trials
}

/// Marked bytes cross the tunnel by UDP, TCP and echo requests. The first packet finds no session: it has to wait.
fn marked(pair: &Pair) -> Outcome {
    let pattern: String = MARKER.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    pair.ohio.ping_with("10.4.0.2", &["-c", "2", "-s", "400", "-p", &pattern])?.all_received()?;
    let marked: Vec<u8> = MARKER.iter().copied().cycle().take(1 << 20).collect();
    let server = pair.mumbai.tcp_echo("10.4.0.2:7".parse()?)?;
    assert_eq!(pair.ohio.tcp_exchange(server.address(), &marked, COMMAND_DEADLINE)?.len(), marked.len());
    let server = pair.ohio.udp_echo("10.4.0.1:7".parse()?)?;
    for length in [1, 100, 1300, 4000] {
        pair.mumbai.udp_exchange(server.address(), &marked[..length], Duration::from_secs(5))?;
    }
    Ok(())
}

/// Whether a packet shows a part of the marker, or the two inner addresses beside each other as an inner header has them.
fn shows_the_inside(packet: &TappedPacket) -> bool {
    let [here, there] = inner_pair(Family::V4).map(|text| text.split('/').next().unwrap_or_default().parse::<IpAddr>());
    let octets = |address: &Result<IpAddr, _>| match address {
        Ok(IpAddr::V4(address)) => address.octets(),
        _ => unreachable!("inner addresses are IPv4"),
    };
    let (here, there) = (octets(&here), octets(&there));
    let headers = [[here, there].concat(), [there, here].concat()];
    packet
        .payload
        .windows(8)
        .any(|bytes| headers.iter().any(|header| header == bytes) || MARKER.windows(8).any(|part| part == bytes))
}

fn sealed(format: Format, outside: Family) -> Outcome {
    let prepared = SealedPair::new(format).over(outside, Family::V4).preshared().prepare()?;
    let ends = [prepared.lab.ohio(), prepared.lab.mumbai()].map(|node| outer(node, outside, FIRST_POD));
    // In the middle of the network, and where the pods themselves are connected; from before there are any.
    let taps = [prepared.lab.router(2)?.tap("next", |_| true)?, prepared.lab.ohio().tap("up0", |_| true)?];
    let pair = prepared.up()?;
    marked(&pair)?;
    for tap in taps {
        nothing_shows(&tap.stop(), ends, format)?;
    }
    Ok(())
}

fn nothing_shows(packets: &[TappedPacket], ends: [IpAddr; 2], format: Format) -> Outcome {
    // Routers, and the other pod, complain of what comes before there is a tunnel, and quote it: "destination unreachable".
    let is_complaint = |packet: &TappedPacket| {
        matches!((packet.protocol, packet.payload.first()), (ICMP, Some(3)) | (ICMPV6, Some(1)))
    };
    let is_ours = |packet: &&TappedPacket| ends.contains(&packet.src) && !is_complaint(packet);
    let ours: Vec<_> = packets.iter().filter(is_ours).collect();
    let bytes: usize = ours.iter().map(|packet| packet.payload.len()).sum();
    assert!(bytes > 2 << 20, "{} packets, {bytes} bytes", ours.len());
    for packet in &ours {
        let udp = (packet.protocol, packet.src_port, packet.dst_port);
        assert_eq!(udp, (17, Some(format.port()), Some(format.port())), "{packet:?}");
        assert!(ends.contains(&packet.dst), "{packet:?}");
        assert!(packet.df && !packet.fragment, "{packet:?}");
        assert_ne!(packet.checksum, Some(0), "{packet:?}");
    }
    // Of whomever: neighbours' questions too.
    for packet in packets {
        assert!(!shows_the_inside(packet), "{packet:?}");
    }
    Ok(())
}

fn plain() -> Outcome {
    let pair = Pair::up(Attachment::Bridge, Family::V4, Family::V4)?;
    let tap = pair.lab.router(2)?.tap("next", |_| true)?;
    marked(&pair)?;
    let packets = tap.stop();
    let shown = packets.iter().filter(|packet| shows_the_inside(packet)).count();
    assert!(shown > 10, "{shown} of {} packets", packets.len());
    Ok(())
}
