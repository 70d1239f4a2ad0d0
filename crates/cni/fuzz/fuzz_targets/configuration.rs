//! `cargo +nightly fuzz run configuration` in `crates/cni`: a network configuration of any plugin becomes a plan or an error
//! with a text.
//!
//! The input is `CNI_ARGS`, a newline, and the document.
#![no_main]

use adit_cni::{Attachment, CniArgs, CniResult, Error, Version, config};
use adit_plugin::DuplicateAddressDetection::{Off, Optimistic, Wait, WaitForBoth};
use adit_plugin::Identity;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// What the IPAM plugin would answer.
fn addressed(document: &[u8], args: &CniArgs) -> Result<CniResult, Error> {
    let config: adit_static::Config = config::decode(document)?;
    let addresses = adit_static::effective(&config, args)?;
    let routes = serde_json::from_slice::<Value>(document).ok().and_then(|value| {
        CniResult::parse(&serde_json::json!({"routes": value.get("ipam")?.get("routes")?}), Version::LATEST).ok()
    });
    let mut result = routes.unwrap_or_default();
    for address in addresses {
        let mut ip = adit_cni::Ip::new(address.network);
        ip.gateway = address.gateway;
        result.ips.push(ip);
    }
    Ok(result)
}

/// Errors say something, on one line where they are the message.
fn told<T>(outcome: Result<T, Error>) -> Option<T> {
    outcome.inspect_err(|error| assert!(!error.msg.is_empty())).ok()
}

fn macvlan(document: &[u8], args: &CniArgs, version: Version, ipam: &CniResult) -> Option<()> {
    let config: adit_macvlan::Config = told(config::decode(document))?;
    let network = told(config.validate(args, version))?;
    let master = adit_macvlan::Master { name: "eth0", mtu: 1500 };
    let plan = told(adit_macvlan::Plan::create(&network, "net1", master))?;
    plan.steps.iter().for_each(|step| assert!(!step.to_string().is_empty()));
    for dad in [Off, Optimistic, Wait, WaitForBoth] {
        let plan = told(adit_macvlan::AddressPlan::new(&network, "net1", master, dad, ipam.clone()))?;
        plan.steps.iter().chain(&plan.last_steps).for_each(|step| drop(step.to_string()));
        let _ = plan.result.to_json(version);
    }
    Some(())
}

fn bridge(document: &[u8], args: &CniArgs, version: Version, ipam: &CniResult) -> Option<()> {
    let config: adit_bridge::Config = told(config::decode(document))?;
    let network = told(config.validate(args, version))?;
    adit_bridge::Plan::join(&network, "net1").steps.iter().for_each(|step| drop(step.to_string()));
    let plan = told(adit_bridge::AddressPlan::new(&network, "net1", ipam.clone()))?;
    plan.steps.iter().chain(&plan.last_steps).for_each(|step| drop(step.to_string()));
    let _ = plan.result.to_json(version);
    Some(())
}

fn tun(document: &[u8]) -> Option<()> {
    let raw: Map<String, Value> = serde_json::from_slice(document).ok()?;
    let effective = adit_tunnel::Effective::read(&raw).ok()?;
    effective.config.validate().ok().map(drop)
}

fuzz_target!(|input: &[u8]| {
    let newline = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (args, document) = input.split_at(newline);
    let args = String::from_utf8_lossy(args);
    let _ = told(CniArgs::parse(&args));
    let args = CniArgs::parse_lossy(&args);
    let _ = told(args.ips());
    let ipam = told(addressed(document, &args)).unwrap_or_default();
    for version in [Version::V0_2_0, Version::V0_4_0, Version::LATEST] {
        macvlan(document, &args, version, &ipam);
        bridge(document, &args, version, &ipam);
    }
    tun(document);
    let value: Option<Value> = serde_json::from_slice(document).ok();
    let attachment = value.and_then(|value| config::from_value::<Attachment>(&value).ok());
    if let Some(attachment) = attachment {
        let identity = Identity::new("lan", &attachment);
        assert!(identity.alias().len() <= 255 && identity.host_name(0).len() <= 15);
        assert!(Identity::is_of(identity.alias(), &attachment));
    }
});
