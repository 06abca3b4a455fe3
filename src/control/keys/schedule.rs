//! When an issuer's keys are fetched, and for how long they are good: times in, decisions out.

use std::time::{Duration, Instant};

/// How long it takes until keys are fetched again, if whoever gives them does not say.
const PERIOD: Duration = Duration::from_secs(600);
/// And how short and how long it may be, whatever is said.
const PERIOD_MIN: Duration = Duration::from_secs(60);
const PERIOD_MAX: Duration = Duration::from_secs(3_600);
/// After a fetch that failed the next one is so much later at most, and twice as long after each that follows.
const RETRY: Duration = Duration::from_secs(1);
/// But no later than this.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How soon and how long, as the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// From one fetch to another that a token asked for.
    pub refetch_min: Duration,
    /// From the last fetch that was good to when its keys are not.
    pub stale_max: Duration,
}

/// When one issuer's keys were fetched, and when they are to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    /// The last attempt.
    began: Option<Instant>,
    is_under_way: bool,
    /// The last one that brought keys which are still used.
    fetched: Option<Instant>,
    /// The next one; at once, if none.
    next: Option<Instant>,
    failure_count: u32,
}

impl Schedule {
    /// Whether to begin, if that `is_asked` for.
    pub fn is_due(&self, is_asked: bool, spans: Spans, now: Instant) -> bool {
        let may_be_asked =
            || self.began.is_none_or(|began| now.saturating_duration_since(began) >= spans.refetch_min);
        !self.is_under_way && (self.next.is_none_or(|next| now >= next) || (is_asked && may_be_asked()))
    }

    /// When the last attempt began.
    #[cfg(test)]
    pub fn began(&self) -> Option<Instant> {
        self.began
    }

    /// An attempt begins.
    pub fn begin(&mut self, now: Instant) {
        (self.began, self.is_under_way) = (Some(now), true);
    }

    /// It brought keys, which may be kept for so long by whoever gave them.
    pub fn note_fetched(&mut self, life: Option<Duration>, now: Instant) {
        (self.fetched, self.failure_count, self.is_under_way) = (Some(now), 0, false);
        self.next = Some(now + life.unwrap_or(PERIOD).clamp(PERIOD_MIN, PERIOD_MAX));
    }

    /// It brought none; `random` spreads brokers that fail together.
    pub fn note_failed(&mut self, random: u64, now: Instant) {
        self.is_under_way = false;
        let most = RETRY_MAX.min(RETRY * 2u32.pow(self.failure_count.min(6)));
        self.failure_count += 1;
        let half_ms = most.as_millis() as u64 / 2;
        self.next = Some(now + Duration::from_millis(half_ms + random % (half_ms + 1)));
    }

    /// Whether keys that are not in the set are none, since nobody who asks can have it fetched yet.
    pub fn is_fresh(&self, spans: Spans, now: Instant) -> bool {
        let since_began = self.began.map(|began| now.saturating_duration_since(began));
        self.fetched.is_some()
            && self.failure_count == 0
            && !self.is_under_way
            && since_began.is_some_and(|since| since < spans.refetch_min)
    }

    /// Whether the keys are not good any more.
    pub fn is_stale(&self, spans: Spans, now: Instant) -> bool {
        self.age(now).is_some_and(|age| age >= spans.stale_max)
    }

    /// The keys are not used any more.
    pub fn note_dropped(&mut self) {
        self.fetched = None;
    }

    /// How old the keys are, if there are any.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.fetched.map(|fetched| now.saturating_duration_since(fetched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: Spans =
        Spans { refetch_min: Duration::from_secs(30), stale_max: Duration::from_secs(86_400) };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn keys_are_fetched_again_when_their_time_is_over_within_bounds() {
        let began = Instant::now();
        for (life_s, next_s) in [
            (None, 600),
            (Some(0), 60),
            (Some(59), 60),
            (Some(61), 61),
            (Some(3_600), 3_600),
            (Some(31_536_000), 3_600),
        ] {
            let mut schedule = Schedule::default();
            assert!(schedule.is_due(false, SPANS, began));
            schedule.begin(began);
            // One at a time.
            assert!(!schedule.is_due(true, SPANS, began + seconds(9_999)));
            schedule.note_fetched(life_s.map(seconds), began);
            assert!(!schedule.is_due(false, SPANS, began + seconds(next_s) - Duration::from_nanos(1)));
            assert!(schedule.is_due(false, SPANS, began + seconds(next_s)), "{life_s:?}");
        }
    }

    #[test]
    fn whoever_asks_has_them_fetched_once_in_thirty_seconds() {
        let began = Instant::now();
        let mut schedule = Schedule::default();
        let mut fetches = Vec::new();
        // Somebody asks all the time.
        for second in 0..100 {
            let now = began + seconds(second);
            if schedule.is_due(true, SPANS, now) {
                fetches.push(second);
                schedule.begin(now);
                assert!(!schedule.is_fresh(SPANS, now));
                schedule.note_fetched(None, now);
            }
            assert!(schedule.is_fresh(SPANS, now));
        }
        assert_eq!(fetches, [0, 30, 60, 90]);
        assert!(!schedule.is_fresh(SPANS, began + seconds(120)));
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_but_within_a_minute() {
        let began = Instant::now();
        for random in [0, u64::MAX / 3, u64::MAX] {
            let mut schedule = Schedule::default();
            let mut now = began;
            for most_s in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
                schedule.begin(now);
                schedule.note_failed(random, now);
                assert!(!schedule.is_fresh(SPANS, now));
                let half = seconds(most_s) / 2;
                assert!(!schedule.is_due(false, SPANS, now + half - Duration::from_nanos(1)), "{most_s}");
                assert!(schedule.is_due(false, SPANS, now + 2 * half), "{most_s}");
                now += 2 * half;
            }
            // Who asks does not wait for that, but for the other bound.
            schedule.begin(now);
            schedule.note_failed(u64::MAX, now);
            assert_eq!(
                [29, 30].map(|second| schedule.is_due(true, SPANS, now + seconds(second))),
                [false, true]
            );
            schedule.begin(now);
            schedule.note_fetched(None, now);
            schedule.begin(now);
            schedule.note_failed(0, now);
            assert!(schedule.is_due(false, SPANS, now + seconds(1) / 2), "it begins anew");
        }
    }

    #[test]
    fn keys_that_cannot_be_fetched_again_are_good_for_a_day() {
        let began = Instant::now();
        let mut schedule = Schedule::default();
        assert!(!schedule.is_stale(SPANS, began + 2 * SPANS.stale_max), "there are none");
        schedule.begin(began);
        schedule.note_fetched(None, began);
        schedule.begin(began + seconds(600));
        schedule.note_failed(0, began + seconds(605));
        assert!(!schedule.is_stale(SPANS, began + SPANS.stale_max - seconds(1)));
        assert!(schedule.is_stale(SPANS, began + SPANS.stale_max));
        assert_eq!(schedule.age(began + seconds(700)), Some(seconds(700)));
        schedule.note_dropped();
        assert!(!schedule.is_stale(SPANS, began + SPANS.stale_max));
        assert_eq!(schedule.age(began), None);
    }
}
