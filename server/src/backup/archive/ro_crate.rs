//! What describes an archive: `ro-crate-metadata.json` as RO-Crate 1.1 has it (<https://w3id.org/ro/crate/1.1>), and a page for
//! whoever opens it and knows nothing of us.

use super::SPECIFICATION;
use marey_engine::Session;
use marey_engine::compact::Manifest;
use marey_format::Declaration;
use marey_format::documents::DOCUMENTS;
use marey_format::types::rfc3339;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The name that RO-Crate asks for.
pub(super) const METADATA: &str = "ro-crate-metadata.json";

/// A file of an archive.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Below the archive's root.
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// The metadata, of a session whose files are these, with the streams' declarations by device and name.
pub(super) fn described(
    session: &Session,
    manifest: &Manifest,
    declarations: &BTreeMap<(String, String), Declaration>,
    entries: &[Entry],
    archived_us: i64,
) -> Vec<u8> {
    let folder = format!("session={}", session.id);
    let (mut graph, mut variables, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut in_stream: BTreeMap<String, String> = BTreeMap::new();
    for fact in &manifest.streams {
        let Some(first) = fact.parts.first() else { continue };
        let Some((below, _)) = first.path.rsplit_once('/') else {
            continue;
        };
        let of = format!("{folder}/{below}/");
        let named: Vec<String> = fact
            .parts
            .iter()
            .map(|part| format!("{folder}/{}", part.path))
            .collect();
        in_stream.extend(named.iter().map(|name| (name.clone(), of.clone())));
        let declaration = declarations.get(&(fact.device.to_string(), fact.stream.clone()));
        let mut measured = Vec::new();
        for field in declaration.iter().flat_map(|declaration| &declaration.fields) {
            let id = format!("#{}.{}.{}", fact.stream, fact.device, field.name);
            let mut variable = json!({"@id": id, "@type": "PropertyValue", "name": field.name.as_str()});
            let said = [("unitText", &field.unit), ("description", &field.description)];
            for (key, text) in said {
                if let Some(text) = text {
                    variable[key] = json!(text);
                }
            }
            variables.push(variable);
            measured.push(id);
        }
        graph.push(json!({
            "@id": of,
            "@type": "Dataset",
            "name": format!("{} of {}", fact.stream, fact.device),
            "description": format!(
                "{} samples of the stream {} of the device {}, as Parquet. `time` is aligned session time, in UTC; it is true \
                 within `time_err_us` microseconds; missing samples are missing rows.",
                fact.rows, fact.stream, fact.device
            ),
            "variableMeasured": refer(&measured),
            "hasPart": refer(&named),
        }));
        parts.push(of);
    }
    for entry in entries {
        if !in_stream.contains_key(&entry.name) {
            parts.push(entry.name.clone());
        }
        graph.push(file(entry));
    }
    let beside = [
        (
            super::README,
            "text/markdown",
            "How to open and check this archive",
        ),
        (
            super::SUMS,
            "text/plain",
            "SHA-256 of every other file, for sha256sum",
        ),
    ];
    for (name, kind, what) in beside {
        graph.push(json!({"@id": name, "@type": "File", "name": what, "encodingFormat": kind}));
        parts.push(name.to_owned());
    }
    let specification = format!("{SPECIFICATION}/");
    let documents: Vec<String> = DOCUMENTS
        .iter()
        .map(|(path, _)| format!("{specification}{path}"))
        .collect();
    for ((path, text), id) in DOCUMENTS.iter().zip(&documents) {
        let kind = if path.ends_with(".py") {
            "text/x-python"
        } else {
            "text/markdown"
        };
        graph.push(json!({
            "@id": id,
            "@type": "File",
            "name": path,
            "encodingFormat": kind,
            "contentSize": text.len().to_string(),
        }));
    }
    graph.push(json!({
        "@id": specification,
        "@type": "Dataset",
        "name": "The format of the logs and of all else",
        "description": "What each byte means, and `reference/read_log.py`, which reads logs with nothing but Python's standard \
                        library.",
        "hasPart": refer(&documents),
    }));
    parts.push(specification);
    graph.extend(variables.iter().cloned());
    let measured: Vec<String> = variables
        .iter()
        .filter_map(|variable| Some(variable["@id"].as_str()?.to_owned()))
        .collect();
    let archived = rfc3339(archived_us);
    let (license, of_license) = license(session);
    graph.extend(of_license);
    graph.push(json!({
        "@id": "#marey",
        "@type": "SoftwareApplication",
        "name": "Marey",
        "version": env!("CARGO_PKG_VERSION"),
    }));
    graph.push(json!({
        "@id": "#archived",
        "@type": "CreateAction",
        "name": format!("Archiving generation {} of the session", manifest.generation),
        "endTime": archived,
        "instrument": {"@id": "#marey"},
        "result": {"@id": "./"},
    }));
    let mut root = json!({
        "@id": "./",
        "@type": "Dataset",
        "name": format!("Session {}", session.id),
        "description": format!(
            "A recording of {} streams of sensors on one clock, with a bound of error for each sample: Parquet, the logs that it \
             was made of, gaps with their causes, clock evidence, receipts, and the specification of all of it.",
            manifest.streams.len()
        ),
        "datePublished": archived,
        "license": license,
        "hasPart": refer(&parts),
        "variableMeasured": refer(&measured),
        "mentions": {"@id": "#archived"},
    });
    let times = manifest.streams.iter().flat_map(|fact| &fact.parts);
    let first = times.clone().map(|part| part.first_time.as_str()).min();
    let last = times.map(|part| part.last_time.as_str()).max();
    if let (Some(first), Some(last)) = (first, last) {
        root["temporalCoverage"] = json!(format!("{first}/{last}"));
    }
    let descriptor = json!({
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    });
    let graph: Vec<Value> = [descriptor, root].into_iter().chain(graph).collect();
    let crated = json!({"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph});
    format!("{crated:#}\n").into_bytes()
}

fn refer(ids: &[String]) -> Vec<Value> {
    ids.iter().map(|id| json!({"@id": id})).collect()
}

fn file(entry: &Entry) -> Value {
    let name = entry.name.rsplit('/').next().unwrap_or(&entry.name);
    let ends = name.rsplit('.').next().unwrap_or_default();
    let (kind, specified) = match ends {
        "parquet" => ("application/vnd.apache.parquet", Some("parquet.md")),
        "mlog" => ("application/octet-stream", Some("log.md")),
        "json" if name.starts_with("receipt-") => ("application/json", Some("receipt.md")),
        "json" => ("application/json", None),
        "jsonl" => ("application/x-ndjson", Some("session-files.md")),
        "crt" => ("application/x-pem-file", None),
        _ => ("application/octet-stream", None),
    };
    let mut file = json!({
        "@id": entry.name,
        "@type": "File",
        "name": name,
        "encodingFormat": kind,
        "contentSize": entry.bytes.to_string(),
    });
    if let Some(document) = specified {
        file["conformsTo"] = json!({"@id": format!("{SPECIFICATION}/{document}")});
    }
    file
}

/// What the session's metadata say under `license` or `licence`, and what it refers to.
fn license(session: &Session) -> (Value, Option<Value>) {
    let said = ["license", "licence"]
        .iter()
        .find_map(|key| session.metadata.get(*key));
    match said {
        Some(url) if url.starts_with("https://") || url.starts_with("http://") => (
            json!({"@id": url}),
            Some(json!({"@id": url, "@type": "CreativeWork", "name": url})),
        ),
        Some(text) => (json!(text), None),
        None => (
            json!("None was stated (metadata `license` of the session): ask whoever recorded it."),
            None,
        ),
    }
}

/// For whoever opens an archive.
pub(super) fn readme(session: &Session) -> String {
    let id = &session.id;
    format!(
        "# Session {id}\n\
         \n\
         A recording of sensors on one clock, made with Marey {version}. This is an RO-Crate ({METADATA} describes every file),\n\
         and nothing but common tools is needed to read and check it.\n\
         \n\
         | in `session={id}/` | |\n\
         |---|---|\n\
         | `streams/` | the samples, Parquet: a folder for each stream, in it one for each device |\n\
         | `events.parquet`, `gaps.parquet`, `channels.parquet` | what happened, what is missing and why, what was measured |\n\
         | `clock_map.parquet`, `clock_probes.parquet` | how times were aligned, and the evidence |\n\
         | `logs/` | what the devices sent, frame by frame, with checksums: what Parquet was made of |\n\
         | `receipt-*.json` | what was captured, received, kept, and every hash; signed |\n\
         | `media/` | whole files that were handed in |\n\
         \n\
         Open it, with pandas and pyarrow:\n\
         \n\
         ```python\n\
         import pandas as pd\n\
         pd.read_parquet(\"session={id}/streams\")          # or one stream, one device\n\
         pd.read_parquet(\"session={id}/gaps.parquet\")\n\
         ```\n\
         \n\
         Check it, where this file stands:\n\
         \n\
         ```sh\n\
         sha256sum -c SHA256SUMS\n\
         ```\n\
         \n\
         Read the logs themselves, with nothing but Python's standard library:\n\
         \n\
         ```sh\n\
         python3 specification/reference/read_log.py \"session={id}\" --samples\n\
         ```\n\
         \n\
         `specification/` says what each byte and each column means; `specification/receipt.md` how a receipt's signature is\n\
         checked with OpenSSL. Where `session={id}/retired.json` stands, logs were removed by rule after their samples were in\n\
         Parquet, which then is all there is.\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}
