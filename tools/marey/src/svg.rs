//! A page of panels over time, as SVG: lines, a band, dots, shades, and axes with round numbers. No more than the pictures of clocks
//! and of channels need.

use std::fmt::Write;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const ABOVE: f64 = 26.0;
const BELOW: f64 = 34.0;

/// Blue and orange, which most eyes tell apart.
const UP: &str = "#0072b2";
const DOWN: &str = "#d55e00";

/// One picture over time.
#[derive(Debug, Default)]
pub struct Panel {
    pub title: String,
    pub unit: String,
    pub seconds: f64,
    /// How far it reaches up and down from 0; by itself where none is said.
    pub reach: Option<f64>,
    /// Its lowest and highest value, where it does not reach as far down as up.
    pub range: Option<(f64, f64)>,
    /// From when to when something is missing.
    pub shades: Vec<(f64, f64)>,
    pub lines: Vec<Vec<(f64, f64)>>,
    pub band: Option<Band>,
    pub dots: Vec<Dots>,
    /// Seconds of the dashed lines.
    pub cuts: Vec<f64>,
}

/// What lies between two curves.
#[derive(Debug, Default)]
pub struct Band(Vec<(f64, f64, f64)>);

impl Band {
    pub fn push(&mut self, second: f64, low: f64, high: f64) {
        self.0.push((second, low, high));
    }

    /// The farthest from 0 that is finite.
    pub fn widest(&self) -> f64 {
        let ends = self.0.iter().flat_map(|&(_, low, high)| [low.abs(), high.abs()]);
        ends.filter(|end| end.is_finite()).fold(0.0, f64::max)
    }
}

/// Dots of one colour.
#[derive(Debug)]
pub struct Dots {
    pub is_up: bool,
    pub points: Vec<(f64, f64)>,
}

/// The page.
/// What every picture begins with.
pub const BEGINS: &[u8] = b"<svg ";

pub fn page(title: &str, panels: &[Panel]) -> String {
    let each = ABOVE + HEIGHT + BELOW;
    let height = 40.0 + each * panels.len() as f64;
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>\n",
        escaped(title)
    );
    for (at, panel) in panels.iter().enumerate() {
        let y = 40.0 + each * at as f64 + ABOVE;
        writeln!(page, "<g transform=\"translate({LEFT} {y:.0})\">").expect("text takes it");
        panel.draw(&mut page).expect("text takes it");
        page.push_str("</g>\n");
    }
    page.push_str("</svg>\n");
    page
}

impl Panel {
    fn draw(&self, to: &mut String) -> std::fmt::Result {
        let width = WIDTH - LEFT - RIGHT;
        let reach = self.reach.unwrap_or_else(|| {
            let heights = self.lines.iter().flatten().map(|point| point.1.abs());
            // Not into what only rounding made.
            1.1 * heights.filter(|y| y.is_finite()).fold(1.0, f64::max)
        });
        let (low, high) = self.range.unwrap_or((-reach, reach));
        let x = |second: f64| (second / self.seconds).clamp(0.0, 1.0) * width;
        let y = |value: f64| HEIGHT * (1.0 - ((value - low) / (high - low)).clamp(0.0, 1.0));
        writeln!(to, "<text y=\"-8\">{}</text>", escaped(&self.title))?;
        if let Some(Band(edges)) = &self.band {
            let upper = edges.iter().map(|&(at, _, high)| (x(at), y(high)));
            let lower = edges.iter().rev().map(|&(at, low, _)| (x(at), y(low)));
            let points = path(upper.chain(lower));
            writeln!(to, "<polygon points=\"{points}\" fill=\"#ddd\"/>")?;
        }
        for &(from, until) in &self.shades {
            // One pixel at least: what is missing is seen however short it is.
            let wide = (x(until) - x(from)).max(1.0);
            writeln!(
                to,
                "<rect class=\"gap\" x=\"{:.1}\" width=\"{wide:.1}\" height=\"{HEIGHT}\" fill=\"#f3c9a8\"/>",
                x(from)
            )?;
        }
        write!(
            to,
            "<rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>"
        )?;
        if low < 0.0 && high > 0.0 {
            write!(to, "<path d=\"M0 {:.1} H{width}\" stroke=\"#bbb\"/>", y(0.0))?;
        }
        to.push('\n');
        for second in ticks(0.0, self.seconds, 8) {
            let at = x(second);
            writeln!(
                to,
                "<path d=\"M{at:.1} {HEIGHT} v4\" stroke=\"#888\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{} s</text>",
                HEIGHT + 17.0,
                number(second)
            )?;
        }
        for value in ticks(low, high, 5) {
            writeln!(
                to,
                "<path d=\"M-4 {0:.1} h4\" stroke=\"#888\"/><text x=\"-8\" y=\"{1:.1}\" text-anchor=\"end\">{2} {3}</text>",
                y(value),
                y(value) + 4.0,
                label(value),
                escaped(&self.unit)
            )?;
        }
        for &cut in &self.cuts {
            let at = x(cut);
            writeln!(
                to,
                "<path d=\"M{at:.1} 0 V{HEIGHT}\" stroke=\"#444\" stroke-dasharray=\"5 4\"/>"
            )?;
        }
        for line in &self.lines {
            let points = path(line.iter().map(|&(at, value)| (x(at), y(value))));
            // Round ends: a sample between two that are missing is a dot, else nothing.
            writeln!(
                to,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{UP}\" stroke-linecap=\"round\"/>"
            )?;
        }
        for dots in &self.dots {
            let colour = if dots.is_up { UP } else { DOWN };
            write!(
                to,
                "<path fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.4\" stroke-linecap=\"round\" d=\""
            )?;
            // What lies beyond the edge is left out: at the edge it would look like a value.
            for &(at, value) in dots.points.iter().filter(|point| point.1.abs() <= reach) {
                write!(to, "M{:.1} {:.1}h0", x(at), y(value))?;
            }
            to.push_str("\"/>\n");
        }
        Ok(())
    }
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    points.join(" ")
}

/// Round numbers between two ends, about so many.
pub fn ticks(from: f64, to: f64, about: usize) -> Vec<f64> {
    let step = (to - from) / about.max(1) as f64;
    if !step.is_finite() || step <= 0.0 {
        return Vec::new();
    }
    let power = 10f64.powf(step.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|round| round * power);
    let step = steps.into_iter().find(|&round| round >= step).unwrap_or(steps[3]);
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(|at| at as f64 * step).collect()
}

/// A value beside its axis: very small and very large ones by their power of ten.
fn label(value: f64) -> String {
    match value == 0.0 || (1e-2..1e7).contains(&value.abs()) {
        true => number(value),
        // Of a round number three digits are more than there are.
        false => format!("{:e}", format!("{value:.2e}").parse().unwrap_or(value)),
    }
}

/// Without the digits that only rounding made.
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(-3.7, 3.7, 5), [-2.0, 0.0, 2.0]);
        assert_eq!(ticks(0.0, 0.0, 5), [0.0; 0]);
        assert_eq!(ticks(0.0, f64::INFINITY, 5), [0.0; 0]);
        assert_eq!([number(-0.0), number(2.50), number(100.0)], ["0", "2.5", "100"]);
        assert_eq!([label(0.005), label(-2e9), label(0.5)], ["5e-3", "-2e9", "0.5"]);
    }

    #[test]
    fn a_page_is_well_formed_whatever_the_names_and_numbers() {
        let mut band = Band::default();
        band.push(0.0, f64::NEG_INFINITY, f64::INFINITY);
        band.push(10.0, -5.0, 5.0);
        assert_eq!(band.widest(), 5.0);
        let panel = Panel {
            title: "a<b & c>".into(),
            unit: "us".to_owned(),
            shades: vec![(2.0, 2.0)],
            seconds: 10.0,
            reach: Some(6.5),
            lines: vec![vec![(0.0, 1.0), (10.0, -1.0)]],
            band: Some(band),
            dots: vec![Dots {
                is_up: false,
                points: vec![(5.0, -6.0), (5.0, -1e9)],
            }],
            cuts: vec![4.0],
            range: None,
        };
        let page = page(
            "t",
            &[
                panel,
                Panel {
                    seconds: 1.0,
                    ..Panel::default()
                },
            ],
        );
        assert!(page.contains("a&lt;b &amp; c&gt;"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        assert_eq!(page.matches("h0").count(), 1, "the far one is left out: {page}");
        for tag in ["svg", "g", "text"] {
            assert_eq!(
                page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count(),
                page.matches(&format!("</{tag}>")).count(),
                "{tag}"
            );
        }
    }
}
