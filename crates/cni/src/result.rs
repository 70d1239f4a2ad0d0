//! The result of ADD, in every version's shape.
//!
//! In memory a result always has the shape of 1.1.0. The conversions are those of the Go library
//! (`pkg/types/{020,040,100}`).

mod address;
mod document;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::address::parse_cidr;
use self::document::{Document01, Document03, Document10, Incoming};
use crate::config;
use crate::error::{Code, Error};
use crate::version::Version;

/// What ADD made (CNI specification, "Success").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Interfaces, on both sides; [`Ip::interface`] counts into them.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<Ip>,
    /// Routes in the container.
    pub routes: Vec<Route>,
    /// Name resolution in the container; `None` is the same as an empty one.
    pub dns: Option<Dns>,
}

// The fields of the following types stand in the order of their names in JSON: 1.x prints them so.

/// An interface that the attachment consists of. A tunnel or tap is one of these too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Hardware address; absent where the interface has none.
    #[serde(default, deserialize_with = "document::non_empty", skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU in bytes (since 1.1.0).
    #[serde(default, deserialize_with = "document::non_zero", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Name in its namespace.
    #[serde(default)]
    pub name: String,
    /// PCI address of the device (since 1.1.0).
    #[serde(
        default,
        rename = "pciID",
        deserialize_with = "document::non_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub pci_id: Option<String>,
    /// The value of `CNI_NETNS` for an interface in the container; absent for one on the node.
    #[serde(default, deserialize_with = "document::non_empty", skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Socket of a vhost-user interface (since 1.1.0).
    #[serde(
        default,
        rename = "socketPath",
        deserialize_with = "document::non_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub socket_path: Option<String>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// The address itself with the prefix length of its subnet; host bits are kept.
    #[serde(deserialize_with = "address::with_host_bits")]
    pub address: IpNetwork,
    /// The subnet's gateway.
    #[serde(default, deserialize_with = "address::optional", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into [`CniResult::interfaces`]. IPAM plugins leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

impl Ip {
    /// An address without gateway and interface.
    pub fn new(address: IpNetwork) -> Self {
        Self { address, gateway: None, interface: None }
    }
}

/// A route in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// TCP maximum segment size for this route, in bytes.
    #[serde(default, deserialize_with = "document::non_zero", skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Destination. Host bits are kept, as by the Go library: what made the route ignored them.
    #[serde(deserialize_with = "address::with_host_bits")]
    pub dst: IpNetwork,
    /// Next hop; absent means the gateway of the first address of that family.
    #[serde(default, deserialize_with = "address::optional", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU for this route, in bytes.
    #[serde(default, deserialize_with = "document::non_zero", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Metric: the lowest wins.
    #[serde(default, deserialize_with = "document::non_zero", skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Scope as the kernel numbers it (0 global, 253 link, 254 host); 0 is printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
    /// Routing table; 0 is printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
}

impl Route {
    /// A route with a destination and, if any, a next hop.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { advmss: None, dst, gw, mtu: None, priority: None, scope: None, table: None }
    }
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Local domain.
    #[serde(default, deserialize_with = "document::non_empty", skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Servers, as addresses, in the order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

impl Dns {
    /// True when nothing is set.
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty()
            && self.domain.as_deref().unwrap_or_default().is_empty()
            && self.search.is_empty()
            && self.options.is_empty()
    }
}

impl CniResult {
    /// Reads a result or `prevResult` of any version. Its own `cniVersion` decides the shape; without
    /// one it is `default` (for a child's result and for `prevResult`: the configuration's version).
    /// `null` is an empty result.
    ///
    /// # Errors
    /// [`Code::INCOMPATIBLE_VERSION`] for a version that is not spoken, [`Code::DECODE`] for another
    /// shape than that version's; the message names the path.
    pub fn parse(value: &Value, default: Version) -> Result<Self, Error> {
        Self::parse_versioned(value, default).map(|(result, _)| result)
    }

    /// Like [`parse`](Self::parse), with the version that the document has.
    pub(crate) fn parse_versioned(value: &Value, default: Version) -> Result<(Self, Version), Error> {
        let mut incoming: Incoming = config::from_value(value).map_err(|why| Error {
            code: Code::DECODE,
            msg: why.msg.replacen("failed to load netconf", "cannot decode the result", 1),
            ..why
        })?;
        let version = match incoming.cni_version.take().as_deref() {
            None | Some("") => default,
            Some(text) => text.parse().map_err(|why: Error| {
                Error::new(Code::INCOMPATIBLE_VERSION, format!("unsupported CNI result version {text:?}"))
                    .with_details(why.details)
            })?,
        };
        Ok((incoming.into_result(version), version))
    }

    /// The document as `version` writes it, `cniVersion` included. Use [`to_json`](Self::to_json) to
    /// print it: a [`Value`] does not keep the order of the keys.
    ///
    /// # Errors
    /// [`Code::INCOMPATIBLE_VERSION`] when the version cannot express the result: 0.1.0 and 0.2.0 need
    /// an address.
    pub fn render(&self, version: Version) -> Result<Value, Error> {
        self.write(version, serde_json::value::Serializer)
    }

    /// The document's text, indented by four spaces and without a newline at its end, with the keys in
    /// the order in which the Go library prints them: by name in 1.x, by declaration before.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn to_json(&self, version: Version) -> Result<String, Error> {
        let mut text = Vec::new();
        self.write(version, &mut indented(&mut text))?;
        String::from_utf8(text).map_err(cannot_encode)
    }

    fn write<S: serde::Serializer>(&self, version: Version, serializer: S) -> Result<S::Ok, Error> {
        match version {
            Version::V0_1_0 | Version::V0_2_0 => {
                let document = Document01::of(self, version).ok_or_else(|| {
                    Error::new(Code::INCOMPATIBLE_VERSION, "cannot convert: no valid IP addresses").with_details(
                        format!(
                            "a result of CNI version {version} needs an address; \
                         use cniVersion 0.3.0 or later for an attachment without addresses"
                        ),
                    )
                })?;
                document.serialize(serializer).map_err(cannot_encode)
            }
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => {
                Document03::of(self, version).serialize(serializer).map_err(cannot_encode)
            }
            Version::V1_0_0 | Version::V1_1_0 => {
                Document10::of(self, version).serialize(serializer).map_err(cannot_encode)
            }
        }
    }
}

/// Writes JSON as the Go library's `MarshalIndent` with four spaces does.
pub(crate) fn indented(
    out: &mut Vec<u8>,
) -> serde_json::Serializer<&mut Vec<u8>, serde_json::ser::PrettyFormatter<'static>> {
    serde_json::Serializer::with_formatter(out, serde_json::ser::PrettyFormatter::with_indent(b"    "))
}

fn cannot_encode(why: impl std::fmt::Display) -> Error {
    Error::new(Code::INTERNAL, format!("cannot encode the result: {why}"))
}
