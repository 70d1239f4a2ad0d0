//! `macspoofchk`: frames with another MAC address than the pod's, and what is left of the check.

use serde_json::{Value, json};

use crate::Test;
use crate::bridge::gateway;
use crate::harness::{Attachment, Bench, addresses, with};
use crate::masquerade::nothing_left;

pub const TESTS: &[Test] = &[
    ("spoof_check_drops_frames_with_another_mac_address", on_the_wire),
    ("spoof_check_holds_for_the_mac_address_that_was_asked_for", requested_mac),
    ("spoof_check_goes_with_the_attachment_however_del_is_called", del),
    ("spoof_check_of_an_add_that_fails_is_taken_back", failed_add),
    ("spoof_check_check_notices_what_is_missing", check),
    ("spoof_check_gc_removes_only_unlisted_attachments_of_its_network", gc),
];

const TABLE: &str = "nft list table bridge adit";

fn guarded() -> Value {
    with(&gateway(), "macspoofchk", json!(true))
}

fn pod(bench: &Bench, last: u8) -> Attachment {
    bench.pod(&with(&guarded(), "ipam", addresses(&[&format!("10.1.1.{last}/24"), &format!("fd01::{last}/64")])))
}

fn spoof(pod: &Attachment) {
    pod.ip("link set net1 address 02:00:00:00:00:99");
}

fn on_the_wire() {
    let bench = Bench::new();
    let (a, b) = (pod(&bench, 2), pod(&bench, 3));
    let free = bench.pod(&with(&gateway(), "ipam", addresses(&["10.1.1.4/24"])));
    for pod in [&a, &b, &free] {
        bench.added(pod);
    }
    let own = a.ip("-o link show net1").split("link/ether ").nth(1).unwrap()[..17].to_owned();
    for address in ["10.1.1.1", "10.1.1.3", "fd01::3"] {
        a.pings(address);
    }
    spoof(&a);
    for address in ["10.1.1.1", "10.1.1.3", "fd01::3"] {
        a.does_not_reach(address);
    }
    // Neither another pod's, nor does the check of one pod hold for another.
    let of_b = b.ip("-o link show net1").split("link/ether ").nth(1).unwrap()[..17].to_owned();
    a.ip(&format!("link set net1 address {of_b}"));
    a.does_not_reach("10.1.1.1");
    spoof(&free);
    free.pings("10.1.1.3");
    a.ip(&format!("link set net1 address {own}"));
    a.pings("10.1.1.3");
    // The DEL of one leaves the other's.
    bench.del(&a);
    b.pings("10.1.1.1");
    spoof(&b);
    b.does_not_reach("10.1.1.1");
}

fn requested_mac() {
    let bench = Bench::new();
    let pod = pod(&bench, 2);
    bench.added(&pod.with_args("MAC=02:00:00:00:00:07"));
    let table = bench.on_node(TABLE);
    assert!(table.contains("02:00:00:00:00:07") && table.contains("adit:lan:container1:net1"), "{table}");
    pod.pings("10.1.1.1");
}

fn del() {
    let bench = Bench::new();
    let guarded = pod(&bench, 2);
    let without = guarded.with_config(&with(&guarded.config, "macspoofchk", json!(false)));
    let unreadable = with(&guarded.config, "mtu", json!("many"));
    for round in 0..4 {
        bench.added(&guarded);
        match round {
            0 => bench.del(&guarded),
            1 => bench.del(&guarded.without_netns()),
            2 => bench.del(&without),
            _ => assert!(!bench.run("DEL", &guarded, &unreadable).ok),
        }
        nothing_left(&bench);
        bench.del(&guarded);
        bench.no_veths();
    }
    bench.added(&guarded);
    bench.remove(guarded.namespace());
    bench.del(&guarded);
    nothing_left(&bench);
}

fn failed_add() {
    let bench = Bench::new();
    let bad = with(&guarded(), "ipam", addresses(&["10.1.1.2"]));
    let pod = bench.pod(&bad);
    let before = bench.snapshot(&[&pod]);
    bench.refused(&pod);
    nothing_left(&bench);
    bench.unchanged_since(&before, &[&pod]);
}

fn check() {
    for damage in [
        "nft flush set bridge adit guarded",
        "nft flush set bridge adit allowed",
        "nft flush chain bridge adit spoof_check",
        "nft delete table bridge adit",
    ] {
        let bench = Bench::new();
        let pod = pod(&bench, 2);
        let result = bench.added(&pod);
        let ran = bench.check(&pod, &result);
        assert!(ran.ok, "{ran:?}");
        bench.on_node(damage);
        let ran = bench.check(&pod, &result);
        assert!(!ran.ok && ran.stdout.contains("table bridge adit"), "{damage}: {ran:?}");
        bench.del(&pod);
        nothing_left(&bench);
    }
}

fn gc() {
    let bench = Bench::new();
    let pod = |name: &str, last: u8| {
        let ipam = addresses(&[&format!("10.1.1.{last}/24")]);
        bench.pod(&with(&with(&guarded(), "name", json!(name)), "ipam", ipam))
    };
    let (kept, stale, other) = (pod("lan", 2), pod("lan", 3), pod("other", 4));
    for pod in [&kept, &stale, &other] {
        bench.added(pod);
    }
    let valid = json!([{"containerID": kept.container, "ifname": "net1"}]);
    let ran = bench.run("GC", &kept, &with(&kept.config, "cni.dev/valid-attachments", valid));
    assert!(ran.ok, "{ran:?}");
    let table = bench.on_node(TABLE);
    assert!(!table.contains(&stale.container), "{table}");
    assert!(table.contains(&kept.container) && table.contains(&other.container), "{table}");
}
