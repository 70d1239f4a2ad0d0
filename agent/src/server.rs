//! The agent's socket: who may speak, and what is answered.

use std::{
    fs, io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::UnixStream as StdStream,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use adit_tunnel::{
    Record, frame,
    protocol::{Envelope, PROTOCOL_VERSION, Request, Response, SOCKET_NAME},
};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, umask},
    },
    unistd::geteuid,
};
use tokio::{net::UnixListener, sync::Semaphore};

use crate::{Error, Result, check, registry::Registry, reopen::Descriptors};

/// How long a client may take for its whole request, and once more to take the whole answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Requests answered at once; further clients wait in the socket's backlog.
pub const SLOTS: usize = 64;
/// How long to wait after a client could not be accepted: until descriptors are free again the next one cannot either.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A run directory that is this agent's alone, as long as this value lives.
pub struct Server {
    socket: PathBuf,
    _lock: Flock<fs::File>,
}

impl Server {
    /// Takes the run directory, which is made if it is missing.
    ///
    /// # Errors
    /// Another agent has it, or it cannot be written.
    pub fn claim(directory: &Path) -> Result<Self> {
        let taken = Flock::lock(lock_file(directory)?, FlockArg::LockExclusiveNonblock);
        let lock = taken.map_err(|_| Error::AlreadyRunning(directory.to_owned()))?;
        Ok(Self { socket: directory.join(SOCKET_NAME), _lock: lock })
    }

    /// Takes the run directory when whoever has it ends.
    ///
    /// # Errors
    /// It cannot be written, or nobody can wait there.
    pub fn inherit(directory: &Path) -> Result<Self> {
        let lock = Flock::lock(lock_file(directory)?, FlockArg::LockExclusiveNonblock).or_else(|(file, _)| {
            tracing::info!("another agent works in {}; waiting for its end", directory.display());
            Flock::lock(file, FlockArg::LockExclusive)
        });
        let lock = lock.map_err(|(_, errno)| path_error("lock", directory, errno.into()))?;
        Ok(Self { socket: directory.join(SOCKET_NAME), _lock: lock })
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Listens; nobody but root can connect from the first instant on.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(&self) -> Result<UnixListener> {
        match fs::remove_file(&self.socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(path_error("replace", &self.socket, source));
            }
            _ => {}
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&self.socket);
        umask(before);
        listener.map_err(|source| path_error("listen on", &self.socket, source))
    }
}

/// Answers clients for ever, each on a thread of its own, since a request may enter a namespace.
pub async fn answer(listener: &UnixListener, registry: &Registry) {
    let slots = Arc::new(Semaphore::new(SLOTS));
    // Nobody closes the semaphore.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
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
        return refuse(
            stream,
            &format!(
                "protocol version {} is not {PROTOCOL_VERSION}; install plugin and agent of one version",
                envelope.version
            ),
        );
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
        Ok([tun, udp]) => Some(Descriptors { tun, udp }),
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

/// The file whose lock says who has the directory, which is made if it is missing.
fn lock_file(directory: &Path) -> Result<fs::File> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|source| path_error("create", directory, source))?;
    let path = directory.join("agent.lock");
    let options = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    options.map_err(|source| path_error("open", &path, source))
}

fn path_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Path { action, path: path.to_owned(), source }
}
