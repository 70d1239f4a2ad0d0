//! nftables: what our transactions make, as `nft` and this crate read it.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use adit_net::{
    MacAddress, Nftables,
    nftables::{
        Batch, ChainKind, Element,
        Expression::{
            Accept, Counter, Drop, Goto, InNetwork, InSet, Is, IsNot, Jump, Masquerade, NotInNetwork, NotInSet,
            Protocol, Return,
        },
        Family, Field, Hook, HookPoint, KeyType, KeyValue, NetworkProtocol, Rule, Set, Table,
    },
};
use nix::errno::Errno;
use serde_json::Value;

use crate::{
    Test,
    space::{Space, run},
};

pub const TESTS: &[Test] = &[
    ("nft_reads_our_ruleset_as_the_one_it_makes_itself", nft_reads_our_ruleset),
    ("elements_are_read_as_they_were_added", elements_are_read_back),
    ("rules_are_listed_found_and_deleted", rules_are_listed),
    ("a_thousand_elements_come_and_go_in_one_transaction_each", thousand_elements),
    ("a_transaction_may_be_larger_than_a_socket_has_room_for", large_transaction),
    ("a_transaction_that_fails_changes_nothing", failing_transaction),
    ("an_element_keeps_its_comment_until_it_is_replaced", replaced_elements),
    ("what_is_not_there_is_discarded_without_complaint", discarded_elements),
    ("a_reader_sees_all_of_a_transaction_or_nothing", concurrent_writers),
    ("of_writers_who_read_the_same_generation_one_wins", generations),
    ("a_set_is_listed_whole_while_it_grows", listed_while_growing),
    ("what_is_not_there_is_an_empty_list", absent),
];

impl Space {
    fn nftables(&self) -> Nftables {
        Nftables::open_in(&self.netns).unwrap()
    }

    /// What `nft` prints in this namespace.
    fn nft(&self, arguments: &str) -> String {
        let mut all = vec!["netns", "exec", &self.name, "nft"];
        all.extend(arguments.split_whitespace());
        run("ip", &all)
    }

    /// Makes `nft` load a ruleset.
    fn load(&self, ruleset: &str) {
        let arguments = ["netns", "exec", &self.name, "nft", "-f", "-"];
        let mut child = Command::new("ip").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// The ruleset as `nft` reads it, without the numbers that the kernel gave.
    fn ruleset(&self) -> Value {
        let mut ruleset: Value = serde_json::from_str(&self.nft("-j list ruleset")).unwrap();
        for object in ruleset["nftables"].as_array_mut().unwrap() {
            for content in object.as_object_mut().unwrap().values_mut() {
                content.as_object_mut().unwrap().remove("handle");
            }
        }
        ruleset
    }
}

fn ipv4(text: &str) -> KeyValue {
    KeyValue::Ipv4(text.parse().unwrap())
}

fn ipv6(text: &str) -> KeyValue {
    KeyValue::Ipv6(text.parse().unwrap())
}

/// 10.0.0.0 and `number`.
fn numbered(number: u32) -> KeyValue {
    KeyValue::Ipv4(Ipv4Addr::from(0x0a00_0000 + number))
}

fn interface(name: &str) -> KeyValue {
    KeyValue::IfName(name.into())
}

fn ether(last: u8) -> KeyValue {
    KeyValue::Ether(MacAddress([2, 0, 0, 0, 0, last]))
}

fn element(key: impl Into<Vec<KeyValue>>, end: Option<Vec<KeyValue>>, comment: &str) -> Element {
    let comment = Some(comment.to_owned()).filter(|text| !text.is_empty());
    Element { key: key.into(), key_end: end, comment }
}

fn set(name: &str, key: &[KeyType], interval: bool) -> Set {
    Set { name: name.into(), key: key.into(), interval }
}

fn table() -> Table {
    Table::new(Family::Inet, "trial")
}

/// A batch that makes the table and a set of IPv4 addresses, `members`.
fn with_set() -> Batch {
    let mut batch = Batch::new();
    batch.add_table(&table()).add_set(&table(), &set("members", &[KeyType::Ipv4Addr], false));
    batch
}

fn in_set(fields: &[Field], name: &str) -> adit_net::nftables::Expression {
    InSet(fields.into(), name.into())
}

fn masquerade_in(batch: &mut Batch) {
    use Field::{Ipv4Destination, Ipv4Source, Ipv6Destination, Ipv6Source, OutputInterface};
    let table = Table::new(Family::Inet, "outward");
    let postrouting = Hook { kind: ChainKind::Nat, hook: HookPoint::Postrouting, priority: 100 };
    batch.add_table(&table).add_chain(&table, "checks", None).add_chain(&table, "postrouting", Some(&postrouting));
    batch.add_set(&table, &set("pods4", &[KeyType::Ipv4Addr], false));
    batch.add_set(&table, &set("pods6", &[KeyType::Ipv6Addr], false));
    batch.add_set(&table, &set("nets4", &[KeyType::Ipv4Addr], true));
    batch.add_set(&table, &set("local4", &[KeyType::Ipv4Addr, KeyType::Ipv4Addr], true));
    batch.add_set(&table, &set("local6", &[KeyType::Ipv6Addr, KeyType::Ipv6Addr], true));
    batch.add_elements(&table, "pods4", &[element([ipv4("10.1.0.2")], None, "net/pod/eth0")]);
    batch.add_elements(&table, "pods6", &[element([ipv6("fd00::2")], None, "")]);
    let interval = |from, to, comment| element([ipv4(from)], Some(vec![ipv4(to)]), comment);
    let nets = [
        interval("10.0.0.0", "10.0.0.9", ""),
        interval("10.0.0.10", "10.0.0.10", "one"),
        interval("255.255.0.0", "255.255.255.255", ""),
    ];
    batch.add_elements(&table, "nets4", &nets);
    let local = [ipv4("10.1.0.2"), ipv4("10.1.0.0")];
    let local_end = vec![ipv4("10.1.0.2"), ipv4("10.1.255.255")];
    batch.add_elements(&table, "local4", &[element(local, Some(local_end), "net/pod/eth0")]);
    for (expressions, comment) in [
        (vec![in_set(&[Ipv4Source, Ipv4Destination], "local4"), Return], Some("local")),
        (vec![in_set(&[Ipv4Source], "pods4"), Counter, Masquerade], None),
        (vec![in_set(&[Ipv6Source, Ipv6Destination], "local6"), Return], None),
        (vec![in_set(&[Ipv6Source], "pods6"), Masquerade], None),
        (
            vec![
                Is(Ipv4Source, ipv4("10.77.0.6")),
                NotInNetwork(Ipv4Destination, "10.77.0.0/16".parse().unwrap()),
                Masquerade,
            ],
            Some("a, net: b"),
        ),
    ] {
        batch.add_rule(&table, "checks", &Rule { expressions, comment: comment.map(Into::into) });
    }
    let to = |field, network: &str| InNetwork(field, network.parse().unwrap());
    for expressions in [
        vec![to(Ipv4Destination, "224.0.0.0/4"), Return],
        vec![to(Ipv6Destination, "ff00::/8"), Return],
        vec![to(Ipv6Destination, "fd00::1/61"), Return],
        vec![to(Ipv6Destination, "fd00::1/128"), Return],
        vec![Protocol(NetworkProtocol::Ipv4), NotInSet(vec![Ipv4Source], "nets4".into()), Jump("checks".into())],
        vec![Is(OutputInterface, interface("eth0")), Accept],
        vec![Goto("checks".into())],
    ] {
        batch.add_rule(&table, "postrouting", &Rule::new(expressions));
    }
}

fn guard_in(batch: &mut Batch) {
    use Field::{EtherDestination, EtherSource, InputInterface, Ipv4Source};
    let table = Table::new(Family::Bridge, "guard");
    let prerouting = Hook { kind: ChainKind::Filter, hook: HookPoint::Prerouting, priority: -300 };
    batch.add_table(&table).add_chain(&table, "prerouting", Some(&prerouting));
    batch.add_set(&table, &set("pairs", &[KeyType::IfName, KeyType::EtherAddr], false));
    batch.add_set(&table, &set("guarded", &[KeyType::IfName], false));
    batch.add_set(&table, &set("macs", &[KeyType::EtherAddr], false));
    batch.add_elements(&table, "pairs", &[element([interface("veth0"), ether(1)], None, "net/pod/eth0")]);
    batch.add_elements(&table, "guarded", &[element([interface("veth0")], None, "")]);
    batch.add_elements(&table, "macs", &[element([ether(9)], None, "")]);
    for expressions in [
        vec![in_set(&[InputInterface, EtherSource], "pairs"), Return],
        vec![in_set(&[InputInterface], "guarded"), Drop],
        vec![
            IsNot(EtherDestination, KeyValue::Ether(MacAddress::BROADCAST)),
            in_set(&[EtherSource], "macs"),
            Is(Ipv4Source, ipv4("10.0.0.1")),
            Accept,
        ],
    ] {
        batch.add_rule(&table, "prerouting", &Rule::new(expressions));
    }
}

/// The same, written for `nft`.
const RULESET: &str = r#"
table inet outward {
    set pods4 { type ipv4_addr; elements = { 10.1.0.2 comment "net/pod/eth0" } }
    set pods6 { type ipv6_addr; elements = { fd00::2 } }
    set nets4 {
        type ipv4_addr; flags interval
        elements = { 10.0.0.0-10.0.0.9, 10.0.0.10 comment "one", 255.255.0.0/16 }
    }
    set local4 {
        type ipv4_addr . ipv4_addr; flags interval
        elements = { 10.1.0.2 . 10.1.0.0/16 comment "net/pod/eth0" }
    }
    set local6 { type ipv6_addr . ipv6_addr; flags interval; }
    chain checks {
        ip saddr . ip daddr @local4 return comment "local"
        ip saddr @pods4 counter masquerade
        ip6 saddr . ip6 daddr @local6 return
        ip6 saddr @pods6 masquerade
        ip saddr 10.77.0.6 ip daddr != 10.77.0.0/16 masquerade comment "a, net: b"
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip daddr 224.0.0.0/4 return
        ip6 daddr ff00::/8 return
        ip6 daddr fd00::/61 return
        ip6 daddr fd00::1 return
        ip saddr != @nets4 jump checks
        oifname "eth0" accept
        goto checks
    }
}
table bridge guard {
    set pairs { type ifname . ether_addr; elements = { veth0 . 02:00:00:00:00:01 comment "net/pod/eth0" } }
    set guarded { type ifname; elements = { veth0 } }
    set macs { type ether_addr; elements = { 02:00:00:00:00:09 } }
    chain prerouting {
        type filter hook prerouting priority -300
        iifname . ether saddr @pairs return
        iifname @guarded drop
        ether daddr != ff:ff:ff:ff:ff:ff ether saddr @macs ip saddr 10.0.0.1 accept
    }
}
"#;

fn nft_reads_our_ruleset(home: &Space) {
    let mut batch = Batch::new();
    masquerade_in(&mut batch);
    guard_in(&mut batch);
    home.nftables().apply(&batch).unwrap();
    let theirs = Space::new("theirs");
    theirs.load(RULESET);
    let (ours, theirs) = (home.ruleset(), theirs.ruleset());
    // Object by object: the whole is too long for anybody to see a difference in it.
    let objects = |ruleset: &Value| ruleset["nftables"].as_array().unwrap().clone();
    let (ours, theirs) = (objects(&ours), objects(&theirs));
    assert_eq!(ours.len(), theirs.len());
    for (one, other) in ours.iter().zip(&theirs) {
        assert_eq!(one, other);
    }
}

fn elements_are_read_back(home: &Space) {
    let table = table();
    let pair = |from: &str, to: &str| vec![ipv4(from), ipv4(to)];
    let sets = [
        (set("four", &[KeyType::Ipv4Addr], false), vec![element([ipv4("10.0.0.1")], None, "a b, \"c\"")]),
        (set("six", &[KeyType::Ipv6Addr], false), vec![element([ipv6("fd00::1")], None, "")]),
        (set("name", &[KeyType::IfName], false), vec![element([interface("fifteen-bytes-x")], None, "n")]),
        (set("mac", &[KeyType::EtherAddr], false), vec![element([ether(1)], None, &"x".repeat(127))]),
        (
            set("all", &[KeyType::IfName, KeyType::EtherAddr, KeyType::Ipv6Addr, KeyType::Ipv4Addr], false),
            vec![element([interface("eth0"), ether(1), ipv6("fd00::1"), ipv4("10.0.0.1")], None, "ä")],
        ),
        (
            set("interval", &[KeyType::Ipv4Addr], true),
            vec![
                element([ipv4("0.0.0.0")], Some(vec![ipv4("0.0.0.0")]), "first"),
                element([ipv4("10.0.0.0")], Some(vec![ipv4("10.0.0.255")]), ""),
                element([ipv4("10.0.1.0")], Some(vec![ipv4("10.0.1.255")]), "beside"),
                element([ipv4("255.0.0.0")], Some(vec![ipv4("255.255.255.255")]), "last"),
            ],
        ),
        (
            set("pairs", &[KeyType::Ipv4Addr, KeyType::Ipv4Addr], true),
            vec![
                element(pair("10.0.0.1", "10.0.0.2"), None, "one"),
                element(pair("10.0.0.1", "10.1.0.0"), Some(pair("10.0.0.1", "10.1.255.255")), "many"),
            ],
        ),
    ];
    let mut batch = Batch::new();
    batch.add_table(&table);
    for (set, elements) in &sets {
        batch.create_set(&table, set).add_elements(&table, &set.name, elements);
    }
    home.nftables().apply(&batch).unwrap();
    for (set, elements) in &sets {
        let mut found = home.nftables().elements(&table, &set.name).unwrap();
        found.sort_by_key(|element| format!("{element}"));
        assert_eq!(found, *elements, "set {}", set.name);
    }

    let mut batch = Batch::new();
    for (set, elements) in &sets {
        batch.delete_elements(&table, &set.name, elements);
    }
    home.nftables().apply(&batch).unwrap();
    for (set, _) in &sets {
        assert_eq!(home.nftables().elements(&table, &set.name).unwrap(), []);
    }
    assert!(home.nft("list ruleset").lines().all(|line| !line.contains("elements")));
}

fn rules_are_listed(home: &Space) {
    let table = table();
    let nftables = home.nftables();
    let mut batch = with_set();
    batch.add_chain(&table, "a", None).add_chain(&table, "b", None);
    let commented = |expressions: Vec<_>, comment: &str| Rule { expressions, comment: Some(comment.into()) };
    batch.add_rule(&table, "a", &commented(vec![in_set(&[Field::Ipv4Source], "members"), Jump("b".into())], "first"));
    batch.add_rule(&table, "a", &Rule::new([Goto("b".into())]));
    batch.add_rule(&table, "b", &commented(vec![Counter, Accept], "third"));
    nftables.apply(&batch).unwrap();
    // A table of the same name in another family is another one.
    home.nft("add table ip trial");
    home.nft("add chain ip trial other");

    assert_eq!(nftables.chains(&table).unwrap(), ["a", "b"]);
    assert_eq!(nftables.chains(&Table::new(Family::Ipv4, "trial")).unwrap(), ["other"]);
    let all = nftables.rules(&table, None).unwrap();
    let seen: Vec<_> =
        all.iter().map(|rule| (rule.chain.as_str(), rule.comment.as_deref(), rule.jump.as_deref())).collect();
    assert_eq!(seen, [("a", Some("first"), Some("b")), ("a", None, Some("b")), ("b", Some("third"), None)]);
    assert_eq!(nftables.rules(&table, Some("b")).unwrap(), all[2..]);
    let shown = home.nft("-a list table inet trial");
    assert!(shown.contains(&format!("comment \"first\" # handle {}", all[0].handle)), "{shown}");

    let busy = nftables.apply(Batch::new().delete_chain(&table, "b")).unwrap_err();
    assert_eq!(busy.errno(), Some(Errno::EBUSY));
    assert!(busy.to_string().starts_with("delete chain b of table inet trial: "), "{busy}");
    nftables.apply(Batch::new().delete_rule(&table, "a", all[0].handle)).unwrap();
    assert_eq!(nftables.rules(&table, Some("a")).unwrap(), all[1..2]);
    let gone = nftables.apply(Batch::new().delete_rule(&table, "a", all[0].handle)).unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let mut batch = Batch::new();
    batch.flush_chain(&table, "a").delete_chain(&table, "a").flush_chain(&table, "b").delete_chain(&table, "b");
    nftables.apply(batch.delete_set(&table, "members")).unwrap();
    assert_eq!(nftables.chains(&table).unwrap(), Vec::<String>::new());
    nftables.apply(Batch::new().delete_table(&table)).unwrap();
    assert!(!home.nft("list tables").contains("inet"));
}

fn thousand_elements(home: &Space) {
    let nftables = home.nftables();
    let elements: Vec<Element> =
        (0..1000).map(|number| element([numbered(number)], None, &format!("{number:0>100}"))).collect();
    let before = nftables.generation().unwrap();
    nftables.apply(with_set().add_elements(&table(), "members", &elements)).unwrap();
    assert_eq!(nftables.generation().unwrap(), before + 1);
    let mut found = nftables.elements(&table(), "members").unwrap();
    found.sort_by_key(|element| element.comment.clone());
    assert_eq!(found, elements);
    assert_eq!(home.nft("list set inet trial members").matches("comment").count(), 1000);

    nftables.apply(Batch::new().delete_elements(&table(), "members", &elements)).unwrap();
    assert_eq!(nftables.elements(&table(), "members").unwrap(), []);
}

fn large_transaction(home: &Space) {
    let table = table();
    let nftables = home.nftables();
    let key = |number: u32| {
        let address = |of: u128| KeyValue::Ipv6(Ipv6Addr::from(0xfd00 << 112 | of << 64 | u128::from(number)));
        [address(1), address(2)]
    };
    let elements: Vec<Element> =
        (0..10_000).map(|number| element(key(number), None, &format!("{number:0>120}"))).collect();
    let mut batch = Batch::new();
    batch.add_table(&table).add_chain(&table, "chain", None);
    batch.add_set(&table, &set("members", &[KeyType::Ipv6Addr; 2], false)).add_elements(&table, "members", &elements);
    // As many acknowledgements as an ordinary receive buffer has no room for.
    for _ in 0..2000 {
        batch.add_rule(&table, "chain", &Rule::new([Counter]));
    }
    nftables.apply(&batch).unwrap();
    assert_eq!(nftables.elements(&table, "members").unwrap().len(), 10_000);
    assert_eq!(nftables.rules(&table, Some("chain")).unwrap().len(), 2000);
}

fn failing_transaction(home: &Space) {
    let table = table();
    let nftables = home.nftables();
    nftables.apply(with_set().add_elements(&table, "members", &[element([numbered(1)], None, "")])).unwrap();
    let before = home.ruleset();
    let elements: Vec<Element> = (1..100).map(|number| element([numbered(number)], None, "")).collect();

    // In the middle of what could be done.
    let mut batch = Batch::new();
    batch.add_elements(&table, "members", &elements).add_chain(&table, "chain", None);
    batch.delete_elements(&table, "members", &[element([numbered(777)], None, "")]).delete_table(&table);
    let error = nftables.apply(&batch).unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().starts_with("delete element 10.0.3.9 of set members in table inet trial: "), "{error}");
    assert_eq!(home.ruleset(), before);

    // The first of several is reported.
    let mut batch = Batch::new();
    batch.add_chain(&table, "chain", None).create_set(&table, &set("members", &[KeyType::Ipv4Addr], false));
    batch.add_rule(&table, "absent", &Rule::new([Accept]));
    let error = nftables.apply(&batch).unwrap_err();
    assert!(error.is_exists() && error.to_string().starts_with("create set members of table inet trial: "), "{error}");
    assert_eq!(home.ruleset(), before);

    // A rule that looks into a set that is not there cannot be.
    let mut batch = Batch::new();
    batch.add_chain(&table, "chain", None);
    batch.add_rule(&table, "chain", &Rule::new([in_set(&[Field::Ipv4Source], "absent"), Accept]));
    let error = nftables.apply(&batch).unwrap_err();
    assert!(error.to_string().starts_with("add rule to chain chain of table inet trial: "), "{error}");
    assert_eq!(home.ruleset(), before);

    // What cannot be sent is not sent in part.
    let long = element([numbered(5)], None, &"x".repeat(128));
    let mut batch = Batch::new();
    batch.delete_table(&table).add_elements(&table, "members", &[long]);
    assert!(nftables.apply(&batch).unwrap_err().to_string().contains("has 128 bytes"));
    assert_eq!(home.ruleset(), before);
    // And the socket is as good as new.
    nftables.apply(Batch::new().add_elements(&table, "members", &elements)).unwrap();
    assert_eq!(nftables.elements(&table, "members").unwrap().len(), 99);
}

/// One element of each kind of set: hash, intervals, concatenated intervals.
fn kinds() -> [(Set, [Element; 2]); 3] {
    let both = |element: Element| {
        [Element { comment: Some("old".into()), ..element.clone() }, Element { comment: Some("new".into()), ..element }]
    };
    let two = [KeyType::Ipv4Addr, KeyType::Ipv4Addr];
    let end = |last| Some(vec![ipv4("10.0.0.1"), ipv4(last)]);
    [
        (set("hash", &two, false), both(element([ipv4("10.0.0.1"), ipv4("10.0.0.2")], None, ""))),
        (set("tree", &two[..1], true), both(element([ipv4("10.0.0.0")], Some(vec![ipv4("10.0.0.9")]), ""))),
        (set("pipapo", &two, true), both(element([ipv4("10.0.0.1"), ipv4("10.0.0.0")], end("10.0.0.255"), ""))),
    ]
}

fn replaced_elements(home: &Space) {
    let table = table();
    let nftables = home.nftables();
    for (set, [old, new]) in kinds() {
        let comment = || nftables.elements(&table, &set.name).unwrap()[0].comment.clone();
        let mut batch = Batch::new();
        batch.add_table(&table).add_set(&table, &set).add_elements(&table, &set.name, std::slice::from_ref(&old));
        nftables.apply(&batch).unwrap();
        let new = [new];
        nftables.apply(Batch::new().add_elements(&table, &set.name, &new)).unwrap();
        assert_eq!(comment().as_deref(), Some("old"), "{}", set.name);
        nftables.apply(Batch::new().replace_elements(&table, &set.name, &new)).unwrap();
        assert_eq!(nftables.elements(&table, &set.name).unwrap(), new, "{}", set.name);
        assert!(home.nft(&format!("list set inet trial {}", set.name)).contains("comment \"new\""));
    }
}

fn discarded_elements(home: &Space) {
    let table = table();
    let nftables = home.nftables();
    for (set, [there, _]) in kinds() {
        let mut batch = Batch::new();
        batch.add_table(&table).add_set(&table, &set).add_elements(&table, &set.name, std::slice::from_ref(&there));
        nftables.apply(&batch).unwrap();
        let there = [there];
        for _ in 0..2 {
            nftables.apply(Batch::new().discard_elements(&table, &set.name, &there)).unwrap();
            assert_eq!(nftables.elements(&table, &set.name).unwrap(), [], "{}", set.name);
        }
        nftables.apply(Batch::new().replace_elements(&table, &set.name, &there)).unwrap();
        assert_eq!(nftables.elements(&table, &set.name).unwrap(), there, "{}", set.name);
    }
}

fn concurrent_writers(home: &Space) {
    const ROUNDS: u32 = 100;
    let table = table();
    home.nftables().apply(&with_set()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let write = |writer: u32| {
            let nftables = home.nftables();
            for round in 0..ROUNDS {
                let first = writer * 10_000 + round * 2;
                let two = [first, first + 1].map(|number| element([numbered(number)], None, "w"));
                // Everybody makes the static part too, as every ADD does.
                nftables.apply(with_set().add_elements(&table, "members", &two)).unwrap();
                if round % 2 == 0 {
                    nftables.apply(Batch::new().delete_elements(&table, "members", &two)).unwrap();
                }
            }
        };
        let reader = scope.spawn(|| {
            let nftables = home.nftables();
            while !done.load(Ordering::Relaxed) {
                let found = nftables.elements(&table, "members").unwrap();
                assert_eq!(found.len() % 2, 0, "half a transaction: {found:?}");
            }
        });
        let writers = [1, 2].map(|writer| scope.spawn(move || write(writer)));
        let outcomes = writers.map(std::thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
        reader.join().unwrap();
    });
    let left = home.nftables().elements(&table, "members").unwrap();
    assert_eq!(u32::try_from(left.len()).unwrap(), ROUNDS * 2);
}

fn generations(home: &Space) {
    let table = table();
    let nftables = home.nftables();
    nftables.apply(&with_set()).unwrap();
    let seen = nftables.generation().unwrap();
    home.nft("add table ip somebody-else");
    let mut batch = Batch::new();
    batch.only_in_generation(seen).add_elements(&table, "members", &[element([numbered(1)], None, "")]);
    let error = nftables.apply(&batch).unwrap_err();
    assert!(error.is_outdated() && error.to_string().contains("read it again"), "{error}");
    assert_eq!(nftables.elements(&table, "members").unwrap(), []);

    // Each adds the element behind the highest there is, which two must not do at once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let nftables = home.nftables();
                for _ in 0..25 {
                    loop {
                        let generation = nftables.generation().unwrap();
                        let count = u32::try_from(nftables.elements(&table, "members").unwrap().len()).unwrap();
                        let mut batch = Batch::new();
                        let next = element([numbered(count)], None, "");
                        match nftables.apply(batch.only_in_generation(generation).add_elements(
                            &table,
                            "members",
                            &[next],
                        )) {
                            Ok(()) => break,
                            Err(error) => assert!(error.is_outdated(), "{error}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(nftables.elements(&table, "members").unwrap().len(), 100);
}

fn listed_while_growing(home: &Space) {
    const STEADY: u32 = 3000;
    let table = table();
    let steady: Vec<Element> = (0..STEADY).map(|number| element([numbered(number)], None, "steady")).collect();
    home.nftables().apply(with_set().add_elements(&table, "members", &steady)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let nftables = home.nftables();
            // The kernel's table grows behind the transactions.
            for round in 1..=40 {
                let more: Vec<Element> =
                    (0..500).map(|number| element([numbered(round * 100_000 + number)], None, "")).collect();
                nftables.apply(Batch::new().add_elements(&table, "members", &more)).unwrap();
                std::thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
        });
        let nftables = home.nftables();
        let mut looks = 0;
        while looks < 3 || !done.load(Ordering::Relaxed) {
            let found = nftables.elements(&table, "members").unwrap();
            let steady = found.iter().filter(|element| element.comment.is_some()).count();
            assert_eq!(steady, usize::try_from(STEADY).unwrap());
            looks += 1;
        }
        writer.join().unwrap();
    });
}

fn absent(home: &Space) {
    let nftables = home.nftables();
    assert!(nftables.is_supported().unwrap());
    let nothing = |table: &Table| {
        nftables.elements(table, "members").unwrap().is_empty()
            && nftables.rules(table, None).unwrap().is_empty()
            && nftables.rules(table, Some("chain")).unwrap().is_empty()
            && nftables.chains(table).unwrap().is_empty()
    };
    assert!(nothing(&table()));
    home.nft("add table inet trial");
    assert!(nothing(&table()));
    let gone = nftables.apply(Batch::new().delete_table(&Table::new(Family::Bridge, "trial"))).unwrap_err();
    assert!(gone.is_not_found() && gone.to_string().starts_with("delete table bridge trial: "), "{gone}");
    // A key of a type that only `nft` knows.
    home.nft("add set inet trial ports { type inet_service ; }");
    let error = nftables.elements(&table(), "ports").unwrap_err();
    assert!(error.to_string().contains("unknown type 13"), "{error}");
}
