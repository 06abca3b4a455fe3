//! What came of `stalled`.

use std::fmt;

use serde::Serialize;

use super::{
    Report, median, others,
    page::{Page, mib, ms, unknown},
    plot::{self, Line},
    section::{Cell, Section},
};
use crate::{environment::Environment, output::thousands};

/// Rounds without and with subscribers that do not read, in turn.
#[derive(Clone, Debug, Serialize)]
pub struct StalledReport {
    /// What was run, in a line.
    pub scenario: String,
    /// Whether the others got everything in every round, within the bounds that were given.
    pub passed: bool,
    /// On what it was measured.
    pub environment: Environment,
    /// By flag, defaults included.
    pub parameters: Vec<(String, String)>,
    /// The median over the rounds without them.
    pub p99_ms_without: f64,
    /// And with them.
    pub p99_ms_with: f64,
    /// The second through the first.
    pub ratio: f64,
    /// The most that was allowed of that.
    pub ratio_max: Option<f64>,
    /// The broker's memory at its highest, of all rounds.
    pub resident_bytes_max: Option<u64>,
    /// The most that was allowed of it.
    pub memory_bytes_max: Option<u64>,
    /// Publications that those who read did not get.
    pub lost: u64,
    /// In turn: without them, with them.
    pub rounds: Vec<Round>,
}

/// Of a plot, by second.
type Points = Vec<(f64, Option<f64>)>;

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Subscribers that did not read.
    pub stalled: usize,
    /// How many of them the broker had closed at the end.
    pub closed: usize,
    /// What the kernel held for TCP at the end, both ends and all programs of this machine.
    pub socket_bytes: Option<u64>,
    /// What the others saw.
    pub report: Report,
}

impl StalledReport {
    /// From its rounds.
    pub fn new(
        scenario: String,
        environment: Environment,
        parameters: Vec<(String, String)>,
        rounds: Vec<Round>,
        memory_bytes_max: Option<u64>,
        ratio_max: Option<f64>,
    ) -> StalledReport {
        let p99_ms = |has_stalled: bool| {
            let of_kind = rounds.iter().filter(|it| (it.stalled > 0) == has_stalled);
            // The first group is theirs who read the same in every round.
            median(of_kind.filter_map(|it| Some(it.report.topics.first()?.latency_ms.p99)).collect())
        };
        let (without, with) = (p99_ms(false), p99_ms(true));
        let ratio = if without > 0.0 { with / without } else { f64::INFINITY };
        let resident =
            rounds.iter().flat_map(|it| &it.report.series).filter_map(|it| it.broker_resident_bytes);
        let resident_bytes_max = resident.max();
        let is_within = memory_bytes_max.is_none_or(|max| resident_bytes_max.is_some_and(|it| it <= max))
            && ratio_max.is_none_or(|max| ratio <= max);
        let is_whole = rounds.iter().any(|it| it.stalled > 0) && rounds.iter().all(|it| it.report.is_clean());
        StalledReport {
            scenario,
            passed: is_whole && is_within,
            environment,
            parameters,
            p99_ms_without: without,
            p99_ms_with: with,
            ratio,
            ratio_max,
            resident_bytes_max,
            memory_bytes_max,
            lost: rounds.iter().map(|it| it.report.lost()).sum(),
            rounds,
        }
    }

    fn section(&self) -> Section {
        let mut section =
            Section::new("Rounds", &["stalled", "p99 ms", "lost", "broker MiB", "TCP MiB", "closed"]);
        let mib = |bytes: Option<u64>| bytes.map_or("–".to_owned(), |it| (it >> 20).to_string());
        for Round { stalled, closed, socket_bytes, report } in &self.rounds {
            let p99_ms = report.topics.first().map_or(0.0, |it| it.latency_ms.p99);
            section.row(vec![
                stalled.to_string().into(),
                format!("{p99_ms:.2}").into(),
                Cell::new(report.lost().to_string(), report.lost() > 0),
                mib(report.series.iter().filter_map(|it| it.broker_resident_bytes).max()).into(),
                mib(*socket_bytes).into(),
                closed.to_string().into(),
            ]);
            if let Some(reason) = &report.broken_reason {
                let count = report.broken_connections;
                section.remark(Cell::new(
                    format!("{count} connections of those who read ended: {reason}"),
                    true,
                ));
            }
        }
        section
    }

    fn notes(&self) -> Vec<&str> {
        others::notes(self.rounds.iter().map(|it| &it.report))
    }

    /// As a page.
    pub fn page(&self) -> String {
        let verdict = if self.passed { "Passed: nobody who read lost anything" } else { "Failed" };
        let mut page = Page::new(&self.scenario, self.passed, verdict);
        self.notes().into_iter().for_each(|it| page.note(it));
        let closed: usize = self.rounds.iter().map(|it| it.closed).sum();
        let socket_bytes = self.rounds.iter().filter_map(|it| it.socket_bytes).max();
        page.tiles(&[
            ("p99 without them", ms(self.p99_ms_without)),
            ("p99 with them", ms(self.p99_ms_with)),
            ("ratio", format!("{:.2}", self.ratio)),
            ("lost", thousands(self.lost as f64)),
            ("broker memory at most", self.resident_bytes_max.map_or_else(unknown, mib)),
            ("TCP memory of the machine at most", socket_bytes.map_or_else(unknown, mib)),
            ("closed by the broker", thousands(closed as f64)),
        ]);
        page.section(&self.section());
        page.figures(&self.figures());
        page.environment(&self.environment, &[], &self.parameters);
        page.finish()
    }

    fn figures(&self) -> Vec<(String, String)> {
        let p99 = |round: &Round| {
            let series = round.report.series.iter();
            series.map(|it| (it.second as f64, it.groups.first().and_then(|it| it.p99_ms))).collect()
        };
        let resident = |round: &Round| {
            let series = round.report.series.iter();
            series
                .map(|it| {
                    (it.second as f64, it.broker_resident_bytes.map(|bytes| bytes as f64 / (1 << 20) as f64))
                })
                .collect()
        };
        let plot = |points: &dyn Fn(&Round) -> Points, unit| {
            let line = |(index, round): (usize, &Round)| Line {
                name: format!("{} {}", if round.stalled > 0 { "with" } else { "without" }, index / 2 + 1),
                points: points(round),
            };
            let lines: Vec<Line> = self.rounds.iter().enumerate().map(line).collect();
            plot::lines(&lines, unit, false, f64::INFINITY)
        };
        vec![
            ("Latency p99 of those who read".to_owned(), plot(&p99, "ms")),
            ("Broker memory".to_owned(), plot(&resident, "MiB resident")),
        ]
    }
}

impl fmt::Display for StalledReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n{}", self.scenario, self.section())?;
        let (without, with) = (self.p99_ms_without, self.p99_ms_with);
        writeln!(f, "  p99 {without:.2} ms without, {with:.2} ms with them: {:.2} ×", self.ratio)?;
        if let (Some(most), Some(max)) = (self.resident_bytes_max, self.memory_bytes_max) {
            writeln!(f, "  broker at most {} of {} MiB", most >> 20, max >> 20)?;
        }
        self.notes().into_iter().try_for_each(|it| writeln!(f, "  note: {it}"))?;
        write!(f, "  {}", if self.passed { "PASS: nobody who read lost anything" } else { "FAIL" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that never had them says nothing of them.
    #[test]
    fn no_rounds_pass_nothing() {
        let report =
            StalledReport::new(String::new(), Environment::read(None), Vec::new(), Vec::new(), None, None);
        assert!(!report.passed);
        assert!(report.to_string().ends_with("FAIL"));
    }
}
