//! The plot for the docs: bars by tunnel, for both conditions, in plain SVG.

use std::fmt::Write as _;

use crate::tunnel::{
    bed::Condition,
    figures::{Figures, Quantity},
    kinds::Kind,
};

const PANELS: [(Quantity, &str); 4] = [
    (Quantity::Tcp1, "TCP, one stream, Gbit/s (more is better)"),
    (Quantity::Cpu1, "CPU-seconds per GB, one stream (less is better)"),
    (Quantity::Packets64, "64-byte datagrams, thousands a second (more is better)"),
    (Quantity::Quiet, "round trip on quiet cores, median, µs (less is better)"),
];
const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 170.0;
const VALUE_WIDTH: f64 = 60.0;
const BAR: f64 = 11.0;
const ROW: f64 = 2.0 * BAR + 8.0;
const HEAD: f64 = 34.0;
const TOP: f64 = 30.0;

/// The picture, as a document of its own.
pub fn draw(figures: &Figures) -> String {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| Condition::ALL.iter().any(|condition| figures.has(*condition, *kind)))
        .collect();
    let panel = HEAD + kinds.len() as f64 * ROW + 10.0;
    let height = TOP + panel * PANELS.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (index, condition) in Condition::ALL.into_iter().enumerate() {
        let x = LABEL_WIDTH + index as f64 * 140.0;
        bar(&mut svg, x, 12.0, 12.0, colour(condition, false));
        text(&mut svg, x + 18.0, 22.0, "start", &format!("veth \"{condition}\""));
    }
    for (index, (quantity, title)) in PANELS.into_iter().enumerate() {
        let y = TOP + panel * index as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{LABEL_WIDTH}\" y=\"{:.0}\" font-weight=\"bold\" fill=\"#222222\">{title}</text>",
            y + 22.0
        );
        let value = |condition: Condition, kind: Kind| figures.median(condition, kind, quantity);
        let all = Condition::ALL
            .into_iter()
            .flat_map(|condition| kinds.iter().filter_map(move |kind| value(condition, *kind)));
        let greatest = all.fold(f64::MIN_POSITIVE, f64::max);
        for (row, kind) in kinds.iter().enumerate() {
            let y = y + HEAD + row as f64 * ROW;
            text(&mut svg, LABEL_WIDTH - 8.0, y + BAR + 4.0, "end", &kind.label().replace('`', ""));
            for (place, condition) in Condition::ALL.into_iter().enumerate() {
                let y = y + place as f64 * (BAR + 1.0);
                let Some(value) = value(condition, *kind) else { continue };
                let width = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) * value / greatest;
                bar(&mut svg, LABEL_WIDTH, y, width.max(1.0), colour(condition, kind.is_ours()));
                text(&mut svg, LABEL_WIDTH + width + 5.0, y + BAR - 1.0, "start", &quantity.show(value));
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(condition: Condition, is_ours: bool) -> &'static str {
    match (condition, is_ours) {
        (Condition::Defaults, true) => "#c2410c",
        (Condition::Wire | Condition::Single, true) => "#f59e5b",
        (Condition::Defaults, false) => "#475569",
        (Condition::Wire | Condition::Single, false) => "#a3b1c6",
    }
}

fn bar(svg: &mut String, x: f64, y: f64, width: f64, colour: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\">{words}</text>");
}
