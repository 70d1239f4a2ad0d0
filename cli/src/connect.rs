//! `adit connect`: both ends of a tunnel from one description.

mod cluster;
mod description;
mod kubectl;
mod manifests;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use adit_lint::NETWORKS_ANNOTATION;
use clap::Args;
use cluster::Cluster;
use description::Connection;
use kubectl::Kubectl;
use manifests::Manifests;

use crate::Said;

/// How often both ends are asked whether they are up.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Connect {
    /// What to connect (docs/connect.md); - is stdin
    description: PathBuf,
    /// Print what both clusters would be told, and ask none of them
    #[arg(long)]
    dry_run: bool,
    /// A kubeconfig with the contexts of the sides; may be given again [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long)]
    kubeconfig: Vec<PathBuf>,
    /// The program that speaks to the clusters
    #[arg(long, default_value = "kubectl")]
    kubectl: PathBuf,
    /// Seconds to wait until the tunnel is up from both ends; 0 does not wait
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

impl Connect {
    pub fn run(self) -> Said {
        let connection = Connection::read(&self.description)?;
        if self.dry_run {
            return Ok(printed(&connection)?);
        }
        Ok(self.connect(&connection)?)
    }

    fn connect(&self, connection: &Connection) -> Result<String, String> {
        let [one, other] = connection.ends()?;
        let kubectl = Kubectl::new(&self.kubectl, &self.kubeconfig)?;
        let clusters = [one, other].map(|side| Cluster { connection, side, kubectl: &kubectl });
        let [near, far] = &clusters;
        // Both before anything is applied: who cannot tell its key cannot be connected.
        let [(near_key, near_node), (far_key, far_node)] = match connection.is_sealed()? {
            true => [near.public_key()?, far.public_key()?].map(|(key, node)| (Some(key), node)),
            false => [one, other].map(|side| (None, side.node.clone())),
        };
        let applied = [
            near.apply(&manifests::of(connection, one, far_key)?, near_node.as_deref())?,
            far.apply(&manifests::of(connection, other, near_key)?, far_node.as_deref())?,
        ];
        let (versions, done): (Vec<String>, Vec<[String; 2]>) = applied.into_iter().unzip();
        let mut said: Vec<String> = done.into_iter().flatten().collect();
        if self.timeout > 0 {
            self.wait(&clusters, &versions)?;
            said.extend(connection.sides.iter().map(|side| match side.workload {
                Some(_) => format!("{}: up", side.name),
                None => format!("{}: not looked at, because no workload is named", side.name),
            }));
        }
        Ok(said.into_iter().map(|line| line + "\n").collect())
    }

    fn wait(&self, clusters: &[Cluster<'_>], versions: &[String]) -> Result<(), String> {
        let limit = Duration::from_secs(self.timeout);
        let since = Instant::now();
        loop {
            // An agent or an API server that is just being replaced answers again.
            let missing = clusters.iter().zip(versions).filter_map(|(cluster, version)| {
                let leg = cluster.missing(version).unwrap_or_else(Some)?;
                Some(format!("{}: {leg}", cluster.side.name))
            });
            let missing: Vec<String> = missing.collect();
            if missing.is_empty() {
                return Ok(());
            }
            if since.elapsed() >= limit {
                return Err(format!("not up after {} s\n{}", self.timeout, missing.join("\n")));
            }
            thread::sleep(PERIOD);
        }
    }
}

/// Everything that would be applied, as YAML: one document a cluster, with what its pods need in comments.
fn printed(connection: &Connection) -> Result<String, String> {
    let mut text = String::new();
    let sealed = connection.is_sealed()?;
    let [one, other] = connection.ends()?;
    for (side, peer) in [(one, other), (other, one)] {
        let Manifests { network, selection } = manifests::of(connection, side, peer.public_key)?;
        text += &format!("# {}, context {}\n", side.name, side.context());
        if sealed && side.public_key.is_none() {
            text += &format!(
                "# Private key, on the node of its pods: adit key generate --namespace {} --file {}\n",
                side.namespace,
                side.key_file(connection)
            );
        }
        text += &format!(
            "# Annotation of its pods: {NETWORKS_ANNOTATION}: '{}'\n",
            manifests::annotation(None, &selection, &side.namespace)?
        );
        text += &serde_saphyr::to_string(&network).map_err(|error| error.to_string())?;
        text += "---\n";
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
