//! `adit status`.

use std::path::Path;

use adit_tunnel::{Client, Error, Store, protocol::TunnelStatus};
use serde_json::{Value, json};

use crate::{
    kernel::{self, Recorded},
    table,
};

/// What a look at a node has found.
pub struct Seen {
    /// The tunnels, in the order of their attachments.
    pub tunnels: Vec<TunnelStatus>,
    /// Why the agent's are not among them.
    pub agent: Result<(), Error>,
    /// Whether any tunnel needs the agent.
    pub needs_agent: bool,
    /// What else could not be found out.
    pub unreadable: Vec<Error>,
    /// Whether the kernel's tunnels are left out, since their records are not this user's to read.
    pub is_partial: bool,
}

/// What `adit status` has to say.
pub struct Told {
    /// The tunnels as a table or as JSON.
    pub text: String,
    /// What could not be found out of them.
    pub troubles: Vec<Error>,
    /// What is not this user's to know.
    pub note: Option<&'static str>,
}

/// The tunnels of the node, once.
///
/// # Errors
/// Nothing could be found out.
pub fn status(run_dir: &Path, json: bool) -> Result<Told, Box<dyn std::error::Error>> {
    let Seen { tunnels, agent, needs_agent, unreadable: mut troubles, is_partial } = look(run_dir);
    match agent {
        Ok(()) => {}
        Err(error) if tunnels.is_empty() => return Err(error.into()),
        Err(error) if needs_agent => troubles.push(error),
        Err(_) => {}
    }
    let text = if json { serde_json::to_string_pretty(&document(&tunnels))? + "\n" } else { table::status(&tunnels) };
    let note = is_partial.then_some("the kernel's own tunnels (vxlan) are left out: only root may read their records");
    Ok(Told { text, troubles, note })
}

/// The tunnels of the agent and those of the kernel, for which no agent need be there.
pub fn look(run_dir: &Path) -> Seen {
    let (of_agent, is_reader) = ask(run_dir);
    let records = kernel::recorded(&Store::new(run_dir));
    let is_partial = is_reader && records.is_err();
    let (Recorded { mut tunnels, needs_agent, unreadable }, mut troubles) = match records {
        Ok(recorded) => (recorded, Vec::new()),
        Err(_) if is_partial => Default::default(),
        // Only root may see the records; the agent's words say so as well.
        Err(error) => (Recorded { needs_agent: true, ..Recorded::default() }, vec![error]),
    };
    let agent = of_agent.map(|carried| tunnels.extend(carried));
    if agent.is_err() {
        // An agent complains of them in its log.
        troubles.extend(unreadable);
    }
    tunnels.sort_by(|one, other| one.attachment.cmp(&other.attachment));
    Seen { tunnels, agent, needs_agent, unreadable: troubles, is_partial }
}

/// As root; or else as one of the group that may only ask how tunnels are.
fn ask(run_dir: &Path) -> (Result<Vec<TunnelStatus>, Error>, bool) {
    let error = match Client::new(run_dir).status() {
        Err(error) if error.is_agent_unreachable() => error,
        answer => return (answer, false),
    };
    match Client::reader(run_dir).status() {
        // The agent's own socket is the one to tell about.
        Err(Error::AgentUnreachable { .. }) => (Err(error), false),
        answer => (answer, true),
    }
}

/// What `--json` prints, without its layout.
pub fn document(tunnels: &[TunnelStatus]) -> Value {
    let tunnels: Vec<Value> = tunnels.iter().map(table::with_state).collect();
    json!({ "tunnels": tunnels })
}
