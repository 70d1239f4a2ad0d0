//! The registry without root: a socket pair stands in for the TUN device, loopback for the outer network.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use std::{
    fs,
    net::UdpSocket,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
};

use adit_agent::registry::Registry;
use adit_dataplane::Engine;
use adit_net::{Netns, NetnsId};
use adit_tunnel::{AttachmentId, Record, State, Store};
use serde_json::json;

struct Node {
    directory: tempfile::TempDir,
    store: Store,
    registry: Registry,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let registry = Registry::new(directory.path(), Engine::start(1).unwrap()).unwrap();
        Self { directory, store, registry }
    }

    /// Writes a record as ADD does, and hands it over with descriptors; returns the pod's end of the device.
    fn attach(&self, record: &Record) -> adit_agent::Result<UnixDatagram> {
        self.store.write(record).unwrap();
        hand_over(&self.registry, record)
    }
}

fn hand_over(registry: &Registry, record: &Record) -> adit_agent::Result<UnixDatagram> {
    let (device, pod) = UnixDatagram::pair().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    registry.attach(record.clone(), OwnedFd::from(device), OwnedFd::from(socket)).map(|()| pod)
}

fn record(container: &str, netns: &Path, id: NetnsId) -> Record {
    let value = json!({
        "version": 1,
        "attachment": { "containerId": container, "cniIfName": "net1", "ifName": "tun" },
        "createdNs": 7,
        "network": "ohio",
        "pod": { "namespace": "default", "name": "plumbr-a", "uid": "" },
        "state": "adding",
        "netns": { "path": netns, "id": { "dev": id.dev, "inode": id.inode } },
        "spec": {
            "ifName": "tun", "encap": "udp", "encryption": "none", "device": "net1",
            "local": "127.0.0.1:6090", "mtuBytes": 1456,
            "peers": [{ "endpoint": "127.0.0.1:9", "allowedIPs": ["0.0.0.0/0"] }],
        },
        "addresses": ["10.4.0.1/32"], "routes": [], "epochFloor": 3,
    });
    serde_json::from_value(value).unwrap()
}

fn living(container: &str) -> Record {
    let here = Netns::current().unwrap();
    record(container, Path::new("/proc/self/ns/net"), here.id())
}

fn dead(container: &str) -> Record {
    record(container, Path::new("/run/netns/adit-test-no-such-namespace"), NetnsId { dev: 4, inode: 1 })
}

/// The pod's end notices that nobody holds the device any more.
fn is_closed(pod: &UnixDatagram) -> bool {
    pod.send(b"x").is_err()
}

#[test]
fn an_attached_tunnel_is_recorded_with_a_higher_epoch() {
    let node = Node::new();
    let record = living("c1");
    let pod = node.attach(&record).unwrap();
    let kept = node.store.read(&record.attachment).unwrap().unwrap();
    assert_eq!(kept.state, State::Attached);
    assert!(kept.epoch_floor > record.epoch_floor);
    assert_eq!(node.registry.carried(), 1);
    let status = node.registry.inspect(&record.attachment).unwrap();
    assert!(status.carried, "{status:?}");
    assert_eq!(status.state(), "waiting");
    assert!(!is_closed(&pod));
}

#[test]
fn a_tunnel_that_no_record_asks_for_is_refused_and_its_descriptors_are_closed() {
    let node = Node::new();
    let record = living("c1");
    let unrecorded = hand_over(&node.registry, &record).unwrap_err();
    assert!(unrecorded.to_string().contains("was removed or made anew"), "{unrecorded}");
    // A later ADD of the same attachment has written its own record.
    let mut newer = record.clone();
    newer.created_ns += 1;
    node.store.write(&newer).unwrap();
    assert!(hand_over(&node.registry, &record).is_err());
    assert_eq!(node.store.read(&record.attachment).unwrap().unwrap(), newer);
    assert_eq!(node.registry.carried(), 0);
}

#[test]
fn detach_closes_the_descriptors_and_is_content_when_there_is_nothing() {
    let node = Node::new();
    let record = living("c1");
    let pod = node.attach(&record).unwrap();
    node.registry.detach(&record.attachment);
    assert!(is_closed(&pod));
    node.registry.detach(&record.attachment);
    assert!(node.registry.inspect(&record.attachment).is_none());
}

#[test]
fn a_tunnel_whose_record_was_removed_is_let_go() {
    let node = Node::new();
    let (gone, stays) = (living("c1"), living("c2"));
    let (gone_pod, stays_pod) = (node.attach(&gone).unwrap(), node.attach(&stays).unwrap());
    node.store.remove(&gone.attachment).unwrap();
    node.registry.look_around();
    assert!(is_closed(&gone_pod));
    assert!(!is_closed(&stays_pod));
}

#[test]
fn nothing_is_let_go_while_a_record_cannot_be_read() {
    let node = Node::new();
    let record = living("c1");
    let pod = node.attach(&record).unwrap();
    fs::write(node.store.path(&record.attachment), "{ torn").unwrap();
    node.registry.look_around();
    assert!(!is_closed(&pod));
}

#[test]
fn a_dead_pods_tunnel_is_let_go_with_its_record() {
    let node = Node::new();
    let record = dead("c1");
    let pod = node.attach(&record).unwrap();
    node.registry.look_around();
    assert!(is_closed(&pod));
    assert_eq!(node.store.list().unwrap().len(), 0);
    assert_eq!(node.registry.status().len(), 0);
}

#[test]
fn a_recorded_tunnel_that_cannot_be_opened_is_reported_with_the_reason() {
    let node = Node::new();
    let mut record = living("c1");
    record.state = State::Attached;
    record.attachment.if_name = "adit-none".parse().unwrap();
    record.spec.if_name = "adit-none".parse().unwrap();
    node.store.write(&record).unwrap();
    node.registry.look_around();
    let status = node.registry.status();
    assert_eq!(status.len(), 1);
    assert!(!status[0].carried && !status[0].reason.is_empty(), "{status:?}");
    assert_eq!(status[0].state(), "down");
    // An ADD that is still at work is none of the agent's business.
    node.store.remove(&record.attachment).unwrap();
    node.store.write(&living("c2")).unwrap();
    node.registry.look_around();
    assert_eq!(node.registry.status().len(), 0);
}

#[test]
fn a_stopped_registry_leaves_the_records() {
    let node = Node::new();
    let record = living("c1");
    let pod = node.attach(&record).unwrap();
    node.registry.stop();
    assert!(is_closed(&pod));
    let attachment: AttachmentId = record.attachment;
    assert!(node.store.read(&attachment).unwrap().is_some());
    assert!(node.directory.path().join("attachments").is_dir());
}
