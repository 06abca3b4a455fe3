//! The highest rate that holds a bound, to a twentieth.

use super::{Plan, Setting, check, finish, measure};
use crate::{
    cli::RATE_MAX,
    client::CLIENT_LIMIT,
    output::{tell, thousands},
    report::{Broke, Report, Try},
    search::{Ladder, Search},
};

/// What a rate has to hold.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The worst p99, in milliseconds.
    pub p99_ms: f64,
    /// The most rates that are tried.
    pub tries: usize,
}

/// The answer is known to a twentieth.
const PER_DOUBLING: i32 = 16;

/// Doubles from `first` on, or halves, to no more than a flag may ask for and no less than one.
fn search_from(first: u64) -> Search {
    let ladder = Ladder { base: first, per_doubling: PER_DOUBLING };
    Search::new(ladder, 0, PER_DOUBLING, (ladder.nearest(1), ladder.nearest(RATE_MAX)))
}

/// Above this share of a core the broker is said to have been at work all the time.
const BROKER_LIMIT: f64 = 0.8;
/// How often a rate is tried again when neither side had been at work all the time.
const RETRIES: usize = 1;

/// Tries rates from `first` on, reports the best and the table of all; whether any held.
///
/// # Errors
/// One line for the operator.
pub fn run(
    setting: &Setting<'_>,
    bound: Bound,
    first: u64,
    plan: impl Fn(u64) -> Result<Plan, String>,
) -> Result<bool, String> {
    check(setting.broker, &setting.run.outputs)?;
    let mut search = search_from(first);
    let mut tries: Vec<Try> = Vec::new();
    let mut best: Option<Report> = None;
    let mut last: Option<Report> = None;
    let (mut retries, mut trouble) = (0, None);
    while let Some(rate) = search.next().filter(|_| tries.len() < bound.tries) {
        let report = match measure(setting, &plan(rate)?) {
            Ok(report) => report,
            // The first failure is the operator's; a later one may be the broker's end: keep what is known.
            Err(error) if tries.is_empty() => return Err(error),
            Err(error) => {
                trouble = Some(format!("at {rate} pub/s: {error}"));
                break;
            }
        };
        let this = Try::of(&report, rate, bound);
        tell(format_args!("  {}", this.describe(bound)));
        let cut_short_s = report.ended_early_s;
        let is_again = this.broke == Some(Broke::Machine) && retries < RETRIES;
        retries = if is_again { retries + 1 } else { 0 };
        let held = this.held;
        tries.push(this);
        last = Some(report.clone());
        if let Some(at_s) = cut_short_s {
            trouble = Some(format!("the run at {rate} pub/s ended early, after {at_s:.1} s"));
            break;
        }
        if is_again {
            continue;
        }
        search.tell(held);
        if held {
            best = Some(report);
        }
    }
    let has_best = best.is_some();
    let mut report = best.or(last).expect("a rate was tried");
    report.notes.extend(knee(&search, &tries, bound));
    report.passed &= trouble.is_none();
    let has_ended_well = has_best && trouble.is_none();
    report.notes.extend(trouble);
    report.tries = tries;
    finish(&report, &setting.run.outputs)?;
    Ok(has_ended_well)
}

/// Where the knee is, and what gave way above it.
fn knee(search: &Search, tries: &[Try], bound: Bound) -> Vec<String> {
    let of_rate = |rate: u64| tries.iter().rfind(|it| it.rate == rate).map(|it| it.describe(bound));
    let Some(held) = search.held() else {
        return vec![format!("no rate that was tried held p99 within {} ms without loss", bound.p99_ms)];
    };
    let Some(failed) = search.failed() else {
        return vec![format!("{held} pub/s held and nothing higher was measured to its end")];
    };
    let precision = match search.next() {
        None => String::new(),
        Some(_) => format!(" (it is not known more closely after {} tries)", tries.len()),
    };
    let knee = format!("the knee is between {held} and {failed} pub/s{precision}");
    [Some(knee), of_rate(failed)].into_iter().flatten().collect()
}

impl Try {
    fn of(report: &Report, rate: u64, bound: Bound) -> Try {
        Try {
            rate,
            deliveries_per_s: report.deliveries_per_s,
            p99_ms: report.p99_ms(),
            lost: report.lost(),
            broker_cpu_share: report.broker_cpu_share,
            client_cpu_share: report.client_busiest_share(),
            held: broke(report, bound).is_none(),
            broke: broke(report, bound),
        }
    }

    /// In a sentence.
    fn describe(&self, bound: Bound) -> String {
        let Try { rate, p99_ms, lost, .. } = self;
        let deliveries = thousands(self.deliveries_per_s);
        let client = format!("this client's core {:.0} % busy", self.client_cpu_share * 100.0);
        let broker = self.broker_cpu_share.map_or("the broker's CPU unknown (--pid)".to_owned(), |it| {
            format!("the broker {:.0} % of a core", it * 100.0)
        });
        let what = match self.broke {
            None => "held",
            Some(Broke::Connections) => "connections ended",
            Some(Broke::Loss) => "not everything came",
            Some(Broke::P99) => "p99 is too high",
            Some(Broke::Client) => "this client was at its limit, not the broker: give it more --cores",
            Some(Broke::Machine) => "neither was busy: something else on this machine was",
        };
        let p99_max_ms = bound.p99_ms;
        format!(
            "{rate} pub/s: {deliveries} deliveries/s, p99 {p99_ms:.2} ms (at most {p99_max_ms}), lost {lost}, \
             {broker}, {client}: {what}"
        )
    }
}

/// What gave way, if anything did.
fn broke(report: &Report, bound: Bound) -> Option<Broke> {
    let is_late = report.p99_ms() > bound.p99_ms;
    if report.is_clean() && !is_late {
        return None;
    }
    let client_was_busy = report.client_busiest_share() > CLIENT_LIMIT;
    // Without its process nobody knows; then it was the broker.
    let broker_was_busy = report.broker_cpu_share.is_none_or(|it| it > BROKER_LIMIT);
    Some(match report {
        it if it.broken_connections > 0 => Broke::Connections,
        _ if client_was_busy => Broke::Client,
        it if !it.is_clean() => Broke::Loss,
        _ if broker_was_busy => Broke::P99,
        _ => Broke::Machine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker that holds exactly up to `limit`.
    fn find(first: u64, limit: u64) -> Option<u64> {
        let mut search = search_from(first);
        let mut tries = 0;
        while let Some(rate) = search.next() {
            search.tell(rate <= limit);
            tries += 1;
            assert!(tries < 30, "{first} {limit}");
        }
        search.held()
    }

    #[test]
    fn the_knee_is_found_to_a_twentieth_from_below_and_from_above() {
        for limit in [1, 7, 100, 1000, 14_321, 1_000_000] {
            for first in [1, 1000, 50_000] {
                let held = find(first, limit).unwrap();
                assert!(held <= limit && (held + 1) as f64 * 1.05 >= limit as f64, "{first} {limit} {held}");
            }
        }
    }

    #[test]
    fn it_begins_where_it_is_told_to_and_doubles() {
        let mut search = search_from(1234);
        assert_eq!(search.next(), Some(1234));
        search.tell(true);
        assert_eq!(search.next(), Some(2468));
        search.tell(true);
        assert_eq!(search.next(), Some(4936));
        search.tell(false);
        assert_eq!(search.next(), Some(3490), "the same ratio below and above");
    }

    /// What the report says of a search that knows its knee.
    #[test]
    fn the_knee_comes_with_what_gave_way_above_it() {
        let bound = Bound { p99_ms: 50.0, tries: 14 };
        let of_rate = |rate, broke: Option<Broke>| Try {
            rate,
            deliveries_per_s: 1e6,
            p99_ms: 60.0,
            lost: 0,
            broker_cpu_share: Some(0.99),
            client_cpu_share: 0.5,
            held: broke.is_none(),
            broke,
        };
        let mut search = search_from(1000);
        search.tell(true);
        assert_eq!(knee(&search, &[], bound), ["1000 pub/s held and nothing higher was measured to its end"]);
        while let Some(rate) = search.next() {
            search.tell(rate < 1040);
        }
        for (broke, expected) in [
            (Broke::P99, "p99 is too high"),
            (Broke::Client, "this client was at its limit, not the broker: give it more --cores"),
            (Broke::Machine, "neither was busy: something else on this machine was"),
        ] {
            let tries = [of_rate(1000, None), of_rate(1044, Some(broke))];
            let [place, what] = knee(&search, &tries, bound).try_into().unwrap();
            assert_eq!(place, "the knee is between 1000 and 1044 pub/s");
            assert!(what.starts_with("1044 pub/s: ") && what.ends_with(expected), "{what}");
        }
    }

    #[test]
    fn a_broker_that_holds_nothing_is_given_up_on() {
        assert_eq!(find(1000, 0), None);
    }
}
