//! What came of `resume`.

use std::fmt;

use serde::Serialize;

use super::{
    Latency, Report, others,
    page::{Page, mib, ms, unknown},
    plot::{self, Line},
};
use crate::{cli::OthersBounds, environment::Environment, output::thousands, verify::Faults};

/// The others without and with those who come back.
#[derive(Clone, Debug, Serialize)]
pub struct ResumeReport {
    /// What was run, in a line.
    pub scenario: String,
    /// Whether everybody got everything, within the bounds that were given.
    pub passed: bool,
    /// On what it was measured.
    pub environment: Environment,
    /// By flag, defaults included.
    pub parameters: Vec<(String, String)>,
    /// What was allowed.
    pub bounds: Bounds,
    /// p99 of the others without them, and while they come back.
    pub p99_ms_without: f64,
    /// And with them; absent if nothing was due meanwhile.
    pub p99_ms_with: Option<f64>,
    /// The second through the first.
    pub ratio: Option<f64>,
    /// By how much the broker's memory grew while they came back.
    pub resident_bytes_grown: Option<u64>,
    /// Which bounds it was beyond, and what else went wrong.
    pub failures: Vec<String>,
    /// Those who come back.
    pub storm: StormReport,
    /// The others without them.
    pub without: Report,
    /// And with them; latencies are of what was due from the first question to the last delivery.
    pub with: Report,
}

/// What was allowed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bounds {
    /// Of the others' p99.
    #[serde(flatten)]
    pub others: OthersBounds,
    /// How long it may take until everybody has everything.
    pub within_s: Option<u64>,
    /// By how much the broker's memory may grow.
    pub memory_bytes_max: Option<u64>,
}

/// Those who come back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StormReport {
    /// How many.
    pub clients: usize,
    /// How many of them have everything.
    pub complete: usize,
    /// How many of them are verified by content, the others by the number of bytes.
    pub sampled: usize,
    /// From the first question to the last delivery.
    pub elapsed_s: f64,
    /// What they got, as it is on the wire.
    pub bytes: u64,
    /// Over that time.
    pub bytes_per_s: f64,
    /// From the first question until one has everything.
    pub client_ms: Latency,
    /// What went wrong.
    pub faults: Faults,
    /// Publications that they were told not to get.
    pub gaps: u64,
    /// How many the broker closed.
    pub closed: usize,
    /// What the broker did first that it must not.
    pub trouble: Option<String>,
    /// The broker's memory before.
    pub resident_bytes_before: Option<u64>,
    /// And at its highest.
    pub resident_bytes_peak: Option<u64>,
    /// By part of the time.
    pub series: Vec<Slice>,
}

/// A part of it.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// Its begin, in seconds from the first question.
    pub at_s: f64,
    /// What everybody got in it.
    pub bytes_per_s: f64,
    /// The broker's memory at its end.
    pub resident_bytes: Option<u64>,
}

impl Bounds {
    /// Which of them are not kept, by p99 of the others with its ratio, the time that it took, and the growth of the
    /// broker's memory.
    fn judge(&self, p99: Option<(f64, f64)>, elapsed_s: f64, grown: Option<u64>) -> Vec<String> {
        let ratio = self.others.judge(p99);
        let time = self.within_s.filter(|max| elapsed_s > *max as f64);
        let memory = self.memory_bytes_max.and_then(|max| match grown {
            Some(grown) if grown <= max => None,
            Some(grown) => {
                Some(format!("the broker grew by {} MiB, not {}", grown.div_ceil(1 << 20), max >> 20))
            }
            None => Some("the broker's memory is not known".to_owned()),
        });
        [ratio, time.map(|max| format!("it took {elapsed_s:.2} s, not {max}")), memory]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl ResumeReport {
    /// From what was measured.
    pub fn new(
        scenario: String,
        environment: Environment,
        parameters: Vec<(String, String)>,
        bounds: Bounds,
        without: Report,
        with: Report,
        storm: StormReport,
    ) -> ResumeReport {
        let p99_ms_without = without.p99_ms();
        let p99_ms_with = with.topics.iter().any(|it| !it.histogram.is_empty()).then(|| with.p99_ms());
        let ratio = p99_ms_with.filter(|_| p99_ms_without > 0.0).map(|it| it / p99_ms_without);
        let before = storm.resident_bytes_before;
        let resident_bytes_grown =
            before.zip(storm.resident_bytes_peak).map(|(before, peak)| peak.saturating_sub(before));
        let mut report = ResumeReport {
            scenario,
            passed: false,
            environment,
            parameters,
            bounds,
            p99_ms_without,
            p99_ms_with,
            ratio,
            resident_bytes_grown,
            failures: Vec::new(),
            storm,
            without,
            with,
        };
        report.failures = report.judge();
        report.passed = report.failures.is_empty();
        report
    }

    fn judge(&self) -> Vec<String> {
        let StormReport { clients, complete, faults, gaps, closed, trouble, elapsed_s, .. } = &self.storm;
        let mut failures = Vec::new();
        failures.extend(trouble.clone());
        if *clients == 0 {
            failures.push("nobody came back".to_owned());
        }
        if complete < clients {
            failures.push(format!("{} of {clients} do not have everything", clients - complete));
        }
        failures.extend(others::faults(faults, *gaps));
        if *closed > 0 {
            failures.push(format!("{closed} of those who came back were closed"));
        }
        failures.extend(others::failure(&self.without, "alone"));
        failures.extend(others::failure(&self.with, "beside them"));
        failures.extend(self.bounds.judge(
            self.p99_ms_with.zip(self.ratio),
            *elapsed_s,
            self.resident_bytes_grown,
        ));
        failures
    }

    /// What the others saw.
    fn by_name(&self) -> [(&str, &Report); 2] {
        [("without them", &self.without), ("with them", &self.with)]
    }

    fn notes(&self) -> Vec<&str> {
        others::notes([&self.without, &self.with])
    }

    /// As a page.
    pub fn page(&self) -> String {
        let mut page = Page::new(&self.scenario, self.passed, if self.passed { PASSED } else { "Failed" });
        self.failures.iter().for_each(|it| page.bad_note(it));
        self.notes().into_iter().for_each(|it| page.note(it));
        let StormReport { elapsed_s, bytes_per_s, client_ms, faults, gaps, .. } = &self.storm;
        page.tiles(&[
            ("until everybody had everything", format!("{elapsed_s:.2} <small>s</small>")),
            ("until half of them had", ms(client_ms.p50)),
            ("replayed per second", mib(*bytes_per_s as u64)),
            ("p99 of the others without them", ms(self.p99_ms_without)),
            ("p99 of the others with them", self.p99_ms_with.map_or_else(unknown, ms)),
            ("ratio", self.ratio.map_or_else(unknown, |it| format!("{it:.2}"))),
            ("lost, duplicated, reordered", thousands(wrong(faults) as f64)),
            ("told as gaps", thousands(*gaps as f64)),
            ("the broker's memory grew by", self.resident_bytes_grown.map_or_else(unknown, mib)),
        ]);
        page.section(&others::section(self.by_name()));
        page.figures(&self.figures());
        page.environment(&self.environment, &[], &self.parameters);
        page.finish()
    }

    fn figures(&self) -> Vec<(String, String)> {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let series = &self.storm.series;
        let replayed = series.iter().map(|it| (it.at_s, Some(mib(it.bytes_per_s)))).collect();
        let resident =
            series.iter().map(|it| (it.at_s, it.resident_bytes.map(|bytes| mib(bytes as f64)))).collect();
        let line = |name: &str, points| [Line { name: name.to_owned(), points }];
        let plot = |lines: &[Line], unit| plot::lines(lines, unit, false, f64::INFINITY);
        vec![
            ("Replayed".to_owned(), plot(&line("to everybody", replayed), "MiB/s")),
            others::p99_plot(self.by_name()),
            ("Broker memory".to_owned(), plot(&line("while they come back", resident), "MiB resident")),
        ]
    }
}

const PASSED: &str = "PASS: everybody got exactly what it missed";

fn wrong(faults: &Faults) -> u64 {
    faults.lost + faults.duplicated + faults.reordered + faults.corrupted
}

impl fmt::Display for ResumeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StormReport {
            clients, complete, sampled, elapsed_s, bytes_per_s, client_ms, faults, gaps, ..
        } = &self.storm;
        writeln!(f, "{}\n\n{}", self.scenario, others::section(self.by_name()))?;
        let without = self.p99_ms_without;
        match self.p99_ms_with.zip(self.ratio) {
            Some((with, ratio)) => writeln!(
                f,
                "  p99 of the others {without:.2} ms without, {with:.2} ms with them: {ratio:.2} ×"
            )?,
            None => writeln!(f, "  p99 of the others {without:.2} ms without; nothing was due with them")?,
        }
        writeln!(
            f,
            "  {complete} of {clients} have everything after {elapsed_s:.2} s, {:.0} MB/s; {sampled} verified by content",
            bytes_per_s / 1e6
        )?;
        writeln!(
            f,
            "  until one had everything, ms: p50 {:.0}  p90 {:.0}  p99 {:.0}  max {:.0}",
            client_ms.p50, client_ms.p90, client_ms.p99, client_ms.max
        )?;
        let Faults { lost, duplicated, reordered, corrupted } = faults;
        writeln!(
            f,
            "  lost {lost}, duplicated {duplicated}, reordered {reordered}, corrupted {corrupted}, told as gaps {gaps}"
        )?;
        let mib = |bytes: Option<u64>| bytes.map_or("–".to_owned(), |it| (it >> 20).to_string());
        let StormReport { resident_bytes_before: before, resident_bytes_peak: peak, .. } = self.storm;
        writeln!(f, "  broker {} MiB before, {} MiB at its highest", mib(before), mib(peak))?;
        for note in self.notes() {
            writeln!(f, "  note: {note}")?;
        }
        self.failures.iter().try_for_each(|it| writeln!(f, "  {it}"))?;
        write!(f, "  {}", if self.passed { PASSED } else { "FAIL" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_kept_up_to_its_value() {
        let bounds = Bounds {
            others: OthersBounds { ratio_max: Some(2.0), p99_ms: Some(3.0) },
            within_s: Some(10),
            memory_bytes_max: Some(64 << 20),
        };
        let judge = |p99, elapsed_s, grown| bounds.judge(p99, elapsed_s, grown).join("; ");
        assert_eq!(judge(Some((9.0, 2.0)), 10.0, Some(64 << 20)), "");
        assert_eq!(
            judge(Some((3.1, 2.5)), 10.1, Some((64 << 20) + 1)),
            "p99 of the others is 2.50 times that without them, not 2; it took 10.10 s, not 10; the broker grew by 65 MiB, \
             not 64"
        );
        assert_eq!(judge(Some((9.0, 2.0)), 0.0, None), "the broker's memory is not known");
        assert_eq!(Bounds::default().judge(None, 1e9, None), [""; 0], "what is not said is no bound");
    }
}
