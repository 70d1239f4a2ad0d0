//! Whatever stands in a file, lint says something about places in it, and goes on.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path};

use adit_lint::{Source, lint};
use proptest::prelude::*;

/// The manifests of the repository, the broken ones too.
fn manifests() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for folder in ["integration/lint/broken", "conf/nad", "conf/pods"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending != "expected") {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(found.len() > 80, "{}", found.len());
    found
}

fn check(path: &str, text: &str) {
    let report = lint(&[Source { path: path.to_owned(), text: text.to_owned(), is_found: false }]);
    for finding in &report.findings {
        let line = text.split('\n').nth(finding.line - 1);
        let is_there = line.is_some_and(|line| finding.column <= line.chars().count() + 1);
        assert!(is_there, "{finding}\nis not in\n{text}");
        assert!(!finding.message.is_empty() && !finding.remedy.is_empty(), "{finding}");
    }
}

/// What is put in: what has a meaning in YAML or JSON, or has none.
const PIECES: [&str; 24] = [
    "",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\n",
    " ",
    "#",
    "|",
    ">",
    "&a ",
    "*a",
    "<<: ",
    "- ",
    "\\",
    "\u{e9}",
    "\u{1f600}",
    "null",
    "---\n",
    "10.4.0.1/33",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_manifest_with_slips(which in any::<prop::sample::Index>(), slips in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(&PIECES[..])), 1..4)) {
        thread_local! { static ALL: Vec<(String, String)> = manifests(); }
        let (path, text) = ALL.with(|all| all[which.index(all.len())].clone());
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, piece) in slips {
            let start = at.index(chars.len().max(1)).min(chars.len());
            let end = (start + length).min(chars.len());
            chars.splice(start..end, piece.chars());
        }
        check(&path, &chars.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_at_all(text in "\\PC{0,60}", ending in prop::sample::select(vec!["yaml", "json", "conflist", "conf"])) {
        check(&format!("a.{ending}"), &text);
    }

    /// A key that nobody knows is found at its place, in whatever notation the JSON stands in the YAML.
    #[test]
    fn a_key_in_any_notation(remark in "[a-z\u{e4}\u{1f600} ':#\\\\\"]{0,20}", breaks in prop::collection::vec(0_usize..3, 6), style in 0_usize..4) {
        let remark = serde_json::to_string(&remark).unwrap();
        let space = |index: usize| if breaks[index] == 0 { " ".to_owned() } else { "\n".repeat(breaks[index]) };
        let json = format!(
            "{{{}\"cniVersion\":{}\"1.1.0\",{}\"_remark\": {remark},{}\"type\": \"bridge\",{}\"isGatewya\": true{}}}",
            space(0), space(1), space(2), space(3), space(4), space(5)
        );
        let indented = json.replace('\n', "\n    ");
        let scalar = match style {
            0 => format!("|\n    {indented}"),
            1 => format!(">\n    {indented}"),
            2 => format!("'{}'", json.replace('\'', "''").replace('\n', "\n\n    ")),
            _ => serde_json::to_string(&json).unwrap(),
        };
        let text = format!("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{ name: a }}\nspec:\n  config: {scalar}\n");
        let report = lint(&[Source { path: "a.yaml".into(), text: text.clone(), is_found: false }]);
        let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        prop_assert_eq!(found.len(), 1, "{:?}\n{}", found, text);
        let finding = &report.findings[0];
        let line: Vec<char> = text.split('\n').nth(finding.line - 1).unwrap().chars().collect();
        let rest: String = line[finding.column - 1..].iter().collect();
        prop_assert!(rest.starts_with("\"isGatewya\"") || rest.starts_with("\\\"isGatewya\\\""), "{}\n{}", finding, text);
    }
}
