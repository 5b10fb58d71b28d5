//! A stream over time, for the page of a receipt: samples, gaps by cause, bound. SVG within the page.

use super::html::text;
use super::place::Place;
use super::view::View;
use crate::output::Result;
use crate::svg::{number, ticks};
use marey_engine::Session;
use marey_engine::read::{Stretch, gaps, parts, span, strip};
use marey_format::payload::StreamKey;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Stretches of a picture: about a pixel each.
const STRETCHES: usize = 800;
/// Gaps that are drawn of one stream; the rest is counted.
const GAPS_DRAWN: usize = 2_000;
/// Gaps that are read at a time.
const GAPS_PAGE: usize = 10_000;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 80.0;
const SAMPLES_HEIGHT: f64 = 40.0;
const GAPS_TOP: f64 = 44.0;
const GAPS_HEIGHT: f64 = 14.0;
const BOUND_TOP: f64 = 66.0;
const BOUND_HEIGHT: f64 = 50.0;
const BOTTOM: f64 = BOUND_TOP + BOUND_HEIGHT;

/// What is drawn of one stream.
#[derive(Debug)]
pub struct Picture {
    pub title: String,
    /// Session time, both ends in it.
    pub span_us: (i64, i64),
    pub strip: Vec<Stretch>,
    pub gaps: Vec<GapMark>,
    pub gaps_left_out: usize,
}

/// One gap.
#[derive(Debug)]
pub struct GapMark {
    pub from_us: i64,
    pub until_us: i64,
    pub cause: String,
    pub samples: i64,
}

/// The pictures of a receipt whose files stand still; none of an earlier one, or of a session that can't be read.
pub fn pictures(place: &Place, view: &View) -> Result<Vec<Picture>> {
    if view.files.is_none() {
        return Ok(Vec::new());
    }
    let disk = &*place.disk;
    let session = Session::read(disk, &place.dir)?;
    let mut marks = marks(place, &session)?;
    let mut drawn = Vec::new();
    for stream in &view.streams {
        let title = format!("{} of {}", stream.stream, stream.device);
        let (gaps, gaps_left_out) = marks.remove(&title).unwrap_or_default();
        let Some(key) = stream
            .stream
            .parse::<StreamKey>()
            .ok()
            .filter(|_| stream.parquet > 0)
        else {
            continue;
        };
        let parts = parts(disk, &session, &key, &stream.device)?;
        let Some(span_us) = span(disk, &parts)? else {
            continue;
        };
        drawn.push(Picture {
            title,
            span_us,
            strip: strip(disk, &parts, span_us, STRETCHES)?,
            gaps,
            gaps_left_out,
        });
    }
    Ok(drawn)
}

/// Gaps by the title of their stream, and how many there are too many.
fn marks(place: &Place, session: &Session) -> Result<BTreeMap<String, (Vec<GapMark>, usize)>> {
    let mut marks: BTreeMap<String, (Vec<GapMark>, usize)> = BTreeMap::new();
    let mut skip = 0;
    while let Some(page) = gaps(&*place.disk, &session.id, skip, GAPS_PAGE)?.filter(|page| !page.is_empty()) {
        skip += page.len();
        for gap in page {
            let (drawn, left_out) = marks
                .entry(format!("{} of {}", gap.stream, gap.device))
                .or_default();
            if drawn.len() >= GAPS_DRAWN {
                *left_out += 1;
                continue;
            }
            drawn.push(GapMark {
                from_us: gap.time_us,
                until_us: gap.until_us,
                cause: gap.cause,
                samples: gap.samples,
            });
        }
    }
    Ok(marks)
}

/// Colours that most eyes tell apart.
pub fn colour(cause: &str) -> &'static str {
    match cause {
        "never captured" => "#999999",
        "lost in the device's buffer" => "#d55e00",
        "network given up" => "#e69f00",
        "device off" => "#000000",
        "hub refused for lack of room" => "#cc79a7",
        "damage" => "#b00020",
        "unreadable" => "#7f3c8d",
        "kept out" => "#009e73",
        "not received" => "#56b4e9",
        _ => "#555555",
    }
}

impl Picture {
    /// Puts it on the page.
    pub fn draw(&self, to: &mut String) {
        self.write(to).expect("text takes it");
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        let height = BOTTOM + 26.0;
        writeln!(
            to,
            "<h2>{}</h2>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">",
            text(&self.title)
        )?;
        for (y, label) in [(24.0, "samples"), (55.0, "gaps"), (90.0, "bound")] {
            writeln!(to, "<text x=\"4\" y=\"{y}\">{label}</text>")?;
        }
        self.samples(to)?;
        self.gaps(to)?;
        self.bound(to)?;
        let seconds = self.span_us.1.abs_diff(self.span_us.0) as f64 / 1e6;
        for second in ticks(0.0, seconds, 8) {
            let x = LEFT + second / seconds * (WIDTH - LEFT);
            writeln!(
                to,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} s</text>",
                BOTTOM + 16.0,
                number(second)
            )?;
        }
        to.push_str("</svg>\n");
        match self.gaps_left_out {
            0 => Ok(()),
            more => writeln!(to, "<p>and {more} more gaps, which gaps.parquet has</p>"),
        }
    }

    fn samples(&self, to: &mut String) -> std::fmt::Result {
        let most = self
            .strip
            .iter()
            .map(|stretch| stretch.samples)
            .max()
            .unwrap_or(0)
            .max(1);
        for (at, stretch) in self
            .strip
            .iter()
            .enumerate()
            .filter(|(_, stretch)| stretch.samples > 0)
        {
            let tall = SAMPLES_HEIGHT * stretch.samples as f64 / most as f64;
            writeln!(
                to,
                "<rect class=\"samples\" x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{tall:.2}\" fill=\"#0072b2\"/>",
                self.x_of(at),
                SAMPLES_HEIGHT - tall,
                self.x_of(at + 1) - self.x_of(at)
            )?;
        }
        Ok(())
    }

    fn gaps(&self, to: &mut String) -> std::fmt::Result {
        for gap in &self.gaps {
            let (from, until) = (self.x(gap.from_us), self.x(gap.until_us));
            writeln!(
                to,
                "<rect class=\"gap\" x=\"{from:.2}\" y=\"{GAPS_TOP}\" width=\"{:.2}\" height=\"{GAPS_HEIGHT}\" fill=\"{}\">\
                 <title>{}: {} samples</title></rect>",
                (until - from).max(1.0),
                colour(&gap.cause),
                text(&gap.cause),
                gap.samples
            )?;
        }
        Ok(())
    }

    /// Where a bound has no end there is no line.
    fn bound(&self, to: &mut String) -> std::fmt::Result {
        let finite = |stretch: &Stretch| stretch.err_us_max.filter(|error| error.is_finite());
        let most = self.strip.iter().filter_map(finite).fold(0.0f32, f32::max);
        writeln!(
            to,
            "<path d=\"M{LEFT} {BOUND_TOP} V{BOTTOM} H{WIDTH}\" fill=\"none\" stroke=\"#888\"/>\
             <text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{most} us</text>",
            LEFT - 6.0,
            BOUND_TOP + 9.0
        )?;
        let mut path = String::new();
        for (at, stretch) in self.strip.iter().enumerate() {
            let Some(error) = finite(stretch).filter(|_| most > 0.0) else {
                continue;
            };
            let y = BOTTOM - BOUND_HEIGHT * f64::from(error / most);
            write!(path, "M{:.2} {y:.2}H{:.2}", self.x_of(at), self.x_of(at + 1))?;
        }
        match path.is_empty() {
            true => Ok(()),
            false => writeln!(
                to,
                "<path class=\"bound\" d=\"{path}\" fill=\"none\" stroke=\"#d55e00\" stroke-width=\"1.5\"/>"
            ),
        }
    }

    fn x_of(&self, stretch: usize) -> f64 {
        LEFT + (WIDTH - LEFT) * stretch as f64 / self.strip.len().max(1) as f64
    }

    fn x(&self, time_us: i64) -> f64 {
        let (from, until) = self.span_us;
        let at = time_us.clamp(from, until.max(from)).abs_diff(from);
        LEFT + (WIDTH - LEFT) * at as f64 / (until.abs_diff(from) + 1) as f64
    }
}
