//! Links: made, changed, deleted, waited for.

use std::{
    fs,
    time::{Duration, Instant},
};

use adit_net::{BridgePort, BridgeSpec, Error, LinkChange, LinkKind, MacAddress, MacvlanMode, MacvlanSpec, VethSpec};
use nix::errno::Errno;

use crate::{
    Test,
    space::{DEADLINE, Space, connect},
};

pub const TESTS: &[Test] = &[
    ("a_veth_peer_is_made_in_the_other_namespace_under_its_final_name", veth_is_made_and_undone),
    ("a_veth_pair_whose_peers_name_is_taken_leaves_nothing", veth_with_a_taken_peer_name),
    ("a_bridge_takes_ports_with_their_settings_and_lets_them_go", bridge_and_ports),
    ("a_macvlan_is_made_in_the_pods_namespace_in_every_mode", macvlan_in_every_mode),
    ("an_error_carries_the_kernels_words", error_carries_the_kernels_words),
    ("everything_asked_for_changes_and_nothing_else", everything_changes),
    ("a_link_without_generated_address_has_none_when_it_is_up", no_generated_address),
    ("a_change_wakes_the_waiter_at_once", change_wakes_the_waiter),
    ("a_waiter_sleeps_while_nothing_happens", waiter_sleeps),
    ("what_was_seen_last_is_in_the_error_of_a_wait", wait_tells_the_state),
    ("a_dump_is_repeated_while_links_come_and_go", dump_while_links_change),
];

const MAC: MacAddress = MacAddress([2, 0, 0, 0xaa, 0xbb, 0xcc]);

fn veth_is_made_and_undone(home: &Space) {
    let pod = Space::new("pod");
    let netlink = home.netlink();
    netlink.add_bridge(&BridgeSpec::new("br0")).unwrap();
    let bridge = home.link("br0");
    netlink
        .add_veth(&VethSpec {
            mtu: Some(1400),
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            alias: Some("pod/a"),
            master: Some(bridge.index),
            peer_mac: Some(MAC),
            peer_alias: Some("adit"),
            ..VethSpec::new("veth0", "net1", &pod.netns)
        })
        .unwrap();

    let near = home.link("veth0");
    let far = pod.link("net1");
    assert_eq!((near.kind.clone(), far.kind.clone()), (LinkKind::Veth, LinkKind::Veth));
    assert_eq!((near.mtu, far.mtu), (1400, 1400));
    assert_eq!((near.mac, far.mac), (Some(MacAddress([2, 0, 0, 0, 0, 1])), Some(MAC)));
    assert_eq!((near.alias.as_deref(), far.alias.as_deref()), (Some("pod/a"), Some("adit")));
    assert_eq!(near.master, Some(bridge.index));
    assert_eq!(near.peer_index, Some(far.index));
    assert!(near.peer_netnsid.is_some());
    assert!(!near.up && !far.up);
    assert!(netlink.link("net1").unwrap().is_none());

    assert!(netlink.delete_link(near.index).unwrap());
    assert!(!netlink.delete_link(near.index).unwrap());
    assert!(pod.netlink().link("net1").unwrap().is_none());
}

fn veth_with_a_taken_peer_name(home: &Space) {
    let pod = Space::new("pod");
    pod.spare("net1");
    let error = home.netlink().add_veth(&VethSpec::new("veth0", "net1", &pod.netns)).unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(home.netlink().link("veth0").unwrap().is_none());
}

fn bridge_and_ports(home: &Space) {
    let pod = Space::new("pod");
    let netlink = home.netlink();
    netlink.add_bridge(&BridgeSpec { mtu: Some(1400), mac: Some(MAC), ..BridgeSpec::new("br0") }).unwrap();
    let bridge = home.link("br0");
    assert_eq!((&bridge.kind, bridge.mtu, bridge.mac), (&LinkKind::Bridge, 1400, Some(MAC)));
    assert!(netlink.add_bridge(&BridgeSpec::new("br0")).unwrap_err().is_exists());

    let (near, _) = connect(home, &pod);
    let join = LinkChange { master: Some(Some(bridge.index)), ..LinkChange::default() };
    netlink.change_link(near.index, &join).unwrap();
    let settings = BridgePort { hairpin: Some(true), isolated: Some(true) };
    netlink.set_bridge_port(near.index, &settings).unwrap();
    let shown = home.ip("-d link show near");
    assert!(shown.contains("hairpin on") && shown.contains("isolated on"), "{shown}");
    netlink.set_bridge_port(near.index, &BridgePort { hairpin: Some(false), isolated: None }).unwrap();
    let shown = home.ip("-d link show near");
    assert!(shown.contains("hairpin off") && shown.contains("isolated on"), "{shown}");

    let leave = LinkChange { master: Some(None), ..LinkChange::default() };
    netlink.change_link(near.index, &leave).unwrap();
    assert_eq!(home.link("near").master, None);
    netlink.set_bridge_port(near.index, &settings).unwrap_err();
}

fn macvlan_in_every_mode(home: &Space) {
    let outside = Space::new("outside");
    let (lower, _) = connect(home, &outside);
    let netlink = home.netlink();
    for mode in ["bridge", "private", "vepa", "passthru"] {
        let pod = Space::new("pod");
        netlink
            .add_macvlan(&MacvlanSpec {
                mtu: Some(1400),
                mac: Some(MAC).filter(|_| mode != "passthru"),
                bc_queue_len: Some(2000),
                netns: Some(&pod.netns),
                ..MacvlanSpec::new("net1", lower.index, mode.parse().unwrap())
            })
            .unwrap();
        let link = pod.link("net1");
        assert_eq!(link.kind, LinkKind::Macvlan);
        assert_eq!(link.macvlan_mode.unwrap().to_string(), mode);
        assert_eq!((link.mtu, link.peer_index), (1400, Some(lower.index)));
        assert!(link.peer_netnsid.is_some());
        assert!(pod.ip("-d link show net1").contains("bcqueuelen 2000"));
        assert!(home.netlink().link("net1").unwrap().is_none());
        if mode == "bridge" {
            let again =
                MacvlanSpec { netns: Some(&pod.netns), ..MacvlanSpec::new("net1", lower.index, MacvlanMode::Bridge) };
            assert!(netlink.add_macvlan(&again).unwrap_err().is_exists());
        }
        assert!(pod.netlink().delete_link(link.index).unwrap());
    }
    let error = netlink.add_macvlan(&MacvlanSpec::new("m", 999, MacvlanMode::Bridge)).unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("lower link"), "{error}");
}

fn error_carries_the_kernels_words(home: &Space) {
    let error = home.netlink().add_bridge(&BridgeSpec::new("sixteen-bytes-xx")).unwrap_err();
    let Error::Kernel { errno, ref message, .. } = error else { panic!("{error}") };
    assert_eq!(errno, Errno::ERANGE);
    let message = message.as_deref().unwrap();
    assert!(message.contains("attribute at offset"), "{message}");
    assert!(error.to_string().starts_with("create bridge sixteen-bytes-xx: "), "{error}");

    let error = home.netlink().change_link(999, &LinkChange { up: Some(true), ..LinkChange::default() });
    assert!(error.unwrap_err().is_not_found());
}

fn everything_changes(home: &Space) {
    let before = home.spare("a");
    let change = LinkChange {
        mtu: Some(1300),
        mac: Some(MAC),
        name: Some("b".into()),
        promisc: Some(true),
        alias: Some("an alias with spaces".into()),
        tx_queue_len: Some(77),
        ..LinkChange::default()
    };
    home.netlink().change_link(before.index, &change).unwrap();
    let after = home.link("b");
    assert_eq!((after.index, after.mtu, after.mac), (before.index, 1300, Some(MAC)));
    assert_eq!(after.alias.as_deref(), Some("an alias with spaces"));
    assert!(after.promisc && !after.up);
    assert!(home.ip("link show b").contains("qlen 77"));

    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    home.netlink().change_link(before.index, &up).unwrap();
    let down = LinkChange { up: Some(false), promisc: Some(false), ..LinkChange::default() };
    assert!(home.link("b").up && home.link("b").promisc);
    home.netlink().change_link(before.index, &down).unwrap();
    assert!(!home.link("b").up && !home.link("b").promisc);
    assert_eq!(home.link("b").mtu, 1300);
}

fn no_generated_address(home: &Space) {
    let up = |addr_gen_none| LinkChange { up: Some(true), addr_gen_none, ..LinkChange::default() };
    let netlink = home.netlink();
    for (name, none) in [("with", false), ("without", true)] {
        let index = home.spare(name).index;
        home.up(&format!("{name}-"));
        netlink.change_link(index, &up(none)).unwrap();
        netlink.wait_link(name, DEADLINE, |link| link.oper_up).unwrap();
        netlink.wait_addresses_usable(index, DEADLINE).unwrap();
        assert_eq!(netlink.addresses(index).unwrap().is_empty(), none, "{name}");
    }

    // Below 1280 bytes a link has no IPv6 at all.
    let index = home.spare("small").index;
    let mtu = LinkChange { mtu: Some(1000), ..LinkChange::default() };
    netlink.change_link(index, &mtu).unwrap();
    netlink.change_link(index, &up(true)).unwrap();
    assert!(home.link("small").up);
}

fn change_wakes_the_waiter(home: &Space) {
    let netlink = home.netlink();
    let (started, changed) = std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            home.spare("late");
            std::thread::sleep(Duration::from_millis(100));
            let before = Instant::now();
            home.ip("link set late up");
            before
        });
        let link = netlink.wait_link("late", DEADLINE, |link| link.up).unwrap();
        let now = Instant::now();
        assert!(link.up);
        (changer.join().unwrap(), now)
    });
    // One run of `ip` on a busy machine included.
    assert!(changed.duration_since(started) < DEADLINE / 5);
}

fn waiter_sleeps(home: &Space) {
    let switches = || -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = switches();
    home.netlink().wait_link("never", Duration::from_millis(500), |_| true).unwrap_err();
    let woken = switches() - before;
    assert!(woken < 10, "woken {woken} times in half a second without any event");
}

fn wait_tells_the_state(home: &Space) {
    let wait = |name| home.netlink().wait_link(name, Duration::from_millis(50), |l| l.oper_up).unwrap_err();
    let error = wait("absent");
    assert!(matches!(error, Error::TimedOut { .. }));
    assert!(error.to_string().contains("there is no such link"), "{error}");

    let pod = Space::new("pod");
    home.netlink().add_veth(&VethSpec::new("near", "far", &pod.netns)).unwrap();
    home.up("near");
    let error = wait("near").to_string();
    assert!(error.contains("link near") && error.contains("up, with no carrier"), "{error}");
}

fn dump_while_links_change(home: &Space) {
    for number in 0..60 {
        home.ip(&format!("link add name steady{number} type bridge"));
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                home.ip("link add name coming type bridge");
                home.ip("link del coming");
            }
        });
        let netlink = home.netlink();
        for _ in 0..100 {
            let links = netlink.links().unwrap();
            let steady = links.iter().filter(|link| link.name.starts_with("steady")).count();
            assert_eq!(steady, 60);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
