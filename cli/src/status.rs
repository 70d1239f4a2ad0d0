//! `adit status`.

use std::path::Path;

use adit_tunnel::{Client, Error, Store, protocol::TunnelStatus};

use crate::{
    kernel::{self, Recorded},
    table,
};

/// The tunnels of the node as a table or as JSON, and what could not be found out of them.
pub fn status(run_dir: &Path, json: bool) -> Result<(String, Vec<Error>), Box<dyn std::error::Error>> {
    let (tunnels, troubles) = tunnels(run_dir)?;
    Ok((render(&tunnels, json)?, troubles))
}

/// The tunnels of the agent and those of the kernel, for which no agent need be there; and what could not be found out.
fn tunnels(run_dir: &Path) -> Result<(Vec<TunnelStatus>, Vec<Error>), Error> {
    let of_agent = Client::new(run_dir).status();
    let Recorded { tunnels, needs_agent, mut unreadable } = match kernel::recorded(&Store::new(run_dir)) {
        Ok(recorded) => recorded,
        // Only root may see the records; the agent's words say so as well.
        Err(error) => return Ok((of_agent?, vec![error])),
    };
    let mut all = tunnels;
    match of_agent {
        Ok(carried) => {
            all.extend(carried);
            // It complains of them in its log.
            unreadable.clear();
        }
        Err(error) if all.is_empty() => return Err(error),
        Err(error) if needs_agent => unreadable.push(error),
        Err(_) => {}
    }
    all.sort_by(|one, other| one.attachment.cmp(&other.attachment));
    Ok((all, unreadable))
}

fn render(tunnels: &[TunnelStatus], json: bool) -> Result<String, Error> {
    if !json {
        return Ok(table::status(tunnels));
    }
    let document: Vec<_> = tunnels.iter().map(table::with_state).collect();
    serde_json::to_string_pretty(&serde_json::json!({ "tunnels": document }))
        .map(|text| text + "\n")
        .map_err(|error| Error::Decode { problem: format!("tunnels: {error}") })
}
