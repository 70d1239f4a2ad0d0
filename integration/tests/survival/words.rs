//! What all of these tests look at.

use std::time::Duration;

use adit_integration::{
    sealed::{Format, SealedPair},
    tunnels::{Pair, tunnels},
};
use adit_lab::{COMMAND_DEADLINE, Node, Pod, eventually};
use libtest_mimic::Failed;
use serde_json::Value;

/// What is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Sealed(Format),
}

impl Wire {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Sealed(Format::Noise), Self::Sealed(Format::Wireguard)];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sealed(Format::Noise) => "noise",
            Self::Sealed(Format::Wireguard) => "wireguard",
        }
    }

    /// A pair of pods whose tunnel is up.
    pub fn pair(self) -> Result<Pair, Failed> {
        let pair = match self {
            Self::Plain => Pair::usual()?,
            Self::Sealed(format) => SealedPair::new(format).up()?,
        };
        pair.ohio.ping("10.4.0.2")?.all_received()?;
        Ok(pair)
    }
}

/// How often the link of this pod has lost or got its carrier.
pub fn carrier_changes(pod: &Pod) -> Result<u64, Failed> {
    // A view of /sys shows the devices of the namespace that it was mounted in.
    let look = "mount -t sysfs none /sys && cat /sys/class/net/tun/carrier_changes";
    Ok(pod.root(["unshare", "--mount", "sh", "-c", look])?.ok()?.stdout.trim().parse()?)
}

/// The only tunnel's only peer, and what the tunnel has dropped.
pub fn counted(node: &Node) -> Result<(Value, Value), Failed> {
    let tunnels = tunnels(node)?;
    assert_eq!(tunnels.len(), 1, "{tunnels:#?}");
    Ok((tunnels[0]["peers"][0].clone(), tunnels[0]["drops"].clone()))
}

pub fn all_up(node: &Node, count: usize) -> Result<(), Failed> {
    let is_up = |tunnel: &Value| tunnel["carried"] == true && tunnel["peers"][0]["established"] == true;
    eventually(&format!("{count} tunnels to be up"), Duration::from_secs(30), || {
        Ok((tunnels(node)?.iter().filter(|tunnel| is_up(tunnel)).count() == count).then_some(()))
    })?;
    Ok(())
}

/// `seconds` of echo requests, one every 10 ms. Returns how many were not answered.
pub fn unanswered(pod: &Pod, to: &str, seconds: u64) -> Result<u32, Failed> {
    let count = (seconds * 100).to_string();
    let line = ["ping", "-n", "-q", "-i", "0.01", "-W", "2", "-c", &count, to];
    let ran = pod.run_for(Duration::from_secs(seconds * 2) + COMMAND_DEADLINE, line)?;
    let said = ran.stdout.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default().to_owned();
    let number = |part: &str| said.split(", ").find(|text| text.contains(part))?.split(' ').next()?.parse::<u32>().ok();
    let (sent, received) = number("transmitted").zip(number("received")).ok_or_else(|| format!("{ran:?}"))?;
    assert!(u64::from(sent) == seconds * 100, "{said}");
    assert!(!said.contains("duplicates"), "{said}");
    Ok(sent - received)
}
