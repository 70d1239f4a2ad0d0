use std::net::{Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::*;
use crate::{
    MacAddress,
    nftables::{Expression, Family, Field, KeyType, KeyValue},
};

fn table() -> Table {
    Table::new(Family::Inet, "t")
}

fn ipv4(last: u8) -> KeyValue {
    KeyValue::Ipv4(Ipv4Addr::new(10, 0, 0, last))
}

/// The attributes of the one step of a batch.
fn attributes(fill: impl FnOnce(&mut Batch)) -> Vec<u8> {
    let mut batch = Batch::new();
    fill(&mut batch);
    batch.check().unwrap();
    let [step] = batch.steps.as_slice() else { panic!("{batch:?}") };
    step.attributes.clone()
}

fn reason(fill: impl FnOnce(&mut Batch)) -> String {
    let mut batch = Batch::new();
    fill(&mut batch);
    let error = batch.check().unwrap_err();
    assert!(matches!(error, Error::InvalidRequest { .. }));
    error.to_string()
}

#[test]
fn a_transaction_is_written_as_the_kernel_reads_it() {
    let mut batch = Batch::new();
    batch.only_in_generation(9).add_table(&table()).delete_table(&Table::new(Family::Bridge, "b"));
    let mut expected = vec![28, 0, 0, 0, 16, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0]; // NFNL_MSG_BATCH_BEGIN
    expected.extend([0, 0, 0, 10]); // struct nfgenmsg: NFNL_SUBSYS_NFTABLES
    expected.extend([8, 0, 1, 0, 0, 0, 0, 9]); // NFNL_BATCH_GENID
    expected.extend([28, 0, 0, 0, 0, 10, 5, 4, 8, 0, 0, 0, 0, 0, 0, 0]); // NEWTABLE, REQUEST, ACK, CREATE
    expected.extend([1, 0, 0, 0]); // NFPROTO_INET
    expected.extend([6, 0, 1, 0, b't', 0, 0, 0]); // NFTA_TABLE_NAME
    expected.extend([28, 0, 0, 0, 2, 10, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0]); // DELTABLE, REQUEST, ACK
    expected.extend([7, 0, 0, 0]); // NFPROTO_BRIDGE
    expected.extend([6, 0, 1, 0, b'b', 0, 0, 0]);
    expected.extend([20, 0, 0, 0, 17, 0, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]); // NFNL_MSG_BATCH_END
    assert_eq!(batch.write(7), expected);
    assert_eq!(batch.messages(), 4);
}

#[test]
fn a_base_chain_is_asked_for_byte_by_byte() {
    let hook = Hook { kind: ChainKind::Filter, hook: HookPoint::Prerouting, priority: -300 };
    let mut expected = vec![6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 3, 0, b'c', 0, 0, 0];
    expected.extend([20, 0, 4, 0x80]); // NFTA_CHAIN_HOOK
    expected.extend([8, 0, 1, 0, 0, 0, 0, 0, 8, 0, 2, 0, 0xff, 0xff, 0xfe, 0xd4]);
    expected.extend([11, 0, 7, 0]); // NFTA_CHAIN_TYPE
    expected.extend(b"filter\0\0");
    let bytes = attributes(|batch| {
        batch.add_chain(&table(), "c", Some(&hook));
    });
    assert_eq!(bytes, expected);
}

#[test]
fn a_set_of_concatenated_intervals_names_the_lengths_of_its_fields() {
    let set = Set { name: "s".into(), key: vec![KeyType::Ipv4Addr, KeyType::EtherAddr], interval: true };
    let mut expected = vec![6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b's', 0, 0, 0];
    expected.extend([8, 0, 3, 0, 0, 0, 0, 0x84]); // NFT_SET_INTERVAL, NFT_SET_CONCAT
    expected.extend([8, 0, 4, 0, 0, 0, 1, 0xc9]); // 7 << 6 | 9
    expected.extend([8, 0, 5, 0, 0, 0, 0, 12]); // NFTA_SET_KEY_LEN
    expected.extend([8, 0, 10, 0, 0, 0, 0, 1]); // NFTA_SET_ID
    expected.extend([32, 0, 9, 0x80, 28, 0, 2, 0x80]); // NFTA_SET_DESC, NFTA_SET_DESC_CONCAT
    expected.extend([12, 0, 1, 0x80, 8, 0, 1, 0, 0, 0, 0, 4, 12, 0, 1, 0x80, 8, 0, 1, 0, 0, 0, 0, 6]);
    let bytes = attributes(|batch| {
        batch.add_set(&table(), &set);
    });
    assert_eq!(bytes, expected);
}

#[test]
fn the_names_in_a_set_are_marked_as_text_for_nft() {
    let set = Set { name: "s".into(), key: vec![KeyType::IfName], interval: false };
    let bytes = attributes(|batch| {
        batch.create_set(&table(), &set);
    });
    let mut tail = vec![10, 0, 13, 0, 0, 4]; // NFTA_SET_USERDATA
    tail.extend(1u32.to_ne_bytes());
    tail.extend([0, 0]);
    assert!(bytes.ends_with(&tail), "{bytes:?}");
}

#[test]
fn an_element_of_a_concatenation_has_both_its_ends() {
    let element =
        Element { key: vec![ipv4(1), ipv4(2)], key_end: Some(vec![ipv4(1), ipv4(9)]), comment: Some("pod".into()) };
    let mut expected = vec![6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b's', 0, 0, 0];
    expected.extend([52, 0, 3, 0x80, 48, 0, 1, 0x80]); // NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM
    expected.extend([16, 0, 1, 0x80, 12, 0, 1, 0, 10, 0, 0, 1, 10, 0, 0, 2]); // NFTA_SET_ELEM_KEY
    expected.extend([16, 0, 10, 0x80, 12, 0, 1, 0, 10, 0, 0, 1, 10, 0, 0, 9]); // NFTA_SET_ELEM_KEY_END
    expected.extend([10, 0, 6, 0, 0, 4, b'p', b'o', b'd', 0, 0, 0]); // NFTA_SET_ELEM_USERDATA
    let bytes = attributes(|batch| {
        batch.add_elements(&table(), "s", &[element]);
    });
    assert_eq!(bytes, expected);
}

#[test]
fn an_interval_of_one_field_is_two_elements() {
    let element = |end: [u8; 4]| Element {
        key_end: Some(vec![KeyValue::Ipv4(end.into())]),
        ..Element::new([KeyValue::Ipv4(Ipv4Addr::UNSPECIFIED)])
    };
    let head = [6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b's', 0, 0, 0];
    let begin = [16, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 0, 0, 0, 0];
    let mut expected = head.to_vec();
    expected.extend([44, 0, 3, 0x80]);
    expected.extend(begin);
    expected.extend([24, 0, 1, 0x80, 8, 0, 3, 0, 0, 0, 0, 1]); // NFT_SET_ELEM_INTERVAL_END
    expected.extend([12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 1, 0]);
    let bytes = attributes(|batch| {
        batch.delete_elements(&table(), "s", &[element([10, 0, 0, 255])]);
    });
    assert_eq!(bytes, expected);

    // Behind the highest there is nothing.
    let mut expected = head.to_vec();
    expected.extend([20, 0, 3, 0x80]);
    expected.extend(begin);
    let bytes = attributes(|batch| {
        batch.add_elements(&table(), "s", &[element([255; 4])]);
    });
    assert_eq!(bytes, expected);
}

#[test]
fn a_rule_is_asked_for_byte_by_byte() {
    let rule = Rule {
        expressions: vec![
            Expression::InSet(vec![Field::InputInterface, Field::EtherSource], "s".into()),
            Expression::Drop,
        ],
        comment: Some("c".into()),
    };
    let mut expected = vec![6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b'c', 0, 0, 0];
    expected.extend([200, 0, 4, 0x80]); // NFTA_RULE_EXPRESSIONS
    expected.extend([36, 0, 1, 0x80, 9, 0, 1, 0, b'm', b'e', b't', b'a', 0, 0, 0, 0]);
    expected.extend([20, 0, 2, 0x80, 8, 0, 2, 0, 0, 0, 0, 6, 8, 0, 1, 0, 0, 0, 0, 8]); // iifname to register 8
    expected.extend([52, 0, 1, 0x80, 12, 0, 1, 0]);
    expected.extend(b"payload\0");
    expected.extend([36, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 12]); // to register 12
    expected.extend([8, 0, 2, 0, 0, 0, 0, 0, 8, 0, 3, 0, 0, 0, 0, 6, 8, 0, 4, 0, 0, 0, 0, 6]); // link layer, 6, 6
    expected.extend([36, 0, 1, 0x80, 11, 0, 1, 0]);
    expected.extend(b"lookup\0\0");
    expected.extend([20, 0, 2, 0x80, 6, 0, 1, 0, b's', 0, 0, 0, 8, 0, 2, 0, 0, 0, 0, 8]);
    expected.extend([48, 0, 1, 0x80, 14, 0, 1, 0]);
    expected.extend(b"immediate\0\0\0");
    expected.extend([28, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 0]); // NFT_REG_VERDICT
    expected.extend([16, 0, 2, 0x80, 12, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 0]); // NF_DROP
    expected.extend([8, 0, 7, 0, 0, 2, b'c', 0]); // NFTA_RULE_USERDATA
    let bytes = attributes(|batch| {
        batch.add_rule(&Table::new(Family::Bridge, "t"), "c", &rule);
    });
    let length = u8::try_from(expected.len() - 24).unwrap();
    expected[16] = length;
    assert_eq!(bytes, expected);
}

#[test]
fn what_a_table_sees_of_both_protocols_is_told_apart_once() {
    let write = |family, expressions: &[Expression]| {
        let bytes = expression::write(expressions, family).map(|list| list.finish().unwrap());
        bytes.map(|bytes| crate::attribute::attributes(&bytes).count())
    };
    let ours = [Expression::Is(Field::Ipv4Source, ipv4(1)), Expression::IsNot(Field::Ipv4Destination, ipv4(2))];
    assert_eq!(write(Family::Ipv4, &ours), Ok(4));
    assert_eq!(write(Family::Inet, &ours), Ok(6));
    assert_eq!(write(Family::Bridge, &ours), Ok(6));
    assert!(write(Family::Ipv6, &ours).unwrap_err().contains("ip6"));
    let ether = [Expression::Is(Field::EtherSource, KeyValue::Ether(MacAddress::BROADCAST))];
    assert_eq!((write(Family::Bridge, &ether), write(Family::Inet, &ether)), (Ok(2), Ok(4)));
}

#[test]
fn what_cannot_be_sent_is_named_before_anything_is() {
    let long = "x".repeat(128);
    let element = Element { comment: Some(long.clone()), ..Element::new([ipv4(1)]) };
    let said = reason(|batch| {
        batch.add_table(&table()).add_elements(&table(), "s", &[Element::new([ipv4(2)]), element]);
    });
    assert!(said.starts_with("add element 10.0.0.1 of set s in table inet t: the comment `xxx"), "{said}");
    assert!(said.ends_with("has 128 bytes: shorten it to 127, more no `nft` could show"), "{said}");

    let rule = Rule { expressions: vec![Expression::Is(Field::Ipv6Source, ipv4(1))], comment: None };
    let said = reason(|batch| {
        batch.add_rule(&table(), "c", &rule);
    });
    assert_eq!(said, "add rule to chain c of table inet t: Ipv6Source cannot be compared with 10.0.0.1");

    let network = Expression::InNetwork(Field::Ipv4Source, "fd00::/8".parse().unwrap());
    let backwards = Element { key_end: Some(vec![ipv4(1)]), ..Element::new([ipv4(2)]) };
    let mixed = Element { key_end: Some(vec![KeyValue::Ipv6(Ipv6Addr::LOCALHOST)]), ..Element::new([ipv4(2)]) };
    let many = vec![Expression::Counter; 129];
    let names = Set { name: "s".into(), key: vec![KeyType::IfName], interval: true };
    let mut batches = vec![Batch::new(); 7];
    for (number, batch) in batches.iter_mut().enumerate() {
        match number {
            0 => batch.add_rule(&table(), "c", &Rule::new([network.clone()])),
            1 => batch.add_elements(&table(), "s", std::slice::from_ref(&backwards)),
            2 => batch.add_elements(&table(), "s", std::slice::from_ref(&mixed)),
            3 => batch.add_rule(&table(), "c", &Rule::new(many.clone())),
            4 => batch.add_set(&table(), &names),
            5 => batch.add_chain(&table(), &"c".repeat(256), None),
            _ => batch.add_table(&Table::new(Family::Inet, "")),
        };
        assert!(batch.check().is_err(), "{number}");
    }
}

#[test]
fn a_thousand_elements_are_several_messages_of_one_transaction() {
    let elements: Vec<Element> = (0..1000u16)
        .map(|number| Element {
            comment: Some("x".repeat(100)),
            ..Element::new([KeyValue::Ipv4(Ipv4Addr::from(0x0a00_0000 + u32::from(number)))])
        })
        .collect();
    let mut batch = Batch::new();
    batch.add_elements(&table(), "s", &elements);
    batch.check().unwrap();
    assert_eq!(batch.steps.len(), 3);
    assert_eq!(batch.steps.iter().map(|step| step.elements.len()).sum::<usize>(), 1000);
    assert_eq!(batch.steps[0].action, "add elements");
    assert!(batch.steps[0].object.starts_with("10.0.0.0 and "), "{}", batch.steps[0].object);
    batch.add_elements(&table(), "s", &[]);
    assert_eq!(batch.steps.len(), 3);
}

#[test]
fn a_refusal_names_the_element_that_the_kernel_points_at() {
    let mut batch = Batch::new();
    batch.add_elements(&table(), "s", &[Element::new([ipv4(1)]), Element::new([ipv4(2)])]);
    let step = batch.step_at(1).unwrap();
    let second = u32::try_from(step.elements[1].0).unwrap();
    // The second list element begins where its number does.
    assert_eq!(batch.write(0)[28 + second as usize - 8..][..8], [16, 0, 1, 0x80, 12, 0, 1, 0x80]);
    let refusal = |offset| Refusal { errno: Errno::EEXIST, message: None, offset };
    let said = |offset| step.error(refusal(offset)).to_string();
    let about = "add elements 10.0.0.1 and 1 more of set s in table inet t: File exists (EEXIST)";
    assert!(said(Some(second)).starts_with(&format!("{about}: about element 10.0.0.2; ")), "{}", said(Some(second)));
    assert!(said(Some(second - 1)).starts_with(&format!("{about}: about element 10.0.0.1; ")));
    assert!(said(None).starts_with(&format!("{about}; ")));
}
