//! The highest rate that holds a bound: doubled until it does not, then halved in.

use super::{Plan, Setting, check, finish, measure};
use crate::{
    output::tell,
    report::{Report, Try},
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
const PRECISION: f64 = 1.05;

/// Which rate to try next.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// The highest that held.
    held: Option<u64>,
    /// The lowest that did not.
    failed: Option<u64>,
    next: u64,
}

impl Search {
    fn new(first: u64) -> Search {
        Search { held: None, failed: None, next: first }
    }

    fn record(&mut self, held: bool) {
        match held {
            true => self.held = self.held.max(Some(self.next)),
            false => self.failed = Some(self.failed.map_or(self.next, |it| it.min(self.next))),
        }
        self.next = match (self.held, self.failed) {
            (Some(held), None) => held * 2,
            (None, Some(failed)) => failed / 2,
            // The middle of what is a ratio.
            (Some(held), Some(failed)) => ((held as f64 * failed as f64).sqrt() as u64).max(held + 1),
            (None, None) => self.next,
        };
    }

    fn is_over(&self) -> bool {
        match (self.held, self.failed) {
            (Some(held), Some(failed)) => failed as f64 <= held as f64 * PRECISION || failed <= held + 1,
            _ => self.next == 0,
        }
    }
}

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
    let mut search = Search::new(first);
    let mut tries: Vec<Try> = Vec::new();
    let mut best: Option<Report> = None;
    let mut last: Option<Report> = None;
    while tries.len() < bound.tries && !search.is_over() {
        let rate = search.next;
        let report = match measure(setting, &plan(rate)?) {
            Ok(report) => report,
            // The first failure is the operator's; a later one may be the broker's end: keep what is known.
            Err(error) if tries.is_empty() => return Err(error),
            Err(error) => {
                last.as_mut().expect("there was a try").notes.push(format!("at {rate} pub/s: {error}"));
                break;
            }
        };
        let held = report.is_clean() && report.p99_ms() <= bound.p99_ms;
        tell(format_args!(
            "  {rate} pub/s: {:.0} deliveries/s, p99 {:.2} ms, lost {}: {}",
            report.deliveries_per_s,
            report.p99_ms(),
            report.lost(),
            if held { "held" } else { "did not hold" }
        ));
        tries.push(of_report(&report, rate, held));
        search.record(held);
        let was_cut_short = report.ended_early_s.is_some();
        last = Some(report.clone());
        if held && search.held == Some(rate) {
            best = Some(report);
        }
        if was_cut_short {
            break;
        }
    }
    let has_best = best.is_some();
    let mut report = best.or(last).expect("a rate was tried");
    report.notes.push(match (search.held, search.failed) {
        (Some(held), Some(failed)) => format!(
            "the knee is between {held} and {failed} pub/s: p99 within {} ms without loss up to the first",
            bound.p99_ms
        ),
        (Some(held), None) => format!("{held} pub/s held and nothing higher was tried"),
        (None, _) => format!("no rate that was tried held p99 within {} ms without loss", bound.p99_ms),
    });
    report.tries = tries;
    finish(&report, &setting.run.outputs)?;
    Ok(has_best)
}

fn of_report(report: &Report, rate: u64, held: bool) -> Try {
    Try {
        rate,
        deliveries_per_s: report.deliveries_per_s,
        p99_ms: report.p99_ms(),
        lost: report.lost(),
        broker_cpu_share: report.broker_cpu_share,
        client_cpu_share: report.client_cpu_share,
        held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker that holds exactly up to `limit`.
    fn search(first: u64, limit: u64) -> (Option<u64>, usize) {
        let mut search = Search::new(first);
        let mut tries = 0;
        while !search.is_over() && tries < 30 {
            search.record(search.next <= limit);
            tries += 1;
        }
        (search.held, tries)
    }

    #[test]
    fn the_knee_is_found_from_below_and_from_above() {
        for limit in [1, 7, 100, 1000, 14_321, 1_000_000] {
            for first in [1, 1000, 50_000] {
                let (held, tries) = search(first, limit);
                let held = held.unwrap();
                assert!(
                    held <= limit && (held + 1) as f64 * PRECISION >= limit as f64,
                    "{first} {limit} {held}"
                );
                assert!(tries < 30, "{first} {limit}");
            }
        }
    }

    #[test]
    fn a_broker_that_holds_nothing_is_given_up_on() {
        assert_eq!(search(1000, 0).0, None);
    }
}
