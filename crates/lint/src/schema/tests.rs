use super::*;

/// The paths of a shape's keys.
fn paths(shape: &Shape, path: &str, found: &mut Vec<String>) {
    match shape {
        Shape::List(item) => paths(item, &format!("{path}[]"), found),
        Shape::Object(members) => {
            for (key, shape) in members {
                let path = below(path, key);
                found.push(path.clone());
                paths(shape, &path, found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_of_a_parser_is_described_and_nothing_else() {
    for (name, shape, texts, filled_by_others) in [
        ("tun", &SHAPES.tun, TUN, ["ipam.type"].as_slice()),
        ("bridge", &SHAPES.bridge, BRIDGE, &["ipam", "dns", "args", "runtimeConfig"]),
        ("macvlan", &SHAPES.macvlan, MACVLAN, &["ipam", "dns", "args", "runtimeConfig"]),
        ("static", &SHAPES.of_static, STATIC, &[]),
    ] {
        let mut known = Vec::new();
        paths(shape, "", &mut known);
        let is_common =
            |path: &String| filled_by_others.iter().any(|key| path == key || path.starts_with(&format!("{key}.")));
        let mut known: Vec<String> = known.into_iter().filter(|path| !is_common(path)).collect();
        let mut described: Vec<String> = texts.iter().map(|(key, ..)| (*key).to_owned()).collect();
        known.sort();
        described.sort();
        assert_eq!(known, described, "{name}");
    }
    let mut common: Vec<&str> = COMMON.iter().map(|(key, ..)| *key).collect();
    let mut expected = OF_EVERY_PLUGIN.to_vec();
    common.sort_unstable();
    expected.sort_unstable();
    assert_eq!(common, expected);
    let mut of_list: Vec<&str> = LIST.iter().map(|(key, ..)| *key).collect();
    let mut expected = OF_A_LIST.to_vec();
    of_list.sort_unstable();
    expected.sort_unstable();
    assert_eq!(of_list, expected);
}

#[test]
fn what_the_texts_add_is_json() {
    for (key, _, more) in [TUN, BRIDGE, MACVLAN, STATIC].concat() {
        assert!(more.is_empty() || serde_json::from_str::<Map<String, Value>>(more).is_ok(), "{key}: {more}");
    }
}

#[test]
fn the_schemas_are_schemas() {
    for subject in Subject::ALL {
        let schema = schema(subject);
        assert!(jsonschema::draft202012::meta::is_valid(&schema), "{subject}");
        jsonschema::draft202012::new(&schema).unwrap();
        assert_eq!(subject.to_string().parse(), Ok(subject));
    }
}

/// A value of every type but the one that the schema wants is refused by the parser as well, and one of that type by neither.
#[test]
fn schema_and_parser_agree_on_the_type_of_each_key() {
    type Takes = fn(&Value) -> bool;
    let cases: [(Subject, &Shape, Takes); 3] = [
        (Subject::Tun, &SHAPES.tun, |value| adit_cni::config::from_value::<adit_tunnel::Config>(value).is_ok()),
        (Subject::Bridge, &SHAPES.bridge, |value| adit_cni::config::from_value::<adit_bridge::Config>(value).is_ok()),
        (Subject::Macvlan, &SHAPES.macvlan, |value| {
            adit_cni::config::from_value::<adit_macvlan::Config>(value).is_ok()
        }),
    ];
    for (subject, shape, takes) in cases {
        let validator = jsonschema::draft202012::new(&schema(subject)).unwrap();
        for key in shape.keys() {
            let Some(Shape::Bool | Shape::Text | Shape::Integer { .. } | Shape::List(_)) = shape.member(key) else {
                continue;
            };
            for value in [json!(true), json!(12.5), json!({"a": 1}), json!([[1]])] {
                let object = json!({"type": subject.as_str(), "encap": "udp", key: value});
                let mut own = object.clone();
                own.as_object_mut().unwrap().remove(if subject == Subject::Tun { "" } else { "encap" });
                assert!(
                    !validator.is_valid(&own) || takes(&own),
                    "the schema of {subject} takes what the parser does not: {own}"
                );
            }
        }
        assert!(!validator.is_valid(&json!({"type": subject.as_str(), "encap": "udp", "isGatewya": true})));
    }
}
