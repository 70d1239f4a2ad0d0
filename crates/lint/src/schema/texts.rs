//! What the keys mean, for whoever hovers over them.

/// The key with its path, its description, and what the schema says of it beside its type.
pub(super) type Text = (&'static str, &'static str, &'static str);

pub(super) const COMMON: &[Text] = &[
    ("type", "The plugin.", ""),
    ("name", "The network's name, which the list gives every member.", ""),
    ("cniVersion", "The version of CNI, which the list gives every member.", ""),
    ("capabilities", "What the runtime may fill from the pod's annotation: { \"ips\": true } and the like.", ""),
    ("args", "What the runtime or the pod's annotation adds.", ""),
    ("runtimeConfig", "What the runtime fills in for the capabilities.", ""),
    ("prevResult", "What the list has made so far: the runtime adds it.", ""),
    ("ipam", "Who gives the interface its addresses and routes.", ""),
    ("dns", "Name resolution that replaces what ipam says.", ""),
    ("deviceID", "A device that Multus chose.", ""),
    ("pciBusID", "A device that Multus chose.", ""),
];

pub(super) const LIST: &[Text] = &[
    ("cniVersion", "The version of CNI that the list speaks.", ""),
    ("cniVersions", "Several: the highest that both sides speak counts.", ""),
    ("name", "The network's name; in a NetworkAttachmentDefinition that of the definition where it is left out.", ""),
    ("disableCheck", "The runtime calls no CHECK.", ""),
    ("disableGC", "The runtime calls no GC.", ""),
    ("loadOnlyInlinedPlugins", "Only the plugins of this list, none of files beside it.", ""),
    ("plugins", "Called one after the other; tun comes after the plugin that makes the interface below it.", ""),
];

pub(super) const TUN: &[Text] = &[
    (
        "ifName",
        "The interface's name in the pod, and the key of its settings in the pod's annotation.",
        r#"{"default": "tun", "minLength": 1, "maxLength": 15, "pattern": "^[^/:\\s]+$", "not": {"enum": ["ips", "mac", "labels"]}}"#,
    ),
    (
        "encap",
        "What is on the wire: Adit's own format over UDP, the WireGuard protocol, or VXLAN, which the kernel carries alone.",
        r#"{"enum": ["udp", "wireguard", "vxlan"]}"#,
    ),
    ("engine", "Who carries the packets.", r#"{"enum": ["auto", "agent", "kernel"], "default": "auto"}"#),
    (
        "encryption",
        "udp is encrypted unless \"none\" is written, which trusts the network between the pods; wireguard always is; vxlan never, and needs \"none\" written.",
        r#"{"enum": ["noise", "none"], "default": "noise"}"#,
    ),
    ("underlay", "Whose network the outer packets travel in.", r#"{"enum": ["pod", "host"], "default": "pod"}"#),
    ("device", "Outer interface in the pod; default: the chain's own.", ""),
    (
        "local",
        "Outer source, address[:port]; 0.0.0.0:6091 chooses the port alone. Default: the first address of device, port 6090 (wireguard 51820, vxlan 4790).",
        r#"{"examples": ["0.0.0.0:6091"]}"#,
    ),
    (
        "remote",
        "Outer address of the one peer, address[:port], IPv6 with a port as [a]:p. It gets everything that is routed to the interface.",
        r#"{"examples": ["10.20.1.200"]}"#,
    ),
    ("peers", "Several peers, instead of remote: the longest prefix in allowedIPs decides where a packet goes.", ""),
    (
        "peers[].endpoint",
        "Outer address of the peer, address[:port]. With encryption it may be left out: then it is learned.",
        "",
    ),
    ("peers[].publicKey", "The peer's public key, base64; required with encryption.", ""),
    ("peers[].presharedKeyFile", "Name of a file in /etc/adit/keys/<the pod's namespace>/.", ""),
    (
        "peers[].allowedIPs",
        "Networks behind the peer: where packets go, and (but for vxlan) what it may send from.",
        r#"{"examples": [["10.4.0.2/32"]]}"#,
    ),
    (
        "peers[].keepalive",
        "Something is sent at least this often.",
        r#"{"pattern": "^[0-9]+(ms|s|m)$", "examples": ["25s"]}"#,
    ),
    (
        "publicKey",
        "The one peer's public key, base64, which adit key show prints on its node; required with encryption.",
        "",
    ),
    (
        "presharedKeyFile",
        "Name of a file in /etc/adit/keys/<the pod's namespace>/ with a secret that both ends have.",
        "",
    ),
    (
        "keepalive",
        "Something is sent at least this often, for firewalls that forget.",
        r#"{"pattern": "^[0-9]+(ms|s|m)$", "examples": ["25s"]}"#,
    ),
    (
        "privateKeyFile",
        "Name of a file in /etc/adit/keys/<the pod's namespace>/ with this end's private key. Without it the tunnel has a key of its own.",
        r#"{"pattern": "^[^./][^/]*$"}"#,
    ),
    (
        "mtu",
        "Bytes; default: the outer route's less what the encapsulation adds.",
        r#"{"minimum": 576, "maximum": 65535}"#,
    ),
    ("vni", "vxlan: network identifier, the same at both ends.", r#"{"minimum": 1, "maximum": 16777215}"#),
    ("ttl", "vxlan: of outer packets; default: the pod's.", r#"{"minimum": 1, "maximum": 255}"#),
    (
        "tos",
        "vxlan: of outer packets, a multiple of 4.",
        r#"{"type": "integer", "minimum": 0, "maximum": 252, "multipleOf": 4, "default": 0}"#,
    ),
    (
        "shortcut",
        "udp: between pods of one node packets go straight from one TUN to the other, if both ends allow it.",
        r#"{"default": false}"#,
    ),
    (
        "fec",
        "udp: how lost packets are recovered: as much as the losses ask for (auto), not at all (off), or always the same (fixed, with redundancy and window).",
        r#"{"type": "object", "additionalProperties": false, "properties": {"mode": {"enum": ["auto", "off", "fixed"], "default": "auto"}, "maxOverhead": {"type": "number", "minimum": 0.01, "maximum": 1, "default": 0.25}, "target": {"type": "number", "minimum": 1e-8, "maximum": 0.1, "default": 1e-5}, "maxRecoveryDelay": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$", "default": "50ms"}, "redundancy": {"type": "number", "minimum": 0.001, "maximum": 1, "default": 0.1}, "window": {"type": "integer", "minimum": 1, "maximum": 512, "default": 128}}}"#,
    ),
    (
        "probe",
        "udp: how often peers are asked for signs of life (default: by need), after how long without any they are down, and whether the MTU follows the path.",
        r#"{"type": "object", "additionalProperties": false, "properties": {"interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}, "timeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}, "mtu": {"type": "boolean", "default": true}}}"#,
    ),
    (
        "waitReady",
        "udp, wireguard: how long ADD waits for every peer to answer, such as \"10s\"; then it fails.",
        r#"{"pattern": "^[0-9]+(ms|s|m)$"}"#,
    ),
    ("checkPeer", "udp, wireguard: CHECK fails while a peer does not answer.", r#"{"default": false}"#),
    (
        "overrides",
        "Keys that a pod's annotation may set through \"cni-args\": { \"tun\": { … } }.",
        r#"{"default": ["ips"], "items": {"type": "string"}}"#,
    ),
    ("ipam", "Any address plugin: addresses and routes of the tunnel's interface.", ""),
    ("capabilities", "What the runtime may fill. Not \"ips\": those are the addresses of the interface below.", ""),
];

pub(super) const BRIDGE: &[Text] = &[
    ("bridge", "The bridge on the node; made if it is missing.", r#"{"default": "cni0", "maxLength": 15}"#),
    (
        "isGateway",
        "The gateway of each address (default: first of its subnet) is put on the bridge, and the node forwards.",
        r#"{"default": false}"#,
    ),
    ("isDefaultGateway", "Also a default route through it.", r#"{"default": false}"#),
    ("forceAddress", "Replace another address that the bridge has.", r#"{"default": false}"#),
    (
        "mtu",
        "Bytes: of the bridge when it is made, and of both ends of the pod's link; 0 is the kernel's.",
        r#"{"maximum": 65535}"#,
    ),
    ("hairpinMode", "Frames may leave through the port that they came from.", r#"{"default": false}"#),
    ("promiscMode", "The bridge takes every frame.", r#"{"default": false}"#),
    ("enabledad", "Probe IPv6 addresses for duplicates before they are used.", r#"{"default": false}"#),
    (
        "addressConflictDetection",
        "Probe IPv4 addresses too (0.7 s); one that another host has fails the ADD.",
        r#"{"default": false}"#,
    ),
    ("ipMasq", "What a pod sends beyond its subnet leaves with the node's address.", r#"{"default": false}"#),
    ("ipMasqBackend", "Default: nftables.", r#"{"enum": ["nftables", "iptables"]}"#),
    ("vlan", "The pod's untagged frames belong to this VLAN.", r#"{"minimum": 0, "maximum": 4094}"#),
    ("vlanTrunk", "VLANs whose tagged frames the pod gets and sends.", ""),
    ("vlanTrunk[].id", "One VLAN.", r#"{"minimum": 1, "maximum": 4094}"#),
    ("vlanTrunk[].minID", "The first of several.", r#"{"minimum": 1, "maximum": 4094}"#),
    ("vlanTrunk[].maxID", "The last of several.", r#"{"minimum": 1, "maximum": 4094}"#),
    ("preserveDefaultVlan", "The port also keeps the bridge's default VLAN.", r#"{"default": false}"#),
    ("macspoofchk", "Only frames with the pod's own MAC address may come from its port.", r#"{"default": false}"#),
    ("portIsolation", "Isolated ports of a bridge do not reach each other.", r#"{"default": false}"#),
    ("disableContainerInterface", "The pod's interface stays down; not together with ipam.", r#"{"default": false}"#),
];

pub(super) const MACVLAN: &[Text] = &[
    ("master", "The interface below; default: that of the default route.", r#"{"maxLength": 15}"#),
    (
        "mode",
        "Which neighbours on the same master are reached, and how.",
        r#"{"enum": ["bridge", "private", "vepa", "passthru"], "default": "bridge"}"#,
    ),
    ("mtu", "Bytes, at most the master's; 0 is the master's.", r#"{"minimum": 0, "maximum": 65535}"#),
    ("mac", "Address of the pod's interface; default: the kernel chooses.", r#"{"examples": ["02:00:00:00:00:01"]}"#),
    ("bcqueuelen", "Queue for broadcast and multicast, packets; 0 is the kernel's.", ""),
    ("linkInContainer", "master is in the pod.", r#"{"default": false}"#),
    (
        "enabledad",
        "Wait until IPv6 addresses are probed for duplicates; without it they are usable at once, and the kernel probes meanwhile.",
        r#"{"default": false}"#,
    ),
    (
        "addressConflictDetection",
        "Probe IPv4 addresses too (0.7 s); one that another host has fails the ADD.",
        r#"{"default": false}"#,
    ),
];

pub(super) const STATIC: &[Text] = &[
    (
        "addresses",
        "The pod's addresses; what its annotation asks for replaces them (capability ips) or stands beside them.",
        "",
    ),
    ("addresses[].address", "With its prefix length.", r#"{"pattern": "/[0-9]+$", "examples": ["10.10.1.200/24"]}"#),
    ("addresses[].gateway", "Without a prefix length.", r#"{"examples": ["10.10.1.1"]}"#),
    ("routes", "Routes by the interface; one without gw uses the gateway of its family.", ""),
    ("routes[].dst", "Destination with its prefix length.", r#"{"pattern": "/[0-9]+$", "examples": ["10.20.0.0/16"]}"#),
    ("routes[].gw", "Next hop.", r#"{"examples": ["10.10.1.1"]}"#),
    ("routes[].mtu", "Bytes.", ""),
    ("routes[].advmss", "Bytes.", ""),
    ("routes[].priority", "Metric: the lowest wins.", ""),
    ("routes[].table", "Routing table.", ""),
    ("routes[].scope", "As the kernel numbers it: 0 global, 253 link, 254 host.", ""),
    ("dns", "Name resolution in the pod.", ""),
    ("dns.domain", "Local domain.", ""),
    ("dns.nameservers", "Servers, in the order of preference.", ""),
    ("dns.options", "Options of the resolver.", ""),
    ("dns.search", "Search domains.", ""),
];
