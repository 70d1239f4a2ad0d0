//! Two clusters that tell each other of their ends, by what `adit` prints and nothing else.

use std::fs;

use adit_integration::{
    sealed::{Format, derived_key, sealed_tun},
    trial,
    tunnels::{FIRST_POD, Family, annotation, lab_with_agents, list, net1, with},
};
use adit_lab::{Attachment, LabSpec};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::Outcome;

pub fn trials() -> Vec<Trial> {
    Format::ALL
        .into_iter()
        .map(|format| {
            let name = format!("an_exported_end_is_imported_by_another_cluster_by_{format:?}").to_lowercase();
            trial(name, move || exchanged(format))
        })
        .collect()
}

fn exchanged(format: Format) -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let (ohio, mumbai) = (lab.ohio(), lab.mumbai());
    // Mumbai tells its public key, before there is a pod.
    let theirs = derived_key(mumbai, "default", "mumbai-a", "there", "tun")?;
    let peers = json!([{ "publicKey": theirs, "allowedIPs": ["10.4.0.2/32"] }]);
    let own = with(sealed_tun(format, Family::V4, None, &theirs, "10.4.0.1/30"), &json!({ "peers": peers }));
    let nad = list("here", &[net1(&lab, ohio), own]);
    let first = ohio.pod("ohio-a").attach(nad, &annotation("here", ohio, FIRST_POD))?;

    // Ohio tells all of its end.
    let exported = ohio.adit(["peer", "export", "default/ohio-a:tun", "--format", "json"])?.ok()?.stdout;
    let file = lab.directory("exchange")?.join("ohio.json");
    fs::write(&file, exported)?;
    let imported = mumbai.adit(["peer", "import", &file.display().to_string()])?.ok()?.stdout;
    let peers: Value = serde_json::from_str(&imported)?;
    let own = with(sealed_tun(format, Family::V4, None, "", "10.4.0.2/30"), &json!({ "peers": peers, "local": null }));
    let nad = list("there", &[net1(&lab, mumbai), own]);
    let second = mumbai.pod("mumbai-a").attach(nad, &annotation("there", mumbai, FIRST_POD))?;
    second.ping("10.4.0.1")?.all_received()?;
    first.ping("10.4.0.2")?.all_received()?;
    Ok(())
}
