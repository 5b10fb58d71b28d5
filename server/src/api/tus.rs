//! The headers of the tus protocol 1.0.0: read in full or refused with one sentence.

use std::collections::HashMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::problem::Problem;

pub(super) fn version(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(RESUMABLE).map(HeaderValue::as_bytes) {
        Some(b"1.0.0") => Ok(()),
        _ => Err(Problem::other(
            StatusCode::PRECONDITION_FAILED,
            "version",
            "Another version of tus",
            "send `Tus-Resumable: 1.0.0`",
        )),
    }
}

pub(super) fn number(headers: &HeaderMap, name: HeaderName) -> Result<u64, Problem> {
    let value = headers.get(&name).and_then(|value| value.to_str().ok());
    let digits = value.filter(|value| !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Problem::malformed(format!("{name} is a whole number")))
}

/// `Upload-Metadata`: pairs of a key and base64, with commas between.
pub(super) fn metadata(headers: &HeaderMap) -> Result<HashMap<String, String>, Problem> {
    let wrong =
        || Problem::malformed("Upload-Metadata has pairs of a key and base64 of UTF-8, with commas between");
    let text = headers
        .get(METADATA)
        .ok_or_else(wrong)?
        .to_str()
        .map_err(|_| wrong())?;
    if text.len() > METADATA_BYTES_MAX {
        return Err(Problem::too_large("Upload-Metadata is too long"));
    }
    let mut found = HashMap::new();
    for pair in text.split(',') {
        let (key, value) = pair.trim().split_once(' ').unwrap_or((pair.trim(), ""));
        let value = base64(value.trim()).and_then(|bytes| String::from_utf8(bytes).ok());
        found.insert(key.to_owned(), value.ok_or_else(wrong)?);
    }
    Ok(found)
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let body = text.trim_end_matches('=');
    if text.len() - body.len() > 2 {
        return None;
    }
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::with_capacity(body.len() * 3 / 4));
    for c in body.bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

pub(super) const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub(super) const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const METADATA_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
        ] {
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for wrong in ["Z", "Zg=", "Z===", "Zm9v\n", "Zm9*", "Z=9v"] {
            assert_eq!(base64(wrong), None, "{wrong}");
        }
    }
}
