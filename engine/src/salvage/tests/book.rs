//! A text that tests are held against, line by line, or that they write.

use std::fmt::Write;
use std::path::Path;

/// Lines, and the sentences in them by number, so that a line stays short.
pub struct Book {
    name: &'static str,
    expected: std::str::Lines<'static>,
    /// To be written in place of the file that is there.
    blessed: Option<String>,
    lines: usize,
    causes: Vec<String>,
    /// What the last reports have in common: kind of harm, first and last offset, report.
    run: Option<(String, usize, usize, String)>,
}

impl Book {
    pub fn new(name: &'static str, expected: &'static str) -> Self {
        Self {
            name,
            expected: expected.lines(),
            blessed: std::env::var_os("MAREY_BLESS").map(|_| String::new()),
            lines: 0,
            causes: Vec::new(),
            run: None,
        }
    }

    pub fn cause(&mut self, cause: &str) -> String {
        let cause = without_checksums(cause);
        let known = self.causes.iter().position(|known| *known == cause);
        let number = known.unwrap_or_else(|| {
            self.causes.push(cause);
            self.causes.len() - 1
        });
        format!("c{number}")
    }

    pub fn line(&mut self, line: &str) {
        self.lines += 1;
        match &mut self.blessed {
            Some(text) => writeln!(text, "{line}").unwrap(),
            None => assert_eq!(
                Some(line),
                self.expected.next(),
                "{}, line {}",
                self.name,
                self.lines
            ),
        }
    }

    /// A line of harm at an offset; neighbours with the same report become one.
    pub fn at(&mut self, harm: String, offset: usize, report: String) {
        match &mut self.run {
            Some((of, _, last, so_far)) if (&*of, &*so_far) == (&harm, &report) => *last = offset,
            _ => {
                self.close();
                self.run = Some((harm, offset, offset, report));
            }
        }
    }

    pub fn close(&mut self) {
        if let Some((harm, first, last, report)) = self.run.take() {
            let range = range(first as u64, Some(last as u64));
            self.line(&format!("  {harm} {range}: {report}"));
        }
    }

    pub fn end(mut self) {
        self.close();
        for (number, cause) in std::mem::take(&mut self.causes).iter().enumerate() {
            self.line(&format!("c{number}: {cause}"));
        }
        match self.blessed {
            #[allow(
                clippy::disallowed_methods,
                reason = "a file of the sources, written for people to read"
            )]
            Some(text) => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("src/salvage/tests")
                    .join(self.name);
                std::fs::write(path, text).unwrap();
            }
            None => assert_eq!(self.expected.next(), None, "{}", self.name),
        }
    }
}

/// Checksums and hashes as `#`: they tell one byte of a frame from another, and nothing of the report.
fn without_checksums(cause: &str) -> String {
    let mut text = String::new();
    for (at, word) in cause.split(' ').enumerate() {
        let digits = word.trim_matches(|c: char| !c.is_ascii_hexdigit());
        let hexadecimal = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        text.push_str(if at == 0 { "" } else { " " });
        text.push_str(&if hexadecimal {
            word.replace(digits, "#")
        } else {
            word.to_owned()
        });
    }
    text
}

pub fn range(first: u64, last: Option<u64>) -> String {
    match last {
        Some(last) if last == first => first.to_string(),
        Some(last) => format!("{first}-{last}"),
        None => format!("{first}-"),
    }
}
