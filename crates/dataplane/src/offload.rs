//! What the kernel takes off our hands, asked for when a tunnel is added and given up when the kernel refuses it later.

use nix::{
    errno::Errno,
    libc,
    sys::socket::{setsockopt, sockopt},
};
use std::os::fd::{AsFd, AsRawFd};

use crate::merge::Mergeable;

nix::ioctl_write_int_bad!(
    /// `TUNSETOFFLOAD` takes its flags in place of the pointer (drivers/net/tun.c).
    set_tun_offload,
    nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>())
);

/// include/uapi/linux/if_tun.h
const CHECKSUM: i32 = 0x01;
const TCP4: i32 = 0x02;
const TCP6: i32 = 0x04;
const TCP_ECN: i32 = 0x08;
const UDP4: i32 = 0x20;
const UDP6: i32 = 0x40;
const TCP: i32 = CHECKSUM | TCP4 | TCP6 | TCP_ECN;
/// Since Linux 6.2.
const TCP_AND_UDP: i32 = TCP | UDP4 | UDP6;

/// What of a tunnel's packets is left to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offload {
    /// The TUN hands over checksums to be completed, and several TCP packets as one.
    pub tun_tcp: bool,
    /// The TUN hands over several UDP packets as one, and takes them so. Linux 6.2.
    pub tun_udp: bool,
    /// The TUN takes several TCP packets as one.
    pub merged_tcp: bool,
    /// The TUN takes several UDP packets as one.
    pub merged_udp: bool,
    /// The socket sends several datagrams as one (`UDP_SEGMENT`). Linux 4.18.
    pub segmented_sends: bool,
    /// The socket hands over several datagrams as one (`UDP_GRO`). Linux 5.0.
    pub merged_receives: bool,
    /// What was refused last, and how.
    pub refusal: Option<(&'static str, Errno)>,
}

impl Offload {
    /// Switches on what there is.
    pub(crate) fn of(tun: &impl AsFd, udp: &impl AsFd) -> Self {
        let mut offload = Self { segmented_sends: true, ..Self::default() };
        match set_tun(tun, TCP_AND_UDP) {
            Ok(()) => (offload.tun_tcp, offload.tun_udp) = (true, true),
            Err(errno) => {
                offload.refusal = Some(("hand over UDP packets as one", errno));
                match set_tun(tun, TCP) {
                    Ok(()) => offload.tun_tcp = true,
                    Err(errno) => offload.refusal = Some(("hand over packets as one", errno)),
                }
            }
        }
        (offload.merged_tcp, offload.merged_udp) = (offload.tun_tcp, offload.tun_udp);
        tell_marks(udp);
        offload.renew_socket(merge_receives(udp));
        offload
    }

    /// The tunnel has another socket, which merges what it receives or does not.
    pub(crate) fn renew_socket(&mut self, merging: nix::Result<()>) {
        self.segmented_sends = true;
        self.merged_receives = merging.is_ok();
        if let Err(errno) = merging {
            self.refusal = Some(("receive datagrams as one", errno));
        }
    }

    /// The names of those that are on.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.tun_tcp, "tun-tcp"),
            (self.tun_udp, "tun-udp"),
            (self.merged_tcp, "merged-tcp"),
            (self.merged_udp, "merged-udp"),
            (self.segmented_sends, "segmented-sends"),
            (self.merged_receives, "merged-receives"),
        ];
        all.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name)
    }

    /// What was refused before this carrier is not tried again.
    pub(crate) const fn restrain(&mut self, segmented_sends: bool, merged_tcp: bool, merged_udp: bool) {
        self.segmented_sends &= segmented_sends;
        self.merged_tcp &= merged_tcp;
        self.merged_udp &= merged_udp;
    }

    pub(crate) fn refuse_segmented_sends(&mut self, errno: Errno) {
        self.segmented_sends = false;
        self.refusal = Some(("send datagrams as one", errno));
    }

    pub(crate) fn refuse_merged(&mut self, errno: Errno) {
        (self.merged_tcp, self.merged_udp) = (false, false);
        self.refusal = Some(("take packets as one", errno));
    }

    pub(crate) const fn mergeable(&self) -> Mergeable {
        Mergeable { tcp: self.merged_tcp, udp: self.merged_udp }
    }
}

/// Asks the socket to hand over datagrams of one length and sender as one.
pub(crate) fn merge_receives(udp: &impl AsFd) -> nix::Result<()> {
    setsockopt(&udp.as_fd(), sockopt::UdpGroSegment, &true)
}

/// Asks the socket to tell what outer headers say of congestion. Without it marks of the path stop at the tunnel, and nothing else changes.
pub(crate) fn tell_marks(udp: &impl AsFd) {
    // Each is refused by sockets of the other family.
    let told = setsockopt(&udp.as_fd(), sockopt::Ipv6RecvTClass, &true)
        .or_else(|_| setsockopt(&udp.as_fd(), sockopt::IpRecvTos, &true));
    if let Err(errno) = told {
        tracing::warn!(%errno, "the UDP socket does not tell marks of congestion (ECN): they do not pass the tunnel");
    }
}

fn set_tun(tun: &impl AsFd, flags: i32) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, and the argument is a number, not a pointer.
    unsafe { set_tun_offload(tun.as_fd().as_raw_fd(), flags) }.map(drop)
}
