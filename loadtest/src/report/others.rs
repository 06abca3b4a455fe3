//! The others: what they saw without and with what a scenario does beside them.

use super::{
    Latency, Report,
    plot::{self, Line},
    section::{Cell, Section},
};
use crate::{cli::OthersBounds, output::thousands, verify::Faults};

impl OthersBounds {
    /// Why their p99 beside it, which is so many times that without it, is none that is allowed.
    pub fn judge(&self, p99: Option<(f64, f64)>) -> Option<String> {
        let max = self.ratio_max?;
        match p99 {
            Some((p99_ms, ratio)) if ratio <= max || self.p99_ms.is_some_and(|good| p99_ms <= good) => None,
            Some((_, ratio)) => {
                Some(format!("p99 of the others is {ratio:.2} times that without them, not {max}"))
            }
            None => Some("nothing was due to the others meanwhile: there is no p99 to compare".to_owned()),
        }
    }
}

/// A table of what they saw, by what was beside them.
pub fn section<'a>(reports: impl IntoIterator<Item = (&'a str, &'a Report)>) -> Section {
    let head = ["", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "lost", "broker waited ms/s"];
    let mut section = Section::new("The others", &head);
    for (name, report) in reports {
        let latency = report.topics.first().map_or_else(Latency::default, |it| it.latency_ms.clone());
        let cells = [latency.p50, latency.p99, latency.p999, latency.max].map(|it| format!("{it:.2}").into());
        let lost = Cell::new(report.lost().to_string(), report.lost() > 0);
        let waited = report.broker_waiting_share.map_or("–".to_owned(), |it| format!("{:.1}", it * 1e3));
        section.row([name.into()].into_iter().chain(cells).chain([lost, waited.into()]).collect());
    }
    section
}

/// What whoever reads their figures must know, once each.
pub fn notes<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Vec<&'a str> {
    let mut notes: Vec<&str> = Vec::new();
    for note in reports.into_iter().flat_map(|it| &it.notes) {
        if !notes.contains(&note.as_str()) {
            notes.push(note);
        }
    }
    notes
}

/// A plot of their p99, by what was beside them.
pub fn p99_plot<'a>(reports: impl IntoIterator<Item = (&'a str, &'a Report)>) -> (String, String) {
    let line = |(name, report): (&str, &Report)| {
        let rows = report.series.iter();
        let points = rows.map(|it| (it.second as f64, it.groups.first().and_then(|it| it.p99_ms)));
        Line { name: name.to_owned(), points: points.collect() }
    };
    let lines: Vec<Line> = reports.into_iter().map(line).collect();
    ("Latency p99 of the others".to_owned(), plot::lines(&lines, "ms", false, f64::INFINITY))
}

/// What went wrong for them, if anything did.
pub fn failure(report: &Report, when: &str) -> Option<String> {
    let why = || report.broken_reason.clone().unwrap_or(format!("{} lost", report.lost()));
    (!report.is_clean()).then(|| format!("the others, {when}: {}", why()))
}

/// What those beside them got wrong, by name and number.
pub fn faults(faults: &Faults, gaps: u64) -> Vec<String> {
    let counts = [
        ("lost", faults.lost),
        ("duplicated", faults.duplicated),
        ("reordered", faults.reordered),
        ("corrupted", faults.corrupted),
        ("told as gaps", gaps),
    ];
    let wrong = counts.iter().filter(|it| it.1 > 0);
    wrong.map(|(what, count)| format!("{} {what}", thousands(*count as f64))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::BrokerSample,
        client::{Outcome, monitor::Usage},
        environment::Environment,
        process::ThreadTime,
    };

    /// Of ten seconds in which the broker's thread was without a processor for so long.
    fn report(waited_ms: Option<u64>, notes: &[&str]) -> Report {
        let at = |cpu_ns, waited_ns| {
            let threads = [(7, ThreadTime { cpu_ns, waited_ns })].into_iter().collect();
            BrokerSample { threads, ..BrokerSample::default() }
        };
        let broker = waited_ms.map(|ms| (at(0, 0), at(1, ms * 1_000_000)));
        let outcome = Outcome {
            groups: Vec::new(),
            losses: Vec::new(),
            losses_omitted: 0,
            measured_s: 10.0,
            ended_early_s: None,
            series: Vec::new(),
            usage: Usage { broker, broker_s: 10.0, ..Usage::default() },
            broken: (0, None),
            notes: notes.iter().map(|it| (*it).to_owned()).collect(),
        };
        Report::new("", Environment::read(None), Vec::new(), outcome, &[], None)
    }

    #[test]
    fn what_kept_the_broker_from_running_stands_beside_what_they_saw() {
        let [busy, unknown] = [report(Some(456), &[]), report(None, &[])];
        let table = section([("beside", &busy), ("alone", &unknown)]).to_string();
        let last = |line: &str| line.trim_end_matches(" |").rsplit(' ').next().map(str::to_owned);
        let cells: Vec<_> = table.lines().filter_map(last).collect();
        assert_eq!(cells[4..], ["45.6", "–"], "{table}");
    }

    #[test]
    fn what_is_to_be_known_of_several_runs_is_told_once() {
        let [one, other] = [report(None, &["busy", "odd"]), report(None, &["busy", "late"])];
        assert_eq!(notes([&one, &other]), ["busy", "odd", "late"]);
    }

    #[test]
    fn a_ratio_is_kept_up_to_its_value() {
        let judge = |bounds: OthersBounds, p99| bounds.judge(p99).unwrap_or_default();
        let bounds = OthersBounds { ratio_max: Some(2.0), p99_ms: Some(3.0) };
        assert_eq!(judge(bounds, Some((9.0, 2.0))), "");
        assert_eq!(judge(bounds, Some((3.0, 9.0))), "", "good enough whatever the ratio");
        assert_eq!(
            judge(bounds, Some((3.1, 2.5))),
            "p99 of the others is 2.50 times that without them, not 2"
        );
        assert_eq!(
            judge(bounds, None),
            "nothing was due to the others meanwhile: there is no p99 to compare"
        );
        assert_eq!(judge(OthersBounds::default(), None), "", "what is not said is no bound");
    }
}
