//! The plot for the docs: goodput by loss for each way, in plain SVG.

use std::fmt::Write as _;

use crate::loss::{
    condition::Row,
    report::{Report, show},
    way::Way,
};

/// At 30 Mb/s; the wider link would make the others small.
const ROWS: [Row; 5] = [Row::Clean, Row::One, Row::Two, Row::Five, Row::Bursts];
const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 170.0;
const VALUE_WIDTH: f64 = 60.0;
const BAR: f64 = 11.0;
const HEAD: f64 = 34.0;

/// The picture, as a document of its own.
pub fn draw(report: &Report) -> String {
    let ways: Vec<Way> =
        Way::ALL.into_iter().filter(|way| ROWS.iter().any(|row| report.goodput(*row, *way).is_some())).collect();
    let panel = HEAD + ways.len() as f64 * (BAR + 4.0) + 6.0;
    let height = panel * ROWS.len() as f64 + 10.0;
    let all = ROWS.iter().flat_map(|row| ways.iter().filter_map(|way| report.goodput(*row, *way)));
    let greatest = all.fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (index, row) in ROWS.into_iter().enumerate() {
        let y = panel * index as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{LABEL_WIDTH}\" y=\"{:.0}\" font-weight=\"bold\" fill=\"#222222\">TCP goodput, Mb/s, loss: {}</text>",
            y + 22.0,
            row.label()
        );
        for (place, way) in ways.iter().enumerate() {
            let y = y + HEAD + place as f64 * (BAR + 4.0);
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#222222\">{}</text>",
                LABEL_WIDTH - 8.0,
                y + BAR - 1.0,
                way.label()
            );
            let Some(rate) = report.goodput(row, *way) else { continue };
            let width = ((WIDTH - LABEL_WIDTH - VALUE_WIDTH) * rate / greatest).max(1.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{LABEL_WIDTH:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222222\">{}</text>",
                colour(*way),
                LABEL_WIDTH + width + 5.0,
                y + BAR - 1.0,
                show(rate)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(way: Way) -> &'static str {
    match way {
        Way::Plain | Way::Noise => "#c2410c",
        Way::PlainOff | Way::NoiseOff | Way::NoiseBbr | Way::NoiseFixed => "#f59e5b",
        Way::Cubic | Way::Bbr => "#475569",
    }
}
