//! One tunnel, leg by leg from the pod outwards. After a leg that is broken nothing can be said of those that stand on it.

use adit_net::{Link, Netlink, Netns, Route};
use adit_tunnel::{
    Encap, Record, State, Underlay,
    protocol::{HealthState, PeerStatus, TunnelStatus},
};

use super::{Line, Verdict};
use crate::table::endpoint;

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

struct Tunnel<'a> {
    record: &'a Record,
    seen: Option<&'a TunnelStatus>,
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
        lines.extend(self.outer_routes(outer, &device)?);
        if self.record.spec.needs_agent() {
            lines.push(self.carried(&link)?);
        }
        lines.extend(self.path_mtu());
        lines.extend(self.peers());
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

    fn outer_routes(&self, outer: &Netlink, device: &Link) -> Leg<Vec<Line>> {
        let local = self.record.spec.local.ip();
        let endpoints = self.peer_endpoints();
        let mut lines = Vec::new();
        for to in endpoints {
            let remedy = format!("a route to {to} by {} is what the network's ipam has to give it", device.name);
            match outer.lookup_route(to, Some(local)) {
                Err(error) => return Err(self.fail("outer route", error.to_string(), remedy)),
                Ok(route) if route.device != device.index => {
                    let what = format!("packets to {to} do not leave by {}", device.name);
                    return Err(self.fail("outer route", what, remedy));
                }
                Ok(route) => {
                    let hop =
                        route.gateway.map_or_else(|| "on the link".into(), |gateway| format!("through {gateway}"));
                    lines.push(self.ok("outer route", format!("{to} {hop}, by {}", device.name)));
                }
            }
        }
        Ok(lines)
    }

    /// Where the peers are: as the agent knows, else as was written.
    fn peer_endpoints(&self) -> Vec<std::net::IpAddr> {
        let written = self.record.spec.peers.iter().filter_map(|peer| peer.endpoint);
        let endpoints: Vec<_> = match self.seen {
            Some(seen) => seen.peers.iter().filter_map(|peer| peer.endpoint).collect(),
            None => written.collect(),
        };
        endpoints.iter().map(std::net::SocketAddr::ip).collect()
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

    fn peers(&self) -> Vec<Line> {
        let Some(seen) = self.seen.filter(|_| self.record.spec.encap != Encap::Vxlan) else { return Vec::new() };
        seen.peers.iter().map(|peer| self.peer(peer)).collect()
    }

    fn peer(&self, peer: &PeerStatus) -> Line {
        const LOOK: &str = "run adit doctor at the other end; is UDP filtered on the way, in either direction?";
        let leg = format!("peer {}", endpoint(peer));
        let reason = peer.health.as_ref().map(|health| health.reason.as_str()).filter(|reason| !reason.is_empty());
        match peer.health_state() {
            HealthState::Up => self.ok(&leg, "answers"),
            HealthState::Degraded => self.line(
                Verdict::Warn,
                &leg,
                reason.unwrap_or("answers, and packets pass worse than they should"),
                LOOK,
            ),
            HealthState::Down => self.fail(&leg, reason.unwrap_or("does not answer any more"), LOOK),
            HealthState::Waiting => {
                let keys = if peer.public_key.is_some() {
                    "do both ends have each other's public key (adit status)? "
                } else {
                    ""
                };
                let what = reason.unwrap_or("has never answered");
                self.line(Verdict::Warn, &leg, what, format!("is it there already? {keys}{LOOK}"))
            }
        }
    }

    fn line(&self, verdict: Verdict, leg: &str, what: impl Into<String>, remedy: impl Into<String>) -> Line {
        Line::new(verdict, &format!("{}, {leg}", self.name), what, remedy)
    }

    fn ok(&self, leg: &str, what: impl Into<String>) -> Line {
        self.line(Verdict::Ok, leg, what, "")
    }

    fn fail(&self, leg: &str, what: impl Into<String>, remedy: impl Into<String>) -> Line {
        self.line(Verdict::Fail, leg, what, remedy)
    }
}

fn list(addresses: &[ipnetwork::IpNetwork]) -> String {
    if addresses.is_empty() {
        return "none wanted".into();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
