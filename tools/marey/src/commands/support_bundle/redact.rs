//! Takes secrets out of text that is to leave the machine. Pure.
//!
//! Nothing should be there to take out: logs and configuration hold no secrets by design. This is the second wall, and it
//! errs on the side of taking out too much: PEM blocks, what stands behind words such as `token`, and long runs of letters
//! and digits that look drawn by chance.

/// The text without secrets.
pub fn clean(text: &str) -> String {
    let mut inside = false;
    let mut cleaned = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        // A PEM block may also stand in one line, with escaped newlines.
        let begins = line.contains("-----BEGIN ");
        let ends = line.rfind("-----END ") > line.rfind("-----BEGIN ");
        if inside || begins {
            if !inside {
                cleaned.push_str(&line[..line.find("-----BEGIN ").unwrap_or(0)]);
                cleaned.push_str(MASK);
                cleaned.push('\n');
            }
            inside = !(ends && line.contains("-----END "));
            continue;
        }
        clean_line(line, &mut cleaned);
    }
    cleaned
}

/// Words behind which a secret stands.
const NAMES: [&str; 10] = [
    "token",
    "password",
    "passphrase",
    "secret",
    "authorization",
    "bearer",
    "api_key",
    "apikey",
    "private_key",
    "cookie",
];
const MASK: &str = "***";
/// A run of so many letters and digits with no break is no word.
const RUN_MIN: usize = 32;

fn clean_line(line: &str, to: &mut String) {
    let mut words = Words(line);
    let mut hides = 0;
    while let Some(word) = words.next() {
        match word {
            Word::Between(text) => {
                // What ends a value ends the wait for it.
                if text.contains(['\n', ',', ';', '}', ']', '&']) {
                    hides = 0;
                }
                to.push_str(text);
            }
            Word::Run(text) => {
                let lower = text.to_ascii_lowercase();
                if hides > 0 || is_drawn(text) {
                    to.push_str(MASK);
                    // `Bearer` itself is no secret: what follows is.
                    hides = if NAMES.contains(&lower.as_str()) { 1 } else { 0 };
                } else {
                    to.push_str(text);
                    let is_named = NAMES
                        .iter()
                        .any(|name| lower == *name || lower.ends_with(&format!("_{name}")));
                    hides = i32::from(is_named && words.is_value_next(&lower));
                }
            }
        }
    }
}

/// Whether a run of characters looks like a key, a hash or a token. Paths and names are made of short pieces in one case;
/// what is drawn by chance is one long piece, or mixes the cases.
fn is_drawn(run: &str) -> bool {
    let has = |of: fn(&char) -> bool| run.chars().any(|c| of(&c));
    if run.len() < RUN_MIN || !has(char::is_ascii_digit) || !has(char::is_ascii_alphabetic) {
        return false;
    }
    let mixes = has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase);
    let longest = run
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(str::len)
        .max();
    mixes || longest.unwrap_or(0) >= RUN_MIN
}

enum Word<'a> {
    /// Letters, digits, and what keys, tokens and names are made of besides.
    Run(&'a str),
    Between(&'a str),
}

struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Word<'a>> {
        let is_run =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/' | '=' | '.' | '~');
        // `token=abc` is a name and a value, not one run: a sign of equality ends a run unless it pads its end.
        let first = self.0.chars().next()?;
        let is_first_run = first != '=' && is_run(first);
        let mut end = self.0.len();
        let mut chars = self.0.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let more = chars.peek().map(|(_, next)| *next);
            let breaks = c == '=' && more.is_some_and(|next| next != '=' && (is_run(next) || next == '"'));
            let belongs = is_run(c) && !breaks && !(at == 0 && c == '=');
            if belongs != is_first_run {
                end = at;
                break;
            }
        }
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(match is_first_run {
            true => Word::Run(word),
            false => Word::Between(word),
        })
    }

    /// Whether what follows says that a value comes: `=`, `:`, or a blank behind `Bearer`.
    fn is_value_next(&self, name: &str) -> bool {
        let rest = self.0.trim_start_matches(['"', '\'', '\\']);
        let sign = rest.trim_start();
        sign.starts_with('=') || sign.starts_with(':') || (name == "bearer" && rest.starts_with(' '))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go() {
        for (line, secret) in [
            ("enrol?device=phone&token=abc123&x=1", "abc123"),
            ("Authorization: Bearer shortsecret", "shortsecret"),
            ("{\"password\":\"hunter2\",\"user\":\"eve\"}", "hunter2"),
            ("passphrase = 'correct'", "correct"),
            ("api_token=xyz", "xyz"),
            ("key AAAABBBBCCCCDDDD1111222233334444 ok", "AAAABBBBCCCC"),
            (
                "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "0123456789abcdef",
            ),
            ("x dGhpcyBpcyBhIHNlY3JldCBrZXkgMTIzNDU2Nzg5MA== y", "dGhpcyBpcyBh"),
        ] {
            let cleaned = clean(line);
            assert!(!cleaned.contains(secret) && cleaned.contains(MASK), "{cleaned}");
        }
        let cleaned = clean("{\"password\":\"hunter2\",\"user\":\"eve\"}");
        assert_eq!(cleaned, "{\"password\":\"***\",\"user\":\"eve\"}");
        let pem = "a\nb -----BEGIN PRIVATE KEY-----\nMIG\nxyz\n-----END PRIVATE KEY-----\nc\n";
        assert_eq!(clean(pem), "a\nb ***\nc\n");
        let one_line = "{\"pem\":\"-----BEGIN EC KEY-----\\nMIG\\n-----END EC KEY-----\\n\"}\nnext\n";
        assert_eq!(clean(one_line), "{\"pem\":\"***\nnext\n");
        // One that never ends takes all with it.
        assert_eq!(clean("-----BEGIN X-----\na\nb\n"), "***\n");
    }

    #[test]
    fn what_helps_stays() {
        for line in [
            "2026-11-22T06:50:06.123456Z  WARN audit: refused device=phone peer=192.0.2.1:40000 code=bad_crc\n",
            "marey_commit_seconds_bucket{le=\"0.005\"} 12\n",
            "{\"limits.connections_max\": 12000, \"log.file\": \"logs/hub.log\"}\n",
            "no token is shown\n",
            "tokens_total 5\n",
            "/var/lib/marey/sessions/session=walk-01/logs/phone/000001.mlog\n",
            "/srv/lab/hub/sessions/session=gait-2026-11-22/streams/stream=imu@1/part-g0001-000000.parquet\n",
        ] {
            assert_eq!(clean(line), line);
        }
    }
}
