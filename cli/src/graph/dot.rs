//! A graph in the language of graphviz (<https://graphviz.org/doc/info/lang.html>).

use super::model::{Edge, Graph, Node};
use crate::units::{percent, round_trip, size};

/// The whole document.
pub fn dot(graph: &Graph) -> String {
    let mut text = String::from(
        "graph adit {\n  node [shape=box, fontname=\"sans-serif\"]\n  edge [fontname=\"sans-serif\", fontsize=10]\n",
    );
    for (index, node) in graph.nodes.iter().enumerate() {
        text.push_str(&format!("  n{index} [{}]\n", of_node(node)));
    }
    for edge in &graph.edges {
        let [one, other] = edge.ends;
        text.push_str(&format!("  n{one} -- n{other} [{}]\n", of_edge(edge)));
    }
    text + "}\n"
}

fn of_node(Node { name, container, source }: &Node) -> String {
    let place = if source.is_empty() { String::new() } else { format!("\n{source}") };
    let style = if container.is_none() { ", style=dashed" } else { "" };
    format!("label={}{style}", quoted(&format!("{name}{place}")))
}

fn of_edge(edge: &Edge) -> String {
    let Edge { interfaces: [tail, head], state, round_trip_us, loss_ppm, repairs_ppm, bytes_per_second, .. } = edge;
    let mut lines = vec![(*state).to_owned()];
    lines.extend(round_trip_us.map(round_trip));
    let both = |name: &str, [forth, back]: [Option<String>; 2]| {
        let side = |known: Option<String>| known.unwrap_or_else(|| "?".into());
        (forth.is_some() || back.is_some()).then(|| format!("{name}: {} forth, {} back", side(forth), side(back)))
    };
    lines.extend(both("loss", loss_ppm.map(|loss| loss.map(percent))));
    lines.extend(both("repairs", repairs_ppm.map(|repairs| repairs.map(percent))));
    let per_second = |bytes| format!("{}/s", size(bytes));
    lines.extend(both("traffic", bytes_per_second.map(|bytes| bytes.map(per_second))));
    let colour = match *state {
        "up" => "forestgreen",
        "degraded" => "orange",
        "down" => "red",
        _ => "gray40",
    };
    let (label, tail, head) = (quoted(&lines.join("\n")), quoted(tail), quoted(head));
    format!("label={label}, taillabel={tail}, headlabel={head}, color={colour}")
}

/// Between quotation marks, where nothing has a meaning but what is escaped here; whoever names a pod writes no graph.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            // In labels, entities of HTML have a meaning, too.
            '&' => quoted.push_str("&amp;"),
            other if other.is_control() => quoted.push('\u{fffd}'),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_says_what_is_known() {
        let graph = Graph {
            nodes: vec![
                Node { name: "default/a".into(), container: Some("c1".into()), source: "ohio".into() },
                Node { name: "192.0.2.1:6090".into(), container: None, source: String::new() },
            ],
            edges: vec![Edge {
                ends: [0, 1],
                interfaces: ["tun".into(), String::new()],
                state: "up",
                round_trip_us: Some(1_250),
                loss_ppm: [None, Some(1_000)],
                repairs_ppm: [Some(50_000), None],
                bytes_per_second: [Some(2048), Some(0)],
            }],
        };
        let text = dot(&graph);
        assert!(text.contains("  n0 [label=\"default/a\\nohio\"]\n"), "{text}");
        assert!(text.contains("  n1 [label=\"192.0.2.1:6090\", style=dashed]\n"), "{text}");
        let label = "up\\n1.25 ms\\nloss: ? forth, 0.1 % back\\nrepairs: 5 % forth, ? back\\ntraffic: 2.0 KiB/s forth, 0 B/s back";
        assert!(text.contains(&format!("n0 -- n1 [label=\"{label}\", taillabel=\"tun\", headlabel=\"\"")), "{text}");
    }

    #[test]
    fn a_hostile_name_stays_a_name() {
        assert_eq!(quoted("a\"] evil [label=\"\\N\n\u{7}&lt;"), "\"a\\\"] evil [label=\\\"\\\\N\\n\u{fffd}&amp;lt;\"");
    }
}
