//! What the fuzz targets and the property tests do with messages of nf_tables.

use std::net::IpAddr;

use super::{
    Batch, ChainKind, Element, Expression, Family, Field, Hook, HookPoint, KeyType, KeyValue, Rule, Set, Table,
    listing::{self, SetShape},
};

/// Reads messages as whatever could be asked for, and what comes of it as keys of every kind.
pub(crate) fn read(messages: &[Vec<u8>]) {
    let table = Table::new(Family::Inet, "t");
    let mut shapes = vec![
        SetShape { key: vec![KeyType::Ipv4Addr], interval: true },
        SetShape { key: vec![KeyType::IfName, KeyType::EtherAddr], interval: false },
        SetShape { key: vec![KeyType::Ipv6Addr, KeyType::Ipv6Addr], interval: true },
    ];
    let mut entries = Vec::new();
    for message in messages {
        let _ = (listing::generation(message), listing::chain(message, &table), listing::rule(message, &table));
        shapes.extend(listing::set(message));
        entries.extend(listing::entries(message));
    }
    let _ = listing::is_complete(&entries);
    for shape in shapes {
        for element in listing::elements(&shape, entries.clone()) {
            let _ = element.to_string();
        }
    }
}

/// A transaction with every kind of step.
pub(crate) fn every_step() -> Batch {
    let table = Table::new(Family::Inet, "t");
    let hook = Hook { kind: ChainKind::Nat, hook: HookPoint::Postrouting, priority: 100 };
    let set = Set { name: "s".into(), key: vec![KeyType::Ipv4Addr, KeyType::IfName], interval: true };
    let element = |last| Element {
        key: vec![KeyValue::Ipv4([10, 0, 0, last].into()), KeyValue::IfName("eth0".into())],
        key_end: Some(vec![KeyValue::Ipv4([10, 0, 0, 255].into()), KeyValue::IfName("eth0".into())]),
        comment: Some("c".into()),
    };
    let single = Element {
        key_end: Some(vec![KeyValue::Ipv4([10, 0, 0, 9].into())]),
        ..Element::new([KeyValue::Ipv4([10, 0, 0, 1].into())])
    };
    let rule = Rule {
        expressions: vec![
            Expression::InNetwork(Field::Ipv4Destination, IpAddr::from([224, 0, 0, 0]).into()),
            Expression::InSet(vec![Field::Ipv4Source, Field::InputInterface], "s".into()),
            Expression::Jump("c".into()),
        ],
        comment: Some("c".into()),
    };
    let mut batch = Batch::new();
    batch.add_table(&table).add_chain(&table, "c", None).add_chain(&table, "p", Some(&hook)).add_set(&table, &set);
    batch.add_elements(&table, "s", &[element(1), element(2)]).add_elements(&table, "one", &[single]);
    batch.add_rule(&table, "p", &rule).delete_rule(&table, "p", 7).delete_elements(&table, "s", &[element(1)]);
    batch.flush_chain(&table, "p").delete_chain(&table, "p").delete_set(&table, "s").delete_table(&table);
    batch
}
