//! The interface's MTU follows the path: at once, whenever the data plane says so.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
};

use adit_dataplane::{OnResize, TunnelId};
use adit_net::{LinkChange, Netlink, tun::mtu_bytes};
use adit_tunnel::{Record, mtu::packets_per_send};

use super::{Held, Holding, Registry};
use crate::{Error, Result, reopen::within};

/// What the data plane says of MTUs, in order.
pub struct Sizes(mpsc::Receiver<(TunnelId, u16)>);

impl Sizes {
    /// Who listens, and what the data plane has to call.
    #[must_use]
    pub fn channel() -> (Self, OnResize) {
        let (say, sizes) = mpsc::channel();
        let say = move |id, bytes| {
            // Nobody listens any more when the agent ends.
            let _ = say.send((id, bytes));
        };
        (Self(sizes), Arc::new(say))
    }
}

impl Registry {
    /// Sets the MTUs of interfaces on a thread of its own, until the data plane has ended.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn follow(&self, Sizes(sizes): Sizes) -> io::Result<()> {
        let registry = self.clone();
        let work = move || sizes.iter().for_each(|(id, bytes)| registry.resize(id, bytes));
        thread::Builder::new().name("adit-mtu".into()).spawn(work).map(drop)
    }

    fn resize(&self, id: TunnelId, bytes: u16) {
        let is_it = |held: &&Held| held.holding == Holding::Carried(id);
        let Some(Held { record, .. }) = self.lock().values().find(is_it).cloned() else { return };
        let _claim = self.shared.claims.claim(&record.attachment);
        if self.held(&record.attachment).as_ref().is_none_or(|held| !is_it(&held)) {
            return;
        }
        match set(&record, bytes) {
            Ok(()) => tracing::info!("{}: the interface's MTU is {bytes} now", record.attachment),
            Err(error) => tracing::warn!("{}: cannot set the interface's MTU to {bytes}: {error}", record.attachment),
        }
    }
}

fn set(record: &Record, bytes: u16) -> Result<()> {
    let spec = &record.spec;
    let gso_max_segments = Some(packets_per_send(bytes, spec.local.is_ipv6(), spec.encryption));
    within(&record.netns, || {
        let netlink = Netlink::open()?;
        let name = spec.if_name.as_str();
        let link = netlink.link(name)?.ok_or_else(|| Error::LinkGone(name.to_owned()))?;
        let change = LinkChange { mtu: Some(bytes.into()), gso_max_segments, ..LinkChange::default() };
        Ok(netlink.change_link(link.index, &change)?)
    })
}

/// The MTU that the interface of a recorded tunnel has, if it can be found out. The calling thread is in its namespace.
pub fn present(record: &Record) -> Option<u16> {
    u16::try_from(mtu_bytes(&record.spec.if_name).ok()?).ok()
}
