//! Masquerading: what a pod sends beyond its own subnet leaves with the node's address.

pub(crate) mod iptables;
pub(crate) mod nftables;

use std::str::FromStr;

use adit_cni::{Attachment, Code, Error};
use adit_net::Nftables;
use adit_plugin::net_error;
use ipnetwork::IpNetwork;

use crate::tag::Tag;
use iptables::Program;

/// What the configuration names as the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Nothing: nftables where the kernel has it, else iptables.
    Default,
    /// `nftables`
    Nftables,
    /// `iptables`
    Iptables,
}

/// What masquerades on this node.
#[derive(Debug)]
pub(crate) enum Masquerade {
    Nftables,
    /// The programs for IPv4 and IPv6.
    Iptables,
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "nftables" => Ok(Self::Nftables),
            "iptables" => Ok(Self::Iptables),
            _ => Err(Error::new(Code::INVALID_CONFIG, format!("unknown ipmasq backend {text:?}"))
                .with_details("set ipMasqBackend to \"nftables\" or \"iptables\", or leave it out")),
        }
    }
}

impl Masquerade {
    /// What `backend` means on this node. Changes nothing.
    ///
    /// # Errors
    /// [`Code::NOT_AVAILABLE`] when the node has not what it takes.
    pub(crate) fn choose(backend: Backend, nft: &Nftables) -> Result<Self, Error> {
        if backend != Backend::Iptables {
            if nft.is_supported().map_err(net_error)? {
                return Ok(Self::Nftables);
            }
            if backend == Backend::Nftables {
                return Err(Error::new(
                    Code::NOT_AVAILABLE,
                    "ipMasqBackend is nftables, and this kernel has no nf_tables",
                )
                .with_details("load the module nf_tables, or set ipMasqBackend to \"iptables\""));
            }
            tracing::warn!("this kernel has no nf_tables: ipMasq uses the program iptables instead");
        }
        if Program::is_installed() {
            return Ok(Self::Iptables);
        }
        Err(Error::new(Code::NOT_AVAILABLE, "ipMasq needs the program iptables, which is not installed").with_details(
            if backend == Backend::Iptables {
                "install iptables, or set ipMasqBackend to \"nftables\""
            } else {
                "load the module nf_tables, or install iptables"
            },
        ))
    }

    /// Masquerades what comes from the pod's addresses, each given with its subnet's prefix, beyond that subnet.
    pub(crate) fn add(
        &self,
        nft: &Nftables,
        network: &str,
        attachment: &Attachment,
        addresses: &[IpNetwork],
    ) -> Result<(), Error> {
        match self {
            Self::Nftables => nftables::add(nft, &Tag::new(network, attachment), addresses),
            Self::Iptables => iptables::add(network, attachment, addresses),
        }
    }

    /// Whether what [`Masquerade::add`] made is there.
    pub(crate) fn check(
        &self,
        nft: &Nftables,
        network: &str,
        attachment: &Attachment,
        addresses: &[IpNetwork],
    ) -> Result<(), Error> {
        match self {
            Self::Nftables => nftables::check(nft, &Tag::new(network, attachment), addresses),
            Self::Iptables => iptables::check(network, attachment, addresses),
        }
    }
}
