//! The search for the highest rate that holds: from a first one on in growing steps, and then halving what is left, on
//! the rungs of a ladder, so that searches on the same ladder try the same rates.

/// Rates, each the same multiple of the one below.
#[derive(Clone, Copy, Debug)]
pub struct Ladder {
    /// The rate of rung 0.
    pub base: u64,
    /// Rungs to a doubling.
    pub per_doubling: i32,
}

impl Ladder {
    /// The rate of a rung.
    pub fn rate(self, rung: i32) -> u64 {
        (self.base as f64 * 2f64.powf(rung as f64 / self.per_doubling as f64)).round() as u64
    }

    /// The rung whose rate is next to `rate`.
    pub fn nearest(self, rate: u64) -> i32 {
        ((rate.max(1) as f64 / self.base as f64).log2() * self.per_doubling as f64).round() as i32
    }
}

/// A search under way.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    ladder: Ladder,
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
    /// From rung `first` on between two rungs, at first in steps of `step` rungs.
    pub fn new(ladder: Ladder, first: i32, step: i32, (lowest, highest): (i32, i32)) -> Search {
        let first = first.clamp(lowest, highest);
        Search { ladder, lowest, highest, first, step, held: None, failed: None }
    }

    /// The rate to try next; `None` when it is over.
    pub fn next(&self) -> Option<u64> {
        let is_between = |(held, failed): (u64, u64)| failed > held + 1;
        let is_open = self.held().zip(self.failed()).is_none_or(is_between);
        let rung = self.rung();
        (is_open && self.held != Some(rung) && self.failed != Some(rung)).then(|| self.ladder.rate(rung))
    }

    /// What trying that gave.
    pub fn tell(&mut self, has_held: bool) {
        let rung = self.rung();
        let has_gone_on = match has_held {
            true => self.held.replace(rung).is_some() && self.failed.is_none(),
            false => self.failed.replace(rung).is_some() && self.held.is_none(),
        };
        if has_gone_on {
            // No more than a doubling at a time.
            self.step = (self.step * 2).min(self.ladder.per_doubling);
        }
    }

    /// The highest rate that held.
    pub fn held(&self) -> Option<u64> {
        self.held.map(|rung| self.ladder.rate(rung))
    }

    /// The lowest that did not.
    pub fn failed(&self) -> Option<u64> {
        self.failed.map(|rung| self.ladder.rate(rung))
    }

    /// Whether the highest rate that may be tried has held: what there is above is not known.
    pub fn has_reached_the_top(&self) -> bool {
        self.held == Some(self.highest)
    }

    fn rung(&self) -> i32 {
        match (self.held, self.failed) {
            (None, None) => self.first,
            (Some(held), None) => (held + self.step).min(self.highest),
            (None, Some(failed)) => (failed - self.step).max(self.lowest),
            (Some(held), Some(failed)) => (held + failed) / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRDS: Ladder = Ladder { base: 1000, per_doubling: 3 };
    const BOUNDS: (i32, i32) = (-12, 18);

    /// What a search finds when everything up to `limit` holds, and in how many tries.
    fn find(mut search: Search, limit: u64) -> (Option<u64>, u32) {
        let mut tries = 0;
        while let Some(rate) = search.next() {
            search.tell(rate <= limit);
            tries += 1;
            assert!(tries < 50, "{search:?}");
        }
        (search.held(), tries)
    }

    fn near(guess: i32) -> Search {
        Search::new(THIRDS, guess, 1, BOUNDS)
    }

    #[test]
    fn it_finds_every_rung_from_every_guess() {
        for knee in -12..=18 {
            for guess in [-20, -12, 0, 3, 18] {
                let limit = THIRDS.rate(knee);
                assert_eq!(find(near(guess), limit).0, Some(limit));
            }
        }
        assert_eq!(find(near(0), THIRDS.rate(-13)).0, None);
        assert_eq!(find(near(0), u64::MAX).0, Some(THIRDS.rate(18)));
    }

    #[test]
    fn a_good_guess_takes_two_tries() {
        for knee in -12..18 {
            assert_eq!(find(near(knee), THIRDS.rate(knee)).1, 2, "{knee}");
        }
        assert!(find(near(0), THIRDS.rate(15)).1 <= 9);
    }

    #[test]
    fn only_a_search_that_nothing_stopped_has_reached_the_top() {
        let mut search = near(17);
        search.tell(true);
        assert!(!search.has_reached_the_top());
        search.tell(true);
        assert!(search.has_reached_the_top() && search.next().is_none());
    }

    #[test]
    fn rates_double_every_so_many_rungs() {
        assert_eq!(
            [-9, -3, 0, 1, 2, 3, 15].map(|it| THIRDS.rate(it)),
            [125, 500, 1000, 1260, 1587, 2000, 32_000]
        );
        for rung in -12..=18 {
            assert_eq!(THIRDS.nearest(THIRDS.rate(rung)), rung);
        }
    }

    /// Where rungs are closer than whole rates, no rate between two is looked for in vain.
    #[test]
    fn it_ends_where_no_whole_rate_is_left() {
        let fine = Ladder { base: 1, per_doubling: 16 };
        for limit in 1..16 {
            let (held, tries) = find(Search::new(fine, 0, 16, (0, 160)), limit);
            assert!(held == Some(limit) && tries <= 10, "{limit}: {held:?} in {tries}");
        }
    }
}
