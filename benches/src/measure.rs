//! Pairs, their medians, and how they are told.

use crate::machine;
use serde_json::{Value, json};
use std::process::ExitCode;

/// What measures one figure, with so many pairs where it has no number of its own.
pub type Measure = fn(rounds: usize) -> Result<Measured, String>;

/// One figure.
#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    /// Of candidate and limit.
    unit: &'static str,
    bar: f64,
    /// Whether more is better.
    is_rate: bool,
    /// Not measured unless it is asked for.
    pub is_long: bool,
    pub measure: Measure,
}

impl Figure {
    /// More is better.
    pub const fn rate(name: &'static str, unit: &'static str, bar: f64, measure: Measure) -> Self {
        Self {
            name,
            unit,
            bar,
            is_rate: true,
            is_long: false,
            measure,
        }
    }

    /// Less is better.
    pub const fn cost(name: &'static str, unit: &'static str, bar: f64, measure: Measure) -> Self {
        Self {
            is_rate: false,
            ..Self::rate(name, unit, bar, measure)
        }
    }

    pub const fn long(self) -> Self {
        Self {
            is_long: true,
            ..self
        }
    }
}

/// What a program is asked to measure.
#[derive(Debug, clap::Args)]
pub struct Selection {
    /// Which figures; none for all that are short.
    names: Vec<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Pairs of each figure, where it does not have its own number.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

impl Selection {
    /// Measures what was asked for, and tells each figure as it comes.
    pub fn measure(&self, figures: &[Figure]) -> ExitCode {
        let unknown = self
            .names
            .iter()
            .find(|name| figures.iter().all(|figure| figure.name != **name));
        if let Some(unknown) = unknown {
            let known: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
            eprintln!("there is no figure {unknown:?}; there are {}", known.join(", "));
            return ExitCode::from(2);
        }
        let wanted = |figure: &&Figure| match self.names.is_empty() {
            true => !figure.is_long,
            false => self.names.iter().any(|name| name == figure.name),
        };
        if let Err(why) = crate::check_folder() {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
        if !self.json {
            println!("{}\n", machine::describe());
            println!("{}", Measured::HEADER);
        }
        let mut object = serde_json::Map::new();
        let mut failed = false;
        for figure in figures.iter().filter(wanted) {
            match (figure.measure)(usize::from(self.rounds)) {
                Ok(measured) if self.json => {
                    object.insert(figure.name.to_owned(), measured.json());
                }
                Ok(measured) => println!("{}", measured.line(figure)),
                Err(why) => {
                    failed = true;
                    eprintln!("{}: {why}", figure.name);
                }
            }
        }
        if self.json {
            println!("{}", Value::Object(object));
        }
        ExitCode::from(u8::from(failed))
    }
}

/// What came out: the median of the pairs' ratios, the tenth and the ninetieth percentile.
#[derive(Clone, Debug)]
pub struct Measured {
    value: f64,
    low: f64,
    high: f64,
    /// Median of the limit alone, and of the candidate.
    limit: f64,
    candidate: f64,
    rounds: usize,
}

impl Measured {
    pub const HEADER: &'static str = "figure                     ratio [10 % .. 90 %]      bar    candidate        limit  unit         rounds";

    /// Of pairs of candidate and limit.
    pub fn of_pairs(pairs: &[(f64, f64)]) -> Self {
        let ratios = pairs.iter().map(|(candidate, limit)| candidate / limit);
        let mut measured = Self::of_values(ratios.collect());
        measured.limit = percentile(pairs.iter().map(|pair| pair.1).collect(), 0.5);
        measured.candidate = percentile(pairs.iter().map(|pair| pair.0).collect(), 0.5);
        measured
    }

    /// Of values that need no limit but their bar.
    pub fn of_values(values: Vec<f64>) -> Self {
        let at = |share| percentile(values.clone(), share);
        Self {
            value: at(0.5),
            low: at(0.1),
            high: at(0.9),
            limit: f64::NAN,
            candidate: at(0.5),
            rounds: values.len(),
        }
    }

    /// With this as the limit.
    pub fn beside(self, limit: f64) -> Self {
        Self { limit, ..self }
    }

    /// How many times another this is.
    pub fn over(&self, other: &Self) -> Self {
        Self {
            value: self.value / other.value,
            low: self.low / other.high,
            high: self.high / other.low,
            limit: other.value,
            candidate: self.value,
            rounds: self.rounds,
        }
    }

    pub fn json(&self) -> Value {
        json!({ "value": self.value, "low": self.low, "high": self.high, "limit": self.limit, "rounds": self.rounds })
    }

    pub fn line(&self, figure: &Figure) -> String {
        let passes = match figure.is_rate {
            true => self.value >= figure.bar - 0.03,
            false => self.value <= figure.bar + 0.03,
        };
        format!(
            "{:<24} {:>7.3} [{:.3} .. {:.3}] {:>8} {:>12.1} {:>12.1}  {:<12} {:>6}{}",
            figure.name,
            self.value,
            self.low,
            self.high,
            format!("{}{}", if figure.is_rate { ">=" } else { "<=" }, figure.bar),
            self.candidate,
            self.limit,
            figure.unit,
            self.rounds,
            if passes { "" } else { "  falls short" }
        )
    }
}

/// Measures in turn, the other one first in every second round. The first pair warms up and does not count.
pub fn pairs(
    rounds: usize,
    mut candidate: impl FnMut() -> Result<f64, String>,
    mut limit: impl FnMut() -> Result<f64, String>,
) -> Result<Measured, String> {
    let mut pairs = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let pair = match round % 2 {
            0 => {
                let limit = limit()?;
                (candidate()?, limit)
            }
            _ => (candidate()?, limit()?),
        };
        if round > 0 {
            pairs.push(pair);
        }
    }
    Ok(Measured::of_pairs(&pairs))
}

fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count => values[((count - 1) as f64 * share).round() as usize],
    }
}
