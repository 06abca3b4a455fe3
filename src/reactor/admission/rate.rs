//! A rate with a burst, kept as one moment: when the next would be due if everything came evenly (GCRA).

const SECOND_NS: u64 = 1_000_000_000;

/// So many per second, and so many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two that come evenly, in nanoseconds.
    interval_ns: u64,
    /// How far ahead of that the due moment may lie, in nanoseconds.
    ahead_ns: u64,
}

impl Rate {
    /// `count` per second, split over `share_count`; `burst` of them at once. `None` for a count of 0, which is
    /// no limit.
    pub fn new(count: u32, share_count: usize, burst: u32) -> Option<Rate> {
        assert!(burst > 0 && share_count > 0, "nothing would ever be allowed");
        (count > 0).then(|| {
            let interval_ns = (SECOND_NS * share_count as u64 / u64::from(count)).max(1);
            Rate { interval_ns, ahead_ns: interval_ns * u64::from(burst - 1) }
        })
    }

    /// Takes one at `now_ns`, if that is allowed. `due_ns` is what is known of those before: 0 at first.
    pub fn take(self, due_ns: &mut u64, now_ns: u64) -> bool {
        let is_allowed = self.next_ns(*due_ns) <= now_ns;
        if is_allowed {
            self.charge(due_ns, now_ns);
        }
        is_allowed
    }

    /// Takes one that cannot be refused at `now_ns`: those after it wait the longer.
    pub fn charge(self, due_ns: &mut u64, now_ns: u64) {
        *due_ns = (*due_ns).max(now_ns) + self.interval_ns;
    }

    /// From when on one more is allowed.
    pub fn next_ns(self, due_ns: u64) -> u64 {
        due_ns.saturating_sub(self.ahead_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() })]

        /// The naive twin is a bucket that fills with a token's worth of time per interval.
        #[test]
        fn it_allows_what_a_bucket_of_tokens_would(
            count in 1u32..2_000,
            shares in 1usize..5,
            burst in 1u32..50,
            steps in prop::collection::vec(prop_oneof![Just(0u64), 0u64..30_000_000, 0u64..3_000_000_000], 1..200),
        ) {
            let rate = Rate::new(count, shares, burst).unwrap();
            let interval_ns = SECOND_NS * shares as u64 / u64::from(count);
            let full_ns = interval_ns * u64::from(burst);
            let (mut due_ns, mut tokens_ns, mut now_ns) = (0, full_ns, 0);
            for step_ns in steps {
                now_ns += step_ns;
                tokens_ns = (tokens_ns + step_ns).min(full_ns);
                let expected = tokens_ns >= interval_ns;
                if expected {
                    tokens_ns -= interval_ns;
                }
                prop_assert_eq!(rate.take(&mut due_ns, now_ns), expected);
                prop_assert_eq!(rate.next_ns(due_ns) <= now_ns, tokens_ns >= interval_ns);
            }
        }
    }

    #[test]
    fn a_count_of_none_is_no_limit() {
        assert_eq!(Rate::new(0, 2, 1), None);
    }
}
