//! The keys of the configuration. Unknown ones are ignored.

use adit_cni::{Code, Dns, Error, Route};
use serde::Deserialize;

/// The network configuration, as far as it is this plugin's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    ipam: Option<Ipam>,
    args: Args,
    runtime_config: RequestedIps,
}

/// `ipam`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ipam {
    pub(crate) addresses: Vec<AddressEntry>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
}

/// One of `ipam.addresses`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AddressEntry {
    /// Address with its prefix length.
    pub(crate) address: String,
    /// Gateway; empty: none.
    pub(crate) gateway: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: RequestedIps,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RequestedIps {
    ips: Vec<String>,
}

impl Config {
    /// `ipam`.
    pub(crate) fn ipam(&self) -> Result<&Ipam, Error> {
        self.ipam.as_ref().ok_or_else(|| {
            Error::new(Code::INVALID_CONFIG, "IPAM config missing 'ipam' key")
                .with_details("add \"ipam\": {\"type\": \"static\"} to the network configuration")
        })
    }

    /// `args.cni.ips`.
    pub(crate) fn args_ips(&self) -> &[String] {
        &self.args.cni.ips
    }

    /// `runtimeConfig.ips`.
    pub(crate) fn runtime_ips(&self) -> &[String] {
        &self.runtime_config.ips
    }
}
