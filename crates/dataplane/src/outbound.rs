//! The way out: from the TUN to a peer.

use crate::{
    Checksum, Core, DropReason, PeerId, Result, Sink, Vnet,
    fragment::fragments,
    inner,
    path::Fit,
    peers::Slot,
    sealed,
    segment::{Several, completed, settle_checksum},
    session::{send_copies, send_data, send_several},
    wire::HEADER_BYTES,
};
use std::{net::IpAddr, time::Instant};

/// What is known of a packet that may take a shortcut.
#[derive(Debug, Clone, Copy)]
pub struct ShortcutPacket {
    /// Who is to get it.
    pub peer: PeerId,
    /// Its inner source address.
    pub source: IpAddr,
    /// What the TUN is to be told of it.
    pub header: Vnet,
    /// Inner bytes that it stands for.
    pub bytes: u64,
    /// Packets that it stands for.
    pub packets: u64,
}

/// A packet from the TUN, or one that stands for several.
#[derive(Debug)]
pub struct FromTun<'p> {
    /// [`HEADER_BYTES`] bytes of room, and the IP packet.
    pub packet: &'p mut [u8],
    /// What the kernel says of it.
    pub header: Vnet,
}

impl Core {
    /// What was read from the TUN.
    pub fn outbound<'p>(&mut self, from_tun: FromTun<'p>, now: Instant, out: &mut impl Sink<'p>) {
        if let Err(reason) = self.send(from_tun, now, out) {
            self.drops.count(reason);
        }
    }

    fn send<'p>(&mut self, from_tun: FromTun<'p>, now: Instant, out: &mut impl Sink<'p>) -> Result<(), DropReason> {
        let FromTun { packet: datagram, header } = from_tun;
        let packet = datagram.get(HEADER_BYTES..).ok_or(DropReason::MalformedInner)?;
        let addresses = inner::addresses(packet).ok_or(DropReason::MalformedInner)?;
        let mut several = header.segments.map(|gso| Several::new(packet, &header, &gso)).transpose()?;
        let longest = several.map_or(packet.len(), |several| several.longest_bytes());
        if longest > usize::from(self.way.mtu_bytes) {
            return Err(DropReason::TooBig);
        }
        let slot = self.peers.towards(addresses.destination).ok_or(DropReason::NoPeer)?;
        let peer = self.peers.get_mut(slot).ok_or(DropReason::NoPeer)?;
        let is_usable = peer.can_send(now);
        let packet = datagram.get_mut(HEADER_BYTES..).unwrap_or_default();
        let checksum = match &several {
            Some(several) => several.checksum,
            None => settle_checksum(packet, &header)?,
        };
        if !is_usable {
            let packets = match several {
                Some(several) => several.packets(packet),
                None => vec![completed(packet, checksum)],
            };
            self.wait(slot, &packets, now);
            return Ok(());
        }
        if self.shortcut {
            let place = (checksum == Checksum::Partial).then_some(header.checksum).flatten();
            let about = ShortcutPacket {
                peer: peer.config.id,
                source: addresses.source,
                header: Vnet { checksum: several.map_or(place, |several| Some(several.checksum_place())), ..header },
                bytes: several.map_or(packet.len(), |several| several.total_bytes()) as u64,
                packets: several.map_or(1, |several| several.count()) as u64,
            };
            if out.shortcut(datagram, &about) {
                peer.tx.add(about.bytes, about.packets);
                peer.last_tx = Some(now);
                if peer.sealed.as_mut().is_some_and(|state| state.renew_if_old(now)) {
                    self.wake_by_timers(slot);
                }
                return Ok(());
            }
        }
        let room = peer.path.room_bytes;
        let is_searched = self.paths.note_sent(peer, longest, now);
        let packet = datagram.get_mut(HEADER_BYTES..).unwrap_or_default();
        if longest > usize::from(room) {
            match self.paths.fit(room, packet, several.as_ref(), &header, now) {
                Fit::Cut(smaller) => several = Some(smaller),
                Fit::Fragments => {
                    let packets = match several {
                        Some(several) => several.packets(packet),
                        None => vec![completed(packet, checksum)],
                    };
                    let cut = packets.iter().map(|packet| fragments(packet, room, self.random.next_u32()));
                    let cut: Vec<Vec<_>> = cut.collect::<Option<_>>().ok_or(DropReason::TooBig)?;
                    if send_copies(peer, &cut.concat(), self.way, now, out) | is_searched {
                        self.wake_by_timers(slot);
                    }
                    return Ok(());
                }
                Fit::Refused(answer) => {
                    if let Some(answer) = answer {
                        Self::tell_too_big(datagram, &answer, out);
                    }
                    self.wake_by_timers(slot);
                    return Err(DropReason::TooBig);
                }
            }
        } else if several.is_none() {
            self.paths.clamp(room, packet, checksum);
        }
        let (packets, bytes) = several.map_or((1, packet.len()), |several| (several.count(), several.total_bytes()));
        if let Some(state) = &mut peer.sealed {
            let timer = state.said(true, now);
            let packet = datagram.get(HEADER_BYTES..).unwrap_or_default();
            match several {
                Some(several) => sealed::send_packets(peer, several, packet, self.way, now, out),
                None => sealed::send_one(peer, packet, checksum, self.way, now, out),
            };
            if timer | is_searched | peer.vitals.live.said(now) | peer.recovers(packets, bytes, now) {
                self.wake_by_timers(slot);
            }
            return Ok(());
        }
        match several {
            Some(several) => {
                let packet = datagram.get(HEADER_BYTES..).unwrap_or_default();
                send_several(peer, &several, packet, self.way.start, now, out);
            }
            None => send_data(peer, datagram, checksum, self.way.start, now, out),
        }
        if is_searched | peer.vitals.live.said(now) | peer.recovers(packets, bytes, now) {
            self.wake_by_timers(slot);
        }
        Ok(())
    }

    /// Keeps complete packets until there is a session.
    fn wait(&mut self, slot: Slot, packets: &[Box<[u8]>], now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        for packet in packets {
            self.drops.add(DropReason::QueueFull, peer.waiting.push(packet));
        }
        if let Some(hello) = &mut peer.hello {
            hello.hurry(now);
        }
        if let Some(state) = peer.sealed.as_mut().filter(|_| peer.endpoint.is_some()) {
            state.hurry(now);
        }
        self.wake_by_timers(slot);
    }
}
