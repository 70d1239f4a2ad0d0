//! What the kernel shows of a node and its pods, as `ip -j`, `bridge -j` and `nft -j` say it, without what never repeats.

use std::{fs, path::Path, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    Error, Result,
    world::{FILES, World},
};

/// What a plugin may set beyond its own links; reading everything would take longer than the plugins do.
const SHARED: [&str; 6] = ["forwarding", "disable_ipv6", "accept_dad", "accept_ra", "arp_notify", "proxy_arp"];

/// What `ip` is asked, in one process for all.
const QUESTIONS: &str = "/run/conformance/questions";

/// Timers, numbers and identifiers that no configuration decides.
const VOLATILE: [&str; 28] = [
    "gro_max_size",
    "gso_max_segs",
    "gso_max_size",
    "tso_max_segs",
    "tso_max_size",
    "state",
    "link_index",
    "link_netnsid",
    "link_netns",
    "operstate",
    "handle",
    "packets",
    "bytes",
    "bridge_id",
    "root_id",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "topology_change",
    "topology_change_ack",
    "config_pending",
    "id",
    "no",
    "designated_port",
];

/// The kernel reports carriers up to a second late.
const CARRIER: [&str; 5] = ["LOWER_UP", "NO-CARRIER", "M-DOWN", "linkdown", "dead"];

/// Takes a picture as soon as addresses have come to rest, and after two seconds in any case.
pub fn settled(world: &World) -> Result<Value> {
    let mut patience = 40_u32;
    loop {
        let raw = raw(world)?;
        if patience == 0 || at_rest(&raw) {
            return Ok(cleaned(&raw));
        }
        patience = patience.saturating_sub(1);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Everything: links by name, addresses among them; routes, rules, permanent neighbours, sysctls, packet filters, files.
fn raw(world: &World) -> Result<Value> {
    let mut state = Map::new();
    if !Path::new(QUESTIONS).exists() {
        let questions = "addr show\nroute show table all\nneigh show nud permanent\nrule show\n";
        fs::write(QUESTIONS, questions)
            .map_err(|source| Error::World { what: "write the questions for ip", source })?;
    }
    for place in world.places().map(str::to_owned).collect::<Vec<_>>() {
        let text = world.output(&place, "ip", &["-j", "-d", "-batch", QUESTIONS])?;
        let mut answers = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let mut next = || answers.next().transpose().map(Option::unwrap_or_default).map_err(Error::Iproute);
        let (links, routes, neighbours, rules) = (next()?, next()?, next()?, next()?);
        let sysctl = world.inside(&place, || sysctls(&links))?;
        let mut picture = json!({
            "links": links, "routes": routes, "neighbours": neighbours, "rules": rules, "sysctl": sysctl,
        });
        if let Some(picture) = picture.as_object_mut() {
            if text.contains("\"vlan_filtering\":1") {
                let vlans = world.output(&place, "bridge", &["-j", "vlan", "show"])?;
                picture.insert("vlans".to_owned(), serde_json::from_str(&vlans).map_err(Error::Iproute)?);
            }
            if place == "node" {
                picture.insert("nft".to_owned(), nftables(world)?);
                picture.insert("iptables".to_owned(), legacy_iptables(world)?);
            }
        }
        state.insert(place, picture);
    }
    let mut files = Map::new();
    collect_files(Path::new(FILES), &mut files);
    state.insert("files".to_owned(), Value::Object(files));
    Ok(Value::Object(state))
}

fn nftables(world: &World) -> Result<Value> {
    let Ok(text) = world.output("node", "nft", &["-j", "list", "ruleset"]) else {
        return Ok(json!([]));
    };
    let mut answer: Value = serde_json::from_str(&text).map_err(Error::Iproute)?;
    let mut list = answer.get_mut("nftables").map(Value::take).unwrap_or_default();
    if let Some(items) = list.as_array_mut() {
        items.retain(|item| item.get("metainfo").is_none());
    }
    Ok(list)
}

/// The rules of kernels' and programs' old tables; those of iptables-nft are nftables' own.
fn legacy_iptables(world: &World) -> Result<Value> {
    let mut lines = Vec::new();
    for (names, program) in [("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")]
    {
        let path = Path::new("/proc/thread-self/net").join(names);
        if fs::read_to_string(path).is_ok_and(|tables| !tables.trim().is_empty()) {
            let text = world.output("node", program, &[])?;
            lines.extend(text.lines().filter(|line| !line.starts_with(['#', ':', '*'])).map(|line| json!(line)));
        }
    }
    Ok(Value::Array(lines))
}

/// All of every link, and what plugins set for all: `{"ipv4/conf/net1": {"arp_notify": "1"}}`.
fn sysctls(links: &Value) -> Value {
    let root = Path::new("/proc/sys/net");
    let read = |path: &Path| fs::read_to_string(path).map(|value| Value::from(value.trim())).ok();
    let mut values = Map::new();
    values.insert("ipv4".to_owned(), json!({ "ip_forward": read(&root.join("ipv4/ip_forward")) }));
    let names = links.as_array().into_iter().flatten().filter_map(|link| link.get("ifname")?.as_str());
    for name in names.chain(["all", "default"]) {
        for key in [format!("ipv4/conf/{name}"), format!("ipv6/conf/{name}")] {
            let found: Map<_, _> = if matches!(name, "lo" | "all" | "default") {
                let some =
                    SHARED.iter().filter_map(|value| Some(((*value).to_owned(), read(&root.join(&key).join(value))?)));
                some.collect()
            } else {
                let entries = fs::read_dir(root.join(&key)).into_iter().flatten().flatten();
                let readable = entries.filter(|entry| entry.file_name() != "stable_secret");
                let value = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, read(&entry.path())?));
                readable.filter_map(value).collect()
            };
            values.insert(key, Value::Object(found));
        }
    }
    Value::Object(values)
}

fn collect_files(directory: &Path, files: &mut Map<String, Value>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, files);
        } else if let (Ok(name), Ok(text)) = (path.strip_prefix(FILES), fs::read(&path))
            && !text.starts_with(b"#!")
        {
            files.insert(name.display().to_string(), Value::from(String::from_utf8_lossy(&text).into_owned()));
        }
    }
}

/// No address that somebody gave is still being tried.
fn at_rest(raw: &Value) -> bool {
    let flag = |address: &Value, flag: &str| address.get(flag).is_some();
    let trying =
        |address: &Value| !is_links_own(address) && (flag(address, "tentative") || flag(address, "optimistic"));
    let works = |link: &Value| {
        link.get("flags").and_then(Value::as_array).is_some_and(|flags| flags.iter().any(|flag| flag == "LOWER_UP"))
    };
    let addresses = links(raw).filter(|link| works(link)).filter_map(|link| link.get("addr_info")?.as_array());
    !addresses.flatten().any(trying)
}

fn links(raw: &Value) -> impl Iterator<Item = &Value> {
    let places = raw.as_object().into_iter().flat_map(Map::values);
    places.filter_map(|place| place.get("links")?.as_array()).flatten()
}

fn cleaned(raw: &Value) -> Value {
    let mut state = raw.clone();
    for (_, picture) in state.as_object_mut().into_iter().flatten().filter(|(place, _)| *place != "files") {
        for (key, list) in picture.as_object_mut().into_iter().flatten().filter(|(key, _)| *key != "sysctl") {
            strip(list);
            match key.as_str() {
                "links" => *list = by_name(list),
                "routes" => retain(list, |route| !is_automatic_route(route)),
                "vlans" => *list = by_name(list),
                _ => {}
            }
        }
    }
    state
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !VOLATILE.contains(&key.as_str()));
            object.values_mut().for_each(strip);
        }
        Value::Array(items) => {
            items.retain(|item| !is_links_own(item) && !CARRIER.iter().any(|flag| item == flag));
            items.iter_mut().for_each(strip);
        }
        _ => {}
    }
}

/// A link-local address comes and goes with the carrier, and is made of a random number.
fn is_links_own(address: &Value) -> bool {
    address.get("local").and_then(Value::as_str).is_some_and(|ip| ip.starts_with("fe80:"))
}

/// Routes that the kernel makes for every IPv6 link, and some time after an address has been tried, for the address.
fn is_automatic_route(route: &Value) -> bool {
    let dst = route.get("dst").and_then(Value::as_str).unwrap_or_default();
    let kernel = route.get("protocol").and_then(Value::as_str) == Some("kernel");
    let of_address = dst.contains(':') && route.get("table").and_then(Value::as_str) == Some("local");
    kernel && (of_address || dst.starts_with("fe80:") || dst == "ff00::/8" || dst.starts_with("ff02:"))
}

fn retain(list: &mut Value, keep: impl Fn(&Value) -> bool) {
    if let Some(items) = list.as_array_mut() {
        items.retain(keep);
    }
}

fn by_name(list: &Value) -> Value {
    let named = |item: &Value| Some((item.get("ifname")?.as_str()?.to_owned(), item.clone()));
    list.as_array().into_iter().flatten().filter_map(named).collect::<Map<_, _>>().into()
}
