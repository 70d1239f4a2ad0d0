//! A named network namespace that goes away with its value.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use adit_net::{Link, LinkChange, Netlink, Netns, VethSpec};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Long enough for whatever must happen; never waited for in full when all is well.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub struct Space {
    pub name: String,
    pub netns: Netns,
}

impl Space {
    pub fn new(label: &str) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("adit-t{}-{number}-{label}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let netns = Netns::open(format!("/run/netns/{name}")).unwrap();
        Self { name, netns }
    }

    pub fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.netns).unwrap()
    }

    /// What `ip` prints in this namespace.
    pub fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        run("ip", &all)
    }

    pub fn link(&self, name: &str) -> Link {
        self.netlink().link(name).unwrap().unwrap_or_else(|| panic!("no link {name}"))
    }

    /// A link to do things with; its other end, `<name>-`, is here too.
    pub fn spare(&self, name: &str) -> Link {
        self.ip(&format!("link add name {name} type veth peer name {name}-"));
        self.link(name)
    }

    pub fn up(&self, name: &str) -> Link {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        self.netlink().change_link(self.link(name).index, &up).unwrap();
        self.link(name)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A veth pair `near` – `far` between the two namespaces, both ends up and with carrier.
pub fn connect(here: &Space, there: &Space) -> (Link, Link) {
    here.netlink().add_veth(&VethSpec::new("near", "far", &there.netns)).unwrap();
    here.up("near");
    there.up("far");
    let ready = |space: &Space, name| space.netlink().wait_link(name, DEADLINE, |link| link.oper_up).unwrap();
    (ready(here, "near"), ready(there, "far"))
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
