//! One tunnel, leg by leg from the pod outwards. After a leg that is broken nothing can be said of those that stand on it.

use adit_net::{Link, Netlink, Netns, Route};
use adit_tunnel::{Record, State, Underlay, protocol::TunnelStatus};

use super::{Line, Verdict};

const AGAIN: &str = "delete the pod: its successor is attached anew";

/// The line of the leg that is broken.
type Leg<T> = Result<T, Line>;

/// Everything that can be seen of `record`'s tunnel, with what the agent says of it.
pub fn legs(record: &Record, seen: Option<&TunnelStatus>) -> Vec<Line> {
    let mut lines = Vec::new();
    let tunnel = Tunnel { record, seen, name: format!("{} {}", record.pod, record.attachment.if_name) };
    if let Err(broken) = tunnel.walk(&mut lines) {
        lines.push(broken);
    }
    lines
}

pub(super) struct Tunnel<'a> {
    pub(super) record: &'a Record,
    pub(super) seen: Option<&'a TunnelStatus>,
    name: String,
}

impl Tunnel<'_> {
    fn walk(&self, lines: &mut Vec<Line>) -> Leg<()> {
        let pod = self.namespace()?;
        lines.push(self.ok("namespace", format!("{} is the pod's", self.record.netns.path.display())));
        let link = self.link(&pod)?;
        lines.push(self.ok("link", format!("{} is up, MTU {}", link.name, link.mtu)));
        lines.push(self.addresses(&pod, &link)?);
        lines.push(self.routes(&pod, &link)?);
        let node;
        let outer = match self.record.spec.underlay {
            Underlay::Pod => &pod,
            Underlay::Host => {
                node = Netlink::open()
                    .map_err(|error| self.fail("outer device", error.to_string(), "run this as root"))?;
                &node
            }
        };
        let device = self.device(outer)?;
        lines.push(self.ok("outer device", format!("{} is up, MTU {}", device.name, device.mtu)));
        let reachable = self.reach(outer, &device, lines);
        if self.record.spec.needs_agent() {
            lines.push(self.carried(&link)?);
        }
        lines.extend(self.path_mtu());
        for (peer, _) in reachable.iter().filter(|(_, is_reachable)| *is_reachable) {
            self.peer(&pod, peer, lines);
        }
        Ok(())
    }

    fn namespace(&self) -> Leg<Netlink> {
        let Record { netns, state, .. } = self.record;
        let path = netns.path.display();
        if *state == State::Adding {
            let remedy = "if no ADD is at work (kubectl describe pod), delete the pod";
            return Err(self.line(Verdict::Warn, "record", "its ADD is at work, or was killed", remedy));
        }
        let gone = || {
            let remedy = "nothing: DEL, GC or the agent removes the record";
            self.line(Verdict::Warn, "namespace", format!("{path} is gone, and with it the pod"), remedy)
        };
        let pod = Netns::open(&netns.path).map_err(|_| gone())?;
        let netlink =
            Netlink::open_in(&pod).map_err(|error| self.fail("namespace", error.to_string(), "run this as root"))?;
        if netns.is(pod.id(), netlink.netns_cookie()) { Ok(netlink) } else { Err(gone()) }
    }

    fn link(&self, pod: &Netlink) -> Leg<Link> {
        let name = self.record.spec.if_name.as_str();
        let found = pod.link(name).map_err(|error| self.fail("link", error.to_string(), AGAIN))?;
        match found {
            None => Err(self.fail("link", format!("the pod has no interface {name} any more"), AGAIN)),
            Some(link) if !link.up => Err(self.fail("link", format!("{name} is down, and has lost its routes"), AGAIN)),
            Some(link) => Ok(link),
        }
    }

    fn addresses(&self, pod: &Netlink, link: &Link) -> Leg<Line> {
        let present = pod.addresses(link.index).map_err(|error| self.fail("addresses", error.to_string(), AGAIN))?;
        let missing =
            self.record.addresses.iter().find(|wanted| present.iter().all(|address| address.network != **wanted));
        match missing {
            Some(missing) => {
                let remedy = format!("in the pod's namespace: ip address add {missing} dev {}; or {AGAIN}", link.name);
                Err(self.fail("addresses", format!("{missing} is missing on {}", link.name), remedy))
            }
            None => Ok(self.ok("addresses", list(&self.record.addresses))),
        }
    }

    fn routes(&self, pod: &Netlink, link: &Link) -> Leg<Line> {
        let present = pod.all_routes().map_err(|error| self.fail("routes", error.to_string(), AGAIN))?;
        let missing = self.record.routes.iter().find(|wanted| {
            let mut route = Route::new(wanted.destination, link.index);
            (route.gateway, route.priority, route.table) = (wanted.gateway, wanted.priority, wanted.table);
            route.encapsulation = wanted.peer.and_then(|peer| self.record.spec.encapsulation(peer));
            !present.iter().any(|present| present.satisfies(&route))
        });
        match missing {
            Some(missing) => {
                let what = format!("the route to {} by {} is missing", missing.destination, link.name);
                Err(self.fail("routes", what, AGAIN))
            }
            None => Ok(self.ok("routes", format!("{} into {}", self.record.routes.len(), link.name))),
        }
    }

    fn device(&self, outer: &Netlink) -> Leg<Link> {
        let (name, owner) = (&self.record.spec.device, self.record.spec.underlay.owner());
        let found = outer.link(name.as_str()).map_err(|error| self.fail("outer device", error.to_string(), AGAIN))?;
        match found {
            None => Err(self.fail("outer device", format!("the {owner} has no interface {name} any more"), AGAIN)),
            Some(link) if !link.up => {
                let remedy = format!("in the {owner}'s namespace: ip link set {name} up");
                Err(self.fail("outer device", format!("{name} is down"), remedy))
            }
            Some(link) if !link.lower_up => {
                let remedy = "look at what it is attached to: the bridge, the macvlan's master, the cable";
                Err(self.fail("outer device", format!("{name} has no carrier"), remedy))
            }
            Some(link) => Ok(link),
        }
    }

    fn carried(&self, link: &Link) -> Leg<Line> {
        match self.seen {
            None if !link.lower_up => {
                let what = format!("no agent carries it: {} has no carrier", link.name);
                Err(self.fail("data plane", what, "start the agent (systemctl start aditd)"))
            }
            None => {
                Err(self.fail("data plane", "the agent does not know it", "look into its log: journalctl -u aditd"))
            }
            Some(seen) if !seen.carried => {
                Err(self.fail("data plane", seen.reason.clone(), "the agent tries again every 2 s; its log has more"))
            }
            Some(_) => Ok(self.ok("data plane", "the agent carries it")),
        }
    }

    fn path_mtu(&self) -> Option<Line> {
        let seen = self.seen?;
        let (now, limit) = (seen.mtu_bytes, seen.mtu_limit_bytes);
        Some(if now < limit {
            let remedy = "traffic passes; find the hop whose MTU is smaller, or write the MTU into the network";
            self.line(Verdict::Warn, "path MTU", format!("{now} bytes instead of {limit}"), remedy)
        } else {
            self.ok("path MTU", format!("{now} bytes"))
        })
    }

    pub(super) fn line(&self, verdict: Verdict, leg: &str, what: impl Into<String>, remedy: impl Into<String>) -> Line {
        Line::new(verdict, &format!("{}, {leg}", self.name), what, remedy)
    }

    pub(super) fn ok(&self, leg: &str, what: impl Into<String>) -> Line {
        self.line(Verdict::Ok, leg, what, "")
    }

    pub(super) fn fail(&self, leg: &str, what: impl Into<String>, remedy: impl Into<String>) -> Line {
        self.line(Verdict::Fail, leg, what, remedy)
    }
}

fn list(addresses: &[ipnetwork::IpNetwork]) -> String {
    if addresses.is_empty() {
        return "none wanted".into();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
