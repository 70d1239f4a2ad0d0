//! A network as a file defines it: a list of plugins, each object with its places.

use std::rc::Rc;

use adit_cni::{NetworkName, Version, list::NetworkList};
use serde_json::{Map, Value, json};

use crate::{
    finding::{Code, Findings, Place},
    node::{Kind, Node},
};

/// The plugins that lint knows. Installed beside others they may have a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginKind {
    Bridge,
    Macvlan,
    Tun,
    Other(String),
}

impl PluginKind {
    fn of(name: &str) -> Self {
        match name.strip_prefix("adit-").unwrap_or(name) {
            "bridge" => Self::Bridge,
            "macvlan" => Self::Macvlan,
            "tun" => Self::Tun,
            _ => Self::Other(name.to_owned()),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Tun => "tun",
            Self::Other(name) => name,
        }
    }
}

/// One member of the list.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub node: Node,
    /// As the plugin reads it: with the list's name and version.
    pub raw: Map<String, Value>,
    pub kind: PluginKind,
}

impl Plugin {
    pub fn ipam(&self) -> Option<&Node> {
        self.node.get_any_case("ipam").filter(|ipam| ipam.is_map())
    }

    /// The address plugin's name, without the prefix that ours may have.
    pub fn ipam_type(&self) -> Option<&str> {
        let name = self.ipam()?.get_any_case("type")?.text()?;
        Some(if name == "adit-static" { "static" } else { name })
    }

    /// Whether it has declared the capability.
    pub fn has_capability(&self, name: &str) -> bool {
        let declared = self.node.get_any_case("capabilities").and_then(|all| all.get(name));
        matches!(declared.map(|node| &node.kind), Some(Kind::Bool(true)))
    }
}

/// A list of plugins, whatever it was written in.
#[derive(Debug)]
pub(crate) struct Network {
    pub file: usize,
    /// Where the definition is named, else where the list begins.
    pub at: usize,
    /// Of the definition; without one there is only the list.
    pub definition: Option<(String, String)>,
    pub plugins: Vec<Plugin>,
    pub version: Version,
    pub is_list: bool,
    /// The whole document.
    pub root: Node,
}

impl Network {
    pub fn place(&self, at: usize) -> Place {
        Place { file: self.file, at }
    }

    /// How messages name it.
    pub fn label(&self) -> String {
        match &self.definition {
            Some((namespace, name)) => format!("{namespace}/{name}"),
            None => "this list".to_owned(),
        }
    }

    pub fn tunnels(&self) -> impl Iterator<Item = &Plugin> {
        self.plugins.iter().filter(|plugin| plugin.kind == PluginKind::Tun)
    }
}

/// Reads the list at `root`, as libcni does. `None`: it is none, and the findings say why.
pub(crate) fn read(
    root: &Node,
    file: usize,
    at: usize,
    definition: Option<(String, String)>,
    findings: &mut Findings,
) -> Option<Rc<Network>> {
    let place = |at: usize| Place { file, at };
    let before = findings.len();
    if !root.is_map() {
        findings.error(
            place(root.at),
            Code::List,
            format!("the configuration is {}, not an object", root.kind_name()),
            "write { … }",
        );
        return None;
    }
    let is_list = root.member("plugins").is_some();
    let members = members(root, &place, findings)?;
    members.iter().enumerate().for_each(|(index, member)| check_member(index, member, &place, findings));
    // With a member that cannot be read, nothing can be said of those beside it.
    let has_members = findings.len() == before;
    for capabilities in members.iter().filter_map(|member| member.get_any_case("capabilities")) {
        check_capabilities(capabilities, &place, findings);
    }
    check_flags(root, &place, findings);
    check_name(root, definition.is_some(), &place, findings);
    check_version(root, &place, findings);
    if findings.len() == before {
        check_as_libcni(root, is_list, &place, findings);
    }
    has_members.then(|| {
        let list = parsed(root, is_list).ok();
        let version = list.map_or(Version::LATEST, |list| list.version);
        let name = root.get_any_case("name").and_then(Node::text).map(str::to_owned);
        let name =
            name.filter(|name| !name.is_empty()).or_else(|| Some(definition.as_ref()?.1.clone())).unwrap_or_default();
        let plugins = members
            .iter()
            .map(|member| {
                let mut raw = member.to_object();
                raw.insert("name".into(), json!(name));
                raw.insert("cniVersion".into(), json!(version.as_str()));
                let kind = PluginKind::of(member.get_any_case("type").and_then(Node::text).unwrap_or_default());
                Plugin { node: (*member).clone(), raw, kind }
            })
            .collect();
        Rc::new(Network { file, at, definition, plugins, version, is_list, root: root.clone() })
    })
}

/// The objects of the plugins: of a list its members, else the object itself.
fn members<'a>(root: &'a Node, place: &impl Fn(usize) -> Place, findings: &mut Findings) -> Option<Vec<&'a Node>> {
    const LIKE: &str = "write \"plugins\": [{ \"type\": \"bridge\", … }, …]";
    match root.member("plugins").map(|member| &member.value) {
        None if root.get_any_case("type").is_some() => Some(vec![root]),
        None => {
            findings.error(place(root.at), Code::List, "the configuration has neither \"plugins\" nor \"type\"", LIKE);
            None
        }
        Some(plugins) if plugins.items().is_empty() => {
            let is = if matches!(plugins.kind, Kind::List(_)) { "an empty list" } else { plugins.kind_name() };
            findings.error(place(plugins.at), Code::List, format!("\"plugins\" is {is}"), LIKE);
            None
        }
        Some(plugins) => Some(plugins.items().iter().collect()),
    }
}

fn check_member(index: usize, member: &Node, place: &impl Fn(usize) -> Place, findings: &mut Findings) {
    let mut wrong = |at: usize, message: String, remedy: &str| findings.error(place(at), Code::List, message, remedy);
    if !member.is_map() {
        let message = format!("plugins[{index}] is {}, not an object", member.kind_name());
        return wrong(member.at, message, "write { \"type\": … }");
    }
    let Some(node) = member.get_any_case("type") else {
        let message = format!("plugins[{index}] has no \"type\"");
        return wrong(member.at, message, "write the plugin's name, such as \"type\": \"bridge\"");
    };
    match node.text() {
        None => {
            let message = format!("\"type\" is {}, not a text", node.kind_name());
            wrong(node.at, message, "write the plugin's name in quotes");
        }
        Some(name) if name.is_empty() || name.contains('/') => {
            let message = format!("\"type\" {name:?} is no plugin's name");
            wrong(node.at, message, "write the file name alone of a program in the CNI directory");
        }
        Some(_) => {}
    }
}

fn check_flags(root: &Node, place: &impl Fn(usize) -> Place, findings: &mut Findings) {
    for key in ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
        let Some(node) = root.get(key) else { continue };
        let is_word = |text: &str| ["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word));
        if !node.text().is_some_and(is_word) && !matches!(node.kind, Kind::Bool(_)) {
            let message = format!("{key:?} is neither true nor false");
            findings.error(place(node.at), Code::List, message, "write true or false");
        }
    }
}

fn check_capabilities(node: &Node, place: &impl Fn(usize) -> Place, findings: &mut Findings) {
    if !node.is_map() {
        findings.error(
            place(node.at),
            Code::List,
            format!("\"capabilities\" is {}, not an object", node.kind_name()),
            "write { \"ips\": true }",
        );
    }
    for member in node.members() {
        if !matches!(member.value.kind, Kind::Bool(_) | Kind::Null) {
            findings.error(
                place(member.value.at),
                Code::List,
                format!("capabilities.{} is {}, not true or false", member.key, member.value.kind_name()),
                "write true, without quotes",
            );
        }
    }
}

fn check_name(root: &Node, is_definition: bool, place: &impl Fn(usize) -> Place, findings: &mut Findings) {
    match root.get_any_case("name") {
        None if is_definition => {}
        None => findings.error(
            place(root.at),
            Code::List,
            "the list has no \"name\"",
            "give it one: letters, digits, '.', '_' and '-'",
        ),
        Some(node) => match node.text() {
            None => findings.error(
                place(node.at),
                Code::List,
                format!("\"name\" is {}, not a text", node.kind_name()),
                "write it in quotes",
            ),
            // Multus gives an empty one the definition's.
            Some("") if is_definition => {}
            Some(name) => {
                if NetworkName::try_from(name).is_err() {
                    findings.error(
                        place(node.at),
                        Code::List,
                        format!("\"name\" {name:?} is no name of a network"),
                        "write letters, digits, '.', '_' and '-', beginning with a letter or digit",
                    );
                }
            }
        },
    }
}

fn check_version(root: &Node, place: &impl Fn(usize) -> Place, findings: &mut Findings) {
    let Some(node) = root.get_any_case("cniVersion") else { return };
    let spoken: Vec<&str> = Version::SUPPORTED.iter().map(|version| version.as_str()).collect();
    let remedy = format!("write \"1.1.0\", or another of {}", spoken.join(", "));
    match node.text() {
        None => findings.error(
            place(node.at),
            Code::List,
            format!("\"cniVersion\" is {}, not a text", node.kind_name()),
            remedy,
        ),
        Some(text) if text.parse::<Version>().is_err() && root.get_any_case("cniVersions").is_none() => {
            findings.error(
                place(node.at),
                Code::List,
                format!("\"cniVersion\" {text:?} is no version that is spoken"),
                remedy,
            );
        }
        Some(_) => {}
    }
}

/// Whatever else libcni refuses.
fn check_as_libcni(root: &Node, is_list: bool, place: &impl Fn(usize) -> Place, findings: &mut Findings) {
    if let Err(why) = parsed(root, is_list) {
        let text = why.to_string();
        let named = root.members().iter().find(|member| text.contains(&member.key));
        let at = named.map_or(root.at, |member| member.value.at);
        findings.error(place(at), Code::List, text, "libcni refuses the list: mend it");
    }
}

fn parsed(root: &Node, is_list: bool) -> Result<NetworkList, adit_cni::list::ListError> {
    let mut document = root.to_object();
    let name = document.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    if name.is_none() {
        document.insert("name".into(), json!("unnamed"));
    }
    let text = Value::Object(document).to_string();
    if is_list { NetworkList::parse(text.as_bytes()) } else { NetworkList::from_conf(text.as_bytes()) }
}
