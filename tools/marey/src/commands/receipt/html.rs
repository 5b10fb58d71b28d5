//! A receipt as one page: no script, no network, every text escaped. It says what the JSON says, and shows each stream over time:
//! samples, gaps coloured by their cause, and the bound of its clock.

use super::picture::{Picture, colour};
use super::text::{bound, known, utc_within};
use super::view::{StreamView, View};
use crate::output::plain;
use crate::svg::escaped;
use marey_format::types::hex;
use std::fmt::Write;

/// The page.
pub fn page(view: &View, pictures: &[Picture]) -> String {
    let title = format!(
        "Receipt of session {}, generation {}",
        view.session, view.generation
    );
    let mut page = format!(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
        text(&title)
    );
    head(view, &mut page);
    streams(view, &mut page);
    gaps(view, &mut page);
    for picture in pictures {
        picture.draw(&mut page);
    }
    clocks(view, &mut page);
    ties(view, &mut page);
    for (title, sentences) in [
        ("What it proves", &view.proves),
        ("What it does not prove", &view.does_not_prove),
    ] {
        list(title, sentences.iter().map(String::as_str), &mut page);
    }
    page.push_str("</body>\n</html>\n");
    page
}

/// Text of anybody's as a page may hold it.
pub fn text(of: &str) -> String {
    escaped(&plain(of))
}

fn head(view: &View, to: &mut String) {
    let said = match view.complete {
        true => "<p class=\"good\">Complete: every number is known, and nothing is missing.</p>\n".to_owned(),
        false => format!(
            "<p class=\"bad\">Incomplete: {}.</p>\n",
            text(&view.reasons.join("; "))
        ),
    };
    to.push_str(&said);
    if !view.owing.is_empty() {
        list(
            "Have not stated their totals",
            view.owing.iter().map(|device| device.as_str()),
            to,
        );
    }
}

fn streams(view: &View, to: &mut String) {
    let head = [
        "device",
        "stream",
        "captured",
        "received",
        "durable",
        "in Parquet",
        "missing",
        "after the stop",
        "logs retired",
        "bound us",
        "digest fits",
    ];
    let row = |stream: &StreamView| {
        vec![
            stream.device.to_string(),
            stream.stream.clone(),
            known(stream.captured),
            known(stream.received),
            stream.durable.to_string(),
            stream.parquet.to_string(),
            known(stream.missing),
            stream.after_stop.to_string(),
            stream.retired.to_string(),
            bound(stream.time_err_us_max),
            stream
                .digest_ok
                .map_or("unknown", |fits| if fits { "yes" } else { "NO" })
                .to_owned(),
        ]
    };
    table("Streams", &head, view.streams.iter().map(row), to);
    if let Some(retired) = &view.retired {
        paragraph(
            &format!(
                "The logs were retired: {} samples in {} bytes, each of which stood in the Parquet of generation {} ({}).",
                retired.samples, retired.bytes, retired.generation, retired.rule
            ),
            to,
        );
    }
}

fn gaps(view: &View, to: &mut String) {
    let mut rows = Vec::new();
    for stream in &view.streams {
        for cause in &stream.causes {
            let (gaps, samples) = (cause.gaps.to_string(), cause.samples.to_string());
            rows.push(vec![
                stream.device.to_string(),
                stream.stream.clone(),
                cause.cause.clone(),
                gaps,
                samples,
            ]);
        }
    }
    if rows.is_empty() {
        paragraph("No gaps.", to);
        return;
    }
    table(
        "Gaps",
        &["device", "stream", "cause", "gaps", "samples"],
        rows.into_iter(),
        to,
    );
    let mut causes: Vec<&str> = Vec::new();
    for cause in view.streams.iter().flat_map(|stream| &stream.causes) {
        if !causes.contains(&cause.cause.as_str()) {
            causes.push(&cause.cause);
        }
    }
    to.push_str("<p>");
    for cause in causes {
        write!(
            to,
            "<span class=\"key\" style=\"background:{}\"></span>{} ",
            colour(cause),
            text(cause)
        )
        .expect("text takes it");
    }
    to.push_str("</p>\n");
}

fn clocks(view: &View, to: &mut String) {
    let time = &view.time;
    let how = match time.utc_synchronised {
        true => "was synchronised",
        false => "nothing synchronised",
    };
    paragraph(
        &format!(
            "Session time begins at {} UTC, {}, by a clock that {how}. Bounds hold for clocks that drift by {} ppm at most.",
            time.anchor,
            utc_within(time.utc_error_ns),
            time.max_drift_ppm
        ),
        to,
    );
    if !time.warnings.is_empty() {
        list("Warnings of clocks", time.warnings.iter().map(String::as_str), to);
    }
}

fn ties(view: &View, to: &mut String) {
    let mut rows = vec![
        vec![
            "receipt, SHA-256 (deposit it elsewhere)".to_owned(),
            view.sha256.clone(),
        ],
        vec!["manifest.json, SHA-256".to_owned(), view.manifest.sha256.clone()],
    ];
    if let Some(previous) = &view.previous {
        rows.push(vec![
            format!("{}, SHA-256", previous.receipt),
            previous.sha256.clone(),
        ]);
    }
    if let Some(audit) = &view.audit {
        rows.push(vec![
            "audit log".to_owned(),
            format!(
                "record {} of hub {}, hash {}",
                audit.head.seq,
                audit.hub,
                hex(&audit.head.hash)
            ),
        ]);
    }
    rows.push(match (&view.signer, &view.unsigned) {
        (Some(signer), _) => vec![
            "signed by the key with SHA-256".to_owned(),
            signer.key_sha256.clone(),
        ],
        (None, why) => vec![
            "not signed".to_owned(),
            why.clone()
                .unwrap_or_else(|| "an earlier version wrote it".to_owned()),
        ],
    });
    table("What ties it", &["what", "value"], rows.into_iter(), to);
    let files = view.files.iter().flatten().map(|file| {
        let hash = file.sha256.as_ref().map(|hash| format!("SHA-256 {hash}"));
        let hash = hash.or_else(|| file.blake3.as_ref().map(|hash| format!("BLAKE3 {hash}")));
        let cut = file.cut.as_ref();
        let hash =
            hash.or_else(|| cut.map(|cut| format!("BLAKE3 of its first {} bytes {}", cut.bytes, cut.blake3)));
        vec![
            file.path.clone(),
            file.bytes.to_string(),
            hash.unwrap_or_else(|| "none: it was still growing, or could not be read whole".to_owned()),
        ]
    });
    if view.files.is_some() {
        table("Files", &["path", "bytes", "hash"], files, to);
    } else {
        paragraph("The files of this generation were replaced by a later one.", to);
    }
}

fn paragraph(sentence: &str, to: &mut String) {
    writeln!(to, "<p>{}</p>", text(sentence)).expect("text takes it");
}

fn list<'a>(title: &str, items: impl Iterator<Item = &'a str>, to: &mut String) {
    writeln!(to, "<h2>{}</h2>\n<ul>", text(title)).expect("text takes it");
    for item in items {
        writeln!(to, "<li>{}</li>", text(item)).expect("text takes it");
    }
    to.push_str("</ul>\n");
}

fn table(title: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>, to: &mut String) {
    let head = line(head.iter().copied(), "th");
    write!(
        to,
        "<h2>{}</h2>\n<table>\n<thead>{head}</thead>\n<tbody>\n",
        text(title)
    )
    .expect("text takes it");
    for row in rows {
        to.push_str(&line(row.iter().map(String::as_str), "td"));
    }
    to.push_str("</tbody>\n</table>\n");
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, tag: &str) -> String {
    let cells: Vec<String> = cells
        .map(|cell| format!("<{tag}>{}</{tag}>", text(cell)))
        .collect();
    format!("<tr>{}</tr>\n", cells.concat())
}

const STYLE: &str = "body{font:14px sans-serif;margin:2em auto;max-width:64em;color:#222;background:#fff}\
table{border-collapse:collapse}th,td{border:1px solid #bbb;padding:.2em .6em;text-align:left;word-break:break-all}\
th{background:#eee}.good{color:#060;font-weight:bold}.bad{color:#900;font-weight:bold}\
.key{display:inline-block;width:1em;height:1em;margin:0 .3em 0 .9em;vertical-align:text-bottom}\
svg{max-width:100%;height:auto}";

#[cfg(test)]
mod tests {
    use super::super::picture::GapMark;
    use super::*;
    use marey_engine::read::Stretch;

    /// What a receipt of anybody's may hold.
    fn view() -> View {
        let json = serde_json::json!({
            "captured": "2500", "durable": "2040", "parquet": "2030", "missing": "470",
        });
        let receipt = serde_json::json!({
            "v": 1, "marey": "0", "session": "walk", "generation": 3, "complete": false,
            "reasons": ["1 <streams> have \"gaps\" & more"], "owing": ["watch"],
            "streams": [{
                "device": "phone", "stream": "imu@1", "captured": json["captured"], "durable": json["durable"],
                "parquet": json["parquet"], "missing": json["missing"], "after_stop": "7", "digest_ok": null,
                "time_err_us_max": 1234.5, "gap_count": 2,
                "causes": [{"cause": "device off", "gaps": 1, "samples": "460"},
                           {"cause": "<script>alert(1)</script>\u{1}", "gaps": 1, "samples": "10"}],
                "gaps": [], "complete": false,
            }],
            "kept_out": [], "damage": [], "notes": [],
            "time": {"anchor": "2026-11-21T08:00:00Z", "utc_error_ns": "5000000", "utc_synchronised": false,
                     "max_drift_ppm": 100.0, "warnings": ["a clock <stood> still"]},
            "manifest": {"bytes": "10", "blake3": "ab", "sha256": "cd"},
            "previous": {"receipt": "receipt-0002.json", "sha256": "ef01"},
        });
        View::of(
            serde_json::from_value(receipt).expect("a receipt"),
            b"bytes",
            "/s/receipt-0003.json".into(),
            None,
            None,
        )
    }

    fn pictures() -> Vec<Picture> {
        let mut strip = vec![Stretch::default(); 10];
        strip[2] = Stretch {
            samples: 5,
            err_us_max: Some(f32::INFINITY),
        };
        strip[3] = Stretch {
            samples: 9,
            err_us_max: Some(40.0),
        };
        let mark = |cause: &str, from, until| GapMark {
            from_us: from,
            until_us: until,
            cause: cause.to_owned(),
            samples: 460,
        };
        vec![Picture {
            title: "imu@1 of <phone>".to_owned(),
            span_us: (0, 1_000_000),
            strip,
            gaps: vec![mark("device off", 300_000, 500_000), mark("<new>", 0, 0)],
            gaps_left_out: 3,
        }]
    }

    #[test]
    fn a_page_is_well_formed_escaped_and_holds_what_the_json_holds() {
        let view = view();
        let page = page(&view, &pictures());
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        };
        let parsed = roxmltree::Document::parse_with_options(&page, options).expect("well formed");
        let cells: Vec<String> = parsed
            .descendants()
            .filter(|node| node.tag_name().name() == "td")
            .map(|node| node.text().unwrap_or_default().to_owned())
            .collect();
        for stream in &view.streams {
            for number in [
                stream.captured,
                stream.received,
                Some(stream.durable),
                Some(stream.parquet),
                stream.missing,
            ] {
                assert!(cells.contains(&known(number)), "{number:?} in {cells:?}");
            }
            for cause in &stream.causes {
                assert!(cells.contains(&plain(&cause.cause)) && cells.contains(&cause.samples.to_string()));
            }
        }
        for value in [
            &view.sha256,
            &view.manifest.sha256,
            "ef01",
            "receipt-0002.json, SHA-256",
        ] {
            assert!(cells.iter().any(|cell| cell == value), "{value}");
        }
        let all: String = parsed.descendants().filter_map(|node| node.text()).collect();
        for sentence in view
            .reasons
            .iter()
            .chain(&view.time.warnings)
            .chain(&view.proves)
            .chain(&view.does_not_prove)
        {
            assert!(all.contains(sentence.as_str()), "{sentence}");
        }
        assert!(
            !page.contains("<script") && !page.contains("NaN") && !page.contains("inf\""),
            "{page}"
        );
        // Nothing is fetched: the one address is the name of a language.
        assert_eq!(
            page.matches("http").count(),
            page.matches("http://www.w3.org/").count() + page.matches("http-equiv").count()
        );
        assert!(!page.contains("src=") && !page.contains("href="));
    }

    #[test]
    fn a_picture_shows_samples_gaps_by_colour_and_the_bound() {
        let page = page(&view(), &pictures());
        assert_eq!(page.matches("class=\"samples\"").count(), 2, "{page}");
        assert_eq!(page.matches("class=\"gap\"").count(), 2, "{page}");
        assert!(page.contains(colour("device off")) && page.contains(colour("<new>")));
        assert!(page.contains("&lt;new&gt;: 460 samples") && page.contains("imu@1 of &lt;phone&gt;"));
        assert!(
            page.contains("class=\"bound\"") && page.contains("3 more gaps"),
            "{page}"
        );
    }
}
