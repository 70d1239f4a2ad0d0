//! The agent's socket: who may speak, and what is answered.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::UnixStream as StdStream,
        },
    },
    path::{Path, PathBuf},
    sync::LazyLock,
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
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::Semaphore,
};

use crate::{Error, Result, registry::Registry};

/// How long a client may take for its request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Requests answered at once; further clients wait in the socket's backlog.
static SLOTS: LazyLock<std::sync::Arc<Semaphore>> = LazyLock::new(|| std::sync::Arc::new(Semaphore::new(64)));

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
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|source| path_error("create", directory, source))?;
        let path = directory.join("agent.lock");
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| path_error("open", &path, source))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| Error::AlreadyRunning(directory.to_owned()))?;
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

/// Answers one client on a thread of its own, since its request may enter a namespace.
pub fn answer(accepted: io::Result<(UnixStream, SocketAddr)>, registry: &Registry) {
    let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!("cannot accept a client: {error}");
            return;
        }
    };
    let registry = registry.clone();
    tokio::spawn(async move {
        let Ok(slot) = SLOTS.clone().acquire_owned().await else { return };
        let _ = tokio::task::spawn_blocking(move || {
            if let Err(error) = converse(&stream, &registry) {
                tracing::debug!("a client went away: {error}");
            }
            drop(slot);
        })
        .await;
    });
}

fn converse(stream: &StdStream, registry: &Registry) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let peer = getsockopt(stream, PeerCredentials)?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        return refuse(stream, &format!("user {} may not speak to the agent; only root may", peer.uid()));
    }
    let (envelope, descriptors) = match frame::receive::<Envelope>(stream) {
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
    frame::send(stream, &respond(envelope.request, descriptors, registry), &[])
}

fn respond(request: Request, descriptors: Vec<OwnedFd>, registry: &Registry) -> Response {
    match request {
        Request::Ping => Response::Done,
        Request::Attach { record } => match attach(*record, descriptors, registry) {
            Ok(()) => Response::Done,
            Err(error) => Response::Refused { message: error.to_string() },
        },
        Request::Detach { attachment } => {
            registry.detach(&attachment);
            Response::Done
        }
        Request::Inspect { attachment } => {
            Response::Tunnels { tunnels: registry.inspect(&attachment).into_iter().collect() }
        }
        Request::Status => Response::Tunnels { tunnels: registry.status() },
        other => Response::Refused { message: format!("this agent does not know the request {other:?}") },
    }
}

fn attach(record: Record, descriptors: Vec<OwnedFd>, registry: &Registry) -> Result<()> {
    let count = descriptors.len();
    let Ok([tun, udp]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err(Error::BadHandOver(format!(
            "{count} descriptors came with the tunnel instead of 2; plugin and agent must be of one version"
        )));
    };
    registry.attach(record, tun, udp)
}

fn refuse(stream: &StdStream, message: &str) -> io::Result<()> {
    frame::send(stream, &Response::Refused { message: message.into() }, &[])
}

fn path_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Path { action, path: path.to_owned(), source }
}
