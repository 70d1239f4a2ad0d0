//! The client's end of the agent's socket.

use std::{
    io,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{
    AttachmentId, Error, PublicKey, Record, Result, frame,
    keys::{KeyNames, Rotation},
    protocol::{Answer, Envelope, Kind, PROTOCOL_VERSION, Request, SOCKET_NAME, STATUS_SOCKET_NAME, TunnelStatus},
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

    /// The agent's socket for those who may only ask how its tunnels are.
    #[must_use]
    pub fn reader(run_dir: &Path) -> Self {
        Self { socket: run_dir.join(STATUS_SOCKET_NAME) }
    }

    /// Whether the agent answers.
    ///
    /// # Errors
    /// It does not, or refuses.
    pub fn ping(&self) -> Result<()> {
        self.done("answer", Request::Ping, &[])
    }

    /// Hands a tunnel over: `record`, with the TUN device and the outer socket where the agent is to carry it.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn attach(&self, record: &Record, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let request = Request::Attach { record: Box::new(record.clone()) };
        self.done("carry the tunnel", request, descriptors)
    }

    /// Takes a tunnel back; it is fine when the agent does not know it.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn detach(&self, attachment: &AttachmentId) -> Result<()> {
        self.done("let go of the tunnel", Request::Detach { attachment: attachment.clone() }, &[])
    }

    /// Whether one tunnel is carried and, with `peers`, whether all of its peers answer.
    ///
    /// # Errors
    /// The agent does not answer; or it says what is missing.
    pub fn check(&self, attachment: &AttachmentId, peers: bool) -> Result<()> {
        self.done("vouch for the tunnel", Request::Check { attachment: attachment.clone(), peers }, &[])
    }

    /// The state of every tunnel.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn status(&self) -> Result<Vec<TunnelStatus>> {
        Ok(self.exchange("describe its tunnels", Request::Status, &[], Kind::Tunnels)?.tunnels)
    }

    /// The public key that `names` leads to, after the agent has loaded every key that they name.
    ///
    /// # Errors
    /// The agent does not answer, or cannot use one of the keys.
    pub fn public_key(&self, names: &KeyNames) -> Result<PublicKey> {
        let request = Request::PublicKey { names: Box::new(names.clone()) };
        let answer = self.exchange::<IgnoredAny>("load the tunnel's keys", request, &[], Kind::PublicKey)?;
        answer.public_key.ok_or_else(|| self.misread("it left out the public key".into()))
    }

    /// Takes a step of changing the private key of a tunnel. Returns the public key that peers are to know.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn rotate_key(&self, attachment: &AttachmentId, step: Rotation) -> Result<PublicKey> {
        let request = Request::RotateKey { attachment: attachment.clone(), step };
        let answer = self.exchange::<IgnoredAny>("change the tunnel's key", request, &[], Kind::PublicKey)?;
        answer.public_key.ok_or_else(|| self.misread("it left out the public key".into()))
    }

    /// Tells that a peer's key gives way to another; `keep_old` says whether the old one is still accepted.
    ///
    /// # Errors
    /// The agent does not answer, or refuses.
    pub fn change_peer_key(
        &self,
        attachment: &AttachmentId,
        old: PublicKey,
        new: PublicKey,
        keep_old: bool,
    ) -> Result<()> {
        let request = Request::ChangePeerKey { attachment: attachment.clone(), old, new, keep_old };
        self.done("change the peer's key", request, &[])
    }

    fn done(&self, action: &str, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        self.exchange::<IgnoredAny>(action, request, descriptors, Kind::Done).map(drop)
    }

    fn exchange<T: DeserializeOwned>(
        &self,
        action: &str,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
        expected: Kind,
    ) -> Result<Answer<T>> {
        let unreachable = |source: io::Error| Error::AgentUnreachable { socket: self.socket.clone(), source };
        let timeout = if matches!(request, Request::Detach { .. }) { DETACH_TIMEOUT } else { TIMEOUT };
        let stream = connect(&self.socket, timeout).map_err(unreachable)?;
        let envelope = Envelope { version: PROTOCOL_VERSION, request };
        frame::send(&stream, &envelope, descriptors).map_err(unreachable)?;
        match frame::receive::<Answer<T>>(&stream) {
            Ok((Answer { answer: Kind::Refused, message, .. }, _)) => {
                Err(Error::AgentRefused { action: action.into(), message })
            }
            Ok((answer, _)) if answer.answer == expected => Ok(answer),
            Ok((Answer { answer, .. }, _)) => Err(self.misread(format!("it answered {answer:?}"))),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => Err(self.misread(source.to_string())),
            Err(source) => Err(unreachable(source)),
        }
    }

    fn misread(&self, problem: String) -> Error {
        Error::AgentAnswer { socket: self.socket.clone(), problem }
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
