//! `adit peer`: a tunnel's other end, which may be a laptop, a router or another cluster's node.

mod export;
mod import;

use std::{fs, path::PathBuf};

use adit_tunnel::{Client, KeyStore, PublicKey, parse};
use clap::{Subcommand, ValueEnum};

use crate::{Said, complain, key::key_file, select};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what the other end of a tunnel has to be told: our key, our address, our networks
    Export {
        /// Tunnel of the agent: default/plumbr-a, default/plumbr-a:tun, or <containerID>:net1:tun
        tunnel: String,
        /// For whom
        #[arg(long, value_enum, default_value_t = Format::WgQuick)]
        format: Format,
        /// Public key of the peer that it is for, where the tunnel has several
        #[arg(long)]
        peer: Option<String>,
        /// Where the peer reaches this end, as address:port, if that is not the pod's own address: behind a NAT, say
        #[arg(long)]
        endpoint: Option<String>,
    },
    /// A peer changes its key: accept the new one beside the old, before the peer uses it
    Rekey {
        /// Tunnel of the agent: default/plumbr-a, default/plumbr-a:tun, or <containerID>:net1:tun
        tunnel: String,
        /// The public key that the peer changes to
        new: String,
        /// The public key that it has, where the tunnel has several peers
        #[arg(long)]
        peer: Option<String>,
        /// Accept the old key no more
        #[arg(long)]
        forget_old: bool,
    },
    /// Read what another end tells of itself, and print the "peers" of a NetworkAttachmentDefinition
    Import {
        /// File for WireGuard (wg, wg-quick), or JSON of `adit peer export --format json`
        file: PathBuf,
        /// Where to put the file's preshared key, if it has one: a name for "presharedKeyFile"
        #[arg(long)]
        preshared_key_file: Option<String>,
        /// Namespace of the pods that may use the preshared key
        #[arg(long, default_value = "default")]
        namespace: String,
    },
}

/// What reads the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A whole file for `wg-quick`, and for WireGuard's applications
    WgQuick,
    /// A whole file for `wg setconf`
    Wg,
    /// An element of "peers" for another cluster's NetworkAttachmentDefinition
    Json,
}

impl Command {
    pub fn run(self, agent: &Client, keys: &KeyStore) -> Said {
        match self {
            Self::Export { tunnel, format, peer, endpoint } => {
                let tunnel = select::tunnel(agent, &tunnel)?;
                let key = peer.map(|text| public_key("--peer", &text)).transpose()?;
                let peer = match format {
                    // It says nothing of whom it is for.
                    Format::Json => None,
                    _ => Some(select::peer(&tunnel, key)?),
                };
                let port = tunnel.encap.default_port();
                let endpoint = endpoint.map(|text| parse::remote_endpoint("--endpoint", &text, port)).transpose()?;
                export::export(&tunnel, peer, format, endpoint.unwrap_or(tunnel.local))
            }
            Self::Rekey { tunnel, new, peer, forget_old } => {
                let tunnel = select::tunnel(agent, &tunnel)?;
                let key = peer.map(|text| public_key("--peer", &text)).transpose()?;
                let old = select::peer(&tunnel, key)?.public_key.ok_or("the tunnel is not sealed and has no keys")?;
                agent.change_peer_key(&tunnel.attachment, old, public_key("new key", &new)?, !forget_old)?;
                Ok(String::new())
            }
            Self::Import { file, preshared_key_file, namespace } => {
                let text = zeroize::Zeroizing::new(
                    fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?,
                );
                let name = preshared_key_file.as_deref().map(key_file).transpose()?;
                let imported =
                    import::import(&text, name.as_ref()).map_err(|problem| format!("{}: {problem}", file.display()))?;
                if let (Some(name), Some(key)) = (&name, &imported.preshared) {
                    keys.keep(&namespace, name, key)?;
                }
                for note in &imported.notes {
                    let _ = complain(&format!("{}: {note}", file.display()));
                }
                Ok(serde_json::to_string_pretty(&imported.peers)? + "\n")
            }
        }
    }
}

fn public_key(key: &str, text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|problem| format!("{key}: {text} {problem}"))
}
