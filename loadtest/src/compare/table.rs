//! The comparison as a table: medians, and the least and the most of the rounds.

use std::fmt;

use super::result::{BrokerResult, Comparison, Priority, Round, Step, Trouble};
use crate::report::section::{Cell, Section};

/// The broker that the others are compared with, and the bare loop.
const OURS: &str = "fanfare";
pub const FLOOR: &str = "floor";

/// One number over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the middle two.
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of what there is; `None` of nothing.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = values.first().zip(values.last())?;
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Some(Spread { median, least, most })
    }

    /// `median (least–most)`, or the median alone when nothing would be seen of a spread.
    fn show(self, number: impl Fn(f64) -> String) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(&number);
        if least == most { median } else { format!("{median} ({least}–{most})") }
    }
}

fn spread(broker: &BrokerResult, pick: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
    Spread::of(broker.rounds.iter().filter_map(pick))
}

fn knee(broker: &BrokerResult) -> Option<Spread> {
    spread(broker, |it| it.knee.as_ref().map(|it| it.deliveries_per_s))
}

fn calm(broker: &BrokerResult) -> Option<Spread> {
    spread(broker, |it| it.calm.as_ref().map(|it| it.ns_per_delivery))
}

const NOTHING: &str = "—";

fn millions(value: f64) -> String {
    match value / 1e6 {
        value if value < 1.0 => format!("{value:.2} M"),
        value => format!("{value:.1} M"),
    }
}

fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn tenth(value: f64) -> String {
    format!("{value:.1}")
}

fn ratio(value: Option<Spread>, of: Option<Spread>) -> String {
    match (value, of) {
        (Some(value), Some(of)) => format!("{:.2}", value.median / of.median),
        _ => NOTHING.to_owned(),
    }
}

fn show(value: Option<Spread>, number: fn(f64) -> String) -> String {
    value.map_or(NOTHING.to_owned(), |it| it.show(number))
}

fn row(broker: &BrokerResult, comparison: &Comparison) -> Vec<Cell> {
    let named = |name: &str| comparison.brokers.iter().find(|it| it.name == name);
    let is_least = broker.rounds.iter().any(|it| it.knee_is_least);
    let knee_cell = match knee(broker) {
        Some(knee) if is_least => format!("≥ {}", knee.show(millions)),
        knee => show(knee, millions),
    };
    let paced = |pick: fn(&Step) -> f64| show(spread(broker, |it| it.paced.as_ref().map(pick)), tenth);
    let idle = |pick: fn(&super::result::Idle) -> f64, number| {
        show(spread(broker, |it| it.idle.as_ref().map(pick)), number)
    };
    let figures = [
        broker.name.clone(),
        knee_cell,
        ratio(knee(broker), named(OURS).and_then(knee)),
        show(spread(broker, |it| it.knee.as_ref().map(|it| it.ns_per_delivery)), whole),
        show(calm(broker), whole),
        ratio(calm(broker), named(FLOOR).and_then(calm)),
        paced(|it| it.p50_ms),
        paced(|it| it.p99_ms),
        paced(|it| it.p999_ms),
        idle(|it| it.bytes_per_connection, whole),
        idle(|it| it.upgrades_per_s, whole),
        idle(|it| it.upgrade_us, tenth),
    ];
    figures.map(Cell::from).into()
}

const HEAD: [&str; 12] = [
    "broker",
    "deliveries/s with p99 < 50 ms",
    "of fanfare",
    "CPU ns per delivery there",
    "CPU ns per delivery at 100 pub/s",
    "of the floor",
    "p50 ms at 1,000 pub/s",
    "p99 ms",
    "p99.9 ms",
    "B per idle connection",
    "upgrades/s",
    "CPU µs per upgrade",
];

/// The steps of the loads that most applications have.
const SMALL: [fn(&Round) -> Option<&Step>; 3] =
    [|it| it.pairs.as_ref(), |it| it.rooms.as_ref(), |it| it.fan_in.as_ref()];

fn small_row(broker: &BrokerResult, comparison: &Comparison) -> Vec<Cell> {
    let floor = comparison.brokers.iter().find(|it| it.name == FLOOR);
    let mut cells = vec![Cell::from(broker.name.clone())];
    for pick in SMALL {
        let of = |broker, figure: fn(&Step) -> f64| spread(broker, |round| pick(round).map(figure));
        let cost = of(broker, |it| it.ns_per_delivery);
        let least = floor.and_then(|it| of(it, |it| it.ns_per_delivery));
        cells.push(show(cost, whole).into());
        cells.push(ratio(cost, least).into());
        cells.push(show(of(broker, |it| it.p99_ms), tenth).into());
    }
    cells
}

const SMALL_HEAD: [&str; 10] = [
    "broker",
    "pairs: CPU ns per delivery",
    "of the floor",
    "p99 ms",
    "rooms: CPU ns per delivery",
    "of the floor",
    "p99 ms",
    "fan-in: CPU ns per delivery",
    "of the floor",
    "p99 ms",
];

impl fmt::Display for Comparison {
    /// Markdown that can be read as it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Section::new("", &HEAD);
        let measured = || self.brokers.iter().filter(|it| it.rounds.iter().any(|it| !it.is_empty()));
        measured().for_each(|it| table.row(row(it, self)));
        write!(f, "{table}")?;
        writeln!(f)?;
        let mut small = Section::new("", &SMALL_HEAD);
        measured().for_each(|it| small.row(small_row(it, self)));
        write!(f, "{small}")?;
        writeln!(f)?;
        writeln!(
            f,
            "Medians of up to {} rounds (least–most). One topic, {} subscribers × {} B; {} idle connections; pairs: \
             1,000 topics with a publisher and a subscriber, 40,000 pub/s; rooms: 100 topics with a publisher and ten \
             subscribers, 5,000 pub/s; fan-in: 1,000 publishers of one topic with two subscribers, 20,000 pub/s. Broker on one core, client on another{}. {}.",
            measured().map(|it| it.rounds.len()).max().unwrap_or_default(),
            whole(self.subscribers as f64),
            self.size,
            whole(self.connections as f64),
            match self.priority {
                Priority::Usual => "",
                Priority::Nice => ", both at nice -20",
                Priority::RealTime => ", both with real-time priority (SCHED_FIFO)",
            },
            self.machine,
        )?;
        writeln!(f, "`{}` ({:.0} min)", self.command, self.elapsed_s / 60.0)?;
        for it in &self.cut {
            writeln!(f, "\nFor want of time: {it}.")?;
        }
        if !self.is_complete {
            writeln!(f, "\nNot complete: what is missing was not measured.")?;
        }
        writeln!(f)?;
        for broker in &self.brokers {
            self.footnotes(broker, f)?;
        }
        Ok(())
    }
}

impl Comparison {
    fn footnotes(&self, broker: &BrokerResult, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes: Vec<String> = Vec::new();
        if !broker.version.is_empty() {
            notes.push(broker.version.clone());
        }
        match &broker.trouble {
            Some(Trouble::Skipped(reason)) => notes.push(format!("skipped: {reason}")),
            Some(Trouble::Failed(reason)) => notes.push(format!("failed: {reason}")),
            None => {}
        }
        if broker.protocol.is_some_and(|it| it.is_stream()) && !broker.rounds.is_empty() {
            let doubt = "who is not sampled was counted by bytes, to within a frame header per delivery";
            notes.push(doubt.to_owned());
        }
        if broker.rounds.iter().any(|it| it.knee_is_least) {
            notes.push("≥: the client was at its limit, or the search at its end".to_owned());
        }
        match broker.rounds.iter().map(|it| it.retries_cut).sum() {
            0usize => {}
            count => notes.push(format!("{count} rates were worth another try, for which there was no time")),
        }
        let mut told: Vec<&String> = broker.rounds.iter().flat_map(|it| &it.notes).collect();
        told.dedup();
        notes.extend(told.into_iter().take(3).cloned());
        if notes.is_empty() { Ok(()) } else { writeln!(f, "- {}: {}", broker.name, notes.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compare::result::Idle, dialect::Dialect};

    fn step(deliveries_per_s: f64, ns: f64) -> Step {
        Step {
            rate: 1000,
            deliveries_per_s,
            ns_per_delivery: ns,
            p50_ms: 0.5,
            p99_ms: 4.25,
            p999_ms: 9.0,
            broker_cpu_share: 0.5,
            client_cpu_share: 0.5,
            is_clean: true,
        }
    }

    fn broker(name: &str, knees: &[f64]) -> BrokerResult {
        let round = |knee: &f64| Round {
            idle: Some(Idle { bytes_per_connection: 12_345.0, upgrade_us: 31.25, upgrades_per_s: 9_999.0 }),
            calm: Some(step(1e5, *knee / 1e4)),
            paced: Some(step(1e6, 100.0)),
            pairs: Some(step(4e4, *knee / 1e3)),
            rooms: None,
            fan_in: Some(step(2e4, 7_000.0)),
            knee: Some(step(*knee, 50.0)),
            knee_is_least: false,
            retries_cut: 1,
            notes: vec!["odd".to_owned()],
        };
        BrokerResult {
            name: name.to_owned(),
            protocol: Some(Dialect::Plain),
            version: "v1".to_owned(),
            trouble: None,
            rounds: knees.iter().map(round).collect(),
        }
    }

    #[test]
    fn the_table_has_medians_spreads_and_ratios() {
        let mut floor = broker("floor", &[40e6]);
        floor.rounds[0].idle = None;
        floor.rounds[0].knee_is_least = true;
        let skipped = BrokerResult {
            trouble: Some(Trouble::Skipped("no such program".to_owned())),
            ..broker("gone", &[])
        };
        let comparison = Comparison {
            command: "fanfare-loadtest compare".to_owned(),
            machine: "Linux".to_owned(),
            priority: Priority::RealTime,
            subscribers: 1000,
            size: 128,
            connections: 10_000,
            is_complete: false,
            elapsed_s: 120.0,
            cut: vec!["1 of 3 rounds".to_owned()],
            brokers: vec![
                broker("fanfare", &[20e6, 30e6, 10e6]),
                broker("other", &[4e6, 6e6]),
                skipped,
                floor,
            ],
        };
        let text = comparison.to_string();
        let cells = |line: usize| {
            text.lines().nth(line).unwrap().split('|').map(|it| it.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cells(0)[1..13], HEAD.map(str::to_owned));
        let fanfare = ["fanfare", "20.0 M (10.0 M–30.0 M)", "1.00", "50", "2,000 (1,000–3,000)", "0.50"];
        let rest = ["0.5", "4.2", "9.0", "12,345", "9,999", "31.2"];
        assert_eq!(cells(2)[1..13], [fanfare, rest].concat());
        assert_eq!(cells(3)[1..4], ["other", "5.0 M (4.0 M–6.0 M)", "0.25"]);
        assert_eq!(cells(4)[1..3], ["floor", "≥ 40.0 M"]);
        assert_eq!(cells(4)[10..13], [NOTHING; 3]);
        assert_eq!(cells(6)[1..11], SMALL_HEAD.map(str::to_owned));
        let pairs = ["20,000 (10,000–30,000)", "0.50", "4.2"];
        assert_eq!(
            cells(8)[1..11],
            [&["fanfare"], &pairs[..], &[NOTHING; 3], &["7,000", "1.00", "4.2"]].concat()
        );
        let is_even = text.lines().take(5).map(|it| it.chars().count()).all(|it| it == cells_width(&text));
        assert!(is_even, "{text}");
        for part in [
            "- gone: v1; skipped: no such program",
            "SCHED_FIFO",
            "Not complete",
            "For want of time: 1 of 3 rounds.\n",
            "- other: v1; 2 rates were worth another try, for which there was no time; odd\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    fn cells_width(text: &str) -> usize {
        text.lines().next().unwrap().chars().count()
    }

    #[test]
    fn numbers_are_grouped_and_medians_are_in_the_middle() {
        assert_eq!(
            [0.4, 999.0, 1000.0, -1234.0, 1234567.0].map(whole),
            ["0", "999", "1,000", "-1,234", "1,234,567"]
        );
        assert_eq!(Spread::of([3.0, 1.0].into_iter()).unwrap().median, 2.0);
        assert_eq!(Spread::of(std::iter::empty()), None);
        assert_eq!(millions(640_000.0), "0.64 M");
    }
}
