//! What `ip -j` shows of a namespace: an independent look, not through our own netlink code.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Namespace, Result};

/// A network interface as `ip -d link` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceView {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `bridge`, `veth`, `macvlan`, `tun`, …; empty for devices without a kind (loopback).
    pub kind: String,
    /// As in `<POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP>`, in that order.
    pub flags: Vec<String>,
    /// MTU in bytes.
    pub mtu_bytes: u32,
    /// `UP`, `DOWN`, `UNKNOWN`, …
    pub state: String,
    /// Hardware address, where it has one.
    pub mac: Option<String>,
    /// Length of the transmit queue in packets.
    pub queue_length: u32,
    /// Name of the bridge (or other master) it is a port of.
    pub master: Option<String>,
    /// Alias (`ip link set … alias`).
    pub alias: Option<String>,
}

impl InterfaceView {
    /// Whether a flag is set: `"UP"`, `"LOWER_UP"`, `"NO-CARRIER"`.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|have| have == flag)
    }

    /// The flags as `ip` prints them: `<LOOPBACK,UP,LOWER_UP>`.
    #[must_use]
    pub fn flags_text(&self) -> String {
        format!("<{}>", self.flags.join(","))
    }
}

/// A route as `ip route` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// Destination: `default`, or with a prefix length (without it for a single host, as `ip` prints it).
    pub destination: String,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Interface.
    pub device: String,
    /// MTU metric in bytes.
    pub mtu_bytes: Option<u32>,
    /// Priority.
    pub metric: Option<u32>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

impl Namespace {
    /// The interfaces in the order of their indices, which is the order in which they were made.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<InterfaceView>> {
        let links: Vec<LinkJson> = typed(ip_json(self, ["-d", "link", "show"])?)?;
        Ok(links.into_iter().filter(|link| !link.ifname.is_empty()).map(LinkJson::view).collect())
    }

    /// Names of the interfaces in their order: `["lo", "eth0", "net1", "tun"]`.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn interface_names(&self) -> Result<Vec<String>> {
        Ok(self.interfaces()?.into_iter().map(|interface| interface.name).collect())
    }

    /// One interface.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn interface(&self, name: &str) -> Result<InterfaceView> {
        let interfaces = self.interfaces()?;
        let known = interfaces.iter().map(|interface| interface.name.clone()).collect();
        let found = interfaces.into_iter().find(|interface| interface.name == name);
        found.ok_or_else(|| Error::Unknown { what: format!("interface {name} in {}", self.netns_name()), known })
    }

    /// The addresses of an interface with their prefix lengths, without link-local ones.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn addresses(&self, interface: &str) -> Result<Vec<IpNetwork>> {
        let links: Vec<AddressesJson> = typed(ip_json(self, ["address", "show", "dev", interface])?)?;
        let infos = links.into_iter().flat_map(|link| link.addr_info).filter(|info| info.scope != "link");
        infos
            .filter_map(|info| Some(IpNetwork::new(info.local?, info.prefixlen)))
            .map(|network| network.map_err(|error| Error::Unexpected(error.to_string())))
            .collect()
    }

    /// The unicast routes of table main, IPv4 then IPv6, without link-local ones.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn routes(&self) -> Result<Vec<RouteView>> {
        let mut routes: Vec<RouteJson> = typed(ip_json(self, ["-4", "route", "show"])?)?;
        routes.extend(typed::<Vec<RouteJson>>(ip_json(self, ["-6", "route", "show"])?)?);
        Ok(routes.into_iter().filter(|route| !route.dst.starts_with("fe80:")).map(RouteJson::view).collect())
    }

    /// The route of table main to exactly this destination (`"10.20.0.0/16"`, `"default"`).
    ///
    /// # Errors
    /// There is none.
    pub fn route(&self, destination: &str) -> Result<RouteView> {
        let routes = self.routes()?;
        let known = routes.iter().map(|route| route.destination.clone()).collect();
        let found = routes.into_iter().find(|route| route.destination == destination);
        found.ok_or_else(|| Error::Unknown { what: format!("route to {destination} in {}", self.netns_name()), known })
    }
}

pub(crate) fn ip_json<S: AsRef<str>>(namespace: &Namespace, arguments: impl IntoIterator<Item = S>) -> Result<Value> {
    let mut line = vec!["ip".to_owned(), "-j".to_owned()];
    line.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
    namespace.root(line)?.json()
}

fn typed<T: for<'a> Deserialize<'a>>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::Unexpected(format!("ip -j has another form: {error}")))
}

#[derive(Deserialize)]
struct LinkJson {
    #[serde(default)]
    ifindex: u32,
    // `ip` prints an empty object for what a filter has left out.
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    operstate: String,
    address: Option<String>,
    #[serde(default)]
    txqlen: u32,
    master: Option<String>,
    ifalias: Option<String>,
    linkinfo: Option<LinkInfoJson>,
}

#[derive(Deserialize)]
struct LinkInfoJson {
    info_kind: Option<String>,
}

impl LinkJson {
    fn view(self) -> InterfaceView {
        InterfaceView {
            index: self.ifindex,
            name: self.ifname,
            kind: self.linkinfo.and_then(|info| info.info_kind).unwrap_or_default(),
            flags: self.flags,
            mtu_bytes: self.mtu,
            state: self.operstate,
            mac: self.address,
            queue_length: self.txqlen,
            master: self.master,
            alias: self.ifalias,
        }
    }
}

#[derive(Deserialize)]
struct AddressesJson {
    #[serde(default)]
    addr_info: Vec<AddressJson>,
}

#[derive(Deserialize)]
struct AddressJson {
    local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
struct RouteJson {
    dst: String,
    gateway: Option<IpAddr>,
    #[serde(default)]
    dev: String,
    metric: Option<u32>,
    prefsrc: Option<IpAddr>,
    #[serde(default)]
    metrics: Vec<MetricsJson>,
}

#[derive(Deserialize)]
struct MetricsJson {
    mtu: Option<u32>,
}

impl RouteJson {
    fn view(self) -> RouteView {
        RouteView {
            destination: self.dst,
            gateway: self.gateway,
            device: self.dev,
            mtu_bytes: self.metrics.iter().find_map(|metrics| metrics.mtu),
            metric: self.metric,
            source: self.prefsrc,
        }
    }
}
