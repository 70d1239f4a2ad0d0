//! One message on the agent's socket: four bytes of length (big endian), then JSON; descriptors ride on the length.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// No message is longer: a status of several thousand tunnels fits.
const MAX_BYTES: usize = 16 << 20;
/// No message carries more descriptors.
const MAX_DESCRIPTORS: usize = 2;
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));
const LENGTH_BYTES: usize = 4;

/// Sends `message` with `descriptors` attached.
///
/// # Errors
/// The socket's, `InvalidData` for a message that is too long.
pub fn send<T: Serialize>(mut stream: &UnixStream, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_BYTES {
        return Err(invalid("the message is too long"));
    }
    let length = u32::try_from(body.len()).map_err(|_| invalid("the message is too long"))?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(invalid("the message carries too many descriptors"));
    }
    let sent = retry_on_intr(|| sendmsg(stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL))?;
    stream.write_all(length.get(sent..).unwrap_or_default())?;
    stream.write_all(&body)
}

/// Receives one message and the descriptors that came with it.
///
/// # Errors
/// The socket's (also its timeout); `InvalidData` for a message that is too long, or that is not the JSON expected.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    receive_at_most(stream, MAX_BYTES)
}

/// The same of somebody who has reason to say no more than `max_bytes`.
///
/// # Errors
/// As [`receive`].
pub fn receive_at_most<T: DeserializeOwned>(
    mut stream: &UnixStream,
    max_bytes: usize,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; LENGTH_BYTES];
    let (read, descriptors) = receive_first(stream, &mut length)?;
    stream.read_exact(length.get_mut(read..).unwrap_or_default())?;
    let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if size > max_bytes {
        return Err(invalid("the message is too long"));
    }
    let mut body = Vec::new();
    let limit = u64::try_from(size).unwrap_or(u64::MAX);
    if stream.take(limit).read_to_end(&mut body)? < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let message = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    Ok((message, descriptors))
}

fn receive_first(stream: &UnixStream, buffer: &mut [u8; LENGTH_BYTES]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = retry_on_intr(|| recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(arrived) = part {
            descriptors.extend(arrived);
        }
    }
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((message.bytes, descriptors))
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd, thread};

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (left, right) = UnixStream::pair().unwrap();
        let (one, two) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
        let long = "x".repeat(300_000);
        let sent = json!({"text": long});
        let writer = {
            let sent = sent.clone();
            thread::spawn(move || send(&left, &sent, &[one.as_fd(), two.as_fd()]).unwrap())
        };
        let (received, descriptors): (Value, _) = receive(&right).unwrap();
        writer.join().unwrap();
        assert_eq!(received, sent);
        assert_eq!(descriptors.len(), 2);
        let mut byte = [7];
        File::from(descriptors.into_iter().nth(1).unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [&b""[..], b"\0\0", b"\0\0\0\x09{}", b"\xff\xff\xff\xff", b"\0\0\0\x02no"] {
            let (mut left, right) = UnixStream::pair().unwrap();
            left.write_all(bytes).unwrap();
            drop(left);
            assert!(receive::<Value>(&right).is_err(), "{bytes:?}");
        }
    }
}
