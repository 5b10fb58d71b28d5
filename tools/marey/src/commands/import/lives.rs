//! The clock offsets of an XDF stream, and the lives of its clock that they tell of.
//!
//! Owns what is kept of the offsets, where a clock began anew, and which life a sample belongs to. What an offset says of time
//! within a life is the engine's business.

/// The clock offsets of one stream, in the order of the file: the stream's time, and what is to be added to it.
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    told: Vec<(f64, f64)>,
}

/// One life of a stream's clock. It may have no offsets: then nothing is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// Times rise but for jitter; seconds.
    pub offsets: Vec<(f64, f64)>,
}

/// What became of the offsets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lives {
    pub lives: Vec<Life>,
    /// Offsets that were the one before, told again.
    pub stale: u64,
    /// Offsets that stand alone, a second or more off from those before and after.
    pub stray: u64,
}

/// An offset that differs by more from the one before is of another life: no network is that slow, no clock that fast.
const JUMP_S: f64 = 1.0;

impl Offsets {
    pub fn push(&mut self, time_s: f64, offset_s: f64) {
        self.told.push((time_s, offset_s));
    }

    /// The recorder's time of the first.
    pub fn first_recorder_s(&self) -> Option<f64> {
        self.told.first().map(|(time_s, offset_s)| time_s + offset_s)
    }

    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Drops what was told again and what stands alone, and cuts where the clock began anew.
    pub fn lives(&self) -> Lives {
        let mut found = Lives::default();
        let mut fresh: Vec<(f64, f64)> = Vec::with_capacity(self.told.len());
        for &(time_s, offset_s) in &self.told {
            if fresh
                .last()
                .is_some_and(|last| last.1.to_bits() == offset_s.to_bits())
            {
                found.stale += 1;
            } else {
                fresh.push((time_s, offset_s));
            }
        }
        let near = |a: (f64, f64), b: (f64, f64)| (a.1 - b.1).abs() <= JUMP_S;
        let mut life = Life::default();
        for (at, &offset) in fresh.iter().enumerate() {
            let before = life.offsets.last().copied();
            let after = fresh.get(at + 1).copied();
            let goes_on = before.is_none_or(|before| near(before, offset));
            let begins = after.is_some_and(|after| near(offset, after));
            match (goes_on, begins, before, after) {
                (true, true, ..) | (true, _, Some(_), _) | (true, _, None, None) => life.offsets.push(offset),
                (false, true, ..) => {
                    found.lives.push(std::mem::take(&mut life));
                    life.offsets.push(offset);
                }
                _ => found.stray += 1,
            }
        }
        if !life.offsets.is_empty() {
            found.lives.push(life);
        }
        found
    }
}

/// Which life a stream's samples are of, from the first to the last.
#[derive(Debug)]
pub struct Follower {
    /// First and last time of each life.
    lives: Vec<(f64, f64)>,
    at: usize,
    /// The one of those that no offset tells of, if it is one.
    unknown: Option<usize>,
    /// Lives that no offset tells of, so far.
    unknowns: usize,
    last_s: f64,
}

/// Where a sample belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belongs {
    /// Number of the life: those that the offsets tell of (or one, if there are none), then those that they do not.
    pub life: usize,
    /// Its time lies before that of the sample before it: it can't stand in the same epoch.
    pub is_back: bool,
    /// No offset tells of that life, though others are known.
    pub is_unknown: bool,
}

/// Farther from all offsets than this, a clock that fell back is one of which nothing is known; nearer, a stamp was late.
const FAR_S: f64 = 60.0;

impl Follower {
    pub fn new(lives: &[Life]) -> Self {
        let ends = |life: &Life| {
            let times = || life.offsets.iter().map(|offset| offset.0);
            (
                times().fold(f64::INFINITY, f64::min),
                times().fold(f64::NEG_INFINITY, f64::max),
            )
        };
        Self {
            lives: lives.iter().map(ends).collect(),
            at: 0,
            unknown: None,
            unknowns: 0,
            last_s: f64::NEG_INFINITY,
        }
    }

    /// The life of the next sample.
    pub fn follow(&mut self, time_s: f64) -> Belongs {
        let fell_s = self.last_s - time_s;
        self.last_s = time_s;
        let away = |&(first, last): &(f64, f64)| (first - time_s).max(time_s - last).max(0.0);
        let later = self.lives.get(self.at + 1..).unwrap_or_default();
        let nearest = (1..)
            .zip(later.iter().map(away))
            .min_by(|a, b| a.1.total_cmp(&b.1));
        let here = self.lives.get(self.at).map_or(f64::INFINITY, away);
        let reach = |far_s: f64| far_s <= FAR_S;
        if fell_s > JUMP_S && nearest.is_some_and(|(_, far_s)| far_s <= here) {
            // It fell back to where its offsets say that it began anew.
            self.at += nearest.map_or(0, |(on, _)| on);
            self.unknown = None;
        } else if fell_s > JUMP_S && !self.lives.is_empty() && !reach(here) {
            // To where no offset tells of it. One late stamp among others is within their reach.
            self.unknown = Some(self.unknowns);
            self.unknowns += 1;
        } else if self.unknown.is_some() && reach(here) {
            self.unknown = None;
        } else if self.unknown.is_none()
            && let Some((on, far_s)) = nearest
            && far_s < here
        {
            self.at += on;
        }
        let life = self.unknown.map(|unknown| self.lives.len().max(1) + unknown);
        Belongs {
            life: life.unwrap_or(self.at),
            is_back: fell_s > 0.0,
            is_unknown: life.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(told: &[(f64, f64)]) -> Offsets {
        Offsets { told: told.to_vec() }
    }

    #[test]
    fn stale_and_stray_offsets_are_left_out_and_a_clock_that_begins_anew_is_cut() {
        let lives = offsets(&[
            (100.0, 5.0),
            (105.0, 5.0),
            (110.0, 5.001),
            (115.0, 1e9),
            (120.0, 5.002),
            (3.0, 110.0),
            (8.0, 110.001),
        ])
        .lives();
        assert_eq!((lives.stale, lives.stray), (1, 1));
        assert_eq!(
            lives.lives,
            [
                Life {
                    offsets: vec![(100.0, 5.0), (110.0, 5.001), (120.0, 5.002)]
                },
                Life {
                    offsets: vec![(3.0, 110.0), (8.0, 110.001)]
                }
            ]
        );
        assert_eq!(offsets(&[]).lives(), Lives::default());
        assert_eq!(offsets(&[(1.0, 2.0)]).lives().lives.len(), 1);
        // Garbage at the very beginning is no life either.
        let lives = offsets(&[(1.0, 1e9), (6.0, 2.0), (11.0, 2.1)]).lives();
        assert_eq!((lives.lives.len(), lives.stray), (1, 1));
    }

    #[test]
    fn samples_go_to_the_life_whose_offsets_are_nearest() {
        let lives = offsets(&[(100.0, 5.0), (200.0, 5.1), (3.0, 300.0), (50.0, 300.1)])
            .lives()
            .lives;
        let mut follower = Follower::new(&lives);
        let mut of = |time_s| {
            let belongs = follower.follow(time_s);
            (belongs.life, belongs.is_back)
        };
        assert_eq!(of(98.0), (0, false));
        assert_eq!(of(201.0), (0, false));
        assert_eq!(of(200.9), (0, true));
        assert_eq!(of(1.0), (1, true));
        assert_eq!(of(49.0), (1, false));
        // A late stamp, or one that was too high before it, is of the same life.
        assert_eq!(of(30.0), (1, true));
        assert_eq!(of(500.0), (1, false));
        assert_eq!(of(31.0), (1, true));
        // It fell back to where nothing tells of it, and came again.
        assert_eq!(of(-900.0), (2, true));
        assert_eq!(of(-899.0), (2, false));
        assert_eq!(of(40.0), (1, false));
        assert_eq!(of(-900.0), (3, true));
    }

    #[test]
    fn a_clock_that_stood_still_is_cut_where_its_offsets_jump() {
        let lives = offsets(&[(10.0, 0.0), (15.0, 0.01), (20.0, 120.0), (25.0, 120.01)])
            .lives()
            .lives;
        assert_eq!(lives.len(), 2);
        let mut follower = Follower::new(&lives);
        let found: Vec<usize> = [9.0, 15.0, 17.0, 18.0, 26.0]
            .into_iter()
            .map(|time_s| follower.follow(time_s).life)
            .collect();
        assert_eq!(found, [0, 0, 0, 1, 1]);
        let mut none = Follower::new(&[]);
        assert_eq!((none.follow(5.0).life, none.follow(6.0).life), (0, 0));
        assert_eq!(
            none.follow(1.0),
            Belongs {
                life: 0,
                is_back: true,
                is_unknown: false
            }
        );
    }
}
