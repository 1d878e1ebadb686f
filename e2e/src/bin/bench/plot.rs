//! Plots as SVG: strips with a point for each sample and the bar as a line; curves over the number of routes.

use std::fmt::Write as _;

/// One strip of a plot.
pub(crate) struct Strip {
    pub(crate) name: String,
    /// In milliseconds.
    pub(crate) samples: Vec<f64>,
    /// The bar, where there is one.
    pub(crate) bar: Option<f64>,
}

const LEFT: f64 = 330.0;
const WIDTH: f64 = 560.0;
const ROW: f64 = 34.0;
const TOP: f64 = 52.0;
/// Nothing is shown as shorter than this many milliseconds: the axes are logarithmic.
const LEAST: f64 = 0.1;

/// A plot over a logarithmic axis of milliseconds; none of nothing.
pub(crate) fn svg(title: &str, strips: &[Strip]) -> Option<String> {
    let ms = |time: &f64| time.max(LEAST);
    let (first, last) = decades(strips.iter().flat_map(|strip| strip.samples.iter().chain(&strip.bar)))?;
    let x = |value: f64| LEFT + (value.log10() - first) / (last - first) * WIDTH;
    let height = strips.iter().fold(TOP, |height, _| height + ROW) + 30.0;
    let total = LEFT + WIDTH + 40.0;
    let mut text = head(title, total, height);
    let mut decade = first;
    while decade <= last {
        let value = 10.0_f64.powf(decade);
        let (at, bottom) = (x(value), height - 30.0);
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{value} ms</text>",
            bottom + 18.0
        );
        decade += 1.0;
    }
    let mut y = TOP + ROW / 2.0;
    for strip in strips {
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 12.0,
            y + 4.0,
            escaped(&strip.name)
        );
        for sample in &strip.samples {
            let at = x(ms(sample));
            let _ = writeln!(
                text,
                "<circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#2563eb\" fill-opacity=\"0.45\"/>"
            );
        }
        if let Some(bar) = &strip.bar {
            let at = x(ms(bar));
            let (from, to) = (y - 13.0, y + 13.0);
            let _ = writeln!(
                text,
                "<line x1=\"{at:.1}\" y1=\"{from:.1}\" x2=\"{at:.1}\" y2=\"{to:.1}\" stroke=\"#dc2626\" stroke-width=\"2.5\"/>"
            );
        }
        y += ROW;
    }
    text.push_str("</svg>\n");
    Some(text)
}

/// A curve: a time at each of some numbers of routes.
pub(crate) struct Line {
    pub(crate) name: String,
    /// In milliseconds.
    pub(crate) points: Vec<(usize, f64)>,
    /// What the machine itself needs there; none where nothing was measured.
    pub(crate) limit: Vec<(usize, f64)>,
}

const HEIGHT: f64 = 320.0;
const COLOURS: [&str; 4] = ["#2563eb", "#059669", "#d97706", "#7c3aed"];

/// How a limit is drawn: like what it is the limit of, and dashed.
const DASHED: &str = " stroke-dasharray=\"5 4\" opacity=\"0.6\"";

/// Curves over logarithmic axes; none of nothing, or of one number only.
pub(crate) fn curves(title: &str, lines: &[Line]) -> Option<String> {
    const MARGIN: f64 = 70.0;
    let mut numbers: Vec<usize> =
        lines.iter().flat_map(|line| &line.points).map(|(routes, _)| *routes).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let (few, many) = (*numbers.first()?, *numbers.last()?);
    if few == many {
        return None;
    }
    let (first, last) =
        decades(lines.iter().flat_map(|line| line.points.iter().chain(&line.limit)).map(|(_, time)| time))?;
    #[expect(clippy::cast_precision_loss, reason = "a number of routes")]
    let log = |routes: usize| (routes as f64).log10();
    let x = |routes: usize| MARGIN + (log(routes) - log(few)) / (log(many) - log(few)) * WIDTH;
    let y = |time: f64| TOP + HEIGHT - (time.max(LEAST).log10() - first) / (last - first) * HEIGHT;
    let (total, bottom) = (MARGIN + WIDTH + 260.0, TOP + HEIGHT);
    let mut text = head(title, total, bottom + 50.0);
    let mut decade = first;
    while decade <= last {
        let (value, right) = (10.0_f64.powf(decade), MARGIN + WIDTH);
        let at = y(value);
        let _ = writeln!(
            text,
            "<line x1=\"{MARGIN}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value} ms</text>",
            MARGIN - 8.0,
            at + 4.0
        );
        decade += 1.0;
    }
    for routes in numbers {
        let (at, below) = (x(routes), bottom + 20.0);
        let _ = writeln!(
            text,
            "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\" fill=\"#555\">{routes}</text>"
        );
    }
    let (right, mut below) = (MARGIN + WIDTH + 20.0, TOP + 10.0);
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let bare = format!("bare: {}", line.name);
        for (name, points, style) in [(&line.name, &line.points, ""), (&bare, &line.limit, DASHED)] {
            if !points.is_empty() {
                let points: Vec<_> = points.iter().map(|(routes, time)| (x(*routes), y(*time))).collect();
                curve(&mut text, &points, colour, style);
                legend(&mut text, name, (colour, style), (right, below));
                below += 20.0;
            }
        }
    }
    text.push_str("</svg>\n");
    Some(text)
}

fn curve(text: &mut String, points: &[(f64, f64)], colour: &str, style: &str) {
    let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let path = path.join(" ");
    let _ = writeln!(
        text,
        "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{style}/>"
    );
    for (x, y) in points {
        let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
    }
}

fn legend(text: &mut String, name: &str, (colour, style): (&str, &str), (x, y): (f64, f64)) {
    let (end, at, under) = (x + 24.0, x + 32.0, y + 4.0);
    let _ = writeln!(
        text,
        "<line x1=\"{x}\" y1=\"{y}\" x2=\"{end}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"{style}/>\
         <text x=\"{at}\" y=\"{under}\">{}</text>",
        escaped(name)
    );
}

/// The powers of ten below and above all of these times; none of nothing.
fn decades<'a>(times: impl Iterator<Item = &'a f64>) -> Option<(f64, f64)> {
    let (low, high) =
        times.fold((f64::INFINITY, LEAST), |(low, high), time| (low.min(time.max(LEAST)), high.max(*time)));
    let first = low.log10().floor();
    low.is_finite().then(|| (first, high.log10().ceil().max(first + 1.0)))
}

fn head(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
