//! Namespaces and the parameters that belong to them.

use std::{
    io::{BufRead, BufReader},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::{Command, Stdio},
};

use adit_net::{Error, Netlink, Netns, sysctl};

use crate::{
    Test,
    space::{Space, eventually},
};

pub const TESTS: &[Test] = &[
    ("the_guard_returns_home_after_a_panic", guard_returns_home_after_a_panic),
    ("a_thread_of_its_own_leaves_the_caller_where_it_is", thread_of_its_own),
    ("a_socket_keeps_acting_in_the_namespace_it_was_opened_in", socket_keeps_its_namespace),
    ("a_namespace_is_found_by_its_holders_after_its_name_is_gone", found_by_holders),
    ("a_deleted_name_is_missing_and_an_unmounted_file_is_no_namespace", missing_and_not_a_netns),
    ("a_sysctl_is_that_of_the_threads_namespace_and_written_once", sysctl_of_the_namespace),
];

fn here() -> adit_net::NetnsId {
    Netns::current().unwrap().id()
}

fn guard_returns_home_after_a_panic(home: &Space) {
    let other = Space::new("other");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _ = other.netns.run(|| {
            assert_eq!(here(), other.netns.id());
            resume_unwind(Box::new("inside"));
        });
    }));
    assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "inside");
    assert_eq!(here(), home.netns.id());
}

fn thread_of_its_own(home: &Space) {
    let other = Space::new("other");
    let there = other.netns.run_on_thread(|| (here(), std::thread::current().id())).unwrap();
    assert_eq!(there.0, other.netns.id());
    assert_ne!(there.1, std::thread::current().id());
    assert_eq!(here(), home.netns.id());

    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _ = other.netns.run_on_thread(|| resume_unwind(Box::new("inside")));
    }));
    assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "inside");
    assert_eq!(here(), home.netns.id());
}

fn socket_keeps_its_namespace(home: &Space) {
    let other = Space::new("other");
    other.spare("marker");
    let netlink = Netlink::open_in(&other.netns).unwrap();
    assert_eq!(here(), home.netns.id());
    assert!(netlink.link("marker").unwrap().is_some());
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(netlink.link("marker").unwrap().is_some()));
    });
    assert!(Netlink::open().unwrap().link("marker").unwrap().is_none());
    assert_eq!(netlink.netns().id(), other.netns.id());
}

fn found_by_holders(_home: &Space) {
    let other = Space::new("other");
    let id = other.netns.id();
    assert!(Netns::holders(id).unwrap().is_empty());
    assert!(Netns::find(id).unwrap().is_none());

    let mut child = Command::new("ip")
        .args(["netns", "exec", &other.name, "sh", "-c", "echo ready; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    drop(other);

    assert_eq!(Netns::holders(id).unwrap(), [i32::try_from(child.id()).unwrap()]);
    let found = Netns::find(id).unwrap().unwrap();
    assert_eq!(found.id(), id);
    assert_eq!(found.run(here).unwrap(), id);

    child.kill().unwrap();
    child.wait().unwrap();
    eventually("nobody holds it", || Netns::holders(id).unwrap().is_empty());
}

fn missing_and_not_a_netns(_home: &Space) {
    let other = Space::new("other");
    let path = format!("/run/netns/{}", other.name);
    drop(other);
    assert!(matches!(Netns::open(&path).unwrap_err(), Error::NetnsMissing { .. }));
    std::fs::write(&path, "").unwrap();
    let error = Netns::open(&path).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(error, Error::NotANetns { .. }), "{error}");
}

fn sysctl_of_the_namespace(_home: &Space) {
    const KEY: &str = "net/ipv4/ip_forward";
    let other = Space::new("other");
    assert!(sysctl::set(KEY, "1").unwrap());
    assert!(!sysctl::set(KEY, "1").unwrap());
    assert_eq!(sysctl::get(KEY).unwrap().as_deref(), Some("1"));
    assert_eq!(other.netns.run(|| sysctl::get(KEY)).unwrap().unwrap().as_deref(), Some("0"));
    assert!(!sysctl::set_if_present("net/ipv4/conf/absent/rp_filter", "1").unwrap());
    let error = sysctl::set("net/ipv4/conf/absent/rp_filter", "1").unwrap_err();
    assert!(error.to_string().contains("net/ipv4/conf/absent/rp_filter"), "{error}");
}
