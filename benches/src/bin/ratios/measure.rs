//! Pairs, their medians, and how they are told.

use serde_json::{Value, json};

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
