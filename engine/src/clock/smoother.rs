//! The smoother of (offset, slope): a Kalman filter forward, the Rauch-Tung-Striebel recursion back.
//!
//! Owns the linear algebra of the estimate, in seconds, microseconds and microseconds per second (ppm), relative
//! to the segment's first stamp. It does not know what an observation is made of, nor which to trust.
//!
//! The model: the slope is a random walk with variance `q^2 / 60` per second (`q` in ppm per square root of a
//! minute), the offset is its integral. Only + - * / are used, so that the result has the same bits everywhere.

/// One observation of the offset: when (s), what (us), with which variance (us^2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    pub at_s: f64,
    pub offset_us: f64,
    pub variance: f64,
}

/// The state at one time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    pub offset_us: f64,
    pub slope_ppm: f64,
}

/// Buffers that are reused from round to round.
#[derive(Debug, Default)]
pub(super) struct Smoother {
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    predicted: Belief,
    filtered: Belief,
    since_s: f64,
}

#[derive(Clone, Copy, Debug)]
struct Belief {
    offset: f64,
    slope: f64,
    /// Variance of the offset, covariance, variance of the slope.
    p00: f64,
    p01: f64,
    p11: f64,
}

impl Belief {
    fn at_first(observation: &Observation, slope: f64) -> Self {
        Self {
            offset: observation.offset_us,
            slope,
            p00: FIRST_OFFSET_VARIANCE,
            p01: 0.0,
            p11: FIRST_SLOPE_VARIANCE,
        }
    }

    fn after(self, since_s: f64, walk: f64) -> Self {
        let t = since_s;
        Self {
            offset: self.offset + self.slope * t,
            slope: self.slope,
            p00: self.p00 + 2.0 * t * self.p01 + t * t * self.p11 + walk * t * t * t / 3.0,
            p01: self.p01 + t * self.p11 + walk * t * t / 2.0,
            p11: self.p11 + walk * t,
        }
    }

    fn told(self, observation: &Observation) -> Self {
        let total = self.p00 + observation.variance;
        let (gain0, gain1) = (self.p00 / total, self.p01 / total);
        let surprise = observation.offset_us - self.offset;
        let left = observation.variance / total;
        Self {
            offset: self.offset + gain0 * surprise,
            slope: self.slope + gain1 * surprise,
            p00: self.p00 * left,
            p01: self.p01 * left,
            p11: self.p11 - self.p01 * gain1,
        }
    }
}

impl Smoother {
    /// The smoothed states at the observations (sorted by time), into `states`.
    pub fn smooth(&mut self, observations: &[Observation], q_ppm: f64, states: &mut Vec<State>) {
        self.steps.clear();
        states.clear();
        let Some(first) = observations.first() else { return };
        let walk = q_ppm * q_ppm / 60.0;
        let mut belief = Belief::at_first(first, 0.0);
        let mut at_s = first.at_s;
        for observation in observations {
            let since_s = observation.at_s - at_s;
            let predicted = belief.after(since_s, walk);
            belief = predicted.told(observation);
            self.steps.push(Step {
                predicted,
                filtered: belief,
                since_s,
            });
            at_s = observation.at_s;
        }
        states.resize(observations.len(), State::default());
        let mut next = State {
            offset_us: belief.offset,
            slope_ppm: belief.slope,
        };
        for i in (0..observations.len()).rev() {
            if let Some(following) = self.steps.get(i + 1) {
                next = back(&self.steps[i].filtered, following, next);
            }
            states[i] = next;
        }
    }
}

impl Smoother {
    /// The states of the last smoothing as they stood before the recursion back, into `states`.
    pub fn filtered(&self, states: &mut Vec<State>) {
        states.clear();
        states.extend(self.steps.iter().map(|step| State {
            offset_us: step.filtered.offset,
            slope_ppm: step.filtered.slope,
        }));
    }
}

/// How well a random walk of `q_ppm` foretells each of `observations` from those before it: log likelihood, up to a
/// constant. A surprise beyond three sigma counts as three, so that one late packet does not decide.
pub(super) fn foretold(observations: &[Observation], q_ppm: f64) -> f64 {
    let Some(first) = observations.first() else {
        return 0.0;
    };
    let walk = q_ppm * q_ppm / 60.0;
    let mut belief = Belief::at_first(first, 0.0);
    let mut at_s = first.at_s;
    let mut sum = 0.0;
    for (nth, observation) in observations.iter().enumerate() {
        let predicted = belief.after(observation.at_s - at_s, walk);
        // The first few only find the line.
        if nth >= 3 {
            let total = predicted.p00 + observation.variance;
            let surprise = observation.offset_us - predicted.offset;
            sum -= 0.5 * (libm::log(total) + (surprise * surprise / total).min(9.0));
        }
        belief = predicted.told(observation);
        at_s = observation.at_s;
    }
    sum
}

/// One step of the recursion back: what the smoothed state at the next observation says of this one.
fn back(filtered: &Belief, following: &Step, next: State) -> State {
    let (t, predicted) = (following.since_s, &following.predicted);
    let determinant = predicted.p00 * predicted.p11 - predicted.p01 * predicted.p01;
    let (d0, d1) = (
        next.offset_us - predicted.offset,
        next.slope_ppm - predicted.slope,
    );
    if t <= 0.0 || determinant <= 0.0 {
        return State {
            offset_us: filtered.offset + d0,
            slope_ppm: filtered.slope + d1,
        };
    }
    let (w0, w1) = (
        (predicted.p11 * d0 - predicted.p01 * d1) / determinant,
        (predicted.p00 * d1 - predicted.p01 * d0) / determinant,
    );
    State {
        offset_us: filtered.offset + (filtered.p00 + t * filtered.p01) * w0 + filtered.p01 * w1,
        slope_ppm: filtered.slope + (filtered.p01 + t * filtered.p11) * w0 + filtered.p11 * w1,
    }
}

/// A second, and a hundred ppm: nothing is known at first.
const FIRST_OFFSET_VARIANCE: f64 = 1e12;
const FIRST_SLOPE_VARIANCE: f64 = 1e4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_through_noise() {
        // A fixed scatter of +-10 us around 30 ppm.
        let observations: Vec<Observation> = (0..600)
            .map(|i| {
                let at_s = f64::from(i);
                let scatter = f64::from((i * 7_919) % 201 - 100) / 10.0;
                Observation {
                    at_s,
                    offset_us: 250.0 + 30.0 * at_s + scatter,
                    variance: 33.0,
                }
            })
            .collect();
        let mut states = Vec::new();
        Smoother::default().smooth(&observations, 0.01, &mut states);
        for (observation, state) in observations.iter().zip(&states) {
            assert!((state.offset_us - 250.0 - 30.0 * observation.at_s).abs() < 3.0);
            assert!((state.slope_ppm - 30.0).abs() < 0.1);
        }
    }

    #[test]
    fn the_smoother_weighs_both_sides_of_a_gap() {
        let mut observations = Vec::new();
        for i in 0..100 {
            let at_s = if i < 50 {
                f64::from(i)
            } else {
                f64::from(i) + 100.0
            };
            observations.push(Observation {
                at_s,
                offset_us: 5.0 * at_s,
                variance: 1.0,
            });
        }
        let mut states = Vec::new();
        Smoother::default().smooth(&observations, 0.1, &mut states);
        assert!((states[49].slope_ppm - 5.0).abs() < 0.01 && (states[50].slope_ppm - 5.0).abs() < 0.01);
    }

    #[test]
    fn a_wandering_clock_is_foretold_by_a_walk() {
        let mut slope = 0.0;
        let mut offset_us = 0.0;
        let wandering: Vec<Observation> = (0..400)
            .map(|i| {
                slope += if (i / 20) % 2 == 0 { 0.05 } else { -0.05 };
                offset_us += slope;
                Observation {
                    at_s: f64::from(i),
                    offset_us,
                    variance: 4.0,
                }
            })
            .collect();
        assert!(foretold(&wandering, 0.3) > foretold(&wandering, 0.003));
    }
}
