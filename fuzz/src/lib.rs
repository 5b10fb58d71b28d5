//! The fuzz targets: for each a body that takes any bytes and panics where a promise is broken, and seeds for it.
//!
//! They stand here and not in `fuzz_targets/`, so that the workspace's `tests/tests/fuzz_smoke.rs`, which includes this
//! file by its path, runs the very same ones over changed copies of the seeds without cargo-fuzz.
//!
//! What a checksum guards is out of reach for random bytes, so bodies with checksums run twice: on the bytes as they
//! are, and on a copy whose checksums were mended, which is what an enemy would send.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "no hub is near; what runs on a device reads its files itself"
)]

mod frames;
mod messages;

mod journals;
mod logs;

mod clocks;

mod devices;
mod hubs;
mod web;

mod store_ops;

mod fixture;
mod mended;
mod vectors;

pub use clocks::{clock_evidence, time_packet};
pub use devices::{csv_records, device_buffer, device_bundle, enrolment, replay_csv};
pub use frames::{declaration, names, wire_frame};
pub use hubs::{config, documents, hub_folder, protocol_file};
pub use journals::{journal, journal_record};
pub use logs::{log_scan, recover, segment_parts};
pub use messages::{control_request, hello, http_head, wire_message};
pub use store_ops::store_ops;
pub use web::{api_cursor, file_path, http_range, json_body, upload_metadata};

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of the file in `fuzz_targets/`, of the corpus, of the test.
    pub name: &'static str,
    /// Takes any bytes.
    pub body: fn(&[u8]),
    /// Inputs to begin with: from `format-spec/vectors`, or made by the program itself.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs the tests run; fewer where one opens a hub.
    pub smoke: u64,
}

/// What a fast body runs among the tests.
const SMOKE: u64 = 100_000;

/// All of them.
pub const TARGETS: &[Target] = &[
    target("wire_frame", wire_frame, frames::frame_seeds, SMOKE),
    target("declaration", declaration, frames::declaration_seeds, SMOKE),
    target("names", names, frames::name_seeds, SMOKE),
    target("wire_message", wire_message, messages::message_seeds, SMOKE),
    target("control_request", control_request, messages::request_seeds, SMOKE),
    target("http_head", http_head, messages::http_seeds, SMOKE),
    target("hello", hello, messages::hello_seeds, SMOKE),
    target("segment_parts", segment_parts, logs::part_seeds, SMOKE),
    target("log_scan", log_scan, logs::log_seeds, SMOKE),
    target("recover", recover, logs::log_seeds, 2_000),
    target("journal_record", journal_record, journals::record_seeds, SMOKE),
    target("journal", journal, journals::journal_seeds, 2_000),
    target("time_packet", time_packet, clocks::packet_seeds, SMOKE),
    target("clock_evidence", clock_evidence, clocks::evidence_seeds, SMOKE),
    target("csv_records", csv_records, devices::csv_seeds, SMOKE),
    target("replay_csv", replay_csv, devices::csv_seeds, SMOKE),
    target("device_buffer", device_buffer, devices::buffer_seeds, 20_000),
    target("device_bundle", device_bundle, devices::bundle_seeds, 20_000),
    target("enrolment", enrolment, devices::enrolment_seeds, SMOKE),
    target("documents", documents, hubs::document_seeds, SMOKE),
    target("config", config, hubs::config_seeds, SMOKE),
    target("protocol_file", protocol_file, hubs::protocol_seeds, SMOKE),
    target("hub_folder", hub_folder, hubs::folder_seeds, 300),
    target("upload_metadata", upload_metadata, web::metadata_seeds, SMOKE),
    target("api_cursor", api_cursor, web::cursor_seeds, SMOKE),
    target("http_range", http_range, web::range_seeds, SMOKE),
    target("file_path", file_path, web::path_seeds, 20_000),
    target("json_body", json_body, web::body_seeds, 20_000),
    target("store_ops", store_ops, store_ops::seeds, 500),
];

const fn target(name: &'static str, body: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>, smoke: u64) -> Target {
    Target {
        name,
        body,
        seeds,
        smoke,
    }
}
