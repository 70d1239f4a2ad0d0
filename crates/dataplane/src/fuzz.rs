//! What the fuzz targets of `crates/dataplane/fuzz` need beside the public calls: the way from datagrams into the TUN, and a peer that
//! means no good.

mod recovery;

pub use recovery::Recovery;

use crate::{
    Checksum, Core,
    merge::{Mergeable, Merger},
    sealed::seal_anything,
};
use std::time::Instant;

/// What a core's first peer is sent when it says these bytes, whatever they are. `None`: there is no session.
pub fn seal(core: &mut Core, bytes: &[u8], now: Instant) -> Option<Vec<u8>> {
    let way = core.way;
    let peer = core.peers.iter_mut().next()?;
    seal_anything(peer, bytes, way, now)
}

/// Hands over packets (each behind [`HEADER_BYTES`](crate::wire::HEADER_BYTES) bytes of room) as they would be written to a TUN: each
/// write is told to `accepts`, which says whether the kernel takes it.
pub fn join(packets: &mut [(Vec<u8>, Checksum)], mut accepts: impl FnMut(&[u8]) -> bool) {
    let mut merger = Merger::new(Mergeable { tcp: true, udp: true });
    let mut flush = |merger: &mut Merger<'_>| {
        merger.flush(|pieces| {
            let written: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            accepts(&written).then_some(()).ok_or(())
        });
    };
    for (packet, checksum) in packets {
        if let Err(packet) = merger.push(packet, *checksum) {
            flush(&mut merger);
            let _ = merger.push(packet, *checksum);
        }
    }
    flush(&mut merger);
}
