//! `marey clock plot SESSION`: what is known of each clock of a session, as a picture: how it wandered, the delays that show
//! it, and the bound between them.
//!
//! Reads what was published, `clock_map.parquet` and `clock_probes.parquet`, and no log.

use crate::commands::realign::read_manifest;
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain};
use crate::svg::{self, Band, Dots, Panel, page};
use crate::written;
use marey_engine::compact::{PublishedMap, PublishedProbe, check_clock_tables, read_map, read_probes};
use marey_engine::disk::OsDisk;
use marey_engine::{Session, SessionError};
use marey_format::SessionId;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Columns of dots: of many delays that fall into one, the least tells most.
const COLUMNS: usize = 450;

#[derive(Debug, clap::Args)]
pub struct Plot {
    session: SessionId,
    /// The picture, in SVG.
    #[arg(long, value_name = "FILE", default_value = "clock.svg")]
    out: PathBuf,
}

#[derive(Debug, Serialize)]
struct Drawn {
    session: SessionId,
    out: PathBuf,
    clocks: usize,
    /// Pieces of evidence that are drawn or stand behind one that is.
    delays: usize,
}

pub fn run(plot: Plot, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let folder = Session::dir(&plot.session);
    if !dir.join(&folder).is_dir() {
        return Err(Failure::fault(SessionError::Unknown(plot.session)));
    }
    let clocks = read(&OsDisk::new(&dir), &folder, &plot.session)?;
    let drawn = Drawn {
        clocks: clocks.len(),
        delays: clocks.iter().map(|clock| clock.delays).sum(),
        session: plot.session,
        out: plot.out,
    };
    let title = format!(
        "Clocks of session {}, from its first device's first piece on",
        drawn.session
    );
    let panels: Vec<Panel> = clocks.iter().flat_map(Clock::panels).collect();
    written::write(&drawn.out, page(&title, &panels).as_bytes(), svg::BEGINS)?;
    output.result(&drawn, |drawn| {
        let (clocks, delays, out) = (drawn.clocks, drawn.delays, drawn.out.display());
        format!("{out}: {clocks} clocks, {delays} delays")
    })
}

/// One clock of a device; its map has a row.
struct Clock {
    map: PublishedMap,
    /// Session time of the left edge, and how many seconds the picture is wide.
    begin_ns: i64,
    seconds: f64,
    up: Columns,
    down: Columns,
    delays: usize,
}

/// The least delay of each column, in microseconds.
struct Columns(Vec<f64>);

impl Columns {
    fn take(&mut self, share: f64, delay_us: f64) {
        let column = (share * self.0.len() as f64) as usize;
        let last = self.0.len() - 1;
        let least = &mut self.0[column.min(last)];
        *least = least.min(delay_us);
    }

    /// Second and delay of each column that has one.
    fn points(&self, seconds: f64) -> impl Iterator<Item = (f64, f64)> {
        let columns = self.0.len() as f64;
        let middle = move |at: usize| (at as f64 + 0.5) / columns * seconds;
        let known = self.0.iter().enumerate().filter(|(_, least)| least.is_finite());
        known.map(move |(at, &least)| (middle(at), least))
    }
}

fn read(disk: &OsDisk, folder: &Path, session: &SessionId) -> Result<Vec<Clock>> {
    let manifest = read_manifest(disk, folder, session)?;
    if let Some(manifest) = &manifest {
        check_clock_tables(disk, folder, manifest)?;
    }
    let (Some(manifest), Some(maps)) = (manifest, read_map(disk, folder, None)?) else {
        return Err(Failure::fault(format!(
            "session {session} has no clock_map.parquet yet; `marey compact {session}` publishes it"
        )));
    };
    let offsets: BTreeMap<String, i64> = manifest
        .hub_epochs
        .iter()
        .map(|epoch| (epoch.hub_epoch.to_string(), epoch.offset_ns))
        .collect();
    // On one axis, or devices could not be compared.
    let stamps = maps
        .iter()
        .flat_map(|map| map.rows.iter().map(|row| row.session_ns));
    let (begin_ns, end_ns) = stamps.fold((i64::MAX, i64::MIN), |(from, to), at| (from.min(at), to.max(at)));
    let mut clocks: Vec<Clock> = maps
        .into_iter()
        .filter(|map| !map.rows.is_empty())
        .map(|map| Clock::new(map, begin_ns, end_ns))
        .collect();
    let found = read_probes(disk, folder, |probe| {
        let Some(&offset_ns) = offsets.get(&probe.hub_epoch) else {
            return;
        };
        let its = clocks.iter_mut().find(|clock| clock.has(&probe));
        if let Some(clock) = its {
            clock.take(&probe, offset_ns);
        }
    })?;
    match found {
        true => Ok(clocks),
        false => Err(Failure::fault(format!(
            "session {session} has no clock_probes.parquet; `marey compact {session} --again` makes it"
        ))),
    }
}

impl Clock {
    fn new(map: PublishedMap, begin_ns: i64, end_ns: i64) -> Self {
        let columns = || Columns(vec![f64::INFINITY; COLUMNS]);
        Self {
            seconds: (end_ns.saturating_sub(begin_ns) as f64 / 1e9).max(1e-3),
            begin_ns,
            up: columns(),
            down: columns(),
            delays: 0,
            map,
        }
    }

    fn has(&self, probe: &PublishedProbe) -> bool {
        let of_ordinal = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let in_range = |first: i32, last: i32| (first..=last).contains(&probe.epoch);
            matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if in_range(first, last))
        };
        self.map.device == probe.device && self.map.epochs.split(',').any(of_ordinal)
    }

    /// Delays by the map: up from the device's sending to the hub's arrival, down the other way.
    fn take(&mut self, probe: &PublishedProbe, offset_ns: i64) {
        let up = (probe.dev_send_ns, probe.hub_recv_ns, 1.0);
        let down = (probe.dev_recv_ns, probe.hub_send_ns, -1.0);
        for (dev_ns, hub_ns, sign) in [up, down] {
            if dev_ns == 0 || hub_ns == 0 {
                continue;
            }
            let Some(by_map_ns) = self.map.at(dev_ns) else {
                continue;
            };
            let hub_ns = hub_ns.saturating_add(offset_ns);
            let delay_us = sign * hub_ns.saturating_sub(by_map_ns) as f64 / 1e3;
            let share = by_map_ns.saturating_sub(self.begin_ns) as f64 / 1e9 / self.seconds;
            if !(-0.01..=1.01).contains(&share) {
                continue;
            }
            self.delays += 1;
            match sign > 0.0 {
                true => self.up.take(share.max(0.0), delay_us),
                false => self.down.take(share.max(0.0), delay_us),
            }
        }
    }

    fn second(&self, session_ns: i64) -> f64 {
        session_ns.saturating_sub(self.begin_ns) as f64 / 1e9
    }

    fn panels(&self) -> [Panel; 2] {
        let (device, clock) = (plain(&self.map.device), plain(&self.map.clock));
        let clock: String = clock.chars().take(8).collect();
        let (wander, cuts, ppm) = self.wander();
        let mut bound = Band::default();
        for (at, row) in self.map.rows.iter().enumerate() {
            let next = self
                .map
                .rows
                .get(at + 1)
                .map_or(row.session_ns, |next| next.session_ns);
            let err_us = row.err_ns / 1e3;
            for second in [self.second(row.session_ns), self.second(next)] {
                bound.push(second, -err_us, err_us);
            }
        }
        let up: Vec<(f64, f64)> = self.up.points(self.seconds).collect();
        let down: Vec<(f64, f64)> = self.down.points(self.seconds).map(|(at, y)| (at, -y)).collect();
        let reach = reach(up.iter().chain(&down), &bound);
        let known = if cuts.is_empty() {
            ""
        } else {
            "; dashed: the clock jumped or stood still"
        };
        // Session time less device time rises where the device's clock is slow.
        let way = if ppm > 0.0 { "slow" } else { "fast" };
        let of_clock = format!("{device}, clock {clock}, epochs {}", plain(&self.map.epochs));
        [
            Panel {
                title: format!(
                    "{of_clock}: offset less a straight line (the clock is {:.2} ppm {way}){known}",
                    ppm.abs()
                ),
                unit: "us".to_owned(),
                seconds: self.seconds,
                reach: None,
                lines: wander,
                cuts: cuts.clone(),
                ..Panel::default()
            },
            Panel {
                title: format!("{device}: least delays up (above 0) and down (below 0); band: the bound"),
                unit: "us".to_owned(),
                seconds: self.seconds,
                reach: Some(reach),
                cuts,
                band: Some(bound),
                dots: vec![
                    Dots {
                        is_up: true,
                        points: up,
                    },
                    Dots {
                        is_up: false,
                        points: down,
                    },
                ],
                ..Panel::default()
            },
        ]
    }

    /// For each segment, the offset less the line from its first to its last piece, in seconds and microseconds; where
    /// segments begin; the slope of the longest.
    #[allow(clippy::type_complexity, reason = "three plain lists, used once")]
    fn wander(&self) -> (Vec<Vec<(f64, f64)>>, Vec<f64>, f64) {
        let segments = self.map.rows.chunk_by(|a, b| a.segment == b.segment);
        let (mut lines, mut cuts, mut longest, mut ppm) = (Vec::new(), Vec::new(), -1.0, 0.0);
        for rows in segments {
            let (first, last) = (&rows[0], &rows[rows.len() - 1]);
            let offset_ns =
                |row: &marey_engine::clock::MapRow| row.session_ns.wrapping_sub(row.device_time_ns);
            let length_ns = last.device_time_ns.saturating_sub(first.device_time_ns) as f64;
            let slope = match length_ns > 0.0 {
                true => offset_ns(last).wrapping_sub(offset_ns(first)) as f64 / length_ns,
                false => first.rate - 1.0,
            };
            if length_ns > longest {
                (longest, ppm) = (length_ns, slope * 1e6);
            }
            let line = rows.iter().map(|row| {
                let since_ns = row.device_time_ns.saturating_sub(first.device_time_ns) as f64;
                let offset_ns = offset_ns(row).wrapping_sub(offset_ns(first)) as f64;
                (self.second(row.session_ns), (offset_ns - slope * since_ns) / 1e3)
            });
            lines.push(line.collect());
            cuts.push(self.second(first.session_ns));
        }
        cuts.remove(0);
        (lines, cuts, ppm)
    }
}

/// How far the picture of delays reaches from 0: beyond the bound and most of the least delays, not to the longest, which a
/// device that comes back with a full buffer makes minutes.
fn reach<'a>(delays: impl Iterator<Item = &'a (f64, f64)>, bound: &Band) -> f64 {
    let mut delays: Vec<f64> = delays.map(|point| point.1.abs()).collect();
    delays.sort_by(f64::total_cmp);
    let most = delays.get(delays.len() * 3 / 4).copied().unwrap_or(0.0);
    (2.0 * most).max(1.3 * bound.widest()).max(1.0)
}
