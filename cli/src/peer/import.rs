//! What another end tells of itself: a file for WireGuard, or an element of `peers` from another cluster.

use std::{error::Error, net::IpAddr};

use adit_tunnel::{Encap, KeyFile, keys::SecretKey, parse};
use serde_json::{Map, Value};

use super::public_key;

/// The keys of an element of `peers`.
const KEYS: [&str; 5] = ["endpoint", "publicKey", "presharedKeyFile", "allowedIPs", "keepalive"];

/// What a file tells.
pub struct Imported {
    /// The value of `peers`.
    pub peers: Value,
    /// A secret that was in it, and has no place in `peers`.
    pub preshared: Option<SecretKey>,
    /// What a person has to know besides.
    pub notes: Vec<String>,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Reads a file in either form. A preshared key is kept back for the file `name`.
pub fn import(text: &str, name: Option<&KeyFile>) -> Result<Imported> {
    // A section of the other form has a name.
    match text.trim_start().strip_prefix('[').map(|rest| rest.trim_start().starts_with(char::is_alphabetic)) {
        None if text.trim_start().starts_with('{') => json(text),
        Some(false) => json(text),
        _ => wireguard(text, name),
    }
}

fn json(text: &str) -> Result<Imported> {
    let peers = match serde_json::from_str(text)? {
        Value::Array(peers) => peers,
        Value::Object(mut object) => match object.remove("peers") {
            Some(Value::Array(peers)) => peers,
            Some(_) => return Err("\"peers\" is no list".into()),
            None => vec![Value::Object(object)],
        },
        _ => return Err("is neither a peer nor a list of peers".into()),
    };
    for peer in &peers {
        let peer = peer.as_object().ok_or("a peer is no object")?;
        if let Some(key) = peer.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("a peer has no key {key:?}; it has {}", KEYS.join(", ")).into());
        }
        let text = |key: &str| peer.get(key).and_then(Value::as_str);
        public_key("publicKey", text("publicKey").ok_or("a peer has no publicKey")?)?;
        text("endpoint").map(|text| parse::endpoint("endpoint", text, Encap::Udp.default_port())).transpose()?;
        text("keepalive").map(|text| parse::duration("keepalive", text)).transpose()?;
        for network in peer.get("allowedIPs").and_then(Value::as_array).into_iter().flatten() {
            parse::network("allowedIPs", network.as_str().ok_or("allowedIPs holds something else than networks")?)?;
        }
    }
    Ok(Imported { peers: Value::Array(peers), preshared: None, notes: Vec::new() })
}

/// One `[Peer]` of a file, as far as it was read.
#[derive(Default)]
struct Section {
    entry: Map<String, Value>,
    networks: Vec<Value>,
}

/// A file of `wg` or `wg-quick` (wg(8), CONFIGURATION FILE FORMAT).
fn wireguard(text: &str, name: Option<&KeyFile>) -> Result<Imported> {
    let mut sections: Vec<Section> = Vec::new();
    let mut imported = Imported { peers: Value::Null, preshared: None, notes: Vec::new() };
    let mut in_peer = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if line.starts_with('[') {
            in_peer = line.eq_ignore_ascii_case("[peer]");
            if in_peer {
                sections.push(Section::default());
            } else if !line.eq_ignore_ascii_case("[interface]") {
                return Err(format!("line {number}: {line} is neither [Interface] nor [Peer]").into());
            }
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| format!("line {number}: there is no '=' in it"))?;
        let (key, value) = (key.trim(), value.trim());
        match sections.last_mut().filter(|_| in_peer) {
            None if key.eq_ignore_ascii_case("PrivateKey") => imported.notes.push(
                "the private key in [Interface] is left out: if it is to be the pod's own, put it into a file of its own and name \
                 that as \"privateKeyFile\""
                    .into(),
            ),
            None => {}
            Some(section) => section
                .read(key, value, name, &mut imported.preshared)
                .map_err(|problem| format!("line {number}: {problem}"))?,
        }
    }
    if sections.is_empty() {
        return Err("holds no [Peer]: it takes what the other end would give to anybody who is to reach it".into());
    }
    imported.peers = sections.into_iter().map(Section::finish).collect::<Result<_>>()?;
    Ok(imported)
}

impl Section {
    fn read(
        &mut self,
        key: &str,
        value: &str,
        name: Option<&KeyFile>,
        preshared: &mut Option<SecretKey>,
    ) -> Result<()> {
        match key.to_ascii_lowercase().as_str() {
            "publickey" => self.put("publicKey", public_key(key, value)?.to_string()),
            "presharedkey" => {
                let name = name.ok_or(
                    "the file has a preshared key: say how its file is to be called, by --preshared-key-file NAME",
                )?;
                let secret = SecretKey::from_text(value.as_bytes()).map_err(|problem| format!("{key} {problem}"))?;
                if preshared.replace(secret).is_some() {
                    return Err(
                        "this is a second preshared key: import each of these peers from a file of its own".into()
                    );
                }
                self.put("presharedKeyFile", name.to_string());
            }
            "endpoint" => {
                let endpoint = parse::remote_endpoint(key, value, Encap::Wireguard.default_port())?;
                self.put("endpoint", endpoint.to_string());
            }
            "allowedips" => {
                for network in value.split(',').map(str::trim).filter(|network| !network.is_empty()) {
                    let network = match network.parse::<IpAddr>() {
                        Ok(IpAddr::V4(address)) => format!("{address}/32"),
                        Ok(IpAddr::V6(address)) => format!("{address}/128"),
                        Err(_) => network.to_owned(),
                    };
                    self.networks.push(parse::network(key, &network)?.to_string().into());
                }
            }
            "persistentkeepalive" => match value.parse::<u16>() {
                Ok(0) => {}
                Ok(seconds) => self.put("keepalive", format!("{seconds}s")),
                Err(_) if value.eq_ignore_ascii_case("off") => {}
                Err(_) => return Err(format!("{key}: {value} is no number of seconds").into()),
            },
            _ => return Err(format!("{key} is nothing that a [Peer] has").into()),
        }
        Ok(())
    }

    fn put(&mut self, key: &str, value: String) {
        self.entry.insert(key.into(), value.into());
    }

    fn finish(mut self) -> Result<Value> {
        if !self.entry.contains_key("publicKey") {
            return Err("a [Peer] has no PublicKey".into());
        }
        if !self.networks.is_empty() {
            self.entry.insert("allowedIPs".into(), self.networks.into());
        }
        Ok(Value::Object(self.entry))
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::Effective;
    use serde_json::json;

    use super::*;

    const KEY: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
    const SECRET: &str = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=";

    fn problem(text: &str) -> String {
        import(text, None).map(|imported| imported.peers).unwrap_err().to_string()
    }

    #[test]
    fn a_file_for_wireguard_becomes_peers() {
        let text = format!(
            "[Interface]\nPrivateKey = {SECRET}\nAddress = 10.4.0.1/24\n\n# the office\n[Peer]\nPublicKey={KEY}\n\
             AllowedIPs = 10.4.0.2, fd04::2/128\nallowedips = 10.5.0.0/16 # behind it\nEndpoint = 192.0.2.7:51820\n\
             PersistentKeepalive = 25\n[peer]\nPublicKey = {SECRET}\nPersistentKeepalive = off\n"
        );
        let imported = import(&text, None).unwrap();
        assert_eq!(
            imported.peers,
            json!([
                {
                    "endpoint": "192.0.2.7:51820", "publicKey": KEY,
                    "allowedIPs": ["10.4.0.2/32", "fd04::2/128", "10.5.0.0/16"], "keepalive": "25s",
                },
                { "publicKey": SECRET },
            ])
        );
        assert_eq!(imported.notes.len(), 1);
        assert!(!imported.notes[0].contains(SECRET));
    }

    #[test]
    fn what_is_imported_is_a_configuration() {
        let text = format!("[Peer]\nPublicKey = {KEY}\nAllowedIPs = 10.4.0.2/32\nEndpoint = [2001:db8::7]:7\n");
        let peers = import(&text, None).unwrap().peers;
        let config = json!({ "encap": "wireguard", "peers": peers });
        let intent = Effective::read(config.as_object().unwrap()).unwrap().config.validate().unwrap();
        assert_eq!(intent.peers[0].endpoint.unwrap().to_string(), "[2001:db8::7]:7");
        // Of our own, too.
        let again = import(&peers.to_string(), None).unwrap().peers;
        assert_eq!(import(&json!({ "peers": again }).to_string(), None).unwrap().peers, peers);
        assert_eq!(import(&peers[0].to_string(), None).unwrap().peers, peers);
    }

    #[test]
    fn a_preshared_key_is_kept_back() {
        let text = format!("[Peer]\nPublicKey = {KEY}\nPresharedKey = {SECRET}\n");
        assert!(problem(&text).starts_with("line 3: the file has a preshared key"), "{}", problem(&text));
        let name: KeyFile = "office.psk".parse().unwrap();
        let imported = import(&text, Some(&name)).unwrap();
        assert_eq!(imported.peers, json!([{ "publicKey": KEY, "presharedKeyFile": "office.psk" }]));
        assert_eq!(imported.preshared.unwrap().to_text().trim_end(), SECRET);
        let twice = import(&text.repeat(2), Some(&name)).map(|imported| imported.peers).unwrap_err().to_string();
        assert!(twice.contains("a second preshared key"), "{twice}");
    }

    #[test]
    fn what_cannot_be_imported_is_named_with_its_line() {
        let peer = format!("[Peer]\nPublicKey = {KEY}\n");
        for (text, expected) in [
            (String::new(), "holds no [Peer]"),
            ("[Interface]\nListenPort = 7\n".into(), "holds no [Peer]"),
            ("[Peer]\nAllowedIPs = 10.4.0.2/32\n".into(), "a [Peer] has no PublicKey"),
            ("[Server]\n".into(), "line 1: [Server] is neither"),
            ("[Peer]\nPublicKey = abc\n".into(), "line 2: PublicKey: abc is not the base64 of a key"),
            (format!("{peer}Endpoint = office.example:7\n"), "line 3: Endpoint: office.example:7 is not an IP address"),
            (format!("{peer}AllowedIPs = 10.4.0.2/33\n"), "line 3: AllowedIPs: 10.4.0.2/33 is not a network"),
            (format!("{peer}PersistentKeepalive = soon\n"), "line 3: PersistentKeepalive: soon is no number"),
            (format!("{peer}Colour = red\n"), "line 3: Colour is nothing that a [Peer] has"),
            (format!("{peer}what\n"), "line 3: there is no '='"),
            ("{".into(), "EOF"),
            ("[]7".into(), "trailing"),
            (json!([7]).to_string(), "a peer is no object"),
            (json!({}).to_string(), "a peer has no publicKey"),
            (json!({"peers": 7}).to_string(), "\"peers\" is no list"),
            (json!({"publicKey": KEY, "color": 7}).to_string(), "a peer has no key \"color\""),
            (json!({"publicKey": KEY, "endpoint": "office:7"}).to_string(), "endpoint: office:7 is not an IP"),
            (json!({"publicKey": KEY, "allowedIPs": ["x"]}).to_string(), "allowedIPs: x is not a network"),
        ] {
            let found = problem(&text);
            assert!(found.contains(expected), "{text}\n got: {found}\nwant: {expected}");
        }
    }
}
