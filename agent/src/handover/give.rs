//! The end that gives.

use std::{
    io::{self, Write as _},
    os::{fd::BorrowedFd, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use adit_tunnel::frame;
use tokio::{net::UnixListener, sync::Notify};

use super::{AtWork, Next, PATIENCE, VERSION, is_trusted, unexpected};
use crate::registry::{Paused, Registry};

/// More than wait on any node.
const MOST_HEIRS: usize = 16;
/// How long to wait after one could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The agents that wait for this one's tunnels.
#[derive(Clone, Default)]
pub struct Heirs {
    waiting: Arc<Mutex<Vec<UnixStream>>>,
    asked: Arc<Notify>,
}

impl Heirs {
    /// Takes in who comes, for ever.
    pub async fn welcome(self, listener: UnixListener) {
        loop {
            match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => {
                    let heirs = self.clone();
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = heirs.take_in(stream) {
                            tracing::debug!("an agent that wanted to stand by went away: {error}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept an agent that stands by: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take_in(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        if !is_trusted(&stream)? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match frame::receive(&stream)? {
            (Next::Hello { version: VERSION, at_once }, _) => {
                let mut waiting = self.lock();
                waiting.retain(is_there);
                if waiting.len() >= MOST_HEIRS {
                    return Err(io::Error::other("too many wait already"));
                }
                waiting.push(stream);
                drop(waiting);
                tracing::info!("another agent stands by{}", if at_once { ", and asks for the tunnels" } else { "" });
                if at_once {
                    self.asked.notify_one();
                }
                Ok(())
            }
            (said, _) => Err(unexpected(&said)),
        }
    }

    /// Returns when one has asked for everything at once.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Who came last, and is still there.
    pub fn next(&self) -> Option<UnixStream> {
        let mut waiting = self.lock();
        waiting.retain(is_there);
        waiting.pop()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<UnixStream>> {
        // Changed by whole pushes and removals.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits says nothing: there is something to read only when it has gone.
fn is_there(stream: &UnixStream) -> bool {
    use nix::{
        errno::Errno,
        sys::socket::{MsgFlags, recv},
    };
    use std::os::fd::AsRawFd as _;
    let read = recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    matches!(read, Err(Errno::EAGAIN))
}

/// Gives everything away: the tunnels, then `node`, which are the run directory's lock and the socket of the clients. Nobody may change
/// the registry meanwhile. Returns how many tunnels went.
///
/// # Errors
/// The other one did not take part to the end. Then all tunnels are carried here as before, but for those that it had already: these wait
/// to be opened anew.
pub fn give(
    heir: &UnixStream,
    registry: &Registry,
    paused: &Paused<'_>,
    node: [BorrowedFd<'_>; 2],
) -> io::Result<usize> {
    let start = Instant::now();
    let tunnels = registry.carried_tunnels();
    let count = tunnels.len();
    frame::send(heir, &AtWork::Offer { tunnels: tunnels.clone() }, &[])?;
    expect(heir, &Next::Ready)?;
    let ready = Instant::now();
    for tunnel in tunnels {
        // A broken one is opened anew by whoever has the node.
        let Some(given) = registry.give(&tunnel, paused) else { continue };
        let parcel = given.parcel();
        let message = AtWork::Give { tunnel, state_bytes: parcel.state().len() };
        let sent = frame::send(heir, &message, &parcel.descriptors()).and_then(|()| {
            let mut heir = heir;
            heir.write_all(parcel.state())?;
            expect(heir, &Next::Got)
        });
        if let Err(error) = sent {
            registry.take_back(given);
            return Err(error);
        }
        // It is theirs, even if they never hear of it.
        drop(given);
        frame::send(heir, &AtWork::Yours, &[])?;
    }
    frame::send(heir, &AtWork::Last, &[])?;
    expect(heir, &Next::Done)?;
    frame::send(heir, &AtWork::Node, &node)?;
    tracing::info!(
        "gave {count} tunnels to the next agent in {:.1?}, after {:.1?}",
        ready.elapsed(),
        ready.duration_since(start)
    );
    Ok(count)
}

fn expect(heir: &UnixStream, wanted: &Next) -> io::Result<()> {
    let (said, _) = frame::receive::<Next>(heir)?;
    if std::mem::discriminant(&said) == std::mem::discriminant(wanted) { Ok(()) } else { Err(unexpected(&said)) }
}
