//! The `tun` CNI plugin: an encapsulated point-to-point interface on top of the interface that the chain has made.
//!
//! ADD reads top to bottom in [`Tun::add`]: everything is checked first (configuration, pod, agent), the [`plan`] is made,
//! and only then the node is touched, step by step, each step with its undo. The record that comes first and goes last is
//! what DEL, GC, the next ADD and the agent find a tunnel by; [`remove`] is the one way in which tunnels go.
#![forbid(unsafe_code)]

mod apply;
mod check;
mod error;
mod ipam;
mod plan;
mod pod;
mod remove;
mod routes;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use adit_cni::{Attachment, Call, CniResult, Code, DelCall, Error, GcCall, Interface, Ip, Plugin, Route, StatusCall};
use adit_net::Netlink;
use adit_plugin::{collected, transaction};
use adit_tunnel::{
    AttachmentId, Client, Config, Effective, Encryption, Engine, Intent, PublicKey, Record, Store, keys::KeyNames,
    run_dir,
};
use apply::apply;
use error::{key_error, tunnel_error};
use ipam::Child;
use plan::{Plan, new_record};
use pod::Found;
use remove::Remover;
use serde_json::{Map, Value};

/// How often a waiting ADD asks.
const READY_PERIOD: Duration = Duration::from_millis(20);

/// The plugin, working in one run directory.
pub struct Tun {
    store: Store,
    agent: Client,
}

impl Tun {
    /// The plugin of the run directory that `ADIT_RUN_DIR` names.
    #[must_use]
    pub fn from_environment() -> Self {
        let run_dir = run_dir();
        Self { store: Store::new(&run_dir), agent: Client::new(&run_dir) }
    }

    fn remover(&self) -> Remover<'_> {
        Remover { store: &self.store, agent: &self.agent }
    }

    /// Asks for what the agent has to have before anything is changed: itself, and the keys of a sealed tunnel. Those are its
    /// business; what comes back is the public one.
    fn ask_agent(&self, record: &Record, intent: &Intent) -> Result<Option<PublicKey>, Error> {
        if intent.encryption == Encryption::None {
            return self.agent.ping().map(|()| None).map_err(tunnel_error);
        }
        let mut names = KeyNames::of(record);
        for (peer, written) in names.peers.iter_mut().zip(&intent.peers) {
            peer.place = written.key.strip_suffix("endpoint").unwrap_or_default().to_owned();
        }
        self.agent.public_key(&names).map(Some).map_err(key_error)
    }

    /// Waits until every peer answers, where the configuration wants that, and at most as long as it says.
    fn wait_ready(&self, attachment: &AttachmentId, patience: Option<Duration>) -> Result<(), Error> {
        let Some(patience) = patience else { return Ok(()) };
        let start = Instant::now();
        loop {
            match self.agent.check(attachment, true) {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() >= patience => {
                    let text = format!("waitReady: not within {patience:?}: {error}");
                    return Err(Error::new(Code::TRY_AGAIN_LATER, text));
                }
                Err(_) => thread::sleep(READY_PERIOD),
            }
        }
    }
}

impl Plugin for Tun {
    type Config = Config;
    const NAME: &'static str = "tun";

    fn add(&self, call: &Call<Config>) -> Result<CniResult, Error> {
        let effective = effective(&call.raw).map_err(tunnel_error)?;
        let intent = effective.config.validate().map_err(tunnel_error)?;
        let previous = previous_result(call.prev_result.as_ref())?;
        let attachment = attachment_id(&call.attachment, &effective.config)?;
        let remover = self.remover();
        let leftover = remover.has_record(&attachment);
        let found = Found::find(call, &intent, leftover)?;
        let spec = intent.resolve(&found.device, found.local, &found.routes).map_err(tunnel_error)?;
        let ipam = Child::new(&effective, &spec.if_name, &call.delegate, &call.args, &call.raw)?;
        let mut record = new_record(call, effective.written, attachment, spec, &found.netlink);
        if record.spec.needs_agent() {
            record.spec.public_key = self.ask_agent(&record, &intent)?;
        }

        transaction(|undo| {
            let inner = ipam.add(undo)?;
            let plan = Plan::new(record, &found.routes, &inner)?;
            // Only now: an ADD that cannot succeed must not cost what stands.
            if leftover {
                remover.remove(&plan.record.attachment, Some(&call.netns))?;
            }
            apply(&plan, &found, self, undo)?;
            self.wait_ready(&plan.record.attachment, intent.wait_ready)?;
            Ok(extended(previous.clone(), &plan, &inner))
        })
    }

    fn check(&self, call: &Call<Config>) -> Result<(), Error> {
        let effective = effective(&call.raw).map_err(tunnel_error)?;
        let previous = previous_result(call.prev_result.as_ref())?;
        let attachment = attachment_id(&call.attachment, &effective.config)?;
        let check_peer = effective.config.check_peer.unwrap_or(false);
        check::local_truth(self, call, &attachment, previous, check_peer)?;
        Child::new(&effective, &attachment.if_name, &call.delegate, &call.args, &call.raw)?.check()
    }

    fn del(&self, call: &DelCall<Config>) -> Result<(), Error> {
        // A configuration that names no usable interface never made one.
        let Ok(attachment) = attachment_id(&call.attachment, &call.config) else { return Ok(()) };
        let removed = self.remover().remove(&attachment, call.netns.as_deref());
        // The address goes back also when something else could not be removed, or when the annotation never was acceptable.
        let effective = effective(&call.raw).unwrap_or_else(|_| Effective::without_annotation(&call.config));
        let released = Child::new(&effective, &attachment.if_name, &call.delegate, &call.args, &call.raw)
            .and_then(|ipam| ipam.del());
        collected([removed, released].into_iter().filter_map(Result::err).collect())
    }

    fn del_unreadable(&self, attachment: &Attachment, netns: Option<&Path>, _why: Error) -> Result<(), Error> {
        self.remover().remove_all(attachment, netns)
    }

    fn gc(&self, call: &GcCall<Config>) -> Result<(), Error> {
        let Some(valid) = &call.valid else { return Ok(()) };
        let removed = self.remover().remove_stale(call.network.as_str(), valid);
        let forwarded = ipam::gc(call, valid);
        collected([removed, forwarded].into_iter().filter_map(Result::err).collect())
    }

    fn status(&self, call: &StatusCall<Config>) -> Result<(), Error> {
        let unavailable = |error: &dyn ToString| Error::new(Code::NOT_AVAILABLE, error.to_string());
        let is_wireguard = call.config.encap.as_deref() == Some("wireguard");
        if call.config.engine() == Engine::Agent || is_wireguard {
            self.agent.ping().map_err(|error| unavailable(&error))?;
        }
        if call.config.engine() == Engine::Kernel {
            let node = Netlink::open().map_err(|error| unavailable(&error))?;
            let required = if is_wireguard { node.require_wireguard() } else { node.require_vxlan() };
            required.map_err(|error| unavailable(&error))?;
        }
        call.config.ipam_plugin().map_or(Ok(()), |plugin| call.delegate.status(plugin))
    }
}

/// The chain's result so far, which must hold the interface that the tunnel stands on.
fn previous_result(previous: Option<&CniResult>) -> Result<&CniResult, Error> {
    let missing = |what: &str| {
        Error::new(Code::INVALID_CONFIG, format!("Required prevResult {what}")).with_details(
            "tun is a chained plugin: put it into \"plugins\" after the one that makes the pod's interface (bridge or macvlan)",
        )
    };
    let previous = previous.ok_or_else(|| missing("missing"))?;
    if previous
        .interfaces
        .iter()
        .any(|interface| interface.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty()))
    {
        Ok(previous)
    } else {
        Err(missing("has no interface in the pod"))
    }
}

/// The configuration with the annotation's keys, decoded as the plugin's input was.
fn effective(raw: &Map<String, Value>) -> adit_tunnel::Result<Effective> {
    Effective::read_with(raw, |value| adit_cni::config::from_value(value).map_err(|error| error.msg))
}

fn attachment_id(attachment: &Attachment, config: &Config) -> Result<AttachmentId, Error> {
    let if_name = config.interface_name().map_err(tunnel_error)?;
    if if_name.as_str() == attachment.ifname.as_str() {
        return Err(Error::new(Code::INVALID_CONFIG, format!("ifName: {if_name} is the interface below the tunnel"))
            .with_details("choose another name, such as \"tun\""));
    }
    Ok(AttachmentId {
        container_id: attachment.container_id.to_string(),
        cni_if_name: attachment.ifname.to_string(),
        if_name,
    })
}

/// `previous` with the tunnel's interface, addresses and routes behind what it holds: no index in it changes.
fn extended(mut previous: CniResult, plan: &Plan, inner: &CniResult) -> CniResult {
    let index = previous.interfaces.len();
    previous.interfaces.push(Interface {
        name: plan.record.spec.if_name.to_string(),
        mac: None,
        mtu: Some(u32::from(plan.record.spec.mtu_bytes)),
        sandbox: Some(plan.record.netns.path.display().to_string()),
        socket_path: None,
        pci_id: None,
    });
    previous.ips.extend(inner.ips.iter().map(|ip| Ip { interface: Some(index), ..ip.clone() }));
    previous.routes.extend(inner.routes.iter().map(Route::clone));
    previous
}
