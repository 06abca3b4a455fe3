//! What came of `retained`.

use std::fmt;

use serde::Serialize;

use super::{
    Report, Turns, median, others,
    page::{Page, ms, unknown},
    section::{Cell, Section},
};
use crate::{cli::OthersBounds, environment::Environment, output::thousands, verify::Faults};

/// The others alone and beside tours, and who came back, in rounds.
#[derive(Clone, Debug, Serialize)]
pub struct RetainedReport {
    /// What was run, in a line.
    pub scenario: String,
    /// Whether everybody got exactly what they must, within the bounds that were given.
    pub passed: bool,
    /// On what it was measured.
    pub environment: Environment,
    /// By flag, defaults included.
    pub parameters: Vec<(String, String)>,
    /// What was allowed.
    pub bounds: Bounds,
    /// The broker's before and after everything was published.
    pub memory: Memory,
    /// What it grew by for each topic, if these are new to it.
    pub topic_bytes: Option<f64>,
    /// From the command until `replayed`: the median over all tours.
    pub tour_ms: f64,
    /// And over all returns.
    pub return_ms: f64,
    /// The others alone: the median over the rounds.
    pub p50_ms_without: f64,
    /// And beside tours.
    pub p50_ms_with: f64,
    /// The others alone: the median over the rounds.
    pub p99_ms_without: f64,
    /// And beside tours; absent if nothing was due meanwhile.
    pub p99_ms_with: Option<f64>,
    /// The second through the first.
    pub ratio: Option<f64>,
    /// Which bounds it was beyond, and what else went wrong.
    pub failures: Vec<String>,
    /// In turn.
    pub rounds: Vec<Round>,
}

/// What was allowed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bounds {
    /// Of the others' p99.
    #[serde(flatten)]
    pub others: OthersBounds,
    /// How long the median tour may take.
    pub tour_ms: Option<f64>,
    /// How long the median return may take.
    pub return_ms: Option<f64>,
    /// By how much the broker may grow for each topic.
    pub topic_bytes: Option<u64>,
}

/// The broker's memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// How many topics there are.
    pub topics: usize,
    /// Whether nothing was ever published to them before: otherwise the broker had them already.
    pub are_new: bool,
    /// Before the first publication.
    pub resident_bytes_before: Option<u64>,
    /// When the last of them was acknowledged.
    pub resident_bytes_after: Option<u64>,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// The others alone.
    pub without: Report,
    /// And beside tours; latencies are of what was due from the first command to the last `replayed`.
    pub with: Report,
    /// The tours.
    pub tours: Vec<Replay>,
    /// The broker's turns that were longer than two milliseconds beside them, if its metrics tell.
    pub turns: Option<Turns>,
    /// Who came back, if there was a moment to come back to.
    pub back: Option<Replay>,
}

/// What one got who subscribed to all of the topics.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// Whether everything came, and then `replayed`.
    pub is_complete: bool,
    /// From the command to `replayed`, or until it was given up.
    pub ms: f64,
    /// How many publications had to come.
    pub expected: u64,
    /// How many did.
    pub come: u64,
    /// What went wrong.
    pub faults: Faults,
    /// Publications that it was told not to get.
    pub gaps: u64,
    /// What the broker did first that it must not.
    pub trouble: Option<String>,
}

impl Replay {
    /// Whether it got exactly what it must.
    #[cfg(test)]
    pub fn is_good(&self) -> bool {
        self.is_complete && self.faults.is_clean() && self.gaps == 0 && self.trouble.is_none()
    }

    /// With what the broker did that it must not, unless there was something before.
    pub fn with_trouble(self, trouble: String) -> Replay {
        Replay { trouble: self.trouble.or(Some(trouble)), ..self }
    }
}

impl Memory {
    /// What the broker grew by for each topic, if it grew for them alone.
    fn topic_bytes(&self) -> Option<f64> {
        let (before, after) = self.resident_bytes_before.zip(self.resident_bytes_after)?;
        self.are_new.then(|| after.saturating_sub(before) as f64 / self.topics as f64)
    }
}

impl RetainedReport {
    /// From what was measured.
    pub fn new(
        scenario: String,
        environment: Environment,
        parameters: Vec<(String, String)>,
        bounds: Bounds,
        memory: Memory,
        rounds: Vec<Round>,
    ) -> RetainedReport {
        let over_rounds =
            |figure: &dyn Fn(&Round) -> Option<f64>| median(rounds.iter().filter_map(figure).collect());
        let p50_ms = |report: &Report| Some(report.topics.first()?.latency_ms.p50);
        let has_latencies = |report: &Report| report.topics.iter().any(|it| !it.histogram.is_empty());
        let p99_ms_without = over_rounds(&|it| Some(it.without.p99_ms()));
        let p99_ms_with = rounds
            .iter()
            .any(|it| has_latencies(&it.with))
            .then(|| over_rounds(&|it| has_latencies(&it.with).then(|| it.with.p99_ms())));
        let mut report = RetainedReport {
            scenario,
            passed: false,
            environment,
            parameters,
            bounds,
            memory,
            topic_bytes: memory.topic_bytes(),
            tour_ms: median(rounds.iter().flat_map(|it| &it.tours).map(|it| it.ms).collect()),
            return_ms: over_rounds(&|it| Some(it.back.as_ref()?.ms)),
            p50_ms_without: over_rounds(&|it| p50_ms(&it.without)),
            p50_ms_with: over_rounds(&|it| p50_ms(&it.with)),
            p99_ms_without,
            p99_ms_with,
            ratio: p99_ms_with.filter(|_| p99_ms_without > 0.0).map(|it| it / p99_ms_without),
            failures: Vec::new(),
            rounds,
        };
        report.failures = report.judge();
        report.passed = report.failures.is_empty();
        report
    }

    fn judge(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.rounds.is_empty() {
            failures.push("there was no round".to_owned());
        }
        failures.extend(wrong(&self.tours(), "tours"));
        failures.extend(wrong(&self.returns(), "returns"));
        if self.returns().len() < self.rounds.len() {
            failures.push("not in every round somebody came back".to_owned());
        }
        for round in &self.rounds {
            failures.extend(others::failure(&round.without, "alone"));
            failures.extend(others::failure(&round.with, "beside tours"));
        }
        failures.extend(self.bounds.others.judge(self.p99_ms_with.zip(self.ratio)));
        failures.extend(too_long("tour", self.tour_ms, self.bounds.tour_ms));
        failures.extend(too_long("return", self.return_ms, self.bounds.return_ms));
        failures.extend(self.bounds.topic_bytes.and_then(|max| match self.topic_bytes {
            Some(bytes) if bytes <= max as f64 => None,
            Some(bytes) => Some(format!("the broker grew by {bytes:.0} bytes for each topic, not {max}")),
            None => Some(MEMORY_UNKNOWN.to_owned()),
        }));
        failures
    }

    fn tours(&self) -> Vec<&Replay> {
        self.rounds.iter().flat_map(|it| &it.tours).collect()
    }

    fn returns(&self) -> Vec<&Replay> {
        self.rounds.iter().filter_map(|it| it.back.as_ref()).collect()
    }

    /// What the others saw, by round.
    fn by_name(&self) -> Vec<(&str, &Report)> {
        self.rounds.iter().flat_map(|it| [("alone", &it.without), ("beside tours", &it.with)]).collect()
    }

    fn replays(&self) -> Section {
        let head = ["", "median ms", "max ms", "publications each", "lost", "twice", "corrupted", "gaps"];
        let mut section = Section::new("Who subscribed to all of them", &head);
        for (name, median_ms, replays) in
            [("tours", self.tour_ms, self.tours()), ("returns", self.return_ms, self.returns())]
        {
            let sum = |of: fn(&Replay) -> u64| replays.iter().map(|it| of(it)).sum::<u64>();
            let bad = |count: u64| Cell::new(thousands(count as f64), count > 0);
            section.row(vec![
                format!("{} {name}", replays.len()).into(),
                format!("{median_ms:.1}").into(),
                format!("{:.1}", replays.iter().map(|it| it.ms).fold(0.0, f64::max)).into(),
                thousands(replays.first().map_or(0, |it| it.expected) as f64).into(),
                bad(sum(|it| it.faults.lost)),
                bad(sum(|it| it.faults.duplicated)),
                bad(sum(|it| it.faults.corrupted)),
                bad(sum(|it| it.gaps)),
            ]);
        }
        if let Some(over_ms) = self.rounds.iter().find_map(|it| it.turns).map(|it| it.over_ms) {
            let count: u64 = self.rounds.iter().filter_map(|it| it.turns).map(|it| it.count).sum();
            // A broker that is kept from its processor has long turns, and does nothing in them.
            section.remark(format!(
                "{count} turns of the broker longer than {over_ms} ms beside tours, with what kept it from its processor"
            ));
        }
        section
    }

    /// As a page.
    pub fn page(&self) -> String {
        let mut page = Page::new(&self.scenario, self.passed, if self.passed { PASSED } else { "Failed" });
        self.failures.iter().for_each(|it| page.bad_note(it));
        self.notes().for_each(|it| page.note(it));
        page.tiles(&[
            ("until a tour was over", ms(self.tour_ms)),
            ("until a return was over", ms(self.return_ms)),
            ("p99 of the others alone", ms(self.p99_ms_without)),
            ("p99 of the others beside tours", self.p99_ms_with.map_or_else(unknown, ms)),
            ("ratio", self.ratio.map_or_else(unknown, |it| format!("{it:.2}"))),
            ("the broker's memory for a topic", self.topic_bytes.map_or_else(unknown, bytes)),
        ]);
        page.section(&self.replays());
        page.section(&others::section(self.by_name()));
        page.figures(&[others::p99_plot(self.by_name())]);
        page.environment(&self.environment, &[], &self.parameters);
        page.finish()
    }

    fn notes(&self) -> impl Iterator<Item = &str> {
        let known = (!self.memory.are_new).then_some(NOT_NEW);
        let reports = self.rounds.iter().flat_map(|it| [&it.without, &it.with]);
        known.into_iter().chain(others::notes(reports))
    }
}

const PASSED: &str = "PASS: everybody got exactly what they must";
const NOT_NEW: &str = "the broker had some of these topics before: what it grew by says nothing of them";
const MEMORY_UNKNOWN: &str = "what the broker grew by for each topic is not known";

fn bytes(bytes: f64) -> String {
    format!("{bytes:.0} <small>B</small>")
}

/// What went wrong with some of them: the first trouble, how many have not everything, and what was not right.
fn wrong(replays: &[&Replay], name: &str) -> Vec<String> {
    let mut failures: Vec<String> = replays
        .iter()
        .find_map(|it| it.trouble.as_ref())
        .map(|it| format!("{name}: {it}"))
        .into_iter()
        .collect();
    let incomplete = replays.iter().filter(|it| !it.is_complete).count();
    if incomplete > 0 {
        failures.push(format!("{incomplete} of {} {name} do not have everything", replays.len()));
    }
    let mut faults = Faults::default();
    replays.iter().for_each(|it| faults.add(&it.faults));
    let wrong = others::faults(&faults, replays.iter().map(|it| it.gaps).sum());
    failures.extend(wrong.into_iter().map(|it| format!("{name}: {it}")));
    failures
}

fn too_long(name: &str, ms: f64, max: Option<f64>) -> Option<String> {
    max.filter(|max| ms > *max).map(|max| format!("the median {name} took {ms:.1} ms, not {max}"))
}

impl fmt::Display for RetainedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n{}", self.scenario, self.replays())?;
        writeln!(f, "{}", others::section(self.by_name()))?;
        let (p50, p99) = (self.p50_ms_without, self.p99_ms_without);
        match self.p99_ms_with.zip(self.ratio) {
            Some((with, ratio)) => writeln!(
                f,
                "  the others, medians: p50 {p50:.2} ms alone, {:.2} ms beside tours; p99 {p99:.2} ms alone, {with:.2} ms \
                 beside tours: {ratio:.2} ×",
                self.p50_ms_with
            )?,
            None => writeln!(f, "  p99 of the others {p99:.2} ms alone; nothing was due beside tours")?,
        }
        writeln!(
            f,
            "  until replayed, medians: tours {:.1} ms, returns {:.1} ms",
            self.tour_ms, self.return_ms
        )?;
        let bytes = self.topic_bytes.map_or("–".to_owned(), |it| format!("{it:.0}"));
        writeln!(f, "  the broker grew by {bytes} bytes for each topic")?;
        self.notes().try_for_each(|it| writeln!(f, "  note: {it}"))?;
        self.failures.iter().try_for_each(|it| writeln!(f, "  {it}"))?;
        write!(f, "  {}", if self.passed { PASSED } else { "FAIL" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bounds: Bounds, memory: Memory) -> RetainedReport {
        let mut report = RetainedReport::new(
            String::new(),
            Environment::read(None),
            Vec::new(),
            bounds,
            memory,
            Vec::new(),
        );
        (report.tour_ms, report.return_ms) = (500.0, 200.1);
        report
    }

    #[test]
    fn a_bound_is_kept_up_to_its_value() {
        let memory = |are_new| Memory {
            topics: 100,
            are_new,
            resident_bytes_before: Some(50_000),
            resident_bytes_after: Some(170_000),
        };
        let bounds = |topic_bytes| Bounds {
            tour_ms: Some(500.0),
            return_ms: Some(200.0),
            topic_bytes: Some(topic_bytes),
            ..Bounds::default()
        };
        let judge = |bounds, memory| report(bounds, memory).judge().split_off(1).join("; ");
        assert_eq!(judge(bounds(1_200), memory(true)), "the median return took 200.1 ms, not 200");
        assert_eq!(
            judge(bounds(1_199), memory(true)),
            "the median return took 200.1 ms, not 200; the broker grew by 1200 bytes for each topic, not 1199"
        );
        assert!(judge(bounds(1_200), memory(false)).ends_with(MEMORY_UNKNOWN));
        assert_eq!(judge(Bounds::default(), memory(false)), "", "what is not said is no bound");
    }

    /// A run that was interrupted before its first round says nothing.
    #[test]
    fn no_rounds_pass_nothing() {
        let memory =
            Memory { topics: 1, are_new: true, resident_bytes_before: None, resident_bytes_after: None };
        let report = report(Bounds::default(), memory);
        assert_eq!(report.failures, ["there was no round"]);
        assert!(!report.passed && report.to_string().ends_with("FAIL"));
        assert!(report.page().contains("there was no round"));
    }
}
