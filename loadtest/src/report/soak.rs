//! What came of a soak besides its steady plan.

use std::fmt;

use serde::Serialize;

use super::section::{Cell, Section};
use crate::{client::Row, output::thousands};

/// Slopes are of the first and the last hour, or of halves if the run is shorter than two.
const WINDOW_S: i64 = 3600;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct SoakReport {
    /// By kind.
    pub visitors: Vec<Tally>,
    /// How the broker's memory went, if its process is known.
    pub drift: Option<Drift>,
}

/// What visitors of one kind did and got.
#[derive(Clone, Debug, Serialize)]
pub struct Tally {
    /// Which kind.
    pub name: &'static str,
    /// How many they opened.
    pub connections: u64,
    /// How many they made that were acknowledged.
    pub publications: u64,
    /// How many came, each right after the one before.
    pub deliveries: u64,
    /// Losses that were announced to them.
    pub gaps: u64,
    /// Slow readers' connections that the broker ended.
    pub cut_off: u64,
    /// What must not be.
    pub faults: u64,
    /// The first of it.
    pub first_fault: Option<String>,
}

impl Tally {
    /// Of nothing yet.
    pub fn new(name: &'static str) -> Tally {
        Tally {
            name,
            connections: 0,
            publications: 0,
            deliveries: 0,
            gaps: 0,
            cut_off: 0,
            faults: 0,
            first_fault: None,
        }
    }

    /// Adds another's of the same kind.
    pub fn add(&mut self, other: Tally) {
        self.connections += other.connections;
        self.publications += other.publications;
        self.deliveries += other.deliveries;
        self.gaps += other.gaps;
        self.cut_off += other.cut_off;
        self.faults += other.faults;
        self.first_fault = self.first_fault.take().or(other.first_fault);
    }
}

/// How the broker's resident memory went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// Of how many seconds at the beginning and at the end.
    pub window_s: i64,
    /// The line of least squares through the first of them, in bytes per hour.
    pub first_bytes_per_hour: f64,
    /// And through the last.
    pub last_bytes_per_hour: f64,
    /// The least that it was.
    pub least_bytes: u64,
    /// The most.
    pub most_bytes: u64,
}

impl Drift {
    /// Of the measured part of a run; `None` if there is too little of it.
    pub fn of(series: &[Row]) -> Option<Drift> {
        let points: Vec<(i64, u64)> = series
            .iter()
            .filter(|it| it.second >= 0)
            .filter_map(|it| Some((it.second, it.broker_resident_bytes?)))
            .collect();
        let ((first, _), (last, _)) = (points.first()?, points.last()?);
        let window_s = WINDOW_S.min((last - first + 1) / 2);
        let within = |from: i64, to: i64| points.iter().filter(move |it| (from..to).contains(&it.0));
        Some(Drift {
            window_s,
            first_bytes_per_hour: slope(within(*first, first + window_s))? * 3600.0,
            last_bytes_per_hour: slope(within(last + 1 - window_s, last + 1))? * 3600.0,
            least_bytes: points.iter().map(|it| it.1).min()?,
            most_bytes: points.iter().map(|it| it.1).max()?,
        })
    }
}

/// Of the line of least squares, per second; `None` through fewer than two points.
fn slope<'a>(points: impl Iterator<Item = &'a (i64, u64)> + Clone) -> Option<f64> {
    let count = points.clone().count() as f64;
    let mean = |of: fn(&(i64, u64)) -> f64| points.clone().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|it| it.0 as f64), mean(|it| it.1 as f64));
    let mut sums = (0.0, 0.0);
    for (x, y) in points {
        sums.0 += (*x as f64 - mean_x) * (*y as f64 - mean_y);
        sums.1 += (*x as f64 - mean_x).powi(2);
    }
    (sums.1 > 0.0).then(|| sums.0 / sums.1)
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: f64| bytes / (1 << 20) as f64;
        write!(
            f,
            "broker memory: {:+.2} MiB per hour in the first {} s, {:+.2} in the last; {:.1} to {:.1} MiB",
            mib(self.first_bytes_per_hour),
            self.window_s,
            mib(self.last_bytes_per_hour),
            mib(self.least_bytes as f64),
            mib(self.most_bytes as f64)
        )
    }
}

impl SoakReport {
    /// As a table.
    pub fn section(&self) -> Section {
        let mut section = Section::new(
            "Who came and went",
            &["who", "connections", "publications", "deliveries", "gaps announced", "cut off", "faults"],
        );
        for it in &self.visitors {
            let counts = [it.connections, it.publications, it.deliveries, it.gaps, it.cut_off];
            let mut row: Vec<Cell> = vec![it.name.into()];
            row.extend(counts.map(|count| Cell::from(thousands(count as f64))));
            row.push(Cell::new(thousands(it.faults as f64), it.faults > 0));
            section.row(row);
        }
        for it in &self.visitors {
            if let Some(fault) = &it.first_fault {
                section.remark(Cell::new(format!("{}, the first fault: {fault}", it.name), true));
            }
        }
        if let Some(drift) = &self.drift {
            section.remark(drift.to_string());
        }
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(second: i64, broker_resident_bytes: Option<u64>) -> Row {
        Row {
            second,
            deliveries: 0.0,
            groups: Vec::new(),
            broken_connections: 0,
            broker_cpu_share: None,
            broker_ns_per_delivery: None,
            broker_resident_bytes,
            client_cpu_share: 0.0,
        }
    }

    /// Three hours: the first climbs by 10 bytes a second, the last falls by 2; warm-up does not count.
    #[test]
    fn memory_has_a_slope_at_the_beginning_and_one_at_the_end() {
        let bytes = |second: i64| match second {
            ..3600 => 1_000_000 + 10 * second.max(0),
            3600..7200 => 2_000_000,
            _ => 3_000_000 - 2 * (second - 7200),
        };
        let series: Vec<Row> =
            (-5..10_800).map(|it| row(it, Some(if it < 0 { 9 } else { bytes(it) as u64 }))).collect();
        let drift = Drift::of(&series).unwrap();
        assert_eq!(drift.window_s, 3600);
        assert!((drift.first_bytes_per_hour - 36_000.0).abs() < 1.0, "{drift:?}");
        assert!((drift.last_bytes_per_hour + 7_200.0).abs() < 1.0, "{drift:?}");
        assert_eq!((drift.least_bytes, drift.most_bytes), (1_000_000, 3_000_000));
        assert_eq!(Drift::of(&series[..100]).unwrap().window_s, 47);
        assert_eq!(Drift::of(&[row(0, Some(1)), row(1, None)]), None);
        assert_eq!(Drift::of(&[]), None);
    }
}
