//! The agent's socket: who may speak, and what is answered.

use std::{
    fs, io,
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use adit_tunnel::{
    Record, frame,
    protocol::{Envelope, PROTOCOL_VERSION, Request, Response, SOCKET_NAME},
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, umask},
    },
    unistd::geteuid,
};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, SemaphorePermit},
};

use crate::{
    Error, Result, check,
    handover::{
        self,
        take::{Outcome, take},
    },
    registry::Registry,
    reopen::Descriptors,
    snapshots::Snapshots,
};

/// How long a client may take for its whole request, and once more to take the whole answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Requests answered at once; further clients wait in the socket's backlog.
pub const SLOTS: usize = 64;
/// The same for those who may only ask.
const READER_SLOTS: usize = 8;
/// What they may ask for takes less.
const READER_REQUEST_BYTES: usize = 4096;
/// How long a request may take that keeps a handover waiting.
const LONGEST_ANSWER: Duration = Duration::from_secs(15);
/// How often to look for the end of an agent that does not hand over.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait after a client could not be accepted: until descriptors are free again the next one cannot either.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A run directory that is this agent's alone, as long as this value lives.
pub struct Server {
    directory: PathBuf,
    socket: PathBuf,
    lock: Flock<fs::File>,
    /// The one before has left it.
    listener: Option<StdListener>,
}

impl Server {
    /// Takes the run directory, which is made if it is missing.
    ///
    /// # Errors
    /// Another agent has it, or it cannot be written.
    pub fn claim(directory: &Path) -> Result<Self> {
        let taken = Flock::lock(lock_file(directory)?, FlockArg::LockExclusiveNonblock);
        let lock = taken.map_err(|_| Error::AlreadyRunning(directory.to_owned()))?;
        Ok(Self::with(directory, lock, None))
    }

    /// Takes the run directory and all tunnels over from whoever has it: when that ends, or `at_once`. One that knows nothing of this is
    /// waited for, and so is one that stops half way.
    ///
    /// # Errors
    /// It cannot be written, or nobody can wait there.
    pub fn inherit(directory: &Path, at_once: bool, registry: &Registry) -> Result<Self> {
        let mut file = lock_file(directory)?;
        let (mut pause, mut has_waited) = (SHORTEST_PAUSE, false);
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self::with(directory, lock, None)),
                Err((file, Errno::EAGAIN | Errno::EINTR)) => file,
                Err((_, errno)) => return Err(path_error("lock", directory, errno.into())),
            };
            if !std::mem::replace(&mut has_waited, true) {
                tracing::info!("another agent works in {}; waiting for its end", directory.display());
            }
            match take(directory, at_once, registry) {
                Outcome::Taken([lock, listener]) => {
                    // It is the one that was locked there, and stays so.
                    let lock = Flock::lock(lock.into(), FlockArg::LockExclusiveNonblock);
                    let lock = lock.map_err(|(_, errno)| path_error("lock", directory, errno.into()))?;
                    return Ok(Self::with(directory, lock, Some(listener.into())));
                }
                Outcome::Broken(error) => {
                    tracing::debug!("the agent at work ended without handing over: {error}");
                    pause = SHORTEST_PAUSE;
                }
                Outcome::Nobody => pause = pause.saturating_mul(2).min(LONGEST_PAUSE),
            }
            thread::sleep(pause);
        }
    }

    fn with(directory: &Path, lock: Flock<fs::File>, listener: Option<StdListener>) -> Self {
        Self { directory: directory.to_owned(), socket: directory.join(SOCKET_NAME), lock, listener }
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Listens to clients; nobody but root can connect from the first instant on.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(&mut self) -> Result<UnixListener> {
        match self.listener.take() {
            // Clients may be waiting there.
            Some(listener) => listener
                .set_nonblocking(true)
                .and_then(|()| UnixListener::from_std(listener))
                .map_err(|source| path_error("listen on", &self.socket, source)),
            None => listen(&self.socket),
        }
    }

    /// Listens to agents that stand by, likewise.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen_to_heirs(&self) -> Result<UnixListener> {
        listen(&self.directory.join(handover::SOCKET_NAME))
    }

    /// What the next agent needs of this.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The next agent has the lock: it must not be undone.
    pub fn leave(self) {
        std::mem::forget(self.lock);
    }
}

fn listen(socket: &Path) -> Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(path_error("replace", socket, source)),
        _ => {}
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(socket);
    umask(before);
    listener.map_err(|source| path_error("listen on", socket, source))
}

/// The requests that are being answered: at most [`SLOTS`].
#[derive(Clone)]
pub struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SLOTS)))
    }
}

impl Slots {
    /// Waits until all of them are answered, and lets none begin as long as the result lives. `None`: it takes too long.
    pub async fn drain(&self) -> Option<SemaphorePermit<'_>> {
        let all = u32::try_from(SLOTS).unwrap_or(u32::MAX);
        tokio::time::timeout(LONGEST_ANSWER, self.0.acquire_many(all)).await.ok()?.ok()
    }
}

/// Answers clients for ever, each on a thread of its own, since a request may enter a namespace.
pub async fn answer(listener: &UnixListener, registry: &Registry, slots: &Slots) {
    // Nobody closes the semaphore.
    while let Ok(slot) = Arc::clone(&slots.0).acquire_owned().await {
        match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let registry = registry.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = converse(&Arc::new(stream), &registry) {
                        tracing::debug!("a client went away: {error}");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a client: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers those who may only ask how tunnels are, for ever. The socket's mode says who they are. However they come, there are
/// slots of their own for them, and the tunnels are looked at no more often than by one of them alone.
pub(crate) async fn answer_readers(listener: &UnixListener, snapshots: &Arc<Snapshots>) {
    let slots = Arc::new(Semaphore::new(READER_SLOTS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let snapshots = Arc::clone(snapshots);
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = tell(&Arc::new(stream), &snapshots) {
                        tracing::debug!("a reader went away: {error}");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a reader: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn tell(stream: &Arc<StdStream>, snapshots: &Snapshots) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let request = hurried(stream, |stream| frame::receive_at_most::<Envelope>(stream, READER_REQUEST_BYTES));
    let response = match request {
        Ok((Envelope { version: PROTOCOL_VERSION, request }, _)) => match request {
            Request::Ping => Response::Done,
            Request::Status => Response::Tunnels { tunnels: snapshots.get().to_vec() },
            _ => {
                return refuse(
                    stream,
                    "this socket tells how tunnels are, and does nothing else; speak to agent.sock as root",
                );
            }
        },
        Ok((envelope, _)) => return refuse(stream, &unknown_version(&envelope)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return refuse(
                stream,
                &format!("the request cannot be read: {error}; adit and agent must be of one version"),
            );
        }
        Err(error) => return Err(error),
    };
    hurried(stream, |stream| frame::send(stream, &response, &[]))
}

fn unknown_version(envelope: &Envelope) -> String {
    format!("protocol version {} is not {PROTOCOL_VERSION}; install plugin and agent of one version", envelope.version)
}

/// Does one half of a conversation, and hangs up when it takes longer than [`PATIENCE`] in all.
fn hurried<T>(stream: &Arc<StdStream>, half: impl FnOnce(&StdStream) -> io::Result<T>) -> io::Result<T> {
    let other = Arc::clone(stream);
    let hang_up = tokio::spawn(async move {
        tokio::time::sleep(PATIENCE).await;
        // Gone already is fine. Whoever reads or writes on this socket is woken.
        let _ = other.shutdown(Shutdown::Both);
    });
    let done = half(stream);
    hang_up.abort();
    done
}

fn converse(stream: &Arc<StdStream>, registry: &Registry) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let peer = getsockopt(stream.as_ref(), PeerCredentials)?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        return refuse(stream, &format!("user {} may not speak to the agent; only root may", peer.uid()));
    }
    let (envelope, descriptors) = match hurried(stream, frame::receive::<Envelope>) {
        Ok(message) => message,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return refuse(
                stream,
                &format!("the request cannot be read: {error}; plugin and agent must be of one version"),
            );
        }
        Err(error) => return Err(error),
    };
    if envelope.version != PROTOCOL_VERSION {
        return refuse(stream, &unknown_version(&envelope));
    }
    let response = respond(envelope.request, descriptors, registry);
    hurried(stream, |stream| frame::send(stream, &response, &[]))
}

fn respond(request: Request, descriptors: Vec<OwnedFd>, registry: &Registry) -> Response {
    match request {
        Request::Ping => match check::room(registry.records()) {
            Ok(()) => Response::Done,
            Err(message) => Response::Refused { message },
        },
        Request::Attach { record } => match attach(*record, descriptors, registry) {
            Ok(()) => Response::Done,
            Err(error) => Response::Refused { message: error.to_string() },
        },
        Request::Detach { attachment } => {
            registry.detach(&attachment);
            Response::Done
        }
        Request::Check { attachment, peers } => match check::vouch(registry.inspect(&attachment), &attachment, peers) {
            Ok(()) => Response::Done,
            Err(message) => Response::Refused { message },
        },
        Request::Status => Response::Tunnels { tunnels: registry.status() },
        Request::PublicKey { names } => match registry.public_key(&names) {
            Ok(public_key) => Response::PublicKey { public_key },
            Err(error) => Response::Refused { message: error.to_string() },
        },
        Request::RotateKey { attachment, step } => match registry.rotate_key(&attachment, step) {
            Ok(public_key) => Response::PublicKey { public_key },
            Err(error) => Response::Refused { message: error.to_string() },
        },
        Request::ChangePeerKey { attachment, old, new, keep_old } => {
            match registry.change_peer_key(&attachment, old, new, keep_old) {
                Ok(()) => Response::Done,
                Err(error) => Response::Refused { message: error.to_string() },
            }
        }
        other => Response::Refused { message: format!("this agent does not know the request {other:?}") },
    }
}

fn attach(record: Record, descriptors: Vec<OwnedFd>, registry: &Registry) -> Result<()> {
    let count = descriptors.len();
    let descriptors = match <[OwnedFd; 2]>::try_from(descriptors) {
        Ok([tun, udp]) => Some(Descriptors { tun, udp, mtu_bytes: None }),
        Err(_) if count == 0 => None,
        Err(_) => {
            return Err(Error::BadHandOver(format!(
                "{count} descriptors came with the tunnel instead of 2; plugin and agent must be of one version"
            )));
        }
    };
    registry.attach(record, descriptors)
}

fn refuse(stream: &Arc<StdStream>, message: &str) -> io::Result<()> {
    let refusal = Response::Refused { message: message.into() };
    hurried(stream, |stream| frame::send(stream, &refusal, &[]))
}

/// Makes the run directory if it is missing; everybody may enter it.
///
/// # Errors
/// It cannot be made.
pub fn make_directory(directory: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.map_err(|source| path_error("create", directory, source))
}

/// The file whose lock says who has the directory, which is made if it is missing.
fn lock_file(directory: &Path) -> Result<fs::File> {
    make_directory(directory)?;
    let path = directory.join("agent.lock");
    let options = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    options.map_err(|source| path_error("open", &path, source))
}

fn path_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Path { action, path: path.to_owned(), source }
}
