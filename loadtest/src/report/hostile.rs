//! What came of `hostile`.

use std::fmt;

use serde::Serialize;

use super::{
    Latency, Turns,
    page::Page,
    section::{Cell, Section},
};
use crate::environment::Environment;

/// One attack after the other.
#[derive(Clone, Debug, Serialize)]
pub struct HostileReport {
    /// What was run, in a line.
    pub scenario: String,
    /// Whether every attack cost the healthy no more than the bounds allow.
    pub passed: bool,
    /// On what it was measured.
    pub environment: Environment,
    /// By flag, defaults included.
    pub parameters: Vec<(String, String)>,
    /// What was allowed.
    pub bounds: Bounds,
    /// By attack.
    pub rounds: Vec<Round>,
}

/// What an attack may cost the healthy.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bounds {
    /// 99 % of the pings of each connection, in milliseconds.
    pub ping_p99_ms: f64,
    /// Every ping.
    pub ping_max_ms: f64,
    /// 99 % of the deliveries.
    pub delivery_p99_ms: f64,
    /// Connections that the broker closes.
    pub closed_max: u64,
    /// The broker's resident memory.
    pub memory_bytes_max: Option<u64>,
}

/// One attack.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Its kind.
    pub attack: &'static str,
    /// How many attacked.
    pub attackers: usize,
    /// Whether it was held.
    pub verdict: Verdict,
    /// The bounds that were broken, by name.
    pub broken: Vec<&'static str>,
    /// Why it was not run, why the first healthy connection was closed, or what was refused first.
    pub trouble: Option<String>,
    /// What whoever reads the figures must know.
    pub note: Option<String>,
    /// Pings that were due during the attack.
    pub ping_count: u64,
    /// From due to answered, before the attack, of the connection with the worst p99; the maximum is of all.
    pub ping_before_ms: Option<Latency>,
    /// And during it.
    pub ping_ms: Option<Latency>,
    /// Deliveries of what was due during the attack.
    pub delivery_count: u64,
    /// From due to received, before the attack.
    pub delivery_before_ms: Option<Latency>,
    /// And during it.
    pub delivery_ms: Option<Latency>,
    /// How late this program's own timer fired during the attack, on the core of the healthy.
    pub own_delay_ms: Option<Latency>,
    /// What the healthy counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// What the attackers sent.
    pub sent_bytes: u64,
    /// What they read.
    pub received_bytes: u64,
    /// How many of their connections the broker closed.
    pub attackers_closed: u64,
    /// The broker's memory at its highest, if its process is known.
    pub resident_bytes_max: Option<u64>,
    /// What the broker kept, and for each of what.
    pub bytes_each: Option<(f64, &'static str)>,
    /// The broker's turns that were longer than two milliseconds and twenty, if its metrics tell.
    pub turns: Option<[Turns; 2]>,
}

/// What those who do nothing wrong counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Publications that were due during the attack.
    pub published: u64,
    /// Publications that were acknowledged, before the attack too.
    pub acknowledged: u64,
    /// Commands that were refused.
    pub refused: u64,
    /// Pings and publications that were not answered until patience was over.
    pub unanswered: u64,
    /// Acknowledged publications that a subscriber did not get.
    pub lost: u64,
    /// Deliveries that came twice, in another order or with other bytes.
    pub wrong: u64,
    /// Connections that the broker closed.
    pub closed: u64,
}

/// What is said of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It cost the healthy no more than is allowed.
    Held,
    /// It cost them more.
    Broken,
    /// It could not be run, which is a failure.
    NotRun,
    /// The broker is not configured for it, which is none.
    Skipped,
}

impl Round {
    /// Of which nothing is known.
    pub fn new(attack: &'static str, attackers: usize) -> Round {
        Round {
            attack,
            attackers,
            verdict: Verdict::NotRun,
            broken: Vec::new(),
            trouble: None,
            note: None,
            ping_count: 0,
            ping_before_ms: None,
            ping_ms: None,
            delivery_count: 0,
            delivery_before_ms: None,
            delivery_ms: None,
            own_delay_ms: None,
            counts: Counts::default(),
            sent_bytes: 0,
            received_bytes: 0,
            attackers_closed: 0,
            resident_bytes_max: None,
            bytes_each: None,
            turns: None,
        }
    }

    /// Holds what was measured against the bounds.
    pub fn judge(&mut self, bounds: &Bounds) {
        let exceeds = |latency: &Option<Latency>, of: fn(&Latency) -> f64, max: f64| {
            latency.as_ref().is_none_or(|it| of(it) > max)
        };
        let memory = bounds.memory_bytes_max.zip(self.resident_bytes_max);
        let judged = [
            // Nothing measured is nothing held.
            ("no ping", self.ping_count == 0),
            ("no delivery", self.delivery_count == 0),
            ("ping p99", exceeds(&self.ping_ms, |it| it.p99, bounds.ping_p99_ms)),
            ("ping max", exceeds(&self.ping_ms, |it| it.max, bounds.ping_max_ms)),
            ("delivery p99", exceeds(&self.delivery_ms, |it| it.p99, bounds.delivery_p99_ms)),
            ("unanswered", self.counts.unanswered > 0),
            ("refused", self.counts.refused > 0),
            ("lost", self.counts.lost > 0),
            ("wrong", self.counts.wrong > 0),
            ("closed", self.counts.closed > bounds.closed_max),
            ("memory", memory.is_some_and(|(max, most)| most > max)),
        ];
        self.broken = judged.into_iter().filter(|it| it.1).map(|it| it.0).collect();
        self.verdict = if self.broken.is_empty() { Verdict::Held } else { Verdict::Broken };
    }

    fn is_passed(&self) -> bool {
        matches!(self.verdict, Verdict::Held | Verdict::Skipped)
    }

    fn verdict_text(&self) -> String {
        match self.verdict {
            Verdict::Held => "held".to_owned(),
            Verdict::Broken => format!("BROKEN: {}", self.broken.join(", ")),
            Verdict::NotRun => "NOT RUN".to_owned(),
            Verdict::Skipped => "skipped".to_owned(),
        }
    }

    fn cells(&self) -> Vec<Cell> {
        let unknown = || "–".to_owned();
        let figures = |latency: &Option<Latency>, of: &[fn(&Latency) -> f64]| {
            let text = |it: &Latency| of.iter().map(|of| short(of(it))).collect::<Vec<_>>().join(" / ");
            latency.as_ref().map_or_else(unknown, text)
        };
        let mib = |bytes: u64| format!("{:.0}", bytes as f64 / (1 << 20) as f64);
        let was_run = self.ping_ms.is_some();
        let count = |count: u64| if was_run { count.to_string() } else { unknown() };
        let figures = [
            self.attack.to_owned(),
            self.attackers.to_string(),
            figures(&self.ping_before_ms, &[|it| it.p99]),
            figures(&self.ping_ms, &[|it| it.p50, |it| it.p99, |it| it.max]),
            figures(&self.delivery_ms, &[|it| it.p99, |it| it.max]),
            count(self.counts.lost),
            count(self.counts.closed),
            self.turns.map_or_else(
                || if was_run { "not reported".to_owned() } else { unknown() },
                |turns| turns.map(|it| it.count.to_string()).join(" / "),
            ),
            self.resident_bytes_max.map_or_else(unknown, mib),
            figures(&self.own_delay_ms, &[|it| it.p99, |it| it.max]),
        ];
        let mut cells: Vec<Cell> = figures.map(Cell::from).into();
        cells.push(Cell::new(self.verdict_text(), !self.is_passed()));
        cells
    }

    /// What does not fit the table.
    fn remarks(&self, bounds: &Bounds) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some((bytes, unit)) = self.bytes_each {
            remarks.push(format!("the broker kept {bytes:.0} {unit}"));
        }
        if self.counts.unanswered + self.counts.refused + self.counts.wrong > 0 {
            let Counts { unanswered, refused, wrong, .. } = self.counts;
            remarks.push(format!("unanswered {unanswered}, refused {refused}, wrong {wrong}"));
        }
        if self.attackers_closed > 0 {
            remarks.push(format!("the broker closed {} attackers' connections", self.attackers_closed));
        }
        if let Some(delay) = self.own_delay_ms.as_ref().filter(|it| it.p99 > bounds.ping_p99_ms / 2.0) {
            remarks.push(format!(
                "this program's own timer was {:.1} ms late (p99): the latencies are not the broker's alone",
                delay.p99
            ));
        }
        remarks.extend(self.note.clone());
        remarks.extend(self.trouble.clone());
        remarks
    }
}

/// Three digits, as far as that goes.
fn short(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.2}"),
        ..100.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

const HEADER: [&str; 11] = [
    "attack",
    "attackers",
    "ping p99 before",
    "ping p50 / p99 / max",
    "delivery p99 / max",
    "lost",
    "closed",
    "turns > 2 / > 20 ms",
    "MiB at most",
    "own delay p99 / max",
    "verdict",
];

impl HostileReport {
    /// From its rounds.
    pub fn new(
        scenario: String,
        environment: Environment,
        parameters: Vec<(String, String)>,
        bounds: Bounds,
        rounds: Vec<Round>,
    ) -> HostileReport {
        let passed = !rounds.is_empty() && rounds.iter().all(Round::is_passed);
        HostileReport { scenario, passed, environment, parameters, bounds, rounds }
    }

    fn verdict(&self) -> &'static str {
        if self.passed { "PASS: no attack cost the healthy more than the bounds" } else { "FAIL" }
    }

    fn section(&self) -> Section {
        let mut section = Section::new("", &HEADER);
        for round in &self.rounds {
            section.row(round.cells());
        }
        section.remark("Latencies in milliseconds.");
        for round in &self.rounds {
            for remark in round.remarks(&self.bounds) {
                section.remark(format!("{}: {remark}", round.attack));
            }
        }
        section
    }

    /// As a page.
    pub fn page(&self) -> String {
        let mut page = Page::new(&self.scenario, self.passed, self.verdict());
        page.section(&self.section());
        page.environment(&self.environment, &[("Bounds", self.bounds.to_string())], &self.parameters);
        page.finish()
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { ping_p99_ms, ping_max_ms, delivery_p99_ms, closed_max, memory_bytes_max } = self;
        write!(
            f,
            "ping p99 {ping_p99_ms} ms, max {ping_max_ms} ms; delivery p99 {delivery_p99_ms} ms; \
             closed {closed_max}"
        )?;
        memory_bytes_max.map_or(Ok(()), |it| write!(f, "; memory {} MiB", it >> 20))
    }
}

impl fmt::Display for HostileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nbounds: {}\n\n{}", self.scenario, self.bounds, self.section())?;
        write!(f, "  {}", self.verdict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        ping_p99_ms: 5.0,
        ping_max_ms: 20.0,
        delivery_p99_ms: 20.0,
        closed_max: 0,
        memory_bytes_max: Some(1 << 30),
    };

    fn latency(p99: f64, max: f64) -> Option<Latency> {
        Some(Latency { p50: 0.1, p90: 0.2, p99, p999: max, max })
    }

    fn held() -> Round {
        Round {
            ping_count: 100,
            ping_ms: latency(5.0, 20.0),
            delivery_count: 100,
            delivery_ms: latency(20.0, 900.0),
            resident_bytes_max: Some(1 << 30),
            ..Round::new("pings", 10)
        }
    }

    /// Every bound alone, and none of them by what is just within.
    #[test]
    fn what_is_beyond_a_bound_is_named() {
        let broken = |change: fn(&mut Round)| {
            let mut round = held();
            change(&mut round);
            round.judge(&BOUNDS);
            assert_eq!(round.is_passed(), round.broken.is_empty());
            round.broken
        };
        assert_eq!(broken(|_| {}), [""; 0]);
        assert_eq!(broken(|it| it.ping_ms = latency(5.1, 20.0)), ["ping p99"]);
        assert_eq!(broken(|it| it.ping_ms = latency(5.0, 20.1)), ["ping max"]);
        assert_eq!(broken(|it| it.delivery_ms = latency(20.1, 21.0)), ["delivery p99"]);
        assert_eq!(broken(|it| it.counts.closed = 1), ["closed"]);
        assert_eq!(broken(|it| it.counts.lost = 1), ["lost"]);
        assert_eq!(broken(|it| it.counts.wrong = 1), ["wrong"]);
        assert_eq!(broken(|it| it.counts.refused = 1), ["refused"]);
        assert_eq!(broken(|it| it.counts.unanswered = 1), ["unanswered"]);
        assert_eq!(broken(|it| it.resident_bytes_max = Some((1 << 30) + 1)), ["memory"]);
        assert_eq!(broken(|it| it.delivery_count = 0), ["no delivery"]);
        assert_eq!(broken(|it| (it.ping_count, it.ping_ms) = (0, None)), ["no ping", "ping p99", "ping max"]);
    }

    #[test]
    fn one_attack_that_is_not_held_or_not_run_fails_all() {
        let report = |rounds: Vec<Round>| {
            HostileReport::new(String::new(), Environment::read(None), Vec::new(), BOUNDS, rounds)
        };
        let judged = |mut round: Round| {
            round.judge(&BOUNDS);
            round
        };
        let skipped = || Round { verdict: Verdict::Skipped, ..Round::new("bombs of 100", 4) };
        assert!(report(vec![judged(held()), skipped()]).passed);
        assert!(!report(Vec::new()).passed);
        assert!(!report(vec![judged(held()), Round::new("wide", 1)]).passed);
        let broken = report(vec![
            judged(held()),
            judged(Round { counts: Counts { lost: 1, ..Counts::default() }, ..held() }),
        ]);
        let text = broken.to_string();
        assert!(!broken.passed && text.contains("BROKEN: lost") && text.ends_with("FAIL"), "{text}");
        assert!(text.contains("not reported") && broken.page().contains("BROKEN: lost"));
    }
}
