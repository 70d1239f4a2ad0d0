//! `adit key`: private keys are made here and never shown, public ones are told.

use std::io::{self, Read as _};

use adit_tunnel::{
    Client, KeyFile, KeyStore, PublicKey,
    keys::{KeyNames, NO_NAMESPACE, Owner, Rotation, SecretKey},
};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use crate::{Said, select};

/// No private key is longer in base64, with whatever ends its line.
const MAX_BYTES: u64 = 64;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a private key in a file for root alone, and print its public key
    Generate {
        /// Namespace of the pods that may use it (_ where the runtime knows no namespaces)
        #[arg(long, default_value = "default")]
        namespace: String,
        /// Name of the file, for "privateKeyFile"
        #[arg(long, default_value = "private.key")]
        file: String,
    },
    /// Read a private key on stdin, and print its public key
    Public,
    /// Print the public key of a tunnel, or of one that is yet to be
    Show(Whose),
    /// Change a tunnel's private key without losing a packet: make the next one, which is accepted from now on, and print its public
    /// key; tell the peers (adit peer rekey); then run it again with --use, and at last with --finish
    Rotate {
        /// Tunnel of the agent: default/plumbr-a, default/plumbr-a:tun, or <containerID>:net1:tun
        tunnel: String,
        /// New sessions use the next key; the old one is still accepted
        #[arg(long, conflicts_with = "finish")]
        r#use: bool,
        /// Forget the old key
        #[arg(long)]
        finish: bool,
    },
}

#[derive(Debug, Args)]
pub struct Whose {
    /// Tunnel of the agent: default/plumbr-a, default/plumbr-a:tun, or <containerID>:net1:tun
    #[arg(conflicts_with_all = ["pod", "network", "file"], required_unless_present_any = ["pod", "file"])]
    tunnel: Option<String>,
    /// Namespace of the pod (_ where the runtime knows no namespaces)
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Name of the pod
    #[arg(long, requires = "network")]
    pod: Option<String>,
    /// Name of the network: of the NetworkAttachmentDefinition, unless its configuration has another
    #[arg(long)]
    network: Option<String>,
    /// Name of the tunnel's interface
    #[arg(long, default_value = "tun")]
    if_name: String,
    /// Name of the file, where the tunnel has a "privateKeyFile"
    #[arg(long, conflicts_with_all = ["pod", "network"])]
    file: Option<String>,
}

impl Command {
    pub fn run(self, agent: &Client, keys: &KeyStore) -> Said {
        let key = match self {
            Self::Generate { namespace, file } => keys.generate(&namespace, &key_file(&file)?)?,
            Self::Public => {
                let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES)?));
                io::stdin().take(MAX_BYTES).read_to_end(&mut text)?;
                SecretKey::from_text(&text).map_err(|problem| format!("what stdin holds {problem}"))?.public()
            }
            Self::Show(whose) => whose.key(agent, keys)?,
            Self::Rotate { tunnel, r#use, finish } => {
                let step = match (r#use, finish) {
                    (true, _) => Rotation::Use,
                    (_, true) => Rotation::Finish,
                    _ => Rotation::Prepare,
                };
                agent.rotate_key(&select::tunnel(agent, &tunnel)?.attachment, step)?
            }
        };
        Ok(format!("{key}\n"))
    }
}

impl Whose {
    fn key(self, agent: &Client, keys: &KeyStore) -> Result<PublicKey, Box<dyn std::error::Error>> {
        if let Some(name) = self.tunnel {
            let key = select::tunnel(agent, &name)?.public_key;
            return key.ok_or_else(|| format!("{name} has no key: its encryption is none").into());
        }
        let namespace = if self.namespace == NO_NAMESPACE { String::new() } else { self.namespace };
        let names = KeyNames {
            owner: Owner {
                namespace,
                pod: self.pod.unwrap_or_default(),
                container_id: String::new(),
                network: self.network.unwrap_or_default(),
                if_name: self.if_name,
            },
            private_key_file: self.file.as_deref().map(key_file).transpose()?,
            peers: Vec::new(),
        };
        // The agent's directory of keys is the one that counts. Before there is an agent, it will be this one.
        match agent.public_key(&names) {
            Err(error) if error.is_agent_unreachable() => Ok(keys.load(&names)?.public),
            told => Ok(told?),
        }
    }
}

pub fn key_file(name: &str) -> Result<KeyFile, String> {
    name.parse().map_err(|problem| format!("{name:?} {problem}: a name without '/' that does not begin with '.'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(namespace: &str, pod: Option<&str>, file: Option<&str>) -> Whose {
        Whose {
            tunnel: None,
            namespace: namespace.into(),
            pod: pod.map(Into::into),
            network: pod.map(|_| "ohio".into()),
            if_name: "tun".into(),
            file: file.map(Into::into),
        }
    }

    #[test]
    fn keys_can_be_made_and_asked_for_before_there_is_an_agent() {
        let directory = tempfile::tempdir().unwrap();
        let (agent, keys) = (Client::new(directory.path()), KeyStore::new(directory.path()));
        let generate = || Command::Generate { namespace: "default".into(), file: "ohio.key".into() };
        let made = generate().run(&agent, &keys).unwrap();
        assert!(generate().run(&agent, &keys).unwrap_err().to_string().contains("exists already"));
        let shown = Command::Show(show("default", None, Some("ohio.key"))).run(&agent, &keys).unwrap();
        assert_eq!(shown, made);

        let derived = |namespace: &str, pod: &str| show(namespace, Some(pod), None).key(&agent, &keys).unwrap();
        assert_eq!(derived("default", "plumbr-a"), derived("default", "plumbr-a"));
        assert_ne!(derived("default", "plumbr-a"), derived("default", "plumbr-b"));
        assert_eq!(derived("_", "plumbr-a"), derived("", "plumbr-a"));
        for name in ["../x", "", ".x", "a/b"] {
            assert!(Command::Show(show("default", None, Some(name))).run(&agent, &keys).is_err(), "{name}");
        }
    }
}
