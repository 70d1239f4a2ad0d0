//! `cargo +nightly fuzz run prev_result` in `crates/cni`: a result of any version is read or refused, and what was read is
//! written in every version as it will be read again.
#![no_main]

use adit_cni::{CniResult, Version};
use adit_plugin::{addresses, check, fill_gateways, planned_routes};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    for default in Version::SUPPORTED {
        let Ok(result) = CniResult::parse(&value, default) else { continue };
        for version in Version::SUPPORTED {
            let Ok(document) = result.render(version) else { continue };
            let printed = result.to_json(version).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), document);
            let again = CniResult::parse(&document, Version::LATEST).unwrap();
            assert_eq!(again.render(version).unwrap(), document);
        }
        for (index, interface) in result.interfaces.iter().enumerate() {
            let sandbox = interface.sandbox.clone().unwrap_or_default();
            let _ = check::pod_interface(&result, &interface.name, &sandbox);
            let _ = addresses(&result, index);
        }
        let mut filled = result.clone();
        fill_gateways(&mut filled);
        assert!(planned_routes(&filled).len() <= result.routes.len());
        planned_routes(&filled).iter().for_each(|route| drop(route.on(1)));
    }
});
