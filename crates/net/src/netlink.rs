//! A synchronous netlink route socket: one request, its answers, one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    Error, Netns, Result,
    channel::Channel,
    cookie,
    request::{Request, body},
};

/// A netlink route socket of one network namespace.
///
/// It keeps acting in the namespace it was opened in, whatever thread uses it afterwards, and keeps
/// that namespace alive.
#[derive(Debug)]
pub struct Netlink {
    netns: Netns,
    channel: Mutex<Channel>,
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the system refuses a socket.
    pub fn open() -> Result<Self> {
        let netns = Netns::current()?;
        let channel = Channel::open(NETLINK_ROUTE).map_err(|e| Error::io("open", "netlink socket", e))?;
        Ok(Self { netns, channel: Mutex::new(channel) })
    }

    /// A socket in `ns`; the calling thread is there only for a moment.
    ///
    /// # Errors
    /// As [`Netlink::open`] and [`Netns::enter`].
    pub fn open_in(ns: &Netns) -> Result<Self> {
        let channel = ns.run(|| Channel::open(NETLINK_ROUTE))?.map_err(|e| Error::io("open", "netlink socket", e))?;
        Ok(Self { netns: ns.try_clone()?, channel: Mutex::new(channel) })
    }

    /// The namespace it acts in.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The kernel's own number of the namespace, which it gives to no other until the node restarts (`SO_NETNS_COOKIE`,
    /// `net/core/sock.c`). `None` on kernels before 5.14.
    #[must_use]
    pub fn netns_cookie(&self) -> Option<u64> {
        cookie::of_namespace(self.channel().fd())
    }

    /// A request that is answered by success or refusal.
    pub(crate) fn acked(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        request: &Request,
        flags: u16,
    ) -> Result<()> {
        let write = |sequence| request.write(sequence, NLM_F_ACK | flags);
        let answer = self.channel().request(write, |_| Ok(()));
        answer.map(drop).map_err(|failure| failure.into_error(action, object()))
    }

    /// A request that is answered by one object, whose message is of type `kind`.
    pub(crate) fn get<T>(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        request: &Request,
        (kind, read): (u16, impl Fn(&[u8]) -> Option<T>),
    ) -> Result<T> {
        // With an acknowledgement asked for, the end of the answer is never in doubt.
        let write = |sequence| request.write(sequence, NLM_F_ACK);
        let answers = self.channel().request(write, decode(kind, read));
        let mut answers = answers.map_err(|failure| failure.into_error(action, object()))?;
        answers.pop().ok_or_else(|| Error::answer(action, object(), "it is empty"))
    }

    /// A request that is answered by any number of objects, whose messages are of type `kind`.
    pub(crate) fn dump<T>(
        &self,
        action: &'static str,
        object: impl Fn() -> String,
        request: &Request,
        (kind, read): (u16, impl Fn(&[u8]) -> Option<T>),
    ) -> Result<Vec<T>> {
        let answers = self.channel().dump(|sequence| request.write(sequence, NLM_F_DUMP), decode(kind, read));
        answers.map_err(|failure| failure.into_error(action, object()))
    }

    fn channel(&self) -> MutexGuard<'_, Channel> {
        // A panic elsewhere leaves nothing half done that the sequence number would not sort out.
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads messages of type `kind`.
fn decode<T>(kind: u16, read: impl Fn(&[u8]) -> Option<T>) -> impl Fn(&[u8]) -> std::result::Result<T, String> {
    move |message| read(body(message, kind)?).ok_or_else(|| "it is damaged".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link_message,
        request::{GET_LINK, NEW_LINK},
    };

    #[test]
    fn a_link_that_does_not_exist_is_refused_in_words() {
        // Reading the own namespace needs no privilege.
        let netlink = Netlink::open().unwrap();
        let request = Request::new(GET_LINK, link_message::by_name("adit-no-such-l"));
        let error = netlink
            .get("look up link", || "adit-no-such-l".into(), &request, (NEW_LINK, link_message::parse))
            .unwrap_err();
        assert_eq!(error.to_string(), "look up link adit-no-such-l: No such device (ENODEV)");
    }

    #[test]
    fn a_socket_is_shared_between_threads() {
        let netlink = Netlink::open().unwrap();
        let request = Request::new(GET_LINK, link_message::any());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let read = (NEW_LINK, link_message::parse);
                        let links = netlink.dump("list", || "links".into(), &request, read).unwrap();
                        assert!(!links.is_empty());
                    }
                });
            }
        });
    }
}
