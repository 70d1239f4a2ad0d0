//! Marks of congestion (ECN) between a packet's own header and the outer one, after RFC 6040 in its normal mode: what a router of the
//! underlay says reaches those who can send less.
//!
//! On the way out the outer header takes the packet's field as it is, if the other end has said that it hands marks on; in WireGuard's format,
//! where nobody can say so, always, as the kernel's WireGuard does. Datagrams that are no packet of anybody's have [`Ecn::NotEct`]:
//! handshakes, probes, reports and keepalives. A repair has the field of the packet that it follows, so that both leave by one call: a mark on
//! it reaches no flow, but loss recovery, which hears of it that the path is full. On the way in [`Ecn::behind`] says what the two make together.

use crate::{
    Core, DropReason,
    handshake::CAPABILITY_ECN,
    inner::{IPV4_CHECKSUM_OFFSET, updated_checksum},
    peers::Slot,
};
use std::time::Instant;

/// The ECN field of an IP header, with its numbers (RFC 3168 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Nobody would understand a mark: Not-ECT.
    #[default]
    NotEct = 0b00,
    /// A mark would be understood: ECT(1).
    Ect1 = 0b01,
    /// A mark would be understood: ECT(0).
    Ect0 = 0b10,
    /// The mark, congestion experienced: CE.
    Ce = 0b11,
}

impl Ecn {
    /// The field within a TOS or traffic class.
    #[must_use]
    pub const fn of_class(class: u8) -> Self {
        match class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// That of an IP packet.
    pub(crate) const fn of(packet: &[u8]) -> Self {
        match packet {
            [0x40..=0x4f, class, ..] => Self::of_class(*class),
            [0x60..=0x6f, class, ..] => Self::of_class(*class >> 4),
            _ => Self::NotEct,
        }
    }

    /// What the outer header is to say of a packet for somebody who can do this: nothing that would end there (RFC 6040 section 4.3).
    pub(crate) const fn of_outer(packet: &[u8], capabilities: u32) -> Self {
        if capabilities & CAPABILITY_ECN != 0 { Self::of(packet) } else { Self::NotEct }
    }

    /// What a packet with this field has to say once an outer header with the other one is off (RFC 6040 section 4.2, figure 4). `None`:
    /// it is to be dropped, for congestion would pass unseen.
    pub(crate) const fn behind(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) => Some(Self::Ect1),
            (own, _) => Some(own),
        }
    }

    /// Gives it to an IP packet. An IPv4 header that was damaged stays so.
    fn write(self, packet: &mut [u8]) {
        let Some(word) = packet.first_chunk_mut::<2>() else { return };
        let old = u16::from_be_bytes(*word);
        let own = self as u16;
        let is_ipv4 = old >> 12 == 4;
        let new = if is_ipv4 { old & !0b11 | own } else { old & !(0b11 << 4) | own << 4 };
        *word = new.to_be_bytes();
        if is_ipv4 && let Some(field) = packet.get_mut(IPV4_CHECKSUM_OFFSET..).and_then(<[u8]>::first_chunk_mut) {
            *field = updated_checksum(u16::from_be_bytes(*field), (old, new)).to_be_bytes();
        }
    }
}

impl Core {
    /// A repair of this peer came behind an outer header with this field.
    pub(crate) fn take_mark_of_repair(&mut self, slot: Slot, outer: Ecn, now: Instant) {
        let recovery = self.peers.get_mut(slot).and_then(|peer| peer.recovery.as_deref_mut());
        if let Some(recovery) = recovery.filter(|_| outer == Ecn::Ce) {
            recovery.congestion_experienced(now);
        }
    }

    /// A packet of this peer came behind an outer header with this field.
    ///
    /// # Errors
    /// [`DropReason::CongestionMarked`].
    pub(crate) fn take_mark(
        &mut self,
        slot: Slot,
        outer: Ecn,
        packet: &mut [u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        if outer == Ecn::NotEct {
            return Ok(());
        }
        let own = Ecn::of(packet);
        // One that was marked before the tunnel says nothing of the path between.
        if outer == Ecn::Ce
            && own != Ecn::Ce
            && let Some(recovery) = self.peers.get_mut(slot).and_then(|peer| peer.recovery.as_deref_mut())
        {
            recovery.congestion_experienced(now);
        }
        let whole = own.behind(outer).ok_or(DropReason::CongestionMarked)?;
        if whole != own {
            whole.write(packet);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inner::{add, folded, write_ipv4_checksum};
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    use proptest::prelude::*;

    #[test]
    fn what_two_fields_make_together_is_the_table_of_rfc_6040() {
        // Figure 4: a row for each inner field, with the outer ones in the order of the first line.
        let outer = [NotEct, Ect0, Ect1, Ce];
        for (own, expected) in [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ] {
            assert_eq!(outer.map(|outer| own.behind(outer)), expected, "{own:?}");
        }
    }

    #[test]
    fn the_field_is_two_bits_beside_whatever_dscp_there_is() {
        for class in 0..=255_u8 {
            let expected = [NotEct, Ect1, Ect0, Ce][usize::from(class & 3)];
            assert_eq!(Ecn::of_class(class), expected);
            assert_eq!(Ecn::of(&[0x45, class]), expected);
            assert_eq!(Ecn::of(&[0x60 | class >> 4, class << 4 | 0x0f]), expected);
        }
        assert_eq!((Ecn::of(&[0x75, 3]), Ecn::of(&[0x45]), Ecn::of(&[])), (NotEct, NotEct, NotEct));
    }

    #[test]
    fn only_the_field_of_an_ipv6_packet_changes() {
        for (field, second) in [(NotEct, 0xc5), (Ect1, 0xd5), (Ect0, 0xe5), (Ce, 0xf5)] {
            let mut packet = [0x6a; 40];
            packet[1] = 0xe5;
            let mut expected = packet;
            expected[1] = second;
            field.write(&mut packet);
            assert_eq!(packet, expected);
        }
    }

    proptest! {
        #[test]
        fn checksum_of_an_ipv4_header_stays_right_and_a_wrong_one_wrong(
            mut packet in proptest::collection::vec(any::<u8>(), 20..60), bits: u8, wrong: bool,
        ) {
            packet[0] = 0x45;
            write_ipv4_checksum(&mut packet[..20]);
            if wrong {
                packet[11] ^= 1;
            }
            let (before, field) = (packet.clone(), Ecn::of_class(bits));
            field.write(&mut packet);
            prop_assert_eq!(Ecn::of(&packet), field);
            prop_assert_eq!(folded(add(0, &packet[..20])) == 0xffff, !wrong);
            prop_assert_eq!((packet[1] & !3, &packet[2..10], &packet[12..]), (before[1] & !3, &before[2..10], &before[12..]));
        }

        #[test]
        fn any_bytes_take_any_field(mut packet in proptest::collection::vec(any::<u8>(), 0..30), bits: u8) {
            let length = packet.len();
            Ecn::of_class(bits).write(&mut packet);
            prop_assert_eq!(packet.len(), length);
        }
    }
}
