//! The end that takes.

use std::{
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::Instant,
};

use adit_dataplane::Parcel;
use adit_tunnel::frame;
use zeroize::Zeroizing;

use super::{AtWork, MAX_STATE_BYTES, Next, PATIENCE, SOCKET_NAME, VERSION, is_trusted, unexpected};
use crate::registry::Registry;

/// How it ended.
pub enum Outcome {
    /// All of it is ours: the run directory's lock, and the socket of the clients.
    Taken([OwnedFd; 2]),
    /// The agent at work has gone, or has stopped half way. What it had given is let go again.
    Broken(io::Error),
    /// Nobody hands over there.
    Nobody,
}

/// Waits for the tunnels of the agent that works in `directory`.
pub fn take(directory: &Path, at_once: bool, registry: &Registry) -> Outcome {
    let Ok(stream) = UnixStream::connect(directory.join(SOCKET_NAME)) else { return Outcome::Nobody };
    match receive(&stream, at_once, registry) {
        Ok(node) => Outcome::Taken(node),
        Err(error) => {
            registry.let_all_go();
            Outcome::Broken(error)
        }
    }
}

fn receive(stream: &UnixStream, at_once: bool, registry: &Registry) -> io::Result<[OwnedFd; 2]> {
    if !is_trusted(stream)? {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    frame::send(stream, &Next::Hello { version: VERSION, at_once }, &[])?;
    let (AtWork::Offer { tunnels }, _) = frame::receive(stream)? else { return Err(io::ErrorKind::InvalidData.into()) };
    let start = Instant::now();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let prepared = registry.prepare(&tunnels);
    frame::send(stream, &Next::Ready, &[])?;
    loop {
        match frame::receive(stream)? {
            (AtWork::Give { tunnel, state_bytes }, descriptors) => {
                let parcel = parcel(stream, state_bytes, descriptors)?;
                frame::send(stream, &Next::Got, &[])?;
                match frame::receive(stream)? {
                    (AtWork::Yours, _) => registry.take(&tunnel, prepared.get(&tunnel), parcel),
                    (said, _) => return Err(unexpected(&said)),
                }
            }
            (AtWork::Last, _) => break,
            (said, _) => return Err(unexpected(&said)),
        }
    }
    frame::send(stream, &Next::Done, &[])?;
    let (AtWork::Node, descriptors) = frame::receive(stream)? else { return Err(io::ErrorKind::InvalidData.into()) };
    tracing::info!("took {} tunnels over in {:.1?}", registry.carried(), start.elapsed());
    two(descriptors)
}

fn parcel(mut stream: &UnixStream, state_bytes: usize, descriptors: Vec<OwnedFd>) -> io::Result<Parcel> {
    if state_bytes > MAX_STATE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a tunnel's state is too long"));
    }
    let [tun, udp] = two(descriptors)?;
    let mut state = Zeroizing::new(vec![0; state_bytes]);
    stream.read_exact(&mut state)?;
    Ok(Parcel::new(tun, udp, state))
}

fn two(descriptors: Vec<OwnedFd>) -> io::Result<[OwnedFd; 2]> {
    descriptors.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not two descriptors came along"))
}
