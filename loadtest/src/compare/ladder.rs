//! The search for the highest rate that holds: doubling, then halving what is left, on fixed rungs,
//! so that the rounds and the brokers are tried at the same rates.

/// Rungs per doubling: each is a quarter higher than the one before, near enough.
const PER_DOUBLING: i32 = 3;

/// The rate of a rung; rung 0 is 1,000 publications per second.
pub fn rate(rung: i32) -> u64 {
    (1000.0 * 2f64.powf(rung as f64 / PER_DOUBLING as f64)).round() as u64
}

/// The rung whose rate is next to `rate`.
pub fn nearest(rate: u64) -> i32 {
    ((rate.max(1) as f64 / 1000.0).log2() * PER_DOUBLING as f64).round() as i32
}

/// A search under way.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    lowest: i32,
    highest: i32,
    first: i32,
    step: i32,
    /// The highest rung that held.
    held: Option<i32>,
    /// The lowest that did not.
    failed: Option<i32>,
}

impl Search {
    /// Between two rungs, from a guess on in growing steps.
    pub fn near(rung: i32, lowest: i32, highest: i32) -> Search {
        Search { lowest, highest, first: rung.clamp(lowest, highest), step: 1, held: None, failed: None }
    }

    /// The rung to try next; `None` when it is over.
    pub fn next(&self) -> Option<i32> {
        let rung = match (self.held, self.failed) {
            (None, None) => self.first,
            (Some(held), None) => (held + self.step).min(self.highest),
            (None, Some(failed)) => (failed - self.step).max(self.lowest),
            (Some(held), Some(failed)) => (held + failed) / 2,
        };
        (self.held != Some(rung) && self.failed != Some(rung)).then_some(rung)
    }

    /// What trying `rung` gave.
    pub fn tell(&mut self, rung: i32, has_held: bool) {
        let has_gone_on = match has_held {
            true => self.held.replace(rung).is_some() && self.failed.is_none(),
            false => self.failed.replace(rung).is_some() && self.held.is_none(),
        };
        if has_gone_on {
            self.step = (self.step * 2).min(PER_DOUBLING);
        }
    }

    /// The highest rung that held.
    pub fn held(&self) -> Option<i32> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a search finds when everything up to `knee` holds, and in how many tries.
    fn find(mut search: Search, knee: i32) -> (Option<i32>, u32) {
        let mut tries = 0;
        while let Some(rung) = search.next() {
            search.tell(rung, rung <= knee);
            tries += 1;
            assert!(tries < 50);
        }
        (search.held(), tries)
    }

    #[test]
    fn it_finds_every_knee() {
        for knee in -12..=18 {
            for guess in [-20, -12, 0, 3, 18] {
                assert_eq!(find(Search::near(guess, -12, 18), knee).0, Some(knee));
            }
        }
        assert_eq!(find(Search::near(0, -12, 18), -13).0, None);
        assert_eq!(find(Search::near(0, -12, 18), 99).0, Some(18));
    }

    #[test]
    fn a_good_guess_takes_two_tries() {
        for knee in -12..18 {
            assert_eq!(find(Search::near(knee, -12, 18), knee).1, 2, "{knee}");
        }
        assert!(find(Search::near(0, -12, 18), 15).1 <= 9);
    }

    #[test]
    fn rates_double_every_three_rungs() {
        assert_eq!([-9, -3, 0, 1, 2, 3, 15].map(rate), [125, 500, 1000, 1260, 1587, 2000, 32_000]);
        for rung in -12..=18 {
            assert_eq!(nearest(rate(rung)), rung);
        }
    }
}
