//! The text format of Prometheus: families, lines, labels.

use std::fmt::{Display, Write};

/// A page of metrics that is being written. Every name gets the project's prefix.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Announces a family: what follows are its lines.
    pub fn family(&mut self, name: &str, help: &str, kind: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP {0} {help}.\n# TYPE {0} {kind}", full(name));
    }

    /// One line of the family that was announced last.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(&full(name));
        for (at, (label, of)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escaped(of));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A family of one line.
    pub fn single(&mut self, name: &str, help: &str, kind: &str, value: impl Display) {
        self.family(name, help, kind);
        self.line(name, &[], value);
    }

    /// The page.
    pub fn done(self) -> String {
        self.0
    }
}

/// What every process shows has the names that dashboards know; all else is Marey's.
fn full(name: &str) -> String {
    match name.starts_with("process_") {
        true => name.to_owned(),
        false => format!("marey_{name}"),
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.family("x", "What it is", "gauge");
        text.line("x", &[("a", "b\"c\\d\ne"), ("f", "g")], 1.5);
        assert_eq!(
            text.done(),
            "# HELP marey_x What it is.\n# TYPE marey_x gauge\nmarey_x{a=\"b\\\"c\\\\d\\ne\",f=\"g\"} 1.5\n"
        );
    }
}
