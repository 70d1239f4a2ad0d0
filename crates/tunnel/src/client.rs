//! The client's end of the agent's socket.

use std::{
    io,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::{
    AttachmentId, Error, Record, Result, frame,
    protocol::{Envelope, PROTOCOL_VERSION, Request, Response, SOCKET_NAME, TunnelStatus},
};

/// How long the agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a DEL waits for an agent that hangs: it goes on without it.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

/// Speaks to the agent of one run directory.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The agent of `run_dir`; nothing is opened yet.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { socket: run_dir.join(SOCKET_NAME) }
    }

    /// Whether the agent answers.
    ///
    /// # Errors
    /// It does not, or refuses.
    pub fn ping(&self) -> Result<()> {
        self.done("answer", Request::Ping, &[])
    }

    /// Hands a tunnel over: `record`, the TUN device and the outer socket.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn attach(&self, record: &Record, tun: BorrowedFd<'_>, udp: BorrowedFd<'_>) -> Result<()> {
        let request = Request::Attach { record: Box::new(record.clone()) };
        self.done("carry the tunnel", request, &[tun, udp])
    }

    /// Takes a tunnel back; it is fine when the agent does not know it.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn detach(&self, attachment: &AttachmentId) -> Result<()> {
        self.done("let go of the tunnel", Request::Detach { attachment: attachment.clone() }, &[])
    }

    /// The state of one tunnel; `None` when the agent does not know it.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn inspect(&self, attachment: &AttachmentId) -> Result<Option<TunnelStatus>> {
        let request = Request::Inspect { attachment: attachment.clone() };
        Ok(self.tunnels("describe the tunnel", request)?.into_iter().next())
    }

    /// The state of every tunnel.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn status(&self) -> Result<Vec<TunnelStatus>> {
        self.tunnels("describe its tunnels", Request::Status)
    }

    fn done(&self, action: &str, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        match self.exchange(action, request, descriptors)? {
            Response::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    fn tunnels(&self, action: &str, request: Request) -> Result<Vec<TunnelStatus>> {
        match self.exchange(action, request, &[])? {
            Response::Tunnels { tunnels } => Ok(tunnels),
            other => Err(self.unexpected(&other)),
        }
    }

    fn exchange(&self, action: &str, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Response> {
        let unreachable = |source: io::Error| Error::AgentUnreachable { socket: self.socket.clone(), source };
        let timeout = if matches!(request, Request::Detach { .. }) { DETACH_TIMEOUT } else { TIMEOUT };
        let stream = connect(&self.socket, timeout).map_err(unreachable)?;
        let envelope = Envelope { version: PROTOCOL_VERSION, request };
        frame::send(&stream, &envelope, descriptors).map_err(unreachable)?;
        match frame::receive::<Response>(&stream) {
            Ok((Response::Refused { message }, _)) => Err(Error::AgentRefused { action: action.into(), message }),
            Ok((response, _)) => Ok(response),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => {
                Err(Error::AgentAnswer { socket: self.socket.clone(), problem: source.to_string() })
            }
            Err(source) => Err(unreachable(source)),
        }
    }

    fn unexpected(&self, response: &Response) -> Error {
        Error::AgentAnswer { socket: self.socket.clone(), problem: format!("it answered {response:?}") }
    }
}

/// A connection whose making, too, takes no longer than `timeout`: with a full backlog the kernel waits as a sender does.
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}
