//! The registry without root: a socket pair stands in for the TUN device, loopback for the outer network.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use std::{
    fs, io,
    net::UdpSocket,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use adit_agent::registry::{Descriptors, Registry};
use adit_dataplane::Engine;
use adit_net::{Netlink, Netns, NetnsId};
use adit_tunnel::{AttachmentId, Encryption, KeyStore, PublicKey, Record, State, Store, keys::KeyNames};
use nix::{
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socketpair},
        stat::Mode,
    },
    unistd::{geteuid, mkfifo},
};
use serde_json::json;

/// Held by a test that starts a program, until the program runs.
static FORKING: Mutex<()> = Mutex::new(());

struct Node {
    directory: tempfile::TempDir,
    store: Store,
    registry: Registry,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let registry =
            Registry::new(directory.path(), KeyStore::new(directory.path()), Engine::start(1).unwrap(), Arc::default())
                .unwrap();
        Self { directory, store, registry }
    }

    /// Writes a record as ADD does, and hands it over with descriptors; returns the pod's end of the device.
    fn attach(&self, record: &Record) -> adit_agent::Result<UnixDatagram> {
        self.store.write(record).unwrap();
        hand_over(&self.registry, record)
    }
}

fn hand_over(registry: &Registry, record: &Record) -> adit_agent::Result<UnixDatagram> {
    let (device, pod) = device();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    registry.attach(record.clone(), Some(Descriptors { tun: device, udp, mtu_bytes: None })).map(|()| pod)
}

/// In place of a TUN device, one that breaks when the pod's end is closed; and the pod's end.
fn device() -> (OwnedFd, UnixDatagram) {
    let (device, pod) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    (device, pod.into())
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
            "ifName": "tun", "encap": "udp", "engine": "agent", "encryption": "none", "device": "net1",
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

/// A tunnel that is carried as far as its record tells, and whose pod is gone.
fn dead(container: &str) -> Record {
    let mut record =
        record(container, Path::new("/run/netns/adit-test-no-such-namespace"), NetnsId { dev: 4, inode: 1 });
    record.state = State::Attached;
    record
}

/// A namespace with one process in it, which ends with this value.
struct Pod {
    process: Child,
    path: PathBuf,
    id: NetnsId,
}

impl Pod {
    fn start() -> Self {
        let mut unshare = Command::new("unshare");
        if !geteuid().is_root() {
            unshare.arg("--map-root-user");
        }
        let process = {
            let _forking = FORKING.lock().unwrap();
            unshare.args(["--net", "sleep", "600"]).spawn().unwrap()
        };
        let path = PathBuf::from(format!("/proc/{}/ns/net", process.id()));
        let own = Netns::current().unwrap().id();
        let id = eventually(|| Netns::open(&path).ok().map(|netns| netns.id()).filter(|id| *id != own));
        Self { process, path, id }
    }

    fn record(&self, container: &str) -> Record {
        record(container, &self.path, self.id)
    }

    fn cookie(&self) -> Option<u64> {
        let netns = Netns::open(&self.path).unwrap();
        netns.run_on_thread(|| Netlink::open().unwrap().netns_cookie()).unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "it has not come true");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What `act` logs on this thread.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// The pod's end notices that nobody holds the device any more.
fn is_closed(pod: &UnixDatagram) -> bool {
    // A child of another test holds a copy of every descriptor until it has executed its program.
    let _forking = FORKING.lock().unwrap();
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
fn a_carried_tunnel_whose_record_is_damaged_stays_until_its_pod_goes() {
    let node = Node::new();
    let pod = Pod::start();
    let (damaged, fine) = (pod.record("c1"), living("c2"));
    let (device, fine_device) = (node.attach(&damaged).unwrap(), node.attach(&fine).unwrap());
    fs::write(node.store.path(&damaged.attachment), "{ torn").unwrap();
    node.registry.look_around();
    assert!(!is_closed(&device) && node.store.has(&damaged.attachment));
    drop(pod);
    node.registry.look_around();
    assert!(is_closed(&device));
    assert!(!node.store.has(&damaged.attachment));
    assert!(!is_closed(&fine_device));
}

#[test]
fn an_unreadable_file_hinders_no_cleaning_and_is_reported_once() {
    let node = Node::new();
    let (removed, torn) = (living("c1"), living("c2").attachment);
    let device = node.attach(&removed).unwrap();
    node.store.remove(&removed.attachment).unwrap();
    node.store.write(&dead("c3")).unwrap();
    fs::write(node.store.path(&torn), "{ torn").unwrap();
    let fifo = node.store.directory().join("c4:net1:tun.json");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    fs::create_dir(node.store.directory().join(".hidden")).unwrap();

    let first = logged(|| drop(node.registry.look_around()));
    assert!(is_closed(&device), "its record is gone");
    assert!(!node.store.has(&dead("c3").attachment), "its pod is gone");
    assert_eq!(first.matches("is not a readable attachment record").count(), 2, "{first}");
    let second = logged(|| drop(node.registry.look_around()));
    assert_eq!(second, "");
    assert!(node.store.has(&torn) && fifo.exists());
    // It is news again once it had passed.
    let whole = fs::read(node.store.path(&torn)).unwrap();
    fs::remove_file(node.store.path(&torn)).unwrap();
    node.registry.look_around();
    fs::write(node.store.path(&torn), whole).unwrap();
    assert!(logged(|| drop(node.registry.look_around())).contains("c2:net1:tun.json"));
}

#[test]
fn a_dead_pods_tunnel_is_let_go_with_its_record() {
    let node = Node::new();
    let pod = Pod::start();
    let device = node.attach(&pod.record("c1")).unwrap();
    node.store.write(&dead("c2")).unwrap();
    node.registry.look_around();
    assert!(!is_closed(&device));
    drop(pod);
    node.registry.look_around();
    assert!(is_closed(&device));
    assert_eq!(node.store.list().unwrap().len(), 0);
    assert_eq!(node.registry.status().len(), 0);
}

#[test]
fn a_tunnel_of_a_pod_that_the_agent_cannot_see_is_refused() {
    let node = Node::new();
    let record = dead("c1");
    let refused = node.attach(&record).unwrap_err().to_string();
    assert!(refused.contains("/run/netns/adit-test-no-such-namespace"), "{refused}");
    assert!(refused.contains("mountPropagation HostToContainer"), "{refused}");
    assert_eq!(node.registry.carried(), 0);
    assert_eq!(node.store.read(&record.attachment).unwrap().unwrap(), record);
}

#[test]
fn a_namespace_with_a_dead_ones_inode_number_is_not_taken_for_it() {
    if !geteuid().is_root() {
        eprintln!("left out: entering a namespace to read its cookie needs root");
        return;
    }
    let pod = Pod::start();
    let Some(cookie) = pod.cookie() else {
        eprintln!("left out: this kernel has no namespace cookies (before 5.14)");
        return;
    };
    let recorded = |container: &str, cookie: u64| {
        let mut record = pod.record(container);
        record.netns.cookie = Some(cookie);
        record.state = State::Attached;
        record
    };
    let node = Node::new();
    let (earlier, present) = (recorded("c1", cookie - 1), recorded("c2", cookie));
    node.store.write(&earlier).unwrap();
    node.store.write(&present).unwrap();
    // By its path, and by the processes inside.
    let mut hidden = recorded("c3", cookie - 1);
    hidden.netns.path = "/run/netns/adit-test-no-such-namespace".into();
    node.store.write(&hidden).unwrap();
    node.registry.look_around();
    assert!(!node.store.has(&earlier.attachment) && !node.store.has(&hidden.attachment));
    assert!(node.store.has(&present.attachment), "it waits for its device");
}

#[test]
fn a_look_is_calm_only_where_every_change_will_show() {
    let node = Node::new();
    let outlook = node.registry.look_around();
    assert!(outlook.is_calm);
    assert_eq!(outlook.directories, [node.store.directory().to_owned()].into());
    // A process's end shows in no directory.
    let record = living("c1");
    let device = node.attach(&record).unwrap();
    let outlook = node.registry.look_around();
    assert!(!outlook.is_calm && !is_closed(&device));
    assert!(outlook.directories.contains(Path::new("/proc/self/ns")));
    node.store.remove(&record.attachment).unwrap();
    fs::write(node.store.path(&record.attachment), "{ torn").unwrap();
    assert!(!node.registry.look_around().is_calm);
}

#[test]
fn a_broken_tunnel_is_opened_again() {
    let node = Node::new();
    let record = living("c1");
    drop(node.attach(&record).unwrap());
    eventually(|| node.registry.inspect(&record.attachment).filter(|status| !status.carried));
    assert_eq!(node.registry.carried(), 1);
    let log = logged(|| drop(node.registry.look_around()));
    assert!(log.contains("is broken and opened again"), "{log}");
    // There is no such device, so it waits for one, and says so.
    assert_eq!(node.registry.carried(), 0);
    let status = node.registry.inspect(&record.attachment).unwrap();
    assert!(!status.carried && !status.reason.contains("broken"), "{status:?}");
}

#[test]
fn what_del_removed_does_not_come_back_however_attach_and_looks_are_timed() {
    let node = Node::new();
    for round in 0..200 {
        let record = living("c1");
        node.store.write(&record).unwrap();
        let (device, pod) = device();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_micros(round * 10));
                let _ = node.registry.attach(record.clone(), Some(Descriptors { tun: device, udp, mtu_bytes: None }));
            });
            scope.spawn(|| node.registry.look_around());
            scope.spawn(|| node.registry.status());
            thread::sleep(Duration::from_micros(500));
            // As DEL does it.
            for _ in 0..2 {
                node.registry.detach(&record.attachment);
                node.store.remove(&record.attachment).unwrap();
            }
            assert!(node.registry.inspect(&record.attachment).is_none());
        });
        assert!(is_closed(&pod), "round {round}");
        assert!(node.registry.inspect(&record.attachment).is_none() && !node.store.has(&record.attachment));
    }
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

/// A tunnel of the pod `plumbr-a` whose private key is in a file.
fn sealed(container: &str) -> Record {
    let mut record = living(container);
    record.spec.encryption = Encryption::Noise;
    record.spec.private_key_file = Some("own.key".parse().unwrap());
    record.spec.peers.first_mut().unwrap().public_key = Some(PublicKey::new([1; 32]));
    record
}

#[test]
fn a_sealed_tunnel_is_recorded_with_its_public_key_and_nothing_secret() {
    let node = Node::new();
    let public = KeyStore::new(node.directory.path()).generate("default", &"own.key".parse().unwrap()).unwrap();
    let record = sealed("c1");
    assert_eq!(node.registry.public_key(&KeyNames::of(&record)).unwrap(), public);
    let _pod = node.attach(&record).unwrap();
    let kept = node.store.read(&record.attachment).unwrap().unwrap();
    assert_eq!(kept.spec.public_key, Some(public));
    assert_eq!(node.registry.inspect(&record.attachment).unwrap().public_key, Some(public));
    let secret = fs::read_to_string(node.directory.path().join("keys/default/own.key")).unwrap();
    let text = fs::read_to_string(node.store.path(&record.attachment)).unwrap();
    assert!(text.contains(&public.to_string()) && !text.contains(secret.trim()), "{text}");
}

#[test]
fn a_tunnel_whose_key_is_missing_is_refused_by_name_and_costs_nothing_that_stands() {
    let node = Node::new();
    let record = sealed("c1");
    let refused = node.attach(&record).unwrap_err().to_string();
    assert!(refused.starts_with("privateKeyFile: ") && refused.contains("own.key does not exist"), "{refused}");
    assert_eq!(node.registry.carried(), 0);
    assert_eq!(node.store.read(&record.attachment).unwrap().unwrap(), record);
}

#[test]
fn a_key_that_is_missing_after_a_restart_is_a_reason_and_no_crash() {
    let node = Node::new();
    let record = Record { state: State::Attached, ..sealed("c1") };
    node.store.write(&record).unwrap();
    for _ in 0..2 {
        assert!(!node.registry.look_around().is_calm, "it is tried again");
        let status = node.registry.inspect(&record.attachment).unwrap();
        assert!(!status.carried && status.reason.contains("own.key does not exist"), "{status:?}");
    }
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
