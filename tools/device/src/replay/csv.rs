//! CSV records with their line numbers, one at a time.
//!
//! Owns: splitting into records and fields (RFC 4180: quotes, doubled quotes, line breaks in quotes; CRLF or LF;
//! a byte-order mark; comma, semicolon or tab), comment lines before the header. Does not own: what a field means.
//!
//! Invariant: one record is in memory at a time, at most `RECORD_BYTES_MAX` long.

use std::io::{self, BufRead};

/// One record: its fields, and the line on which it begins (the first line of a file is 1).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Record {
    line: u64,
    text: String,
    ends: Vec<usize>,
}

impl Record {
    pub fn line(&self) -> u64 {
        self.line
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn field(&self, at: usize) -> &str {
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[begin..self.ends[at]]
    }

    pub fn fields(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.field(at))
    }
}

/// Why a record can't be read. Columns count from 1.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("line {line}: a record of more than {RECORD_BYTES_MAX} bytes")]
    TooLong { line: u64 },
    #[error("line {line}: a quote that opens here is never closed")]
    OpenQuote { line: u64 },
    #[error("line {line}: not UTF-8")]
    NotUtf8 { line: u64 },
}

/// The records of a file.
#[derive(Debug)]
pub struct Records<R> {
    input: R,
    separator: Option<u8>,
    line: u64,
    raw: Vec<u8>,
    field: Vec<u8>,
}

impl<R: BufRead> Records<R> {
    /// The separator is the one of comma, semicolon and tab that the first record (the header) has most of.
    pub fn new(input: R) -> Self {
        Self {
            input,
            separator: None,
            line: 0,
            raw: Vec::new(),
            field: Vec::new(),
        }
    }

    /// Reads the next record into `record`; false at the end. Empty lines, and lines that begin with `#` before
    /// the header, are passed over.
    pub fn next(&mut self, record: &mut Record) -> Result<bool, RecordError> {
        loop {
            let line = self.line + 1;
            if !self.read_raw(line)? {
                return Ok(false);
            }
            let before_header = self.separator.is_none();
            if before_header && line == 1 && self.raw.starts_with(BYTE_ORDER_MARK) {
                self.raw.drain(..BYTE_ORDER_MARK.len());
            }
            if self.raw.is_empty() || (before_header && self.raw[0] == b'#') {
                continue;
            }
            let separator = *self.separator.get_or_insert_with(|| guess_separator(&self.raw));
            return self.split(line, separator, record).map(|()| true);
        }
    }

    /// Puts the bytes of one record, without its line end, into `raw`.
    fn read_raw(&mut self, line: u64) -> Result<bool, RecordError> {
        self.raw.clear();
        let mut quoted = false;
        loop {
            let before = self.raw.len();
            let room = (RECORD_BYTES_MAX + 2).saturating_sub(before) as u64;
            let read = io::Read::take(&mut self.input, room).read_until(b'\n', &mut self.raw)?;
            if read == 0 {
                return match (before, quoted) {
                    (RECORD_BYTES_MAX.., _) => Err(RecordError::TooLong { line }),
                    (_, true) => Err(RecordError::OpenQuote { line }),
                    (before, false) => Ok(before > 0),
                };
            }
            self.line += 1;
            // Doubled quotes toggle twice, which is the same as not at all.
            quoted ^= self.raw[before..].iter().filter(|byte| **byte == b'"').count() % 2 == 1;
            let ended = self.raw.ends_with(b"\n");
            if ended && !quoted {
                self.raw.pop();
                if self.raw.ends_with(b"\r") {
                    self.raw.pop();
                }
                return Ok(true);
            }
            if !ended && self.raw.len() > RECORD_BYTES_MAX {
                return Err(RecordError::TooLong { line });
            }
            if !ended && !quoted {
                return Ok(true);
            }
        }
    }

    fn split(&mut self, line: u64, separator: u8, record: &mut Record) -> Result<(), RecordError> {
        record.line = line;
        record.ends.clear();
        self.field.clear();
        let mut quoted = false;
        let mut bytes = self.raw.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' if quoted && bytes.peek() == Some(&b'"') => {
                    bytes.next();
                    self.field.push(b'"');
                }
                b'"' => quoted = !quoted,
                byte if byte == separator && !quoted => record.ends.push(self.field.len()),
                byte => self.field.push(byte),
            }
        }
        record.ends.push(self.field.len());
        // Two halves of a character with a separator between them would become one without it.
        let is_text = std::str::from_utf8(&self.raw).is_ok();
        let text = std::str::from_utf8(&self.field)
            .ok()
            .filter(|_| is_text)
            .ok_or(RecordError::NotUtf8 { line })?;
        // A separator is ASCII, so a field never ends within a character.
        record.text.clear();
        record.text.push_str(text);
        Ok(())
    }
}

fn guess_separator(header: &[u8]) -> u8 {
    let count = |separator: u8| header.iter().filter(|byte| **byte == separator).count();
    // The last of equals wins, so a header without any separator is a CSV of one column.
    b"\t;,"
        .iter()
        .copied()
        .max_by_key(|separator| count(*separator))
        .expect("three to choose from")
}

/// The longest record that is taken in, in bytes.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<(u64, Vec<String>)>, RecordError> {
        let mut records = Records::new(text);
        let mut record = Record::default();
        let mut all = Vec::new();
        while records.next(&mut record)? {
            all.push((record.line(), record.fields().map(str::to_owned).collect()));
        }
        Ok(all)
    }

    #[test]
    fn records_are_split_as_they_stand() {
        let text =
            b"\xef\xbb\xbf# made by hand\r\na,b,\"c \"\"d\"\"\"\r\n\r\n1,,\"two\nlines, one field\"\n#3,4,5";
        assert_eq!(
            read(text).unwrap(),
            vec![
                (2, vec!["a".to_owned(), "b".to_owned(), "c \"d\"".to_owned()]),
                (
                    4,
                    vec!["1".to_owned(), String::new(), "two\nlines, one field".to_owned()]
                ),
                (6, vec!["#3".to_owned(), "4".to_owned(), "5".to_owned()]),
            ]
        );
        assert_eq!(read(b"a;b\n1,5;2\n").unwrap()[1].1, ["1,5", "2"]);
        assert_eq!(read(b"a\tb\n1\t2").unwrap()[1].1, ["1", "2"]);
        assert_eq!(read(b"lonely\n1\n").unwrap()[1].1, ["1"]);
        assert!(read(b"").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_csv_says_where() {
        assert!(matches!(
            read(b"a,b\n\"1,2\n3,4\n"),
            Err(RecordError::OpenQuote { line: 2 })
        ));
        assert!(matches!(
            read(b"a,b\n\xff,2\n"),
            Err(RecordError::NotUtf8 { line: 2 })
        ));
        assert!(matches!(
            read(b"a,b\n\xef,\xbb\xbf\n"),
            Err(RecordError::NotUtf8 { line: 2 })
        ));
        let mut long = b"a\n".to_vec();
        long.extend(std::iter::repeat_n(b'1', RECORD_BYTES_MAX + 5));
        assert!(matches!(read(&long), Err(RecordError::TooLong { line: 2 })));
        long[2] = b'"';
        assert!(matches!(read(&long), Err(RecordError::TooLong { line: 2 })));
    }
}
