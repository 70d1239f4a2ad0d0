//! The one way in which tunnels go: the agent lets go of those that it carries, the interface goes, the record goes last.
//!
//! Everything is found by the record, so it makes no difference whether the namespace, the agent, `prevResult` or the
//! network's configuration is still there, nor how often it is done.

use std::path::Path;

use adit_cni::{Attachment, Error};
use adit_net::{LinkKind, Netlink, Netns};
use adit_plugin::{collected, net_error};
use adit_tunnel::{AttachmentId, Client, Record, Store};

use crate::error::tunnel_error;

/// Removes tunnels of one run directory.
#[derive(Clone, Copy)]
pub struct Remover<'a> {
    pub store: &'a Store,
    pub agent: &'a Client,
}

impl Remover<'_> {
    /// Whether the node remembers this tunnel, readably or not.
    pub fn has_record(&self, attachment: &AttachmentId) -> bool {
        self.store.path(attachment).exists()
    }

    /// Removes one tunnel; one that is gone already, or never was, is fine.
    ///
    /// Twice, because the request of an ADD that was killed may still be on its way to the agent: what it brings after the
    /// first round is found by the second, and after that the agent refuses it, since no record asks for it.
    ///
    /// # Errors
    /// Something of it is still there and cannot be removed. The record stays then, for the next try.
    pub fn remove(&self, attachment: &AttachmentId, netns: Option<&Path>) -> Result<(), Error> {
        self.remove_once(attachment, netns)?;
        self.remove_once(attachment, netns)
    }

    fn remove_once(&self, attachment: &AttachmentId, netns: Option<&Path>) -> Result<(), Error> {
        let record = self.store.read(attachment).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        });
        if record.as_ref().is_none_or(|record| record.spec.needs_agent()) {
            self.detach(attachment);
        }
        if self.has_record(attachment) {
            delete_link(attachment, record.as_ref(), netns)?;
        }
        self.store.remove(attachment).map_err(tunnel_error)
    }

    /// Removes every tunnel on one interface of a container.
    ///
    /// # Errors
    /// As [`Self::remove`], after trying all.
    pub fn remove_all(&self, attachment: &Attachment, netns: Option<&Path>) -> Result<(), Error> {
        let (container, interface) = (attachment.container_id.to_string(), attachment.ifname.to_string());
        let records = self.store.of_interface(&container, &interface).map_err(tunnel_error)?;
        let readable = records.iter().flatten().map(|record| self.remove(&record.attachment, netns));
        collected(readable.filter_map(Result::err).collect())?;
        self.store.remove_interface(&container, &interface).map_err(tunnel_error)
    }

    /// Removes every tunnel of `network` whose attachment is not among `valid`.
    ///
    /// # Errors
    /// As [`Self::remove`], after trying all.
    pub fn remove_stale(&self, network: &str, valid: &[Attachment]) -> Result<(), Error> {
        let records = self.store.list().map_err(tunnel_error)?;
        let is_valid = |id: &AttachmentId| {
            valid
                .iter()
                .any(|known| known.container_id.as_str() == id.container_id && known.ifname.as_str() == id.cni_if_name)
        };
        let stale =
            records.iter().flatten().filter(|record| record.network == network && !is_valid(&record.attachment));
        collected(stale.filter_map(|record| self.remove(&record.attachment, None).err()).collect())
    }

    /// An agent that cannot be reached holds nothing, or will see that the record is gone.
    fn detach(&self, attachment: &AttachmentId) {
        match self.agent.detach(attachment) {
            Err(error) if !error.is_agent_unreachable() => tracing::warn!("{error}"),
            _ => {}
        }
    }
}

/// Deletes the interface where the pod is still there. The record tells that it is ours; it has our name and one of our kinds.
fn delete_link(attachment: &AttachmentId, record: Option<&Record>, netns: Option<&Path>) -> Result<(), Error> {
    let Some(pod) = find_pod(record, netns) else { return Ok(()) };
    match pod.link(attachment.if_name.as_str()).map_err(net_error)? {
        Some(link) if matches!(link.kind, LinkKind::Tun | LinkKind::Vxlan | LinkKind::Wireguard) => {
            pod.delete_link(link.index).map(drop).map_err(net_error)
        }
        _ => Ok(()),
    }
}

/// The pod's namespace: the recorded one, by path or by identity; without a readable record the one that the runtime names.
fn find_pod(record: Option<&Record>, netns: Option<&Path>) -> Option<Netlink> {
    let open = |path: &Path| Netns::open(path).ok();
    let Some(record) = record else {
        return netns.and_then(open).and_then(|pod| Netlink::open_in(&pod).ok());
    };
    let recorded = |pod: Netns| {
        let netlink = Netlink::open_in(&pod).ok()?;
        record.netns.is(pod.id(), netlink.netns_cookie()).then_some(netlink)
    };
    open(&record.netns.path)
        .and_then(recorded)
        .or_else(|| netns.and_then(open).and_then(recorded))
        .or_else(|| Netns::find(record.netns.id).ok().flatten().and_then(recorded))
}
