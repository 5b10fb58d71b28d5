//! What a check came to: pairs of streams, what explains their lags, and the words for it.
//!
//! Owns: which pairs can be judged, and why not; JSON, CSV, tables. Does not own: finding events and lags.

use super::{Check, Looked, Published};
use crate::commands::clock::lags::{self, Residual, Verdict};
use crate::output::table;
use marey_format::SessionId;
use serde::Serialize;
use std::fmt::Write as _;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    session: SessionId,
    within_ms: f64,
    streams: Vec<StreamReport>,
    pairs: Vec<PairReport>,
    left_out: Vec<LeftOut>,
    /// Common events with bounds, of pairs that were judged, and those of them that nothing claimed explains.
    judged: usize,
    unexplained: usize,
    /// Whether something was judged, everything that was asked for by name was, and all of it is explained.
    pub(super) explained: bool,
}

/// What was found in a stream.
#[derive(Debug, Serialize)]
pub(super) struct StreamReport {
    /// As it can be given to `--stream`.
    pub(super) stream: String,
    pub(super) channels: Vec<String>,
    pub(super) samples: u64,
    pub(super) rate_hz: Option<f64>,
    pub(super) events: usize,
    /// Events that were left out: weaker than a tenth of the third strongest, or cut by a hole in time.
    pub(super) faint: u64,
    pub(super) cut: u64,
    /// Holes in time and changes of epoch.
    pub(super) holes: u64,
    pub(super) declared_latency_us: Option<f64>,
    #[serde(skip)]
    pub(super) is_named: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct PairReport {
    a: String,
    b: String,
    /// Events that both felt; where two might be meant, none was taken.
    common: usize,
    ambiguous: usize,
    /// Events of each in the time that both know.
    events_a: usize,
    events_b: usize,
    /// Of the differences of both times (b less a): the median, 1.4826 times the median distance from it, and the one that is
    /// farthest from 0.
    median_us: Option<f64>,
    spread_us: Option<f64>,
    worst_us: Option<f64>,
    /// The medians over the events: what both times claim, and half of each stream's spacing of samples.
    bound_us: Option<f64>,
    resolution_us: Option<f64>,
    unexplained: usize,
    /// Events whose times claim no bound, so that nothing can contradict it.
    unbounded: usize,
    /// The worst of its events'; none where the pair was not judged.
    verdict: Option<Verdict>,
    why_not: Option<String>,
    events: Vec<EventReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct EventReport {
    time: String,
    residual_us: f64,
    /// None where a time has no bound.
    bound_us: Option<f64>,
    resolution_us: f64,
    likeness: f64,
    /// `shape` where the residual is that of the best correlation, `onset` where the two do not look alike.
    by: &'static str,
    verdict: Verdict,
}

#[derive(Debug, Serialize)]
pub(super) struct LeftOut {
    pub(super) stream: String,
    pub(super) why: String,
}

pub(super) fn report(
    check: &Check,
    published: &Published<'_>,
    looked: Vec<Looked>,
    left_out: Vec<LeftOut>,
) -> Report {
    let mut pairs = Vec::new();
    for (at, a) in looked.iter().enumerate() {
        pairs.extend(looked[at + 1..].iter().map(|b| pair(check, published, a, b)));
    }
    let mut report = Report {
        session: check.session.clone(),
        within_ms: check.within,
        judged: judged(&pairs).map(|pair| pair.common - pair.unbounded).sum(),
        unexplained: judged(&pairs).map(|pair| pair.unexplained).sum(),
        explained: false,
        streams: looked.into_iter().map(|looked| looked.report).collect(),
        pairs,
        left_out,
    };
    let lonely: Vec<(&StreamReport, String)> = report
        .streams
        .iter()
        .filter(|stream| {
            !judged(&report.pairs).any(|pair| pair.a == stream.stream || pair.b == stream.stream)
        })
        .map(|stream| (stream, report.why_lonely(stream)))
        .collect();
    let is_missed = lonely.iter().any(|(stream, _)| stream.is_named);
    let lonely: Vec<LeftOut> = lonely
        .into_iter()
        .map(|(stream, why)| LeftOut {
            stream: stream.stream.clone(),
            why,
        })
        .collect();
    report.left_out.extend(lonely);
    report.explained = report.judged > 0 && report.unexplained == 0 && !is_missed;
    report
}

fn judged(pairs: &[PairReport]) -> impl Iterator<Item = &PairReport> {
    pairs.iter().filter(|pair| pair.verdict.is_some())
}

fn pair(check: &Check, published: &Published<'_>, a: &Looked, b: &Looked) -> PairReport {
    let matched = lags::matched(a.seen(), b.seen(), check.within * 1e3);
    let residuals: Vec<Residual> = matched
        .common
        .iter()
        .map(|&(of_a, of_b)| lags::judge(&a.found.events[of_a], &b.found.events[of_b]))
        .collect();
    let [events_a, events_b] = matched.of_each;
    let fewer = events_a.min(events_b);
    let of_all = |value: fn(&Residual) -> f64| -> Vec<f64> { residuals.iter().map(value).collect() };
    let count = |verdict| {
        residuals
            .iter()
            .filter(|residual| residual.verdict == verdict)
            .count()
    };
    let (unexplained, unbounded) = (count(Verdict::Unexplained), count(Verdict::Unbounded));
    let why_not = if a.found.overfull || b.found.overfull {
        Some("too many events; narrow --window or raise --threshold".to_owned())
    } else if residuals.len() < LEAST {
        let common = residuals.len();
        Some(format!("{common} common events, {LEAST} are needed"))
    } else if 2 * (residuals.len() + matched.ambiguous) < fewer {
        let common = residuals.len();
        Some(format!(
            "only {common} of {fewer} events are common, which may be chance; narrow --window to the taps"
        ))
    } else if residuals.len() < LEAST + unbounded {
        Some(format!(
            "{unbounded} of {} common events have times that claim no bound",
            residuals.len()
        ))
    } else {
        None
    };
    let lags_us = of_all(|residual| residual.lag.us);
    let (median_us, spread_us) = lags::middle_and_spread(&lags_us).unzip();
    let worst_us = lags_us.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let worst = match () {
        () if unexplained > 0 => Verdict::Unexplained,
        () if count(Verdict::Resolution) > 0 => Verdict::Resolution,
        () => Verdict::Bounds,
    };
    PairReport {
        a: a.report.stream.clone(),
        b: b.report.stream.clone(),
        common: residuals.len(),
        ambiguous: matched.ambiguous,
        events_a,
        events_b,
        median_us: median_us.map(tenth),
        spread_us: spread_us.map(tenth),
        worst_us: worst_us.map(tenth),
        bound_us: lags::median(of_all(|residual| residual.bound_us)).and_then(known),
        resolution_us: lags::median(of_all(|residual| residual.resolution_us)).map(tenth),
        unexplained,
        unbounded,
        verdict: why_not.is_none().then_some(worst),
        why_not,
        events: residuals
            .iter()
            .map(|residual| EventReport {
                time: published.time(residual.at_us),
                residual_us: tenth(residual.lag.us),
                bound_us: known(residual.bound_us),
                resolution_us: tenth(residual.resolution_us),
                likeness: (residual.lag.likeness * 1e3).round() / 1e3,
                by: if residual.lag.by_shape { "shape" } else { "onset" },
                verdict: residual.verdict,
            })
            .collect(),
    }
}

impl Report {
    /// Why a stream was compared with no other, and what to do.
    fn why_lonely(&self, stream: &StreamReport) -> String {
        let again = "tap again, at least 3 taps half a second apart, with all devices on one table";
        if stream.samples == 0 {
            return "no sample lies in the window".to_owned();
        }
        if stream.events < LEAST {
            let less = "or lower --threshold if they were felt weakly";
            let holes = match stream.holes {
                0 => String::new(),
                holes => format!(", and {holes} holes in time around which nothing can be seen"),
            };
            return format!("{}{holes}; {again}, {less}", events(stream.events));
        }
        let of_it = |pair: &&PairReport| pair.a == stream.stream || pair.b == stream.stream;
        let best = self.pairs.iter().filter(of_it).max_by_key(|pair| pair.common);
        match best {
            Some(pair) if pair.common < LEAST => format!(
                "{}, of which {} in common with any other; {again}, or give --within more than {} ms if its times may \
                 be that wrong",
                events(stream.events),
                pair.common,
                self.within_ms
            ),
            Some(pair) => pair.why_not.clone().unwrap_or_default(),
            None => again.to_owned(),
        }
    }

    /// What is said where it is not all explained.
    pub(super) fn fault(&self) -> String {
        if self.unexplained > 0 {
            return format!(
                "{} of {} residuals are larger than bounds and resolution explain; what is left may be a sensor's latency, a \
                 filter, or a wrong bound (docs/time.md, \"Measure it\")",
                self.unexplained, self.judged
            );
        }
        let lonely = self.left_out.iter().find(|left| {
            let mut streams = self.streams.iter();
            streams.any(|stream| stream.stream == left.stream && (stream.is_named || self.judged == 0))
        });
        match lonely {
            Some(LeftOut { stream, why }) => format!("nothing was measured of {stream}: {why}"),
            None => "nothing was measured".to_owned(),
        }
    }
}

/// Columns of the table of events.
pub(super) const COLUMNS: &str = "a,b,time,residual_us,bound_us,resolution_us,likeness,by,verdict\n";

pub(super) fn csv(report: &Report) -> String {
    let mut csv = COLUMNS.to_owned();
    for pair in &report.pairs {
        for event in &pair.events {
            let bound = event
                .bound_us
                .map_or("inf".to_owned(), |bound_us| bound_us.to_string());
            let _string_takes_all = writeln!(
                csv,
                "{},{},{},{},{bound},{},{},{},{}",
                pair.a,
                pair.b,
                event.time,
                event.residual_us,
                event.resolution_us,
                event.likeness,
                event.by,
                word(event.verdict)
            );
        }
    }
    csv
}

pub(super) fn show(report: &Report) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let rows: Vec<_> = report
        .streams
        .iter()
        .map(|stream| {
            vec![
                stream.stream.clone(),
                stream.samples.to_string(),
                number(stream.rate_hz),
                stream.events.to_string(),
                stream.faint.to_string(),
                stream.cut.to_string(),
                stream.holes.to_string(),
            ]
        })
        .collect();
    let mut text = table(
        &["stream", "samples", "Hz", "events", "faint", "cut", "holes"],
        &rows,
    );
    let rows: Vec<_> = judged(&report.pairs)
        .map(|pair| {
            vec![
                pair.a.clone(),
                pair.b.clone(),
                pair.common.to_string(),
                number(pair.median_us),
                number(pair.spread_us),
                number(pair.worst_us),
                number(pair.bound_us),
                number(pair.resolution_us),
                verdict(pair),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = [
            "a",
            "b",
            "common",
            "median us",
            "spread us",
            "worst us",
            "bound us",
            "resolution us",
            "explained by",
        ];
        text.push_str("\n\nTimes of the same event, b's less a's:\n\n");
        text.push_str(&table(&head, &rows));
    }
    let mut notes = Vec::new();
    let with_names = |pair: &PairReport| format!("{} and {}", pair.a, pair.b);
    for pair in judged(&report.pairs).filter(|pair| pair.ambiguous > 0) {
        let names = with_names(pair);
        notes.push(format!(
            "{names}: {} events left out, as two might be meant",
            pair.ambiguous
        ));
    }
    for pair in judged(&report.pairs).filter(|pair| pair.unbounded > 0) {
        let names = with_names(pair);
        notes.push(format!(
            "{names}: {} events not judged, as their times claim no bound",
            pair.unbounded
        ));
    }
    for left in &report.left_out {
        notes.push(format!("not compared: {}: {}", left.stream, left.why));
    }
    let of_streams = |pair: &&PairReport| pair.verdict.is_none() && !report.is_left_out(&pair.a);
    for pair in report
        .pairs
        .iter()
        .filter(of_streams)
        .filter(|pair| !report.is_left_out(&pair.b))
    {
        let why = pair.why_not.as_deref().unwrap_or_default();
        notes.push(format!("not judged: {}: {why}", with_names(pair)));
    }
    let bad = judged(&report.pairs).flat_map(|pair| pair.events.iter().map(move |event| (pair, event)));
    let bad: Vec<_> = bad
        .filter(|(_, event)| event.verdict == Verdict::Unexplained)
        .collect();
    for (pair, event) in bad.iter().take(SHOWN_MAX) {
        notes.push(format!(
            "not explained: {}: {} us at {}, beyond {} us of bounds and {} us of resolution",
            with_names(pair),
            event.residual_us,
            event.time,
            number(event.bound_us),
            number(Some(event.resolution_us))
        ));
    }
    if bad.len() > SHOWN_MAX {
        notes.push(format!("{} more; --out has every event", bad.len() - SHOWN_MAX));
    }
    if !notes.is_empty() {
        text.push_str("\n\n");
        text.push_str(&notes.join("\n"));
    }
    if report.explained {
        let _string_takes_all = write!(
            text,
            "\n\nAll {} residuals are explained by the bounds, or by them and half a sample of each stream.",
            report.judged
        );
    }
    text
}

impl Report {
    fn is_left_out(&self, stream: &str) -> bool {
        self.left_out.iter().any(|left| left.stream == stream)
    }
}

fn verdict(pair: &PairReport) -> String {
    match pair.verdict {
        Some(Verdict::Unexplained) => format!("NOTHING ({} of {})", pair.unexplained, pair.common),
        Some(verdict) => word(verdict).to_owned(),
        None => String::new(),
    }
}

/// As in JSON.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Bounds => "bounds",
        Verdict::Resolution => "resolution",
        Verdict::Unexplained => "unexplained",
        Verdict::Unbounded => "unbounded",
    }
}

fn events(count: usize) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

fn known(value: f64) -> Option<f64> {
    value.is_finite().then(|| tenth(value))
}

pub(super) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Common events without which a pair is not judged.
const LEAST: usize = 3;
/// Events that are shown one by one.
const SHOWN_MAX: usize = 20;
