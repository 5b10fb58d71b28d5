//! The clock model: from one-way facts to session time with a bound. Pure: no files, no clocks, no threads.
//!
//! Owns the alignment of every device clock of a session, and of the hub's own epochs, on session time. It does not
//! gather evidence (compaction and the live view do), does not write the map, and knows nothing of samples. All of
//! it is a function of `SessionEvidence` and `Options`; the same input gives the same bits on every machine, since
//! bounds are integers and the estimate uses + - * /, square root and `libm` alone.
//!
//! # What a packet proves
//!
//! Let `g(x)` be session time minus device time when the device's clock shows `x`. A packet cannot arrive before it
//! was sent. So one that left the device at `dev_send` and was at the hub at `hub_recv` proves
//! `g(dev_send) <= hub_recv - dev_send`, and one the other way proves `g(dev_recv) >= hub_send - dev_recv`. That is
//! all that the bounds rest on. Nothing is assumed of delays, their symmetry, or their distribution; a probe, a
//! frame, an ack, and the mere age of a sample on arrival all serve (`evidence`). Cristian (1989) bounded one
//! reading of a remote clock by its round trip; taken apart into its two halves, each packet bounds one side on its
//! own, as Moon, Skelly and Towsley (1999) did for the skew of one-way delays, so that the best packet of each
//! direction counts and they need not belong together.
//!
//! # How far a fact reaches
//!
//! A device clock whose rate lies within `1 +- rho` of the hub's gives `g` a slope of at most `rho / (1 - rho)` over
//! device time, either way. A fact at `x_i` therefore bounds `g` everywhere, by a cone:
//!
//! ```text
//! U(x) = min over facts up   (u_i + rho' |x - x_i|)
//! L(x) = max over facts down (l_i - rho' |x - x_i|)          L(x) <= g(x) <= U(x)
//! ```
//!
//! Most facts bind nowhere; what is left after removing them answers in constant time (`bounds`). Two stamps of a
//! clock that counts in steps may be off by one step, so every fact is widened by it; a coarse clock betrays its
//! step by its stamps. All of this is integer arithmetic in which every rounding widens (`interval`).
//!
//! This is certain under two assumptions: the clock keeps to the declared drift, and it neither stops nor jumps
//! unseen.
//!
//! # What is seen of a stop
//!
//! If `L` and `U` cross, no clock that keeps to the drift meets all facts, so the clock stood still or jumped. Each
//! crossing pair of facts holds the jump between them. `segments` finds the narrowest such stretch, from the last
//! fact that contradicts the new clock to the first that contradicts the old one, and ends a segment there. Facts in
//! between fit either, and are evidence for neither; a sample in between gets the hull of both intervals.
//!
//! A jump that leaves no contradiction is seen by nobody. But it is small: at any place, the facts before it leave
//! `g` an interval of their own, and so do the facts after it, and a hidden jump cannot make a bound false by more
//! than the wider of the two, since then the facts would contradict each other. That width is the *detectable size*
//! in the published map, and `guard_steps` adds it to every bound, which then needs the first assumption only.
//!
//! # The hub's own clock
//!
//! Within one boot of the hub, hub time runs true, and the session's anchor makes it session time by definition. A
//! later boot has an unknown offset `H_k`. A device clock that lived through the reboot has facts in both frames;
//! carried to each other over the gap they bound the difference of the two offsets from both sides (`lives`). Many
//! clocks give many intervals for one number: where they agree, they are intersected; where one contradicts the
//! rest, it slept while the hub was away, and the interval of the majority is taken, as Marzullo (1984) chooses
//! among the servers of a time service; where there is no majority, all are covered. Bounds go on along chains of
//! boots. Only where no device lived through do wall clocks serve, by what they claim of themselves, and that is
//! flagged (`hub_epochs`). A fact that rests on a later boot is widened by what is unknown of `H_k`.
//!
//! # The estimate
//!
//! Inside the interval, where is `g` most likely? The delays of a direction are a least delay plus a queue, so its
//! facts lie on a copy of `g`, moved by the least delay, with scatter to one side. A smoother of offset and slope
//! (Rauch, Tung and Striebel 1965) runs through the densest part of each direction's scatter, with less trust in a
//! packet the later it is; how much the clock wanders is chosen by how well each wander foretells the facts. The
//! level between the two copies is set so that the least delays are equal both ways. That alone is a guess: a path
//! that is slower one way shifts it by half the difference, and nobody can see that from the stamps; the interval
//! covers it (`estimate`, `smoother`, `delays`). The estimate is then moved into the interval and kept from rising
//! or falling faster than the drift allows, so that time never runs backwards within a segment (`course`).
//!
//! Stamps that come in order and lie between the same facts are placed by numbers that are looked up once (`straight`).
//!
//! Whatever the estimate does, the published bound is measured from where it ends up to the farther end of the
//! interval. A better estimator may replace it at any time and no bound can become false.
//!
//! # Where no bound can be given
//!
//! With facts of one direction only, the bound is infinite and the estimate takes the quickest packet to have taken
//! no time. With no facts at all, a clock is read as if it were the hub's own, with an infinite bound. Neither is
//! ever a null: a reader filters by the bound.
//!
//! # Sources
//!
//! F. Cristian, *Probabilistic clock synchronization*, Distributed Computing 3 (1989). K. Marzullo, *Maintaining the
//! time in a distributed system*, PhD thesis, Stanford (1984). S. Moon, P. Skelly, D. Towsley, *Estimation and
//! removal of clock skew from network delay measurements*, INFOCOM (1999). H. Rauch, F. Tung, C. Striebel, *Maximum
//! likelihood estimates of linear dynamic systems*, AIAA Journal 3 (1965). T. Robertson, J. Cryer, *An iterative
//! procedure for estimating the mode*, JASA 69 (1974).

mod evidence;

mod align;
mod lives;
mod segments;

mod bounds;
mod interval;

mod hub_epochs;

mod delays;
mod estimate;
mod smoother;

mod course;
mod live;
mod map;
mod straight;
mod warnings;

#[cfg(test)]
mod tests;

pub use align::{Alignment, ClockCourse, Options, align, align_by};
pub use evidence::{ClockEvidence, DeviceEvidence, Row, SessionEvidence, WallReading};
pub use hub_epochs::{HubEpoch, TiedBy};
pub use live::{LiveBound, LiveClock};
pub use map::{ClockMap, Cursor, MapRow, Placed, Published};
pub use warnings::Warning;
