//! What `marey receipt` says, for people.

use super::view::View;
use crate::output::{plain, table};

/// Causes that are listed in text; the rest is counted.
const CAUSES_SHOWN: usize = 100;

pub fn show(view: &View) -> String {
    let mut lines = vec![head(view), String::new(), streams(view)];
    lines.extend(missing(view));
    lines.push(String::new());
    lines.extend(clocks(view));
    lines.push(String::new());
    lines.extend(ties(view));
    for (title, sentences) in [
        ("What it proves", &view.proves),
        ("What it does not prove", &view.does_not_prove),
    ] {
        lines.push(format!("\n{title}"));
        lines.extend(sentences.iter().map(|sentence| format!("  {sentence}")));
    }
    lines.join("\n")
}

fn head(view: &View) -> String {
    let said = match view.complete {
        true => "complete".to_owned(),
        false => format!("incomplete: {}", view.reasons.join("; ")),
    };
    let mut head = format!("session {}, generation {}: {said}", view.session, view.generation);
    if !view.owing.is_empty() {
        let owing: Vec<String> = view.owing.iter().map(ToString::to_string).collect();
        head += &format!("\nhave not stated their totals: {}", owing.join(", "));
    }
    head
}

fn streams(view: &View) -> String {
    let columns = [
        "device", "stream", "captured", "received", "durable", "parquet", "missing", "bound us", "digest",
    ];
    let row = |stream: &super::view::StreamView| {
        let digest = match stream.digest_ok {
            Some(true) => "fits",
            Some(false) => "DIFFERS",
            None => "unknown",
        };
        vec![
            plain(stream.device.as_str()),
            plain(&stream.stream),
            known(stream.captured),
            known(stream.received),
            stream.durable.to_string(),
            stream.parquet.to_string(),
            known(stream.missing),
            bound(stream.time_err_us_max),
            digest.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = view.streams.iter().map(row).collect();
    table(&columns, &rows)
}

fn missing(view: &View) -> Vec<String> {
    let mut rows = Vec::new();
    for stream in &view.streams {
        for cause in &stream.causes {
            let (gaps, samples) = (cause.gaps.to_string(), cause.samples.to_string());
            rows.push(vec![
                plain(stream.device.as_str()),
                plain(&stream.stream),
                plain(&cause.cause),
                gaps,
                samples,
            ]);
        }
    }
    let mut lines = vec![String::new()];
    if rows.is_empty() {
        lines.push("no gaps".to_owned());
    } else {
        let more = rows.len().saturating_sub(CAUSES_SHOWN);
        rows.truncate(CAUSES_SHOWN);
        lines.push(table(&["device", "stream", "cause", "gaps", "samples"], &rows));
        if more > 0 {
            lines.push(format!("and {more} more; --json has all of them"));
        }
    }
    if let Some(retired) = &view.retired {
        lines.push(format!(
            "logs retired: {} samples, each of which stood in Parquet ({})",
            retired.samples,
            plain(&retired.rule)
        ));
    }
    lines
}

/// How well UTC is known; not at all where the bound is one of years.
pub(super) fn utc_within(error_ns: i64) -> String {
    const DAY_NS: i64 = 86_400_000_000_000;
    match error_ns > 365 * DAY_NS {
        true => format!("to {} years: nothing says when it was", error_ns / (365 * DAY_NS)),
        false => format!("to {:.3} ms", error_ns as f64 / 1e6),
    }
}

fn clocks(view: &View) -> Vec<String> {
    let time = &view.time;
    let how = if time.utc_synchronised {
        "by a clock that was synchronised"
    } else {
        "by a clock that nothing synchronised"
    };
    let mut lines = vec![format!(
        "time: from {} UTC, {}, {how}; bounds hold for clocks that drift by {} ppm at most",
        time.anchor,
        utc_within(time.utc_error_ns),
        time.max_drift_ppm
    )];
    lines.extend(
        time.warnings
            .iter()
            .map(|warning| format!("  {}", plain(warning))),
    );
    lines
}

fn ties(view: &View) -> Vec<String> {
    let mut lines = vec![
        format!("receipt   {}", view.receipt.display()),
        format!("SHA-256   {}   (deposit this elsewhere)", view.sha256),
        format!("manifest  SHA-256 {}", view.manifest.sha256),
    ];
    lines.push(match &view.files {
        Some(files) => format!(
            "files     {} that the manifest names; --json has their hashes",
            files.len()
        ),
        None => "files     replaced by a later generation".to_owned(),
    });
    lines.push(match &view.previous {
        Some(previous) => format!(
            "before    {}, SHA-256 {}",
            plain(&previous.receipt),
            previous.sha256
        ),
        None => "before    none".to_owned(),
    });
    if let Some(audit) = &view.audit {
        lines.push(format!(
            "audit     record {} of hub {}",
            audit.head.seq, audit.hub
        ));
    }
    lines.push(match (&view.signer, &view.unsigned) {
        (Some(signer), _) => format!(
            "signed    by the key with SHA-256 {}; `marey verify --receipt` checks it",
            signer.key_sha256
        ),
        (None, Some(why)) => format!("signed    NOT: {}", plain(why)),
        (None, None) => "signed    NOT: an earlier version wrote it".to_owned(),
    });
    lines
}

pub fn known(number: Option<u64>) -> String {
    number.map_or("unknown".to_owned(), |number| number.to_string())
}

pub fn bound(us: Option<f32>) -> String {
    us.map_or("none".to_owned(), |us| us.to_string())
}
